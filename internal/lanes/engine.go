package lanes

import (
	"errors"
	"fmt"
	"sync"
)

// Feature is a part of this package that a machine may have the instructions for.
type Feature int

// The features.
const (
	AESCBC Feature = iota
	AESGCM
	TripleDESCBC
	HMACMD5
	HMACSHA1
	HMACSHA256
	features
)

func (f Feature) String() string {
	return [features]string{"aes-cbc", "aes-gcm", "3des-cbc", "hmac-md5", "hmac-sha1", "hmac-sha256"}[f]
}

// kernel is the number of an assembly function; 0 is none.
type kernel uint8

var tests = [features]func() error{
	AESCBC: testAES, AESGCM: testGCM, TripleDESCBC: testTripleDES,
	HMACMD5: md5.test, HMACSHA1: sha1.test, HMACSHA256: sha256.test,
}

// results holds what the known-answer tests said, nil for a feature that works.
var results = sync.OnceValue(func() (r [features]error) {
	for f := range features {
		if r[f] = errNotHere; hasInstructions(f) {
			r[f] = tests[f]()
		}
	}
	return r
})

var (
	errNotHere     = errors.New("this machine does not have the instructions")
	errKnownAnswer = errors.New("wrong answer to a known question")
)

// Supported reports whether this machine has the instructions for f and they
// give the right answers. Only then may the types of f be used.
func Supported(f Feature) bool { return results()[f] == nil }

// SelfTest names in its error what this machine has the instructions for and
// gives wrong answers. It is not used, whether SelfTest is called or not.
func SelfTest() error {
	var errs []error
	for f, err := range results() {
		if err != nil && !errors.Is(err, errNotHere) {
			errs = append(errs, fmt.Errorf("%s: %w", Feature(f), err))
		}
	}
	return errors.Join(errs...)
}
