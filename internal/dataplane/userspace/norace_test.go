//go:build !race

package userspace

// poolKeeps says whether a sync.Pool keeps what it is given.
const poolKeeps = true
