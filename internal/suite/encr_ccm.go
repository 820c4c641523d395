package suite

import (
	"crypto/aes"
	"crypto/hmac"
	"encoding/binary"
	"slices"

	"caponier/internal/buffer"
	"caponier/internal/ipsec"
	"caponier/internal/suite/cbcmac"
)

// aesCCM is AES-CCM, for ESP (RFC 4309) and IKEv2 (RFC 5282).
var aesCCM = slices.Concat(
	ccmEntries(ipsec.EncrAESCCM16, 16), ccmEntries(ipsec.EncrAESCCM12, 12), ccmEntries(ipsec.EncrAESCCM8, 8))

const (
	ccmSaltLen  = 3 // RFC 4309, Section 4
	ccmNonceLen = ccmSaltLen + explicitIVLen
)

// ccmAnswers are, by key length in bits, the ciphertexts that OpenSSL gives for
// the input of gcmAnswers with the first three octets of the salt, and
// ccmICVs its ICVs, by their own length too. Published vectors are for nonces of
// other lengths.
var (
	ccmAnswers = map[int]string{
		256: "fedc90eba701f81259fea2fdb744785a8555bf9adcab369f8b627045c6c50b83f791094d8c83f9d345ad85ddbd73c33f" +
			"cac317a6ee34b1ca66dd96c6",
		192: "991327dc0e7fc3e14d032c28db9ad0ef66b0981166c87559ca0f0e686370b66f2bf377709b5404a962a9271a73647fbd" +
			"4229e922c754b1094adaf3c4",
		128: "d7f3427bf5d9f52dc06eced7d7235a8e10c87adaa521af40db17a549bc463aeb4d610135b2b6ee7ec399ef4b5db2ddb8" +
			"0ff560cac8b1b8a8d1016450",
	}
	ccmICVs = map[int]map[int]string{
		256: {16: "31141d1b0f68b4c7983af08b814a8d48", 12: "84678e501566f97baabea509", 8: "a1fa73fcc7b72bea"},
		192: {16: "e0c4cce4b4207d281592c6ae670d6b06", 12: "a3b1be085650475fe2c66b74", 8: "0fbd4a6818d60d0f"},
		128: {16: "d68eb030ba4eec68fb74bfde8180df72", 12: "7eaa1505f88a0c6827061f85", 8: "5faf0ce8ec3e810c"},
	}
)

func ccmEntries(id uint16, icvLen int) []entry {
	var out []entry
	for _, bits := range keyLengths {
		out = append(out, entry{
			transform: ipsec.Transform{Type: ipsec.TypeEncr, ID: id, KeyBits: uint16(bits)},
			words:     icvWords(bits, "ccm", icvLen),
			weak:      weakness(icvLen),
			encr:      &encryption{keyLen: bits/8 + ccmSaltLen, combined: newCCM(icvLen)},
			check: sealAnswer(gcmKey[:bits/4]+gcmSalt[:2*ccmSaltLen], gcmIV, gcmPlain, gcmAAD,
				ccmAnswers[bits]+ccmICVs[bits][icvLen]),
		})
	}
	return out
}

// ccm is AES-CCM (NIST SP 800-38C) with the nonce of RFC 4309, which leaves 4
// octets for the length and for the count of blocks.
type ccm struct {
	stream keyStream
	mac    *cbcmac.Chain
	icvLen int
	head   [aes.BlockSize]byte
	tag    [aes.BlockSize]byte
}

func newCCM(icvLen int) func(key []byte) (Protector, error) {
	return func(key []byte) (Protector, error) {
		stream, err := newKeyStream(key[:len(key)-ccmSaltLen])
		if err != nil {
			return nil, err
		}
		mac, err := cbcmac.New(stream.block)
		if err != nil {
			return nil, err
		}
		return newCombined(&ccm{stream: stream, mac: mac, icvLen: icvLen}, key[len(key)-ccmSaltLen:]), nil
	}
}

func (*ccm) NonceSize() int  { return ccmNonceLen }
func (c *ccm) Overhead() int { return c.icvLen }

func (c *ccm) Seal(dst, nonce, plaintext, aad []byte) []byte {
	all, out := buffer.Extend(dst, len(plaintext)+c.icvLen)
	c.start(nonce)
	tag := c.icv(nonce, plaintext, aad)
	c.stream.xor(out, plaintext)
	copy(out[len(plaintext):], tag)
	return all
}

// Open decrypts first, because the ICV covers the plaintext, and clears that
// where the ICV is wrong.
func (c *ccm) Open(dst, nonce, sealed, aad []byte) ([]byte, error) {
	n := len(sealed) - c.icvLen
	all, out := buffer.Extend(dst, n)
	c.start(nonce)
	c.stream.xor(out, sealed[:n])
	if !hmac.Equal(c.icv(nonce, out, aad), sealed[n:]) {
		clear(out)
		return nil, ErrAuth
	}
	return all, nil
}

// start sets the counter block: the length of the count less one, the nonce, the
// count (SP 800-38C, Appendix A.3).
func (c *ccm) start(nonce []byte) {
	c.stream.counter[0] = aes.BlockSize - 1 - ccmNonceLen - 1
	copy(c.stream.counter[1:], nonce)
}

// icv returns the ICV in scratch space, valid until the next call (SP 800-38C,
// Section 6.1 and Appendix A.2). start comes before it.
func (c *ccm) icv(nonce, plaintext, aad []byte) []byte {
	const flagAAD, shiftICV = 1 << 6, 3
	c.mac.Reset()
	c.head[0] = c.stream.counter[0] | byte((c.icvLen-2)/2)<<shiftICV
	if len(aad) > 0 {
		c.head[0] |= flagAAD
	}
	copy(c.head[1:], nonce)
	binary.BigEndian.PutUint32(c.head[1+ccmNonceLen:], uint32(len(plaintext)))
	c.mac.Write(c.head[:])
	if len(aad) > 0 {
		c.mac.Write(c.lengthOf(aad))
		c.mac.Write(aad)
		c.mac.Pad()
	}
	c.mac.Write(plaintext)
	c.mac.Pad()
	c.mac.Finish(&c.tag)
	c.stream.xorBlock(c.tag[:], c.tag[:], 0)
	return c.tag[:c.icvLen]
}

// lengthOf encodes the length of aad in head.
func (c *ccm) lengthOf(aad []byte) []byte {
	if len(aad) < 0xff00 {
		return binary.BigEndian.AppendUint16(c.head[:0], uint16(len(aad)))
	}
	return binary.BigEndian.AppendUint32(append(c.head[:0], 0xff, 0xfe), uint32(len(aad)))
}

func (c *ccm) wipe() {
	c.mac.Wipe()
	*c = ccm{}
}
