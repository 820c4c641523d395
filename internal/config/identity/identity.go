// Package identity reads the identities of a configuration: who an end of a
// connection is (RFC 7296, Section 3.5).
package identity

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode/utf8"

	"caponier/internal/dn"
)

// Identity kinds: the ID types of RFC 7296, Section 3.5, and two of our own.
const (
	Default uint8 = 0   // none configured
	IPv4    uint8 = 1   // four octets
	FQDN    uint8 = 2   // a host name
	Email   uint8 = 3   // RFC 822 mail address
	IPv6    uint8 = 5   // sixteen octets
	DN      uint8 = 9   // a distinguished name in DER
	KeyID   uint8 = 11  // opaque octets
	Any     uint8 = 255 // everyone; never on the wire
)

// Identity is an IKE identity (RFC 7296, Section 3.5). It is comparable; the
// Text is part of the comparison.
type Identity struct {
	Kind uint8
	Data string // the octets of the ID payload after its header
	Text string // as configured
}

// String returns the text that was configured.
func (id Identity) String() string { return id.Text }

// maxIdentity bounds what is configured; an ID payload could hold 64 KiB.
const maxIdentity = 1024

// Parse reads the configuration's form of an identity:
//
//	%any                          everyone
//	192.0.2.1, 2001:db8::1        an address
//	gw.example.com, @gw           a host name; the @ is not part of it
//	user@example.com              a mail address
//	keyid:0a0b0c, @#0a0b0c        opaque octets
//	C=FI, O=netsecvpn, CN=agw     a distinguished name
//	*.example.com, *@example.com  all host names, or mail addresses, of a domain
//	C=FI, O=netsecvpn, CN=*       all distinguished names with any value there
//
// The relative distinguished names of a DN are encoded in the order written.
func Parse(text string) (Identity, error) {
	id := Identity{Text: text}
	switch {
	case text == "":
		return Identity{}, errors.New("the identity is empty")
	case len(text) > maxIdentity:
		return Identity{}, fmt.Errorf("the identity is longer than %d octets", maxIdentity)
	case !utf8.ValidString(text):
		return Identity{}, errors.New("the identity is not UTF-8")
	case text == "%any":
		id.Kind = Any
		return id, nil
	}
	if digits, ok := cutAny(text, "keyid:", "@#"); ok {
		octets, err := hex.DecodeString(digits)
		if err != nil || len(octets) == 0 {
			return Identity{}, fmt.Errorf("key id %q is not pairs of hexadecimal digits", digits)
		}
		id.Kind, id.Data = KeyID, string(octets)
		return id, nil
	}
	if strings.Contains(text, "=") {
		der, err := dn.ParsePattern(text)
		if err != nil {
			return Identity{}, err
		}
		id.Kind, id.Data = DN, string(der)
		return id, nil
	}
	if a, err := netip.ParseAddr(text); err == nil {
		return addressIdentity(a, text)
	}
	if strings.ContainsAny(strings.TrimPrefix(text, "*"), " \t,;/:*%") || text[0] == '*' && !isPattern(text) {
		return Identity{}, fmt.Errorf("identity %q is neither an address, a host name, a mail address nor a distinguished name", text)
	}
	user, domain, hasAt := strings.Cut(text, "@")
	switch {
	case !hasAt:
		id.Kind, id.Data = FQDN, text
	case user == "" && domain != "" && !strings.Contains(domain, "@"):
		id.Kind, id.Data = FQDN, domain
	case user != "" && domain != "" && !strings.Contains(domain, "@"):
		id.Kind, id.Data = Email, text
	default:
		return Identity{}, fmt.Errorf("identity %q is not a mail address", text)
	}
	return id, nil
}

// isPattern reports whether the text of a host name or mail address stands for
// many.
func isPattern(text string) bool {
	return len(text) > 2 && (strings.HasPrefix(text, "*.") || strings.HasPrefix(text, "*@"))
}

// IsPattern reports whether the identity stands for many, as only that of a peer
// may.
func (id Identity) IsPattern() bool {
	return id.Kind == DN && dn.IsPattern([]byte(id.Data)) || (id.Kind == FQDN || id.Kind == Email) && isPattern(id.Data)
}

func addressIdentity(a netip.Addr, text string) (Identity, error) {
	if a.Zone() != "" || a.Is4In6() {
		return Identity{}, fmt.Errorf("address %q has a zone or is IPv4-mapped", text)
	}
	id := Identity{Kind: IPv6, Data: string(a.AsSlice()), Text: text}
	if a.Is4() {
		id.Kind = IPv4
	}
	return id, nil
}

func cutAny(text string, prefixes ...string) (string, bool) {
	for _, p := range prefixes {
		if rest, ok := strings.CutPrefix(text, p); ok {
			return rest, true
		}
	}
	return "", false
}
