//go:build !race

package sm

// poolKeeps says whether a sync.Pool keeps what it is given.
const poolKeeps = true
