//go:build race

package packet

// inlines is false: with the race detector's instructions in them, functions are
// too long to be inlined, and what they return escapes.
const inlines = false
