// Package dataplanetest is the suite of tests that every dataplane.Backend
// passes. What a Backend promises and no test here demands is not promised.
package dataplanetest

import (
	"net/netip"
	"testing"

	"caponier/internal/dataplane"
	"caponier/internal/netio"
)

// Instance is a Backend under test with the test's ends of its devices.
type Instance struct {
	dataplane.Backend
	// Inner is the far end of the protected side. It is nil for a Backend that
	// carries no packets, which then need only pass the tests of control.
	Inner *netio.Mem
	// Outer are the far ends of the outer devices. A nil one is not tested.
	Outer Outer
	Traits
}

// Traits are what planes may differ in. The zero value is the strictest.
type Traits struct {
	// Unmatched says that the plane lets packets pass that no policy matches: it
	// stands in the way of all traffic, not only of what is routed to it.
	Unmatched bool
	// PolicySelectors says that what comes out of an SA is checked against the
	// policies of its ReqID, where it has several selectors, and not against them.
	PolicySelectors bool
	// Blocks says that a packet without an SA, which may not ask for one, is
	// counted with those of policies that discard.
	Blocks bool
	// KeepsFirst is how many of too many packets that wait for an SA are kept at
	// least, where these are the first, and not counted, and not the last.
	KeepsFirst int
	// NoPorts says that fragments show no ports, the first neither: they are
	// no policy's that names ports.
	NoPorts bool
	// Gap says that an inbound SA takes no packets for the moment in which the
	// address of its peer changes.
	Gap bool
	// Removed are the counters of packets that had found an outbound SA, or were
	// looking for it, in the moment in which it was taken out to be moved.
	Removed []string
	// Coarse says that lifetimes in time are counted in seconds.
	Coarse bool
}

// Outer are the test's ends of the outer devices of one Instance. They carry
// what is behind the UDP or IP header.
type Outer struct {
	UDP4, UDP6 *netio.Mem
	ESP4, ESP6 *netio.Mem
	// Whole4 and Whole6 get packets with their IP header.
	Whole4, Whole6 *netio.Mem
	// AH4 and AH6 deliver packets with their IP header.
	AH4, AH6 *netio.Mem
}

func (o *Outer) all() []*netio.Mem { return []*netio.Mem{o.UDP4, o.UDP6, o.ESP4, o.ESP6} }

func (o *Outer) whole() []*netio.Mem { return []*netio.Mem{o.Whole4, o.Whole6} }

func (o *Outer) ah() []*netio.Mem { return []*netio.Mem{o.AH4, o.AH6} }

// Place is where an Instance stands: at one end of a link.
type Place struct {
	Addresses []netip.Addr   // of the gateway, one of each family
	Networks  []netip.Prefix // behind it, likewise
}

func place(side int) Place {
	return Place{
		Addresses: []netip.Addr{addr4[side], addr6[side]},
		Networks:  []netip.Prefix{net4[side], net6[side]},
	}
}

// Addresses of the two gateways and port of the suite's links, and the networks
// behind them.
var (
	addr4 = [2]netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}
	addr6 = [2]netip.Addr{netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")}
	net4  = [2]netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("10.2.0.0/16")}
	net6  = [2]netip.Prefix{netip.MustParsePrefix("fd00:1::/48"), netip.MustParsePrefix("fd00:2::/48")}
)

const port = 4500

// Run runs the suite. make makes a fresh Instance at a place, which closes itself
// with the test. Unless it is Coarse, its clock must run a hundred times in a second.
func Run(t *testing.T, make func(t *testing.T, at Place) *Instance) {
	t.Run("control", func(t *testing.T) {
		for name, test := range controlTests {
			t.Run(name, func(t *testing.T) { test(t, make(t, place(0))) })
		}
	})
	if probe := make(t, place(0)); probe.Inner == nil {
		return
	}
	t.Run("traffic", func(t *testing.T) {
		for name, test := range trafficTests {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(t, newLink(t, make(t, place(0)), make(t, place(1))))
			})
		}
	})
}
