package esp

import (
	"bytes"
	"errors"
	"slices"
	"testing"
)

// TestSealFrom: the packet is the one that Seal makes, and nothing beside it
// changes, neither behind the inner packet nor in it.
func TestSealFrom(t *testing.T) {
	for _, a := range all {
		t.Run(a.name, func(t *testing.T) {
			out, in := pair(t, a, false)
			for n := 20; n < 60; n++ {
				inner := innerPacket(4, n)
				super := slices.Concat(inner, bytes.Repeat([]byte{0xa5}, out.TailRoom()))
				before := slices.Clone(super)
				dst := bytes.Repeat([]byte{0x5a}, out.SealedLen(n)+8)
				length, err := out.SealFrom(dst, super[:n], uint64(n), NextIPv4)
				if err != nil || length != out.SealedLen(n) {
					t.Fatalf("%d octets: %d, %v", n, length, err)
				}
				if !bytes.Equal(super, before) {
					t.Fatalf("%d octets: what was read is changed", n)
				}
				if !bytes.Equal(dst[length:], bytes.Repeat([]byte{0x5a}, 8)) {
					t.Fatalf("%d octets: wrote behind the packet", n)
				}
				got, _, _, err := in.Open(dst[:length])
				if err != nil || !bytes.Equal(got, inner) {
					t.Fatalf("%d octets: opened % x, %v", n, got, err)
				}
			}
			inner := innerPacket(4, 100)
			dst := make([]byte, out.SealedLen(100))
			for what, err := range map[string]error{
				"no room behind":  second(out.SealFrom(dst, inner[:100:100], 1, NextIPv4)),
				"no room to seal": second(out.SealFrom(dst[:100], slices.Grow(inner, 64), 1, NextIPv4)),
			} {
				if !errors.Is(err, ErrSpace) {
					t.Errorf("%s: %v", what, err)
				}
			}
			if err := second(out.SealFrom(dst, slices.Grow(inner, 64), 0, NextIPv4)); !errors.Is(err, ErrSequence) {
				t.Errorf("sequence number 0: %v", err)
			}
		})
	}
}

func second(_ int, err error) error { return err }
