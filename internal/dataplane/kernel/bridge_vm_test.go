//go:build vm

package kernel

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"sync"

	"caponier/internal/dataplane/dataplanetest"
	"caponier/internal/netio"
	"caponier/internal/packet"
)

// bridge joins the TUN devices of a kernel plane to the suite's devices in
// memory. On the outside it takes off and puts on the headers before ESP. On the
// inside it gives each packet back the hops that the kernel counts as a router.
type bridge struct {
	lan, wan *netio.TUN
	inner    *netio.Mem // the suite's end
	outer    dataplanetest.Outer

	innerNear *netio.Mem
	outerNear []*netio.Mem // in the order of headers
	wg        sync.WaitGroup
}

// headers are what stands before the packets of each outer device.
var headers = []struct{ v6, udp bool }{{false, true}, {true, true}, {false, false}, {true, false}}

func newBridge() *bridge {
	const depth, size = 1024, 2000
	b := new(bridge)
	b.innerNear, b.inner = netio.NewMemPair(depth, size)
	for _, far := range []**netio.Mem{&b.outer.UDP4, &b.outer.UDP6, &b.outer.ESP4, &b.outer.ESP6} {
		near, end := netio.NewMemPair(depth, size)
		b.outerNear, *far = append(b.outerNear, near), end
	}
	return b
}

func (b *bridge) start() {
	b.wg.Go(func() { forEach(b.innerNear, func(p *netio.Packet) { b.send(b.lan, hops(p.Data())) }) })
	b.wg.Go(func() { forEach(b.lan, b.fromLAN) })
	b.wg.Go(func() { forEach(b.wan, b.fromWAN) })
	for i, near := range b.outerNear {
		b.wg.Go(func() { forEach(near, func(p *netio.Packet) { b.send(b.wan, wrap(p, headers[i].v6, headers[i].udp)) }) })
	}
}

func (b *bridge) close() {
	b.lan.Close()
	b.wan.Close()
	b.innerNear.Close()
	for _, near := range b.outerNear {
		near.Close()
	}
	b.wg.Wait()
}

// forEach reads a device until it is closed.
func forEach(d netio.Device, f func(p *netio.Packet)) {
	pkts := netio.NewBatch(32, 2000)
	for {
		n, err := d.ReadBatch(pkts)
		if err != nil {
			return
		}
		for i := range pkts[:n] {
			f(&pkts[i])
		}
	}
}

// send writes a packet to a TUN device. What the kernel refuses is no packet: the
// suite sends such ones too.
func (b *bridge) send(tun *netio.TUN, data []byte) {
	p := netio.NewBatch(1, 2000)
	p[0].Off = netio.Headroom
	p[0].Len = copy(p[0].Buf[p[0].Off:], data)
	_, _ = tun.WriteBatch(p)
}

// fromLAN passes what the suite's hosts say on, and nothing that the kernel says
// by itself.
func (b *bridge) fromLAN(p *netio.Packet) {
	var info packet.Info
	info.Decode(p.Data())
	if info.Protocol == packet.ProtocolUDP {
		_ = b.innerNear.Inject(hops(p.Data()), netip.AddrPort{}, netip.AddrPort{})
	}
}

// fromWAN passes ESP on, and what is in clear: the suite finds it there.
func (b *bridge) fromWAN(p *netio.Packet) {
	var info packet.Info
	data := p.Data()
	info.Decode(data)
	device, off := 2, info.HeaderLen
	switch {
	case info.Version == 0:
		return
	case info.Protocol == packet.ProtocolUDP && info.DstPort >= 4500:
		device, off = 0, off+packet.UDPHeaderLen
	case info.Protocol == packet.ProtocolESP:
	case info.Protocol == packet.ProtocolUDP:
	default:
		return
	}
	if info.Version == 6 {
		device++
	}
	local, remote := netip.AddrPortFrom(info.Src, info.SrcPort), netip.AddrPortFrom(info.Dst, info.DstPort)
	_ = b.outerNear[device].Inject(bytes.Clone(data[off:]), local, remote)
}

// wrap puts a packet behind the headers for where it comes from and goes to.
func wrap(p *netio.Packet, v6, udp bool) []byte {
	payload := p.Data()
	protocol := packet.ProtocolESP
	src, dst := p.Remote.Addr(), p.Local.Addr()
	if udp {
		h := make([]byte, packet.UDPHeaderLen, packet.UDPHeaderLen+len(payload))
		payload = append(h, payload...)
		packet.PutUDP(payload, p.Remote.Port(), p.Local.Port(), len(payload), 0)
		if v6 { // where there must be a checksum
			sum := packet.TransportChecksum(src, dst, packet.ProtocolUDP, payload)
			packet.PutUDP(payload, p.Remote.Port(), p.Local.Port(), len(payload), sum)
		}
		protocol = packet.ProtocolUDP
	}
	var b []byte
	if v6 {
		b = make([]byte, packet.IPv6HeaderLen)
		packet.PutIPv6(b, &packet.IPv6Header{Src: src, Dst: dst, PayloadLen: len(payload), NextHeader: protocol, HopLimit: 64})
	} else {
		b = make([]byte, packet.IPv4HeaderLen)
		packet.PutIPv4(b, &packet.IPv4Header{Src: src, Dst: dst, TotalLen: len(b) + len(payload), TTL: 64, Protocol: protocol})
	}
	return append(b, payload...)
}

// hops returns the packet with one hop more to go. The suite compares all of it
// with what it sent.
func hops(data []byte) []byte {
	out := bytes.Clone(data)
	switch {
	case len(out) >= packet.IPv4HeaderLen && out[0]>>4 == 4:
		out[8]++
		out[10], out[11] = 0, 0
		binary.BigEndian.PutUint16(out[10:], packet.Checksum(out[:packet.IPv4HeaderLen]))
	case len(out) >= packet.IPv6HeaderLen && out[0]>>4 == 6:
		out[7]++
	}
	return out
}
