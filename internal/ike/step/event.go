package step

import (
	"net/netip"

	"caponier/internal/ike/message"
	"caponier/internal/ike/v2/conf"
	"caponier/internal/ipsec"
	"caponier/internal/secret"
	"caponier/internal/suite"
)

// Event is what the daemon tells a machine: one of the types below.
type Event interface{ isEvent() }

type (
	// Initiate starts the IKE SA as initiator. The first of Children is set up
	// in IKE_AUTH, the others by CREATE_CHILD_SA; with none, the first child of
	// the connection.
	Initiate struct {
		Children []*conf.Child
		Flow     *ipsec.Flow // the packet that asked for it, or nil
		// Known says that this gateway has another IKE SA with the peer. Without it,
		// INITIAL_CONTACT tells the peer to forget those that it may still have (RFC
		// 7296, Section 2.4).
		Known bool
	}
	// Received is a datagram, without its non-ESP marker. The machine may keep Raw.
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
	// Unwrapped answers Unwrap.
	Unwrapped struct {
		Token    uint64
		Key      secret.Key // the machine's, which wipes it
		Encoding suite.SM2Encoding
		Err      error
	}
	// Enveloped answers Envelope.
	Enveloped struct {
		Token      uint64
		Ciphertext []byte
		Signature  []byte
		Err        error
	}
	// Examined answers Examine: how the signature is made, and which of Octets it
	// covers.
	Examined struct {
		Token uint64
		Style suite.SM2Style
		Form  int
		Err   error
	}
	// InstallFailed says that an InstallSA could not be carried out.
	InstallFailed struct {
		ID  ipsec.SAID
		Err error
	}
	// CreateChild asks for a CHILD SA.
	CreateChild struct {
		Child *conf.Child
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
	// Destroy ends the IKE SA at once and wipes its keys. The peer is told, and not
	// waited for.
	Destroy struct{}
	// Reconfigure replaces the configuration of an established connection. It takes
	// effect with the next exchange; what is negotiated stays.
	Reconfigure struct{ Connection *conf.Connection }
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
	// Yield says that To is a newer IKE SA of IKEv1 between the same identities for
	// the same connection: the peer, or this side, has rekeyed. It takes over, but where
	// it is Unproven: the peer has not shown yet that it has it, too, and TakeOver may
	// follow.
	Yield struct {
		To       Machine
		Unproven bool
	}
	// Restore asks a machine of IKEv1 that has yielded to take over again: the peer has
	// deleted the newer IKE SA. Others are asked, in this order, where it is gone.
	Restore struct{ Others []Machine }
	// Inherit hands over what a machine of IKEv1 leaves to the one that replaces it.
	// Only machines make it, and only they read Estate.
	Inherit struct{ Estate any }
	// PeerDeleted passes on a Delete that came under an older IKE SA of IKEv1. SPI is
	// that of the outbound SA.
	PeerDeleted struct {
		Protocol ipsec.Protocol
		SPI      ipsec.SPI
	}
	// SuccessorFailed says that the machine that was to replace this one never came
	// up.
	SuccessorFailed struct {
		Code string
		Err  error
	}
)

func (Initiate) isEvent()        {}
func (Received) isEvent()        {}
func (Timeout) isEvent()         {}
func (Signed) isEvent()          {}
func (Verified) isEvent()        {}
func (InstallFailed) isEvent()   {}
func (CreateChild) isEvent()     {}
func (RekeyChild) isEvent()      {}
func (RekeyIKE) isEvent()        {}
func (DeleteChild) isEvent()     {}
func (Close) isEvent()           {}
func (Destroy) isEvent()         {}
func (Reconfigure) isEvent()     {}
func (CheckLiveness) isEvent()   {}
func (Expired) isEvent()         {}
func (PeerMoved) isEvent()       {}
func (Used) isEvent()            {}
func (Unwrapped) isEvent()       {}
func (Enveloped) isEvent()       {}
func (Examined) isEvent()        {}
func (Yield) isEvent()           {}
func (Restore) isEvent()         {}
func (Inherit) isEvent()         {}
func (SuccessorFailed) isEvent() {}
func (PeerDeleted) isEvent()     {}
