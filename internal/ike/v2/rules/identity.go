package rules

import (
	"encoding/hex"
	"net/netip"
	"strconv"
	"strings"
	"unicode"

	"caponier/internal/dn"
	"caponier/internal/ike/message"
)

// Identity is an IKE identity (RFC 7296, Section 3.5).
type Identity struct {
	Kind message.IDType
	Data string // the octets of the ID payload, so that Identity is comparable
}

// String prints the identity as operators write it: a distinguished name, an
// address, a domain name, or octets in hexadecimal behind "0x".
func (id Identity) String() string {
	switch id.Kind {
	case 0:
		return "%any"
	case message.IDIPv4, message.IDIPv6:
		if a, ok := netip.AddrFromSlice([]byte(id.Data)); ok {
			return a.String()
		}
	case message.IDFQDN, message.IDRFC822:
		// The octets are a peer's: what could disturb a terminal is escaped.
		return strings.Trim(strconv.QuoteToASCII(id.Data), `"`)
	case message.IDDERASN1DN:
		return dn.FormatDN([]byte(id.Data))
	default:
	}
	return "0x" + hex.EncodeToString([]byte(id.Data))
}

// Equals compares identities: distinguished names by their meaning, domain
// names without regard to case, the rest octet by octet.
func (id Identity) Equals(o Identity) bool {
	if id.Kind != o.Kind {
		return false
	}
	switch id.Kind {
	case message.IDDERASN1DN:
		return dn.Equal([]byte(id.Data), []byte(o.Data))
	case message.IDFQDN, message.IDRFC822:
		return strings.EqualFold(id.Data, o.Data)
	default:
		return id.Data == o.Data
	}
}

// Canonical returns a text that identities have in common which are equal. Others
// may have it too.
func (id Identity) Canonical() string {
	text := id.Data
	switch id.Kind {
	case message.IDDERASN1DN:
		text = dn.Canonical([]byte(id.Data))
	case message.IDFQDN, message.IDRFC822:
		text = strings.Map(leastFold, id.Data)
	default:
	}
	return string(byte(id.Kind)) + text
}

// leastFold returns the first of the letters that are the same without regard to
// case.
func leastFold(r rune) rune {
	least := r
	for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
		least = min(least, f)
	}
	return least
}

// IsPattern reports whether a configured identity stands for many: a
// distinguished name with a value "*", a domain name that begins with "*.", or a
// mail address that begins with "*@".
func (id Identity) IsPattern() bool {
	switch id.Kind {
	case message.IDDERASN1DN:
		return dn.IsPattern([]byte(id.Data))
	case message.IDFQDN:
		return strings.HasPrefix(id.Data, "*.")
	case message.IDRFC822:
		return strings.HasPrefix(id.Data, "*@")
	default:
		return false
	}
}

// Fit says how well a claimed identity fits a configured one.
type Fit uint8

// The degrees of fitting, from none to the best.
const (
	FitsNot     Fit = iota
	FitsAny         // everyone is permitted
	FitsPattern     // see IsPattern
	FitsExactly
)

// Fits compares what is configured with what a peer claims. The zero Identity
// permits all.
func (id Identity) Fits(o Identity) Fit {
	switch {
	case id == Identity{}:
		return FitsAny
	case id.Kind != o.Kind:
		return FitsNot
	case !id.IsPattern():
		if id.Equals(o) {
			return FitsExactly
		}
		return FitsNot
	case id.Kind == message.IDDERASN1DN:
		if dn.Match([]byte(id.Data), []byte(o.Data)) {
			return FitsPattern
		}
		return FitsNot
	default:
		suffix := id.Data[1:]
		n := len(o.Data) - len(suffix)
		if n > 0 && strings.EqualFold(o.Data[n:], suffix) {
			return FitsPattern
		}
		return FitsNot
	}
}

// Permits reports whether a peer that claims o may be the one that is
// configured.
func (id Identity) Permits(o Identity) bool { return id.Fits(o) != FitsNot }

// IdentityOf reads an ID payload.
func IdentityOf(p *message.ID) Identity {
	return Identity{Kind: p.Kind, Data: string(p.Data)}
}

// Payload is the IDr payload for responder, otherwise IDi.
func (id Identity) Payload(responder bool) *message.ID {
	return &message.ID{Responder: responder, Kind: id.Kind, Data: []byte(id.Data)}
}

// AddressIdentity is the identity of a host without another.
func AddressIdentity(a netip.Addr) Identity {
	kind := message.IDIPv6
	if a = a.Unmap(); a.Is4() {
		kind = message.IDIPv4
	}
	return Identity{Kind: kind, Data: string(a.AsSlice())}
}
