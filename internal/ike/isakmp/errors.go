package isakmp

import (
	"errors"
	"fmt"
)

// Errors of the codec. Every error it returns wraps exactly one of them.
var (
	// ErrShort is returned for octets that cannot be an ISAKMP message: fewer
	// than a header has.
	ErrShort = errors.New("shorter than an ISAKMP header")
	// ErrVersion is returned by Parse for a major version other than 1.
	ErrVersion = errors.New("not an ISAKMP message of version 1")
	// ErrSyntax is returned for a message that is malformed, and for one that
	// exceeds the limits of this package.
	ErrSyntax = errors.New("malformed ISAKMP message")
	// ErrEncode is returned for a message that cannot be written: a value does not
	// fit its field.
	ErrEncode = errors.New("message cannot be encoded")
)

func syntaxf(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrSyntax, fmt.Sprintf(format, args...))
}

func encodef(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrEncode, fmt.Sprintf(format, args...))
}
