package suite

import (
	"crypto/hmac"
	"crypto/md5"  // for peers that have nothing newer
	"crypto/sha1" // and these for their contemporaries
	"crypto/sha256"
	"crypto/sha512"
	"hash"

	"caponier/internal/ipsec"
	"caponier/internal/lanes"
)

// Why HMAC-SHA-1 and HMAC-MD5 are weak, although HMAC outlives its hash.
const (
	weakSHA1 = "SHA-1 is broken as a hash and being retired everywhere"
	weakMD5  = "MD5 has been broken as a hash for 20 years, and RFC 8247 forbids it"
)

// The HMAC-SHA-2 algorithms of RFC 4868, HMAC-SHA-1 of RFC 2404 and HMAC-MD5 of
// RFC 2403. The vectors are test cases AUTH256-1, AUTH384-1 and AUTH512-1 of RFC
// 4868, Section 2.7.2.1, and test case 1 of RFC 2202, Sections 2 and 3, which has
// the same data.
const (
	answerMD5    = "9294727a3638bb1c13f48ef8158bfc9d"
	answerSHA1   = "b617318655057264e28bc0b6fb378c8ef146be00"
	answerSHA256 = "198a607eb44bfbc69903a0f1cf2bbdc5ba0aa3f3d9ae3c1c7a3b1696a0b68cf7"
	answerSHA384 = "b6a8d5636f5c6a7224f9977dcf7ee6c7fb6d0c48cbdee9737a959796489bddbc4c5df61d5b3297b4fb68dab9f1b582c2"
	answerSHA512 = "637edc6e01dce7e6742a99451aae82df23da3e92439e590e43e761b33e910fb8" +
		"ac2878ebd5803f6f0b61dbce5e251ff8789a4722c1be65aea45fd464e89f8f5b"
)

var hmacIntegrity = []entry{
	{
		transform: ipsec.Transform{Type: ipsec.TypeInteg, ID: ipsec.IntegHMACSHA256128},
		words:     []string{"sha256", "sha2_256"},
		integ: &integrity{
			keyLen: 32, icvLen: 16, mac: keyedLanes(sha256.New, lanes.HMACSHA256),
			prf: ipsec.Transform{Type: ipsec.TypePRF, ID: ipsec.PRFHMACSHA256},
		},
		check: macAnswer(answerSHA256[:2*16]),
	},
	{
		transform: ipsec.Transform{Type: ipsec.TypeInteg, ID: ipsec.IntegHMACSHA384192},
		words:     []string{"sha384", "sha2_384"},
		integ: &integrity{
			keyLen: 48, icvLen: 24, mac: keyed(sha512.New384),
			prf: ipsec.Transform{Type: ipsec.TypePRF, ID: ipsec.PRFHMACSHA384},
		},
		check: macAnswer(answerSHA384[:2*24]),
	},
	{
		transform: ipsec.Transform{Type: ipsec.TypeInteg, ID: ipsec.IntegHMACSHA512256},
		words:     []string{"sha512", "sha2_512"},
		integ: &integrity{
			keyLen: 64, icvLen: 32, mac: keyed(sha512.New),
			prf: ipsec.Transform{Type: ipsec.TypePRF, ID: ipsec.PRFHMACSHA512},
		},
		check: macAnswer(answerSHA512[:2*32]),
	},
	{
		transform: ipsec.Transform{Type: ipsec.TypeInteg, ID: ipsec.IntegHMACSHA196},
		words:     []string{"sha1", "sha"},
		weak:      weakSHA1,
		integ: &integrity{
			keyLen: 20, icvLen: 12, mac: keyedLanes(sha1.New, lanes.HMACSHA1),
			prf: ipsec.Transform{Type: ipsec.TypePRF, ID: ipsec.PRFHMACSHA1},
		},
		check: macAnswer(answerSHA1[:2*12]),
	},
	{
		transform: ipsec.Transform{Type: ipsec.TypeInteg, ID: ipsec.IntegHMACMD596},
		words:     []string{"md5"},
		weak:      weakMD5,
		integ: &integrity{
			keyLen: 16, icvLen: 12, mac: keyedLanes(md5.New, lanes.HMACMD5),
			prf: ipsec.Transform{Type: ipsec.TypePRF, ID: ipsec.PRFHMACMD5},
		},
		check: macAnswer(answerMD5[:2*12]),
	},
}

var hmacPRF = []entry{
	{
		transform: ipsec.Transform{Type: ipsec.TypePRF, ID: ipsec.PRFHMACSHA256},
		words:     []string{"prfsha256", "prfsha2_256"},
		prf:       prfHMAC{hash: sha256.New, size: sha256.Size},
		check:     prfAnswer(answerSHA256),
	},
	{
		transform: ipsec.Transform{Type: ipsec.TypePRF, ID: ipsec.PRFHMACSHA384},
		words:     []string{"prfsha384", "prfsha2_384"},
		prf:       prfHMAC{hash: sha512.New384, size: sha512.Size384},
		check:     prfAnswer(answerSHA384),
	},
	{
		transform: ipsec.Transform{Type: ipsec.TypePRF, ID: ipsec.PRFHMACSHA512},
		words:     []string{"prfsha512", "prfsha2_512"},
		prf:       prfHMAC{hash: sha512.New, size: sha512.Size},
		check:     prfAnswer(answerSHA512),
	},
	{
		transform: ipsec.Transform{Type: ipsec.TypePRF, ID: ipsec.PRFHMACSHA1},
		words:     []string{"prfsha1"},
		weak:      weakSHA1,
		prf:       prfHMAC{hash: sha1.New, size: sha1.Size},
		check:     prfAnswer(answerSHA1),
	},
	{
		transform: ipsec.Transform{Type: ipsec.TypePRF, ID: ipsec.PRFHMACMD5},
		words:     []string{"prfmd5"},
		weak:      weakMD5,
		prf:       prfHMAC{hash: md5.New, size: md5.Size},
		check:     prfAnswer(answerMD5),
	},
}

func keyed(h func() hash.Hash) func(key []byte) (hash.Hash, error) {
	return func(key []byte) (hash.Hash, error) {
		m := hmac.New(h, key)
		// The first Reset keeps the state behind the key, and allocates for it:
		// here, so that no packet pays.
		m.Reset()
		return m, nil
	}
}

// hmacLanes is an HMAC twice: as a hash.Hash beside any cipher, and as the key that
// batches take.
type hmacLanes struct {
	hash.Hash
	key   *lanes.HMACKey
	least int // messages from which side by side is faster than one by one
}

// leastMACs is where the measurements of docs/lanes.md cross: SHA-1 and SHA-256
// have instructions of their own, which one message at a time can use.
var leastMACs = map[lanes.Feature]int{lanes.HMACMD5: 2, lanes.HMACSHA1: 4, lanes.HMACSHA256: 6}

func keyedLanes(h func() hash.Hash, f lanes.Feature) func(key []byte) (hash.Hash, error) {
	return func(key []byte) (hash.Hash, error) {
		m, err := keyed(h)(key)
		if err != nil || !lanes.Supported(f) {
			return m, err
		}
		return &hmacLanes{Hash: m, key: lanes.NewHMACKey(f, key), least: leastMACs[f]}, nil
	}
}

func (m *hmacLanes) wipe() { m.key.Wipe() }

// prfHMAC is a PRF. Its preferred key length is its output length (RFC 4868,
// Section 2.1.2).
type prfHMAC struct {
	hash func() hash.Hash
	size int
}

func (p prfHMAC) KeyLen() int { return p.size }
func (p prfHMAC) Size() int   { return p.size }

// SeedNonceLen is 0: HMAC takes a key of any length.
func (prfHMAC) SeedNonceLen() int { return 0 }

func (p prfHMAC) Sum(key []byte, data ...[]byte) []byte {
	m := hmac.New(p.hash, key)
	for _, d := range data {
		m.Write(d)
	}
	return m.Sum(nil)
}
