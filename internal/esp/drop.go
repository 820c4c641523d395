package esp

import "caponier/internal/drop"

// Drop is the reason why a packet was not carried.
type Drop = drop.Reason

// The reasons that ESP gives, and those that its callers do.
const (
	ErrShort      = drop.Short
	ErrReplay     = drop.Replay
	ErrIntegrity  = drop.Integrity
	ErrPadding    = drop.Padding
	ErrNextHeader = drop.NextHeader
	ErrInner      = drop.Inner
	ErrDummy      = drop.Dummy
	ErrSpace      = drop.Space
	ErrSequence   = drop.Sequence
	ErrLifetime   = drop.Lifetime
	ErrSelector   = drop.Selector
	ErrNoSA       = drop.NoSA

	// Drops is the length of an array indexed by Drop.
	Drops = drop.Count
)
