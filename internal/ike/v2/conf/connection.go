// Package conf is the configuration of a connection as the IKEv2 machine sees
// it: files are read, names looked up, defaults filled in. It chooses among
// connections and tunnels, and keeps no state.
package conf

import (
	"net/netip"
	"time"

	"caponier/internal/ike/v2/rules"
	"caponier/internal/ipsec"
	"caponier/internal/secret"
)

// Connection is the configuration of one connection. It is immutable and shared
// by machines.
type Connection struct {
	Name          string
	Local, Remote Party
	// LocalAddrs and RemoteAddrs are what the configuration allows; empty means
	// any. An initiator uses the first of each.
	LocalAddrs, RemoteAddrs []netip.Prefix
	Proposals               []ipsec.Proposal // for the IKE SA, in order of preference
	Children                []*Child
	Encapsulation           Encapsulation
	DPD                     time.Duration // 0: no liveness checks
	Lifetime                time.Duration // of the IKE SA, before jitter
	Retransmit              Retransmit
	KeepAlive               time.Duration // NAT keepalive interval; 0: 20 s
}

// Party is one end's authentication.
type Party struct {
	ID   rules.Identity // zero: the subject of the certificate, or the address; for a remote, any
	Auth AuthKind
	PSK  secret.Key
	// Certificates is the local chain, DER, the leaf first.
	Certificates [][]byte
	// Authorities are the SHA-1 hashes of the SubjectPublicKeyInfo of the CAs
	// that may have signed the remote's certificate, for CERTREQ.
	Authorities [][]byte
}

// AuthKind is a way to authenticate.
type AuthKind uint8

// The ways to authenticate.
const (
	AuthCert AuthKind = iota
	AuthPSK
)

// Child is the configuration of one tunnel.
type Child struct {
	Name          string
	Mode          ipsec.Mode
	Protocol      ipsec.Protocol
	Local, Remote []ipsec.Selector
	Proposals     []ipsec.Proposal
	ReqID         uint32
	ReplayWindow  uint32
	Lifetime      ipsec.Limit // before jitter: SAs are rekeyed before it, and end at it
	// Start says that the tunnel is set up with the IKE SA, without traffic.
	Start bool
}

// Encapsulation says when ESP travels in UDP.
type Encapsulation uint8

// The settings of encapsulation. Auto: where a NAT is detected.
const (
	EncapAuto Encapsulation = iota
	EncapAlways
	EncapNever
)

// Retransmit says how requests are repeated: the n-th wait is Initial *
// Factor^n, never more than Max; after Tries repetitions the peer is dead.
type Retransmit struct {
	Initial time.Duration
	Factor  float64
	Max     time.Duration
	Tries   int
}

// OrDefault fills in the fields that are zero.
func (r Retransmit) OrDefault() Retransmit {
	if r.Initial <= 0 {
		r.Initial = 2 * time.Second
	}
	if r.Factor < 1 {
		r.Factor = 1.8
	}
	if r.Max <= 0 {
		r.Max = 30 * time.Second
	}
	if r.Tries <= 0 {
		r.Tries = 5
	}
	return r
}
