package pki

import (
	"crypto/x509"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"caponier/internal/dn"
)

// Identification types (RFC 7296, Section 3.5).
const (
	idIPv4Addr  uint8 = 1
	idFQDN      uint8 = 2
	idRFC822    uint8 = 3
	idIPv6Addr  uint8 = 5
	idDERASN1DN uint8 = 9
	idKeyID     uint8 = 11
)

// speaksFor reports whether the certificate binds its key to the identity. The
// common name is no host name, and no name is a pattern.
func speaksFor(cert *x509.Certificate, kind uint8, data []byte) bool {
	switch kind {
	case idIPv4Addr, idIPv6Addr: // RFC 4945, Section 3.1.1
		a, ok := netip.AddrFromSlice(data)
		if !ok || a.Is4() != (kind == idIPv4Addr) {
			return false
		}
		for _, ip := range cert.IPAddresses {
			if san, ok := netip.AddrFromSlice(ip); ok && san == a {
				return true
			}
		}
	case idFQDN: // RFC 4945, Section 3.1.2
		for _, name := range cert.DNSNames {
			if name != "" && foldASCII(name) == foldASCII(string(data)) {
				return true
			}
		}
	case idRFC822: // RFC 4945, Section 3.1.3
		for _, name := range cert.EmailAddresses {
			if name != "" && foldHost(name) == foldHost(string(data)) {
				return true
			}
		}
	case idDERASN1DN: // RFC 4945, Section 3.1.5
		return !isEmptyName(data) && dn.Equal(cert.RawSubject, data)
	default:
		// RFC 4945, Section 3.1.7: nothing in a certificate stands for ID_KEY_ID.
	}
	return false
}

// isEmptyName reports whether the DER is of a name without attributes, which
// certificates that have only alternative names hold.
func isEmptyName(der []byte) bool { return len(der) <= 2 }

// foldASCII lowers the letters of ASCII only: others are not part of names in
// certificates, and some fold to ASCII.
func foldASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}, s)
}

// foldHost folds what stands behind the @ of a mail address (RFC 5280, Section
// 7.5): only there case does not matter.
func foldHost(s string) string {
	at := strings.LastIndexByte(s, '@')
	return s[:at+1] + foldASCII(s[at+1:])
}

// identityText shows an identity that a stranger sent.
func identityText(kind uint8, data []byte) string {
	const most = 256
	if len(data) > most && kind != idDERASN1DN {
		data = data[:most]
	}
	switch kind {
	case idIPv4Addr, idIPv6Addr:
		if a, ok := netip.AddrFromSlice(data); ok {
			return a.String()
		}
	case idFQDN, idRFC822:
		return strconv.Quote(string(data))
	case idDERASN1DN:
		return strconv.Quote(shorten(dn.FormatDN(data)))
	case idKeyID:
		return fmt.Sprintf("key id %x", data)
	}
	return fmt.Sprintf("identity of type %d", kind)
}

// alternativeNames returns the names beside the subject, each fit for a log.
func alternativeNames(cert *x509.Certificate) []string {
	var names []string
	add := func(s string) {
		if q := strconv.QuoteToASCII(s); q != `"`+s+`"` {
			s = q
		}
		names = append(names, s)
	}
	for _, n := range cert.DNSNames {
		add(n)
	}
	for _, ip := range cert.IPAddresses {
		add(ip.String())
	}
	for _, n := range cert.EmailAddresses {
		add(n)
	}
	for _, u := range cert.URIs {
		add(u.String())
	}
	return names
}

// shorten keeps what a stranger wrote from filling a log.
func shorten(s string) string {
	const most = 200
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}
