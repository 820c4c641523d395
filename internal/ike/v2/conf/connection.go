// Package conf is the configuration of a connection as the IKEv2 machine sees
// it: files are read, names looked up, defaults filled in. It chooses among
// connections and tunnels, and keeps no state.
package conf

import (
	"errors"
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
	Unique                  Uniqueness
	Encapsulation           Encapsulation
	DPD                     time.Duration // 0: no liveness checks
	Lifetime                time.Duration // of the IKE SA, before jitter
	Use                     ipsec.Limit   // of the IKE SA by octets and datagrams of IKE; Time is not looked at
	Retransmit              Retransmit
	KeepAlive               time.Duration // NAT keepalive interval; 0: 20 s
	FragmentSize            int           // of IKE messages, see FragmentLimit; 0: 1280
	GM                      *GM           // GM/T 0022 and not IKEv2
}

// Party is one end's authentication.
type Party struct {
	ID   rules.Identity // zero: the subject of the certificate, or the address; for a remote, any
	Auth AuthKind
	PSK  secret.Key
	// PSS says that an RSA key of the local party signs by RSASSA-PSS.
	PSS bool
	// SHA1 says when a remote party may sign with SHA-1, that is by method 1.
	SHA1 SHA1Use
	// SM2 says that a remote party may sign with SM2 and SM3 (see suite.HashSM3).
	SM2 bool
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

// SHA1Use says when signatures with SHA-1 are accepted: those of authentication
// method 1, RSA as RFC 7296 knows it.
type SHA1Use uint8

// The uses of SHA-1. Auto: from a peer that does not announce better, with
// SIGNATURE_HASH_ALGORITHMS (RFC 7427).
const (
	SHA1Auto SHA1Use = iota
	SHA1Never
	SHA1Always
)

// ErrSHA1 is why the signature of a peer is not even checked.
var ErrSHA1 = errors.New("it signs with SHA-1, which the connection does not allow (remote.sha1)")

// AcceptsSHA1 reports whether the remote party may sign with SHA-1. newer says
// that it knows RFC 7427.
func (p *Party) AcceptsSHA1(newer bool) bool {
	return p.SHA1 == SHA1Always || p.SHA1 == SHA1Auto && !newer
}

// Child is the configuration of one tunnel.
type Child struct {
	Name          string
	Mode          ipsec.Mode
	Protocol      ipsec.Protocol
	Local, Remote []ipsec.Selector
	Proposals     []ipsec.Proposal
	ReqID         uint32
	ReplayWindow  uint32
	Outer         ipsec.Outer
	Fit           ipsec.Fit
	Aggfrag       ipsec.Aggfrag // off in transport mode
	Pace          ipsec.Pace    // of what this end sends, in AGGFRAG mode
	Lifetime      ipsec.Limit   // before jitter: SAs are rekeyed before it, and end at it
	// Start says that the tunnel is set up with the IKE SA, without traffic.
	Start bool
}

// Uniqueness says what becomes of several IKE SAs between the same identities.
type Uniqueness uint8

// The policies of uniqueness.
const (
	// UniqueReplace closes an older IKE SA when a newer one has all its tunnels, or
	// comes with INITIAL_CONTACT.
	UniqueReplace Uniqueness = iota
	// UniqueKeep refuses a newer one, unless it comes with INITIAL_CONTACT.
	UniqueKeep
	// UniqueNever lets all live, and does not believe INITIAL_CONTACT.
	UniqueNever
)

// Encapsulation says when ESP travels in UDP.
type Encapsulation uint8

// The settings of encapsulation. Auto: where a NAT is detected. Ask: also
// without a NAT, if the peer looks for one.
const (
	EncapAuto Encapsulation = iota
	EncapAlways
	EncapNever
	EncapAsk
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

// The sizes of the IP datagrams that IKE messages are cut to (RFC 7383, Section
// 2.5.1). What every IPv6 link carries is also the default for IPv4: today its
// links carry it too, and fewer fragments are fewer that can be lost.
const (
	MinFragmentSize     = 576
	defaultFragmentSize = 1280
)

// FragmentLimit returns how many octets an IKE message to remote may have,
// so that with its IP and UDP headers, and with the non-ESP marker of marked
// ports, it is no longer than FragmentSize.
func (c *Connection) FragmentLimit(remote netip.Addr, marked bool) int {
	n := c.FragmentSize
	if n == 0 {
		n = defaultFragmentSize
	}
	n = max(n, MinFragmentSize) - 20 - 8
	if remote.Is6() && !remote.Is4In6() {
		n -= 20
	}
	if marked {
		n -= 4
	}
	return n
}
