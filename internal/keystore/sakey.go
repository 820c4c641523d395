package keystore

import (
	"bytes"
	"encoding/hex"
	"fmt"

	"caponier/internal/secret"
)

// maxSAKey bounds the file of a manual key, in octets: the longest key that an
// algorithm takes has 64, written as hexadecimal digits twice as many.
const maxSAKey = 1024

// ReadSAKey reads the key of a manually keyed SA from a file, as ParseSAKey
// does. A file that others than its owner can read is refused with a
// *ModeError. No error quotes the key.
func ReadSAKey(path string) (secret.Key, error) {
	data, err := readSecret(path)
	if err != nil {
		return secret.Key{}, fmt.Errorf("key: %w", err)
	}
	defer clear(data)
	key, err := ParseSAKey(data)
	if err != nil {
		return secret.Key{}, fmt.Errorf("key %s: %w", path, err)
	}
	return key, nil
}

// ParseSAKey reads the key of a manually keyed SA: hexadecimal digits, with 0x in
// front or without, in groups that white space or colons separate; or anything
// else, which is the octets of the key themselves, every one of them. What it
// returns has octets of its own. No error quotes the key.
func ParseSAKey(data []byte) (secret.Key, error) {
	switch {
	case len(bytes.TrimSpace(data)) == 0:
		return secret.Key{}, fmt.Errorf("%w: it is empty", ErrFormat)
	case len(data) > maxSAKey:
		return secret.Key{}, fmt.Errorf("%w: more than %d octets", ErrFormat, maxSAKey)
	}
	text, prefixed := bytes.CutPrefix(bytes.TrimSpace(data), []byte("0x"))
	digits := make([]byte, 0, len(text))
	defer func() { clear(digits[:cap(digits)]) }()
	for _, c := range text {
		switch {
		case '0' <= c && c <= '9', 'a' <= c && c <= 'f', 'A' <= c && c <= 'F':
			digits = append(digits, c)
		case bytes.IndexByte([]byte(" \t\r\n:"), c) >= 0:
		case prefixed:
			return secret.Key{}, fmt.Errorf("%w: something else than hexadecimal digits follows 0x", ErrFormat)
		default:
			return secret.Copy(data), nil
		}
	}
	if len(digits) == 0 || len(digits)%2 != 0 {
		return secret.Key{}, fmt.Errorf("%w: no hexadecimal digits, or an odd number of them", ErrFormat)
	}
	octets := make([]byte, len(digits)/2)
	if _, err := hex.Decode(octets, digits); err != nil {
		clear(octets)
		return secret.Key{}, fmt.Errorf("%w: not hexadecimal digits", ErrFormat)
	}
	return secret.New(octets), nil
}
