package step

import (
	"caponier/internal/ike/v2/rules"
)

// Notice is what a machine reports. Kind is stable.
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
