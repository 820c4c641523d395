package host

import (
	"net/netip"

	"github.com/jsimonetti/rtnetlink/v2"
	"golang.org/x/sys/unix"
)

// What comes out of a tunnel is routed like other packets. When the link to its
// network goes down, its route goes, and the default route would send it out
// again, in clear. So the networks on this side that have a route of their own are
// remembered: packets of the TUN device to them take such a route or none. What
// only the default route leads to goes on taking it.

// maxDeliveries bounds what is remembered, for gateways that know the routes of the
// whole Internet.
const maxDeliveries = 4096

// deliveries are the prefixes on this side that the TUN device's packets must not
// leave by a default route: those of the main table that are, or lead to, one of
// the local prefixes, and those that were there when an earlier Set looked.
func deliveries(d Desired, list []rtnetlink.RouteMessage) map[netip.Prefix]bool {
	out := make(map[netip.Prefix]bool)
	locals := d.local()
	for i := range list {
		m := &list[i]
		r := routeOf(m)
		known := m.Protocol == Protocol && r.table == TableDeliver
		direct := r.table == unix.RT_TABLE_MAIN && m.Type == unix.RTN_UNICAST && r.to.Bits() > 0
		if !known && !direct {
			continue
		}
		for _, local := range locals {
			switch {
			case len(out) >= maxDeliveries, local.Bits() == 0: // everywhere: by the default route, too
			case covers(local, r.to):
				out[r.to] = true
			case direct && covers(r.to, local):
				out[local] = true
			}
		}
	}
	return out
}

// local are the prefixes on this side of the tunnels.
func (d *Desired) local() []netip.Prefix {
	var all []netip.Prefix
	for _, r := range d.Protect {
		all = append(all, r.Local...)
	}
	return sorted(all)
}
