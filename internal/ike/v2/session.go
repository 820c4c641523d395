package v2

import (
	"caponier/internal/ike/keys"
	"caponier/internal/ike/message"
	"caponier/internal/ipsec"
	"caponier/internal/secret"
	"caponier/internal/suite"
)

// session is what IKE_SA_INIT, or a rekeying, agreed on: the algorithms and the
// keys of an IKE SA.
type session struct {
	chosen     ipsec.Proposal
	prf        suite.PRF
	keys       keys.IKEKeys
	seal, open suite.Protector
	sealed     uint64 // messages sealed so far
}

// newSession derives the keys of an IKE SA from its SKEYSEED, which it wipes.
// initiator says whether this side is the IKE SA's initiator.
func newSession(chosen ipsec.Proposal, prf suite.PRF, seed secret.Key, ni, nr []byte,
	spiI, spiR message.SPI, initiator bool,
) (*session, error) {
	defer seed.Wipe()
	encr, integ := chosen.First(ipsec.TypeEncr), chosen.First(ipsec.TypeInteg)
	k, err := keys.DeriveIKE(prf, seed, ni, nr, uint64(spiI), uint64(spiR), encr, integ)
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
	s := &session{chosen: chosen, prf: prf, keys: k, seal: fromI, open: fromR}
	if !initiator {
		s.seal, s.open = fromR, fromI
	}
	return s, nil
}

// forgetAuthKeys wipes SK_p, which authenticates the set-up only.
func (s *session) forgetAuthKeys() {
	s.keys.Pi.Wipe()
	s.keys.Pr.Wipe()
}

func (s *session) wipe() {
	s.keys.Wipe()
	s.seal.Wipe()
	s.open.Wipe()
}
