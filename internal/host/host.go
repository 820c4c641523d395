// Package host makes the system bring to the TUN device what the data plane is
// to see, and refuse it when the device is gone.
//
//	220: not from all fwmark MARK lookup 220    for each family in use
//	221: from all fwmark MARK goto 230          where something is discarded
//	221: from all to LOCAL iif TUN goto 230
//	222: from LOCAL to REMOTE lookup 221
//	230: nop
//	32764: from all iif TUN lookup main suppress_prefixlength 0
//	32765: from all iif TUN lookup 222
//
//	table 220: PREFIX dev TUN src ADDRESS       what is protected
//	           unreachable PREFIX metric high   what is left of it without TUN
//	           throw LOCAL                      where a PREFIX covers LOCAL
//	table 221: default dev TUN
//	           unreachable default metric high
//	table 222: unreachable LOCAL                where a default route must not lead
//
// The gateway's own packets carry the mark: they never come back to it. All
// that is made here has a routing protocol number of its own, by which a later
// run recognises what an earlier one has left, and nothing else is touched.
package host

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/jsimonetti/rtnetlink/v2"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"caponier/internal/netio/frame"
)

const (
	// Mark is the SO_MARK of the gateway's own packets.
	Mark uint32 = 0xca90
	// Protocol is the routing protocol number of our routes and rules: none that
	// rt_protos knows.
	Protocol uint8 = 213
	// TableProtect, TableDiscard and TableDeliver are our routing tables.
	TableProtect uint32 = 220
	TableDiscard uint32 = 221
	TableDeliver uint32 = 222
)

// Priorities of the rules, and metrics of the routes.
const (
	priorityProtect = 220
	priorityPass    = 221
	priorityDiscard = 222
	priorityEnd     = 230
	// Behind the rules of others, before the one for the main table.
	priorityDirect  = 32764
	priorityDeliver = 32765

	metricTUN   = 100
	metricBlock = 1 << 30
)

// Options say whom a Host serves.
type Options struct {
	// Device is the name of the TUN device.
	Device string
	// MTU of the device; 0 leaves it as it is.
	MTU    int
	Logger *slog.Logger // nil discards
	// Steer is told, with every Set and when addresses change, what a capture of
	// frames is to take; nil where there is none. It takes nothing after Release.
	Steer func(frame.Steering) error
}

// Host is the part of the system's routing that is ours.
type Host struct {
	opts  Options
	log   *slog.Logger
	index uint32 // of the TUN device

	mu      sync.Mutex
	route   *rtnetlink.Conn // guarded by mu, as the rest
	rule    *netlink.Conn
	changes int
	xfrm    map[uint32]uint32 // indexes of our xfrm interfaces by their if_id
	up      map[uint32]bool   // of those, which lead to an SA
	desired *Desired          // by the last Set; nil before it and after Release
	watch   *watch            // nil before Watch
	closed  bool
}

// Open connects to the system. It sets the device up; routes and rules of an
// earlier run stay until Set.
func Open(opts Options) (*Host, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	route, err := rtnetlink.Dial(nil)
	if err != nil {
		return nil, fmt.Errorf("host: connect to the kernel's routing: %w", err)
	}
	rule, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		route.Close()
		return nil, fmt.Errorf("host: connect to the kernel's routing: %w", err)
	}
	h := &Host{opts: opts, log: opts.Logger, route: route, rule: rule}
	if err := h.setLink(); err != nil {
		h.Close()
		return nil, fmt.Errorf("host: device %s: %w", opts.Device, needsAdmin(err))
	}
	h.reportForwarding()
	return h, nil
}

func needsAdmin(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("needs CAP_NET_ADMIN: %w", err)
	}
	return err
}

// setLink gives the device its MTU and sets it up, where it is not so already.
func (h *Host) setLink() error {
	links, err := h.route.Link.List()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(links, func(l rtnetlink.LinkMessage) bool {
		return l.Attributes != nil && l.Attributes.Name == h.opts.Device
	})
	if i < 0 {
		return errors.New("no such device")
	}
	link := links[i]
	h.index = link.Index
	// The device needs no link-local address: with one, the kernel would send
	// neighbour and router discovery into the tunnel. Without IPv6 there is no
	// such file.
	_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+h.opts.Device+"/addr_gen_mode", []byte("1"), 0)
	up := link.Flags&unix.IFF_UP != 0
	if up && (h.opts.MTU == 0 || int(link.Attributes.MTU) == h.opts.MTU) {
		return nil
	}
	h.changes++
	return h.route.Link.Set(&rtnetlink.LinkMessage{
		Family: unix.AF_UNSPEC, Index: link.Index, Flags: unix.IFF_UP, Change: unix.IFF_UP,
		Attributes: mtuAttribute(h.opts.MTU),
	})
}

func mtuAttribute(mtu int) *rtnetlink.LinkAttributes {
	if mtu == 0 {
		return nil
	}
	return &rtnetlink.LinkAttributes{MTU: uint32(mtu)}
}

// Forwarding reports whether the system forwards packets of each family. The
// gateway does not switch it on by itself.
func Forwarding() (v4, v6 bool) {
	on := func(file string) bool {
		b, err := os.ReadFile(file)
		return err == nil && strings.TrimSpace(string(b)) != "0"
	}
	return on("/proc/sys/net/ipv4/ip_forward"), on("/proc/sys/net/ipv6/conf/all/forwarding")
}

func (h *Host) reportForwarding() {
	v4, v6 := Forwarding()
	if !v4 {
		h.log.Warn("IPv4 forwarding is off: only the gateway itself can use its tunnels", "sysctl", "net.ipv4.ip_forward")
	}
	if !v6 {
		h.log.Info("IPv6 forwarding is off", "sysctl", "net.ipv6.conf.all.forwarding")
	}
}

// Set makes the system do what is desired: it adds what is missing, then removes
// what is ours and not desired, be it of an earlier Set or an earlier run.
// Where everything is so already, it changes nothing.
func (h *Host) Set(d Desired) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.setLocked(d); err != nil {
		return err
	}
	h.desired = &d
	return nil
}

func (h *Host) setLocked(d Desired) error {
	addrs, err := h.addresses()
	if err != nil {
		return fmt.Errorf("host: read addresses: %w", err)
	}
	list, err := h.route.Route.List()
	if err != nil {
		return fmt.Errorf("host: read routes: %w", err)
	}
	if err := h.setInterfaces(d); err != nil {
		return err
	}
	routes := h.routesFor(d, addrs)
	for p := range deliveries(d, list) {
		routes[route{table: TableDeliver, kind: unix.RTN_UNREACHABLE, to: p, metric: metricBlock}] = true
	}
	if err := h.apply(routes, h.rulesFor(d)); err != nil {
		return err
	}
	// Now that the routes refuse what is not captured.
	return h.steer(d)
}

// Release gives up the TUN device. With keepBlocked, packets that were protected
// or discarded are refused from now on; otherwise nothing of ours is left, and
// they go where the system's other routes lead.
func (h *Host) Release(keepBlocked bool) (err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.desired = nil
	if h.opts.Steer != nil {
		defer func() { err = errors.Join(err, h.opts.Steer(frame.Steering{Port: espPort})) }()
	}
	if !keepBlocked {
		return errors.Join(h.apply(nil, nil), h.setInterfaces(Desired{}))
	}
	defer func() { err = errors.Join(err, h.setInterfaces(Desired{})) }()
	routes, err := h.ourRoutes()
	if err != nil {
		return fmt.Errorf("host: read routes: %w", err)
	}
	for r := range routes {
		if r.kind == unix.RTN_UNICAST || r.table == TableDeliver {
			delete(routes, r)
		}
	}
	rules, err := h.ourRules()
	if err != nil {
		return fmt.Errorf("host: read rules: %w", err)
	}
	return h.apply(routes, rules)
}

// Close ends the connection and leaves routes and rules as they are.
func (h *Host) Close() error {
	h.mu.Lock()
	w := h.watch
	h.watch = nil
	if h.closed {
		h.mu.Unlock()
		return nil
	}
	h.closed = true
	err := errors.Join(h.route.Close(), h.rule.Close())
	h.mu.Unlock()
	if w != nil {
		err = errors.Join(err, w.end())
	}
	return err
}

// apply changes what differs. New routes are there before a rule leads to them,
// refusals before the routes that they back, and no old one goes before
// that.
func (h *Host) apply(routes map[route]bool, rules map[rule]bool) error {
	haveRoutes, err := h.ourRoutes()
	if err != nil {
		return fmt.Errorf("host: read routes: %w", err)
	}
	haveRules, err := h.ourRules()
	if err != nil {
		return fmt.Errorf("host: read rules: %w", err)
	}
	var errs []error
	change := func(what string, err error) {
		h.changes++
		if err != nil {
			errs = append(errs, fmt.Errorf("host: %s: %w", what, needsAdmin(err)))
		}
	}
	for _, r := range routeOrder(routes) {
		if !haveRoutes[r] {
			change("add route "+r.String(), h.addRoute(r))
		}
	}
	for _, r := range ruleOrder(rules) {
		if !haveRules[r] {
			change("add rule "+r.String(), h.addRule(r))
		}
	}
	// Without the new, the old stays: it refuses at least as much.
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	for r := range haveRules {
		if !rules[r] {
			change("remove rule "+r.String(), h.removeRule(r))
		}
	}
	taken := make(map[slot]bool)
	for r := range routes {
		taken[r.slot()] = true
	}
	for r := range haveRoutes {
		// What was replaced is gone, and for IPv6 the kernel would remove the new
		// one in its stead: it does not compare sources.
		if !routes[r] && !taken[r.slot()] {
			change("remove route "+r.String(), h.removeRoute(r))
		}
	}
	return errors.Join(errs...)
}

// addresses returns the host's addresses, without those of the TUN device and
// those that serve no other host, in order.
func (h *Host) addresses() ([]netip.Addr, error) {
	list, err := h.route.Address.List()
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, m := range list {
		if m.Attributes == nil || m.Index == h.index || m.Scope != unix.RT_SCOPE_UNIVERSE ||
			m.Flags&(unix.IFA_F_DEPRECATED|unix.IFA_F_TENTATIVE) != 0 {
			continue
		}
		ip := m.Attributes.Local // the local end of a point-to-point link
		if ip == nil {
			ip = m.Attributes.Address
		}
		if a, ok := addrOf(ip); ok {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out), nil
}

func addrOf(ip net.IP) (netip.Addr, bool) {
	a, ok := netip.AddrFromSlice(ip)
	return a.Unmap(), ok
}
