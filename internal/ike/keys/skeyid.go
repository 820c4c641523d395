package keys

import (
	"crypto/hmac"
	"encoding/binary"
	"fmt"
	"hash"

	"caponier/internal/ike/message"
	"caponier/internal/ipsec"
	"caponier/internal/secret"
	"caponier/internal/suite"
)

// Hash is the hash function that IKEv1 negotiates, and its PRF: HMAC with that
// hash (RFC 2409, Section 4).
type Hash struct {
	suite.PRF
	hash func() hash.Hash
}

// NewHash returns the hash function inside a PRF.
func NewHash(prf ipsec.Transform) (Hash, error) {
	p, err := suite.NewPRF(prf)
	if err != nil {
		return Hash{}, err
	}
	h, err := suite.NewHash(prf)
	if err != nil {
		return Hash{}, err
	}
	return Hash{PRF: p, hash: h}, nil
}

// Digest returns HASH(data[0] | data[1] | ...).
func (h Hash) Digest(data ...[]byte) []byte {
	sum := h.hash()
	for _, d := range data {
		sum.Write(d)
	}
	return sum.Sum(nil)
}

// Cookies are those of an IKE SA (RFC 2408, Section 2.5.3).
type Cookies struct{ I, R message.SPI }

// octets returns CKY-I | CKY-R.
func (c Cookies) octets() []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, uint64(c.I)), uint64(c.R))
}

// swapped returns CKY-R | CKY-I.
func (c Cookies) swapped() []byte { return Cookies{I: c.R, R: c.I}.octets() }

// SKEYID are the keys of an IKE SA of IKEv1 (RFC 2409, Section 5).
type SKEYID struct {
	ID   secret.Key // SKEYID itself, which authenticates the set-up only
	D, A secret.Key // SKEYID_d, SKEYID_a
	E    secret.Key // SKEYID_e, of which EncryptionKey makes the key
}

// EnvelopeSeed returns SKEYID of GM/T 0022 and of authentication by public key
// encryption (RFC 2409, Section 5.2): prf(HASH(Ni_b | Nr_b), CKY-I | CKY-R).
func EnvelopeSeed(h Hash, ni, nr []byte, c Cookies) secret.Key {
	key := h.Digest(ni, nr)
	defer clear(key)
	return secret.New(h.Sum(key, c.octets()))
}

// DeriveSKEYID returns the keys that come of SKEYID, which it takes over (RFC
// 2409, Section 5). shared is g^xy, and the zero Key in GM/T 0022, which has no
// key exchange.
func DeriveSKEYID(h Hash, skeyid, shared secret.Key, c Cookies) SKEYID {
	k := SKEYID{ID: skeyid}
	k.D = secret.New(h.Sum(skeyid.Bytes(), shared.Bytes(), c.octets(), []byte{0}))
	k.A = secret.New(h.Sum(skeyid.Bytes(), k.D.Bytes(), shared.Bytes(), c.octets(), []byte{1}))
	k.E = secret.New(h.Sum(skeyid.Bytes(), k.A.Bytes(), shared.Bytes(), c.octets(), []byte{2}))
	return k
}

// Wipe overwrites all keys.
func (k SKEYID) Wipe() {
	for _, key := range []secret.Key{k.ID, k.D, k.A, k.E} {
		key.Wipe()
	}
}

// EncryptionKey returns the key of the cipher that encrypts messages: the
// beginning of SKEYID_e or, where that is too short, of Ka = K1 | K2 | ... with K1
// = prf(SKEYID_e, 0) (RFC 2409, Appendix B).
func EncryptionKey(h Hash, e secret.Key, encr ipsec.Transform) (secret.Key, error) {
	n, err := suite.CipherKeyLength(encr)
	if err != nil {
		return secret.Key{}, fmt.Errorf("key of the IKE SA: %w", err)
	}
	if n <= e.Len() {
		return secret.Copy(e.Bytes()[:n]), nil
	}
	var out []byte
	block := []byte{0}
	for len(out) < n {
		block = h.Sum(e.Bytes(), block)
		out = append(out, block...)
	}
	clear(out[n:])
	return secret.New(out[:n:n]), nil
}

// Phase1IV returns the first IV of an IKE SA: the beginning of HASH(a | b), with
// the public values of the key exchange for a and b, and in GM/T 0022 the two
// symmetric keys, the initiator's first (RFC 2409, Appendix B).
func Phase1IV(h Hash, a, b []byte, blockSize int) []byte { return h.Digest(a, b)[:blockSize] }

// Phase2IV returns the first IV of an exchange under an IKE SA, whose last block of
// ciphertext in phase 1 was last (RFC 2409, Appendix B).
func Phase2IV(h Hash, last []byte, messageID uint32) []byte {
	return h.Digest(last, binary.BigEndian.AppendUint32(nil, messageID))[:len(last)]
}

// Phase1Hash returns HASH_I, or HASH_R for the responder (RFC 2409, Section 5). ours
// and theirs are the public values of the sender and of the other side, empty in
// GM/T 0022. sa is the body of the initiator's SA payload, id that of the
// sender's ID payload.
func Phase1Hash(h Hash, skeyid secret.Key, c Cookies, responder bool, ours, theirs, sa, id []byte) []byte {
	cookies := c.octets()
	if responder {
		cookies = c.swapped()
	}
	return h.Sum(skeyid.Bytes(), ours, theirs, cookies, sa, id)
}

// Keymat returns n octets of keys for the IPsec SA with this SPI, which its
// receiver chose (RFC 2409, Section 5.5). shared is g(qm)^xy, or the zero Key
// without a key exchange in quick mode.
func Keymat(h Hash, d, shared secret.Key, protocol message.ProtocolID, spi ipsec.SPI, ni, nr []byte, n int) secret.Key {
	var out, block []byte
	seed := append([]byte{byte(protocol)}, binary.BigEndian.AppendUint32(nil, uint32(spi))...)
	for len(out) < n {
		block = h.Sum(d.Bytes(), block, shared.Bytes(), seed, ni, nr)
		out = append(out, block...)
	}
	clear(out[n:])
	return secret.New(out[:n:n])
}

// QuickForm is what the first two hashes of quick mode cover.
type QuickForm uint8

// The forms.
const (
	// QuickStandard is what GM/T 0022 prints: Ni_b | SA | IDci | IDcr, and with Nr_b
	// in the second. Payloads that it does not name are not authenticated.
	QuickStandard QuickForm = iota
	// QuickBodies is the same without the generic headers of SA and ID.
	QuickBodies
	// QuickRFC is that of RFC 2409, Section 5.5: all payloads behind HASH as they
	// stand on the wire.
	QuickRFC
)

// String returns the configuration's word.
func (f QuickForm) String() string { return [...]string{"standard", "bodies", "rfc"}[f] }

// Quick is what the hashes of quick mode cover (RFC 2409, Section 5.5).
type Quick struct {
	Hash      Hash
	A         secret.Key // SKEYID_a
	MessageID uint32
	// Ni and Nr are the bodies of the nonces. Nr is empty in the first message.
	Ni, Nr []byte
	// SA and IDs are those of the message, with generic headers as on the wire.
	SA  []byte
	IDs [][]byte
	// Rest is all that follows the HASH payload, to the end of the last payload.
	Rest []byte
}

func (q Quick) id() []byte { return binary.BigEndian.AppendUint32(nil, q.MessageID) }

// genericLen is the length of the generic payload header.
const genericLen = 4

// Sum returns HASH(1) or, where there is an Nr, HASH(2).
func (q Quick) Sum(form QuickForm) []byte {
	if form == QuickRFC {
		if len(q.Nr) == 0 {
			return q.Hash.Sum(q.A.Bytes(), q.id(), q.Rest)
		}
		return q.Hash.Sum(q.A.Bytes(), q.id(), q.Ni, q.Rest)
	}
	sa, ids := q.SA, join(q.IDs...)
	if form == QuickBodies {
		sa, ids = sa[min(genericLen, len(sa)):], nil
		for _, id := range q.IDs {
			ids = append(ids, id[min(genericLen, len(id)):]...)
		}
	}
	return q.Hash.Sum(q.A.Bytes(), q.id(), q.Ni, sa, q.Nr, ids)
}

// Third returns HASH(3), which is the same in all forms.
func (q Quick) Third() []byte {
	return q.Hash.Sum(q.A.Bytes(), []byte{0}, q.id(), q.Ni, q.Nr)
}

// Form returns the form in which sum is the hash of q, and false where it is in
// none. All are tried, always.
func (q Quick) Form(sum []byte) (QuickForm, bool) {
	found, form := false, QuickStandard
	for _, f := range []QuickForm{QuickStandard, QuickBodies, QuickRFC} {
		if hmac.Equal(q.Sum(f), sum) && !found {
			found, form = true, f
		}
	}
	return form, found
}

// InformationalHash returns the hash of an informational exchange: prf(SKEYID_a,
// M-ID | N or D), with all that follows the HASH payload (RFC 2409, Section 5.7).
func InformationalHash(h Hash, a secret.Key, messageID uint32, rest []byte) []byte {
	return h.Sum(a.Bytes(), binary.BigEndian.AppendUint32(nil, messageID), rest)
}
