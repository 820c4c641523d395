// Package drop names why a packet was not carried: the reasons that ESP (RFC
// 4303), AH (RFC 4302) and the SAD share.
package drop

import "caponier/internal/ipsec"

// Reason is why a packet was not carried. It is the error of every per-packet
// function, and an index for counters. Each is an auditable event of RFC 4301,
// RFC 4302 or RFC 4303, except Dummy.
type Reason uint8

// The reasons.
const (
	// Short: the packet is too short for its headers, IV and ICV, or is not a
	// whole number of cipher blocks.
	Short Reason = iota + 1
	// Replay: the sequence number was seen before, is too old or is 0 (RFC 4303,
	// Section 3.4.3).
	Replay
	// Integrity: the ICV does not match (RFC 4303, Section 3.4.4).
	Integrity
	// Padding: the padding is not 1, 2, 3, ... (RFC 4303, Section 2.4).
	Padding
	// NextHeader: the next header is not one that the mode allows, or is not the
	// version of the packet inside.
	NextHeader
	// Inner: the packet inside is longer than what arrived, or truncated.
	Inner
	// Dummy: an authentic dummy packet, which is dropped in silence (RFC 4303,
	// Section 2.6).
	Dummy
	// Space: the destination has no room for the sealed packet, or the packet is
	// longer than it can be.
	Space
	// Sequence: the sequence number space is used up (RFC 4303, Section 3.3.3).
	Sequence
	// Lifetime: the SA reached a hard limit (RFC 4301, Section 4.4.2.1).
	Lifetime
	// Selector: the packet inside does not fit the selectors of the SA (RFC
	// 4301, Section 5.2).
	Selector
	// NoSA: no SA for this SPI, or none for this policy.
	NoSA
	// Header: the AH header, or what stands before it, is malformed or cannot be
	// authenticated.
	Header
	// Fragment: the packet is a fragment, which AH does not authenticate (RFC
	// 4302, Section 3.3.4).
	Fragment
	// NoAH: the policy asks for AH around ESP, and the packet had none (RFC 4301,
	// Section 5.2).
	NoAH
	// Bundle: the SAs that the packet came through are not of one bundle.
	Bundle

	// Count is the length of an array indexed by Reason.
	Count = iota + 1
)

// form holds the reasons that are about the form of a packet, and so of one
// protocol: the name of the protocol stands before. The others are in sa.
var form = [Count]string{
	Short:      "short",
	Replay:     "replay",
	Integrity:  "integrity",
	Padding:    "padding",
	NextHeader: "next-header",
	Inner:      "inner-length",
	Dummy:      "dummy",
	Space:      "no-room",
	Sequence:   "sequence-exhausted",
	Header:     "header",
	Fragment:   "fragment",
}

var sa = [Count]string{
	Lifetime: "sa-lifetime",
	Selector: "sa-selector",
	NoSA:     "sa-not-found",
	NoAH:     "sa-without-ah",
	Bundle:   "sa-not-of-bundle",
}

var texts = [Count]string{
	Short:      "packet too short for its headers",
	Replay:     "sequence number replayed or too old",
	Integrity:  "integrity check failed",
	Padding:    "wrong padding",
	NextHeader: "next header does not fit the packet inside",
	Inner:      "packet inside has a wrong length",
	Dummy:      "dummy packet",
	Space:      "no room for the sealed packet",
	Sequence:   "sequence numbers are used up",
	Lifetime:   "SA reached its hard limit",
	Selector:   "packet inside does not fit the selectors of the SA",
	NoSA:       "no SA",
	Header:     "header of AH, or one before it, is malformed",
	Fragment:   "packet is a fragment",
	NoAH:       "packet came without the AH that the policy asks for",
	Bundle:     "packet came through SAs that are not of one bundle",
}

// Error says the reason in words.
func (r Reason) Error() string {
	if r == 0 || int(r) >= Count {
		return "unknown reason"
	}
	return texts[r]
}

// Name is the stable name of the counter for this reason in packets of p, or ""
// for a value that is not a reason.
func (r Reason) Name(p ipsec.Protocol) string {
	switch {
	case r == 0 || int(r) >= Count:
		return ""
	case form[r] != "":
		return p.String() + "-" + form[r]
	default:
		return sa[r]
	}
}
