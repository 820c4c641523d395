package control

import (
	"net/netip"
	"slices"
	"time"

	"caponier/internal/ipsec"
)

// State says how far a connection or a tunnel has come. The words are stable.
type State string

// The states. Configured is not negotiated, and negotiated is not yet passing
// traffic: an operator who sees Established knows that no packet has come back.
const (
	Configured  State = "configured"
	Negotiating State = "negotiating"
	Established State = "established" // SAs are installed
	Passing     State = "passing"     // and packets went both ways within PassingWindow
	Failed      State = "failed"      // the last attempt failed, and none is under way
)

// PassingWindow is how recent the last packet must be, in each direction, for a
// tunnel to count as passing traffic.
const PassingWindow = time.Minute

// Status describes the gateway at one moment. Times are absolute; people see
// them relative to Time.
type Status struct {
	Time      time.Time `json:"time"`
	Name      string    `json:"name"`
	Version   string    `json:"version"`
	PID       int       `json:"pid"`
	Started   time.Time `json:"started"`
	Config    string    `json:"config"`    // file or directory
	StateDir  string    `json:"state_dir"` // keys, audit, leases
	DataPlane string    `json:"dataplane"` // "userspace" or "kernel"
	// Capture is how the user-space plane gets at packets: "tun", "afpacket" or
	// "afxdp", the latter two on Interfaces.
	Capture    string   `json:"capture,omitempty"`
	Interfaces []string `json:"interfaces,omitempty"`
	Workers    int      `json:"workers,omitempty"`
	// Latency is "low" where workers stay awake for a while after a packet.
	Latency string `json:"latency,omitempty"`
	Memory  Memory `json:"memory"`
	// Counters are the totals of the data plane by stable name.
	Counters    map[string]uint64 `json:"counters,omitempty"`
	Connections []Connection      `json:"connections"`
	// Switch is absent while the gateway is on.
	Switch *Switch `json:"switch,omitempty"`
	// Detail is the connection that was asked for; people then see all of it.
	Detail string `json:"detail,omitempty"`
}

// Memory is what the process uses.
type Memory struct {
	Resident   uint64 `json:"resident"` // octets of physical memory
	Heap       uint64 `json:"heap"`     // octets of live objects, packet buffers never touched included
	Goroutines int    `json:"goroutines"`
}

// Connection is one connection of the configuration and what became of it.
type Connection struct {
	Name      string   `json:"name"`
	Version   string   `json:"version"` // "ikev2", "ikev1", "gm"
	State     State    `json:"state"`
	Local     Endpoint `json:"local"`
	Remote    Endpoint `json:"remote"`
	LastError *Failure `json:"last_error,omitempty"`
	// Warnings tell of what will fail if nobody acts.
	Warnings []Warning `json:"warnings,omitempty"`
	IKE      []IKESA   `json:"ike_sas"`
	Tunnels  []Tunnel  `json:"tunnels"`
}

// Warning is something that an operator should do in time.
type Warning struct {
	Code    string `json:"code"` // stable: "certificate-expires", "certificate-expired", "legacy-algorithm"
	Message string `json:"message"`
	Cure    string `json:"cure,omitempty"`
}

// Endpoint is one end of a connection, as configured.
type Endpoint struct {
	Address []string `json:"address"` // "%any" where any will do
	ID      string   `json:"id,omitempty"`
	Auth    string   `json:"auth"` // "cert", "psk"
}

// Failure is the last thing that went wrong.
type Failure struct {
	Code    string    `json:"code"` // stable: "no-proposal-chosen", "peer-not-responding", ...
	Message string    `json:"message"`
	Cure    string    `json:"cure,omitempty"` // the smallest change that would help
	Time    time.Time `json:"time"`
}

// IKESA is one IKE SA.
type IKESA struct {
	InitiatorSPI string         `json:"initiator_spi"` // 16 hexadecimal digits
	ResponderSPI string         `json:"responder_spi"`
	State        string         `json:"state"` // "connecting", "established", "rekeying", "deleting"
	Role         string         `json:"role"`  // "initiator" or "responder"
	Local        netip.AddrPort `json:"local"`
	Remote       netip.AddrPort `json:"remote"`
	LocalID      string         `json:"local_id,omitempty"`
	RemoteID     string         `json:"remote_id,omitempty"`
	Proposal     string         `json:"proposal,omitempty"` // "aes256gcm16-prfsha512-x25519"
	NATLocal     bool           `json:"nat_local"`          // this gateway is behind a NAT
	NATRemote    bool           `json:"nat_remote"`
	Vendors      []string       `json:"vendors,omitempty"` // what the peer calls its software, unproven
	Established  time.Time      `json:"established,omitzero"`
	RekeyAt      time.Time      `json:"rekey_at,omitzero"`
}

// The states of an IKE SA.
const (
	IKEConnecting  = "connecting"
	IKEEstablished = "established"
	IKERekeying    = "rekeying"
	IKEDeleting    = "deleting"
)

// Tunnel is one tunnel of the configuration with its CHILD SAs.
type Tunnel struct {
	Name      string           `json:"name"`
	State     State            `json:"state"`
	Mode      ipsec.Mode       `json:"mode"`
	Protocol  ipsec.Protocol   `json:"protocol"`
	Start     string           `json:"start"` // "none", "trap", "start"
	ReqID     uint32           `json:"reqid"`
	Local     []ipsec.Selector `json:"local"` // as configured
	Remote    []ipsec.Selector `json:"remote"`
	LastError *Failure         `json:"last_error,omitempty"`
	SAs       []ChildSA        `json:"sas"`

	// Negotiating says that an exchange that should set up SAs is under way.
	Negotiating bool `json:"-"`
}

// ChildSA is a pair of SAs, one for each direction.
type ChildSA struct {
	In       Half             `json:"in"`
	Out      Half             `json:"out"`
	Protocol ipsec.Protocol   `json:"protocol"`
	Mode     ipsec.Mode       `json:"mode"`
	Encap    bool             `json:"encap"`             // ESP in UDP
	Aggfrag  bool             `json:"aggfrag"`           // AGGFRAG mode (RFC 9347)
	Tripped  bool             `json:"tripped,omitempty"` // sends nothing: too much was lost (iptfs.loss-limit)
	Proposal string           `json:"proposal"`          // "aes256gcm16-x25519"
	ESN      bool             `json:"esn"`
	LocalTS  []ipsec.Selector `json:"local_ts"` // as negotiated
	RemoteTS []ipsec.Selector `json:"remote_ts"`
	// PathMTU is the longest packet that the way to the peer takes, and InnerMTU
	// the longest inner packet that fits, in octets; 0 where that is not known,
	// InnerMTU also where there is no such length.
	PathMTU  int `json:"path_mtu,omitempty"`
	InnerMTU int `json:"inner_mtu,omitempty"`
	// PathMTUUntil is until when PathMTU is believed where a router has told it.
	PathMTUUntil time.Time `json:"path_mtu_until,omitzero"`
	Established  time.Time `json:"established"`
	RekeyAt      time.Time `json:"rekey_at,omitzero"`
	Expires      time.Time `json:"expires,omitzero"`
}

// Half is one direction of a ChildSA.
type Half struct {
	SPI     ipsec.SPI `json:"spi"`
	Bytes   uint64    `json:"bytes"`
	Packets uint64    `json:"packets"`
	Drops   uint64    `json:"drops"`         // for replay, integrity, selectors or lifetime
	Used    time.Time `json:"used,omitzero"` // last packet
}

// HalfOf takes from s what a Half shows.
func HalfOf(s ipsec.SAStatus) Half {
	return Half{
		SPI: s.ID.SPI, Bytes: s.Bytes, Packets: s.Packets, Used: s.Used,
		Drops: s.ReplayDrops + s.IntegrityDrops + s.SelectorDrops + s.OutOfLifetimeDrops,
	}
}

// Passing reports whether packets went both ways within PassingWindow before
// now.
func (sa *ChildSA) Passing(now time.Time) bool {
	recent := func(h Half) bool { return !h.Used.IsZero() && now.Sub(h.Used) <= PassingWindow }
	return recent(sa.In) && recent(sa.Out)
}

// Settle derives the State of the connection and of its tunnels from the facts
// in the other fields. A failure decides only while nothing is up or under way:
// a tunnel whose rekey failed still carries traffic.
func (c *Connection) Settle(now time.Time) {
	for i := range c.Tunnels {
		c.Tunnels[i].settle(now)
	}
	has := func(s State) bool {
		return slices.ContainsFunc(c.Tunnels, func(t Tunnel) bool { return t.State == s })
	}
	up := slices.ContainsFunc(c.IKE, func(sa IKESA) bool {
		return sa.State == IKEEstablished || sa.State == IKERekeying
	})
	connecting := slices.ContainsFunc(c.IKE, func(sa IKESA) bool { return sa.State == IKEConnecting })
	switch {
	case has(Passing):
		c.State = Passing
	case up || has(Established):
		c.State = Established
	case connecting || has(Negotiating):
		c.State = Negotiating
	case c.LastError != nil || has(Failed):
		c.State = Failed
	default:
		c.State = Configured
	}
}

func (t *Tunnel) settle(now time.Time) {
	switch {
	case slices.ContainsFunc(t.SAs, func(sa ChildSA) bool { return sa.Passing(now) }):
		t.State = Passing
	case len(t.SAs) > 0:
		t.State = Established
	case t.Negotiating:
		t.State = Negotiating
	case t.LastError != nil:
		t.State = Failed
	default:
		t.State = Configured
	}
}

// SA is an entry of the SAD with its algorithms in words.
type SA struct {
	ipsec.SAStatus
	Algorithms string `json:"algorithms"` // "aes256gcm16", "aes256-sha256"
	Origin     Origin `json:"origin"`
	State      string `json:"state,omitempty"` // "unused", "idle", "passing"
}

// ReloadReport says what a reload did, or would do.
type ReloadReport struct {
	DryRun  bool     `json:"dry_run"`
	Changes []Change `json:"changes"`
	// RestartRequired are the keys whose new values only a restart applies.
	RestartRequired []string `json:"restart_required,omitempty"`
}

// The actions of a Change.
const (
	ActionAdded     = "added"
	ActionRemoved   = "removed"
	ActionChanged   = "changed"
	ActionUnchanged = "unchanged"
)

// Change is what happens to one object of the configuration.
type Change struct {
	Kind   string `json:"kind"`   // "gateway", "connection", "tunnel", "policy"
	Name   string `json:"name"`   // "agw", "agw/lan"
	Action string `json:"action"` // "added", "removed", "changed", "unchanged"
	// Effect is what it means for traffic: "untouched", "rekeyed",
	// "renegotiated", "closed", "started".
	Effect string   `json:"effect,omitempty"`
	Keys   []string `json:"keys,omitempty"` // what differs: "remote.address"
}
