package capture

import (
	"encoding/hex"
	"fmt"
	"log/slog"
	"strings"

	"caponier/internal/ipsec"
	"caponier/internal/secret"
)

// The tables of Wireshark that take keys.
const (
	TableESP = "esp_sa"
	TableIKE = "ikev2_decryption_table"
)

// Line is a line of a table of Wireshark. Its text holds keys: it is written to
// the operator's file and nowhere else.
type Line struct {
	Table string `json:"table"`
	Text  string `json:"text"`
}

// String does not show the keys.
func (l Line) String() string { return l.Table + " [redacted]" }

// GoString does not show the keys.
func (l Line) GoString() string { return l.String() }

// LogValue does not show the keys.
func (l Line) LogValue() slog.Value { return slog.StringValue(l.String()) }

// Wireshark's names of algorithms, in the tables of ESP and of IKE.
var (
	espEncr = map[uint16]string{
		ipsec.EncrNull:             "NULL",
		ipsec.EncrAESCBC:           "AES-CBC [RFC3602]",
		ipsec.EncrAESCTR:           "AES-CTR [RFC3686]",
		ipsec.EncrAESGCM8:          "AES-GCM with 8 octet ICV [RFC4106]",
		ipsec.EncrAESGCM12:         "AES-GCM with 12 octet ICV [RFC4106]",
		ipsec.EncrAESGCM16:         "AES-GCM with 16 octet ICV [RFC4106]",
		ipsec.EncrChaCha20Poly1305: "ChaCha20/Poly1305",
	}
	espInteg = map[uint16]string{
		ipsec.IntegNone:          "NULL",
		ipsec.IntegHMACSHA196:    "HMAC-SHA-1-96 [RFC2404]",
		ipsec.IntegAESXCBC96:     "ANY 96 bit authentication [no checking]",
		ipsec.IntegAESCMAC96:     "ANY 96 bit authentication [no checking]",
		ipsec.IntegHMACSHA256128: "HMAC-SHA-256-128 [RFC4868]",
		ipsec.IntegHMACSHA384192: "HMAC-SHA-384-192 [RFC4868]",
		ipsec.IntegHMACSHA512256: "HMAC-SHA-512-256 [RFC4868]",
		ipsec.IntegHMACSM3:       "ANY 256 bit authentication [no checking]",
		ipsec.IntegHMACSM3128:    "ANY 128 bit authentication [no checking]",
		ipsec.IntegHMACSM396:     "ANY 96 bit authentication [no checking]",
	}
	ikeEncr = map[uint16]string{
		ipsec.EncrAESCBC:   "AES-CBC-%d [RFC3602]",
		ipsec.EncrAESCTR:   "AES-CTR-%d [RFC5930]",
		ipsec.EncrAESGCM8:  "AES-GCM-%d with 8 octet ICV [RFC5282]",
		ipsec.EncrAESGCM12: "AES-GCM-%d with 12 octet ICV [RFC5282]",
		ipsec.EncrAESGCM16: "AES-GCM-%d with 16 octet ICV [RFC5282]",
		ipsec.EncrAESCCM8:  "AES-CCM-%d with 8 octet ICV [RFC5282]",
		ipsec.EncrAESCCM12: "AES-CCM-%d with 12 octet ICV [RFC5282]",
		ipsec.EncrAESCCM16: "AES-CCM-%d with 16 octet ICV [RFC5282]",
	}
	ikeInteg = map[uint16]string{
		ipsec.IntegNone:          "NONE [RFC4306]",
		ipsec.IntegHMACSHA196:    "HMAC_SHA1_96 [RFC2404]",
		ipsec.IntegAESXCBC96:     "ANY 96-bits of Authentication [No Checking]",
		ipsec.IntegAESCMAC96:     "ANY 96-bits of Authentication [No Checking]",
		ipsec.IntegHMACSHA256128: "HMAC_SHA2_256_128 [RFC4868]",
		ipsec.IntegHMACSHA384192: "HMAC_SHA2_384_192 [RFC4868]",
		ipsec.IntegHMACSHA512256: "HMAC_SHA2_512_256 [RFC4868]",
		ipsec.IntegHMACSM3128:    "ANY 128-bits of Authentication [No Checking]",
		ipsec.IntegHMACSM396:     "ANY 96-bits of Authentication [No Checking]",
	}
)

// espLine is the line for an SA, or the zero Line where Wireshark does not know
// its algorithms: those of SM4 and AES-CCM, or those of AH.
func espLine(sa *ipsec.SA) Line {
	encr, okEncr := espEncr[sa.Encr.ID]
	integ, okInteg := espInteg[sa.Integ.ID]
	if sa.Protocol != ipsec.ESP || !okEncr || !okInteg {
		return Line{}
	}
	src, dst := ends(sa.Direction, sa.Local, sa.Remote)
	family := "IPv4"
	if dst.Addr().Is6() {
		family = "IPv6"
	}
	return Line{TableESP, row(family, src.Addr().String(), dst.Addr().String(), "0x"+sa.SPI.String(),
		encr, prefixed(sa.EncrKey), integ, prefixed(sa.IntegKey))}
}

// ikeLine is the line for an IKE SA, or the zero Line: Wireshark has a table for
// IKEv1 too, but decrypts neither SM4 nor what has no key exchange, as GM/T 0022.
func ikeLine(k *IKEKeys) Line {
	encr, okEncr := ikeEncr[k.Encr.ID]
	integ, okInteg := ikeInteg[k.Integ.ID]
	if !okEncr || !okInteg {
		return Line{}
	}
	// The SPIs and keys of this table have no quotes: they are octets.
	return Line{TableIKE, fmt.Sprintf("%016x,%016x,%s,%s,%s,%s,%s,%s", k.InitiatorSPI, k.ResponderSPI,
		digits(k.Ei), digits(k.Er), quote(fmt.Sprintf(encr, k.Encr.KeyBits)), digits(k.Ai), digits(k.Ar), quote(integ))}
}

func row(values ...string) string {
	for i, v := range values {
		values[i] = quote(v)
	}
	return strings.Join(values, ",")
}

func quote(s string) string { return `"` + s + `"` }

func digits(k secret.Key) string { return hex.EncodeToString(k.Bytes()) }

// prefixed is how the table of ESP writes a key: empty, or a number.
func prefixed(k secret.Key) string {
	if k.IsZero() {
		return ""
	}
	return "0x" + digits(k)
}
