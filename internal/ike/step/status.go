package step

import (
	"net/netip"
	"time"

	"caponier/internal/ipsec"
)

// State is where an IKE SA stands. Package v2 draws how IKEv2 passes through the
// states, and package v1 says which stands for what.
type State uint8

// The states.
const (
	Idle        State = iota // nothing sent or received
	InitSent                 // IKE_SA_INIT request sent
	HalfOpen                 // IKE_SA_INIT answered, nothing authentic received
	Signing                  // waits for Signed
	AuthSent                 // IKE_AUTH request sent
	Verifying                // waits for Verified
	Established              // both ends are authentic
	Replaced                 // a new IKE SA has the CHILD SAs
	Deleting                 // Delete sent
	Closed                   // over; answers repetitions only
	Gone                     // Done was returned
)

var stateNames = [...]string{
	"idle", "init-sent", "half-open", "signing", "auth-sent", "verifying",
	"established", "replaced", "deleting", "closed", "gone",
}

// String returns a word for the state.
func (s State) String() string { return stateNames[s] }

// MarshalText makes JSON show what String shows.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Status is what a machine says of itself. It holds no key.
type Status struct {
	Connection  string         `json:"connection,omitempty"` // empty until the peer is known
	State       State          `json:"state"`
	Initiator   bool           `json:"initiator"`
	SPIs        string         `json:"spis"` // initiator's and responder's, as captures show them
	Local       netip.AddrPort `json:"local"`
	Remote      netip.AddrPort `json:"remote"`
	LocalID     string         `json:"local_id,omitempty"`
	RemoteID    string         `json:"remote_id,omitempty"`
	Proposal    string         `json:"proposal,omitempty"`
	LocalNAT    bool           `json:"local_nat"`
	RemoteNAT   bool           `json:"remote_nat"`
	Encap       bool           `json:"encap"`             // ESP travels in UDP
	Vendors     []string       `json:"vendors,omitempty"` // what the peer calls its software
	Established time.Time      `json:"established,omitzero"`
	Heard       time.Time      `json:"heard,omitzero"` // when something authentic was last received
	RekeyAt     time.Time      `json:"rekey_at,omitzero"`
	Waiting     int            `json:"waiting"` // exchanges that wait for the peer
	Children    []ChildStatus  `json:"children"`
}

// ChildStatus is what a machine says of one CHILD SA.
type ChildStatus struct {
	Name     string           `json:"name"`
	State    string           `json:"state"` // live, replaced, deleting or gone
	Protocol ipsec.Protocol   `json:"protocol"`
	Mode     ipsec.Mode       `json:"mode"`
	In       ipsec.SPI        `json:"in"`
	Out      ipsec.SPI        `json:"out"`
	Sending  bool             `json:"sending"` // the outbound SA is installed too
	Proposal string           `json:"proposal"`
	ReqID    uint32           `json:"reqid"`
	LocalTS  []ipsec.Selector `json:"local_ts"`
	RemoteTS []ipsec.Selector `json:"remote_ts"`
	Since    time.Time        `json:"since"`
	RekeyAt  time.Time        `json:"rekey_at,omitzero"` // by time; use may bring it forward
	Expires  time.Time        `json:"expires,omitzero"`
}
