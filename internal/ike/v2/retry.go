package v2

import (
	"time"

	"caponier/internal/ike/v2/fault"

	"caponier/internal/ike/message"
	"caponier/internal/ike/v2/rules"
	"caponier/internal/ipsec"
)

// Limits on repeating a CREATE_CHILD_SA exchange that the peer refused for now.
// RFC 7296, Section 2.25: the refused side tries again over several minutes, and
// not at once; then it closes the IKE SA.
const (
	firstRetry = 2 * time.Second
	lastRetry  = 60 * time.Second
	retryLimit = 5 * time.Minute
)

// retry is what a CREATE_CHILD_SA exchange remembers of its earlier tries.
type retry struct {
	sent    ipsec.Transform // the key exchange method of the last try
	asked   ipsec.Transform // the one that the peer asked for
	refused int             // key exchange methods
	wait    time.Duration
	since   time.Time // of the first TEMPORARY_FAILURE
}

// group returns the key exchange method of the next try.
func (r *retry) group(own []ipsec.Proposal) ipsec.Transform {
	r.sent = r.asked
	if r.sent.ID == ipsec.KENone {
		r.sent = rules.PreferredKE(own)
	}
	return r.sent
}

// again reports whether a response asks for another try, and after how long.
func (r *retry) again(m *Machine, msg *message.Message, own []ipsec.Proposal) (bool, time.Duration) {
	if n, ok := msg.Notify(message.InvalidKEPayload); ok {
		group, ok := rules.DemandedKE(n, own, r.sent)
		if !ok || r.refused == maxKERetries {
			return false, 0
		}
		r.refused++
		r.asked = group
		return true, 0
	}
	if _, ok := msg.Notify(message.TemporaryFailure); ok {
		if r.since.IsZero() {
			r.since, r.wait = m.now, firstRetry
		} else {
			r.wait = min(2*r.wait, lastRetry)
		}
		if m.now.Sub(r.since) >= retryLimit {
			// The two ends do not have the same state: only a new IKE SA helps.
			m.close(fault.Newf(message.TemporaryFailure, "the peer has refused what was asked for %s", retryLimit))
			return false, 0
		}
		// The jitter keeps two ends that refuse each other from doing so for ever.
		return true, r.wait + time.Duration(m.randomBelow(int64(r.wait)))
	}
	return false, 0
}
