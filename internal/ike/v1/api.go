// Package v1 is the machine of ISAKMP and IKEv1 (RFC 2408, RFC 2409), in the
// profile of GM/T 0022: main mode with the SM2 digital envelope, quick mode,
// informational exchanges. Like the machine of IKEv2 it is a pure function of its
// state, the time and an event, and speaks the vocabulary of package step.
//
// A Machine is one IKE SA (phase 1) and the IPsec SAs (phase 2) that it looks
// after. In IKEv1 an IKE SA is replaced by setting up another one; the IPsec SAs
// outlive it, and move to the machine of the new one: see succession.go. It is
// not safe for concurrent use: one goroutine owns it.
//
// The error contract:
//
//   - A datagram that is malformed, stray, or not authentic under the keys of an
//     IKE SA is dropped with Report{PeerDropped} and changes nothing.
//   - Before there are keys, what carries the right cookies and breaks the protocol
//     or fails authentication ends the set-up. Whatever was wrong, the peer gets
//     the same notification, after the same work.
//   - An authentic request for an IPsec SA that is refused is answered with the
//     notification of its failure; the IKE SA goes on.
//   - A notification in clear is a hint for the operator and ends nothing at once.
package v1

import (
	"caponier/internal/ike/step"
	"caponier/internal/ike/v2/conf"
	"caponier/internal/ike/v2/rules"
)

// The configuration of a connection, as package conf has it.
type (
	Connection = conf.Connection
	Child      = conf.Child
	Identity   = rules.Identity
)

var _ step.Machine = (*Machine)(nil)
