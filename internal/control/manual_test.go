package control

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"caponier/internal/config"
	"caponier/internal/ipsec"
	"caponier/internal/logging"
)

// Every parameter of the configuration has a word of help, and no other has.
func TestManualParametersAreExplained(t *testing.T) {
	for what, x := range map[string]struct {
		list []config.Parameter
		help map[string]string
	}{"sa add": {config.AssociationParameters(), saHelp}, "policy add": {config.PolicyParameters(), policyHelp}} {
		known := make(map[string]bool)
		for _, p := range x.list {
			known[p.Name] = true
			if x.help[p.Name] == "" {
				t.Errorf("%s: nothing explains %s", what, p.Name)
			}
		}
		for name := range x.help {
			if !known[name] {
				t.Errorf("%s: %s is explained and does not exist", what, name)
			}
		}
	}
}

var goodSA = map[string]any{
	"name": "to-b", "direction": "out", "spi": "0x2001", "local-address": "192.0.2.1", "remote-address": "192.0.2.9",
	"algorithms": "aes128-sha256", "local": "10.1.0.0/16", "remote": "10.9.0.0/16", "reqid": "9",
	"encryption-key": strings.Repeat("01ab", 8), "integrity-key": strings.Repeat("01ab", 16),
}

func with(params map[string]any, name string, value any) map[string]any {
	out := make(map[string]any)
	for k, v := range params {
		out[k] = v
	}
	if out[name] = value; value == nil {
		delete(out, name)
	}
	return out
}

func TestSAAdd(t *testing.T) {
	var log strings.Builder
	g := &fakeGateway{ring: logging.NewRing(8)}
	path, _, _ := serve(t, g, defaultLimits())
	s, err := listenWith(path+"2", g, slog.New(slog.NewTextHandler(&log, nil)), defaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve() }()
	c := NewClient(path + "2")
	if _, err := call(t, c, "sa add", goodSA); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		params map[string]any
		want   string
	}{
		"short key":     {with(goodSA, "encryption-key", "0011"), "has 128 bits, and this one 16"},
		"no key":        {with(goodSA, "integrity-key", nil), "sha256 takes a key of 256 bits"},
		"no digits":     {with(goodSA, "encryption-key", "0xzz"), "encryption-key"},
		"reserved SPI":  {with(goodSA, "spi", "0x20"), "reserved"},
		"counter mode":  {with(goodSA, "algorithms", "aes128gcm16"), "RFC 8221, Section 3"},
		"wrong word":    {with(goodSA, "direction", "up"), "none of in, out"},
		"missing":       {with(goodSA, "remote", nil), "remote is missing"},
		"not a key":     {with(goodSA, "encryption-key", 7), "encryption-key"},
		"unknown value": {with(goodSA, "speed", "high"), `no parameter "speed"`},
	} {
		_, err := call(t, c, "sa add", tt.params)
		if e := AsError(err); e == nil || e.Code != CodeUsage || !strings.Contains(e.Message, tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	c.Close()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	<-done
	if want := []string{"add SA to-b 0x2001, keys of 16 and 32 octets"}; !slices.Equal(g.orders, want) {
		t.Errorf("orders %q", g.orders)
	}
	if strings.Contains(log.String(), "01ab") || !strings.Contains(log.String(), "target=to-b") {
		t.Errorf("the log tells the key, or not the name:\n%s", log.String())
	}
}

func TestNeeds(t *testing.T) {
	cmd, _ := Find("sa add")
	keyless := with(with(goodSA, "encryption-key", nil), "integrity-key", nil)
	for algorithms, want := range map[string]string{"aes256-sha384": "encryption-key integrity-key", "null-sha256": "integrity-key"} {
		needs, err := cmd.Needs(with(keyless, "algorithms", algorithms))
		var got []string
		for _, n := range needs {
			got = append(got, n.Param)
		}
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%s: %v, %v", algorithms, got, err)
		}
	}
	if _, err := cmd.Needs(with(keyless, "spi", "1")); AsError(err).Code != CodeUsage {
		t.Errorf("with a wrong SPI: %v", err)
	}
}

// sadSAs are two of IKE and three keyed by hand, two of these with one SPI.
func sadSAs() []SA {
	all := sampleSAs()
	all[0].ReqID, all[1].ReqID = 2, 2
	all[0].Used = time.Now()
	all[1].Used = time.Now().Add(-time.Hour)
	manual := func(d ipsec.Direction, p ipsec.Protocol, o Origin) SA {
		return SA{SAStatus: ipsec.SAStatus{
			ID: ipsec.SAID{Direction: d, Protocol: p, SPI: 0x1001}, Remote: netip.MustParseAddrPort("192.0.2.9:0"), ReqID: 9,
			LocalTS: selector("10.1.0.0/16"), RemoteTS: selector("10.9.0.0/16"), Tunnel: "branch",
		}, Algorithms: "aes256-sha256", Origin: o}
	}
	return append(all[:2], manual(ipsec.In, ipsec.ESP, OriginFile), manual(ipsec.Out, ipsec.ESP, OriginFile), manual(ipsec.In, ipsec.AH, OriginManual))
}

func TestSAFilters(t *testing.T) {
	g := &fakeGateway{ring: logging.NewRing(8), sas: sadSAs()}
	_, c, _ := serve(t, g, defaultLimits())
	for _, tt := range []struct {
		params map[string]any
		want   int
	}{
		{nil, 5},
		{map[string]any{"spi": "0x1001"}, 3},
		{map[string]any{"spi": "00001001", "direction": "in"}, 2},
		{map[string]any{"protocol": "ah"}, 1},
		{map[string]any{"peer": "192.0.2.2"}, 2},
		{map[string]any{"connection": "agw"}, 2},
		{map[string]any{"connection": "agw/wan"}, 0},
		{map[string]any{"reqid": "9", "origin": "file"}, 2},
		{map[string]any{"covers": "10.9.1.1"}, 3},
		{map[string]any{"covers": "10.10.1.1"}, 0},
		{map[string]any{"state": SAPassing}, 1},
		{map[string]any{"state": SAIdle}, 1},
		{map[string]any{"state": SAUnused}, 3},
		{map[string]any{"search": "BRANCH"}, 3},
		{map[string]any{"search": "c0ffee"}, 1},
		{map[string]any{"search": "10.9.0"}, 3},
		{map[string]any{"search": "gcm"}, 2},
	} {
		got, err := call(t, c, "sa list", tt.params)
		if err != nil || len(got[0].(SAList).SAs) != tt.want {
			t.Errorf("%v: %v, %v", tt.params, got, err)
		}
	}
	for _, params := range []map[string]any{{"spi": "12"}, {"peer": "x"}, {"covers": "10.0.0.0/8"}, {"state": "good"}, {"reqid": "-1"}, {"connection": "a/b/c"}} {
		if _, err := call(t, c, "sa list", params); AsError(err) == nil || AsError(err).Code != CodeUsage {
			t.Errorf("%v: %v", params, err)
		}
	}
}

func TestPolicyFilters(t *testing.T) {
	_, c, _ := serve(t, &fakeGateway{ring: logging.NewRing(8)}, defaultLimits())
	for _, tt := range []struct {
		params map[string]any
		want   int
	}{
		{nil, 3},
		{map[string]any{"action": "protect"}, 1},
		{map[string]any{"protocol": "esp"}, 1},
		{map[string]any{"protocol": "ah"}, 0},
		{map[string]any{"origin": "manual"}, 1},
		{map[string]any{"reqid": "2"}, 1},
		{map[string]any{"covers": "10.2.0.1"}, 2},
		{map[string]any{"connection": "agw/lan"}, 1},
		{map[string]any{"search": "stays"}, 1},
	} {
		got, err := call(t, c, "policy list", tt.params)
		if err != nil || len(got[0].(PolicyList).Policies) != tt.want {
			t.Errorf("%v: %v, %v", tt.params, got, err)
		}
	}
}

func TestDeleteAndFlush(t *testing.T) {
	for _, tt := range []struct {
		command string
		params  map[string]any
		code    string // of the refusal
		orders  []string
	}{
		{"sa delete", map[string]any{"spi": "0x4444"}, CodeNotFound, nil},
		{"sa delete", map[string]any{"spi": "zz"}, CodeUsage, nil},
		{"sa delete", map[string]any{"spi": "0x1001"}, CodeAmbiguous, nil},
		{"sa delete", map[string]any{"spi": "0x1001", "direction": "out"}, "", []string{"delete SA out 00001001"}},
		{"sa delete", map[string]any{"spi": "c0ffee01"}, CodeRefused, nil},
		{"sa delete", map[string]any{"spi": "c0ffee01", "force": true}, "", []string{"delete SA in c0ffee01"}},
		{"sa flush", nil, CodeUsage, nil},
		{"sa flush", map[string]any{"force": true}, CodeUsage, nil},
		{"sa flush", map[string]any{"all": true, "protocol": "ah"}, CodeUsage, nil},
		{"sa flush", map[string]any{"protocol": "ah"}, "", []string{"delete SA in 00001001"}},
		{"sa flush", map[string]any{"connection": "agw"}, "", nil},
		{"sa flush", map[string]any{"connection": "agw", "force": true}, "", []string{"delete SA in c0ffee01", "delete SA out decade02"}},
		{"sa flush", map[string]any{"all": true}, "", []string{"delete SA in 00001001", "delete SA out 00001001", "delete SA in 00001001"}},
		{"policy delete", map[string]any{"name": "x"}, CodeNotFound, nil},
		{"policy delete", map[string]any{"name": "agw/lan", "force": true}, CodeRefused, nil},
		{"policy delete", map[string]any{"name": "lan-stays"}, CodeRefused, nil},
		{"policy delete", map[string]any{"name": "lan-stays", "force": true}, "", []string{"delete policies lan-stays"}},
		{"policy delete", map[string]any{"name": "nothing-else"}, "", []string{"delete policies nothing-else"}},
		{"policy flush", nil, CodeUsage, nil},
		{"policy flush", map[string]any{"all": true}, "", []string{"delete policies nothing-else"}},
		{"policy flush", map[string]any{"all": true, "force": true}, "", []string{"delete policies lan-stays nothing-else"}},
		{"policy flush", map[string]any{"action": "bypass"}, "", nil},
		{
			"policy add",
			map[string]any{"name": "p", "action": "protect", "local": "10.1.0.0/16", "remote": "10.9.0.0/16", "reqid": "9"},
			"",
			[]string{"add policy p protect"},
		},
		{"policy add", map[string]any{"name": "p", "action": "protect", "local": "10.1.0.0/16", "remote": "10.9.0.0/16"}, CodeUsage, nil},
		{"gateway off", nil, "", []string{"switch off"}},
		{"gateway off", map[string]any{"bypass": true}, "", []string{"switch bypass"}},
		{"gateway on", nil, "", []string{"switch on"}},
	} {
		g := &fakeGateway{sas: sadSAs()}
		cmd, ok := Find(tt.command)
		if !ok {
			t.Fatal(tt.command)
		}
		r, err := cmd.Request(tt.params)
		if err == nil {
			err = cmd.Run(context.Background(), g, r, func(Result) error { return nil })
		}
		code := ""
		if err != nil {
			code = AsError(err).Code
		}
		if code != tt.code || !slices.Equal(g.orders, tt.orders) {
			t.Errorf("%s %v: code %q (%v), orders %q", tt.command, tt.params, code, err, g.orders)
		}
	}
}
