// Package step is what the daemon and the protocol machines say to each other:
// the events that it feeds them, the actions that they answer, and what they
// report of themselves. The machines of IKEv2 and of IKEv1 speak it alike.
package step

import (
	"io"
	"net/netip"
	"time"

	"caponier/internal/ike/isakmp"
	"caponier/internal/ike/message"
	"caponier/internal/ike/v2/conf"
	"caponier/internal/ike/v2/rules"
	"caponier/internal/ipsec"
)

// Machine is one IKE SA with its CHILD SAs, or IPsec SAs as IKEv1 calls them: a
// pure function of its state, the time and an event. It is not safe for
// concurrent use: one goroutine owns it.
type Machine interface {
	// Step gives an event to the machine and returns what is to be done, in this
	// order. It never blocks. now must not go backwards.
	Step(now time.Time, e Event) []Action
	// Deadline returns when the machine wants a Timeout event, or the zero Time.
	Deadline() time.Time
	// LocalSPI returns the SPI that this side chose, under which the peer's
	// messages arrive; SPIs returns both, 0 for one that is not known yet.
	LocalSPI() message.SPI
	SPIs() (initiator, responder message.SPI)
	// Initiator reports whether this side is the original initiator.
	Initiator() bool
	// Connection returns the configuration, or nil at a responder that has not
	// chosen it yet.
	Connection() *conf.Connection
	// Identities returns who this side and the peer are; zero until they are known.
	Identities() (local, remote rules.Identity)
	// Addrs returns the addresses that IKE messages travel between now.
	Addrs() (local, remote netip.AddrPort)
	Status() Status
}

// Env is what a machine needs of the world, injected.
type Env struct {
	Rand io.Reader // for SPIs, nonces, key exchange, IVs, jitter
	// AllocateSPI and ReleaseSPI reserve SPIs of inbound SAs in the data plane.
	AllocateSPI func(ipsec.Protocol) (ipsec.SPI, error)
	ReleaseSPI  func(ipsec.Protocol, ipsec.SPI)
	// Numbers are those of algorithms that IANA has not assigned.
	Numbers message.Numbers
	// Admit says whether a peer that has proved its identity may have another IKE
	// SA; initial is its INITIAL_CONTACT. Nil admits all.
	Admit func(c *conf.Connection, local, remote rules.Identity, initial bool) error
	// Show is shown every new message, in clear: one that was received when it is
	// opened, one that is sent before it is sealed. It keeps nothing of it. Nil is
	// shown nothing.
	Show func(d ipsec.Direction, m *message.Message)
	// ShowISAKMP is the same for those of IKEv1. In its main mode, nonces and
	// identities stand encrypted in messages that are in clear.
	ShowISAKMP func(d ipsec.Direction, m *isakmp.Message)
}
