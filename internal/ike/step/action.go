package step

import (
	"net/netip"

	"caponier/internal/ike/message"
	"caponier/internal/ike/v2/conf"
	"caponier/internal/ike/v2/rules"
	"caponier/internal/ipsec"
	"caponier/internal/secret"
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
	// Unwrap asks for the symmetric key in the peer's SK payload (GM/T 0022), which
	// is encrypted to the connection's encryption certificate; the answer is an
	// Unwrapped event.
	Unwrap struct {
		Token      uint64
		Connection *conf.Connection
		Ciphertext []byte
	}
	// Envelope asks for Key to be encrypted to the peer's encryption certificate,
	// and for a signature over Octets by the connection's signing key (GM/T 0022); the
	// answer is an Enveloped event. With Check, whether both certificates lead to the
	// connection's CA, have the right usage and fit its remote identity must be
	// found out before anything is encrypted to them.
	Envelope struct {
		Token        uint64
		Connection   *conf.Connection
		Check        bool
		Certificates [][]byte // the peer's for signatures, DER, the leaf first
		Encryption   []byte   // the peer's encryption certificate, DER
		Key          secret.Key
		Encoding     suite.SM2Encoding
		Octets       []byte
		Style        suite.SM2Style
	}
	// Examine asks whether the peer's two certificates lead to the connection's CA,
	// have the right usage and speak for the identity, and whether Signature is over
	// one of Octets (GM/T 0022); the answer is an Examined event.
	Examine struct {
		Token        uint64
		Connection   *conf.Connection
		Identity     rules.Identity
		Certificates [][]byte // for signatures, DER, the leaf first
		Encryption   []byte   // the encryption certificate, DER
		Signature    []byte
		Octets       [][]byte
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
	// Begin starts a machine that is to replace this one, in IKEv1: the daemon adds
	// it to its table, with the same owner, and gives it Event.
	Begin struct {
		Machine Machine
		Event   Event
	}
	// Tell passes an event on to another machine. Where that is gone, what an
	// Inherit event leaves is lost.
	Tell struct {
		To    Machine
		Event Event
	}
	// TakeOver says that the peer, too, has this IKE SA of IKEv1: the daemon tells the
	// older ones between the same identities to yield to it.
	TakeOver struct{}
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
func (Unwrap) isAction()        {}
func (Envelope) isAction()      {}
func (Examine) isAction()       {}
func (Begin) isAction()         {}
func (Tell) isAction()          {}
func (TakeOver) isAction()      {}
