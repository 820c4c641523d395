package ike

import "slices"

// few is a set with hardly more than one member, of which there are many
// thousands: maps would take several times the memory.
type few[T comparable] []T

func (f few[T]) has(x T) bool { return slices.Contains(f, x) }

func (f *few[T]) add(x T) {
	if !f.has(x) {
		*f = append(*f, x)
	}
}

func (f *few[T]) remove(x T) {
	if i := slices.Index(*f, x); i >= 0 {
		*f = slices.Delete(*f, i, i+1)
	}
}

// upTunnels count the CHILD SAs that are up, by tunnel.
type upTunnels []upTunnel

type upTunnel struct {
	name string
	up   int
}

func (t upTunnels) up(name string) int {
	for _, x := range t {
		if x.name == name {
			return x.up
		}
	}
	return 0
}

// change adds n, which may be negative.
func (t *upTunnels) change(name string, n int) {
	i := slices.IndexFunc(*t, func(x upTunnel) bool { return x.name == name })
	if i < 0 {
		*t = append(*t, upTunnel{name: name})
		i = len(*t) - 1
	}
	if (*t)[i].up += n; (*t)[i].up <= 0 {
		*t = slices.Delete(*t, i, i+1)
	}
}
