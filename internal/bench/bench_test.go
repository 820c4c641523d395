package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"caponier/internal/bench/stream"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestCheck(t *testing.T) {
	if err := errors.Join(Full().Check(), Quick().Check()); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Options){
		"no rounds":        func(o *Options) { o.Rounds = 0 },
		"too short":        func(o *Options) { o.Duration = time.Millisecond },
		"too few pings":    func(o *Options) { o.Pings = o.Rounds - 1 },
		"backwards":        func(o *Options) { o.PingInterval = -1 },
		"tiny datagram":    func(o *Options) { o.Datagrams = []int{64, stream.MinSize - 1} },
		"huge datagram":    func(o *Options) { o.Datagrams = []int{65508} },
		"tiny segment":     func(o *Options) { o.MSS = []int{87} },
		"tiny ping":        func(o *Options) { o.Echoes = []int{7} },
		"no flow":          func(o *Options) { o.Flows = []int{0} },
		"negative rate":    func(o *Options) { o.Rates = []float64{1e6, -1} },
		"negative packets": func(o *Options) { o.PacketRates = []float64{-1} },
		"no tunnel":        func(o *Options) { o.Tunnels = []int{0} },
		"too many tunnels": func(o *Options) { o.Tunnels = []int{maxTunnels + 1} },
	} {
		o := Full()
		change(&o)
		if err := o.Check(); !errors.Is(err, ErrOptions) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSelection(t *testing.T) {
	ignore := func(Progress) {}
	o := Full()
	o.Measures = []string{"tcp", "speed"}
	if _, err := Run(t.Context(), o, ignore); !errors.Is(err, ErrUnknownMeasure) || !strings.Contains(err.Error(), "echo-load") {
		t.Errorf("an unknown measure: %v", err)
	}
	o = Full()
	o.Measures, o.Echoes = []string{"echo"}, nil
	if _, err := Run(t.Context(), o, ignore); !errors.Is(err, ErrNothing) {
		t.Errorf("no setting: %v", err)
	}
	for name, want := range map[string][5]string{
		"caponier": {DefaultESP, "off", "tun", "", "normal"}, "caponier:aes256gcm16": {"aes256gcm16", "off", "tun", "", "normal"},
		"caponier:aggfrag": {DefaultESP, "required", "tun", "", "normal"}, "caponier:aes256gcm16+aggfrag": {"aes256gcm16", "required", "tun", "", "normal"},
		"caponier:capture=afxdp": {DefaultESP, "off", "afxdp", "", "normal"}, "caponier:aes256gcm16+capture=afpacket+aggfrag": {"aes256gcm16", "required", "afpacket", "", "normal"},
		"caponier:capture=afxdp@lan": {DefaultESP, "off", "afxdp", "lan", "normal"},
		"caponier:latency=low":       {DefaultESP, "off", "tun", "", "low"}, "caponier:latency=low+capture=afxdp": {DefaultESP, "off", "afxdp", "", "low"},
	} {
		p, err := newPeer(name, Options{})
		if c, is := p.(caponierPeer); err != nil || !is || c.esp != want[0] || c.aggfrag != want[1] || c.capture != want[2] || c.device != want[3] || c.latency != want[4] || c.name != name {
			t.Errorf("peer %q: %+v, %v", name, p, err)
		}
	}
	for _, name := range []string{"openvpn", "caponier:", "plain:x", ""} {
		o = Full()
		o.Measures, o.Peers = []string{"udp"}, []string{name}
		if _, err := Run(t.Context(), o, ignore); !errors.Is(err, ErrUnknownPeer) {
			t.Errorf("peer %q: %v", name, err)
		}
	}
	o.Peers = []string{Plain, Plain}
	if _, err := Run(t.Context(), o, ignore); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("a peer twice: %v", err)
	}
}

// What is missing is an error only where it was asked for.
func TestMissingPeer(t *testing.T) {
	o := Full()
	o.PeerDir = t.TempDir()
	peers, infos, err := choose(t.Context(), o, measures())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(infos, func(i PeerInfo) bool { return i.Name == WireGuard })
	if i < 0 || !strings.Contains(infos[i].Missing, "make bench-peers") {
		t.Errorf("nothing says how to get wireguard-go: %+v", infos)
	}
	if slices.ContainsFunc(peers, func(c contender) bool { return c.name == WireGuard }) {
		t.Error("a peer that is missing takes part")
	}
	o.Peers = []string{WireGuard}
	if _, _, err := choose(t.Context(), o, measures()); err == nil || !strings.Contains(err.Error(), "make bench-peers") {
		t.Errorf("asked for: %v", err)
	}
}

// Where no peers are named, all take part, and variants only where packets are
// small; who is named takes part in everything that it can.
func TestWhoTakesPart(t *testing.T) {
	o := Full()
	o.PeerDir, o.Program = t.TempDir(), "/bin/true"
	part := func(measure string, tunnels, round int) string {
		chosen, _, err := selectMeasures(Options{Measures: []string{measure}, Datagrams: o.Datagrams, Flows: o.Flows, Tunnels: []int{tunnels}})
		if err != nil {
			t.Fatal(err)
		}
		peers, _, err := choose(t.Context(), o, chosen)
		if err != nil {
			t.Fatal(err)
		}
		r := run{Options: o, contenders: peers}
		var names []string
		for _, c := range r.who(chosen[0], chosen[0].list[0], round) {
			names = append(names, c.name)
		}
		return strings.Join(names, " ")
	}
	o.Peers = nil
	for _, tc := range []struct {
		measure        string
		tunnels, round int
		want           string
	}{
		{"udp", 1, 0, "caponier caponier:aggfrag caponier:capture=afxdp caponier:aggfrag+capture=afxdp strongswan plain"},
		{"tcp", 1, 0, "caponier strongswan plain"},
		{"tunnels", 1000, 4, "caponier strongswan"},
		{"tunnels", 10000, 1, "caponier"},
		{"tunnels", 10000, 2, ""},
	} {
		if got := part(tc.measure, tc.tunnels, tc.round); got != tc.want {
			t.Errorf("%s of %d in round %d: %q, want %q", tc.measure, tc.tunnels, tc.round, got, tc.want)
		}
	}
	o.Peers = []string{"caponier:aggfrag", StrongSwan}
	if got := part("tcp", 1, 0); got != "caponier:aggfrag strongswan" {
		t.Errorf("named: %q take part", got)
	}
	if got := part("tunnels", 10000, 0); got != "caponier:aggfrag strongswan" {
		t.Errorf("named, many tunnels: %q take part", got)
	}
}

func TestManyConnections(t *testing.T) {
	seen := make(map[benchConnection]bool)
	for _, c := range manyConnections(maxTunnels) {
		if seen[c] {
			t.Fatalf("%+v is there twice", c)
		}
		seen[c] = true
		if back := c.mirror().mirror(); back != c {
			t.Fatalf("the mirror of the mirror of %+v is %+v", c, back)
		}
	}
	if last := manyConnections(maxTunnels)[maxTunnels-1].RemoteTS; last != "10.3.255.254/32" {
		t.Errorf("the last tunnel is for %s", last)
	}
}

// TestRealRun measures for a moment, in real namespaces. It needs root, the ip
// command and iperf3.
func TestRealRun(t *testing.T) {
	program := filepath.Join(t.TempDir(), "caponier")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "caponier/cmd/caponier").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var last Progress
	report, err := Run(ctx, Options{
		Program: program, Peers: []string{Caponier, Plain}, Measures: []string{"tcp", "udp", "rate", "echo", "echo-load", "tunnels"},
		Rounds: 1, Duration: 200 * time.Millisecond, Pings: 20, PingInterval: time.Millisecond,
		Flows: []int{1}, Datagrams: []int{200, 3000}, Rates: []float64{1e6}, Echoes: []int{64}, Load: 1e6, Tunnels: []int{3},
	}, func(p Progress) {
		if p.Done < last.Done {
			t.Errorf("progress goes back from %v to %v", last, p)
		}
		last = p
	})
	if err != nil {
		t.Fatal(err)
	}
	if last.Done != last.Total || last.Total == 0 {
		t.Errorf("the last progress is %+v", last)
	}
	want := map[string]int{"tcp": 2, "udp": 2, "rate": 1, "echo": 1, "echo-load": 1, "tunnels": 1}
	for _, s := range report.Series {
		if len(s.Points) != want[s.Name] {
			t.Errorf("%s has %d points", s.Name, len(s.Points))
		}
		delete(want, s.Name)
		for _, p := range s.Points {
			for _, r := range p.Results {
				if len(r.Failures) > 0 {
					t.Errorf("%s, %s, %s: %s", s.Name, p.Label, r.Peer, r.Failures)
				}
				if got := r.Metrics[s.Metrics[0].Name]; got.Median <= 0 {
					t.Errorf("%s, %s, %s: %s is %+v", s.Name, p.Label, r.Peer, s.Metrics[0].Name, got)
				}
				_, counted := r.Metrics[residentA.Name]
				if gateways := r.Peer == Caponier; counted != gateways && !strings.HasPrefix(s.Name, "echo") {
					t.Errorf("%s, %s, %s: memory of a gateway: %v", s.Name, p.Label, r.Peer, counted)
				}
			}
		}
	}
	if len(want) > 0 {
		t.Errorf("not measured: %v", want)
	}
	nothingLeft(t)
}

// A run that is interrupted leaves nothing behind either.
func TestInterruptedRun(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := Run(ctx, Options{
		Peers: []string{Plain}, Measures: []string{"udp"}, Rounds: 1, Pings: 1, Duration: time.Minute, Datagrams: []int{200},
	}, func(p Progress) {
		if p.Total > 0 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v", err)
	}
	nothingLeft(t)
}

func nothingLeft(t *testing.T) {
	t.Helper()
	out, err := exec.Command("ip", "netns", "list").Output()
	if err != nil {
		t.Fatal(err)
	}
	if mine := fmt.Sprintf("cbench-%d-", os.Getpid()); strings.Contains(string(out), mine) {
		t.Errorf("namespaces are left:\n%s", out)
	}
}
