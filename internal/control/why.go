package control

import (
	"net/netip"
	"time"

	"caponier/internal/ipsec"
)

// Why is the result of "why": what failed, and what would cure it.
type Why struct {
	Time time.Time `json:"time"`
	// Detail is the connection that was asked for.
	Detail string `json:"detail,omitempty"`
	// States are those of the connections that Findings are about, by name.
	States map[string]State `json:"states"`
	// Findings are explained failures, the latest first: all that are kept of
	// Detail, or of every connection and tunnel the last, with those of peers for
	// which there is no connection.
	Findings []Finding `json:"findings"`
	// Missed counts failures of strangers that were too many to look into.
	Missed uint64 `json:"missed,omitempty"`
}

// Finding is one failure explained, with its repetitions.
type Finding struct {
	Code       string    `json:"code"`                 // stable; docs/codes.md lists them
	Connection string    `json:"connection,omitempty"` // empty: there is none for this peer
	Tunnel     string    `json:"tunnel,omitempty"`
	Cause      string    `json:"cause"`
	First      time.Time `json:"first"`
	Last       time.Time `json:"last"`
	Count      uint64    `json:"count"`
	// Stage is the exchange that failed, "IKE_AUTH", or "traffic".
	Stage string `json:"stage,omitempty"`
	// RefusedBy says who refused: Here, AtPeer, or nobody.
	RefusedBy Place          `json:"refused_by,omitempty"`
	Local     netip.AddrPort `json:"local,omitzero"`
	Remote    netip.AddrPort `json:"remote,omitzero"`
	// Ours is what this gateway is configured for; Theirs what the peer showed.
	Ours   Offer `json:"ours"`
	Theirs Offer `json:"theirs"`
	// Nearest says how far the nearest match goes.
	Nearest string `json:"nearest,omitempty"`
	// Cures are alternatives: each alone would do.
	Cures []Cure `json:"cures"`
}

// Place is an end of a connection.
type Place string

// The ends.
const (
	Here   Place = "here"
	AtPeer Place = "peer"
)

// Offer is what one end wants. What is not known is empty.
type Offer struct {
	ID    string `json:"id,omitempty"`    // what it calls itself
	Wants string `json:"wants,omitempty"` // what it wants the other end to be
	Auth  string `json:"auth,omitempty"`  // how it authenticates: "cert", "psk"
	// Vendors are what the peer calls its software.
	Vendors []string `json:"vendors,omitempty"`
	// Proposals are in the configuration's words.
	Proposals []string `json:"proposals,omitempty"`
	// Local and Remote are traffic selectors, from this gateway's view for both
	// ends.
	Local        []ipsec.Selector `json:"local,omitempty"`
	Remote       []ipsec.Selector `json:"remote,omitempty"`
	Certificates []Certificate    `json:"certificates,omitempty"` // the leaf first
}

// Certificate is what matters of a certificate here.
type Certificate struct {
	Subject   string    `json:"subject"`
	Issuer    string    `json:"issuer"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	Names     []string  `json:"names,omitempty"` // subject alternative names
}

// Cure is the smallest change at one end that would help.
type Cure struct {
	At   Place  `json:"at"`
	Edit string `json:"edit"`
}

// Failure returns the finding as the last error of a connection.
func (f *Finding) Failure() *Failure {
	out := &Failure{Code: f.Code, Message: f.Cause, Time: f.Last}
	if len(f.Cures) > 0 {
		out.Cure = f.Cures[0].text()
	}
	return out
}

func (c Cure) text() string {
	if c.At == AtPeer {
		return "at the peer: " + c.Edit
	}
	return c.Edit
}
