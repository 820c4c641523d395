package keys

import (
	"caponier/internal/ipsec"
	"caponier/internal/secret"
	"caponier/internal/suite"
)

// Session is what IKE_SA_INIT, or a rekeying, agreed on: the algorithms and the
// keys of an IKE SA.
type Session struct {
	Chosen     ipsec.Proposal
	PRF        suite.PRF
	Keys       IKEKeys
	Seal, Open suite.Protector // of what this side sends, and receives
	Sealed     uint64          // messages sealed so far
}

// NewSession derives the keys of an IKE SA from its SKEYSEED, which it wipes.
// initiator says whether this side is the IKE SA's initiator.
func NewSession(chosen ipsec.Proposal, prf suite.PRF, seed secret.Key, ni, nr []byte,
	spiI, spiR uint64, initiator bool,
) (*Session, error) {
	defer seed.Wipe()
	encr, integ := chosen.First(ipsec.TypeEncr), chosen.First(ipsec.TypeInteg)
	k, err := DeriveIKE(prf, seed, ni, nr, spiI, spiR, encr, integ)
	if err != nil {
		return nil, err
	}
	fromI, err := suite.NewProtector(encr, integ, k.Ei.Bytes(), k.Ai.Bytes())
	if err != nil {
		k.Wipe()
		return nil, err
	}
	fromR, err := suite.NewProtector(encr, integ, k.Er.Bytes(), k.Ar.Bytes())
	if err != nil {
		fromI.Wipe()
		k.Wipe()
		return nil, err
	}
	s := &Session{Chosen: chosen, PRF: prf, Keys: k, Seal: fromI, Open: fromR}
	if !initiator {
		s.Seal, s.Open = fromR, fromI
	}
	return s, nil
}

// ForgetAuthKeys wipes SK_p, which authenticates the set-up only.
func (s *Session) ForgetAuthKeys() {
	s.Keys.Pi.Wipe()
	s.Keys.Pr.Wipe()
}

// Wipe overwrites all keys.
func (s *Session) Wipe() {
	s.Keys.Wipe()
	s.Seal.Wipe()
	s.Open.Wipe()
}
