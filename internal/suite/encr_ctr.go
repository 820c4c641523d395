package suite

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
	"fmt"

	"caponier/internal/ipsec"
)

// ctrNonceLen is the length of the nonce at the end of the key material (RFC
// 3686, Section 5.1).
const ctrNonceLen = 4

// ctrAnswers are test vectors 9, 6 and 3 of RFC 3686, Section 6: key and nonce,
// IV, ciphertext of the octets 0, 1, 2 ... 35.
var ctrAnswers = map[int][3]string{
	256: {
		"ff7a617ce69148e4f1726e2f43581de2aa62d9f805532edff1eed687fb54153d001cc5b7", "51a51d70a1c11148",
		"eb6c52821d0bbbf7ce7594462aca4faab407df866569fd07f48cc0b583d6071f1ec0e6b8",
	},
	192: {"02bf391ee8ecb159b959617b0965279bf59b60a786d3e0fe0007bdfd", "5cbd60278dcc0912", "96893fc55e5c722f540b7dd1ddf7e758d288bc95c69165884536c811662f2188abee0935"},
	128: {
		"7691be035e5020a8ac6e618529f9a0dc00e0017b", "27777f3f4a1786f0",
		"c1cf48a89f2ffdd9cf4652e9efdb72d74540a42bde6d7836d59a5ceaaef3105325b2072f",
	},
}

// ctrPlain is the plaintext of ctrAnswers.
const ctrPlain = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223"

// aesCTR is AES-CTR, for ESP (RFC 3686) and IKEv2 (RFC 5930).
var aesCTR = ctrEntries()

func ctrEntries() []entry {
	var out []entry
	for _, bits := range keyLengths {
		answer := ctrAnswers[bits]
		out = append(out, entry{
			transform: ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrAESCTR, KeyBits: uint16(bits)},
			words:     []string{fmt.Sprintf("aes%dctr", bits)},
			encr:      &encryption{keyLen: bits/8 + ctrNonceLen, cipher: newCTR},
			check:     cipherAnswer(answer[0], answer[1], ctrPlain, answer[2]),
		})
	}
	return out
}

// ctr is a cipherMode. The counter block is the nonce, the IV, and the count
// (RFC 3686, Section 4).
type ctr struct{ keyStream }

func newCTR(key []byte) (cipherMode, error) {
	stream, err := newKeyStream(key[:len(key)-ctrNonceLen])
	if err != nil {
		return nil, err
	}
	copy(stream.counter[:], key[len(key)-ctrNonceLen:])
	return &ctr{stream}, nil
}

func (*ctr) IVLen() int     { return explicitIVLen }
func (*ctr) BlockSize() int { return 1 }

func (*ctr) NextIV(iv []byte, seq uint64) { binary.BigEndian.PutUint64(iv, seq) }

func (c *ctr) encrypt(dst, iv, src []byte) {
	if len(iv) != explicitIVLen {
		panic("suite: AES-CTR takes an IV of 8 octets")
	}
	copy(c.counter[ctrNonceLen:], iv)
	c.xor(dst, src)
}

func (c *ctr) decrypt(dst, iv, src []byte) { c.encrypt(dst, iv, src) }

// keyStream is AES in counter mode, for AES-CTR and AES-CCM: 12 octets that the
// owner sets for each packet, and the count of blocks in 4.
//
// crypto/cipher has no counter mode that could be given another IV: it would
// have to be allocated for each packet. AES-GCM has, with the count beginning at
// 2. So the first block and the last ones are made here, one by one, and those
// between by AES-GCM, whose tag is overwritten and leaves no trace. That is
// five times as fast as all blocks one by one.
type keyStream struct {
	block   cipher.Block
	gcm     cipher.AEAD
	counter [aes.BlockSize]byte
	stream  [aes.BlockSize]byte
	end     [2 * aes.BlockSize]byte
}

// prefixLen is the length of the counter block without the count.
const prefixLen = aes.BlockSize - 4

func newKeyStream(key []byte) (keyStream, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return keyStream{}, err
	}
	gcm, err := cipher.NewGCM(block)
	return keyStream{block: block, gcm: gcm}, err
}

// xor encrypts or decrypts src, of less than 2^32 blocks, with the count from 1.
// dst and src are the same octets or do not overlap.
func (k *keyStream) xor(dst, src []byte) {
	first := min(len(src), aes.BlockSize)
	k.xorBlock(dst[:first], src[:first], 1)
	dst, src = dst[first:], src[first:]
	count := uint32(2)
	// The tag falls on the block behind, which must be there.
	if n := (len(src) - gcmICVLen) &^ (aes.BlockSize - 1); n > 0 {
		// In place, the tag falls on what is still to be read.
		end := k.end[:copy(k.end[:], src[n:])]
		k.gcm.Seal(dst[:0:n+gcmICVLen], k.counter[:prefixLen], src[:n], nil)
		dst, src = dst[n:], end
		count += uint32(n / aes.BlockSize)
	}
	for len(src) > 0 {
		n := min(len(src), aes.BlockSize)
		k.xorBlock(dst[:n], src[:n], count)
		dst, src = dst[n:], src[n:]
		count++
	}
}

func (k *keyStream) xorBlock(dst, src []byte, count uint32) {
	binary.BigEndian.PutUint32(k.counter[prefixLen:], count)
	k.block.Encrypt(k.stream[:], k.counter[:])
	subtle.XORBytes(dst, src, k.stream[:])
}

func (k *keyStream) wipe() { *k = keyStream{} }
