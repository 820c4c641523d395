//go:build !race

package esp

// poolKeeps says whether a sync.Pool keeps what it is given.
const poolKeeps = true
