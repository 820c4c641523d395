package v1

import (
	"time"

	"caponier/internal/ike/step"
	"caponier/internal/ike/v2/fault"
)

// state is where an IKE SA stands. Numbers are messages of main mode.
//
//	  initiator                                 responder
//	    ┌──────┐                                  ┌──────┐
//	    │ idle │                                  │ idle │
//	    └──┬───┘                                  └──┬───┘
//	Initiate│ 1 sent                       1 received│ 2 sent
//	   ┌────▼────┐                            ┌──────▼───────┐
//	   │ waitSA  │                            │ waitEnvelope │
//	   └────┬────┘                            └──────┬───────┘
//	2 received│ Envelope asked                3 received│ Unwrap, then Examine asked
//	  ┌─────▼──────┐                            ┌────▼────┐
//	  │ enveloping │                            │ opening │
//	  └─────┬──────┘                            └────┬────┘
//	        │ 3 sent                                 │ Envelope asked
//	 ┌──────▼───────┐                          ┌─────▼──────┐
//	 │ waitEnvelope │                          │ enveloping │
//	 └──────┬───────┘                          └─────┬──────┘
//	4 received│ Unwrap, then Examine asked              │ 4 sent
//	   ┌────▼────┐                              ┌────▼─────┐
//	   │ opening │                              │ waitHash │
//	   └────┬────┘                              └────┬─────┘
//	        │ 5 sent                       5 received│ 6 sent
//	   ┌────▼─────┐  6 received   ┌─────────────┐    │
//	   │ waitHash ├───────────────▶ established ◀────┘
//	   └──────────┘               └──┬───────┬──┘
//	  a newer IKE SA has taken over  │       │ Delete sent or received,
//	                          ┌──────▼───┐   │ peer dead
//	                          │ replaced ├───▼──▶ gone
//	                          └──────────┘
//
// An IKE SA that the peer has deleted is deleted for a moment, in which a newer one
// may take over, before it is gone. A set-up that fails goes to failed, which answers repetitions with the same
// refusal for a while, and from there to gone.
type state uint8

// The states.
const (
	idle state = iota
	waitSA
	enveloping
	waitEnvelope
	opening
	waitHash
	established
	replaced
	deleted // by the peer; a newer IKE SA may still take the IPsec SAs over
	failed
	gone
)

// public is the state in the words of package step.
func (m *Machine) public() step.State {
	switch m.state {
	case idle:
		return step.Idle
	case waitSA:
		return step.InitSent
	case enveloping:
		return step.Signing
	case opening:
		return step.Verifying
	case waitEnvelope, waitHash:
		if m.initiator {
			return step.AuthSent
		}
		return step.HalfOpen
	case established:
		return step.Established
	case replaced:
		return step.Replaced
	case deleted:
		return step.Deleting
	case failed:
		return step.Closed
	default:
		return step.Gone
	}
}

// The durations that are not configured.
const (
	// setupLimit is how long a set-up may take in all.
	setupLimit = 30 * time.Second
	// lingerTime is how long a set-up that failed answers repetitions.
	lingerTime = 10 * time.Second
	// exchangeLinger is how long an exchange of phase 2 that is over answers
	// repetitions.
	exchangeLinger = 60 * time.Second
	// thirdTime is how long an exchange of ours that is over keeps an IKE SA that is
	// replaced.
	thirdTime = 15 * time.Second
	// replacedLimit is how long the peer has to delete an SA that it has replaced,
	// before this side does.
	replacedLimit = 60 * time.Second
	// graceTime is how long an SA that has been replaced stays, for packets that are
	// on their way and for a last message that has to be repeated.
	graceTime = 5 * time.Second
	// courtesy is how much longer than the end that decides the other one waits with a
	// deletion.
	courtesy = 25 * time.Second
	// reminders are how often a Delete is sent again, for nothing answers it, every
	// reminderTime.
	reminders    = 3
	reminderTime = 1500 * time.Millisecond
	// retryDelay is how long a replacement that failed waits for its next try.
	retryDelay = 30 * time.Second
	// defaultKeepAlive is the interval of NAT keepalives (RFC 3948, Section 4).
	defaultKeepAlive = 20 * time.Second
)

// limitSetup starts the clock of a set-up, once.
func (m *Machine) limitSetup() {
	if m.setupTimer.Running() {
		return
	}
	m.setupTimer = m.after(setupLimit, func(m *Machine) {
		m.fail(&failure{code: fault.CodeTimeout, err: errSetupLimit})
	})
}

// becomeEstablished forgets what only the set-up needs.
func (m *Machine) becomeEstablished() {
	m.state = established
	m.timers.Stop(m.setupTimer)
	m.timers.Stop(m.setup.repeater.timer)
	m.setup.wipe()
	m.setup = nil
	m.candidates, m.predecessor = nil, nil
	m.session.keys.ID.Wipe()
	m.established, m.heard = m.now, m.now
	m.startLife()
}

// fail ends an IKE SA that never came up, without a word to the peer.
func (m *Machine) fail(f *failure) {
	m.reportFailed(f)
	m.becomeGone()
}

func (m *Machine) reportFailed(f *failure) {
	if m.predecessor != nil {
		m.act(step.Tell{To: m.predecessor, Event: step.SuccessorFailed{Code: f.code, Err: f.err}})
		return
	}
	m.notice(step.IKEFailed, "", f)
}

// becomeFailed ends a set-up, but for answers to repetitions.
func (m *Machine) becomeFailed(f *failure) {
	m.reportFailed(f)
	m.timers.StopAll()
	m.state = failed
	if m.setup != nil {
		m.setup.wipe()
	}
	m.after(lingerTime, (*Machine).becomeGone)
}

// becomeGone ends the Machine. Nothing refers to its keys any more.
func (m *Machine) becomeGone() {
	if m.state == gone {
		return
	}
	m.state = gone
	m.timers.StopAll()
	if m.heir != nil {
		m.bequeath(estate{wishes: m.unanswered()})
	}
	for _, x := range m.quicks {
		m.discard(x)
	}
	clear(m.quicks)
	m.queue, m.predecessor, m.elders, m.seen = nil, nil, nil, seen{}
	m.removeChildren()
	if m.setup != nil {
		m.setup.wipe()
		m.setup = nil
	}
	if m.session != nil {
		m.session.wipe()
	}
	m.act(step.Done{})
}

// down ends an IKE SA that was up. The peer hears of it where tell says so: of
// the IPsec SAs too, for they may outlive an IKE SA (RFC 2408, Section 3.15).
func (m *Machine) down(f *failure, tell bool) {
	if tell {
		m.deleteAll()
	}
	if m.state != replaced {
		m.notice(step.IKEDown, "", f)
	}
	m.becomeGone()
}

// close ends the IKE SA in good order.
func (m *Machine) close(f *failure) {
	switch m.state {
	case established, replaced:
		m.down(f, true)
	case deleted:
		m.down(f, false)
	case failed:
		m.becomeGone()
	default:
		m.fail(f)
	}
}
