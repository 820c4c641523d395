// Package v2 is the IKEv2 machine (RFC 7296): a pure function of its state, the
// time and an event. It has no socket, clock, goroutine or logger; the daemon
// in package ike owns those, feeds it events and carries out its actions.
//
// A Machine is one IKE SA with its CHILD SAs. It is not safe for concurrent
// use: one goroutine owns it.
package v2

import (
	"io"
	"net/netip"

	"caponier/internal/ike/message"
	"caponier/internal/ike/v2/conf"
	"caponier/internal/ike/v2/rules"
	"caponier/internal/ipsec"
	"caponier/internal/suite"
)

// Env is what a Machine needs of the world, injected.
type Env struct {
	Rand io.Reader // for SPIs, nonces, key exchange, IVs, jitter
	// AllocateSPI and ReleaseSPI reserve SPIs of inbound SAs in the data plane.
	AllocateSPI func(ipsec.Protocol) (ipsec.SPI, error)
	ReleaseSPI  func(ipsec.Protocol, ipsec.SPI)
	// Admit says whether a peer that has proved its identity may have another IKE
	// SA; initial is its INITIAL_CONTACT. Nil admits all.
	Admit func(c *Connection, local, remote Identity, initial bool) error
}

// The configuration of a connection: see package conf.
type (
	Connection    = conf.Connection
	Party         = conf.Party
	AuthKind      = conf.AuthKind
	SHA1Use       = conf.SHA1Use
	Child         = conf.Child
	Encapsulation = conf.Encapsulation
	Uniqueness    = conf.Uniqueness
	Retransmit    = conf.Retransmit
	Identity      = rules.Identity
)

// The ways to authenticate, the uses of SHA-1, the policies of uniqueness, and the settings of
// encapsulation.
const (
	AuthCert = conf.AuthCert
	AuthPSK  = conf.AuthPSK

	SHA1Auto   = conf.SHA1Auto
	SHA1Never  = conf.SHA1Never
	SHA1Always = conf.SHA1Always

	UniqueReplace = conf.UniqueReplace
	UniqueKeep    = conf.UniqueKeep
	UniqueNever   = conf.UniqueNever

	EncapAuto   = conf.EncapAuto
	EncapAlways = conf.EncapAlways
	EncapNever  = conf.EncapNever
	EncapAsk    = conf.EncapAsk
)

// ---- events: what the daemon tells a Machine ----

// Event is one of the types below.
type Event interface{ isEvent() }

type (
	// Initiate starts the IKE SA as initiator. The first of Children is set up
	// in IKE_AUTH, the others by CREATE_CHILD_SA; with none, the first child of
	// the connection.
	Initiate struct {
		Children []*Child
		Flow     *ipsec.Flow // the packet that asked for it, or nil
		// Known says that this gateway has another IKE SA with the peer. Without it,
		// INITIAL_CONTACT tells the peer to forget those that it may still have (RFC
		// 7296, Section 2.4).
		Known bool
	}
	// Received is a datagram, without its non-ESP marker. The Machine may keep Raw.
	Received struct {
		Raw           []byte
		Local, Remote netip.AddrPort
	}
	// Timeout says that Deadline has passed.
	Timeout struct{}
	// Signed answers Sign.
	Signed struct {
		Token uint64
		Auth  message.Auth
		Err   error
	}
	// Verified answers Verify.
	Verified struct {
		Token uint64
		Err   error
	}
	// InstallFailed says that an InstallSA could not be carried out.
	InstallFailed struct {
		ID  ipsec.SAID
		Err error
	}
	// CreateChild asks for a CHILD SA.
	CreateChild struct {
		Child *Child
		Flow  *ipsec.Flow
	}
	// RekeyChild asks for the CHILD SAs of this name to be rekeyed; an empty
	// name means all.
	RekeyChild struct{ Name string }
	// RekeyIKE asks for the IKE SA to be rekeyed.
	RekeyIKE struct{}
	// DeleteChild asks for the CHILD SAs of this name to be deleted.
	DeleteChild struct{ Name string }
	// Close deletes the IKE SA with all its children.
	Close struct{}
	// Reconfigure replaces the configuration of an established connection. It takes
	// effect with the next exchange; what is negotiated stays.
	Reconfigure struct{ Connection *Connection }
	// CheckLiveness sends an empty INFORMATIONAL request now.
	CheckLiveness struct{}
	// Expired passes on what the data plane says of an SA's lifetime.
	Expired struct {
		ID   ipsec.SAID
		Hard bool
	}
	// PeerMoved passes on that authenticated ESP came from a new address.
	PeerMoved struct {
		ID     ipsec.SAID
		Remote netip.AddrPort
	}
	// Used passes on ipsec.FirstUse.
	Used struct{ ID ipsec.SAID }
)

func (Initiate) isEvent()      {}
func (Received) isEvent()      {}
func (Timeout) isEvent()       {}
func (Signed) isEvent()        {}
func (Verified) isEvent()      {}
func (InstallFailed) isEvent() {}
func (CreateChild) isEvent()   {}
func (RekeyChild) isEvent()    {}
func (RekeyIKE) isEvent()      {}
func (DeleteChild) isEvent()   {}
func (Close) isEvent()         {}
func (Reconfigure) isEvent()   {}
func (CheckLiveness) isEvent() {}
func (Expired) isEvent()       {}
func (PeerMoved) isEvent()     {}
func (Used) isEvent()          {}

// ---- actions: what a Machine tells the daemon to do, in this order ----

// Action is one of the types below.
type Action interface{ isAction() }

type (
	// Send sends an IKE message. The daemon puts the non-ESP marker before it
	// where Local's port is not 500 (RFC 3948, Section 2.2).
	Send struct {
		Data          []byte
		Local, Remote netip.AddrPort
	}
	// SendKeepAlive sends a NAT keepalive (RFC 3948, Section 2.3).
	SendKeepAlive struct{ Local, Remote netip.AddrPort }
	// Sign asks for the AUTH payload over Octets with the connection's private
	// key; the answer is a Signed event with the same Token.
	Sign struct {
		Token      uint64
		Connection *Connection
		Scheme     suite.SignatureScheme
		Octets     []byte
	}
	// Verify asks whether the peer's certificates lead to the connection's CA,
	// speak for the identity, and signed Octets; the answer is a Verified event.
	Verify struct {
		Token        uint64
		Connection   *Connection
		Identity     Identity
		Certificates [][]byte // DER, the leaf first
		Auth         message.Auth
		Octets       []byte
	}
	// InstallSA adds an SA to the data plane, which takes over the keys.
	InstallSA struct{ SA ipsec.SA }
	// MoveSA changes the outer addresses of an SA.
	MoveSA struct {
		ID            ipsec.SAID
		Local, Remote netip.AddrPort
		Encap         bool
	}
	// RemoveSA removes an SA from the data plane.
	RemoveSA struct{ ID ipsec.SAID }
	// Succeed hands over to a new IKE SA after a rekey: the daemon adds the
	// Machine to its table. The CHILD SAs have moved to it. A redundant one, made
	// when both ends rekeyed at once, follows the one that remains: it has no
	// CHILD SAs, takes no orders, and ends without a report (RFC 7296, Section
	// 2.8.1).
	Succeed struct {
		Machine   *Machine
		Redundant bool
	}
	// Report tells the operator something that matters; it asks for nothing.
	Report struct{ What Notice }
	// Done ends the Machine: nothing is installed, nothing more will be sent.
	Done struct{}
)

func (Send) isAction()          {}
func (SendKeepAlive) isAction() {}
func (Sign) isAction()          {}
func (Verify) isAction()        {}
func (InstallSA) isAction()     {}
func (MoveSA) isAction()        {}
func (RemoveSA) isAction()      {}
func (Succeed) isAction()       {}
func (Report) isAction()        {}
func (Done) isAction()          {}

// Notice is what a Machine reports. Kind is stable.
type Notice struct {
	Kind  NoticeKind
	Child string // name of the tunnel, where it is about one
	// Code is the stable code of a failure: "no-proposal-chosen",
	// "authentication-failed", "ts-unacceptable", "peer-not-responding", ...
	Code string
	Err  error // the cause in words, for failures
	// Evidence is what the peer showed of a failure, or nil. It belongs to the receiver.
	Evidence *rules.Evidence
	// InitialContact stands with IKEUp: the peer says that it has no other IKE SA
	// between these identities (RFC 7296, Section 2.4).
	InitialContact bool
}

// NoticeKind is what a Notice is about.
type NoticeKind uint8

// The kinds of notices.
const (
	IKEUp          NoticeKind = iota // established and authenticated
	IKERekeyed                       // Succeed follows
	IKEDown                          // closed by either side with all its tunnels, Code says why; Err is nil where that was asked for
	IKEFailed                        // never came up
	ChildUp                          // installed in both directions
	ChildRekeyed                     // replaced by a new one
	ChildDown                        // removed
	ChildFailed                      // never came up, or could not be rekeyed
	PeerDropped                      // a message was dropped; Code says why; for counters, not for logs
	IKERekeyFailed                   // the IKE SA could not be rekeyed; it is tried again while it lives
)
