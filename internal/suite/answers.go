package suite

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
)

var errAnswer = errors.New("wrong answer")

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic("suite: a vector is not hexadecimal: " + err.Error())
	}
	return b
}

func matches(got []byte, want string) error {
	if !bytes.Equal(got, unhex(want)) {
		return errAnswer
	}
	return nil
}

// sealAnswer checks a combined-mode algorithm: sealing, opening, and refusing.
func sealAnswer(key, iv, plaintext, aad, sealed string) func(*entry) error {
	return func(e *entry) error {
		p, err := e.encr.combined(unhex(key))
		if err != nil {
			return err
		}
		plain := unhex(plaintext)
		buf := make([]byte, len(plain)+p.ICVLen())
		p.Seal(buf, unhex(iv), plain, unhex(aad), nil)
		if err := matches(buf, sealed); err != nil {
			return err
		}
		if err := p.Open(buf, unhex(iv), buf, unhex(aad), nil); err != nil {
			return err
		}
		if !bytes.Equal(buf[:len(plain)], plain) {
			return errAnswer
		}
		p.Seal(buf, unhex(iv), plain, unhex(aad), nil)
		buf[len(buf)-1] ^= 1
		if p.Open(buf, unhex(iv), buf, unhex(aad), nil) == nil {
			return errAnswer
		}
		return nil
	}
}

// cipherAnswer checks a cipher in both directions.
func cipherAnswer(key, iv, plaintext, ciphertext string) func(*entry) error {
	return func(e *entry) error {
		c, err := e.encr.cipher(unhex(key))
		if err != nil {
			return err
		}
		if c.IVLen() != len(unhex(iv)) {
			return errAnswer
		}
		buf := unhex(plaintext)
		c.encrypt(buf, unhex(iv), buf)
		if err := matches(buf, ciphertext); err != nil {
			return err
		}
		c.decrypt(buf, unhex(iv), buf)
		return matches(buf, plaintext)
	}
}

// The data of RFC 4868, test cases AUTHxxx-1; the key is as long as the
// algorithm's, of 0x0b.
const answerData = "Hi There"

// macAnswer is macVector with the data of RFC 4868.
func macAnswer(icv string) func(*entry) error {
	return func(e *entry) error {
		return macVector(hex.EncodeToString(bytes.Repeat([]byte{0x0b}, e.integ.keyLen)), hex.EncodeToString([]byte(answerData)), icv)(e)
	}
}

// macVector checks an integrity algorithm, truncated.
func macVector(key, data, icv string) func(*entry) error {
	return func(e *entry) error {
		m, err := e.integ.mac(unhex(key))
		if err != nil {
			return err
		}
		m.Write(unhex(data))
		return matches(m.Sum(nil)[:e.integ.icvLen], icv)
	}
}

// prfAnswer is prfVector with the data of RFC 4868.
func prfAnswer(out string) func(*entry) error {
	return func(e *entry) error {
		return prfVector(hex.EncodeToString(bytes.Repeat([]byte{0x0b}, e.prf.KeyLen())), hex.EncodeToString([]byte(answerData)), out)(e)
	}
}

// prfVector checks a pseudorandom function, with its data in two parts.
func prfVector(key, data, out string) func(*entry) error {
	return func(e *entry) error {
		d := unhex(data)
		return matches(e.prf.Sum(unhex(key), d[:3], d[3:]), out)
	}
}

// exchange runs a key exchange with the given secrets of both sides.
func exchange(k KeyExchange, secretI, secretR string) (publicI, publicR, shared []byte, err error) {
	share, err := k.Initiate(bytes.NewReader(unhex(secretI)))
	if err != nil {
		return nil, nil, nil, err
	}
	publicR, sharedR, err := k.Respond(bytes.NewReader(unhex(secretR)), share.Public())
	if err != nil {
		return nil, nil, nil, err
	}
	sharedI, err := share.Finish(publicR)
	if err != nil {
		return nil, nil, nil, err
	}
	if !sharedI.Equal(sharedR) {
		return nil, nil, nil, errAnswer
	}
	return share.Public(), publicR, sharedI.Bytes(), nil
}

// exchangeAnswer checks a key exchange between two known secrets.
func exchangeAnswer(secretI, secretR, publicI, publicR, shared string) func(*entry) error {
	return func(e *entry) error {
		i, r, s, err := exchange(e.ke, secretI, secretR)
		if err != nil {
			return err
		}
		return errors.Join(matches(i, publicI), matches(r, publicR), matches(s, shared))
	}
}

// digestAnswer is exchangeAnswer with SHA-256 of what is expected.
func digestAnswer(secretI, secretR, publicI, publicR, shared string) func(*entry) error {
	return func(e *entry) error {
		i, r, s, err := exchange(e.ke, secretI, secretR)
		if err != nil {
			return err
		}
		di, dr, ds := sha256.Sum256(i), sha256.Sum256(r), sha256.Sum256(s)
		return errors.Join(matches(di[:], publicI), matches(dr[:], publicR), matches(ds[:], shared))
	}
}
