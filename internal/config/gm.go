package config

import (
	"crypto"
	"crypto/x509"
	"slices"
	"time"

	"caponier/internal/cert"
	"caponier/internal/ipsec"
)

// Version is the protocol that a connection negotiates by.
type Version uint8

// The versions.
const (
	VersionIKEv2 Version = iota // RFC 7296
	VersionGM                   // GM/T 0022
)

// Protocol returns the name of the protocol.
func (v Version) Protocol() string {
	if v == VersionGM {
		return "GM/T 0022"
	}
	return "IKEv2"
}

// The longest lifetimes with GM/T 0022, of the IKE SA and of what it protects.
const (
	maxGMLifetime   = 24 * time.Hour
	maxGMTunnelTime = time.Hour
)

// GM is the section gm of a connection: how this end writes what devices read in
// several ways. What peers write is understood in each of them.
type GM struct {
	ISAKMP     ISAKMPVersion
	QuickHash  QuickHash
	Envelope   EnvelopeForm
	Signature  SignatureForm
	PreHash    PreHash
	SignedCert SignedCert
	IKESM4     uint16 // the number of SM4-CBC in phase 1
	ESPSM4     uint8  // the same in phase 2
	KeyLength  bool
	IDFrom     IDFrom
	NATHash    NATHash
	SignerID   string // of signatures with SM2, ours and the peer's; empty: the standard's
}

// The settings of GM, each with the one of the standard first.
type (
	ISAKMPVersion uint8 // the version octet of the header
	QuickHash     uint8 // what the hashes of quick mode cover
	EnvelopeForm  uint8 // how the ciphertext of the digital envelope is written
	SignatureForm uint8 // how signatures are written
	PreHash       uint8 // what a signature is over
	SignedCert    uint8 // in which form the signature covers the certificate
	IDFrom        uint8 // the certificate whose subject is the identity
	NATHash       uint8 // the hash of NAT detection
)

var (
	isakmpWords     = wordList{[]string{"1.1", "1.0"}, nil}
	quickHashWords  = wordList{[]string{"standard", "bodies", "rfc"}, nil}
	envelopeWords   = wordList{[]string{"der", "c1c3c2", "c1c2c3"}, nil}
	sm2FormWords    = wordList{[]string{"der", "raw"}, nil}
	preHashWords    = wordList{[]string{"none", "bare", "message"}, nil}
	signedCertWords = wordList{[]string{"payload", "der"}, nil}
	idFromWords     = wordList{[]string{"encryption", "signature"}, nil}
	natHashWords    = wordList{[]string{"negotiated", "sha1", "md5", "sha256"}, nil}
	noYesWords      = wordList{[]string{"no", "yes"}, nil}
)

// gmWord is a key whose value is one of the words.
func gmWord[T ~uint8](name string, words wordList, field func(*GM) *T) key[GM] {
	return key[GM]{
		name: name, kind: words.String(), implied: words.words[0], effect: EffectReconnect,
		set: func(d *decoder, v *GM, n *node, _ string) { word(d, field(v), n, words) },
		get: func(v *GM) any { return *field(v) },
	}
}

var gmKeys = []key[GM]{
	gmWord("isakmp-version", isakmpWords, func(v *GM) *ISAKMPVersion { return &v.ISAKMP }),
	gmWord("quick-mode-hash", quickHashWords, func(v *GM) *QuickHash { return &v.QuickHash }),
	gmWord("envelope", envelopeWords, func(v *GM) *EnvelopeForm { return &v.Envelope }),
	gmWord("signature", sm2FormWords, func(v *GM) *SignatureForm { return &v.Signature }),
	gmWord("pre-hash", preHashWords, func(v *GM) *PreHash { return &v.PreHash }),
	gmWord("signed-certificate", signedCertWords, func(v *GM) *SignedCert { return &v.SignedCert }),
	{
		name: "ike-sm4-id", kind: "127 | 129", implied: "129", effect: EffectReconnect,
		set: func(d *decoder, v *GM, n *node, _ string) { sm4ID(d, &v.IKESM4, n) },
		get: func(v *GM) any { return v.IKESM4 },
	},
	{
		name: "esp-sm4-id", kind: "127 | 129", implied: "127", effect: EffectReconnect,
		set: func(d *decoder, v *GM, n *node, _ string) { sm4ID(d, &v.ESPSM4, n) },
		get: func(v *GM) any { return v.ESPSM4 },
	},
	{
		name: "key-length", kind: noYesWords.String(), implied: "no", effect: EffectReconnect,
		set: func(d *decoder, v *GM, n *node, _ string) {
			var i uint8
			word(d, &i, n, noYesWords)
			v.KeyLength = i == 1
		},
		get: func(v *GM) any { return v.KeyLength },
	},
	gmWord("id-from", idFromWords, func(v *GM) *IDFrom { return &v.IDFrom }),
	{
		name: "signer-id", kind: "text", implied: "1234567812345678", effect: EffectReconnect,
		set: func(d *decoder, v *GM, n *node, _ string) {
			if text, ok := d.scalar(n); ok && len(text) > maxSignerID {
				d.errorf(n, "the identifier has %d octets, more than %d", len(text), maxSignerID)
			} else {
				v.SignerID = text
			}
		},
		get: func(v *GM) any { return v.SignerID },
	},
	gmWord("nat-hash", natHashWords, func(v *GM) *NATHash { return &v.NATHash }),
}

// maxSignerID is the longest identifier of a signer whose length in bits fits its
// two octets (GM/T 0009).
const maxSignerID = 8191

// sm4ID reads one of the two numbers that SM4-CBC has been given.
func sm4ID[T ~uint8 | ~uint16](d *decoder, v *T, n *node) {
	text, ok := d.scalar(n)
	switch {
	case !ok:
	case text == "127":
		*v = 127
	case text == "129":
		*v = 129
	default:
		d.errorf(n, "%q is neither 127 nor 129", text)
	}
}

// validateGM checks what GM/T 0022 asks for, and what it knows not of.
func (d *decoder) validateGM(c *Connection, path string) {
	local, remote := path+".local", path+".remote"
	if c.Version != VersionGM {
		for _, k := range []string{path + ".gm", local + ".sign-cert", local + ".sign-key", local + ".encrypt-cert", local + ".encrypt-key"} {
			if d.set(k) {
				d.errorf(d.keys[k], "this has a meaning with version: gm only")
			}
		}
		return
	}
	if c.GM == nil {
		c.GM = new(GM)
	}
	for _, k := range []string{path + ".proposals", path + ".fragment-size", local + ".cert", local + ".key", local + ".signature", remote + ".sha1"} {
		if d.set(k) {
			d.errorf(d.keys[k], "this has no meaning with version: gm")
		}
	}
	for _, end := range []struct {
		path  string
		party *Party
	}{{local, &c.Local}, {remote, &c.Remote}} {
		if end.party.Auth != AuthCert {
			d.errorf(d.at(end.path+".auth"), "with version: gm both ends prove themselves by certificates")
		}
	}
	for _, k := range []string{"sign-cert", "sign-key", "encrypt-cert", "encrypt-key"} {
		if !d.set(local + "." + k) {
			d.errorf(d.section(local), "%s is missing: version gm needs a pair for signatures and one for encryption", k)
		}
	}
	if !d.set(remote+".ca") && !d.failed(remote+".ca") {
		d.errorf(d.section(remote), "ca is missing: it has to have issued both certificates of the peer")
	}
	if c.Lifetime > maxGMLifetime {
		d.errorf(d.at(path+".lifetime"), "with version: gm an IKE SA lives for %s at most", FormatDuration(maxGMLifetime))
	}
	c.Proposals = []ipsec.Proposal{{
		{Type: ipsec.TypeEncr, ID: ipsec.EncrSM4CBC}, {Type: ipsec.TypePRF, ID: ipsec.PRFHMACSM3}, {Type: ipsec.TypeInteg, ID: ipsec.IntegHMACSM3},
	}}
}

// gmDefault is what an SA has with GM/T 0022 where nothing is said: what all its
// editions know.
func gmDefault(p ipsec.Protocol) []ipsec.Proposal {
	out := ipsec.Proposal{{Type: ipsec.TypeInteg, ID: ipsec.IntegHMACSM3}, {Type: ipsec.TypeESN, ID: ipsec.ESNNo}}
	if p == ipsec.ESP {
		out = append(ipsec.Proposal{{Type: ipsec.TypeEncr, ID: ipsec.EncrSM4CBC}}, out...)
	}
	return []ipsec.Proposal{out}
}

// gmTransforms are what ESP may have with GM/T 0022.
var gmTransforms = []ipsec.Transform{
	{Type: ipsec.TypeEncr, ID: ipsec.EncrSM4CBC},
	{Type: ipsec.TypeEncr, ID: ipsec.EncrSM4GCM16},
	{Type: ipsec.TypeInteg, ID: ipsec.IntegHMACSM3},
	{Type: ipsec.TypeInteg, ID: ipsec.IntegHMACSM3128},
	{Type: ipsec.TypeInteg, ID: ipsec.IntegHMACSM396},
	{Type: ipsec.TypeESN},
}

// validateGMTunnel is validateGM for one tunnel.
func (d *decoder) validateGMTunnel(t *Tunnel, path string) {
	if t.Lifetime.Time > maxGMTunnelTime {
		d.errorf(d.at(path+".lifetime"), "with version: gm an SA lives for %s at most", FormatDuration(maxGMTunnelTime))
	}
	for _, p := range t.Proposals {
		if slices.ContainsFunc(p, func(x ipsec.Transform) bool { return !slices.Contains(gmTransforms, x) }) {
			d.errorf(d.at(path+".proposals"), "version gm has sm4cbc-sm3 (sm3_128 and sm3_96 where the peer cuts the ICV) and sm4gcm16")
			return
		}
	}
}

// checkGMFiles reads the two pairs of the local end.
func (d *decoder) checkGMFiles(c *Connection, path string, checks *Checks) {
	sign := d.pair(c.Local.SignCert, c.Local.SignKey, path+".local.sign-cert", path+".local.sign-key", checks)
	encrypt := d.pair(c.Local.EncryptCert, c.Local.EncryptKey, path+".local.encrypt-cert", path+".local.encrypt-key", checks)
	if sign == nil || encrypt == nil {
		return
	}
	const signs = x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment
	const encrypts = x509.KeyUsageKeyEncipherment | x509.KeyUsageDataEncipherment | x509.KeyUsageKeyAgreement
	switch {
	case sign.KeyUsage&signs == 0:
		d.errorf(d.at(path+".local.sign-cert"), "the key usage of the certificate does not allow signatures")
	case encrypt.KeyUsage&encrypts == 0:
		d.errorf(d.at(path+".local.encrypt-cert"), "the key usage of the certificate does not allow encryption")
	case sign.Subject.String() != encrypt.Subject.String():
		d.warnf(d.at(path+".local.encrypt-cert"), "the two certificates are of different subjects, which a peer may refuse")
	}
}

// pair reads a certificate of SM2 and its key.
func (d *decoder) pair(certFile, keyFile *File, certPath, keyPath string, checks *Checks) *x509.Certificate {
	c := d.certificate(certFile, certPath, checks)
	key := d.privateKey(keyFile, keyPath)
	if c == nil || key == nil {
		return nil
	}
	if !cert.IsSM2(c.PublicKey) {
		d.errorf(d.at(certPath), "the key of the certificate is not one of SM2")
		return nil
	}
	d.belongs(key, c, keyPath)
	return c
}

// belongs reports a key that is another than the certificate's.
func (d *decoder) belongs(key crypto.Signer, c *x509.Certificate, path string) {
	own, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !own.Equal(c.PublicKey) {
		d.errorf(d.at(path), "the key is not that of the certificate")
	}
}
