package keys

import (
	"caponier/internal/ipsec"
	"caponier/internal/secret"
	"caponier/internal/suite"
)

// Session is what IKE_SA_INIT, or a rekeying, agreed on: the algorithms and the
// keys of an IKE SA.
type Session struct {
	Chosen ipsec.Proposal
	PRF    suite.PRF
	Keys   IKEKeys
	Sealed uint64 // messages sealed so far

	initiator bool
	// What protects messages, or nil: expanded keys are large, and an IKE SA is
	// silent most of the time.
	seal, open suite.Protector
}

// NewSession derives the keys of an IKE SA from its SKEYSEED, which it wipes.
// initiator says whether this side is the IKE SA's initiator.
func NewSession(chosen ipsec.Proposal, prf suite.PRF, seed secret.Key, ni, nr []byte,
	spiI, spiR uint64, initiator bool,
) (*Session, error) {
	defer seed.Wipe()
	k, err := DeriveIKE(prf, seed, ni, nr, spiI, spiR, chosen.First(ipsec.TypeEncr), chosen.First(ipsec.TypeInteg))
	if err != nil {
		return nil, err
	}
	s := &Session{Chosen: chosen, PRF: prf, Keys: k, initiator: initiator}
	if s.seal, err = s.protector(initiator); err != nil {
		k.Wipe()
		return nil, err
	}
	return s, nil
}

// protector makes what protects the messages of the IKE SA's initiator, or those
// to it.
func (s *Session) protector(fromInitiator bool) (suite.Protector, error) {
	encr, integ := s.Keys.Er, s.Keys.Ar
	if fromInitiator {
		encr, integ = s.Keys.Ei, s.Keys.Ai
	}
	return suite.NewProtector(s.Chosen.First(ipsec.TypeEncr), s.Chosen.First(ipsec.TypeInteg), encr.Bytes(), integ.Bytes())
}

// Seal returns what seals the messages that this side sends.
func (s *Session) Seal() suite.Protector { return s.awake(&s.seal, s.initiator) }

// Open returns what opens the messages that this side receives.
func (s *Session) Open() suite.Protector { return s.awake(&s.open, !s.initiator) }

func (s *Session) awake(p *suite.Protector, fromInitiator bool) suite.Protector {
	if *p == nil {
		var err error
		if *p, err = s.protector(fromInitiator); err != nil {
			panic(err) // cannot be: NewSession has made one with keys of these lengths
		}
	}
	return *p
}

// Rest gives up what Seal and Open returned, until they are called again.
func (s *Session) Rest() {
	for _, p := range []*suite.Protector{&s.seal, &s.open} {
		if *p != nil {
			(*p).Wipe()
			*p = nil
		}
	}
}

// ForgetAuthKeys wipes SK_p, which authenticates the set-up only.
func (s *Session) ForgetAuthKeys() {
	s.Keys.Pi.Wipe()
	s.Keys.Pr.Wipe()
	s.Keys.Pi, s.Keys.Pr = secret.Key{}, secret.Key{}
}

// Wipe overwrites all keys.
func (s *Session) Wipe() {
	s.Keys.Wipe()
	s.Rest()
}
