package v1

import (
	"errors"
	"fmt"

	"caponier/internal/ike/isakmp"
	"caponier/internal/ike/message"
	"caponier/internal/ike/v1/proposal"
	"caponier/internal/ike/v2/fault"
	"caponier/internal/ike/v2/rules"
)

var (
	errSetupLimit = errors.New("the IKE SA was not authenticated in time")
	errLifetime   = errors.New("the lifetime ended before the SA could be replaced")
	errQueueFull  = errors.New("too many requests are waiting for the peer")
)

// failure is why something did not come about: a stable code, the cause in words
// and, where it is to be answered, the notification.
type failure struct {
	code   string
	err    error
	notify isakmp.NotifyType
	seen   *rules.Evidence // what the peer showed of it, or nil
}

// codes are the stable codes of notifications, which operators know from IKEv2
// where there is the like.
var codes = map[isakmp.NotifyType]string{
	isakmp.NoProposalChosen:     "no-proposal-chosen",
	isakmp.AuthenticationFailed: "authentication-failed",
	isakmp.InvalidIDInfo:        "ts-unacceptable",
	isakmp.InvalidHashInfo:      "authentication-failed",
	isakmp.InvalidSignature:     "authentication-failed",
	isakmp.InvalidCertificate:   "authentication-failed",
}

func codeOf(kind isakmp.NotifyType) string {
	if code, ok := codes[kind]; ok {
		return code
	}
	return "invalid-syntax"
}

// failf makes the failure that a notification of this kind reports.
func failf(kind isakmp.NotifyType, format string, args ...any) *failure {
	return &failure{code: codeOf(kind), err: fmt.Errorf(format, args...), notify: kind}
}

// internal makes the failure of our own side.
func internal(err error) *failure {
	return &failure{code: fault.CodeInternal, err: err, notify: isakmp.NoProposalChosen}
}

// with adds what the operator may try.
func (f *failure) with(c cure) *failure {
	f.err = &fault.Curable{Err: f.err, Why: c.why, Try: c.try}
	return f
}

// showing adds what the peer showed.
func (f *failure) showing(e rules.Evidence) *failure {
	f.seen = &e
	return f
}

// of is the evidence of an exchange.
func of(kind isakmp.ExchangeType) rules.Evidence {
	return rules.Evidence{Exchange: message.ExchangeType(kind)}
}

// refusal is the evidence of an exchange that the peer has refused.
func refusal(kind isakmp.ExchangeType) rules.Evidence {
	e := of(kind)
	e.ByPeer = true
	return e
}

// offers is the evidence of an exchange in which the ends have no proposal in
// common: ours, and the peer's where it has shown any.
func offers(kind isakmp.ExchangeType, ours, theirs *isakmp.SA) rules.Evidence {
	e := of(kind)
	e.Offered, e.Heard = proposal.Words(ours), proposal.Words(theirs)
	return e
}

// cure is what the operator may try: settings of the connection's gm section, and why
// they may help.
type cure struct {
	why string
	try []string
}

// Cures, by what the other end was silent about or refused.
var (
	cureFirst = cure{
		"if UDP 500 is open on the way in both directions, it may speak the version of 2010", []string{"isakmp-version: 1.0"},
	}
	cureOffer = cure{
		"it may number SM4 by the draft, want the key's length, or speak the version of 2010",
		[]string{"ike-sm4-id: 127", "key-length: yes", "isakmp-version: 1.0"},
	}
	cureEnvelope = cure{"it may not read our envelope, or not verify our signature", []string{
		"envelope: c1c3c2", "envelope: c1c2c3", "signature: raw", "pre-hash: bare", "pre-hash: message",
		"signed-certificate: der", "id-from: signature",
	}}
	cureChild = cure{"it may number SM4 otherwise, or want the key's length", []string{"esp-sm4-id: 129", "key-length: yes"}}
	cureRFC   = cure{
		"perhaps the peer hashes quick mode the RFC 2409 way, or without generic headers",
		[]string{"quick-mode-hash: rfc", "quick-mode-hash: bodies"},
	}
	cureStandard = cure{
		"perhaps the peer hashes quick mode as GM/T 0022 prints it", []string{"quick-mode-hash: standard", "quick-mode-hash: bodies"},
	}
)
