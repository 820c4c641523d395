package v2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"caponier/internal/ike/message"
	"caponier/internal/ike/v2/rules"
	"caponier/internal/ipsec"
	"caponier/internal/suite"
)

// The error contract of a Machine:
//
//   - A datagram that is malformed, stray, replayed, out of the window or not
//     authentic is dropped with Report{PeerDropped} and changes nothing. Before
//     there are keys, an IKE_SA_INIT response of error is taken for what it
//     claims only as far as initResponse says.
//   - An authentic request that is refused is answered with the notification of
//     its failure; the IKE SA goes on.
//   - An authentic request that breaks the syntax is answered with
//     INVALID_SYNTAX, which ends the IKE SA at both ends (RFC 7296, Section
//     2.21.3). So does an authentic response that breaks it: nobody knows any
//     more what the two ends agree on.
//   - Failing to set up a CHILD SA leaves the IKE SA up. Failing to authenticate
//     ends it.

// Codes of notices that no notification stands for. Those of notifications are
// their names: NO_PROPOSAL_CHOSEN is "no-proposal-chosen".
const (
	codeNotResponding = "peer-not-responding"
	codeTimeout       = "timeout"
	codeDeleted       = "deleted"
	codeClosed        = "closed"
	codeLifetime      = "lifetime-expired"
	codeInstall       = "install-failed"
	codeInternal      = "internal-error"
	codeQueueFull     = "queue-full"
	codeNotUnique     = "not-unique"

	dropMalformed    = "malformed"
	dropStray        = "stray"
	dropNotAuthentic = "not-authentic"
	dropReplayed     = "replayed"
	dropUnexpected   = "unexpected"
	dropRepeated     = "repeated" // of a request that is being worked on
	dropFragment     = "fragment" // it is there already, or does not fit the others
)

var (
	errSetupLimit    = errors.New("the IKE SA was not authenticated in time")
	errLifetime      = errors.New("the lifetime ended before the SA could be rekeyed")
	errNotResponding = errors.New("the peer does not answer")
	errQueueFull     = errors.New("too many requests are waiting for the peer")
	errMessageIDs    = errors.New("the message IDs of the IKE SA are used up")
	errNoChild       = errors.New("the connection has no tunnel to set up")
)

// failure is why something did not come about: a stable code, the cause in
// words and, where it is to be answered, the notification.
type failure struct {
	code   string
	err    error
	notify message.NotifyType
	data   []byte          // of the notification
	seen   *rules.Evidence // what the peer showed of it, or nil
}

// Error returns the cause.
func (f *failure) Error() string { return f.err.Error() }

// Unwrap returns the cause.
func (f *failure) Unwrap() error { return f.err }

// failf makes the failure that a notification of this kind reports.
func failf(kind message.NotifyType, format string, args ...any) *failure {
	return &failure{code: codeOf(kind), err: fmt.Errorf(format, args...), notify: kind}
}

// showing adds what the peer showed.
func (f *failure) showing(e rules.Evidence) *failure {
	f.seen = &e
	return f
}

// internal makes the failure of our own side: the peer hears TEMPORARY_FAILURE.
func internal(err error) *failure {
	return &failure{code: codeInternal, err: err, notify: message.TemporaryFailure}
}

// codeOf is the stable code of a notification.
func codeOf(kind message.NotifyType) string {
	return strings.ReplaceAll(strings.ToLower(kind.String()), "_", "-")
}

// payload is the notification that answers a request with f.
func (f *failure) payload() *message.Notify {
	return &message.Notify{Kind: f.notify, Data: f.data}
}

// refusal returns the failure that a response reports, or nil. RFC 7296,
// Section 3.10.1: an error notification that is not known fails the request.
func refusal(msg *message.Message) *failure {
	for _, p := range msg.Payloads {
		if n, ok := p.(*message.Notify); ok && n.Kind.IsError() {
			return failf(n.Kind, "the peer answered %s", n.Kind).showing(rules.Refusal(msg, n))
		}
	}
	return nil
}

// wrongKE is the failure of a KE payload for another method than the chosen one.
func wrongKE(want ipsec.Transform) *failure {
	f := failf(message.InvalidKEPayload, "the peer's key exchange is not %s", suite.Name(want))
	f.data = binary.BigEndian.AppendUint16(nil, want.ID)
	return f
}
