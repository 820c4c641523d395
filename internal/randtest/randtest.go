// Package randtest judges random octets by statistics: the frequency and the
// poker test of GM/T 0005-2021, which find a generator that is broken. No such
// test finds one that is merely predictable.
package randtest

import (
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
)

// What GM/T 0005-2021 asks of a generator in use: samples of a million bits, each
// passing with a probability of error of one in a hundred, and so many of a
// thousand samples that a good generator stays below the limit.
const (
	SampleBits   = 1_000_000
	Significance = 0.01
	pokerWidth   = 8 // bits of a pattern
)

// ErrBroken is returned for a source that fails.
var ErrBroken = errors.New("the source of random numbers is broken")

// Monobit returns the probability that a perfect source makes a sample with at
// least this much more of one bit than of the other (GM/T 0005-2021, Section 5.2;
// NIST SP 800-22, Section 2.1).
func Monobit(sample []byte) float64 {
	ones := 0
	for _, b := range sample {
		ones += bits.OnesCount8(b)
	}
	n := 8 * len(sample)
	return math.Erfc(math.Abs(float64(2*ones-n)) / math.Sqrt(2*float64(n)))
}

// Poker returns the probability that a perfect source makes a sample in which
// patterns of width bits, 4 or 8, are spread at least this unevenly (GM/T
// 0005-2021, Section 5.4).
func Poker(sample []byte, width int) float64 {
	counts := make([]int, 1<<width)
	for _, b := range sample {
		for shift := 8 - width; shift >= 0; shift -= width {
			counts[int(b>>shift)&(len(counts)-1)]++
		}
	}
	n, sum := 8*len(sample)/width, 0.0
	for _, c := range counts {
		sum += float64(c) * float64(c)
	}
	v := float64(len(counts))/float64(n)*sum - float64(n)
	return upperGamma(len(counts)-1, v/2)
}

// upperGamma is the regularised upper incomplete gamma function Q(k/2, x) for odd
// k: Q(1/2, x) = erfc(sqrt x), and Q(a+1, x) = Q(a, x) + x^a e^-x / Gamma(a+1).
func upperGamma(k int, x float64) float64 {
	q := math.Erfc(math.Sqrt(x))
	for a := 0.5; a < float64(k)/2; a++ {
		lg, _ := math.Lgamma(a + 1)
		q += math.Exp(a*math.Log(x) - x - lg)
	}
	return q
}

// Result is what the samples of a source showed.
type Result struct {
	Samples int `json:"samples"` // of SampleBits each
	Monobit int `json:"monobit"` // samples that passed
	Poker   int `json:"poker"`
	Need    int `json:"need"` // passes of each test that a good source has
}

// OK reports whether the source passed.
func (r Result) OK() bool { return r.Monobit >= r.Need && r.Poker >= r.Need }

// Judge draws samples from a source and tests them. The error is ErrBroken for a
// source that fails a test, or cannot be read.
func Judge(source io.Reader, samples int) (Result, error) {
	r := Result{Samples: samples, Need: need(samples)}
	buf := make([]byte, SampleBits/8)
	defer clear(buf)
	for range samples {
		if _, err := io.ReadFull(source, buf); err != nil {
			return r, fmt.Errorf("%w: %w", ErrBroken, err)
		}
		if Monobit(buf) >= Significance {
			r.Monobit++
		}
		if Poker(buf, pokerWidth) >= Significance {
			r.Poker++
		}
	}
	if !r.OK() {
		return r, fmt.Errorf("%w: of %d samples %d passed the frequency test and %d the poker test, and %d had to",
			ErrBroken, samples, r.Monobit, r.Poker, r.Need)
	}
	return r, nil
}

// need is how many of so many samples a good source passes (GM/T 0005-2021,
// Section 6: 1 - a - 3 sqrt(a (1-a) / samples) of them).
func need(samples int) int {
	s := float64(samples)
	return int(math.Floor(s * (1 - Significance - 3*math.Sqrt(Significance*(1-Significance)/s))))
}
