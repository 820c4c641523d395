package describe

import (
	"fmt"
	"strings"

	"caponier/internal/config"
	"caponier/internal/ipsec"
)

// AssociationDescription says what a manually keyed association protects, and
// how. It holds no key.
type AssociationDescription struct {
	Name       string           `json:"name"`
	Direction  ipsec.Direction  `json:"direction"`
	SPI        ipsec.SPI        `json:"spi"`
	Local      string           `json:"local_address"`
	Remote     string           `json:"remote_address"`
	Protection string           `json:"protection"` // "esp tunnel aes256-sha256"
	ReqID      uint32           `json:"reqid"`
	LocalTS    []ipsec.Selector `json:"local"`
	RemoteTS   []ipsec.Selector `json:"remote"`
	Ends       string           `json:"ends"` // when it stops carrying traffic
}

func describeAssociation(a *config.Association) AssociationDescription {
	out := AssociationDescription{
		Name: a.Name, Direction: a.Direction, SPI: a.SPI, Local: a.LocalAddress.String(), Remote: a.RemoteAddress.String(),
		Protection: a.Protocol.String() + " " + a.Mode.String() + " " + a.Algorithms, ReqID: a.ReqID,
		LocalTS: a.Local, RemoteTS: a.Remote, Ends: endsText(a.Lifetime.Hard),
	}
	if a.ESN {
		out.Protection += " esn"
	}
	if a.Encap {
		out.Protection += fmt.Sprintf(" in UDP to port %d", a.RemotePort)
	}
	return out
}

func endsText(l ipsec.Limit) string {
	if l == (ipsec.Limit{}) {
		return "never by itself"
	}
	text := limitText(l)
	if l.Time == 0 {
		text = strings.TrimPrefix(text, config.FormatDuration(0)+" or ")
	}
	return "after " + text
}

func (a *AssociationDescription) writeText(b *strings.Builder) {
	from, to := a.Local, a.Remote
	if a.Direction == ipsec.In {
		from, to = to, from
	}
	fmt.Fprintf(b, "\nassociation %s, keyed by hand\n", a.Name)
	fmt.Fprintf(b, "  %-9s SPI %s, from %s to %s\n", a.Direction, a.SPI, from, to)
	fmt.Fprintf(b, "  carries   %s <-> %s, for reqid %d\n", selectorText(a.LocalTS), selectorText(a.RemoteTS), a.ReqID)
	fmt.Fprintf(b, "  by        %s\n  ends      %s\n", a.Protection, a.Ends)
}
