package control

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"caponier/internal/config"
	"caponier/internal/ipsec"
)

// The states of an SA, by its traffic.
const (
	SAUnused  = "unused"  // no packet has passed
	SAIdle    = "idle"    // none within PassingWindow
	SAPassing = "passing" // the last one is no older than that
)

// Settle derives the State from the time of the last packet.
func (sa *SA) Settle(now time.Time) {
	switch {
	case sa.Used.IsZero():
		sa.State = SAUnused
	case now.Sub(sa.Used) > PassingWindow:
		sa.State = SAIdle
	default:
		sa.State = SAPassing
	}
}

// filters are the parameters by which lists are filtered.
var filters = []Param{
	{Name: "search", Arg: "TEXT", Help: "only lines that hold this text"},
	{Name: "spi", Help: "only this SPI"},
	{Name: "direction", Help: "only this direction: in, out", Complete: CompleteWord, Words: []string{"in", "out"}},
	{Name: "protocol", Help: "only this protocol: esp, ah", Complete: CompleteWord, Words: []string{"esp", "ah"}},
	{Name: "peer", Help: "only with this outer address"},
	{Name: "connection", Help: "only of this CONN or CONN/TUNNEL", Complete: CompleteTarget},
	{Name: "reqid", Help: "only of this reqid", Type: Number},
	{Name: "covers", Help: "only those whose selectors cover this address"},
	{Name: "state", Help: "only in this state: unused, idle, passing", Complete: CompleteWord, Words: []string{SAUnused, SAIdle, SAPassing}},
	{Name: "action", Help: "only with this action: protect, bypass, discard", Complete: CompleteWord, Words: []string{"protect", "bypass", "discard"}},
	{Name: "origin", Help: "only made by: ike, file, manual", Complete: CompleteWord, Words: []string{string(OriginIKE), string(OriginFile), string(OriginManual)}},
}

func filterParams(names ...string) []Param {
	var out []Param
	for _, name := range names {
		out = append(out, filters[slices.IndexFunc(filters, func(p Param) bool { return p.Name == name })])
	}
	return out
}

func saFilterParams() []Param {
	return filterParams("search", "spi", "direction", "protocol", "peer", "connection", "reqid", "covers", "state", "origin")
}

func policyFilterParams() []Param {
	return filterParams("search", "action", "protocol", "connection", "reqid", "covers", "origin")
}

func checkFilter(r Request) error {
	_, err := saFilter(r)
	return err
}

func checkPolicyFilter(r Request) error {
	_, err := policyFilter(r)
	return err
}

// saFilter makes a function of the filters in r. An error is one of usage.
func saFilter(r Request) (func(*SA) bool, error) {
	var tests []func(*SA) bool
	if text := r.String("spi"); text != "" {
		spi, err := config.ParseSPI(text)
		if err != nil {
			return nil, Errorf(CodeUsage, "%v", err)
		}
		tests = append(tests, func(sa *SA) bool { return sa.ID.SPI == spi })
	}
	if text := r.String("peer"); text != "" {
		peer, err := netip.ParseAddr(text)
		if err != nil {
			return nil, Errorf(CodeUsage, "--peer: %q is not an address", text)
		}
		tests = append(tests, func(sa *SA) bool { return sa.Remote.Addr() == peer.Unmap() })
	}
	covers, err := coverFilter(r)
	if err != nil {
		return nil, err
	}
	word := func(name string, of func(*SA) string) {
		if want := r.String(name); want != "" {
			tests = append(tests, func(sa *SA) bool { return of(sa) == want })
		}
	}
	word("direction", func(sa *SA) string { return sa.ID.Direction.String() })
	word("protocol", func(sa *SA) string { return sa.ID.Protocol.String() })
	word("state", func(sa *SA) string { return sa.State })
	word("origin", func(sa *SA) string { return string(sa.Origin) })
	if id := r.Number("reqid"); id != 0 {
		tests = append(tests, func(sa *SA) bool { return uint64(sa.ReqID) == id })
	}
	search := strings.ToLower(r.String("search"))
	return func(sa *SA) bool {
		for _, ok := range tests {
			if !ok(sa) {
				return false
			}
		}
		line := strings.ToLower(fmt.Sprint(sa.ID.SPI, " ", sa.ID.Direction, " ", tunnelName(sa.Connection, sa.Tunnel), " ",
			sa.Local, " ", sa.Remote, " ", sa.words(), " ", selectors(sa.LocalTS), " ", selectors(sa.RemoteTS)))
		return ofConnection(r, sa.Connection, sa.Tunnel) && covers(sa.LocalTS, sa.RemoteTS) && strings.Contains(line, search)
	}, nil
}

// policyFilter makes a function of the filters in r. An error is one of usage.
func policyFilter(r Request) (func(*Policy) bool, error) {
	covers, err := coverFilter(r)
	if err != nil {
		return nil, err
	}
	search := strings.ToLower(r.String("search"))
	return func(p *Policy) bool {
		if want := r.String("action"); want != "" && p.Action.String() != want {
			return false
		}
		if want := r.String("protocol"); want != "" && (p.Action != ipsec.Protect || p.Protocol.String() != want && (want != "ah" || !p.WithAH)) {
			return false
		}
		if want := r.String("origin"); want != "" && string(p.Origin) != want {
			return false
		}
		if id := r.Number("reqid"); id != 0 && uint64(p.ReqID) != id {
			return false
		}
		line := strings.ToLower(strings.Join([]string{
			p.Name, p.Action.String(), strconv.Itoa(int(p.Priority)), selectors(p.Local), selectors(p.Remote), protectionOf(&p.Policy),
		}, " "))
		return ofConnection(r, p.Connection, p.Tunnel) && covers(p.Local, p.Remote) && strings.Contains(line, search)
	}, nil
}

// ofConnection reports whether an object is of the connection, or the tunnel,
// that was asked for.
func ofConnection(r Request, connection, tunnel string) bool {
	text := r.String("connection")
	if text == "" {
		return true
	}
	want, err := ParseTarget(text)
	return err == nil && want.Connection == connection && (want.Tunnel == "" || want.Tunnel == tunnel)
}

func coverFilter(r Request) (func(local, remote []ipsec.Selector) bool, error) {
	text := r.String("covers")
	if text == "" {
		return func(_, _ []ipsec.Selector) bool { return true }, nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		return nil, Errorf(CodeUsage, "--covers: %q is not an address", text)
	}
	a = a.Unmap()
	covered := func(s ipsec.Selector) bool {
		return s.First.BitLen() == a.BitLen() && s.First.Compare(a) <= 0 && a.Compare(s.Last) <= 0
	}
	return func(local, remote []ipsec.Selector) bool {
		return slices.ContainsFunc(local, covered) || slices.ContainsFunc(remote, covered)
	}, nil
}

// listSAs returns the SAs that match, with their states.
func listSAs(ctx context.Context, g Gateway, match func(*SA) bool) ([]SA, error) {
	all, err := g.SAs(ctx)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	var out []SA
	for _, sa := range all {
		sa.Settle(now)
		if match(&sa) {
			out = append(out, sa)
		}
	}
	return out, nil
}
