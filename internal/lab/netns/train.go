package netns

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// vnetHeader is the length of struct virtio_net_hdr, which stands before each
// captured frame (packet(7), PACKET_VNET_HDR).
const vnetHeader = 10

const (
	ethernetHeader = 14
	udpHeader      = 8
)

// cut calls see for each datagram of a train (UDP_SEGMENT, udp(7)), or for the
// frame itself where it is none.
func cut(vnet, frame []byte, see func(frame []byte, train bool)) {
	segment := int(binary.NativeEndian.Uint16(vnet[4:]))
	head := udpPayload(frame)
	if vnet[1] != unix.VIRTIO_NET_HDR_GSO_UDP_L4 || segment == 0 || head == 0 {
		see(frame, false)
		return
	}
	for rest := frame[head:]; len(rest) > 0; {
		n := min(segment, len(rest))
		out := append(append(make([]byte, 0, head+n), frame[:head]...), rest[:n]...)
		ip := out[ethernetHeader:]
		if ip[0]>>4 == 4 {
			binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
		} else {
			binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-40))
		}
		binary.BigEndian.PutUint16(out[head-4:], uint16(udpHeader+n))
		see(out, true)
		rest = rest[n:]
	}
}

// udpPayload is where the payload of a UDP datagram begins in a frame, or 0
// where the frame has none.
func udpPayload(frame []byte) int {
	if len(frame) < ethernetHeader+20 {
		return 0
	}
	ip := frame[ethernetHeader:]
	head := 0
	switch kind := binary.BigEndian.Uint16(frame[12:]); {
	case kind == unix.ETH_P_IP && ip[9] == unix.IPPROTO_UDP:
		head = ethernetHeader + int(ip[0]&15)*4 + udpHeader
	case kind == unix.ETH_P_IPV6 && ip[6] == unix.IPPROTO_UDP:
		head = ethernetHeader + 40 + udpHeader
	}
	if head > len(frame) {
		return 0
	}
	return head
}
