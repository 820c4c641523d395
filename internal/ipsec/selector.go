package ipsec

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Selector is one side of a traffic selector: a range of addresses, narrowed
// to a protocol and a range of ports (RFC 7296, Section 3.13.1). For ICMP,
// FirstPort and LastPort hold type and code as RFC 4301, Section 4.4.1.1 says:
// type in the high octet, code in the low one. It is comparable.
type Selector struct {
	First, Last         netip.Addr // inclusive, of one family, never IPv4-mapped
	Protocol            uint8      // 0 is any protocol
	FirstPort, LastPort uint16     // 0 and 65535 are any port
}

// FromPrefix makes the selector for every packet to or from p.
func FromPrefix(p netip.Prefix) Selector {
	p = p.Masked()
	return Selector{First: p.Addr(), Last: lastAddr(p), LastPort: 0xffff}
}

func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(b)*8; bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// Is4 reports whether the selector is of IPv4 addresses.
func (s Selector) Is4() bool { return s.First.Is4() }

// IsValid reports whether both addresses are of one family and in order.
func (s Selector) IsValid() bool {
	return s.First.IsValid() && s.Last.IsValid() && s.First.BitLen() == s.Last.BitLen() &&
		!s.First.Is4In6() && !s.Last.Is4In6() && s.First.Compare(s.Last) <= 0
}

// AnyPort reports whether the selector leaves ports open.
func (s Selector) AnyPort() bool { return s.FirstPort == 0 && s.LastPort == 0xffff }

// Contains reports whether a packet with this address, protocol and port on the
// selector's side is covered. hasPort is false for a packet whose port is not
// available (a later fragment, a protocol without ports): it is then covered
// only by a selector that leaves the ports open.
func (s Selector) Contains(a netip.Addr, protocol uint8, port uint16, hasPort bool) bool {
	if s.Protocol != 0 && s.Protocol != protocol {
		return false
	}
	if !s.AnyPort() && (!hasPort || port < s.FirstPort || port > s.LastPort) {
		return false
	}
	return a.BitLen() == s.First.BitLen() && s.First.Compare(a) <= 0 && a.Compare(s.Last) <= 0
}

// Covers reports whether everything that o covers is covered by s too.
func (s Selector) Covers(o Selector) bool {
	got, ok := s.Intersect(o)
	return ok && got == o
}

// Intersect returns what both selectors cover, and false where that is nothing.
func (s Selector) Intersect(o Selector) (Selector, bool) {
	if s.First.BitLen() != o.First.BitLen() {
		return Selector{}, false
	}
	if s.Protocol != 0 && o.Protocol != 0 && s.Protocol != o.Protocol {
		return Selector{}, false
	}
	out := s
	if o.First.Compare(out.First) > 0 {
		out.First = o.First
	}
	if o.Last.Compare(out.Last) < 0 {
		out.Last = o.Last
	}
	out.Protocol = max(s.Protocol, o.Protocol)
	out.FirstPort = max(s.FirstPort, o.FirstPort)
	out.LastPort = min(s.LastPort, o.LastPort)
	if out.First.Compare(out.Last) > 0 || out.FirstPort > out.LastPort {
		return Selector{}, false
	}
	return out, true
}

// Prefixes returns the smallest list of prefixes that covers exactly the
// selector's addresses.
func (s Selector) Prefixes() []netip.Prefix {
	var out []netip.Prefix
	for a := s.First; ; {
		bits := a.BitLen()
		for bits > 0 {
			wider := netip.PrefixFrom(a, bits-1)
			if wider.Masked().Addr() != a || lastAddr(wider).Compare(s.Last) > 0 {
				break
			}
			bits--
		}
		p := netip.PrefixFrom(a, bits)
		out = append(out, p)
		end := lastAddr(p)
		if end.Compare(s.Last) >= 0 {
			return out
		}
		a = end.Next()
	}
}

var protocolNames = map[uint8]string{1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp"}

// ParseSelector reads the configuration's form: a prefix, an address or a range
// of addresses, then optionally ":protocol" or ":protocol/port" or
// ":protocol/first-last", as in "10.1.0.7/32:tcp/80". For ICMP the last part is a
// type, a range of types, or a type with a code or a range of codes behind a dot:
// "10.1.0.7:icmp/8", "10.1.0.0/16:icmp/3.4", "[2001:db8::]/64:icmpv6/128-129". An
// IPv6 address that is narrowed stands in brackets: "[2001:db8::]/64:udp".
func ParseSelector(text string) (Selector, error) {
	addrs, narrow := text, ""
	switch {
	case strings.HasPrefix(text, "["):
		end := strings.Index(text, "]")
		if end < 0 {
			return Selector{}, fmt.Errorf("selector %q: no closing bracket", text)
		}
		rest := text[end+1:]
		rest, narrow, _ = strings.Cut(rest, ":")
		addrs = text[1:end] + rest
	case strings.Count(text, ":") == 1:
		addrs, narrow, _ = strings.Cut(text, ":")
	}
	s, err := parseAddrs(addrs)
	if err != nil {
		return Selector{}, fmt.Errorf("selector %q: %w", text, err)
	}
	if strings.HasSuffix(text, ":") && narrow == "" && !strings.HasSuffix(text, "::") {
		return Selector{}, fmt.Errorf("selector %q: a protocol is missing after the colon", text)
	}
	if narrow != "" {
		if err := s.narrow(narrow); err != nil {
			return Selector{}, fmt.Errorf("selector %q: %w", text, err)
		}
	}
	return s, nil
}

func parseAddrs(text string) (Selector, error) {
	if first, last, ok := strings.Cut(text, "-"); ok {
		a, err := netip.ParseAddr(first)
		if err != nil {
			return Selector{}, fmt.Errorf("%q is not an address", first)
		}
		b, err := netip.ParseAddr(last)
		if err != nil {
			return Selector{}, fmt.Errorf("%q is not an address", last)
		}
		s := Selector{First: a, Last: b, LastPort: 0xffff}
		if a.Zone() != "" || b.Zone() != "" || !s.IsValid() {
			return Selector{}, fmt.Errorf("%s to %s is not a range", a, b)
		}
		return s, nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" || a.Is4In6() {
			return Selector{}, fmt.Errorf("%q is neither a prefix nor an address", text)
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	if p.Addr().Is4In6() {
		return Selector{}, fmt.Errorf("%q is IPv4-mapped; write the IPv4 prefix", text)
	}
	if p.Masked() != p {
		return Selector{}, fmt.Errorf("%s has bits set after its prefix; did you mean %s?", p, p.Masked())
	}
	return FromPrefix(p), nil
}

func (s *Selector) narrow(text string) error {
	proto, ports, hasPorts := strings.Cut(text, "/")
	n, err := strconv.ParseUint(proto, 10, 8)
	if err != nil {
		for number, name := range protocolNames {
			if name == proto {
				n = uint64(number)
			}
		}
	}
	if n == 0 {
		return fmt.Errorf("%q is not a protocol", proto)
	}
	s.Protocol = uint8(n)
	if !hasPorts {
		return nil
	}
	if s.Protocol == 1 || s.Protocol == 58 {
		return s.narrowICMP(ports)
	}
	if !slices.Contains([]uint8{6, 17, 33, 132, 136}, s.Protocol) {
		return fmt.Errorf("%s has no ports", proto)
	}
	first, last, isRange := strings.Cut(ports, "-")
	if !isRange {
		last = first
	}
	a, errA := strconv.ParseUint(first, 10, 16)
	b, errB := strconv.ParseUint(last, 10, 16)
	if errA != nil || errB != nil || a > b {
		return fmt.Errorf("%q is neither a port nor a range of ports", ports)
	}
	s.FirstPort, s.LastPort = uint16(a), uint16(b)
	return nil
}

// narrowICMP reads types and codes (RFC 4301, Section 4.4.1.1): a range of types
// has every code.
func (s *Selector) narrowICMP(text string) error {
	if types, codes, ok := strings.Cut(text, "."); ok {
		kind, last, okType := octets(types)
		low, high, okCode := octets(codes)
		if !okType || !okCode || kind != last {
			return fmt.Errorf("%q is not an ICMP type with a code or a range of codes, such as 3.4 or 3.0-5", text)
		}
		s.FirstPort, s.LastPort = kind<<8|low, kind<<8|high
		return nil
	}
	first, last, ok := octets(text)
	if !ok {
		return fmt.Errorf("%q is neither an ICMP type nor a range of types", text)
	}
	s.FirstPort, s.LastPort = first<<8, last<<8|0xff
	return nil
}

// octets reads a number up to 255, or a range of them.
func octets(text string) (first, last uint16, ok bool) {
	low, high, isRange := strings.Cut(text, "-")
	if !isRange {
		high = low
	}
	a, errA := strconv.ParseUint(low, 10, 8)
	b, errB := strconv.ParseUint(high, 10, 8)
	return uint16(a), uint16(b), errA == nil && errB == nil && a <= b
}

// String prints the form that ParseSelector reads.
func (s Selector) String() string {
	if !s.IsValid() {
		return "invalid selector"
	}
	var addrs string
	prefixes := s.Prefixes()
	if len(prefixes) == 1 {
		addrs = prefixes[0].String()
	} else {
		addrs = s.First.String() + "-" + s.Last.String()
	}
	if s.Protocol == 0 && s.AnyPort() {
		return addrs
	}
	if !s.Is4() {
		addr, bits, ok := strings.Cut(addrs, "/")
		addrs = "[" + addr + "]"
		if ok {
			addrs += "/" + bits
		}
	}
	name, ok := protocolNames[s.Protocol]
	if !ok {
		name = strconv.Itoa(int(s.Protocol))
	}
	out := addrs + ":" + name
	switch {
	case s.AnyPort():
	case s.Protocol == 1 || s.Protocol == 58:
		out += "/" + s.icmp()
	case s.FirstPort == s.LastPort:
		out += fmt.Sprintf("/%d", s.FirstPort)
	default:
		out += fmt.Sprintf("/%d-%d", s.FirstPort, s.LastPort)
	}
	return out
}

// icmp prints types and codes. A peer may say what no configuration can: a range
// that begins or ends in the middle of the codes of several types. It is printed
// as it is, and does not read back.
func (s Selector) icmp() string {
	first, last := s.FirstPort>>8, s.LastPort>>8
	low, high := s.FirstPort&0xff, s.LastPort&0xff
	span := func(a, b uint16) string {
		if a == b {
			return strconv.Itoa(int(a))
		}
		return fmt.Sprintf("%d-%d", a, b)
	}
	switch {
	case low == 0 && high == 0xff:
		return span(first, last)
	case first == last:
		return fmt.Sprintf("%d.%s", first, span(low, high))
	default:
		return fmt.Sprintf("%d.%d-%d.%d", first, low, last, high)
	}
}

// MarshalText makes JSON show what String shows.
func (s Selector) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what String prints.
func (s *Selector) UnmarshalText(b []byte) error {
	got, err := ParseSelector(string(b))
	if err != nil {
		return err
	}
	*s = got
	return nil
}
