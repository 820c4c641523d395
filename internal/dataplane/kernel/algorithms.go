package kernel

import (
	"fmt"

	"caponier/internal/dataplane"
	"caponier/internal/dataplane/kernel/xfrm"
	"caponier/internal/ipsec"
	"caponier/internal/secret"
	"caponier/internal/suite"
)

// named is an algorithm as the kernel knows it.
type named struct {
	name string
	icv  uint32 // bits; 0 for a plain cipher
}

// ciphers and macs are the algorithms that the kernel has names for (net/xfrm/xfrm_algo.c
// of the kernel). Whether it has the algorithms is another question.
var (
	ciphers = map[uint16]named{
		ipsec.EncrDES:              {"cbc(des)", 0},
		ipsec.Encr3DES:             {"cbc(des3_ede)", 0},
		ipsec.EncrNull:             {"ecb(cipher_null)", 0},
		ipsec.EncrAESCBC:           {"cbc(aes)", 0},
		ipsec.EncrAESCTR:           {"rfc3686(ctr(aes))", 0},
		ipsec.EncrAESCCM8:          {"rfc4309(ccm(aes))", 64},
		ipsec.EncrAESCCM12:         {"rfc4309(ccm(aes))", 96},
		ipsec.EncrAESCCM16:         {"rfc4309(ccm(aes))", 128},
		ipsec.EncrAESGCM8:          {"rfc4106(gcm(aes))", 64},
		ipsec.EncrAESGCM12:         {"rfc4106(gcm(aes))", 96},
		ipsec.EncrAESGCM16:         {"rfc4106(gcm(aes))", 128},
		ipsec.EncrNullAESGMAC:      {"rfc4543(gcm(aes))", 128},
		ipsec.EncrChaCha20Poly1305: {"rfc7539esp(chacha20,poly1305)", 128},
		ipsec.EncrSM4CBC:           {"cbc(sm4)", 0}, // since Linux 5.17
	}
	macs = map[uint16]named{
		ipsec.IntegHMACMD596:     {"hmac(md5)", 96},
		ipsec.IntegHMACSHA196:    {"hmac(sha1)", 96},
		ipsec.IntegAESXCBC96:     {"xcbc(aes)", 96},
		ipsec.IntegAESCMAC96:     {"cmac(aes)", 96},
		ipsec.IntegHMACSHA256128: {"hmac(sha256)", 128},
		ipsec.IntegHMACSHA384192: {"hmac(sha384)", 192},
		ipsec.IntegHMACSHA512256: {"hmac(sha512)", 256},
		ipsec.IntegHMACSM3:       {"hmac(sm3)", 256}, // since Linux 5.17
		ipsec.IntegHMACSM3128:    {"hmac(sm3)", 128},
		ipsec.IntegHMACSM396:     {"hmac(sm3)", 96},
	}
)

// modules is what brings each algorithm to the kernel's cryptography.
var modules = map[string]string{
	"rfc4106(gcm(aes))":             "CONFIG_CRYPTO_GCM or module gcm",
	"rfc4543(gcm(aes))":             "CONFIG_CRYPTO_GCM or module gcm",
	"rfc4309(ccm(aes))":             "CONFIG_CRYPTO_CCM or module ccm",
	"rfc7539esp(chacha20,poly1305)": "CONFIG_CRYPTO_CHACHA20POLY1305 or module chacha20poly1305",
	"rfc3686(ctr(aes))":             "CONFIG_CRYPTO_CTR or module ctr",
	"cbc(aes)":                      "CONFIG_CRYPTO_AES and CONFIG_CRYPTO_CBC or module cbc",
	"cbc(des)":                      "CONFIG_CRYPTO_DES or module des_generic",
	"cbc(des3_ede)":                 "CONFIG_CRYPTO_DES or module des_generic",
	"cbc(sm4)":                      "CONFIG_CRYPTO_SM4_GENERIC or module sm4_generic, Linux 5.17 or newer",
	"ecb(cipher_null)":              "CONFIG_CRYPTO_NULL or module crypto_null",
	"hmac(md5)":                     "CONFIG_CRYPTO_MD5 or module md5",
	"hmac(sha1)":                    "CONFIG_CRYPTO_SHA1 or module sha1_generic",
	"hmac(sha256)":                  "CONFIG_CRYPTO_SHA256 or module sha256_generic",
	"hmac(sha384)":                  "CONFIG_CRYPTO_SHA512 or module sha512_generic",
	"hmac(sha512)":                  "CONFIG_CRYPTO_SHA512 or module sha512_generic",
	"hmac(sm3)":                     "CONFIG_CRYPTO_SM3_GENERIC or module sm3_generic, Linux 5.17 or newer",
	"xcbc(aes)":                     "CONFIG_CRYPTO_XCBC or module xcbc",
	"cmac(aes)":                     "CONFIG_CRYPTO_CMAC or module cmac",
}

// Names reports whether the kernel has a name for the algorithm: without one it
// cannot be asked for.
func Names(t ipsec.Transform) bool {
	switch t.Type {
	case ipsec.TypeEncr:
		_, ok := ciphers[t.ID]
		return ok
	case ipsec.TypeInteg:
		_, ok := macs[t.ID]
		return ok
	case ipsec.TypePRF, ipsec.TypeKE, ipsec.TypeESN:
		return true
	default:
		return false
	}
}

// setAlgorithms gives s the algorithms of sa. The keys are the SA's own, not
// copies.
func setAlgorithms(s *xfrm.State, sa *ipsec.SA) error {
	unnamed := func(t ipsec.Transform) error {
		return fmt.Errorf("the kernel has no name for %s: %w", suite.Name(t), dataplane.ErrTransform)
	}
	auth := func() error {
		mac, ok := macs[sa.Integ.ID]
		if !ok {
			return unnamed(sa.Integ)
		}
		s.Auth = xfrm.Algorithm{Name: mac.name, Key: sa.IntegKey, ICVBits: mac.icv}
		return nil
	}
	if sa.Protocol == ipsec.AH {
		if sa.Encr != (ipsec.Transform{}) {
			return fmt.Errorf("AH with %s: %w", suite.Name(sa.Encr), dataplane.ErrTransform)
		}
		return auth()
	}
	c, ok := ciphers[sa.Encr.ID]
	switch {
	case !ok || sa.Encr.Type != ipsec.TypeEncr:
		return unnamed(sa.Encr)
	case c.icv != 0:
		s.AEAD = xfrm.Algorithm{Name: c.name, Key: sa.EncrKey, ICVBits: c.icv}
		return nil
	default:
		s.Crypt = xfrm.Algorithm{Name: c.name, Key: sa.EncrKey}
		return auth()
	}
}

// checkKeys compares the lengths of the keys with those of the algorithms.
func checkKeys(sa *ipsec.SA) error {
	encr, integ, err := suite.KeyLengths(sa.Encr, sa.Integ)
	if err != nil {
		return fmt.Errorf("%w: %w", err, dataplane.ErrTransform)
	}
	length := func(what string, k secret.Key, want int) error {
		if k.Len() != want {
			return fmt.Errorf("%s takes %d octets of key, not %d", what, want, k.Len())
		}
		return nil
	}
	if err := length(suite.Name(sa.Encr), sa.EncrKey, encr); sa.Protocol != ipsec.AH && err != nil {
		return err
	}
	if integ == 0 {
		return nil
	}
	return length(suite.Name(sa.Integ), sa.IntegKey, integ)
}
