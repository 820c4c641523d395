package proposal

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"caponier/internal/ike/isakmp"
	"caponier/internal/ike/message"
)

// names are the names of numbers, those too that are never offered here: a failure
// shows what the peer has.
type names map[uint64]string

func (n names) of(v uint64) string {
	if name, ok := n[v]; ok {
		return fmt.Sprintf("%s (%d)", name, v)
	}
	return fmt.Sprint(v)
}

// The names of what phase 1 negotiates: RFC 2409, Appendix A, its registries, and
// GM/T 0022.
var (
	ikeEncryption = names{
		1: "DES", 5: "3DES", 7: "AES-CBC", 127: "SM4-CBC", 128: "SM1-CBC", 129: "SM4-CBC",
	}
	ikeHash   = names{1: "MD5", 2: "SHA-1", 4: "SHA2-256", 5: "SHA2-384", 6: "SHA2-512", 20: "SM3"}
	ikeMethod = names{
		1: "pre-shared key", 2: "DSS signatures", 3: "RSA signatures", 4: "RSA encryption", 5: "revised RSA encryption",
		10: "digital envelope",
	}
	ikeAsymmetric = names{1: "RSA", 2: "SM2"}
)

// The names of what quick mode negotiates: RFC 2407, Sections 4.4 and 4.5, its
// registries, and GM/T 0022.
var (
	espTransforms = names{
		2: "DES", 3: "3DES", 11: "NULL", 12: "AES-CBC", 13: "AES-CTR", 20: "AES-GCM", 127: "SM4-CBC", 128: "SM1-CBC",
		129: "SM4-CBC", 130: "SM4-GCM",
	}
	ahTransforms   = names{2: "MD5", 3: "SHA-1", 5: "SHA2-256", 20: "SM3"}
	authAlgorithms = names{1: "HMAC-MD5", 2: "HMAC-SHA-1", 5: "HMAC-SHA2-256", 20: "HMAC-SM3"}
	encapsulations = names{
		1: "tunnel", 2: "transport", 3: "tunnel in UDP", 4: "transport in UDP", 61443: "tunnel in UDP", 61444: "transport in UDP",
	}
)

const (
	maxWords     = 8 // of the transforms of a peer that are described
	maxAttribute = 12
)

// Words describes each transform of an offer: "SM4-CBC (129), SM3 (20), digital
// envelope (10), SM2 (2), 24h0m0s". A nil SA has none.
func Words(sa *isakmp.SA) []string {
	if sa == nil {
		return nil
	}
	var out []string
	for _, p := range sa.Proposals {
		for _, t := range p.Transforms {
			if len(out) == maxWords {
				return append(out, "and more")
			}
			out = append(out, strings.Join(transformWords(p.Protocol, t), ", "))
		}
	}
	return out
}

// Describe is Words in a line, for the message of a failure.
func Describe(sa *isakmp.SA) string { return strings.Join(Words(sa), "; ") }

func transformWords(protocol message.ProtocolID, t isakmp.Transform) (words []string) {
	switch protocol {
	case message.ProtocolESP:
		words = append(words, espTransforms.of(uint64(t.ID)))
	case message.ProtocolAH:
		words = append(words, "AH "+ahTransforms.of(uint64(t.ID)))
	case message.ProtocolIKE:
		if t.ID != isakmp.KeyIKE {
			words = append(words, fmt.Sprintf("transform %d", t.ID))
		}
	default:
		words = append(words, fmt.Sprintf("protocol %d transform %d", protocol, t.ID))
	}
	// In one order, whatever the peer's is, so that offers can be compared.
	attributes := slices.Clone(t.Attributes[:min(len(t.Attributes), maxAttribute)])
	slices.SortStableFunc(attributes, func(a, b isakmp.Attribute) int { return cmp.Compare(rank(protocol, a.Type), rank(protocol, b.Type)) })
	lifeType := uint64(0)
	for _, a := range attributes {
		n, ok := a.Number()
		if !ok {
			words = append(words, fmt.Sprintf("attribute %d", a.Type))
			continue
		}
		word := ""
		if protocol == message.ProtocolIKE {
			word = ikeWord(a.Type, n, &lifeType)
		} else {
			word = childWord(a.Type, n, &lifeType)
		}
		if word != "" {
			words = append(words, word)
		}
	}
	return words
}

// rank puts lifetimes last, each behind its type.
func rank(protocol message.ProtocolID, attribute uint16) int {
	kind, life := isakmp.AttrLifeType, isakmp.AttrLife
	if protocol == message.ProtocolIKE {
		kind, life = isakmp.AttrIKELifeType, isakmp.AttrIKELife
	}
	if attribute == kind || attribute == life {
		return 1 << 16
	}
	return int(attribute)
}

func ikeWord(attribute uint16, n uint64, lifeType *uint64) string {
	switch attribute {
	case isakmp.AttrEncryption:
		return ikeEncryption.of(n)
	case isakmp.AttrHash:
		return ikeHash.of(n)
	case isakmp.AttrAuthMethod:
		return ikeMethod.of(n)
	case isakmp.AttrAsymmetricAlg:
		return ikeAsymmetric.of(n)
	case isakmp.AttrGroup:
		return fmt.Sprintf("group %d", n)
	case isakmp.AttrIKEKeyLength:
		return fmt.Sprintf("key of %d bits", n)
	case isakmp.AttrIKELifeType:
		*lifeType = n
		return ""
	case isakmp.AttrIKELife:
		return lifeWord(*lifeType, n)
	default:
		return fmt.Sprintf("attribute %d = %d", attribute, n)
	}
}

func childWord(attribute uint16, n uint64, lifeType *uint64) string {
	switch attribute {
	case isakmp.AttrAuthAlg:
		return authAlgorithms.of(n)
	case isakmp.AttrEncapsulation:
		return encapsulations.of(n)
	case isakmp.AttrKeyLength:
		return fmt.Sprintf("key of %d bits", n)
	case isakmp.AttrGroupPFS:
		return fmt.Sprintf("PFS with group %d", n)
	case isakmp.AttrESN:
		return "extended sequence numbers"
	case isakmp.AttrLifeType:
		*lifeType = n
		return ""
	case isakmp.AttrLife:
		return lifeWord(*lifeType, n)
	default:
		return fmt.Sprintf("attribute %d = %d", attribute, n)
	}
}

func lifeWord(kind, n uint64) string {
	switch kind {
	case uint64(isakmp.LifeSeconds):
		return (time.Duration(min(n, 1<<32)) * time.Second).String()
	case uint64(isakmp.LifeKilobytes):
		return fmt.Sprintf("%d kilobytes", n)
	default:
		return ""
	}
}
