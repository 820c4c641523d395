package config

import (
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Identity kinds: the ID types of RFC 7296, Section 3.5, and two of our own.
const (
	IDDefault uint8 = 0   // none configured
	IDIPv4    uint8 = 1   // four octets
	IDFQDN    uint8 = 2   // a host name
	IDEmail   uint8 = 3   // RFC 822 mail address
	IDIPv6    uint8 = 5   // sixteen octets
	IDDN      uint8 = 9   // a distinguished name in DER
	IDKeyID   uint8 = 11  // opaque octets
	IDAny     uint8 = 255 // everyone; never on the wire
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

// ParseIdentity reads the configuration's form of an identity:
//
//	%any                          everyone
//	192.0.2.1, 2001:db8::1        an address
//	gw.example.com, @gw           a host name; the @ is not part of it
//	user@example.com              a mail address
//	keyid:0a0b0c, @#0a0b0c        opaque octets
//	C=FI, O=netsecvpn, CN=agw     a distinguished name
//
// The relative distinguished names of a DN are encoded in the order written,
// which is that of RFC 4514's readers turned round and the one openssl prints.
func ParseIdentity(text string) (Identity, error) {
	id := Identity{Text: text}
	switch {
	case text == "":
		return Identity{}, errors.New("the identity is empty")
	case len(text) > maxIdentity:
		return Identity{}, fmt.Errorf("the identity is longer than %d octets", maxIdentity)
	case !utf8.ValidString(text):
		return Identity{}, errors.New("the identity is not UTF-8")
	case text == "%any":
		id.Kind = IDAny
		return id, nil
	}
	if digits, ok := cutAny(text, "keyid:", "@#"); ok {
		octets, err := hex.DecodeString(digits)
		if err != nil || len(octets) == 0 {
			return Identity{}, fmt.Errorf("key id %q is not pairs of hexadecimal digits", digits)
		}
		id.Kind, id.Data = IDKeyID, string(octets)
		return id, nil
	}
	if strings.Contains(text, "=") {
		der, err := parseDN(text)
		if err != nil {
			return Identity{}, err
		}
		id.Kind, id.Data = IDDN, string(der)
		return id, nil
	}
	if a, err := netip.ParseAddr(text); err == nil {
		return addressIdentity(a, text)
	}
	if strings.ContainsAny(text, " \t,;/:*%") {
		return Identity{}, fmt.Errorf("identity %q is neither an address, a host name, a mail address nor a distinguished name", text)
	}
	user, domain, hasAt := strings.Cut(text, "@")
	switch {
	case !hasAt:
		id.Kind, id.Data = IDFQDN, text
	case user == "" && domain != "" && !strings.Contains(domain, "@"):
		id.Kind, id.Data = IDFQDN, domain
	case user != "" && domain != "" && !strings.Contains(domain, "@"):
		id.Kind, id.Data = IDEmail, text
	default:
		return Identity{}, fmt.Errorf("identity %q is not a mail address", text)
	}
	return id, nil
}

func addressIdentity(a netip.Addr, text string) (Identity, error) {
	if a.Zone() != "" || a.Is4In6() {
		return Identity{}, fmt.Errorf("address %q has a zone or is IPv4-mapped", text)
	}
	id := Identity{Kind: IDIPv6, Data: string(a.AsSlice()), Text: text}
	if a.Is4() {
		id.Kind = IDIPv4
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

// attributeOIDs are the attribute types of RFC 4519 and RFC 4524 by the short
// names that openssl and RFC 4514 use.
var attributeOIDs = map[string]asn1.ObjectIdentifier{
	"CN":           {2, 5, 4, 3},
	"SN":           {2, 5, 4, 4},
	"SERIALNUMBER": {2, 5, 4, 5},
	"C":            {2, 5, 4, 6},
	"L":            {2, 5, 4, 7},
	"ST":           {2, 5, 4, 8},
	"S":            {2, 5, 4, 8},
	"STREET":       {2, 5, 4, 9},
	"O":            {2, 5, 4, 10},
	"OU":           {2, 5, 4, 11},
	"TITLE":        {2, 5, 4, 12},
	"GN":           {2, 5, 4, 42},
	"G":            {2, 5, 4, 42},
	"I":            {2, 5, 4, 43},
	"DNQUALIFIER":  {2, 5, 4, 46},
	"UID":          {0, 9, 2342, 19200300, 100, 1, 1},
	"DC":           {0, 9, 2342, 19200300, 100, 1, 25},
	"E":            {1, 2, 840, 113549, 1, 9, 1},
	"EMAIL":        {1, 2, 840, 113549, 1, 9, 1},
	"EMAILADDRESS": {1, 2, 840, 113549, 1, 9, 1},
}

type attribute struct {
	Type  asn1.ObjectIdentifier
	Value asn1.RawValue
}

type relativeDN []attribute

// parseDN encodes a distinguished name as a Name of RFC 5280, Section 4.1.2.4.
// Attributes are separated by commas or slashes in front, several in one RDN by
// a plus sign; a backslash takes the next character literally and quotes a
// whole value.
func parseDN(text string) ([]byte, error) {
	var name []asn1.RawValue
	separator := byte(',')
	if rest, ok := strings.CutPrefix(text, "/"); ok {
		text, separator = rest, '/'
	}
	for more := true; more; {
		var rdn relativeDN
		for {
			var (
				a   attribute
				end byte
				err error
			)
			a, text, end, err = parseAttribute(text, separator)
			if err != nil {
				return nil, err
			}
			rdn = append(rdn, a)
			if end == '+' {
				continue
			}
			more = end != 0
			break
		}
		der, err := asn1.MarshalWithParams(rdn, "set")
		if err != nil {
			return nil, fmt.Errorf("encode distinguished name: %w", err)
		}
		name = append(name, asn1.RawValue{FullBytes: der})
	}
	der, err := asn1.Marshal(name)
	if err != nil {
		return nil, fmt.Errorf("encode distinguished name: %w", err)
	}
	return der, nil
}

// parseAttribute reads TYPE=VALUE from the start of text. end is the separator
// that stood behind it, or 0 at the end of the text.
func parseAttribute(text string, separator byte) (a attribute, rest string, end byte, err error) {
	kind, value, ok := strings.Cut(text, "=")
	kind = strings.TrimSpace(kind)
	if !ok {
		return a, "", 0, fmt.Errorf("%q in the distinguished name is not of the form TYPE=value", strings.TrimSpace(text))
	}
	if a.Type, err = attributeType(kind); err != nil {
		return a, "", 0, err
	}
	plain, rest, end, err := parseAttributeValue(value, separator)
	if err != nil {
		return a, "", 0, fmt.Errorf("%s in the distinguished name: %w", kind, err)
	}
	if plain == "" {
		return a, "", 0, fmt.Errorf("%s in the distinguished name has no value", kind)
	}
	a.Value, err = attributeString(a.Type, plain)
	if err != nil {
		return a, "", 0, fmt.Errorf("%s in the distinguished name: %w", kind, err)
	}
	return a, rest, end, nil
}

func attributeType(kind string) (asn1.ObjectIdentifier, error) {
	if oid, ok := attributeOIDs[strings.ToUpper(kind)]; ok {
		return oid, nil
	}
	var oid asn1.ObjectIdentifier
	for part := range strings.SplitSeq(kind, ".") {
		n, err := strconv.ParseUint(part, 10, 31)
		if err != nil {
			return nil, fmt.Errorf("%q is not an attribute type of a distinguished name", kind)
		}
		oid = append(oid, int(n))
	}
	if len(oid) < 2 || oid[0] > 2 || (oid[0] < 2 && oid[1] > 39) {
		return nil, fmt.Errorf("%q is not an object identifier", kind)
	}
	return oid, nil
}

func parseAttributeValue(text string, separator byte) (value, rest string, end byte, err error) {
	text = strings.TrimLeft(text, " ")
	var b strings.Builder
	quoted, wasQuoted := false, false
	keep := 0 // octets of the value that trailing blanks may not be cut from
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case c == '\\':
			if i++; i == len(text) {
				return "", "", 0, errors.New("a backslash stands at the end")
			}
			b.WriteByte(text[i])
			keep = b.Len()
		case c == '"' && quoted:
			quoted = false
			keep = b.Len()
		case c == '"' && b.Len() == 0 && !wasQuoted:
			quoted, wasQuoted = true, true
		case !quoted && (c == separator || c == '+' || c == ';'):
			if c == ';' {
				c = ','
			}
			return trimBlanks(b.String(), keep), text[i+1:], c, nil
		default:
			b.WriteByte(c)
		}
	}
	if quoted {
		return "", "", 0, errors.New("a closing quote is missing")
	}
	return trimBlanks(b.String(), keep), "", 0, nil
}

func trimBlanks(s string, keep int) string {
	return s[:keep] + strings.TrimRight(s[keep:], " ")
}

// attributeString chooses the string type that issuers use for the attribute
// (RFC 5280, Appendix A.1): PrintableString where it is prescribed, IA5String
// for mail addresses and domain components, UTF8String otherwise.
func attributeString(oid asn1.ObjectIdentifier, value string) (asn1.RawValue, error) {
	tag := asn1.TagUTF8String
	switch {
	case oid.Equal(attributeOIDs["C"]):
		if len(value) != 2 {
			return asn1.RawValue{}, fmt.Errorf("%q is not a country code of two letters", value)
		}
		tag = asn1.TagPrintableString
	case oid.Equal(attributeOIDs["SERIALNUMBER"]), oid.Equal(attributeOIDs["DNQUALIFIER"]):
		tag = asn1.TagPrintableString
	case oid.Equal(attributeOIDs["E"]), oid.Equal(attributeOIDs["DC"]):
		tag = asn1.TagIA5String
	}
	for _, r := range value {
		if tag == asn1.TagPrintableString && !isPrintable(r) || tag == asn1.TagIA5String && r > 127 {
			return asn1.RawValue{}, fmt.Errorf("%q has characters that the attribute does not allow", value)
		}
	}
	return asn1.RawValue{Tag: tag, Bytes: []byte(value)}, nil
}

func isPrintable(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune(" '()+,-./:=?", r)
}
