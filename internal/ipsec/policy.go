package ipsec

import "fmt"

// Action is what happens to a packet that a policy matches (RFC 4301,
// Section 4.4.1).
type Action uint8

// The actions. The zero value discards.
const (
	Discard Action = iota
	Bypass
	Protect
)

// String returns the configuration's word for the action.
func (a Action) String() string {
	switch a {
	case Bypass:
		return "bypass"
	case Protect:
		return "protect"
	default:
		return "discard"
	}
}

// MarshalText makes JSON show what String shows.
func (a Action) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads what String prints.
func (a *Action) UnmarshalText(b []byte) error {
	switch string(b) {
	case "discard":
		*a = Discard
	case "bypass":
		*a = Bypass
	case "protect":
		*a = Protect
	default:
		return fmt.Errorf("ipsec: %q is not an action", b)
	}
	return nil
}

// Policy is one entry of the SPD: what to do with packets between Local and
// Remote. Among the policies that match a packet, the one with the highest
// Priority decides; among equals, the more specific, then the earlier.
type Policy struct {
	Name     string     `json:"name"` // unique; "connection/tunnel" for tunnels
	Action   Action     `json:"action"`
	Priority int32      `json:"priority"`
	Local    []Selector `json:"local"`
	Remote   []Selector `json:"remote"`

	// The fields below are for Protect.

	ReqID    uint32   `json:"reqid,omitempty"`
	Protocol Protocol `json:"protocol,omitempty"`
	Mode     Mode     `json:"mode,omitempty"`
	// WithAH asks for a bundle: the ESP SA of ReqID in Mode, and around what it
	// makes the AH SA of ReqID in transport mode (RFC 2401, Section 4.3).
	WithAH bool `json:"with_ah,omitempty"`
	// Acquire asks for an Acquire event when a packet finds no SA; the packet is
	// held meanwhile. Without it the packet is dropped. Either way it never
	// leaves in clear.
	Acquire bool `json:"acquire,omitempty"`
	// Connection and Tunnel are the names in the configuration.
	Connection string `json:"connection,omitempty"`
	Tunnel     string `json:"tunnel,omitempty"`

	// Kernel holds what only the Linux kernel's plane can do with the policy.
	Kernel KernelPolicy `json:"kernel,omitzero"`
}
