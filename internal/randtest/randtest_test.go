package randtest

import (
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
)

func bitsOf(t *testing.T, text string) []byte {
	t.Helper()
	if len(text)%8 != 0 {
		t.Fatalf("%d bits", len(text))
	}
	out := make([]byte, len(text)/8)
	for i, c := range text {
		if c == '1' {
			out[i/8] |= 0x80 >> (i % 8)
		}
	}
	return out
}

// The sample and the values are those of GM/T 0005-2021, Appendix C.
func TestStandardSample(t *testing.T) {
	sample := bitsOf(t, "1100110000010101011011000100110011100000000000100100110101010001"+
		"0001001111010110100000001101011111001100111001101101100010110010")
	for _, tt := range []struct {
		name      string
		got, want float64
	}{
		{"monobit", Monobit(sample), 0.215925},
		{"poker, 4 bits", Poker(sample, 4), 0.213734},
	} {
		if math.Abs(tt.got-tt.want) > 1e-6 {
			t.Errorf("%s: %f, want %f", tt.name, tt.got, tt.want)
		}
	}
}

// Quantiles of the chi-square distribution, as tables print them.
func TestUpperGamma(t *testing.T) {
	for _, tt := range []struct {
		degrees int
		x, p    float64
	}{{1, 3.841, 0.05}, {15, 24.996, 0.05}, {15, 30.578, 0.01}, {255, 293.248, 0.05}, {255, 310.457, 0.01}} {
		if got := upperGamma(tt.degrees, tt.x/2); math.Abs(got-tt.p) > 1e-4 {
			t.Errorf("%d degrees, %g: %f, want %f", tt.degrees, tt.x, got, tt.p)
		}
	}
}

func TestJudge(t *testing.T) {
	// A good source fails now and then: this one always gives the same.
	if r, err := Judge(rand.NewChaCha8([32]byte{1}), 100); err != nil || !r.OK() || r.Samples != 100 {
		t.Errorf("a good source: %+v, %v", r, err)
	}
	for name, source := range map[string]io.Reader{
		"one octet":    repeat{0xa5},
		"zeros":        repeat{0},
		"a counter":    new(counter),
		"a short file": strings.NewReader("random"),
	} {
		if r, err := Judge(source, 20); !errors.Is(err, ErrBroken) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}

type repeat struct{ b byte }

func (r repeat) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = r.b
	}
	return len(p), nil
}

// counter has as many of each bit as of the other, and of each octet, but for
// half of them.
type counter struct{ n byte }

func (c *counter) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = c.n & 0x55
		if i%2 == 1 {
			p[i] = ^p[i-1]
			c.n++
		}
	}
	return len(p), nil
}
