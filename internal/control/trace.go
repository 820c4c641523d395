package control

import (
	"fmt"
	"io"
	"net/netip"
	"strconv"

	"caponier/internal/ipsec"
)

// Trace is the way of one packet through the gateway, as it would be taken now.
type Trace struct {
	Flow  ipsec.Flow  `json:"flow"`
	Steps []TraceStep `json:"steps"`
	// Verdict is a stable word; Passes says whether the packet goes on.
	Verdict Verdict `json:"verdict"`
	Passes  bool    `json:"passes"`
	Words   string  `json:"words"` // the verdict in words
	// Counter is the name of the one that would count it, and Count what it shows
	// now.
	Counter string `json:"counter,omitempty"`
	Count   uint64 `json:"count"`
	Cure    string `json:"cure,omitempty"`
}

// TraceStep is what one part of the gateway does with the packet.
type TraceStep struct {
	Step string `json:"step"` // "route", "policy", "SA", "MTU", "return"
	OK   bool   `json:"ok"`
	Text string `json:"text"`
}

// Verdict is what becomes of a packet.
type Verdict string

// The verdicts.
const (
	Protected      Verdict = "protected"        // it leaves in an SA
	Held           Verdict = "held"             // it waits for an SA, which is asked for
	Bypassed       Verdict = "bypassed"         // a policy sends it in clear
	DroppedPolicy  Verdict = "policy-discard"   // a policy discards it
	DroppedNone    Verdict = "no-policy"        // no policy matches
	DroppedNoSA    Verdict = "no-sa"            // its policy has no SA
	PastGateway    Verdict = "past-the-gateway" // the data plane never sees it
	Unrouted       Verdict = "no-route"         // the system refuses it
	ToGateway      Verdict = "to-this-gateway"  // it is for the gateway itself
	ArrivesInside  Verdict = "arrives"          // it comes from the peer through an SA
	ArrivesNowhere Verdict = "no-inbound-sa"    // it would have to
)

// The ports of a traced packet.
const (
	tracedPort = 49152     // of its source
	echoType   = 8 << 8    // ICMP echo request
	echo6Type  = 128 << 8  // ICMPv6 echo request
	protoICMP  = uint8(1)  // RFC 792
	protoTCP   = uint8(6)  // RFC 9293
	protoUDP   = uint8(17) // RFC 768
	protoICMP6 = uint8(58) // RFC 4443
)

// ParseFlow reads the arguments of "trace". Without a protocol it is an echo
// request; without a port, a packet whose ports are not known.
func ParseFlow(src, dst, protocol, port string) (ipsec.Flow, error) {
	var f ipsec.Flow
	var err error
	for _, a := range []struct {
		text string
		to   *netip.Addr
	}{{src, &f.Src}, {dst, &f.Dst}} {
		if *a.to, err = netip.ParseAddr(a.text); err != nil || a.to.Zone() != "" {
			return f, fmt.Errorf("%q is not an address", a.text)
		}
		*a.to = a.to.Unmap()
	}
	if f.Src.BitLen() != f.Dst.BitLen() {
		return f, fmt.Errorf("%s and %s are not of one address family", f.Src, f.Dst)
	}
	switch protocol {
	case "", "icmp", "icmpv6":
		f.Protocol, f.SrcPort = protoICMP, echoType
		if f.Src.Is6() {
			f.Protocol, f.SrcPort = protoICMP6, echo6Type
		}
		f.DstPort = f.SrcPort
		if port != "" {
			return f, fmt.Errorf("ICMP has no ports")
		}
		return f, nil
	case "tcp":
		f.Protocol = protoTCP
	case "udp":
		f.Protocol = protoUDP
	default:
		n, err := strconv.ParseUint(protocol, 10, 8)
		if err != nil || n == 0 {
			return f, fmt.Errorf("%q is not a protocol: tcp, udp, icmp or a number", protocol)
		}
		f.Protocol = uint8(n)
	}
	if port == "" {
		return f, nil
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return f, fmt.Errorf("%q is not a port", port)
	}
	f.SrcPort, f.DstPort = tracedPort, uint16(n)
	return f, nil
}

// HasPorts reports whether the ports of a traced packet are known.
func HasPorts(f ipsec.Flow) bool { return f.DstPort != 0 || f.SrcPort != 0 }

func flowWords(f ipsec.Flow) string {
	out := fmt.Sprintf("%s -> %s, ", f.Src, f.Dst)
	switch f.Protocol {
	case protoICMP, protoICMP6:
		return out + "ICMP echo request"
	case protoTCP:
		out += "TCP"
	case protoUDP:
		out += "UDP"
	default:
		out += fmt.Sprintf("protocol %d", f.Protocol)
	}
	if f.DstPort != 0 {
		return out + fmt.Sprintf(" to port %d", f.DstPort)
	}
	return out
}

// Text prints one paragraph for each step, then the verdict.
func (t Trace) Text(w io.Writer, s Style) error {
	out := &printer{w: w, s: s}
	out.printf("%s\n", s.paint(bold, flowWords(t.Flow)))
	for _, step := range t.Steps {
		mark := s.paint(green, "ok:")
		if !step.OK {
			mark = s.paint(red, "no:")
		}
		out.field(step.Step, mark+" "+clean(step.Text))
	}
	colour := green
	if !t.Passes {
		colour = red
	}
	out.field("verdict", s.paint(colour, string(t.Verdict))+": "+clean(t.Words))
	if t.Counter != "" {
		out.field("counter", fmt.Sprintf("%s, now %d", clean(t.Counter), t.Count))
	}
	if t.Cure != "" {
		out.field("cure", clean(t.Cure))
	}
	return out.err
}
