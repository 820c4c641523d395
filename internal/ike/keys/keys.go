// Package keys derives the keys of IKEv2 and what they authenticate (RFC 7296,
// Sections 2.13 to 2.18, and 2.23). It is pure.
package keys

import (
	"encoding/binary"
	"errors"
	"fmt"

	"caponier/internal/ipsec"
	"caponier/internal/secret"
	"caponier/internal/suite"
)

// ErrTooLong is returned when more octets are asked for than prf+ can give.
var ErrTooLong = errors.New("prf+ gives no more than 255 blocks")

// maxBlocks is where the octet that counts the blocks ends (RFC 7296, Section
// 2.13).
const maxBlocks = 255

// PRFPlus returns the first n octets of prf+(key, seed[0] | seed[1] | ...) (RFC
// 7296, Section 2.13), or ErrTooLong where n is over 255 * prf.Size().
func PRFPlus(prf suite.PRF, key []byte, n int, seed ...[]byte) ([]byte, error) {
	if n > maxBlocks*prf.Size() {
		return nil, fmt.Errorf("%d octets: %w", n, ErrTooLong)
	}
	blocks := (n + prf.Size() - 1) / prf.Size()
	out := make([]byte, 0, blocks*prf.Size())
	data := make([][]byte, 0, len(seed)+2)
	var block []byte
	for i := range blocks {
		data = append(data[:0], block)
		data = append(data, seed...)
		data = append(data, []byte{byte(i + 1)})
		next := prf.Sum(key, data...)
		clear(block)
		block = next
		out = append(out, block...)
	}
	clear(block)
	clear(out[n:])
	return out[:n:n], nil
}

// Seed returns SKEYSEED of a first exchange: prf(Ni | Nr, g^ir), with only the
// beginning of the nonces for the PRFs that ask for it (RFC 7296, Section 2.14).
func Seed(prf suite.PRF, ni, nr []byte, shared secret.Key) secret.Key {
	if n := prf.SeedNonceLen(); n > 0 {
		ni, nr = ni[:min(n, len(ni))], nr[:min(n, len(nr))]
	}
	return secret.New(prf.Sum(join(ni, nr), shared.Bytes()))
}

// RekeySeed returns SKEYSEED of an IKE SA that replaces another: prf(SK_d (old),
// g^ir (new) | Ni | Nr). prf is that of the old SA (RFC 7296, Section 2.18).
func RekeySeed(prf suite.PRF, oldD, shared secret.Key, ni, nr []byte) secret.Key {
	return secret.New(prf.Sum(oldD.Bytes(), shared.Bytes(), ni, nr))
}

// IKEKeys are the keys of an IKE SA (RFC 7296, Section 2.14): SK_d, and SK_a,
// SK_e and SK_p of initiator and responder. Ai and Ar are empty for a
// combined-mode algorithm; the salt is at the end of Ei and Er.
type IKEKeys struct {
	D, Ai, Ar, Ei, Er, Pi, Pr secret.Key
}

// DeriveIKE returns the keys of the IKE SA with these SPIs from its SKEYSEED.
// integ is the zero Transform for a combined-mode encr.
func DeriveIKE(prf suite.PRF, seed secret.Key, ni, nr []byte, spiI, spiR uint64, encr, integ ipsec.Transform) (IKEKeys, error) {
	encrLen, integLen, err := suite.KeyLengths(encr, integ)
	if err != nil {
		return IKEKeys{}, fmt.Errorf("keys of the IKE SA: %w", err)
	}
	lengths := []int{prf.KeyLen(), integLen, integLen, encrLen, encrLen, prf.KeyLen(), prf.KeyLen()}
	spis := binary.BigEndian.AppendUint64(nil, spiI)
	spis = binary.BigEndian.AppendUint64(spis, spiR)
	k, err := split(prf, seed.Bytes(), lengths, ni, nr, spis)
	if err != nil {
		return IKEKeys{}, fmt.Errorf("keys of the IKE SA: %w", err)
	}
	return IKEKeys{D: k[0], Ai: k[1], Ar: k[2], Ei: k[3], Er: k[4], Pi: k[5], Pr: k[6]}, nil
}

// Wipe overwrites all keys.
func (k IKEKeys) Wipe() {
	for _, key := range []secret.Key{k.D, k.Ai, k.Ar, k.Ei, k.Er, k.Pi, k.Pr} {
		key.Wipe()
	}
}

// ChildKeys are the keys of a CHILD SA: Ei and Ai protect what the initiator of
// the exchange that made it sends, Er and Ar what the responder sends (RFC
// 7296, Section 2.17). Ai and Ar are empty for a combined-mode algorithm; the
// salt is at the end of Ei and Er.
type ChildKeys struct {
	Ei, Ai, Er, Ar secret.Key
}

// DeriveChild returns the keys of a CHILD SA: the parts of prf+(SK_d, Ni | Nr)
// or, where the exchange had a key exchange of its own, prf+(SK_d, g^ir (new) |
// Ni | Nr). shared is the zero Key without one. ni and nr are the nonces of the
// exchange that makes the CHILD SA; integ is the zero Transform for a
// combined-mode encr.
func DeriveChild(prf suite.PRF, d, shared secret.Key, ni, nr []byte, encr, integ ipsec.Transform) (ChildKeys, error) {
	encrLen, integLen, err := suite.KeyLengths(encr, integ)
	if err != nil {
		return ChildKeys{}, fmt.Errorf("keys of the CHILD SA: %w", err)
	}
	lengths := []int{encrLen, integLen, encrLen, integLen}
	k, err := split(prf, d.Bytes(), lengths, shared.Bytes(), ni, nr)
	if err != nil {
		return ChildKeys{}, fmt.Errorf("keys of the CHILD SA: %w", err)
	}
	return ChildKeys{Ei: k[0], Ai: k[1], Er: k[2], Ar: k[3]}, nil
}

// Wipe overwrites all keys.
func (k ChildKeys) Wipe() {
	for _, key := range []secret.Key{k.Ei, k.Ai, k.Er, k.Ar} {
		key.Wipe()
	}
}

// split cuts the output of prf+ into keys of these lengths. Each has octets of
// its own, so that wiping one leaves the others.
func split(prf suite.PRF, key []byte, lengths []int, seed ...[]byte) ([]secret.Key, error) {
	total := 0
	for _, n := range lengths {
		total += n
	}
	material, err := PRFPlus(prf, key, total, seed...)
	if err != nil {
		return nil, err
	}
	defer clear(material)
	out := make([]secret.Key, len(lengths))
	rest := material
	for i, n := range lengths {
		if n > 0 {
			out[i] = secret.Copy(rest[:n])
		}
		rest = rest[n:]
	}
	return out, nil
}

func join(parts ...[]byte) []byte {
	var out []byte
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}
