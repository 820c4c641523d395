package isakmp

import (
	"errors"
	"fmt"

	"caponier/internal/ike/message"
)

// Errors of the codec. Every error it returns wraps exactly one of them, and
// perhaps message.ErrLimit, beside ErrSyntax, where something exceeds the limits of
// this package.
var (
	// ErrShort is returned for octets that cannot be an ISAKMP message: fewer
	// than a header has.
	ErrShort = errors.New("shorter than an ISAKMP header")
	// ErrVersion is returned by Parse for a major version other than 1.
	ErrVersion = errors.New("not an ISAKMP message of version 1")
	// ErrSyntax is returned for a message that is malformed, or beyond the limits.
	ErrSyntax = errors.New("malformed ISAKMP message")
	// ErrEncode is returned for a message that cannot be written: a value does not
	// fit its field.
	ErrEncode = errors.New("message cannot be encoded")
)

func syntaxf(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrSyntax, fmt.Sprintf(format, args...))
}

func limitf(format string, args ...any) error {
	return fmt.Errorf("%w, %w: %s", ErrSyntax, message.ErrLimit, fmt.Sprintf(format, args...))
}

func encodef(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrEncode, fmt.Sprintf(format, args...))
}
