package netns

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// train makes a frame with UDP over IPv4 or IPv6, and the header that the kernel
// puts before it.
func train(family byte, segment uint16, payload []byte) (vnet, frame []byte) {
	vnet = make([]byte, vnetHeader)
	vnet[1] = 5
	binary.NativeEndian.PutUint16(vnet[4:], segment)
	frame = make([]byte, ethernetHeader)
	if family == 4 {
		frame[12], frame[13] = 0x08, 0x00
		ip := make([]byte, 20)
		ip[0], ip[9] = 0x45, 17
		frame = append(frame, ip...)
	} else {
		frame[12], frame[13] = 0x86, 0xdd
		ip := make([]byte, 40)
		ip[0], ip[6] = 0x60, 17
		frame = append(frame, ip...)
	}
	frame = append(frame, make([]byte, udpHeader)...)
	return vnet, append(frame, payload...)
}

func TestCut(t *testing.T) {
	payload := make([]byte, 250)
	for i := range payload {
		payload[i] = byte(i)
	}
	for _, family := range []byte{4, 6} {
		vnet, frame := train(family, 100, payload)
		var got []byte
		var lengths []int
		cut(vnet, frame, func(f []byte, train bool) {
			if !train {
				t.Errorf("IPv%d: a datagram of a train is called none", family)
			}
			head := udpPayload(f)
			n := len(f) - head
			ip := f[ethernetHeader:]
			total := int(binary.BigEndian.Uint16(ip[2:]))
			if family == 6 {
				total = 40 + int(binary.BigEndian.Uint16(ip[4:]))
			}
			if udp := int(binary.BigEndian.Uint16(f[head-4:])); total != len(ip) || udp != 8+n {
				t.Errorf("IPv%d: lengths %d and %d of a datagram of %d", family, total, udp, n)
			}
			lengths = append(lengths, n)
			got = append(got, f[head:]...)
		})
		if len(lengths) != 3 || lengths[2] != 50 || !bytes.Equal(got, payload) {
			t.Errorf("IPv%d: cut into %v", family, lengths)
		}
		// Not a train: seen as it is. No prefix may panic.
		vnet[1] = 0
		cut(vnet, frame, func(f []byte, train bool) {
			if train || !bytes.Equal(f, frame) {
				t.Error("a plain frame was changed")
			}
		})
		vnet[1] = 5
		for n := range frame {
			cut(vnet, frame[:n], func([]byte, bool) {})
		}
	}
}
