//go:build !race

package packet

// inlines says whether small functions are inlined.
const inlines = true
