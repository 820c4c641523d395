// Package secret holds key material that must not be printed, compared
// carelessly or left in memory.
//
// A Key redacts itself in every printable form the standard library knows:
// fmt verbs, encoding/json, encoding (text) and log/slog.
package secret

import (
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
)

const redacted = "[redacted]"

// Key is a piece of key material. The zero value is an empty key. Copies of a
// Key share the octets, so that Wipe on one wipes them all.
type Key struct {
	// A pointer keeps Key from being compared with ==, which would not be in
	// constant time: two keys of equal content are different pointers.
	b *[]byte
}

// New takes ownership of b: the caller must not keep or change it.
func New(b []byte) Key { return Key{b: &b} }

// Copy makes a Key of a copy of b, which stays the caller's.
func Copy(b []byte) Key { return New(append([]byte(nil), b...)) }

// Bytes returns the octets themselves, not a copy; they are zero after Wipe.
func (k Key) Bytes() []byte {
	if k.b == nil {
		return nil
	}
	return *k.b
}

// Len returns the number of octets.
func (k Key) Len() int { return len(k.Bytes()) }

// IsZero reports whether there is no key material.
func (k Key) IsZero() bool { return k.Len() == 0 }

// Clone returns a Key with octets of its own.
func (k Key) Clone() Key { return Copy(k.Bytes()) }

// Equal compares in constant time for keys of the same length.
func (k Key) Equal(other Key) bool {
	return subtle.ConstantTimeCompare(k.Bytes(), other.Bytes()) == 1
}

// Wipe overwrites the octets with zeros, in this Key and every copy of it.
func (k Key) Wipe() { clear(k.Bytes()) }

// String never shows the key.
func (k Key) String() string { return redacted }

// GoString never shows the key.
func (k Key) GoString() string { return redacted }

// Format never shows the key, whatever the verb.
func (k Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalText never shows the key.
func (k Key) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalJSON never shows the key.
func (k Key) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// LogValue never shows the key.
func (k Key) LogValue() slog.Value { return slog.StringValue(redacted) }
