package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// xfrmPrefix begins the names of our xfrm interfaces; the if_id follows.
const xfrmPrefix = "capx"

// deviceOf is where packets to a protected prefix go.
func (h *Host) deviceOf(i *Interface) uint32 {
	if i != nil && (i.Always || h.up[i.ID]) && h.xfrm[i.ID] != 0 {
		return h.xfrm[i.ID]
	}
	return h.index
}

// Up says which xfrm interfaces lead to an SA: routes follow.
func (h *Host) Up(ids map[uint32]bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if maps.Equal(ids, h.up) {
		return nil
	}
	h.up = maps.Clone(ids)
	if h.desired == nil || h.closed {
		return nil
	}
	return h.setLocked(*h.desired)
}

// setInterfaces makes the xfrm interfaces that d names, and removes ours that it
// does not.
func (h *Host) setInterfaces(d Desired) error {
	want := make(map[string]*Interface)
	for i := range d.Protect {
		if x := d.Protect[i].Interface; x != nil {
			want[fmt.Sprintf("%s%d", xfrmPrefix, x.ID)] = x
		}
	}
	if len(want) == 0 && len(h.xfrm) == 0 && h.desired != nil {
		return nil
	}
	have, err := h.interfaces()
	if err != nil {
		return fmt.Errorf("host: read links: %w", err)
	}
	for name, l := range have {
		if want[name] == nil {
			h.changes++
			if err := h.link(unix.RTM_DELLINK, 0, l.index, 0, nil); err != nil {
				return fmt.Errorf("host: remove interface %s: %w", name, needsAdmin(err))
			}
		}
	}
	for name, x := range want {
		l, there := have[name]
		if there && l.alias == x.Alias {
			continue
		}
		h.changes++
		if !there {
			if err := h.addInterface(name, x); err != nil {
				return fmt.Errorf("host: add xfrm interface %s: %w", name, needsAdmin(err))
			}
		}
		if err := h.nameInterface(name, x.Alias); err != nil {
			return fmt.Errorf("host: name xfrm interface %s: %w", name, needsAdmin(err))
		}
	}
	if len(want) == 0 {
		h.xfrm = nil
		return nil
	}
	if have, err = h.interfaces(); err != nil {
		return fmt.Errorf("host: read links: %w", err)
	}
	h.xfrm = make(map[uint32]uint32, len(want))
	for name, x := range want {
		h.xfrm[x.ID] = have[name].index
	}
	return nil
}

// ownLink is an xfrm interface of ours, as it is.
type ownLink struct {
	index uint32
	alias string
}

// interfaces are our xfrm interfaces by name.
func (h *Host) interfaces() (map[string]ownLink, error) {
	links, err := h.route.Link.List()
	if err != nil {
		return nil, err
	}
	out := make(map[string]ownLink)
	for _, l := range links {
		a := l.Attributes
		if a == nil || a.Info == nil || a.Info.Kind != "xfrm" || !strings.HasPrefix(a.Name, xfrmPrefix) {
			continue
		}
		own := ownLink{index: l.Index}
		if a.Alias != nil {
			own.alias = *a.Alias
		}
		out[a.Name] = own
	}
	return out, nil
}

func (h *Host) addInterface(name string, x *Interface) error {
	ae := netlink.NewAttributeEncoder()
	ae.String(unix.IFLA_IFNAME, name)
	if h.opts.MTU != 0 {
		ae.Uint32(unix.IFLA_MTU, uint32(h.opts.MTU))
	}
	ae.Nested(unix.IFLA_LINKINFO, func(info *netlink.AttributeEncoder) error {
		info.String(unix.IFLA_INFO_KIND, "xfrm")
		info.Nested(unix.IFLA_INFO_DATA, func(data *netlink.AttributeEncoder) error {
			const loopback = 1 // any device: the kernel wants one
			data.Uint32(unix.IFLA_XFRM_LINK, loopback)
			data.Uint32(unix.IFLA_XFRM_IF_ID, x.ID)
			return nil
		})
		return nil
	})
	attrs, err := ae.Encode()
	if err != nil {
		return err
	}
	err = h.link(unix.RTM_NEWLINK, netlink.Create|netlink.Excl, 0, unix.IFF_UP, attrs)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("this kernel has no xfrm interfaces: they need CONFIG_XFRM_INTERFACE or module xfrm_interface (Linux 4.19): %w", err)
	}
	return err
}

// nameInterface says beside an interface's name whose it is. The kernel takes that
// of one that exists alone.
func (h *Host) nameInterface(name, alias string) error {
	ae := netlink.NewAttributeEncoder()
	ae.String(unix.IFLA_IFNAME, name)
	ae.String(unix.IFLA_IFALIAS, alias)
	attrs, err := ae.Encode()
	if err != nil {
		return err
	}
	return h.link(unix.RTM_SETLINK, 0, 0, 0, attrs)
}

// CheckInterfaces reports whether the kernel has xfrm interfaces, by one that it
// makes and removes.
func CheckInterfaces() error {
	const id = 0xca90ca90
	nl, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return fmt.Errorf("connect to the kernel's routing: %w", err)
	}
	defer nl.Close()
	h := &Host{rule: nl}
	const name = xfrmPrefix + "check"
	if err := h.addInterface(name, &Interface{ID: id}); err != nil {
		return needsAdmin(err)
	}
	dev, err := net.InterfaceByName(name)
	if err != nil {
		return err
	}
	return h.link(unix.RTM_DELLINK, 0, uint32(dev.Index), 0, nil)
}

// link sends a request about a link.
func (h *Host) link(kind netlink.HeaderType, flags netlink.HeaderFlags, index, state uint32, attrs []byte) error {
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b[4:], index)
	binary.NativeEndian.PutUint32(b[8:], state)
	binary.NativeEndian.PutUint32(b[12:], state)
	_, err := h.rule.Execute(netlink.Message{
		Header: netlink.Header{Type: kind, Flags: netlink.Request | netlink.Acknowledge | flags},
		Data:   append(b, attrs...),
	})
	return err
}
