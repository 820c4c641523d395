package ah

import (
	"caponier/internal/drop"
	"caponier/internal/packet"
)

// maxHeaders is the length of the longest IP headers before AH: an IPv6 header
// and 344 octets of extension headers, of which a routing header of 16 addresses
// takes 264.
const maxHeaders = 384

// mask copies the IP headers of pkt, which end at the octet l.at, with zeros for
// what may change on the way, and with what can be predicted as it will arrive
// (RFC 4302, Section 3.3.3.1). sending says that they have the way before them.
func (f *format) mask(pkt []byte, l layout, sending bool) ([]byte, error) {
	if l.at > maxHeaders {
		return nil, drop.Header
	}
	m := f.masked[:l.at]
	copy(m, pkt)
	if l.version == 4 {
		return m, mask4(m, sending)
	}
	return m, mask6(m, sending)
}

// mask4 is for IPv4 (RFC 4302, Section 3.3.3.1.1). Of the fixed header DSCP, ECN,
// flags, fragment offset, time to live and checksum may change.
func mask4(m []byte, sending bool) error {
	m[1] = 0
	clear(m[6:9])
	clear(m[10:12])
	return maskOptions4(m, sending)
}

// IPv4 options, with the bits for copying and class.
const (
	optionEnd         = 0
	optionNoOperation = 1
	optionSecurity    = 130
	optionLooseRoute  = 131
	optionExtSecurity = 133
	optionCIPSO       = 134 // Commercial Security
	optionStrictRoute = 137
	optionRouterAlert = 148
	optionSDMD        = 149 // Sender Directed Multi-Destination Delivery
)

// maskOptions4 goes over the options of an IPv4 header. Each is zeroed as a whole
// but for those that RFC 4302, Appendix A1, calls immutable: an option that is not
// in its list is not known to be one.
func maskOptions4(m []byte, sending bool) error {
	for o := m[packet.IPv4HeaderLen:]; len(o) > 0; {
		switch o[0] {
		case optionEnd:
			return nil
		case optionNoOperation:
			o = o[1:]
			continue
		}
		if len(o) < 2 || o[1] < 2 || int(o[1]) > len(o) {
			return drop.Header
		}
		option := o[:o[1]]
		o = o[o[1]:]
		switch option[0] {
		case optionSecurity, optionExtSecurity, optionCIPSO, optionRouterAlert, optionSDMD:
			continue
		case optionLooseRoute, optionStrictRoute:
			// The packet arrives at the last address of the route, which is
			// underway until the pointer is past it (RFC 791, Section 3.1).
			if len(option) < 3 {
				return drop.Header
			}
			if n := len(option); sending && int(option[2]) <= n {
				if n < 7 || n%4 != 3 {
					return drop.Header
				}
				copy(m[16:20], option[n-4:])
			}
		}
		clear(option)
	}
	return nil
}

// mask6 is for IPv6 (RFC 4302, Section 3.3.3.1.2). Of the fixed header DSCP, ECN,
// flow label and hop limit may change.
func mask6(m []byte, sending bool) error {
	m[0] = 6 << 4
	clear(m[1:4])
	m[7] = 0
	next := m[6]
	for h := m[packet.IPv6HeaderLen:]; len(h) > 0; {
		n := extensionLen(h)
		if n == 0 {
			return drop.Header
		}
		var err error
		switch next {
		case packet.ProtocolHopByHop, packet.ProtocolDestination:
			err = maskOptions6(h[2:n])
		case packet.ProtocolRouting:
			err = maskRouting(m, h[:n], sending)
		default:
			err = drop.Header
		}
		if err != nil {
			return err
		}
		next, h = h[0], h[n:]
	}
	return nil
}

// optionMayChange is the bit of an IPv6 option's type that says that its data may
// change on the way (RFC 8200, Section 4.2).
const optionMayChange = 0x20

// maskOptions6 zeroes the data of options that may change; their types and
// lengths remain.
func maskOptions6(o []byte) error {
	const pad1 = 0
	for len(o) > 0 {
		if o[0] == pad1 {
			o = o[1:]
			continue
		}
		if len(o) < 2 || 2+int(o[1]) > len(o) {
			return drop.Header
		}
		n := 2 + int(o[1])
		if o[0]&optionMayChange != 0 {
			clear(o[2:n])
		}
		o = o[n:]
	}
	return nil
}

// Types of routing headers whose addresses trade places with the destination in
// order: of the source route (RFC 2460, Section 4.4) and of mobility (RFC 6275,
// Section 6.4).
const (
	routingType0 = 0
	routingType2 = 2
)

// maskRouting puts a routing header, and the destination address of the header m,
// in the form in which they arrive: with no segments left, every address having
// been exchanged for the destination in turn. A receiver finds it in that form.
func maskRouting(m, h []byte, sending bool) error {
	const addressLen = 16
	left := int(h[3])
	if left == 0 {
		return nil
	}
	n := (len(h) - 8) / addressLen
	if !sending || h[2] != routingType0 && h[2] != routingType2 || (len(h)-8)%addressLen != 0 || left > n {
		return drop.Header
	}
	h[3] = 0
	dst := m[24:40]
	route := h[8+(n-left)*addressLen:]
	for i := range dst {
		held := dst[i]
		for a := i; a < len(route); a += addressLen {
			held, route[a] = route[a], held
		}
		dst[i] = held
	}
	return nil
}
