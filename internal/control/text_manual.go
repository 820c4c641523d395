package control

import (
	"fmt"
	"io"

	"caponier/internal/ipsec"
)

// Text prints what was done, and a line for each SA.
func (c SAChange) Text(w io.Writer, s Style) error {
	out := &printer{w: w, s: s}
	if len(c.SAs) == 0 {
		out.printf("no SA was %s\n", c.Action)
	}
	for i := range c.SAs {
		sa := &c.SAs[i]
		out.wrap(c.Action+": ", "  ", fmt.Sprintf("%s %s %s, peer %s, %s", tunnelName(sa.Connection, sa.Tunnel),
			sa.ID.Direction, sa.ID.SPI, sa.Remote.Addr(), sa.words()))
	}
	out.warnings(c.Warnings)
	return out.err
}

// Text prints what was done, and a line for each policy.
func (c PolicyChange) Text(w io.Writer, s Style) error {
	out := &printer{w: w, s: s}
	if len(c.Policies) == 0 {
		out.printf("no policy was %s\n", c.Action)
	}
	for i := range c.Policies {
		p := &c.Policies[i]
		out.wrap(c.Action+": ", "  ", fmt.Sprintf("%s, %s %s <-> %s", p.Name, p.Action, selectors(p.Local), selectors(p.Remote)))
	}
	out.warnings(c.Warnings)
	return out.err
}

func (p *printer) warnings(list []string) {
	for _, text := range list {
		p.wrap("warning: ", "  ", text)
	}
}

// Text says what the switch does to traffic.
func (s Switch) Text(w io.Writer, st Style) error {
	out := &printer{w: w, s: st}
	if s.Position == SwitchOn {
		out.printf("the gateway is %s\n", st.paint(green, "on"))
		return out.err
	}
	if s.SAs > 0 {
		out.printf("%s taken down\n", count(uint64(s.SAs), "SA"))
	}
	out.printf("%s\n", st.paint(red, s.warning()))
	return out.err
}

// warning is what every look at the status shows while the switch is not on.
func (s *Switch) warning() string {
	if s.Position == SwitchBypass {
		return "THE GATEWAY IS OFF, AND PROTECTED TRAFFIC LEAVES IN CLEAR (caponier gateway on)"
	}
	return "THE GATEWAY IS OFF: protected traffic is blocked (caponier gateway on)"
}

// protectionOf is what a policy protects with.
func protectionOf(p *ipsec.Policy) string {
	if p.Action != ipsec.Protect {
		return ""
	}
	with := ""
	if p.WithAH {
		with = "ah+"
	}
	return fmt.Sprintf("%s%s %s reqid %d", with, p.Protocol, p.Mode, p.ReqID)
}
