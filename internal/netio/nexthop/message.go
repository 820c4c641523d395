package nexthop

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"caponier/internal/netio/frame"
)

// Lengths of the kernel's structures rtmsg, ndmsg and ifinfomsg.
const (
	routeLen    = 12
	neighborLen = 12
	linkLen     = 16
)

// routed is what the kernel answers to a lookup.
type routed struct {
	device int // 0 where packets do not leave by one
	via    netip.Addr
	mtu    int // of the route; 0 for that of the device
}

var errNoAnswer = errors.New("no answer")

// resolve finds the way of p.
func (t *Table) resolve(p frame.Pair) (*frame.Way, error) {
	r, err := t.route(p)
	if err != nil {
		return nil, err
	}
	if r.device == 0 || !p.Own && p.Dst.Is6() && !t.forwards6() {
		return &frame.Way{}, nil
	}
	l, err := t.link(r.device)
	if err != nil {
		return nil, err
	}
	w := &frame.Way{Port: r.device, Src: l.mac, MTU: l.mtu}
	if _, ours := t.ports[r.device]; !ours {
		if parent, ok := t.ports[l.parent]; !ok || !parent.Tagged || l.vlan == 0 {
			return &frame.Way{}, nil
		}
		w.Port, w.Tagged, w.VLAN = l.parent, true, l.vlan
	}
	if r.mtu != 0 {
		w.MTU = min(w.MTU, r.mtu)
	}
	w.Neighbor = t.neighbor(r.device, r.via)
	return w, nil
}

// Of struct netconfmsg and its attributes (linux/netconf.h).
const (
	netconfLen        = 4
	netconfInterface  = 1
	netconfForwarding = 2
	netconfAll        = -1
)

// forwards6 reports whether the kernel would forward IPv6: unlike for IPv4, its
// answer to a lookup does not depend on that.
func (t *Table) forwards6() bool {
	header := make([]byte, netconfLen)
	header[0] = unix.AF_INET6
	msgs, err := t.execute(unix.RTM_GETNETCONF, 0, header, func(ae *netlink.AttributeEncoder) {
		ae.Int32(netconfInterface, netconfAll)
	})
	if err != nil || len(msgs) == 0 || len(msgs[0].Data) < netconfLen {
		return false
	}
	ad, err := netlink.NewAttributeDecoder(msgs[0].Data[netconfLen:])
	if err != nil {
		return false
	}
	for ad.Next() {
		if ad.Type() == netconfForwarding {
			return ad.Int32() != 0
		}
	}
	return false
}

func (t *Table) execute(m netlink.HeaderType, flags netlink.HeaderFlags, header []byte, fill func(*netlink.AttributeEncoder)) ([]netlink.Message, error) {
	ae := netlink.NewAttributeEncoder()
	fill(ae)
	attrs, err := ae.Encode()
	if err != nil {
		return nil, err
	}
	return t.query.Execute(netlink.Message{
		Header: netlink.Header{Type: m, Flags: netlink.Request | flags}, Data: append(header, attrs...),
	})
}

// route asks where the kernel would send a packet.
func (t *Table) route(p frame.Pair) (routed, error) {
	header := make([]byte, routeLen)
	header[0], header[1] = family(p.Dst), uint8(p.Dst.BitLen())
	header[2] = uint8(p.Src.BitLen())
	msgs, err := t.execute(unix.RTM_GETROUTE, 0, header, func(ae *netlink.AttributeEncoder) {
		ae.Bytes(unix.RTA_DST, p.Dst.AsSlice())
		ae.Bytes(unix.RTA_SRC, p.Src.AsSlice())
		if p.Own {
			ae.Uint32(unix.RTA_MARK, t.opts.Mark)
		} else {
			ae.Uint32(unix.RTA_IIF, uint32(t.opts.Inner))
		}
	})
	if err != nil {
		return routed{}, err
	}
	if len(msgs) == 0 || len(msgs[0].Data) < routeLen {
		return routed{}, errNoAnswer
	}
	return decodeRoute(msgs[0].Data, p.Dst)
}

func decodeRoute(b []byte, dst netip.Addr) (routed, error) {
	if len(b) < routeLen {
		return routed{}, errNoAnswer
	}
	if b[7] != unix.RTN_UNICAST {
		return routed{}, nil
	}
	r := routed{via: dst}
	ad, err := netlink.NewAttributeDecoder(b[routeLen:])
	if err != nil {
		return routed{}, err
	}
	plain := true
	for ad.Next() {
		switch ad.Type() {
		case unix.RTA_OIF:
			r.device = int(ad.Uint32())
		case unix.RTA_GATEWAY:
			r.via, _ = netip.AddrFromSlice(ad.Bytes())
		case unix.RTA_VIA: // struct rtvia: a next hop of the other family
			if v := ad.Bytes(); len(v) > 2 {
				r.via, _ = netip.AddrFromSlice(v[2:])
			}
		case unix.RTA_ENCAP:
			plain = false
		case unix.RTA_METRICS:
			ad.Nested(func(m *netlink.AttributeDecoder) error {
				for m.Next() {
					if m.Type() == unix.RTAX_MTU {
						r.mtu = int(m.Uint32())
					}
				}
				return m.Err()
			})
		}
	}
	if !plain || !r.via.IsValid() {
		return routed{}, ad.Err()
	}
	return r, ad.Err()
}

// device is what is known of an interface.
type device struct {
	mac    [6]byte
	mtu    int
	parent int    // the interface below
	vlan   uint16 // of a VLAN device, else 0
}

// link reads an interface.
func (t *Table) link(index int) (device, error) {
	header := make([]byte, linkLen)
	binary.NativeEndian.PutUint32(header[4:], uint32(index))
	msgs, err := t.execute(unix.RTM_GETLINK, 0, header, func(*netlink.AttributeEncoder) {})
	if err != nil {
		return device{}, err
	}
	if len(msgs) == 0 {
		return device{}, errNoAnswer
	}
	return decodeLink(msgs[0].Data)
}

func decodeLink(b []byte) (device, error) {
	if len(b) < linkLen {
		return device{}, errNoAnswer
	}
	ad, err := netlink.NewAttributeDecoder(b[linkLen:])
	if err != nil {
		return device{}, err
	}
	var d device
	for ad.Next() {
		switch ad.Type() {
		case unix.IFLA_ADDRESS:
			if mac := ad.Bytes(); len(mac) == len(d.mac) {
				d.mac = [6]byte(mac)
			}
		case unix.IFLA_MTU:
			d.mtu = int(ad.Uint32())
		case unix.IFLA_LINK:
			d.parent = int(ad.Uint32())
		case unix.IFLA_LINKINFO:
			ad.Nested(func(info *netlink.AttributeDecoder) error { return d.decodeInfo(info) })
		}
	}
	return d, ad.Err()
}

func (d *device) decodeInfo(info *netlink.AttributeDecoder) error {
	kind := ""
	for info.Next() {
		switch info.Type() {
		case unix.IFLA_INFO_KIND:
			kind = info.String()
		case unix.IFLA_INFO_DATA:
			if kind != "vlan" {
				continue
			}
			info.Nested(func(data *netlink.AttributeDecoder) error {
				for data.Next() {
					if data.Type() == unix.IFLA_VLAN_ID {
						d.vlan = data.Uint16()
					}
				}
				return data.Err()
			})
		}
	}
	return info.Err()
}

// neighborState is an entry of the kernel's neighbour table.
type neighborState struct {
	key   neighborKey
	state uint16 // NUD_*
	mac   []byte
}

// tell says to n what the kernel knows.
func (s *neighborState) tell(n *frame.Neighbor) {
	const valid = unix.NUD_PERMANENT | unix.NUD_NOARP | unix.NUD_REACHABLE | unix.NUD_PROBE | unix.NUD_STALE | unix.NUD_DELAY
	if s.state&valid == 0 || len(s.mac) != 6 {
		n.Forget()
		return
	}
	n.Set([6]byte(s.mac), s.state&unix.NUD_STALE != 0)
}

// readNeighbor asks the kernel for one neighbour. The caller holds mu.
func (t *Table) readNeighbor(k neighborKey) (neighborState, error) {
	msgs, err := t.execute(unix.RTM_GETNEIGH, 0, neighborHeader(k, 0), func(ae *netlink.AttributeEncoder) {
		ae.Bytes(unix.NDA_DST, k.addr.AsSlice())
	})
	if err != nil {
		return neighborState{}, err
	}
	if len(msgs) == 0 {
		return neighborState{}, errNoAnswer
	}
	return decodeNeighbor(msgs[0].Data)
}

// askNeighbor has the kernel find or confirm a neighbour.
func (t *Table) askNeighbor(k neighborKey) error {
	_, err := t.execute(unix.RTM_NEWNEIGH, netlink.Create|netlink.Acknowledge, neighborHeader(k, unix.NTF_USE), func(ae *netlink.AttributeEncoder) {
		ae.Bytes(unix.NDA_DST, k.addr.AsSlice())
	})
	return err
}

func neighborHeader(k neighborKey, flags uint8) []byte {
	b := make([]byte, neighborLen)
	b[0] = family(k.addr)
	binary.NativeEndian.PutUint32(b[4:], uint32(k.device))
	b[10] = flags
	return b
}

func decodeNeighbor(b []byte) (s neighborState, err error) {
	if len(b) < neighborLen {
		return s, errNoAnswer
	}
	s.key.device = int(binary.NativeEndian.Uint32(b[4:]))
	s.state = binary.NativeEndian.Uint16(b[8:])
	ad, err := netlink.NewAttributeDecoder(b[neighborLen:])
	if err != nil {
		return s, err
	}
	for ad.Next() {
		switch ad.Type() {
		case unix.NDA_DST:
			s.key.addr, _ = netip.AddrFromSlice(ad.Bytes())
		case unix.NDA_LLADDR:
			s.mac = ad.Bytes()
		}
	}
	if !s.key.addr.IsValid() {
		return s, fmt.Errorf("a neighbour without address: %w", errNoAnswer)
	}
	return s, ad.Err()
}

func family(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
