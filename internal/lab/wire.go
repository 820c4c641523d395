package lab

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"sync"

	"caponier/internal/lab/netns"
)

// wire judges what is seen on the outside links, as somebody who taps them.
type wire struct {
	mu     sync.Mutex
	secret [][]byte // must not be seen in any frame
	IKE    int
	ESP    int
	other  []string
	leaks  int
}

// mustNotShow adds octets that would betray a packet in clear.
func (w *wire) mustNotShow(b []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.secret = append(w.secret, bytes.Clone(b))
}

// see classifies one frame. Outgoing frames are the same ones again.
func (w *wire) see(f netns.Frame) {
	if f.Outgoing {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.secret {
		if bytes.Contains(f.Data, s) {
			w.leaks++
		}
	}
	switch kind := classify(f.Data); kind {
	case "ike":
		w.IKE++
	case "esp":
		w.ESP++
	case "link":
	default:
		w.other = append(w.other, kind)
	}
}

// verdict returns nothing where only IKE and ESP were seen, and nothing secret.
func (w *wire) verdict() (seen string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	seen = fmt.Sprintf("%d IKE, %d ESP, %d other", w.IKE, w.ESP, len(w.other))
	switch {
	case w.leaks > 0:
		return seen, fmt.Errorf("%d frames showed the clients' requests in clear", w.leaks)
	case len(w.other) > 0:
		return seen, fmt.Errorf("something else than IKE and ESP: %s", w.other[0])
	case w.IKE == 0 || w.ESP == 0:
		return seen, fmt.Errorf("no tunnel was seen at all")
	}
	return seen, nil
}

// classify names a frame: ike, esp, link (which a router never forwards), or
// what else it is.
func classify(frame []byte) string {
	if len(frame) < 14 {
		return "link"
	}
	switch kind := binary.BigEndian.Uint16(frame[12:]); kind {
	case 0x0806: // ARP
		return "link"
	case 0x86dd:
		return classify6(frame[14:])
	case 0x0800:
		return classify4(frame[14:])
	default:
		return fmt.Sprintf("frame of type %#04x", kind)
	}
}

func classify4(p []byte) string {
	if len(p) < 20 || len(p) < int(p[0]&15)*4+4 {
		return "short IPv4 packet"
	}
	payload := p[int(p[0]&15)*4:]
	switch p[9] {
	case 1:
		// A host whose gateway was killed answers ESP with "port unreachable".
		if payload[0] == 3 && len(payload) > 8 {
			if kind := classify4(payload[8:]); kind == "ike" || kind == "esp" {
				return "link"
			}
		}
		return fmt.Sprintf("ICMP type %d", payload[0])
	case 50:
		return "esp"
	case 17:
		return classifyUDP(payload)
	default:
		return fmt.Sprintf("IPv4 protocol %d from %d.%d.%d.%d", p[9], p[12], p[13], p[14], p[15])
	}
}

func classifyUDP(p []byte) string {
	src, dst := binary.BigEndian.Uint16(p), binary.BigEndian.Uint16(p[2:])
	switch {
	case src == 500 && dst == 500:
		return "ike"
	case src == 4500 && dst == 4500 && len(p) < 12: // NAT keepalive, or an error's quotation
		return "esp"
	case src == 4500 && dst == 4500 && binary.BigEndian.Uint32(p[8:]) == 0: // non-ESP marker, RFC 3948
		return "ike"
	case src == 4500 && dst == 4500:
		return "esp"
	default:
		return fmt.Sprintf("UDP from port %d to %d", src, dst)
	}
}

// classify6 lets through what hosts say to their own link at start: neighbour
// discovery and multicast listener reports.
func classify6(p []byte) string {
	if len(p) < 40 {
		return "short IPv6 packet"
	}
	linkLocal := p[8] == 0xfe && p[9]&0xc0 == 0x80 || bytes.Equal(p[8:24], make([]byte, 16))
	if linkLocal && p[24] == 0xff {
		return "link"
	}
	return fmt.Sprintf("IPv6 next header %d", p[6])
}
