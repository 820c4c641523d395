package why

import (
	"strings"
	"testing"
	"time"

	"caponier/internal/control"
	"caponier/internal/lab/netns"
	"caponier/test/interop"
)

// mirror is the other end's configuration.
func mirror(n *interop.Network, yaml string) string {
	m := strings.NewReplacer(
		n.A.Outside.String(), n.B.Outside.String(), n.B.Outside.String(), n.A.Outside.String(),
		"a.example", "b.example", "b.example", "a.example", n.A.LAN.String(), n.B.LAN.String(), n.B.LAN.String(), n.A.LAN.String())
	return m.Replace(yaml)
}

// drop makes a namespace drop what comes in and matches.
func drop(t *testing.T, in netns.NS, match string) {
	t.Helper()
	// Before any socket, raw ones too.
	if out, err := in.Run(t.Context(), "nft", "table ip why { chain in { type filter hook prerouting priority raw; "+match+" drop; }; }"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func undrop(t *testing.T, in netns.NS) {
	t.Helper()
	if out, err := in.Run(t.Context(), "nft", "delete table ip why"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// TestUpButNoTraffic blocks ESP in UDP on its way back, and walks packets
// through the gateway.
func TestUpButNoTraffic(t *testing.T) {
	t.Parallel()
	n := interop.NewNetwork(t)
	yaml := ours(n)
	a, b := start(t, n.A.Gateway, yaml), start(t, n.B.Gateway, mirror(n, yaml))
	src, dst := n.A.HostAddr().String(), n.B.HostAddr().String()

	down := ask[control.Trace](a, "trace", src, dst)
	if down.Verdict != control.DroppedNoSA || down.Passes || down.Counter != "no-sa" || !strings.Contains(down.Cure, "caponier connect site/net") {
		t.Errorf("before it is up: %+v", down)
	}
	a.do("connect", "site")
	// IKE passes on UDP 4500: it has four octets of zero before it (RFC 3948,
	// Section 2.2). ESP has not.
	drop(t, n.A.Gateway, "udp dport 4500 @th,64,32 != 0")
	if interop.Reaches(t, n.A.Host, n.B.HostAddr()) {
		t.Fatal("ESP is not blocked")
	}
	time.Sleep(6 * time.Second) // a tunnel must have had time to hear something
	a.expect([]string{"site"}, "no-return-traffic", "none ever came back", "give what is behind it a route to 10.1.0.0/24", "let UDP 4500 from 192.0.2.2 pass")
	if f, text := a.latest("site"); f.Connection != "site" || f.Tunnel != "net" || !strings.Contains(text, "site is established") {
		t.Errorf("%+v\n%s", f, text)
	}
	got := ask[control.Trace](a, "trace", src, dst)
	if got.Verdict != control.Protected || !got.Passes || got.Counter != "out-packets" || got.Count == 0 {
		t.Errorf("trace: %+v", got)
	}
	for i, want := range []struct {
		step string
		ok   bool
		text string
	}{
		{"route", true, "caponier0, the data plane"},
		{"policy", true, "site/net (10.1.0.0/24 <-> 10.2.0.0/24), protect"},
		{"SA", true, "to 192.0.2.2:4500, aes256gcm16, 10.1.0.0/24 <-> 10.2.0.0/24"},
		{"MTU", true, "octets pass"},
		{"return", false, "none ever came back: caponier why site"},
	} {
		if i >= len(got.Steps) || got.Steps[i].Step != want.step || got.Steps[i].OK != want.ok || !strings.Contains(got.Steps[i].Text, want.text) {
			t.Errorf("step %d: %+v, want %+v", i, got.Steps, want)
		}
	}
	// It is cured, and the finding goes with its cause.
	undrop(t, n.A.Gateway)
	interop.Ping(t, n.A.Host, n.B.HostAddr())
	if f, _ := a.latest("site"); f.Code != "" {
		t.Errorf("after the cure: %+v", f)
	}
	for _, test := range []struct {
		g        *gateway
		src, dst string
		want     control.Verdict
	}{
		{a, src, dst, control.Protected},
		{b, src, dst, control.ArrivesInside},
		{a, src, "192.0.2.9", control.PastGateway},
		{a, "10.1.0.10", n.A.GatewayAddr().String(), control.ToGateway},
		{a, n.A.GatewayAddr().String(), dst, control.Protected},
	} {
		if got := ask[control.Trace](test.g, "trace", test.src, test.dst, "tcp", "443"); got.Verdict != test.want {
			t.Errorf("%s -> %s: %+v, want %s", test.src, test.dst, got, test.want)
		}
	}
	if _, err := a.try("trace", src, "fd00::1"); err == nil || !strings.Contains(err.Error(), "address family") {
		t.Errorf("two families: %v", err)
	}
}

// TestPortBlocked blocks UDP 500 and 4500 for real; the waits are those of an
// operator.
func TestPortBlocked(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, match, code, cause, cure string }{
		{"500", "udp dport 500", "peer-not-responding", "nothing at all came back from 192.0.2.2:500", "check that connections.site.remote.address"},
		{"4500", "udp dport 4500", "udp-4500-blocked", "answered IKE_SA_INIT on UDP 500, and does not answer IKE_AUTH on UDP 4500", "let UDP 4500 pass on the way from 192.0.2.1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			n := interop.NewNetwork(t)
			yaml := ours(n)
			g := start(t, n.A.Gateway, yaml)
			start(t, n.B.Gateway, mirror(n, yaml))
			drop(t, n.B.Gateway, test.match)
			_, err := g.try("connect", "site", "--timeout", "110s")
			if err == nil || !strings.Contains(err.Error(), test.cause) && !strings.Contains(strings.Join(strings.Fields(err.Error()), " "), test.cause) {
				t.Errorf("connect says: %v", err)
			}
			g.expect([]string{"site"}, test.code, test.cause, test.cure)
			status := g.do("status")
			if !strings.Contains(status, test.code) || !strings.Contains(status, "more: caponier why site") {
				t.Errorf("the status does not say it:\n%s", status)
			}
			undrop(t, n.B.Gateway)
			g.do("connect", "site")
		})
	}
}
