// Package ipsec is the vocabulary that control and data planes share: what a
// security association, a policy, a traffic selector, a lifetime and an event
// are. IKE, manual keying, the user-space plane, the kernel plane, the CLI and
// the console speak only this.
//
// The terms are those of RFC 4301.
package ipsec

import (
	"fmt"
	"strconv"
)

// SPI is a security parameters index, in host byte order. Values 1 to 255 are
// reserved by IANA and 0 never appears on the wire (RFC 4303, Section 2.1).
type SPI uint32

// MinSPI is the smallest SPI that may be assigned to an SA.
const MinSPI SPI = 256

// String prints the SPI as operators know it: c0ffee01.
func (s SPI) String() string { return fmt.Sprintf("%08x", uint32(s)) }

// MarshalText makes JSON show what String shows.
func (s SPI) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what String prints.
func (s *SPI) UnmarshalText(b []byte) error {
	v, err := strconv.ParseUint(string(b), 16, 32)
	if err != nil {
		return fmt.Errorf("ipsec: SPI %q is not eight hexadecimal digits", b)
	}
	*s = SPI(v)
	return nil
}

// Protocol is an IPsec protocol, with its IP protocol number.
type Protocol uint8

// The IPsec protocols (RFC 4302, RFC 4303).
const (
	ESP Protocol = 50
	AH  Protocol = 51
)

// String returns the configuration's word for the protocol.
func (p Protocol) String() string {
	switch p {
	case ESP:
		return "esp"
	case AH:
		return "ah"
	default:
		return "protocol-" + strconv.Itoa(int(p))
	}
}

// MarshalText makes JSON show what String shows.
func (p Protocol) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads what String prints.
func (p *Protocol) UnmarshalText(b []byte) error {
	switch string(b) {
	case "esp":
		*p = ESP
	case "ah":
		*p = AH
	default:
		return fmt.Errorf("ipsec: %q is neither esp nor ah", b)
	}
	return nil
}

// Mode is an IPsec mode (RFC 4301, Section 4.1).
type Mode uint8

// The IPsec modes.
const (
	Tunnel Mode = iota
	Transport
)

// String returns the configuration's word for the mode.
func (m Mode) String() string {
	if m == Transport {
		return "transport"
	}
	return "tunnel"
}

// MarshalText makes JSON show what String shows.
func (m Mode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads what String prints.
func (m *Mode) UnmarshalText(b []byte) error {
	switch string(b) {
	case "tunnel":
		*m = Tunnel
	case "transport":
		*m = Transport
	default:
		return fmt.Errorf("ipsec: %q is neither tunnel nor transport", b)
	}
	return nil
}

// Direction says which way packets travel through an SA.
type Direction uint8

// The directions, as seen from this gateway.
const (
	In Direction = iota
	Out
)

// String returns in or out.
func (d Direction) String() string {
	if d == Out {
		return "out"
	}
	return "in"
}

// MarshalText makes JSON show what String shows.
func (d Direction) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what String prints.
func (d *Direction) UnmarshalText(b []byte) error {
	switch string(b) {
	case "in":
		*d = In
	case "out":
		*d = Out
	default:
		return fmt.Errorf("ipsec: %q is neither in nor out", b)
	}
	return nil
}
