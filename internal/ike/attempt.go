package ike

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"caponier/internal/ike/message"
	v2 "caponier/internal/ike/v2"
	"caponier/internal/ike/v2/fault"
	"caponier/internal/ike/v2/rules"
)

// Attempt is a negotiation that failed, with what is known of it.
type Attempt struct {
	When time.Time
	// Connection is the one it was for. Where the peer had not got so far as to
	// choose one, it is nil, and Candidates are those that the addresses allow.
	Connection *v2.Connection
	Candidates []*v2.Connection
	Tunnel     string // empty where it is about the IKE SA, or the tunnel is not known
	Initiator  bool   // this gateway began the IKE SA
	Proven     bool   // the peer had proved who it is
	// Local and Remote are the addresses, LocalID and RemoteID the identities that
	// were claimed; zero where none was.
	Local, Remote     netip.AddrPort
	LocalID, RemoteID v2.Identity
	Vendors           []string // what the peer calls its software
	Code              string
	Err               error
	Evidence          rules.Evidence
}

// Codes of failures that no machine reports.
const (
	CodeNoConnection = "no-connection"
	CodeVersion      = "unsupported-version"
)

// failed passes on the failure that a notice is about, if it is about one. It
// runs in the shard of s, before whoever waits for the outcome is told.
func (d *Daemon) failed(s *sa, n v2.Notice) {
	switch n.Kind {
	case v2.IKEFailed, v2.IKEDown, v2.ChildFailed, v2.IKERekeyFailed:
	case v2.PeerDropped:
		d.mu.Lock()
		// Of one that is up, or that we called, it says nothing: anybody may have
		// sent it.
		known := s.established() || s.first != nil
		d.mu.Unlock()
		if known || n.Code != fault.CodeLimit {
			return
		}
	default:
		return
	}
	if d.onFailure == nil || n.Err == nil {
		return // nothing, or what the operator or the peer wanted
	}
	m := s.machine
	a := Attempt{
		When: d.now(), Connection: m.Connection(), Tunnel: n.Child, Initiator: m.Initiator(),
		Code: n.Code, Err: n.Err,
	}
	a.Local, a.Remote = m.Addrs()
	a.LocalID, a.RemoteID = m.Identities()
	a.Vendors = m.Status().Vendors
	d.mu.Lock()
	a.Proven = s.established()
	d.mu.Unlock()
	if n.Evidence != nil {
		a.Evidence = *n.Evidence
	}
	if a.Connection == nil {
		a.Candidates = d.candidates(a.Local.Addr(), a.Remote.Addr(), speaksAny).All()
	}
	d.onFailure(a)
}

// turnedAway passes on that a stranger's first message was not even looked into.
func (d *Daemon) turnedAway(ev v2.Received, code string, err error) {
	if d.onFailure == nil {
		return
	}
	d.onFailure(Attempt{
		When: d.now(), Local: ev.Local, Remote: ev.Remote, Code: code, Err: err,
		Candidates: d.candidates(ev.Local.Addr(), ev.Remote.Addr(), speaksAny).All(),
		Evidence:   rules.Evidence{Exchange: message.IKESAInit},
	})
}

var errNoConnection = errors.New("no connection allows these addresses")

// otherVersion passes on a message of another version of IKE, an answer to s or
// a first one.
func (d *Daemon) otherVersion(s *sa, h message.Header, ev v2.Received) {
	err := fmt.Errorf("the peer speaks IKE version %d.%d, and this gateway 2.0", h.Major, h.Minor)
	if s == nil {
		if h.ResponderSPI == 0 && h.InitiatorSPI != 0 {
			d.turnedAway(ev, CodeVersion, err)
		}
		return
	}
	if d.onFailure == nil {
		return
	}
	a := Attempt{When: d.now(), Local: ev.Local, Remote: ev.Remote, Code: CodeVersion, Err: err, Initiator: h.ResponderSPI == 0}
	a.Evidence = rules.Evidence{Exchange: message.IKESAInit, ByPeer: true, Notify: message.InvalidMajorVersion}
	d.mu.Lock()
	if c := d.conns[s.conn]; c != nil {
		a.Connection = c.cfg
	}
	d.mu.Unlock()
	d.onFailure(a)
}
