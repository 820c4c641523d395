package ipsec

import (
	"fmt"
	"strconv"
)

// Fit says what becomes of packets that, with all that the SA puts around them,
// are longer than the way to the peer takes. The zero value is the default.
type Fit struct {
	Fragment Fragment `json:"fragment,omitzero"`
	MSS      MSS      `json:"mss,omitzero"`
}

// Fragment says where packets are cut that are too long and may be cut.
type Fragment uint8

// The places. Before: the inner packet is cut, and each fragment sealed by
// itself, so that the peer has nothing to reassemble. After: the sealed packet
// is cut, and the inner one arrives as it was sent (RFC 4301, Section 8.2.1,
// Appendix D).
const (
	FragmentBefore Fragment = iota
	FragmentAfter
)

var fragmentWords = []string{FragmentBefore: "before", FragmentAfter: "after"}

// String returns the configuration's word.
func (f Fragment) String() string { return wordOf(fragmentWords, int(f)) }

// MarshalText makes JSON show what String shows.
func (f Fragment) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// UnmarshalText reads what String prints.
func (f *Fragment) UnmarshalText(b []byte) error {
	i, err := indexOf(fragmentWords, b)
	*f = Fragment(i)
	return err
}

// MSS is the largest TCP maximum segment size that SYN segments may announce
// through the SA, in octets (RFC 9293, Section 3.7.1): larger ones are lowered.
type MSS uint16

// The special values: as large as fits the way to the peer, and as announced.
const (
	MSSAuto MSS = 0
	MSSOff  MSS = 65535
)

// The bounds of an MSS that is given by number.
const (
	MinMSS = 88
	MaxMSS = 65495
)

// String returns the configuration's form.
func (m MSS) String() string {
	switch m {
	case MSSAuto:
		return "auto"
	case MSSOff:
		return "off"
	default:
		return strconv.Itoa(int(m))
	}
}

// MarshalText makes JSON show what String shows.
func (m MSS) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads what String prints.
func (m *MSS) UnmarshalText(b []byte) error {
	switch string(b) {
	case "auto":
		*m = MSSAuto
		return nil
	case "off":
		*m = MSSOff
		return nil
	}
	n, err := strconv.ParseUint(string(b), 10, 16)
	if err != nil || n < MinMSS || n > MaxMSS {
		return fmt.Errorf("ipsec: %q is neither auto, off nor a number from %d to %d", b, MinMSS, MaxMSS)
	}
	*m = MSS(n)
	return nil
}
