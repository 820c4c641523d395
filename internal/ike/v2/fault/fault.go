// Package fault says why something did not come about in IKEv2: the stable code,
// the cause in words, the notification that answers it, and what the peer showed.
//
// The error contract of a Machine:
//
//   - A datagram that is malformed, stray, replayed, out of the window or not
//     authentic is dropped with Report{PeerDropped} and changes nothing. Before
//     there are keys, an IKE_SA_INIT response of error is taken for what it
//     claims only as far as initResponse says.
//   - An authentic request that is refused is answered with the notification of
//     its Fault; the IKE SA goes on.
//   - An authentic request that breaks the syntax is answered with
//     INVALID_SYNTAX, which ends the IKE SA at both ends (RFC 7296, Section
//     2.21.3). So does an authentic response that breaks it: nobody knows any
//     more what the two ends agree on.
//   - Failing to set up a CHILD SA leaves the IKE SA up. Failing to authenticate
//     ends it.
package fault

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"caponier/internal/ike/message"
	"caponier/internal/ike/v2/conf"
	"caponier/internal/ike/v2/rules"
	"caponier/internal/ipsec"
	"caponier/internal/suite"
)

// Codes of notices that no notification stands for. Those of notifications are
// their names: NO_PROPOSAL_CHOSEN is "no-proposal-chosen".
const (
	CodeNotResponding = "peer-not-responding"
	CodeTimeout       = "timeout"
	CodeDeleted       = "deleted"
	CodeClosed        = "closed"
	CodeLifetime      = "lifetime-expired"
	CodeInstall       = "install-failed"
	CodeInternal      = "internal-error"
	CodeQueueFull     = "queue-full"
	CodeNotUnique     = "not-unique"
	CodeMode          = "mode-mismatch"
	CodeThroughNAT    = "ah-through-nat"
	CodeAggfrag       = "aggfrag-mismatch"
	CodeLimit         = "beyond-limits" // also of what is dropped

	DropMalformed    = "malformed"
	DropStray        = "stray"
	DropNotAuthentic = "not-authentic"
	DropReplayed     = "replayed"
	DropUnexpected   = "unexpected"
	DropRepeated     = "repeated" // of a request that is being worked on
	DropFragment     = "fragment" // it is there already, or does not fit the others
)

// Causes.
var (
	ErrSetupLimit    = errors.New("the IKE SA was not authenticated in time")
	ErrLifetime      = errors.New("the lifetime ended before the SA could be rekeyed")
	ErrNotResponding = errors.New("the peer does not answer")
	ErrQueueFull     = errors.New("too many requests are waiting for the peer")
	ErrMessageIDs    = errors.New("the message IDs of the IKE SA are used up")
	ErrNoChild       = errors.New("the connection has no tunnel to set up")
)

// Fault is why something did not come about: a stable code, the cause in
// words and, where it is to be answered, the notification.
type Fault struct {
	Code   string
	Err    error
	Notify message.NotifyType
	Data   []byte          // of the notification
	Seen   *rules.Evidence // what the peer showed of it, or nil
}

// Error returns the cause.
func (f *Fault) Error() string { return f.Err.Error() }

// Unwrap returns the cause.
func (f *Fault) Unwrap() error { return f.Err }

// Curable is a failure that a setting of the connection may cure: one of Try, "key:
// value", for the reason in Why.
type Curable struct {
	Err error
	Why string
	Try []string
}

// Error returns the cause and the cure, for those who ask no further.
func (c *Curable) Error() string {
	text := c.Err.Error() + "; " + c.Why + ": set "
	for i, setting := range c.Try {
		switch {
		case i > 0 && i == len(c.Try)-1:
			text += " or "
		case i > 0:
			text += ", "
		}
		text += "`" + setting + "`"
	}
	return text
}

// Unwrap returns the cause.
func (c *Curable) Unwrap() error { return c.Err }

// Newf makes the Fault that a notification of this kind reports.
func Newf(kind message.NotifyType, format string, args ...any) *Fault {
	return &Fault{Code: CodeOf(kind), Err: fmt.Errorf(format, args...), Notify: kind}
}

// Showing adds what the peer showed.
func (f *Fault) Showing(e rules.Evidence) *Fault {
	f.Seen = &e
	return f
}

// Internal makes the Fault of our own side: the peer hears TEMPORARY_FAILURE.
func Internal(err error) *Fault {
	return &Fault{Code: CodeInternal, Err: err, Notify: message.TemporaryFailure}
}

// CodeOf is the stable code of a notification.
func CodeOf(kind message.NotifyType) string {
	return strings.ReplaceAll(strings.ToLower(kind.String()), "_", "-")
}

// Payload is the notification that answers a request with f.
func (f *Fault) Payload() *message.Notify {
	return &message.Notify{Kind: f.Notify, Data: f.Data}
}

// Refusal returns the Fault that a response reports, or nil. RFC 7296,
// Section 3.10.1: an error notification that is not known fails the request.
func Refusal(msg *message.Message) *Fault {
	for _, p := range msg.Payloads {
		if n, ok := p.(*message.Notify); ok && n.Kind.IsError() {
			return Newf(n.Kind, "the peer answered %s", n.Kind).Showing(rules.Refusal(msg, n))
		}
	}
	return nil
}

// WrongKE is the Fault of a KE payload for another method than the chosen one.
func WrongKE(want ipsec.Transform) *Fault {
	f := Newf(message.InvalidKEPayload, "the peer's key exchange is not %s", suite.Name(want))
	f.Data = binary.BigEndian.AppendUint16(nil, want.ID)
	return f
}

// OtherMode is the Fault of a tunnel in one mode for which the peer takes the
// other. A responder may decline transport mode, which is for the initiator to
// take or leave (RFC 7296, Section 1.3.1): nothing else than what is configured
// is taken.
func OtherMode(configured ipsec.Mode, in message.ExchangeType) *Fault {
	other := ipsec.Transport
	if configured == ipsec.Transport {
		other = ipsec.Tunnel
	}
	f := Newf(message.NoProposalChosen, "the peer takes %s mode, and %s mode is configured", other, configured)
	f.Code = CodeMode
	return f.Showing(rules.Evidence{Exchange: in})
}

// Aggfrag is the Fault of a tunnel whose ends do not agree on AGGFRAG mode. An
// initiator that does not accept what the responder made of it deletes the SA (RFC
// 9347, Section 5.1).
func Aggfrag(c *conf.Child, in message.ExchangeType) *Fault {
	f := Newf(message.NoProposalChosen, "tunnel %s has aggfrag: %s, and the peer does not agree with that", c.Name, c.Aggfrag)
	f.Code = CodeAggfrag
	return f.Showing(rules.Evidence{Exchange: in})
}

// ThroughNAT is the Fault of a tunnel of AH where a NAT is between the ends: what
// it changes is what AH covers (RFC 3715, Section 2.1), and there is no AH in UDP.
func ThroughNAT(c *conf.Child, in message.ExchangeType) *Fault {
	f := Newf(message.NoProposalChosen, "tunnel %s is of AH, which no NAT lets through, and there is one on the way", c.Name)
	f.Code = CodeThroughNAT
	return f.Showing(rules.Evidence{Exchange: in})
}

// OtherProtocol is the Fault of a tunnel for which the peer offers another
// protocol.
func OtherProtocol(c *conf.Child, offered []message.Proposal) *Fault {
	return Newf(message.NoProposalChosen, "tunnel %s is of %s, and the peer offers none of it: %s", c.Name, c.Protocol, rules.Describe(offered))
}

// NotHosts is the Fault of a tunnel in transport mode whose selectors are not for
// the two ends of the IKE SA.
func NotHosts(c *conf.Child, hosts ipsec.Pair) *Fault {
	return Newf(message.TSUnacceptable, "transport mode is between %s and %s themselves, and tunnel %s is not for them",
		hosts.Local, hosts.Remote, c.Name)
}
