package message

import (
	"errors"
	"fmt"
)

// Errors of the codec. Every error it returns wraps exactly one of them, and
// perhaps ErrLimit.
var (
	// ErrShort is returned for octets that cannot be an IKE message: fewer than
	// a header has. Nothing can be answered.
	ErrShort = errors.New("shorter than an IKE header")
	// ErrVersion is returned by Parse for a major version above 2.
	ErrVersion = errors.New("unsupported IKE major version")
	// ErrNotIKEv2 is returned by Parse for a major version below 2. Nothing is
	// answered (RFC 7296, Section 2.5, speaks of higher versions only).
	ErrNotIKEv2 = errors.New("not an IKEv2 message")
	// ErrSyntax is returned for a message that is malformed, and for one that
	// exceeds the limits of this package. From Open it means that the message is
	// authentic, so that INVALID_SYNTAX may be answered; from Parse, that nobody
	// knows who sent it.
	ErrSyntax = errors.New("malformed IKE message")
	// ErrLimit is wrapped beside ErrSyntax, or ErrFragment, where something exceeds
	// the limits of this package: its error says which.
	ErrLimit = errors.New("beyond the limits of this gateway")
	// ErrNotEncrypted is returned by Open for a message without SK payload, and
	// for one that has been opened.
	ErrNotEncrypted = errors.New("no encrypted payload to open")
	// ErrNotAuthentic is returned by Open where the integrity check fails. The
	// message is to be dropped in silence (RFC 7296, Section 2.21.3).
	ErrNotAuthentic = errors.New("message is not authentic")
	// ErrEncode is returned by Append and Seal for a message that cannot be
	// written: a value that does not fit its field or breaks the protocol.
	ErrEncode = errors.New("message cannot be encoded")
)

// NotifyOf returns the notification that answers an error of Parse or Open, and
// false where the message is to be dropped without an answer.
func NotifyOf(err error) (NotifyType, bool) {
	switch {
	case errors.Is(err, ErrVersion):
		return InvalidMajorVersion, true
	case errors.Is(err, ErrSyntax):
		return InvalidSyntax, true
	default:
		return 0, false
	}
}

func syntaxf(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrSyntax, fmt.Sprintf(format, args...))
}

func limitf(format string, args ...any) error {
	return fmt.Errorf("%w, %w: %s", ErrSyntax, ErrLimit, fmt.Sprintf(format, args...))
}

func encodef(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrEncode, fmt.Sprintf(format, args...))
}
