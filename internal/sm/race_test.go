//go:build race

package sm

// poolKeeps is false: under the race detector a sync.Pool drops some of what it
// is given, on purpose, so that what is pooled is allocated again.
const poolKeeps = false
