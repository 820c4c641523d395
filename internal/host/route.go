package host

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/jsimonetti/rtnetlink/v2"
	"golang.org/x/sys/unix"
)

// route is one of our routes. It is comparable: two that are equal need no
// change.
type route struct {
	table  uint32
	kind   uint8 // RTN_UNICAST, RTN_UNREACHABLE or RTN_THROW
	to     netip.Prefix
	metric uint32
	device uint32     // of RTN_UNICAST
	src    netip.Addr // preferred source, or the zero Addr
}

func (r route) String() string {
	kind := ""
	switch r.kind {
	case unix.RTN_UNREACHABLE:
		kind = "unreachable "
	case unix.RTN_THROW:
		kind = "throw "
	}
	return fmt.Sprintf("%s%s table %d metric %d", kind, r.to, r.table, r.metric)
}

func (h *Host) routesFor(d Desired, addrs []netip.Addr) map[route]bool {
	out := make(map[route]bool)
	capture := func(table uint32, to netip.Prefix, src netip.Addr, device uint32) {
		out[route{table: table, kind: unix.RTN_UNREACHABLE, to: to, metric: metricBlock}] = true
		out[route{table: table, kind: unix.RTN_UNICAST, to: to, metric: metricTUN, device: device, src: src}] = true
	}
	for _, r := range d.Protect {
		capture(TableProtect, r.To, source(r.Local, addrs), h.deviceOf(r.Interface))
	}
	for _, p := range d.throws() {
		out[route{table: TableProtect, kind: unix.RTN_THROW, to: p, metric: metricTUN}] = true
	}
	for _, p := range d.Discard {
		capture(TableDiscard, anywhere(p.To.Addr()), netip.Addr{}, h.index)
	}
	return out
}

// source returns the first address of the host that is in one of the prefixes.
func source(local []netip.Prefix, addrs []netip.Addr) netip.Addr {
	for _, a := range addrs {
		if slices.ContainsFunc(local, func(p netip.Prefix) bool { return p.Contains(a) }) {
			return a
		}
	}
	return netip.Addr{}
}

func anywhere(a netip.Addr) netip.Prefix {
	if a.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// routeOrder puts refusals before the rest.
func routeOrder(routes map[route]bool) []route {
	var out []route
	for r := range routes {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b route) int {
		rank := func(r route) int {
			if r.kind == unix.RTN_UNREACHABLE {
				return 0
			}
			return 1
		}
		if c := rank(a) - rank(b); c != 0 {
			return c
		}
		return a.to.Compare(b.to)
	})
	return out
}

func (r route) message() *rtnetlink.RouteMessage {
	m := &rtnetlink.RouteMessage{
		Family: family(r.to.Addr()), DstLength: uint8(r.to.Bits()),
		Table: uint8(r.table), Protocol: Protocol, Type: r.kind, Scope: unix.RT_SCOPE_UNIVERSE,
		Attributes: rtnetlink.RouteAttributes{Table: r.table, Priority: r.metric, OutIface: r.device},
	}
	if r.kind == unix.RTN_UNICAST && r.to.Addr().Is4() {
		m.Scope = unix.RT_SCOPE_LINK
	}
	if r.to.Bits() > 0 {
		m.Attributes.Dst = r.to.Addr().AsSlice()
	}
	if r.src.IsValid() {
		m.Attributes.Src = r.src.AsSlice()
	}
	return m
}

// slot is the place of a route in the system, which holds one at a time.
type slot struct {
	table, metric uint32
	to            netip.Prefix
}

func (r route) slot() slot { return slot{r.table, r.metric, r.to} }

// addRoute replaces the one in its slot.
func (h *Host) addRoute(r route) error { return h.route.Route.Replace(r.message()) }

func (h *Host) removeRoute(r route) error {
	err := h.route.Route.Delete(r.message())
	if errors.Is(err, unix.ESRCH) {
		return nil // replaced, or gone with its device
	}
	return err
}

// ourRoutes reads our routes from the system.
func (h *Host) ourRoutes() (map[route]bool, error) {
	list, err := h.route.Route.List()
	if err != nil {
		return nil, err
	}
	out := make(map[route]bool)
	for i := range list {
		r := routeOf(&list[i])
		if list[i].Protocol == Protocol && slices.Contains([]uint32{TableProtect, TableDiscard, TableDeliver}, r.table) {
			out[r] = true
		}
	}
	return out, nil
}

func routeOf(m *rtnetlink.RouteMessage) route {
	r := route{table: m.Attributes.Table, kind: m.Type, metric: m.Attributes.Priority}
	if m.Type == unix.RTN_UNICAST {
		r.device = m.Attributes.OutIface
	}
	to, ok := addrOf(m.Attributes.Dst)
	if !ok {
		to = netip.IPv4Unspecified()
		if m.Family == unix.AF_INET6 {
			to = netip.IPv6Unspecified()
		}
	}
	r.to = netip.PrefixFrom(to, int(m.DstLength))
	if src, ok := addrOf(m.Attributes.Src); ok {
		r.src = src
	}
	return r
}

func family(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
