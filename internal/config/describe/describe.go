// Package describe tells in words what a configuration does.
package describe

import (
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"caponier/internal/config"
	"caponier/internal/config/identity"
	"caponier/internal/ipsec"
)

// Description tells what a configuration does, in words. It holds no secret.
type Description struct {
	Files       []string                `json:"files"`
	Gateway     GatewayDescription      `json:"gateway"`
	Connections []ConnectionDescription `json:"connections"`
	// Associations are keyed by hand.
	Associations []AssociationDescription `json:"associations,omitempty"`
	Policies     []PolicyDescription      `json:"policies"` // in order of precedence
	Defaults     []config.Default         `json:"defaults"`
}

// GatewayDescription describes the section gateway.
type GatewayDescription struct {
	Name      string `json:"name,omitempty"`
	State     string `json:"state"`
	Control   string `json:"control"`
	DataPlane string `json:"dataplane"`
	Capture   string `json:"capture,omitempty"` // of the user-space plane
	// Interfaces are those whose frames are captured, where they are named.
	Interfaces []string `json:"interfaces,omitempty"`

	Workers  int    `json:"workers"`
	Latency  string `json:"latency,omitempty"` // where it is not normal
	Shutdown string `json:"shutdown"`
}

// ConnectionDescription describes a connection.
type ConnectionDescription struct {
	Name          string              `json:"name"`
	Protocol      string              `json:"protocol"`
	Local         PartyDescription    `json:"local"`
	Remote        PartyDescription    `json:"remote"`
	Proposals     string              `json:"proposals"`
	Encapsulation string              `json:"encapsulation"`
	DPD           string              `json:"dpd"`
	Lifetime      string              `json:"lifetime"`
	Tunnels       []TunnelDescription `json:"tunnels"`
}

// PartyDescription says who an end is and how it proves that.
type PartyDescription struct {
	Address string `json:"address"`
	ID      string `json:"id"`
	Proof   string `json:"proof"`
}

// TunnelDescription says what a tunnel protects, how, and when it starts.
type TunnelDescription struct {
	Name      string           `json:"name"`
	Mode      string           `json:"mode"`
	Protocol  string           `json:"protocol"`
	Local     []ipsec.Selector `json:"local"`
	Remote    []ipsec.Selector `json:"remote"`
	Proposals string           `json:"proposals"`
	Aggfrag   string           `json:"aggfrag,omitempty"` // whether packets share ESP packets, unless it is off
	Pace      string           `json:"pace,omitempty"`    // the constant rate, if there is one
	Starts    string           `json:"starts"`
	Lifetime  string           `json:"lifetime"`
}

// PolicyDescription is a policy of the SPD: a shunt or a tunnel.
type PolicyDescription struct {
	Name     string           `json:"name"`
	Action   string           `json:"action"`
	Priority int32            `json:"priority"`
	Local    []ipsec.Selector `json:"local"`
	Remote   []ipsec.Selector `json:"remote"`
}

// Config tells what the configuration does.
func Config(c *config.Config) *Description {
	out := &Description{
		Files: c.Files,
		Gateway: GatewayDescription{
			Name: c.Gateway.Name, State: c.Gateway.State, Control: c.Gateway.Control,
			DataPlane: c.Gateway.DataPlane.String(), Capture: captureOf(&c.Gateway), Interfaces: c.Gateway.Interfaces,
			Workers: c.Gateway.Workers, Latency: latencyOf(&c.Gateway), Shutdown: c.Gateway.Shutdown.String(),
		},
		Defaults: c.Defaults,
	}
	for _, p := range c.Policies {
		out.Policies = append(out.Policies, PolicyDescription{p.Name, p.Action.String(), p.Priority, p.Local, p.Remote})
	}
	for _, conn := range c.Connections {
		d := ConnectionDescription{
			Name: conn.Name, Protocol: conn.Version.Protocol(),
			Local:         describeParty(&conn.Local, "the subject of the certificate"),
			Remote:        describeParty(&conn.Remote, "%any"),
			Proposals:     config.ProposalText(conn.Proposals),
			Encapsulation: conn.Encapsulation.String(),
			DPD:           config.FormatDuration(conn.DPD), Lifetime: config.FormatDuration(conn.Lifetime),
		}
		for _, t := range conn.Tunnels {
			d.Tunnels = append(d.Tunnels, TunnelDescription{
				Name: t.Name, Mode: t.Mode.String(), Protocol: t.Protocol.String(),
				Local: t.Local, Remote: t.Remote, Proposals: config.ProposalText(t.Proposals),
				Aggfrag: aggfragText(t.Aggfrag), Pace: paceText(t.Pace),
				Starts: startText(t.Start), Lifetime: limitText(t.Lifetime),
			})
			out.Policies = append(out.Policies, PolicyDescription{conn.Name + "/" + t.Name, ipsec.Protect.String(), config.PriorityNormal, t.Local, t.Remote})
		}
		out.Connections = append(out.Connections, d)
	}
	for _, p := range c.Manual.Policies {
		out.Policies = append(out.Policies, PolicyDescription{p.Name, p.Action.String(), p.Priority, p.Local, p.Remote})
	}
	for _, a := range c.Manual.Associations {
		out.Associations = append(out.Associations, describeAssociation(a))
	}
	// Among policies of one priority the more specific decides, whatever the
	// order here.
	slices.SortStableFunc(out.Policies, func(a, b PolicyDescription) int { return int(b.Priority) - int(a.Priority) })
	return out
}

func describeParty(p *config.Party, defaultID string) PartyDescription {
	out := PartyDescription{Address: addressText(p.Addresses), ID: p.ID.Text}
	if p.ID.Kind == identity.Default {
		out.ID = defaultID
		if p.Auth == config.AuthPSK {
			out.ID = "the address"
		}
	}
	var proof []string
	switch {
	case p.Auth == config.AuthPSK:
		proof = append(proof, "the pre-shared key in "+p.PSKFile)
	case p.SignCert != nil:
		proof = append(proof, "the pair "+p.SignCert.Path+" for signatures", "the pair "+p.EncryptCert.Path+" for encryption")
	case p.Cert != nil:
		proof = append(proof, "the certificate "+p.Cert.Path+" with the key "+p.Key.Path)
	default:
		if len(p.CA) > 0 {
			var paths []string
			for _, ca := range p.CA {
				paths = append(paths, ca.Path)
			}
			proof = append(proof, "a certificate that "+strings.Join(paths, " or ")+" leads to")
		}
		if p.Pin != nil {
			proof = append(proof, "exactly the certificate "+p.Pin.Path)
		}
		for _, f := range p.CRL {
			proof = append(proof, "not revoked in "+f.Path)
		}
		if p.Revocation == config.RevocationStrict {
			proof = append(proof, "covered by a current revocation list")
		}
	}
	out.Proof = strings.Join(proof, ", and ")
	return out
}

func addressText(list []netip.Prefix) string {
	if len(list) == 0 {
		return "%any"
	}
	var out []string
	for _, p := range list {
		if p.IsSingleIP() {
			out = append(out, p.Addr().String())
		} else {
			out = append(out, p.String())
		}
	}
	return strings.Join(out, ", ")
}

func startText(s config.Start) string {
	switch s {
	case config.StartTrap:
		return "with the first packet"
	case config.StartStart:
		return "at once"
	default:
		return "when the peer or an operator asks"
	}
}

func aggfragText(a ipsec.Aggfrag) string {
	if a == ipsec.AggfragOff {
		return ""
	}
	return a.String()
}

func paceText(p ipsec.Pace) string {
	if p.Rate == 0 {
		return ""
	}
	out := p.Rate.String() + "bit/s in packets "
	if p.Size == 0 {
		out += "as long as the path takes"
	} else {
		out += "of " + strconv.Itoa(int(p.Size)) + " octets"
	}
	if p.DSCP != 0 {
		out += ", DSCP " + strconv.Itoa(int(p.DSCP))
	}
	if p.LossLimit == 0 {
		return out + ", whatever is lost"
	}
	return out + fmt.Sprintf(", until more than %d %% are lost for %s", p.LossLimit, config.FormatDuration(p.LossTime))
}

func limitText(l ipsec.Limit) string {
	out := config.FormatDuration(l.Time)
	if l.Bytes > 0 {
		out += " or " + strconv.FormatUint(l.Bytes, 10) + " octets"
	}
	if l.Packets > 0 {
		out += " or " + strconv.FormatUint(l.Packets, 10) + " packets"
	}
	return out
}

func selectorText(list []ipsec.Selector) string {
	words := make([]string, len(list))
	for i, s := range list {
		words[i] = s.String()
	}
	return strings.Join(words, ", ")
}

// WriteText prints the description for people.
func (d *Description) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "gateway %s\n", orElse(d.Gateway.Name, "(the host name)"))
	fmt.Fprintf(&b, "  state in %s, control at %s\n", d.Gateway.State, d.Gateway.Control)
	plane := d.Gateway.DataPlane
	if d.Gateway.Capture != "" {
		plane += ", captured by " + d.Gateway.Capture
		switch {
		case len(d.Gateway.Interfaces) > 0:
			plane += " on " + strings.Join(d.Gateway.Interfaces, ", ")
		case d.Gateway.Capture != config.CaptureTUN.String():
			plane += " on all Ethernet interfaces with an address"
		}
	}
	if d.Gateway.Latency != "" {
		plane += ", latency " + d.Gateway.Latency
	}
	fmt.Fprintf(&b, "  data plane %s; after a clean stop: %s\n", plane, d.Gateway.Shutdown)
	for _, c := range d.Connections {
		fmt.Fprintf(&b, "\nconnection %s (%s)\n", c.Name, c.Protocol)
		fmt.Fprintf(&b, "  we are    %s at %s\n            proved by %s\n", c.Local.ID, c.Local.Address, c.Local.Proof)
		fmt.Fprintf(&b, "  peer is   %s at %s\n            proved by %s\n", orElse(c.Remote.ID, "%any"), c.Remote.Address, c.Remote.Proof)
		fmt.Fprintf(&b, "  IKE SA    %s\n            for %s, liveness check after %s, ESP in UDP: %s\n", c.Proposals, c.Lifetime, c.DPD, c.Encapsulation)
		for _, t := range c.Tunnels {
			fmt.Fprintf(&b, "  tunnel %s\n    protects  %s <-> %s\n", t.Name, selectorText(t.Local), selectorText(t.Remote))
			fmt.Fprintf(&b, "    by        %s in %s mode, %s\n", t.Protocol, t.Mode, t.Proposals)
			if t.Aggfrag != "" {
				fmt.Fprintf(&b, "    aggfrag   %s\n", t.Aggfrag)
			}
			if t.Pace != "" {
				fmt.Fprintf(&b, "    sends     a constant %s\n", t.Pace)
			}
			fmt.Fprintf(&b, "    starts    %s, re-keyed before %s\n", t.Starts, t.Lifetime)
		}
	}
	for i := range d.Associations {
		d.Associations[i].writeText(&b)
	}
	if len(d.Policies) > 0 {
		b.WriteString("\npolicies, the highest priority first; among equals the more specific decides\n")
		for _, p := range d.Policies {
			fmt.Fprintf(&b, "  %6d  %-8s %s <-> %s  (%s)\n", p.Priority, p.Action, selectorText(p.Local), selectorText(p.Remote), p.Name)
		}
	}
	if len(d.Defaults) > 0 {
		b.WriteString("\ndefaults that were filled in\n")
		for _, f := range d.Defaults {
			fmt.Fprintf(&b, "  %s: %s\n", f.Key, f.Value)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// latencyOf names the latency where it is not what it is without a word.
func latencyOf(g *config.Gateway) string {
	if g.Latency == config.LatencyNormal {
		return ""
	}
	return g.Latency.String()
}

// captureOf says how packets get to the data plane, where that can be chosen.
func captureOf(g *config.Gateway) string {
	if g.DataPlane == config.DataPlaneKernel {
		return ""
	}
	return g.Capture.String()
}
