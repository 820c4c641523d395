package control

import (
	"errors"
	"log/slog"
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"caponier/internal/ipsec"
	"caponier/internal/logging"
)

func render(t *testing.T, r Result, s Style) string {
	t.Helper()
	var b strings.Builder
	if err := r.Text(&b, s); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestText(t *testing.T) {
	detail := func(name string) Status {
		s := sampleStatus()
		s.Detail = name
		return s
	}
	report := ReloadReport{DryRun: true, Changes: []Change{
		{Kind: "connection", Name: "agw", Action: ActionUnchanged},
		{Kind: "tunnel", Name: "agw/lan", Action: ActionChanged, Effect: "rekeyed", Keys: []string{"lifetime", "proposals"}},
	}, RestartRequired: []string{"gateway.workers", "gateway.dataplane"}}
	record := LogRecord{logging.Record{
		Time: time.Date(2026, 11, 20, 12, 0, 0, 0, time.Local), Level: slog.LevelWarn, Message: "IKE SA failed",
		Subsystem: "ike", Connection: "agw",
		Attrs: []logging.Attr{{Key: "code", Value: "timeout"}, {Key: "error", Value: "no answer\nto \x1b[2J"}},
	}}
	for name, r := range map[string]Result{
		"status":             sampleStatus(),
		"status-passing":     detail("agw"),
		"status-established": detail("branch"),
		"status-negotiating": detail("coming"),
		"status-configured":  detail("idle"),
		"status-failed":      detail("legacy"),
		"status-empty":       Status{Name: "new", Version: "v0.1.0", Time: sampleNow, Started: sampleNow},
		"sas":                SAList{Time: sampleNow, SAs: sampleSAs()},
		"sas-empty":          SAList{},
		"policies":           PolicyList{samplePolicies()},
		"policies-empty":     PolicyList{},
		"sa-added":           SAChange{Action: ActionAdded, Time: sampleNow, SAs: sampleSAs()[2:], Warnings: []string{"no policy has reqid 9: caponier policy add makes one"}},
		"sa-removed":         SAChange{Action: ActionRemoved, SAs: sampleSAs()},
		"sa-none":            SAChange{Action: ActionRemoved},
		"policy-added":       PolicyChange{Action: ActionAdded, Policies: samplePolicies()[:2]},
		"policy-none":        PolicyChange{Action: ActionRemoved},
		"destroyed":          sampleDestroyed(),
		"destroyed-not":      Destroyed{Keys: 1, Failed: []string{"/etc/caponier/gw.key: read-only file system"}},
		"switch-on":          Switch{Position: SwitchOn},
		"switch-off":         Switch{Position: SwitchOff, Since: sampleNow, SAs: 4},
		"switch-bypass":      Switch{Position: SwitchBypass, Since: sampleNow},
		"status-off":         Status{Name: "new", Version: "v0.1.0", Time: sampleNow, Started: sampleNow, Switch: &Switch{Position: SwitchBypass}},
		"reload":             report,
		"reload-nothing":     ReloadReport{},
		"why":                sampleWhy(),
		"why-connection":     Why{Time: sampleNow, Detail: "agw", States: sampleWhy().States, Findings: sampleWhy().Findings[1:3]},
		"why-nothing":        Why{Time: sampleNow},
		"trace":              sampleTrace(),
		"trace-dropped": Trace{
			Flow:  ipsec.Flow{Src: netip.MustParseAddr("10.9.0.1"), Dst: netip.MustParseAddr("10.2.0.9"), Protocol: 6, SrcPort: 49152, DstPort: 443},
			Steps: []TraceStep{{"route", true, "table 220 sends it to caponier0, the data plane"}, {"policy", false, "no policy matches"}},
			Words: "the data plane drops it", Verdict: DroppedNone, Counter: "no-policy", Count: 12, Cure: "add 10.9.0.1 to local of a tunnel",
		},
		"progress": Progress{Target: Target{"agw", "lan"}, Step: StepEstablished, Detail: "c0ffee01 in, decade02 out"},
		"log":      record,
		"version": Build{
			Version: "v0.1.0", Revision: "0123456789abcdef0123456789abcdef01234567+dirty",
			Go: "go1.26.8", Platform: "linux/amd64",
		},
	} {
		t.Run(name, func(t *testing.T) {
			narrow := render(t, r, Style{Width: 80})
			golden(t, name+".txt", narrow)
			for line := range strings.Lines(narrow) {
				if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 80 && name != "log" {
					t.Errorf("%d columns: %s", n, line)
				}
			}
			if wide := render(t, r, Style{}); strings.Contains(wide, "…") || strings.ContainsRune(wide, '\x1b') {
				t.Errorf("without a terminal, text is shortened or coloured:\n%s", wide)
			}
			if strip(render(t, r, Style{Width: 80, Colour: true})) != narrow {
				t.Error("colour changes more than colour")
			}
		})
	}
}

// strip removes the colours that this package sets.
func strip(text string) string {
	for _, c := range []string{green, yellow, red, bold, "0"} {
		text = strings.ReplaceAll(text, "\x1b["+c+"m", "")
	}
	return text
}

type brokenWriter struct{ after int }

var errBroken = errors.New("pipe is broken")

func (w *brokenWriter) Write(p []byte) (int, error) {
	if w.after--; w.after < 0 {
		return 0, errBroken
	}
	return len(p), nil
}

func TestTextReportsWriteErrors(t *testing.T) {
	for _, r := range []Result{sampleStatus(), SAList{SAs: sampleSAs()}, PolicyList{}, ReloadReport{}, Progress{}, LogRecord{}, Build{}} {
		if err := r.Text(&brokenWriter{}, Style{}); !errors.Is(err, errBroken) {
			t.Errorf("%T: got %v", r, err)
		}
	}
	if err := sampleStatus().Text(&brokenWriter{after: 3}, Style{}); !errors.Is(err, errBroken) {
		t.Errorf("in the middle: got %v", err)
	}
}

func TestHumanUnits(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 0: "0s", 999 * time.Millisecond: "0s", 59 * time.Second: "59s", time.Minute: "1m",
		61 * time.Second: "1m1s", time.Hour: "1h", time.Hour + 59*time.Second: "1h", 25 * time.Hour: "1d1h",
		400 * 24 * time.Hour: "400d",
	} {
		if got := age(d); got != want {
			t.Errorf("age(%v) = %q, want %q", d, got, want)
		}
	}
	for n, want := range map[uint64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 10239: "10 KiB", 1<<20 - 1: "1.0 MiB",
		34 << 20: "34 MiB", math.MaxUint64: "16 EiB",
	} {
		if got := octets(n); got != want {
			t.Errorf("octets(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestSettle(t *testing.T) {
	want := map[string]State{
		"agw": Passing, "branch": Established, "coming": Negotiating, "idle": Configured, "legacy": Failed,
	}
	s := sampleStatus()
	for _, c := range s.Connections {
		if c.State != want[c.Name] {
			t.Errorf("%s is %s, want %s", c.Name, c.State, want[c.Name])
		}
	}
	agw := &s.Connections[0]
	if got := agw.Tunnels[1].State; got != Failed {
		t.Errorf("the tunnel that was refused is %s, want %s", got, Failed)
	}
	agw.Settle(s.Time.Add(PassingWindow + time.Minute))
	if agw.State != Established {
		t.Errorf("a minute after the last packet it is %s, want %s", agw.State, Established)
	}
	agw.Tunnels[0].SAs[0].In.Used = s.Time
	agw.Tunnels[0].SAs[0].Out.Used = time.Time{}
	agw.Settle(s.Time)
	if agw.State != Established {
		t.Errorf("with packets one way it is %s, want %s", agw.State, Established)
	}
}

func TestTarget(t *testing.T) {
	for _, text := range []string{"agw", "agw/lan"} {
		got, err := ParseTarget(text)
		if err != nil || got.String() != text {
			t.Errorf("%q became %q, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "/", "/lan", "agw/", "agw/lan/x"} {
		if got, err := ParseTarget(text); err == nil {
			t.Errorf("%q was read as %+v", text, got)
		}
	}
}
