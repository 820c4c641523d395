package control

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"caponier/internal/capture"
	"caponier/internal/ipsec"
	"caponier/internal/logging"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// golden compares got with testdata/name.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got), rewrite with -update if that is meant:\n%s", path, diff)
	}
}

// fakeGateway knows the connection agw with the tunnel lan.
type fakeGateway struct {
	ring *logging.Ring

	mu     sync.Mutex
	orders []string
	// hold keeps orders and reloads waiting for ctx.
	hold bool
	sas  []SA // nil: an error
}

// Capture shows one packet of each side, and a key on request.
func (g *fakeGateway) Capture(_ context.Context, connection string, keys bool, emit func(Captured) error) error {
	if connection != "" && connection != "agw" {
		return UnknownConnection(connection)
	}
	c := Captured{Dropped: 3, Packets: []capture.Packet{
		{Side: capture.Inner, Direction: ipsec.Out, Connection: "agw", Tunnel: "lan", Data: []byte{0x45, 1}},
		{Side: capture.Outer, Direction: ipsec.In, Connection: "agw", Data: []byte{0x45, 2}},
	}}
	if keys {
		c.Keys = []capture.Line{{Table: capture.TableESP, Text: "key"}}
	}
	return emit(c)
}

func (g *fakeGateway) note(order string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.orders = append(g.orders, order)
}

func (g *fakeGateway) Status(_ context.Context, connection string) (Status, error) {
	if connection != "" && connection != "agw" {
		return Status{}, UnknownConnection(connection)
	}
	return sampleStatus(), nil
}

func (g *fakeGateway) act(ctx context.Context, verb string, t Target, wait bool, report func(Progress)) error {
	g.note(verb + " " + t.String())
	if t.Connection != "agw" {
		return UnknownConnection(t.Connection)
	}
	report(Progress{Time: sampleNow, Target: t, Step: StepAccepted})
	if !wait {
		return nil
	}
	if g.hold {
		<-ctx.Done()
		return ctx.Err()
	}
	if t.Tunnel == "broken" {
		return &Error{Code: "no-proposal-chosen", Message: "the peer accepts none of the proposals", Cure: "offer aes128"}
	}
	report(Progress{Time: sampleNow, Target: t, Step: StepEstablished, Detail: "c0ffee01 c0ffee02"})
	return nil
}

func (g *fakeGateway) Connect(ctx context.Context, t Target, wait bool, report func(Progress)) error {
	return g.act(ctx, "connect", t, wait, report)
}

func (g *fakeGateway) Disconnect(ctx context.Context, t Target, wait bool, report func(Progress)) error {
	return g.act(ctx, "disconnect", t, wait, report)
}

func (g *fakeGateway) Rekey(ctx context.Context, t Target, wait bool, report func(Progress)) error {
	return g.act(ctx, "rekey", t, wait, report)
}

func (g *fakeGateway) Reload(ctx context.Context, dryRun bool) (ReloadReport, error) {
	g.note("reload")
	if g.hold {
		<-ctx.Done()
		return ReloadReport{}, ctx.Err()
	}
	return ReloadReport{DryRun: dryRun, Changes: []Change{
		{Kind: "connection", Name: "agw", Action: ActionUnchanged, Effect: "untouched"},
		{Kind: "tunnel", Name: "agw/lan", Action: ActionChanged, Effect: "rekeyed", Keys: []string{"lifetime", "proposals"}},
		{Kind: "connection", Name: "new", Action: ActionAdded, Effect: "started"},
	}, RestartRequired: []string{"gateway.workers"}}, nil
}

func (g *fakeGateway) SAs(context.Context) ([]SA, error) {
	if g.sas == nil {
		return nil, errors.New("the data plane is closed")
	}
	return slices.Clone(g.sas), nil
}

func (g *fakeGateway) Policies(context.Context) ([]Policy, error) { return samplePolicies(), nil }

func (g *fakeGateway) AddSA(_ context.Context, n NewSA) (SAChange, error) {
	g.note(fmt.Sprintf("add SA %s %s, keys of %d and %d octets", n.Name, n.Values["spi"], n.EncrKey.Len(), n.IntegKey.Len()))
	return SAChange{Action: ActionAdded, Time: sampleNow, SAs: sampleSAs()[2:]}, nil
}

func (g *fakeGateway) DeleteSAs(_ context.Context, ids []ipsec.SAID) error {
	for _, id := range ids {
		g.note(fmt.Sprintf("delete SA %s %s", id.Direction, id.SPI))
	}
	return nil
}

func (g *fakeGateway) AddPolicy(_ context.Context, n NewPolicy) (PolicyChange, error) {
	g.note("add policy " + n.Name + " " + n.Values["action"])
	return PolicyChange{Action: ActionAdded, Policies: samplePolicies()[:1], Warnings: []string{"mind the gap"}}, nil
}

func (g *fakeGateway) DeletePolicies(_ context.Context, names []string) error {
	g.note("delete policies " + strings.Join(names, " "))
	return nil
}

func (g *fakeGateway) Switch(_ context.Context, position string) (Switch, error) {
	g.note("switch " + position)
	return Switch{Position: position, Since: sampleNow, SAs: 2}, nil
}

func (g *fakeGateway) DestroyKeys(context.Context) (Destroyed, error) {
	g.note("destroy keys")
	return sampleDestroyed(), nil
}

func sampleDestroyed() Destroyed {
	return Destroyed{IKESAs: 1, SAs: 4, Keys: 2, Files: []string{"/etc/caponier/gw.key", "/etc/caponier/peer.psk"}}
}

func (g *fakeGateway) Why(_ context.Context, connection string) (Why, error) {
	if connection != "" && connection != "agw" {
		return Why{}, UnknownConnection(connection)
	}
	return sampleWhy(), nil
}

func (g *fakeGateway) Trace(_ context.Context, flow ipsec.Flow) (Trace, error) {
	t := sampleTrace()
	t.Flow = flow
	return t, nil
}

func (g *fakeGateway) Log(ctx context.Context, f logging.Filter, follow bool, emit func(logging.Record) error) error {
	return g.ring.Stream(ctx, f, follow, emit)
}

var sampleNow = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func selector(text string) []ipsec.Selector {
	s, err := ipsec.ParseSelector(text)
	if err != nil {
		panic(err)
	}
	return []ipsec.Selector{s}
}

func samplePolicies() []Policy {
	list := []ipsec.Policy{
		{Name: "lan-stays", Action: ipsec.Bypass, Priority: 1000, Local: selector("10.1.0.0/16"), Remote: selector("10.1.0.0/16")},
		{
			Name: "agw/lan", Action: ipsec.Protect, Local: selector("10.1.0.0/16"), Remote: selector("10.2.0.0/16"),
			ReqID: 2, Protocol: ipsec.ESP, Connection: "agw", Tunnel: "lan",
		},
		{Name: "nothing-else", Priority: -1000, Local: selector("10.1.0.0/16"), Remote: selector("0.0.0.0/0")},
	}
	return []Policy{{list[0], OriginFile}, {list[1], OriginIKE}, {list[2], OriginManual}}
}

func sampleSAs() []SA {
	status := ipsec.SAStatus{
		ID:     ipsec.SAID{Direction: ipsec.In, Protocol: ipsec.ESP, SPI: 0xc0ffee01},
		Remote: netip.MustParseAddrPort("192.0.2.2:4500"), Connection: "agw", Tunnel: "lan",
		Added: sampleNow.Add(-3 * time.Minute), Bytes: 12_900_000, Packets: 10342, ReplayDrops: 2, IntegrityDrops: 1,
	}
	out := status
	out.ID = ipsec.SAID{Direction: ipsec.Out, Protocol: ipsec.ESP, SPI: 0xdecade02, Peer: netip.MustParseAddr("192.0.2.2")}
	out.ReplayDrops, out.IntegrityDrops = 0, 0
	out.PathMTU, out.InnerMTU, out.PathMTUUntil = 1400, 1338, sampleNow.Add(9*time.Minute)
	manual := ipsec.SAStatus{
		ID:     ipsec.SAID{Direction: ipsec.In, Protocol: ipsec.ESP, SPI: 0x1000},
		Remote: netip.MustParseAddrPort("[2001:db8:1234:5678:9abc:def0:1234:5678]:0"), Added: sampleNow,
	}
	return []SA{
		{SAStatus: status, Algorithms: "aes256gcm16", Origin: OriginIKE},
		{SAStatus: out, Algorithms: "aes256gcm16", Origin: OriginIKE},
		{SAStatus: manual, Algorithms: "aes128-sha256", Origin: OriginManual},
	}
}

// sampleStatus has a connection in each state.
func sampleStatus() Status {
	at := func(d time.Duration) time.Time { return sampleNow.Add(d) }
	local := Endpoint{Address: []string{"192.0.2.1"}, ID: "C=FI, O=netsecvpn, CN=cloudgw", Auth: "cert"}
	tunnel := func(name string) Tunnel {
		return Tunnel{
			Name: name, Mode: ipsec.Tunnel, Protocol: ipsec.ESP, Start: "trap", ReqID: 2,
			Local: selector("10.1.0.0/16"), Remote: selector("10.2.0.0/16"),
		}
	}
	ike := IKESA{
		InitiatorSPI: "0123456789abcdef", ResponderSPI: "fedcba9876543210", State: IKEEstablished, Role: "initiator",
		Local: netip.MustParseAddrPort("192.0.2.1:4500"), Remote: netip.MustParseAddrPort("192.0.2.2:4500"),
		LocalID: "C=FI, O=netsecvpn, CN=cloudgw", RemoteID: "C=FI, O=netsecvpn, CN=agw",
		Proposal: "aes256gcm16-prfsha512-x25519", NATRemote: true,
		Established: at(-3 * time.Minute), RekeyAt: at(3*time.Hour + 57*time.Minute),
	}
	sa := ChildSA{
		In:       Half{SPI: 0xc0ffee01, Bytes: 12_900_000, Packets: 10342, Drops: 3, Used: at(-2 * time.Second)},
		Out:      Half{SPI: 0xdecade02, Bytes: 900, Packets: 1, Used: at(-time.Second)},
		Protocol: ipsec.ESP, Encap: true, Proposal: "aes256gcm16-x25519",
		LocalTS: selector("10.1.0.0/16"), RemoteTS: selector("10.2.0.0/24"),
		Established: at(-3 * time.Minute), RekeyAt: at(50 * time.Minute), Expires: at(57 * time.Minute),
		PathMTU: 1400, InnerMTU: 1338, PathMTUUntil: at(9 * time.Minute),
	}

	lan, spare := tunnel("lan"), tunnel("spare")
	lan.SAs = []ChildSA{sa}
	spare.LastError = &Failure{Code: "ts-unacceptable", Message: "the peer protects none of this traffic", Time: at(-time.Minute)}
	passing := Connection{
		Name: "agw", Version: "ikev2", Local: local,
		Remote: Endpoint{Address: []string{"%any"}, ID: "C=FI, O=netsecvpn, CN=agw", Auth: "cert"},
		IKE:    []IKESA{ike}, Tunnels: []Tunnel{lan, spare},
		Warnings: []Warning{{
			Code: "certificate-expires", Message: "the certificate of CN=cloudgw expires on 2026-12-01",
			Cure: "renew the file that local.cert names, and caponier reload",
		}},
	}

	quiet := tunnel("lan")
	silent := sa
	silent.Encap, silent.RemoteTS = false, quiet.Remote
	silent.In = Half{SPI: 0xc0ffee03}
	quiet.SAs = []ChildSA{silent}
	ike.NATRemote = false
	established := Connection{
		Name: "branch", Version: "ikev2", Local: local,
		Remote:    Endpoint{Address: []string{"198.51.100.7"}, Auth: "psk"},
		LastError: &Failure{Code: "peer-not-responding", Message: "no answer to 5 requests", Time: at(-time.Hour)},
		IKE:       []IKESA{ike}, Tunnels: []Tunnel{quiet},
	}

	busy := tunnel("lan")
	busy.Negotiating = true
	half := IKESA{InitiatorSPI: "0123456789abcdef", ResponderSPI: "0000000000000000", State: IKEConnecting, Role: "initiator"}
	negotiating := Connection{
		Name: "coming", Version: "ikev2", Local: local,
		Remote: Endpoint{Address: []string{"2001:db8:1234:5678:9abc:def0:1234:5678"}, Auth: "psk"},
		IKE:    []IKESA{half}, Tunnels: []Tunnel{busy},
	}

	idle := Connection{
		Name: "idle", Version: "ikev2", Local: local,
		Remote: Endpoint{Address: []string{"198.51.100.8"}, Auth: "psk"}, Tunnels: []Tunnel{tunnel("lan")},
	}

	down := tunnel("lan")
	down.LastError = &Failure{Code: "no-proposal-chosen", Message: "same as the connection", Time: at(-90 * time.Second)}
	failed := Connection{
		Name: "legacy", Version: "ikev2", Local: local,
		Remote: Endpoint{Address: []string{"198.51.100.9"}, Auth: "psk"},
		LastError: &Failure{
			Code: "no-proposal-chosen", Time: at(-90 * time.Second),
			Message: "the peer accepts none of aes256gcm16-prfsha512-x25519, and says \x1b[31mnothing\x1b[0m about what it would accept",
			Cure:    "add aes128-sha256-modp2048 to connections.legacy.proposals, which is what this peer used last",
		},
		Tunnels: []Tunnel{down},
	}

	s := Status{
		Time: sampleNow, Name: "cloudgw", Version: "v0.1.0", PID: 4711, Started: at(-3*time.Hour - 12*time.Minute),
		Config: "/etc/caponier/caponier.yaml", StateDir: "/var/lib/caponier", DataPlane: "userspace", Workers: 2,
		Memory:      Memory{Heap: 12 << 20, Resident: 34 << 20, Goroutines: 41},
		Counters:    map[string]uint64{"in-packets": 10342, "out-packets": 1, "drop-no-sa": 0, "drop-replay": 2, "drop-integrity": 1},
		Connections: []Connection{passing, established, negotiating, idle, failed},
	}
	for i := range s.Connections {
		s.Connections[i].Settle(s.Time)
	}
	return s
}

func serve(t *testing.T, g Gateway, l limits) (path string, c *Client, s *Server) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "run", "control.sock")
	s, err := listenWith(path, g, slog.New(slog.DiscardHandler), l)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve() }()
	c = NewClient(path)
	t.Cleanup(func() {
		c.Close()
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return path, c, s
}
