package ipsec

import (
	"fmt"
	"strconv"
	"time"
)

// Aggfrag says whether a tunnel uses AGGFRAG mode, in which packets share the
// payloads of ESP packets (RFC 9347).
type Aggfrag uint8

// The uses. On: where the peer agrees. Required: not without it.
const (
	AggfragOff Aggfrag = iota
	AggfragOn
	AggfragRequired
)

var aggfragWords = []string{AggfragOff: "off", AggfragOn: "on", AggfragRequired: "required"}

// String returns the configuration's word.
func (a Aggfrag) String() string { return wordOf(aggfragWords, int(a)) }

// MarshalText makes JSON show what String shows.
func (a Aggfrag) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads what String prints.
func (a *Aggfrag) UnmarshalText(b []byte) error {
	i, err := indexOf(aggfragWords, b)
	*a = Aggfrag(i)
	return err
}

// AggfragSA is what an SA has of AGGFRAG mode. The zero value has nothing of it.
type AggfragSA struct {
	// On says that the SA carries AGGFRAG payloads and nothing else (RFC 9347,
	// Section 2.3).
	On bool
	// Whole says that the peer does not put packets together that are spread over
	// several payloads (RFC 9347, Section 5.1, the D flag).
	Whole bool
	// Pace says at what rate an outbound SA sends.
	Pace Pace
	// Reports says that the peer is to be told what is lost of what it sends (RFC
	// 9347, Section 5.1, the C flag). Only an SA with a Pace does that.
	Reports bool
	// Back is the inbound SA of the pair that an outbound SA belongs to.
	Back SPI
}

// Listens reports whether an inbound SA is watched for losses or reports of them.
func (a *AggfragSA) Listens() bool { return a.Reports || a.Pace.LossLimit != 0 }

// Pace is a constant rate to send at, whatever there is to send (RFC 9347, Section
// 2.4.1). The zero value sends packets when they come.
type Pace struct {
	Rate Rate   // of outer packets; 0: none
	Size uint16 // octets of each outer packet; 0, and too many: what the way takes
	DSCP uint8  // of outer packets

	// LossLimit is what part of the packets may be lost, in percent; 0: any. Where
	// the peer has reported more for LossTime, nothing is sent any more.
	LossLimit uint8
	LossTime  time.Duration
}

// Rate is a rate in kbit/s.
type Rate uint32

// maxRate is 100 Gbit/s.
const maxRate = 100_000_000

// Bits returns the rate in bit/s.
func (r Rate) Bits() uint64 { return uint64(r) * 1000 }

// String returns the rate with the largest unit that leaves a whole number.
func (r Rate) String() string {
	switch n := uint64(r); {
	case n%1000_000 == 0 && n > 0:
		return strconv.FormatUint(n/1000_000, 10) + "G"
	case n%1000 == 0 && n > 0:
		return strconv.FormatUint(n/1000, 10) + "M"
	default:
		return strconv.FormatUint(n, 10) + "k"
	}
}

// UnmarshalText reads a number of bits in a second, with k, M or G for powers of
// 1000.
func (r *Rate) UnmarshalText(b []byte) error {
	text := string(b)
	digits, unit := text, uint64(0)
	if n := len(text); n > 0 {
		digits = text[:n-1]
		switch text[n-1] {
		case 'k':
			unit = 1
		case 'M':
			unit = 1000
		case 'G':
			unit = 1000_000
		}
	}
	x, err := strconv.ParseUint(digits, 10, 32)
	if err != nil || unit == 0 || x*unit < 8 || x*unit > maxRate {
		return fmt.Errorf("ipsec: %q is not a rate from 8k to 100G, such as 10M", text)
	}
	*r = Rate(x * unit)
	return nil
}
