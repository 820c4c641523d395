package dn

import (
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ParseDN returns the DER of the name that text writes: "TYPE=value" separated
// by commas, or preceded by slashes as in "/C=FI/CN=agw", attributes of one
// relative name by "+". TYPE is a keyword in any
// case or a dotted object identifier. A value may stand in double quotes; a
// backslash takes the next character literally, or two hexadecimal digits as an
// octet; "#" and hexadecimal digits give the DER of the value itself (RFC 4514,
// Section 2.4). Spaces around types and values are dropped.
//
// Country, serialNumber and dnQualifier become PrintableString, DC and E
// IA5String, all others UTF8String (RFC 5280, Section 4.1.2.4).
func ParseDN(text string) ([]byte, error) {
	return parser{rest: text, separator: ','}.parse(text)
}

// ParsePattern is ParseDN for a name to be given to Match: values of every type
// may be "*".
func ParsePattern(text string) ([]byte, error) {
	return parser{rest: text, separator: ',', pattern: true}.parse(text)
}

func (p parser) parse(text string) ([]byte, error) {
	if p.take('/') {
		p.separator = '/'
	}
	n, err := p.name()
	if err != nil {
		return nil, fmt.Errorf("%w %q: %w", ErrSyntax, text, err)
	}
	der, err := asn1.Marshal(n)
	if err != nil {
		return nil, fmt.Errorf("%w %q: %w", ErrSyntax, text, err)
	}
	return der, nil
}

type parser struct {
	rest      string
	separator byte // between relative names
	pattern   bool // values may be wildcards
}

func (p *parser) name() (name, error) {
	var n name
	for {
		var set relativeNameSET
		for {
			a, err := p.attribute()
			if err != nil {
				return nil, err
			}
			set = append(set, a)
			if !p.take('+') {
				break
			}
		}
		n = append(n, set)
		if p.rest == "" {
			return n, nil
		}
		if !p.take(p.separator) {
			return nil, fmt.Errorf("expected %q before %q", p.separator, p.rest)
		}
	}
}

func (p *parser) take(c byte) bool {
	if p.rest == "" || p.rest[0] != c {
		return false
	}
	p.rest = p.rest[1:]
	return true
}

func (p *parser) attribute() (attribute, error) {
	keyword, rest, ok := strings.Cut(p.rest, "=")
	keyword = strings.Trim(keyword, " ")
	if !ok || strings.ContainsAny(keyword, ",/+") {
		return attribute{}, fmt.Errorf("expected TYPE=value, found %q", p.rest)
	}
	p.rest = rest
	k, oid, err := lookup(keyword)
	if err != nil {
		return attribute{}, err
	}
	value, err := p.value(k)
	if err != nil {
		return attribute{}, fmt.Errorf("value of %s: %w", keyword, err)
	}
	return attribute{Type: oid, Value: value}, nil
}

func lookup(keyword string) (kind, asn1.ObjectIdentifier, error) {
	for _, k := range kinds {
		same := func(other string) bool { return strings.EqualFold(keyword, other) }
		if same(k.keyword) || keyword == k.oid || slices.ContainsFunc(k.aliases, same) {
			oid, err := parseOID(k.oid)
			return k, oid, err
		}
	}
	switch strings.ToUpper(keyword) {
	case "SN":
		return kind{}, nil, fmt.Errorf("type %q is ambiguous: write surname or serialNumber", keyword)
	case "S":
		return kind{}, nil, fmt.Errorf("type %q is ambiguous: write ST or surname", keyword)
	}
	if keyword != "" && keyword[0] >= '0' && keyword[0] <= '9' {
		oid, err := parseOID(keyword)
		return kind{}, oid, err
	}
	return kind{}, nil, fmt.Errorf("unknown type %q", keyword)
}

func parseOID(s string) (asn1.ObjectIdentifier, error) {
	var oid asn1.ObjectIdentifier
	for arc := range strings.SplitSeq(s, ".") {
		v, err := strconv.ParseUint(arc, 10, 31)
		if err != nil || strconv.FormatUint(v, 10) != arc {
			return nil, fmt.Errorf("malformed object identifier %q", s)
		}
		oid = append(oid, int(v))
	}
	// encoding/asn1 holds arcs in 31 bits, and packs the first two into one.
	if len(oid) < 2 || oid[0] > 2 || oid[0] < 2 && oid[1] > 39 || oid[1] > math.MaxInt32-80 {
		return nil, fmt.Errorf("malformed object identifier %q", s)
	}
	return oid, nil
}

// value reads up to the comma or plus sign that ends the value.
func (p *parser) value(k kind) (asn1.RawValue, error) {
	p.rest = strings.TrimLeft(p.rest, " ")
	if p.take('#') {
		end := strings.IndexAny(p.rest, string(p.separator)+"+")
		if end < 0 {
			end = len(p.rest)
		}
		digits := strings.TrimRight(p.rest[:end], " ")
		p.rest = p.rest[end:]
		der, err := hex.DecodeString(digits)
		if err != nil {
			return asn1.RawValue{}, fmt.Errorf("%q are not hexadecimal digits", digits)
		}
		var v asn1.RawValue
		if rest, err := asn1.Unmarshal(der, &v); err != nil || len(rest) > 0 {
			return asn1.RawValue{}, fmt.Errorf("%q is not the encoding of one value", digits)
		}
		return v, nil
	}
	s, err := p.chars()
	if err != nil {
		return asn1.RawValue{}, err
	}
	if p.pattern && s == wildcard {
		k = kind{} // not every string type has the asterisk
	}
	return encodeString(k, s)
}

// chars reads a plain or quoted value and resolves its escapes.
func (p *parser) chars() (string, error) {
	quoted := p.take('"')
	var b strings.Builder
	kept := 0 // octets that trailing space may not be trimmed from
	for p.rest != "" {
		c := p.rest[0]
		switch {
		case quoted && c == '"':
			p.rest = strings.TrimLeft(p.rest[1:], " ")
			return b.String(), nil
		case !quoted && (c == p.separator || c == '+'):
			return trimTo(b.String(), kept), nil
		case !quoted && (c == '"' || c == ';' || c == '<' || c == '>'):
			return "", fmt.Errorf("%q must be escaped with a backslash", c)
		case c == '\\':
			octet, n, err := unescape(p.rest)
			if err != nil {
				return "", err
			}
			b.WriteByte(octet)
			p.rest = p.rest[n:]
			kept = b.Len()
		default:
			b.WriteByte(c)
			p.rest = p.rest[1:]
		}
	}
	if quoted {
		return "", errors.New("quotation mark is not closed")
	}
	return trimTo(b.String(), kept), nil
}

// trimTo drops trailing spaces, but none of the first kept octets.
func trimTo(s string, kept int) string {
	return s[:kept] + strings.TrimRight(s[kept:], " ")
}

// unescape resolves the escape that s begins with, and returns its length.
func unescape(s string) (octet byte, n int, err error) {
	if len(s) >= 3 {
		if v, err := strconv.ParseUint(s[1:3], 16, 8); err == nil {
			return byte(v), 3, nil
		}
	}
	if len(s) < 2 || !strings.ContainsRune(` "#+,;<=>/\`, rune(s[1])) {
		return 0, 0, errors.New("a backslash stands before a special character or two hexadecimal digits")
	}
	return s[1], 2, nil
}

func encodeString(k kind, s string) (asn1.RawValue, error) {
	switch {
	case s == "":
		return asn1.RawValue{}, errors.New("empty")
	case !utf8.ValidString(s):
		return asn1.RawValue{}, errors.New("not UTF-8")
	case k.keyword == "C" && len(s) != 2:
		// RFC 5280, Appendix A: X520countryName is of two letters.
		return asn1.RawValue{}, fmt.Errorf("%q is not a country code of two letters", s)
	case k.tag == asn1.TagPrintableString && !isPrintable(s):
		return asn1.RawValue{}, fmt.Errorf("%q has characters that are not allowed in it", s)
	case k.tag == asn1.TagIA5String && !isASCII(s):
		return asn1.RawValue{}, fmt.Errorf("%q is not ASCII", s)
	}
	tag := k.tag
	if tag == 0 {
		tag = asn1.TagUTF8String
	}
	return asn1.RawValue{Class: asn1.ClassUniversal, Tag: tag, Bytes: []byte(s)}, nil
}

func isPrintable(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool {
		letter := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
		return !letter && !strings.ContainsRune(" '()+,-./:=?", r)
	}) < 0
}

func isASCII(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r >= utf8.RuneSelf }) < 0
}

// FormatDN writes a name given as DER, so that ParseDN reads it back as an
// Equal one. What cannot be printed is escaped: the result is one line, fit for
// a log or a terminal whoever made the name. A malformed name is shown as
// "malformed name" with its octets.
func FormatDN(der []byte) string {
	n, err := decode(der)
	if err != nil {
		const most = 64
		if len(der) > most {
			return fmt.Sprintf("malformed name %x... of %d octets", der[:most], len(der))
		}
		return fmt.Sprintf("malformed name %x", der)
	}
	var b strings.Builder
	for i, set := range n {
		if i > 0 {
			b.WriteString(", ")
		}
		for j, a := range set {
			if j > 0 {
				b.WriteByte('+')
			}
			k, known := kindOf(a.Type)
			b.WriteString(k.keyword)
			b.WriteByte('=')
			// RFC 4514, Section 2.4: the value of a type without a keyword is
			// written as its encoding. So is one that its type does not allow.
			s, ok := text(a.Value)
			if _, err := encodeString(k, s); ok && known && err == nil {
				escape(&b, s)
			} else {
				fmt.Fprintf(&b, "#%x", a.Value.FullBytes)
			}
		}
	}
	return b.String()
}

func kindOf(oid asn1.ObjectIdentifier) (k kind, known bool) {
	dotted := oid.String()
	for _, k := range kinds {
		if k.oid == dotted {
			return k, true
		}
	}
	return kind{keyword: dotted, oid: dotted}, false
}

// escape writes a value as RFC 4514, Section 2.4 asks.
func escape(b *strings.Builder, s string) {
	for i, r := range s {
		size := utf8.RuneLen(r)
		switch {
		case strings.ContainsRune(`"+,;<>\`, r),
			r == '#' && i == 0,
			r == ' ' && (i == 0 || i == len(s)-1):
			b.WriteByte('\\')
			b.WriteRune(r)
		case unicode.IsPrint(r):
			b.WriteRune(r)
		default:
			for _, c := range []byte(s[i : i+size]) {
				fmt.Fprintf(b, `\%02x`, c)
			}
		}
	}
}
