package suite

import (
	"caponier/internal/ipsec"
	"caponier/internal/sm"
)

// sm4 is the block cipher SM4 (GB/T 32907-2016) in GCM, with the layout of RFC
// 4106, and in CBC, with that of RFC 3602. The vectors are Appendix A.1 of RFC
// 8998, and example 1 of GB/T 32907-2016, Appendix A, which is the first block
// of CBC under an IV of zeros.
var sm4 = []entry{
	{
		transform: ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrSM4GCM16},
		words:     []string{"sm4gcm16", "sm4gcm128"},
		encr:      &encryption{keyLen: sm.KeySize + gcmSaltLen, combined: newSM4GCM},
		check: sealAnswer(sm4Key+"00001234", "567800000000abcd",
			"aaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbccccccccccccccccddddddddddddddddeeeeeeeeeeeeeeeeffffffffffffffff"+
				"eeeeeeeeeeeeeeeeaaaaaaaaaaaaaaaa",
			"feedfacedeadbeeffeedfacedeadbeefabaddad2",
			"17f399f08c67d5ee19d0dc9969c4bb7d5fd46fd3756489069157b282bb200735d82710ca5c22f0ccfa7cbf93d496ac15"+
				"a56834cbcf98c397b4024a2691233b8d83de3541e4c2b58177e065a9bf7b62ec"),
	},
	{
		transform: ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrSM4CBC},
		words:     []string{"sm4cbc", "sm4"},
		encr:      &encryption{keyLen: sm.KeySize, cipher: newSM4CBC},
		check:     cipherAnswer(sm4Key, "00000000000000000000000000000000", sm4Key, "681edf34d206965e86b3e94f536e4246"),
	},
}

// sm4Key is the key of the vectors, and the plaintext of the second.
const sm4Key = "0123456789abcdeffedcba9876543210"

func newSM4GCM(key []byte) (Protector, error) {
	gcm, err := sm.NewGCM(key[:sm.KeySize])
	if err != nil {
		return nil, err
	}
	return &sm4Batch{combined: newCombined(sm4GCM{gcm}, key[sm.KeySize:]), gcm: gcm}, nil
}

type sm4GCM struct{ *sm.GCM }

func (g sm4GCM) wipe() { g.Wipe() }

// sm4CBC is a cipherMode.
type sm4CBC struct {
	ivGenerator
	encrypter *sm.CBCEncrypter
	decrypter *sm.CBCDecrypter
}

func newSM4CBC(key []byte) (cipherMode, error) {
	encrypter, err := sm.NewCBCEncrypter(key)
	if err != nil {
		return nil, err
	}
	decrypter, err := sm.NewCBCDecrypter(key)
	if err != nil {
		return nil, err
	}
	gen, err := newIVGenerator(key)
	if err != nil {
		return nil, err
	}
	return &sm4CBC{ivGenerator: gen, encrypter: encrypter, decrypter: decrypter}, nil
}

func (*sm4CBC) IVLen() int     { return sm.BlockSize }
func (*sm4CBC) BlockSize() int { return sm.BlockSize }

func (c *sm4CBC) encrypt(dst, iv, src []byte) { c.encrypter.Encrypt(dst, iv, src) }
func (c *sm4CBC) decrypt(dst, iv, src []byte) { c.decrypter.Decrypt(dst, iv, src) }

func (c *sm4CBC) wipe() {
	c.encrypter.Wipe()
	c.decrypter.Wipe()
	*c = sm4CBC{}
}
