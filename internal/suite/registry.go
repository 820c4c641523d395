package suite

import (
	"errors"
	"fmt"
	"hash"
	"slices"

	"caponier/internal/ipsec"
	"caponier/internal/lanes"
	"caponier/internal/sm"
)

// entry registers one transform. Exactly one of encr, integ, prf and ke is set;
// none for transforms that are a choice and not an algorithm.
type entry struct {
	transform ipsec.Transform
	// words are what operators write; the first is what Name prints.
	words []string
	// weak is why operators should look for another algorithm; empty for most.
	weak string
	// check runs the known-answer test.
	check func(*entry) error

	encr  *encryption
	integ *integrity
	prf   PRF
	ke    KeyExchange
}

// encryption is an encryption algorithm. Either combined or cipher is set.
type encryption struct {
	keyLen   int  // octets of key material, with salt
	espOnly  bool // without encryption, and so not for IKE
	combined func(key []byte) (Protector, error)
	cipher   func(key []byte) (cipherMode, error)
}

// integrity is an integrity algorithm.
type integrity struct {
	keyLen, icvLen int
	mac            func(key []byte) (hash.Hash, error)
	prf            ipsec.Transform // what the word implies in an IKE proposal without a PRF
}

// registry is every transform. The next algorithm is one line in the table of
// its family.
var registry = slices.Concat(
	aesGCM, chacha, aesCCM, aesCTR, aesCBC, sm4, desCBC, aesGMAC, null,
	hmacIntegrity, aesIntegrity, sm3Integrity,
	hmacPRF, aesPRF, sm3PRF,
	montgomeryGroups, nistGroups, x448Group, modpGroups,
	esn,
)

// esn are the choices of RFC 4303, Section 2.2.1.
var esn = []entry{
	{transform: ipsec.Transform{Type: ipsec.TypeESN, ID: ipsec.ESNNo}, words: []string{"noesn"}},
	{transform: ipsec.Transform{Type: ipsec.TypeESN, ID: ipsec.ESNYes}, words: []string{"esn"}},
}

func lookup(t ipsec.Transform) *entry {
	for i := range registry {
		if registry[i].transform == t {
			return &registry[i]
		}
	}
	return nil
}

func lookupEncr(t ipsec.Transform) (*encryption, error) {
	if e := lookup(t); e != nil && e.encr != nil {
		return e.encr, nil
	}
	return nil, fmt.Errorf("encryption algorithm %s: %w", Name(t), ErrUnknown)
}

// lookupInteg returns nil for a combined-mode encr, which must stand alone.
func lookupInteg(encr *encryption, t ipsec.Transform) (*integrity, error) {
	none := t == ipsec.Transform{} || t == ipsec.Transform{Type: ipsec.TypeInteg, ID: ipsec.IntegNone}
	if encr.combined != nil {
		if !none {
			return nil, fmt.Errorf("integrity algorithm %s beside a combined-mode cipher: %w", Name(t), ErrUnknown)
		}
		return nil, nil
	}
	if none {
		return nil, fmt.Errorf("no integrity algorithm beside a plain cipher: %w", ErrUnknown)
	}
	return lookupMAC(t)
}

func lookupMAC(t ipsec.Transform) (*integrity, error) {
	if e := lookup(t); e != nil && e.integ != nil {
		return e.integ, nil
	}
	return nil, fmt.Errorf("integrity algorithm %s: %w", Name(t), ErrUnknown)
}

// Supported reports whether t is registered.
func Supported(t ipsec.Transform) bool { return lookup(t) != nil }

// Weak reports whether t is for peers that know nothing better, and why. Such
// a transform is in no default proposal.
func Weak(t ipsec.Transform) (why string, weak bool) {
	e := lookup(t)
	if e == nil {
		return "", false
	}
	return e.weak, e.weak != ""
}

// WeakWord is Weak for the transform that a word of a proposal stands for.
func WeakWord(word string) (why string, weak bool) {
	e, err := parseWord(word)
	if err != nil {
		return "", false
	}
	return e.weak, e.weak != ""
}

// KeyLengths returns the octets of key material that encr and integ take from
// KEYMAT (RFC 7296, Section 2.17). For the algorithms that have one,
// encrOctets includes the salt (RFC 4106, Section 8.1). integ is the zero
// Transform, or IntegNone, beside a combined-mode algorithm. encr is the zero
// Transform for AH.
func KeyLengths(encr, integ ipsec.Transform) (encrOctets, integOctets int, err error) {
	if encr == (ipsec.Transform{}) {
		i, err := lookupMAC(integ)
		if err != nil {
			return 0, 0, err
		}
		return 0, i.keyLen, nil
	}
	e, err := lookupEncr(encr)
	if err != nil {
		return 0, 0, err
	}
	i, err := lookupInteg(e, integ)
	if err != nil {
		return 0, 0, err
	}
	if i == nil {
		return e.keyLen, 0, nil
	}
	return e.keyLen, i.keyLen, nil
}

// NewProtector makes the Protector of encr and integ from keys of exactly the
// lengths that KeyLengths tells. It keeps nothing of the slices. integ is the
// zero Transform, or IntegNone, beside a combined-mode algorithm.
func NewProtector(encr, integ ipsec.Transform, encrKey, integKey []byte) (Protector, error) {
	encrLen, integLen, err := KeyLengths(encr, integ)
	if err != nil {
		return nil, err
	}
	if len(encrKey) != encrLen {
		return nil, fmt.Errorf("%s takes %d octets of key, not %d: %w", Name(encr), encrLen, len(encrKey), ErrKeyLength)
	}
	if len(integKey) != integLen {
		return nil, fmt.Errorf("integrity beside %s takes %d octets of key, not %d: %w",
			Name(encr), integLen, len(integKey), ErrKeyLength)
	}
	e, err := lookupEncr(encr)
	if err != nil {
		return nil, err
	}
	if e.combined != nil {
		return e.combined(encrKey)
	}
	mode, err := e.cipher(encrKey)
	if err != nil {
		return nil, err
	}
	i := lookup(integ).integ
	mac, err := i.mac(integKey)
	if err != nil {
		return nil, err
	}
	return sideBySide(&composed{cipherMode: mode, mac: mac, icvLen: i.icvLen}), nil
}

// NewPRF returns the pseudorandom function t. It has no state: it may be used
// by several goroutines.
func NewPRF(t ipsec.Transform) (PRF, error) {
	if e := lookup(t); e != nil && e.prf != nil {
		return e.prf, nil
	}
	return nil, fmt.Errorf("pseudorandom function %s: %w", Name(t), ErrUnknown)
}

// NewKeyExchange returns the key exchange method t. It has no state: it may be
// used by several goroutines.
func NewKeyExchange(t ipsec.Transform) (KeyExchange, error) {
	if e := lookup(t); e != nil && e.ke != nil {
		return e.ke, nil
	}
	return nil, fmt.Errorf("key exchange method %s: %w", Name(t), ErrUnknown)
}

// SelfTest runs the known-answer test of every registered algorithm, and of SM2.
func SelfTest() error {
	var errs []error
	for i := range registry {
		e := &registry[i]
		if e.check == nil {
			continue
		}
		if err := e.check(e); err != nil {
			errs = append(errs, fmt.Errorf("self-test of %s: %w", e.words[0], err))
		}
	}
	if err := checkSM2(); err != nil {
		errs = append(errs, fmt.Errorf("self-test of %w", err))
	}
	return errors.Join(errs...)
}

// KernelSelfTest names in its error the fast implementations that this machine has
// the instructions for and that give wrong answers. They are not used; what is
// slower takes their place.
func KernelSelfTest() error { return errors.Join(sm.SelfTest(), lanes.SelfTest()) }
