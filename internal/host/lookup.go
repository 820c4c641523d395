package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Way is where the system's routing sends a packet.
type Way struct {
	// Device is the one by which it leaves; empty where it does not.
	Device string
	// Captured says that Device is the TUN device: the data plane gets the packet.
	Captured bool
	// Kind is "unicast", "local" for a packet to this host, "unreachable",
	// "blackhole" or "prohibit" for one that is refused, or "none" without a route.
	Kind  string
	Table uint32     // where the route stands
	Via   netip.Addr // the next router; the zero Addr for a neighbour
	MTU   int        // of Device, in octets
}

// routeHeaderLen is the length of struct rtmsg (rtnetlink(7)).
const routeHeaderLen = 12

var routeKinds = map[uint8]string{
	unix.RTN_UNICAST: "unicast", unix.RTN_LOCAL: "local", unix.RTN_UNREACHABLE: "unreachable",
	unix.RTN_BLACKHOLE: "blackhole", unix.RTN_PROHIBIT: "prohibit",
}

// Lookup asks the system which way a packet from src to dst would take: one of
// the host's own where src is the host's, else one that comes from where src
// is. Packets with mark Mark are the gateway's own. The zero src stands for the
// address that the host would choose.
func (h *Host) Lookup(src, dst netip.Addr, mark uint32) (Way, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return Way{}, errors.New("host: closed")
	}
	var in uint32
	if src.IsValid() && mark == 0 {
		back, err := h.lookup(netip.Addr{}, src, 0, 0)
		if err != nil {
			return Way{}, err
		}
		if back.Kind != "local" {
			in = back.index
			if in == 0 {
				return Way{Kind: "none"}, nil // nowhere it could come from
			}
		}
	}
	w, err := h.lookup(src, dst, mark, in)
	return w.Way, err
}

type foundWay struct {
	Way
	index uint32
}

func (h *Host) lookup(src, dst netip.Addr, mark, in uint32) (foundWay, error) {
	req := make([]byte, routeHeaderLen)
	req[0] = family(dst)
	req[1] = uint8(dst.BitLen())
	binary.NativeEndian.PutUint32(req[8:], unix.RTM_F_LOOKUP_TABLE)
	ae := netlink.NewAttributeEncoder()
	ae.Bytes(unix.RTA_DST, dst.AsSlice())
	if src.IsValid() {
		req[2] = uint8(src.BitLen())
		ae.Bytes(unix.RTA_SRC, src.AsSlice())
	}
	if mark != 0 {
		ae.Uint32(unix.RTA_MARK, mark)
	}
	if in != 0 {
		ae.Uint32(unix.RTA_IIF, in)
	}
	attrs, err := ae.Encode()
	if err != nil {
		return foundWay{}, err
	}
	msgs, err := h.rule.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_GETROUTE, Flags: netlink.Request}, Data: append(req, attrs...),
	})
	if kind, refused := refusal(err); refused {
		return foundWay{Way: Way{Kind: kind}}, nil
	}
	if err != nil {
		return foundWay{}, fmt.Errorf("host: look up the route to %s: %w", dst, err)
	}
	if len(msgs) == 0 || len(msgs[0].Data) < routeHeaderLen {
		return foundWay{}, fmt.Errorf("host: look up the route to %s: no answer", dst)
	}
	return h.decodeWay(msgs[0].Data)
}

// refusal is the kind of route that answers a lookup with this error
// (fib_props of the kernel).
func refusal(err error) (kind string, refused bool) {
	switch {
	case errors.Is(err, unix.EHOSTUNREACH):
		return "unreachable", true
	case errors.Is(err, unix.ENETUNREACH):
		return "none", true
	case errors.Is(err, unix.EACCES):
		return "prohibit", true
	case errors.Is(err, unix.EINVAL):
		return "blackhole", true
	default:
		return "", false
	}
}

func (h *Host) decodeWay(b []byte) (foundWay, error) {
	w := foundWay{Way: Way{Kind: routeKinds[b[7]], Table: uint32(b[4])}}
	if w.Kind == "" {
		w.Kind = "none"
	}
	ad, err := netlink.NewAttributeDecoder(b[routeHeaderLen:])
	if err != nil {
		return foundWay{}, err
	}
	for ad.Next() {
		switch ad.Type() {
		case unix.RTA_OIF:
			w.index = ad.Uint32()
		case unix.RTA_TABLE:
			w.Table = ad.Uint32()
		case unix.RTA_GATEWAY:
			w.Via, _ = addrOf(ad.Bytes())
		}
	}
	if err := ad.Err(); err != nil {
		return foundWay{}, err
	}
	if w.index == 0 || w.Kind != "unicast" {
		return w, nil
	}
	w.Captured = w.index == h.index
	for _, index := range h.xfrm {
		w.Captured = w.Captured || w.index == index
	}
	links, err := h.route.Link.List()
	if err != nil {
		return foundWay{}, err
	}
	for _, l := range links {
		if l.Index == w.index && l.Attributes != nil {
			w.Device, w.MTU = l.Attributes.Name, int(l.Attributes.MTU)
		}
	}
	return w, nil
}
