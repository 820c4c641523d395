package control

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// Text prints the gateway and a line for each connection; or, where one
// connection was asked for, all of that.
func (st Status) Text(w io.Writer, s Style) error {
	out := &printer{w: w, s: s}
	if st.Detail == "" {
		st.overview(out)
	}
	for i := range st.Connections {
		if st.Detail == st.Connections[i].Name {
			st.Connections[i].detail(out, st.Time)
		}
	}
	return out.err
}

func (st Status) overview(out *printer) {
	head := fmt.Sprintf("%s: caponier %s, up %s, pid %d, %s data plane", out.s.paint(bold, clean(st.Name)), st.Version,
		age(st.Time.Sub(st.Started)), st.PID, st.DataPlane)
	if st.Workers > 0 {
		head += ", " + count(uint64(st.Workers), "worker")
	}
	if st.Latency != "" {
		head += ", latency " + st.Latency
	}
	if len(st.Interfaces) > 0 {
		head += fmt.Sprintf(", capture %s on %s", st.Capture, clean(strings.Join(st.Interfaces, ", ")))
	}
	out.printf("%s\n", head)
	if st.Switch != nil {
		out.printf("%s\n", out.s.paint(red, st.Switch.warning()))
	}
	out.printf("config %s, state %s\n", clean(st.Config), clean(st.StateDir))
	out.printf("memory %s resident, %s\n", octets(st.Memory.Resident),
		count(uint64(st.Memory.Goroutines), "goroutine"))
	var counters []string
	for _, name := range slices.Sorted(maps.Keys(st.Counters)) {
		if n := st.Counters[name]; n > 0 {
			counters = append(counters, fmt.Sprintf("%s=%d", name, n))
		}
	}
	if len(counters) > 0 {
		out.wrap("counters ", "  ", strings.Join(counters, " "))
	}
	out.printf("\n")
	if len(st.Connections) == 0 {
		out.printf("no connections are configured\n")
		return
	}
	t := table{head: []string{"CONNECTION", "STATE", "LOCAL", "REMOTE", "TUNNELS", "IN", "OUT"}}
	for i := range st.Connections {
		c := &st.Connections[i]
		in, sent, up := c.traffic()
		t.add(plain(c.Name), cell{string(c.State), c.State.colour()}, plain(c.Local.where()), plain(c.remoteNow()),
			plain(fmt.Sprintf("%d/%d", up, len(c.Tunnels))), plain(octets(in)), plain(octets(sent)))
	}
	out.table(t)
	for i := range st.Connections {
		c := &st.Connections[i]
		for _, f := range c.failures() {
			out.printf("\n")
			f.failure.print(out, "", clean(f.name)+": ", c.Name, st.Time)
		}
		for _, w := range c.Warnings {
			out.printf("\n")
			w.print(out, "", clean(c.Name)+": ")
		}
	}
}

// where is the address as configured.
func (e Endpoint) where() string {
	if len(e.Address) == 0 {
		return "%any"
	}
	return strings.Join(e.Address, ", ")
}

// remoteNow is where the peer is, or else where it is configured to be.
func (c *Connection) remoteNow() string {
	for _, sa := range c.IKE {
		if sa.Remote.IsValid() {
			return sa.Remote.Addr().String()
		}
	}
	return c.Remote.where()
}

// traffic adds up the SAs in use. up is the number of tunnels that have any.
func (c *Connection) traffic() (in, out uint64, up int) {
	for _, t := range c.Tunnels {
		if len(t.SAs) > 0 {
			up++
		}
		for _, sa := range t.SAs {
			in += sa.In.Bytes
			out += sa.Out.Bytes
		}
	}
	return in, out, up
}

type namedFailure struct {
	name    string
	failure *Failure
}

// failures lists what keeps the connection or its tunnels down.
func (c *Connection) failures() []namedFailure {
	var out []namedFailure
	if c.State == Failed && c.LastError != nil {
		out = append(out, namedFailure{c.Name, c.LastError})
	}
	for _, t := range c.Tunnels {
		same := c.LastError != nil && t.LastError != nil && c.LastError.Code == t.LastError.Code
		if t.State == Failed && t.LastError != nil && !same {
			out = append(out, namedFailure{Target{c.Name, t.Name}.String(), t.LastError})
		}
	}
	return out
}

func (f *Failure) print(out *printer, indent, prefix, connection string, now time.Time) {
	out.wrap(indent+prefix, indent+"  ", fmt.Sprintf("%s, %s: %s", f.Code, ago(now, f.Time), f.Message))
	if f.Cure != "" {
		out.wrap(indent+"  cure: ", indent+"    ", f.Cure)
	}
	out.wrap(indent+"  more: ", indent+"    ", "caponier why "+connection)
}

func (w *Warning) print(out *printer, indent, prefix string) {
	out.wrap(indent+prefix, indent+"  ", w.Code+": "+w.Message)
	if w.Cure != "" {
		out.wrap(indent+"  cure: ", indent+"    ", w.Cure)
	}
}

func (c *Connection) detail(out *printer, now time.Time) {
	out.printf("%s: %s, %s\n", out.s.paint(bold, clean(c.Name)), out.s.paint(c.State.colour(), string(c.State)), c.Version)
	c.Local.print(out, "local ")
	c.Remote.print(out, "remote")
	if c.LastError != nil {
		c.LastError.print(out, "  ", "last error: ", c.Name, now)
	}
	for _, w := range c.Warnings {
		w.print(out, "  ", "warning: ")
	}
	for i := range c.IKE {
		c.IKE[i].print(out, now)
	}
	for i := range c.Tunnels {
		c.Tunnels[i].print(out, c.Name, now)
	}
}

func (e Endpoint) print(out *printer, label string) {
	line := e.where() + ", " + e.Auth
	if e.ID != "" {
		line += ", " + e.ID
	}
	out.wrap("  "+label+" ", "         ", line)
}

func (sa *IKESA) print(out *printer, now time.Time) {
	line := fmt.Sprintf("%s, %s", sa.State, sa.Role)
	if !sa.Established.IsZero() {
		line += ", age " + age(now.Sub(sa.Established))
	}
	if !sa.RekeyAt.IsZero() {
		line += ", rekey " + until(now, sa.RekeyAt)
	}
	out.printf("\n")
	out.wrap("  IKE SA "+sa.InitiatorSPI+" "+sa.ResponderSPI+": ", "    ", line)
	if sa.Remote.IsValid() {
		out.wrap("    ", "    ", fmt.Sprintf("%s <-> %s, %s", sa.Local, sa.Remote, sa.nat()))
	}
	if sa.LocalID != "" || sa.RemoteID != "" {
		out.wrap("    ", "    ", sa.LocalID+" <-> "+sa.RemoteID)
	}
	if sa.Proposal != "" {
		out.wrap("    ", "    ", sa.Proposal)
	}
	if len(sa.Vendors) > 0 {
		out.wrap("    ", "    ", "the peer's software: "+strings.Join(sa.Vendors, ", "))
	}
}

func (sa *IKESA) nat() string {
	switch {
	case sa.NATLocal && sa.NATRemote:
		return "NAT at both ends"
	case sa.NATLocal:
		return "NAT at this end"
	case sa.NATRemote:
		return "NAT at the remote end"
	default:
		return "no NAT"
	}
}

func (t *Tunnel) print(out *printer, connection string, now time.Time) {
	out.printf("\n")
	out.printf("  tunnel %s: %s\n", out.s.paint(bold, clean(t.Name)), out.s.paint(t.State.colour(), string(t.State)))
	out.wrap("    ", "    ", fmt.Sprintf("%s %s, start %s, reqid %d", t.Protocol, t.Mode, t.Start, t.ReqID))
	out.wrap("    ", "      ", selectors(t.Local)+" <-> "+selectors(t.Remote))
	if t.LastError != nil {
		t.LastError.print(out, "    ", "last error: ", connection, now)
	}
	for i := range t.SAs {
		t.SAs[i].print(out, t, now)
	}
}

func (sa *ChildSA) print(out *printer, t *Tunnel, now time.Time) {
	line := sa.Proposal
	if sa.Encap {
		line += ", in UDP"
	}
	if sa.Aggfrag {
		line += ", AGGFRAG"
	}
	if sa.Tripped {
		line += ", " + out.s.paint(red, "sends nothing: more than iptfs.loss-limit was lost")
	}
	if sa.ESN {
		line += ", ESN"
	}
	line += ", age " + age(now.Sub(sa.Established))
	if !sa.RekeyAt.IsZero() {
		line += ", rekey " + until(now, sa.RekeyAt)
	}
	if !sa.Expires.IsZero() {
		line += ", ends " + until(now, sa.Expires)
	}
	out.wrap("    SA ", "      ", line)
	if !slices.Equal(sa.LocalTS, t.Local) || !slices.Equal(sa.RemoteTS, t.Remote) {
		out.wrap("      narrowed to ", "        ", selectors(sa.LocalTS)+" <-> "+selectors(sa.RemoteTS))
	}
	sa.In.print(out, "in ", now)
	sa.Out.print(out, "out", now)
	if sa.PathMTU != 0 {
		out.wrap("      MTU ", "        ", mtuWords(sa.PathMTU, sa.InnerMTU, sa.PathMTUUntil, now))
	}
}

// mtuWords says how long packets may be.
func mtuWords(path, inner int, until, now time.Time) string {
	line := fmt.Sprintf("%d inside, %d on the way to the peer", inner, path)
	if inner == 0 { // AGGFRAG mode
		line = fmt.Sprintf("any length inside, %d on the way to the peer", path)
	}
	if until.IsZero() {
		return line + ", as the route says"
	}
	return line + ", as a router has told; believed for " + age(until.Sub(now))
}

func (h Half) print(out *printer, label string, now time.Time) {
	line := fmt.Sprintf("      %s %s  %8s  %s, last %s", label, h.SPI, octets(h.Bytes), count(h.Packets, "packet"), ago(now, h.Used))
	if h.Drops > 0 {
		line += ", " + out.s.paint(yellow, fmt.Sprintf("%d dropped", h.Drops))
	}
	out.printf("%s\n", line)
}
