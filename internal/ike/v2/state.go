package v2

import (
	"time"

	"caponier/internal/ike/step"
	"caponier/internal/ike/v2/fault"
)

// State is where an IKE SA stands.
//
//	  initiator                               responder
//	              ┌──────┐                                ┌──────┐
//	              │ Idle │                                │ Idle │
//	              └──┬───┘                                └──┬───┘
//	Initiate         │ IKE_SA_INIT request                   │ IKE_SA_INIT request received,
//	             ┌───▼──────┐                            ┌───▼──────┐  response sent
//	      ┌──────┤ InitSent ├─┐ COOKIE,                  │ HalfOpen │
//	      │      └───▲──────┘ │ INVALID_KE_PAYLOAD       └───┬──────┘
//	      │          └────────┘                              │ IKE_AUTH request
//	      │ response                                     ┌───▼───────┐
//	  ┌───▼─────┐ own signature made                     │ Verifying │ peer's signature
//	  │ Signing │                                        └───┬───────┘
//	  └───┬─────┘                                        ┌───▼─────┐
//	      │ IKE_AUTH request                             │ Signing │ own signature
//	  ┌───▼──────┐    ┌───────────┐                      └───┬─────┘
//	  │ AuthSent ├────▶ Verifying │ peer's signature         │ IKE_AUTH response
//	  └──────────┘    └────┬──────┘                          │
//	                       └──────────────┐     ┌────────────┘
//	                                   ┌──▼─────▼────┐
//	                                   │ Established │
//	                                   └─┬───┬─────┬─┘
//	        a new IKE SA has taken over  │   │     │ Delete received
//	                          ┌──────────▼┐  │     │
//	                          │ Replaced  ├─┐│     │
//	                          └─────────┬─┘ ││ Delete sent
//	                    Delete received │ ┌─▼▼───────┐
//	                                    │ │ Deleting │
//	                                    │ └──┬────┬──┘
//	                                 ┌──▼────▼─┐  │ answered, or given up
//	                                 │ Closed  ├──▼──▶ Gone
//	                                 └─────────┘ answers repetitions for a while
//
// With a shared key, Signing and Verifying are passed through in one Step. From
// every state a failure leads to Closed or Gone.
type State = step.State

// The states.
const (
	Idle        = step.Idle
	InitSent    = step.InitSent
	HalfOpen    = step.HalfOpen
	Signing     = step.Signing
	AuthSent    = step.AuthSent
	Verifying   = step.Verifying
	Established = step.Established
	Replaced    = step.Replaced
	Deleting    = step.Deleting
	Closed      = step.Closed
	Gone        = step.Gone
)

// The durations that are not configured.
const (
	// setupLimit is how long a machine may wait, as a responder for IKE_AUTH and
	// as either side for a signature, before the half-open IKE SA ends.
	setupLimit = 30 * time.Second
	// lingerTime is how long an ended IKE SA answers repetitions of the request
	// that ended it: its response may be lost.
	lingerTime = 5 * time.Second
	// replacedLimit is how long the peer has to delete an IKE SA that it has
	// replaced, or a redundant one, before this side gives it up.
	replacedLimit = 60 * time.Second
)

func (m *Machine) becomeInitSent() { m.state = InitSent }

func (m *Machine) becomeHalfOpen() {
	m.state = HalfOpen
	m.limitSetup()
}

func (m *Machine) becomeSigning() {
	m.state = Signing
	m.limitSetup()
}

func (m *Machine) becomeAuthSent() {
	m.state = AuthSent
	m.timers.Stop(m.setupTimer) // the retransmission limits it from here
}

func (m *Machine) becomeVerifying() {
	m.state = Verifying
	m.limitSetup()
}

// limitSetup starts the clock of the half-open IKE SA, once.
func (m *Machine) limitSetup() {
	if m.setupTimer.Running() {
		return
	}
	m.setupTimer = m.after(setupLimit, func(m *Machine) {
		m.fail(&fault.Fault{Code: fault.CodeTimeout, Err: fault.ErrSetupLimit})
	})
}

// becomeEstablished forgets what only the set-up needs.
func (m *Machine) becomeEstablished() {
	m.state = Established
	m.timers.Stop(m.setupTimer)
	m.setup = nil
	m.candidates = nil
	m.session.ForgetAuthKeys()
	m.established = m.now
	m.startLife()
}

// becomeReplaced is for the IKE SA whose CHILD SAs a new one has.
func (m *Machine) becomeReplaced() {
	m.state = Replaced
	m.timers.StopAll()
	if m.outstanding != nil {
		m.armRetransmit() // the Delete has to wait for it
	}
	m.after(replacedLimit, func(m *Machine) { m.enqueue(&deleteIKE{}) })
}

func (m *Machine) becomeDeleting() {
	m.state = Deleting
}

// becomeClosed ends the IKE SA but for answers to repetitions.
func (m *Machine) becomeClosed() {
	m.release()
	m.state = Closed
	m.after(lingerTime, func(m *Machine) { m.becomeGone() })
}

// becomeGone ends the Machine. Nothing refers to its keys any more.
func (m *Machine) becomeGone() {
	if m.state == Gone {
		return
	}
	m.release()
	m.state = Gone
	if m.session != nil {
		m.session.Wipe()
	}
	m.act(Done{})
}

// release gives back everything but the keys that repetitions are answered with.
func (m *Machine) release() {
	m.timers.StopAll()
	if m.outstanding != nil {
		task := m.outstanding.task
		m.outstanding = nil
		task.cancel(m)
	}
	for _, w := range m.queue {
		w.task.cancel(m)
	}
	m.queue = nil
	m.removeChildren()
	m.dropSetup()
}

// dropSetup forgets a set-up that came to nothing.
func (m *Machine) dropSetup() {
	if m.setup != nil && m.setup.firstChild != nil {
		m.setup.firstChild.discard(m)
	}
	m.setup = nil
}
