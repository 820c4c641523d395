package conf

import (
	"fmt"

	"caponier/internal/cert"
	"caponier/internal/ike/keys"
	"caponier/internal/ike/message"
	"caponier/internal/ike/v2/rules"
	"caponier/internal/ipsec"
	"caponier/internal/suite"
)

// GM is what a connection by GM/T 0022 needs beside the rest. Where devices read
// the standard differently, or follow another edition, a field says how this side
// writes; the zero value is what the standard says, and what peers write is
// understood in every form that can be told apart. A responder writes as its peer
// does.
type GM struct {
	// SignCertificate and EncryptCertificate are this side's, DER.
	SignCertificate, EncryptCertificate []byte

	Version10   bool              // version octet 0x10 in the header, of the edition of 2010, and not 0x11
	QuickHash   keys.QuickForm    // what HASH_1 and HASH_2 cover
	Envelope    suite.SM2Encoding // of the ciphertext in SK
	Signature   suite.SM2Style
	BareCert    bool            // the signature covers the certificate without its encoding octet
	IKESM4      uint16          // SM4 in an IKE SA; 0: 129
	ESPSM4      uint8           // SM4-CBC in ESP; 0: 127
	KeyLength   bool            // send Key-Length attributes
	IDSignature bool            // the identity is the subject of the signature certificate, not of the other
	NATHash     ipsec.Transform // the PRF whose hash NAT-D has; zero: the negotiated one
}

// Identity returns the subject of the certificate that stands for this side.
func (g *GM) Identity() (rules.Identity, error) {
	der := g.EncryptCertificate
	if g.IDSignature {
		der = g.SignCertificate
	}
	c, err := cert.Parse(der)
	if err != nil {
		return rules.Identity{}, fmt.Errorf("own certificate: %w", err)
	}
	return rules.Identity{Kind: message.IDDERASN1DN, Data: string(c.RawSubject)}, nil
}
