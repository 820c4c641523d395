package v1

import (
	"errors"

	"caponier/internal/ike/isakmp"
	"caponier/internal/ike/keys"
	"caponier/internal/ipsec"
	"caponier/internal/secret"
	"caponier/internal/suite"
)

var errNotDecrypted = errors.New("decryption gives no payloads")

// session is what phase 1 agreed on: the algorithms and the keys of an IKE SA.
type session struct {
	chosen ipsec.Proposal
	hash   keys.Hash
	keys   keys.SKEYID
	cbc    *suite.CBC
	// iv is that of the next message of phase 1, and then, when phase 1 is over, its
	// last block of ciphertext, which those of phase 2 come from.
	iv []byte
}

// newSession makes the session of SKEYID, which it takes over, and of the two
// values that the first IV comes from.
func newSession(chosen ipsec.Proposal, hash keys.Hash, skeyid, shared secret.Key, c keys.Cookies, a, b []byte) (*session, error) {
	s := &session{chosen: chosen, hash: hash, keys: keys.DeriveSKEYID(hash, skeyid, shared, c)}
	key, err := keys.EncryptionKey(hash, s.keys.E, chosen.First(ipsec.TypeEncr))
	if err != nil {
		s.keys.Wipe()
		return nil, err
	}
	defer key.Wipe()
	if s.cbc, err = suite.NewCBC(chosen.First(ipsec.TypeEncr), key.Bytes()); err != nil {
		s.keys.Wipe()
		return nil, err
	}
	s.iv = keys.Phase1IV(hash, a, b, s.cbc.BlockSize())
	return s, nil
}

// iv2 is the first IV of an exchange of phase 2.
func (s *session) iv2(messageID uint32) []byte { return keys.Phase2IV(s.hash, s.iv, messageID) }

// seal encrypts the payloads of a message, padded with zeros, and returns the
// datagram and the IV of the next message of the exchange.
func (s *session) seal(h isakmp.Header, iv []byte, payloads []isakmp.Payload) (raw, next []byte, err error) {
	plain, err := isakmp.AppendChain(nil, payloads)
	if err != nil {
		return nil, nil, err
	}
	block := s.cbc.BlockSize()
	if over := len(plain) % block; over > 0 {
		plain = append(plain, make([]byte, block-over)...)
	}
	s.cbc.Encrypt(plain, iv, plain)
	raw, err = h.AppendEncrypted(nil, payloads[0].Type, plain)
	if err != nil {
		return nil, nil, err
	}
	return raw, plain[len(plain)-block:], nil
}

// seal encrypts a message of the exchange, whose IV it takes and whose next it
// returns.
func (m *Machine) seal(h isakmp.Header, iv []byte, payloads []isakmp.Payload) (raw, next []byte, err error) {
	if raw, next, err = m.session.seal(h, iv, payloads); err == nil {
		m.show(ipsec.Out, h, payloads)
	}
	return raw, next, err
}

// clear makes a message in clear.
func (m *Machine) clear(h isakmp.Header, payloads []isakmp.Payload) ([]byte, error) {
	raw, err := (&isakmp.Message{Header: h, Payloads: payloads}).Append(nil)
	if err == nil {
		m.show(ipsec.Out, h, payloads)
	}
	return raw, err
}

// show shows a new message to the world, where it wants to see it: one in clear, or
// authentic.
func (m *Machine) show(d ipsec.Direction, h isakmp.Header, payloads []isakmp.Payload) {
	if m.env.ShowISAKMP != nil {
		m.env.ShowISAKMP(d, &isakmp.Message{Header: h, Payloads: payloads})
	}
}

// opened is a message that has been decrypted. Nothing says yet that it is
// authentic.
type opened struct {
	payloads []isakmp.Payload
	chain    []byte // the payloads as they stand in the message, without padding
	next     []byte // the IV of the next message
}

// rest is what follows the first payload, which is HASH.
func (o *opened) rest() []byte { return o.chain[genericLen+len(o.payloads[0].Body):] }

// genericLen is the length of the generic payload header.
const genericLen = 4

// wire returns the payloads of a type with their generic headers.
func (o *opened) wire(t isakmp.PayloadType) [][]byte {
	var out [][]byte
	at := 0
	for _, p := range o.payloads {
		n := genericLen + len(p.Body)
		if p.Type == t {
			out = append(out, o.chain[at:at+n])
		}
		at += n
	}
	return out
}

// open decrypts a message whose first payload is HASH.
func (s *session) open(msg *isakmp.Message, iv []byte) (*opened, error) {
	block := s.cbc.BlockSize()
	if len(msg.Encrypted) == 0 || len(msg.Encrypted)%block != 0 {
		return nil, errNotDecrypted
	}
	plain := make([]byte, len(msg.Encrypted))
	s.cbc.Decrypt(plain, iv, msg.Encrypted)
	payloads, n, err := isakmp.ParseChain(msg.Header.NextPayload, plain)
	if err != nil || len(payloads) == 0 || payloads[0].Type != isakmp.TypeHash {
		return nil, errNotDecrypted
	}
	return &opened{payloads: payloads, chain: plain[:n], next: msg.Encrypted[len(msg.Encrypted)-block:]}, nil
}

func (s *session) wipe() {
	s.keys.Wipe()
	s.cbc.Wipe()
}
