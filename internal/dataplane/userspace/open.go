package userspace

import (
	"fmt"
	"net/netip"
	"runtime"

	"caponier/internal/netio"
)

// DefaultMTU is the MTU of the TUN device with which no suite of ours makes a
// packet longer than 1,500 octets. The longest is AES-CBC with HMAC-SHA2-512 in
// UDP over IPv6:
//
//	40 IPv6 + 8 UDP + 8 ESP + 16 IV + 32 ICV = 104; 1500 - 104 = 1396, of which
//	1392 are whole blocks, which end in 2 octets of trailer.
const DefaultMTU = 1390

// DefaultPort is the UDP port of ESP and IKE behind NAT (RFC 3948).
const DefaultPort = 4500

// OpenOptions say which devices of the system to open.
type OpenOptions struct {
	// Name of the TUN device; a %d in it lets the kernel number it.
	Name string
	// MTU of the TUN device; 0 is DefaultMTU.
	MTU int
	// Workers is how many there shall be; 0 is one for each CPU.
	Workers int
	// Port is the UDP port; 0 is DefaultPort.
	Port uint16
	// Address to bind the sockets to; the zero Addr is every address.
	Address netip.Addr
	// Mark is what the gateway's own packets carry (SO_MARK).
	Mark uint32
	// Without are the offloads that are not to be used.
	Without netio.Offload
	// Apart is for a plane that stays awake: see there.
	Apart bool
}

// Open opens a TUN device, the UDP sockets and the raw sockets, of both
// families where the system has both. It returns the name of the TUN device.
func Open(o OpenOptions) (d Devices, name string, err error) {
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.MTU == 0 {
		o.MTU = DefaultMTU
	}
	if o.Port == 0 {
		o.Port = DefaultPort
	}
	defer func() {
		if err != nil {
			d.Close()
			d = Devices{}
			err = fmt.Errorf("user-space data plane: %w", err)
		}
	}()
	queues, err := netio.OpenTUN(o.Name, netio.TUNOptions{Queues: o.Workers, MTU: o.MTU, Without: o.Without, Apart: o.Apart})
	if err != nil {
		return d, "", err
	}
	for _, q := range queues {
		d.Inner = append(d.Inner, q)
	}
	d.UDPPort = o.Port
	for _, f := range []netio.Family{netio.IPv4, netio.IPv6} {
		if o.Address.IsValid() && netio.FamilyOf(o.Address) != f {
			continue
		}
		if !netio.HasFamily(f) {
			continue
		}
		if err := d.openFamily(f, o); err != nil {
			return d, "", err
		}
	}
	return d, queues[0].Name(), nil
}

func (d *Devices) openFamily(f netio.Family, o OpenOptions) error {
	opts := netio.SocketOptions{Address: o.Address, Mark: o.Mark, Without: o.Without, Apart: o.Apart}
	socks, err := netio.ListenUDP(f, o.Port, o.Workers, opts)
	if err != nil {
		return err
	}
	udp := make([]netio.Device, len(socks))
	for i, s := range socks {
		udp[i] = s
	}
	raw := []*netio.Device{&d.ESP4, &d.AH4, &d.Clear4}
	icmp := &d.ICMP4
	if f == netio.IPv4 {
		d.UDP4 = udp
	} else {
		d.UDP6 = udp
		raw = []*netio.Device{&d.ESP6, &d.AH6, &d.Clear6}
		icmp = &d.ICMP6
	}
	for i, open := range []func(netio.Family, netio.SocketOptions) (*netio.Socket, error){
		netio.ListenESP, netio.ListenAH, netio.OpenClear,
	} {
		s, err := open(f, opts)
		if err != nil {
			return err
		}
		*raw[i] = s
	}
	heard, err := netio.ListenICMP(f, netio.SocketOptions{})
	if err != nil {
		return err
	}
	*icmp = heard
	return nil
}
