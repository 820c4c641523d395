package ipsec

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
