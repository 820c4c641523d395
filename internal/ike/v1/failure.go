package v1

import (
	"errors"
	"fmt"

	"caponier/internal/ike/isakmp"
	"caponier/internal/ike/v2/fault"
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
func (f *failure) with(cure string) *failure {
	if cure != "" {
		f.err = fmt.Errorf("%w; %s", f.err, cure)
	}
	return f
}

// Cures, by what the other end was silent about or refused. They name the
// settings of the connection's gm section.
const (
	cureFirst = "if it is reachable, it may speak the version of 2010: set `isakmp-version: 1.0`"
	cureOffer = "it may number SM4 by the draft (set `ike-sm4-id: 127`), want the key's length (set `key-length: yes`), " +
		"or speak the version of 2010 (set `isakmp-version: 1.0`)"
	cureEnvelope = "it may not read our envelope: try `envelope: c1c3c2` or `envelope: c1c2c3`, `signature: raw`, " +
		"`pre-hash: bare`, `signed-certificate: der`, `id-from: signature`"
	cureQuickHash = "the peer hashes quick mode %s; set `quick-mode-hash: %s`"
	cureChild     = "it may number SM4 otherwise (set `esp-sm4-id: 129`) or want the key's length (set `key-length: yes`)"
)
