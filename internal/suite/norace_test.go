//go:build !race

package suite

// poolKeeps says whether a sync.Pool keeps what it is given.
const poolKeeps = true
