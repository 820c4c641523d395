package keystore

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"

	"caponier/internal/secret"
)

// MinPSK is the length under which a pre-shared key is too short, in octets.
// Who sees one handshake can try keys at leisure (RFC 7296, Section 2.15):
// 16 random octets withstand that, a word does not.
const MinPSK = 16

// maxPSK bounds a pre-shared key, in octets.
const maxPSK = 1024

// ErrShortPSK is returned by CheckPSK.
var ErrShortPSK = errors.New("pre-shared key is short enough to be guessed from a recorded handshake: use at least 16 random octets (openssl rand -hex 32)")

// ReadPSK reads a pre-shared key from a file. The file holds the key as text,
// or "0x" and hexadecimal digits, or "0s" and base64; one newline at the end is
// not part of it. A file that others than its owner can read is refused with a
// *ModeError. No error quotes the key.
func ReadPSK(path string) (secret.Key, error) {
	data, err := readSecret(path)
	if err != nil {
		return secret.Key{}, fmt.Errorf("pre-shared key: %w", err)
	}
	defer clear(data)
	key, err := parsePSK(data)
	if err != nil {
		return secret.Key{}, fmt.Errorf("pre-shared key %s: %w", path, err)
	}
	return key, nil
}

// CheckPSK returns ErrShortPSK, a warning, for a key that works but is easy to
// guess.
func CheckPSK(key secret.Key) error {
	if key.Len() < MinPSK {
		return ErrShortPSK
	}
	return nil
}

// parsePSK returns a key with octets of its own.
func parsePSK(data []byte) (secret.Key, error) {
	data = bytes.TrimSuffix(data, []byte("\n"))
	data = bytes.TrimSuffix(data, []byte("\r"))
	var (
		octets []byte
		n      int
		err    error
	)
	switch {
	case bytes.HasPrefix(data, []byte("0x")):
		octets = make([]byte, hex.DecodedLen(len(data)))
		n, err = hex.Decode(octets, data[2:])
	case bytes.HasPrefix(data, []byte("0s")):
		octets = make([]byte, base64.StdEncoding.DecodedLen(len(data)))
		n, err = base64.RawStdEncoding.Strict().Decode(octets, bytes.TrimRight(data[2:], "="))
	case bytes.ContainsAny(data, "\n\r\x00"):
		err = errors.New("more than one line")
	default:
		octets = bytes.Clone(data)
		n = len(octets)
	}
	key := secret.New(octets[:n:n])
	switch {
	case err != nil:
		// err itself may quote the digit that does not fit.
		err = fmt.Errorf("%w: a key is one line of text, or 0x and hexadecimal digits, or 0s and base64", ErrFormat)
	case n == 0:
		err = fmt.Errorf("%w: it is empty", ErrFormat)
	case n > maxPSK:
		err = fmt.Errorf("%w: more than %d octets", ErrFormat, maxPSK)
	default:
		return key, nil
	}
	clear(octets)
	return secret.Key{}, err
}
