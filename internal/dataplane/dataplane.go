// Package dataplane is the border between control and the planes that carry
// packets: the Backend interface, its fake, and (package dataplanetest) the
// suite that every implementation passes.
package dataplane

import (
	"errors"
	"net/netip"

	"caponier/internal/ipsec"
)

// Errors that every Backend returns, wrapped with what it was about.
var (
	ErrExists    = errors.New("SA exists already")
	ErrNotFound  = errors.New("no such SA")
	ErrLimit     = errors.New("limit reached")
	ErrTransform = errors.New("transform not supported by this data plane")
	ErrEncap     = errors.New("AH cannot travel in UDP, and so not through a NAT")
	ErrClosed    = errors.New("data plane is closed")
)

// Backend carries packets: the user-space plane, the Linux kernel, or a fake.
//
// All methods may be called from several goroutines. None blocks for longer
// than a netlink round trip. A method that fails has changed nothing.
type Backend interface {
	// AllocateSPI returns a random SPI for an inbound SA, unused so far and
	// reserved until AddSA takes it or ReleaseSPI gives it back. The Backend may
	// encode its own routing in it (the worker that will own the SA); the rest
	// is random, never sequential.
	AllocateSPI(p ipsec.Protocol) (ipsec.SPI, error)
	ReleaseSPI(p ipsec.Protocol, spi ipsec.SPI)

	// AddSA installs one direction. The Backend takes over the keys of sa and
	// wipes them when the SA goes. Among outbound SAs of one ReqID whose traffic
	// selectors cover a packet, the one added last carries it. Packets held for
	// the ReqID leave as soon as an outbound SA is there.
	AddSA(sa ipsec.SA) error
	// UpdateSA moves the SA to new outer addresses, keeping its sequence number
	// and replay window.
	UpdateSA(id ipsec.SAID, u AddressUpdate) error
	// DeleteSA removes it and wipes its keys.
	DeleteSA(id ipsec.SAID) error
	// SAs returns the SAD.
	SAs() []ipsec.SAStatus

	// SetPolicies replaces the SPD as a whole. Calling it twice with the same
	// list changes nothing. Traffic of policies that stay is not disturbed.
	SetPolicies(policies []ipsec.Policy) error
	Policies() []ipsec.Policy

	// Events delivers what the plane has to say. The channel has a bound: a
	// Backend drops and counts what is not read in time, except hard expiries,
	// which it keeps. It is closed by Close.
	Events() <-chan ipsec.Event

	// Counters returns the totals of the plane, by stable name: packets, octets,
	// and one counter for each reason to drop.
	Counters() map[string]uint64

	// Close stops the plane and wipes all keys. It is idempotent.
	Close() error
}

// AddressUpdate are the new outer addresses of an SA.
type AddressUpdate struct {
	Local, Remote netip.AddrPort
	Encap         bool
}
