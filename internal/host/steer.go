package host

import (
	"fmt"
	"net/netip"
	"slices"

	"caponier/internal/netio/frame"
)

// espPort is the UDP port that IKE and ESP share (RFC 3948).
const espPort = 4500

// aside are destinations that never lead into a tunnel, whatever prefix covers
// them: no router forwards them.
var aside = []netip.Prefix{
	netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("224.0.0.0/4"),
	netip.MustParsePrefix("255.255.255.255/32"), netip.MustParsePrefix("::/127"), netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff00::/8"),
}

// steer tells the capture of frames what the routes tell the kernel.
func (h *Host) steer(d Desired) error {
	if h.opts.Steer == nil {
		return nil
	}
	s := frame.Steering{Port: espPort}
	list, err := h.route.Address.List()
	if err != nil {
		return fmt.Errorf("host: read addresses: %w", err)
	}
	for _, m := range list {
		if m.Attributes == nil {
			continue
		}
		ip := m.Attributes.Local
		if ip == nil {
			ip = m.Attributes.Address
		}
		if a, ok := addrOf(ip); ok {
			s.Addresses = append(s.Addresses, a)
		}
	}
	slices.SortFunc(s.Addresses, netip.Addr.Compare)
	s.Addresses = slices.Compact(s.Addresses)
	for _, r := range d.Protect {
		s.Take = append(s.Take, r.To.Masked())
	}
	for _, p := range slices.Concat(d.throws(), aside) {
		if p = p.Masked(); !slices.Contains(s.Take, p) && !slices.Contains(s.Pass, p) {
			s.Pass = append(s.Pass, p)
		}
	}
	if err := h.opts.Steer(s); err != nil {
		return fmt.Errorf("host: %w", err)
	}
	return nil
}
