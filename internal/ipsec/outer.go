package ipsec

import (
	"fmt"
	"slices"
)

// Outer says how tunnel mode builds the outer header, and what of it reaches
// the inner one at the far end (RFC 4301, Section 5.1.2). The zero value does
// what the RFCs ask for.
type Outer struct {
	DF   DF   `json:"df,omitzero"`
	DSCP DSCP `json:"dscp,omitzero"`
	// NoECN keeps congestion marks from crossing the tunnel: compatibility mode
	// (RFC 6040, Section 4.1).
	NoECN bool `json:"no_ecn,omitempty"`
}

// DF says where the outer DF bit comes from (RFC 4301, Section 8.1).
type DF uint8

// The treatments of DF.
const (
	CopyDF DF = iota
	SetDF
	ClearDF
)

// DSCP says in which directions the DSCP crosses the border between inner and
// outer header (RFC 4301, Section 5.1.2; RFC 2983).
type DSCP uint8

// The treatments of DSCP. The default hands the inner DSCP to the outer network
// and believes nothing that this network says.
const (
	DSCPOut DSCP = iota
	DSCPIn
	DSCPBoth
	DSCPNone
)

var (
	dfWords   = []string{CopyDF: "copy", SetDF: "set", ClearDF: "clear"}
	dscpWords = []string{DSCPOut: "out", DSCPIn: "in", DSCPBoth: "both", DSCPNone: "none"}
)

// String returns the configuration's word.
func (d DF) String() string { return wordOf(dfWords, int(d)) }

// MarshalText makes JSON show what String shows.
func (d DF) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what String prints.
func (d *DF) UnmarshalText(b []byte) error {
	i, err := indexOf(dfWords, b)
	*d = DF(i)
	return err
}

// String returns the configuration's word.
func (d DSCP) String() string { return wordOf(dscpWords, int(d)) }

// MarshalText makes JSON show what String shows.
func (d DSCP) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what String prints.
func (d *DSCP) UnmarshalText(b []byte) error {
	i, err := indexOf(dscpWords, b)
	*d = DSCP(i)
	return err
}

func wordOf(words []string, i int) string {
	if i < len(words) {
		return words[i]
	}
	return "unknown"
}

func indexOf(words []string, b []byte) (int, error) {
	if i := slices.Index(words, string(b)); i >= 0 {
		return i, nil
	}
	return 0, fmt.Errorf("ipsec: %q is not one of %q", b, words)
}

// Hands reports whether the DSCP of inner headers is written to outer ones.
func (d DSCP) Hands() bool { return d == DSCPOut || d == DSCPBoth }

// Believes reports whether the DSCP of outer headers is written to inner ones.
func (d DSCP) Believes() bool { return d == DSCPIn || d == DSCPBoth }
