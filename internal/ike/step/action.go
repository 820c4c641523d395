package step

import (
	"net/netip"

	"caponier/internal/ike/message"
	"caponier/internal/ike/v2/conf"
	"caponier/internal/ike/v2/rules"
	"caponier/internal/ipsec"
	"caponier/internal/suite"
)

// Action is what a machine tells the daemon to do: one of the types below.
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
		Connection *conf.Connection
		Scheme     suite.SignatureScheme
		Octets     []byte
	}
	// Verify asks whether the peer's certificates lead to the connection's CA,
	// speak for the identity, and signed Octets; the answer is a Verified event.
	Verify struct {
		Token        uint64
		Connection   *conf.Connection
		Identity     rules.Identity
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
	// machine to its table. The CHILD SAs have moved to it. A redundant one, made
	// when both ends rekeyed at once, follows the one that remains: it has no
	// CHILD SAs, takes no orders, and ends without a report (RFC 7296, Section
	// 2.8.1).
	Succeed struct {
		Machine   Machine
		Redundant bool
	}
	// Report tells the operator something that matters; it asks for nothing.
	Report struct{ What Notice }
	// Done ends the machine: nothing is installed, nothing more will be sent.
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
