package esp

// Drop is the reason why a packet was not carried. It is the error of every
// per-packet function, and an index for counters. Each is an auditable event of
// RFC 4303 or RFC 4301, except Dummy.
type Drop uint8

// The reasons.
const (
	// ErrShort: the packet is too short for its headers, IV and ICV, or is not a
	// whole number of cipher blocks.
	ErrShort Drop = iota + 1
	// ErrReplay: the sequence number was seen before, is too old or is 0
	// (RFC 4303, Section 3.4.3).
	ErrReplay
	// ErrIntegrity: the ICV does not match (RFC 4303, Section 3.4.4).
	ErrIntegrity
	// ErrPadding: the padding is not 1, 2, 3, ... (RFC 4303, Section 2.4).
	ErrPadding
	// ErrNextHeader: the next header is not IP, or is not the version of the
	// packet inside.
	ErrNextHeader
	// ErrInner: the packet inside is longer than what arrived, or truncated.
	ErrInner
	// ErrDummy: an authentic dummy packet, which is dropped in silence
	// (RFC 4303, Section 2.6).
	ErrDummy
	// ErrSpace: the destination has no room for the sealed packet, or the packet
	// is longer than an ESP packet can be.
	ErrSpace
	// ErrSequence: the sequence number space is used up (RFC 4303, Section
	// 3.3.3).
	ErrSequence
	// ErrLifetime: the SA reached a hard limit (RFC 4301, Section 4.4.2.1).
	ErrLifetime
	// ErrSelector: the packet inside does not fit the selectors of the SA
	// (RFC 4301, Section 5.2).
	ErrSelector
	// ErrNoSA: no SA for this SPI, or none for this policy.
	ErrNoSA

	// Drops is the length of an array indexed by Drop.
	Drops = iota + 1
)

var dropNames = [Drops]string{
	ErrShort:      "esp-short",
	ErrReplay:     "esp-replay",
	ErrIntegrity:  "esp-integrity",
	ErrPadding:    "esp-padding",
	ErrNextHeader: "esp-next-header",
	ErrInner:      "esp-inner-length",
	ErrDummy:      "esp-dummy",
	ErrSpace:      "esp-no-room",
	ErrSequence:   "esp-sequence-exhausted",
	ErrLifetime:   "sa-lifetime",
	ErrSelector:   "sa-selector",
	ErrNoSA:       "sa-not-found",
}

var dropTexts = [Drops]string{
	ErrShort:      "packet too short for ESP",
	ErrReplay:     "sequence number replayed or too old",
	ErrIntegrity:  "integrity check failed",
	ErrPadding:    "wrong padding",
	ErrNextHeader: "next header does not fit the packet inside",
	ErrInner:      "packet inside has a wrong length",
	ErrDummy:      "dummy packet",
	ErrSpace:      "no room for the sealed packet",
	ErrSequence:   "sequence numbers are used up",
	ErrLifetime:   "SA reached its hard limit",
	ErrSelector:   "packet inside does not fit the selectors of the SA",
	ErrNoSA:       "no SA",
}

// Error says the reason in words.
func (d Drop) Error() string {
	if d == 0 || int(d) >= Drops {
		return "unknown reason"
	}
	return dropTexts[d]
}

// Name is the stable name of the counter for this reason, or "" for a value
// that is not a reason.
func (d Drop) Name() string {
	if int(d) >= Drops {
		return ""
	}
	return dropNames[d]
}
