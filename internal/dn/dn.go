// Package dn reads, writes and compares X.501 distinguished names: the subjects
// of certificates, and the IKE identities of type ID_DER_ASN1_DN (RFC 7296,
// Section 3.5).
//
// Text is the string representation of RFC 4514, with one difference: the
// relative names stand in the order of the encoding, "C=FI, O=netsecvpn,
// CN=agw", as operators of IPsec gateways write them, and not backwards.
package dn

import (
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// ErrSyntax is wrapped by every error of ParseDN.
var ErrSyntax = errors.New("malformed distinguished name")

// attribute is an AttributeTypeAndValue (RFC 5280, Section 4.1.2.4).
type attribute struct {
	Type  asn1.ObjectIdentifier
	Value asn1.RawValue
}

// The suffix SET makes encoding/asn1 encode the slice as a SET OF.
type (
	relativeNameSET []attribute
	name            []relativeNameSET
)

// kind is an attribute type with its keyword.
type kind struct {
	keyword string // as FormatDN writes it
	oid     string
	tag     int      // the string type to encode, 0 for UTF8String
	aliases []string // other keywords for the same type
}

// The attribute types: RFC 4514, Section 3; RFC 4519; RFC 5280, Appendix A. The
// keywords SN and S are missing on purpose: they stand for the surname or for
// the serial number, for the state or for the surname, in one tool or another.
var kinds = []kind{
	{keyword: "C", oid: "2.5.4.6", tag: asn1.TagPrintableString, aliases: []string{"countryName"}},
	{keyword: "ST", oid: "2.5.4.8", aliases: []string{"stateOrProvinceName"}},
	{keyword: "L", oid: "2.5.4.7", aliases: []string{"localityName"}},
	{keyword: "STREET", oid: "2.5.4.9", aliases: []string{"streetAddress"}},
	{keyword: "postalCode", oid: "2.5.4.17"},
	{keyword: "O", oid: "2.5.4.10", aliases: []string{"organizationName"}},
	{keyword: "OU", oid: "2.5.4.11", aliases: []string{"organizationalUnitName"}},
	{keyword: "organizationIdentifier", oid: "2.5.4.97"},
	{keyword: "businessCategory", oid: "2.5.4.15"},
	{keyword: "CN", oid: "2.5.4.3", aliases: []string{"commonName"}},
	{keyword: "title", oid: "2.5.4.12", aliases: []string{"T"}},
	{keyword: "givenName", oid: "2.5.4.42", aliases: []string{"GN", "G"}},
	{keyword: "surname", oid: "2.5.4.4"},
	{keyword: "initials", oid: "2.5.4.43", aliases: []string{"I"}},
	{keyword: "generationQualifier", oid: "2.5.4.44"},
	{keyword: "pseudonym", oid: "2.5.4.65"},
	{keyword: "serialNumber", oid: "2.5.4.5", tag: asn1.TagPrintableString},
	{keyword: "dnQualifier", oid: "2.5.4.46", tag: asn1.TagPrintableString},
	{keyword: "DC", oid: "0.9.2342.19200300.100.1.25", tag: asn1.TagIA5String, aliases: []string{"domainComponent"}},
	{keyword: "UID", oid: "0.9.2342.19200300.100.1.1", aliases: []string{"userId"}},
	{keyword: "E", oid: "1.2.840.113549.1.9.1", tag: asn1.TagIA5String, aliases: []string{"emailAddress", "EMAIL"}},
}

// tagVisibleString is the one that encoding/asn1 does not name.
const tagVisibleString = 26

// decode reads the DER of a Name: every octet of it, or nothing.
func decode(der []byte) (name, error) {
	var n name
	rest, err := asn1.Unmarshal(der, &n)
	if err != nil {
		return nil, err
	}
	if len(rest) > 0 {
		return nil, errors.New("octets behind the name")
	}
	// RFC 5280, Appendix A: a RelativeDistinguishedName is of one attribute at least.
	if slices.ContainsFunc(n, func(set relativeNameSET) bool { return len(set) == 0 }) {
		return nil, errors.New("relative name without an attribute")
	}
	return n, nil
}

// text returns the value of a character string type that can be shown and
// compared; other values are opaque.
func text(v asn1.RawValue) (string, bool) {
	if v.Class != asn1.ClassUniversal || v.IsCompound {
		return "", false
	}
	switch v.Tag {
	case asn1.TagUTF8String:
		return string(v.Bytes), utf8.Valid(v.Bytes)
	case asn1.TagPrintableString, asn1.TagNumericString, asn1.TagIA5String, tagVisibleString, asn1.TagT61String:
		// Of T.61 only the part that is ASCII: the rest has no agreed meaning.
		for _, c := range v.Bytes {
			if c >= utf8.RuneSelf {
				return "", false
			}
		}
		return string(v.Bytes), true
	case asn1.TagBMPString:
		if len(v.Bytes)%2 != 0 {
			return "", false
		}
		units := make([]uint16, len(v.Bytes)/2)
		for i := range units {
			units[i] = uint16(v.Bytes[2*i])<<8 | uint16(v.Bytes[2*i+1])
		}
		runes := utf16.Decode(units)
		return string(runes), !slices.Contains(runes, utf8.RuneError)
	default:
		return "", false
	}
}

// Equal reports whether a and b, the DER of two names, name the same thing: the
// same relative names in the same order, each with the same attributes. String
// values are compared as RFC 5280, Section 7.1 asks, as far as ASCII goes: the
// string type and the case of letters do not matter, nor does space around a
// value, nor how much there is inside. There are no wildcards. A malformed name
// equals nothing, not even itself.
func Equal(a, b []byte) bool {
	ka, errA := canonical(a)
	kb, errB := canonical(b)
	return errA == nil && errB == nil && slices.Equal(ka, kb)
}

// wildcard is the value that stands for every value.
const wildcard = "*"

// IsPattern reports whether a name has an attribute whose value is "*".
func IsPattern(der []byte) bool {
	n, err := decode(der)
	if err != nil {
		return false
	}
	for _, set := range n {
		if slices.ContainsFunc(set, isWildcard) {
			return true
		}
	}
	return false
}

func isWildcard(a attribute) bool {
	s, ok := text(a.Value)
	return ok && s == wildcard
}

// Match reports whether a name fits a pattern: it has the relative names of the
// pattern in the same order, each with the same types of attributes, and with
// values that are equal, as for Equal, or "*" in the pattern.
func Match(pattern, name []byte) bool {
	p, errP := decode(pattern)
	n, errN := decode(name)
	if errP != nil || errN != nil || len(p) != len(n) {
		return false
	}
	for i := range p {
		if !matchSet(p[i], n[i]) {
			return false
		}
	}
	return true
}

// matchSet pairs the attributes of a relative name by type and value: first
// those that the pattern spells out, so that a wildcard takes none of theirs.
func matchSet(pattern, set relativeNameSET) bool {
	if len(pattern) != len(set) {
		return false
	}
	rest := slices.Clone(set)
	for _, wild := range []bool{false, true} {
		for _, p := range pattern {
			if isWildcard(p) != wild {
				continue
			}
			i := slices.IndexFunc(rest, func(a attribute) bool {
				return a.Type.Equal(p.Type) && (wild || canonicalValue(a) == canonicalValue(p))
			})
			if i < 0 {
				return false
			}
			rest = slices.Delete(rest, i, i+1)
		}
	}
	return true
}

// Canonical returns a text that names have in common which are equal. Octets that
// are no name, and equal none, have it empty.
func Canonical(der []byte) string {
	parts, _ := canonical(der)
	return strings.Join(parts, ",")
}

// canonical returns one string for each relative name.
func canonical(der []byte) ([]string, error) {
	n, err := decode(der)
	if err != nil {
		return nil, err
	}
	out := make([]string, 0, len(n))
	for _, set := range n {
		parts := make([]string, 0, len(set))
		for _, a := range set {
			value := canonicalValue(a)
			// The length keeps one value from imitating two.
			parts = append(parts, fmt.Sprintf("%s:%d%s", a.Type, len(value), value))
		}
		slices.Sort(parts)
		out = append(out, strings.Join(parts, "+"))
	}
	return out, nil
}

func canonicalValue(a attribute) string {
	if s, ok := text(a.Value); ok {
		return "=" + fold(s)
	}
	return "#" + string(a.Value.FullBytes)
}

// fold prepares a value for comparison. Only letters of ASCII lose their case:
// folding all of Unicode would make names equal that look different.
func fold(s string) string {
	var b strings.Builder
	b.Grow(len(s))
	space := false
	for i := range len(s) {
		c := s[i]
		switch {
		case c == ' ':
			space = b.Len() > 0
			continue
		case 'A' <= c && c <= 'Z':
			c += 'a' - 'A'
		}
		if space {
			b.WriteByte(' ')
			space = false
		}
		b.WriteByte(c)
	}
	return b.String()
}
