package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"caponier/internal/logging"

	"github.com/google/go-cmp/cmp"
)

// call runs a command and returns its results.
func call(t *testing.T, c *Client, name string, params map[string]any) ([]Result, error) {
	t.Helper()
	cmd, ok := Find(name)
	if !ok {
		t.Fatalf("no command %q", name)
	}
	var out []Result
	err := c.Call(t.Context(), cmd, params, func(r Result, raw json.RawMessage) error {
		if !json.Valid(raw) {
			t.Errorf("%s: %q is not JSON", name, raw)
		}
		out = append(out, r)
		return nil
	})
	return out, err
}

func indented(t *testing.T, v any) string {
	t.Helper()
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func wantCode(t *testing.T, err error, code string) *Error {
	t.Helper()
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Code != code {
		t.Fatalf("got %v (%+v), want code %q", err, e, code)
	}
	if e.Message == "" {
		t.Error("the error says nothing")
	}
	return e
}

func TestRoundTrip(t *testing.T) {
	g := &fakeGateway{ring: logging.NewRing(8)}
	_, c, _ := serve(t, g, defaultLimits())

	status, err := call(t, c, "status", map[string]any{"connection": "agw"})
	if err != nil {
		t.Fatal(err)
	}
	want := sampleStatus()
	want.Detail = "agw"
	if diff := cmp.Diff(indented(t, want), indented(t, status[0])); diff != "" {
		t.Error(diff)
	}

	progress, err := call(t, c, "connect", map[string]any{"target": "agw/lan"})
	if err != nil {
		t.Fatal(err)
	}
	agwLAN := Target{"agw", "lan"}
	wantSteps := []Result{
		Progress{Time: sampleNow, Target: agwLAN, Step: StepAccepted},
		Progress{Time: sampleNow, Target: agwLAN, Step: StepEstablished, Detail: "c0ffee01 c0ffee02"},
	}
	if diff := cmp.Diff(wantSteps, progress); diff != "" {
		t.Error(diff)
	}
	if steps, err := call(t, c, "rekey", map[string]any{"target": "agw", "no-wait": true}); err != nil || len(steps) != 1 {
		t.Errorf("rekey without waiting: %v, %v", steps, err)
	}
	if _, err := call(t, c, "disconnect", map[string]any{"target": "agw"}); err != nil {
		t.Error(err)
	}
	if want := []string{"connect agw/lan", "rekey agw", "disconnect agw"}; !slices.Equal(g.orders, want) {
		t.Errorf("orders: got %v, want %v", g.orders, want)
	}

	reload, err := call(t, c, "reload", map[string]any{"dry-run": true})
	if err != nil || !reload[0].(ReloadReport).DryRun {
		t.Errorf("reload: %+v, %v", reload, err)
	}
	policies, err := call(t, c, "policy list", nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(indented(t, PolicyList{samplePolicies()}), indented(t, policies[0])); diff != "" {
		t.Error(diff)
	}
	version, err := call(t, c, "version", nil)
	if err != nil || version[0] != Result(LocalBuild()) {
		t.Errorf("version: %+v, %v", version, err)
	}
}

func TestRefusals(t *testing.T) {
	_, c, _ := serve(t, &fakeGateway{ring: logging.NewRing(8)}, defaultLimits())
	for _, tt := range []struct {
		name   string
		params map[string]any
		code   string
	}{
		{"status", map[string]any{"connection": "nobody"}, CodeUnknownConnection},
		{"connect", map[string]any{"target": "nobody"}, CodeUnknownConnection},
		{"connect", map[string]any{"target": "agw/broken"}, "no-proposal-chosen"},
		{"connect", nil, CodeUsage},
		{"connect", map[string]any{"target": "a/b/c"}, CodeUsage},
		{"connect", map[string]any{"target": "agw", "timeout": "soon"}, CodeUsage},
		{"connect", map[string]any{"target": "agw", "timeout": "-1s"}, CodeUsage},
		{"connect", map[string]any{"target": 7}, CodeUsage},
		{"reload", map[string]any{"dry-run": "perhaps"}, CodeUsage},
		{"reload", map[string]any{"force": true}, CodeUsage},
		{"log", map[string]any{"level": "loud"}, CodeUsage},
		{"sa list", nil, CodeFailed},
	} {
		_, err := call(t, c, tt.name, tt.params)
		e := wantCode(t, err, tt.code)
		if tt.code == "no-proposal-chosen" && e.Cure != "offer aes128" {
			t.Errorf("the cure was lost: %+v", e)
		}
	}
	err := c.Call(t.Context(), Command{Name: "unknown"}, nil, nil)
	wantCode(t, err, CodeUnknownCommand)
}

func TestTimeout(t *testing.T) {
	l := defaultLimits()
	l.unary = 20 * time.Millisecond
	_, c, _ := serve(t, &fakeGateway{hold: true}, l)
	_, err := call(t, c, "connect", map[string]any{"target": "agw", "timeout": "20ms"})
	if e := wantCode(t, err, CodeTimeout); e.Cure == "" {
		t.Error("a time-out has no cure")
	}
	_, err = call(t, c, "reload", nil)
	wantCode(t, err, CodeTimeout)
}

func TestLogFollows(t *testing.T) {
	g := &fakeGateway{ring: logging.NewRing(8)}
	_, c, _ := serve(t, g, defaultLimits())
	g.ring.Add(logging.Record{Message: "old", Connection: "agw", Level: slog.LevelDebug})
	g.ring.Add(logging.Record{Message: "foreign", Connection: "legacy"})

	cmd, _ := Find("log")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	got := make(chan string)
	done := make(chan error, 1)
	go func() {
		done <- c.Call(ctx, cmd, map[string]any{"connection": "agw", "follow": true}, func(r Result, _ json.RawMessage) error {
			got <- r.(LogRecord).Message
			return nil
		})
	}()
	if m := <-got; m != "old" {
		t.Errorf("first record is %q", m)
	}
	g.ring.Add(logging.Record{Message: "new", Connection: "agw"})
	if m := <-got; m != "new" {
		t.Errorf("next record is %q", m)
	}
	cancel()
	wantCode(t, <-done, CodeInterrupted)

	recs, err := call(t, c, "log", map[string]any{"level": "info", "connection": "agw"})
	if err != nil || len(recs) != 1 {
		t.Errorf("from info up: %v, %v", recs, err)
	}
}

func TestClientStopsStream(t *testing.T) {
	g := &fakeGateway{ring: logging.NewRing(8)}
	_, c, _ := serve(t, g, defaultLimits())
	g.ring.Add(logging.Record{})
	enough := errors.New("enough")
	cmd, _ := Find("log")
	err := c.Call(t.Context(), cmd, map[string]any{"follow": true}, func(Result, json.RawMessage) error { return enough })
	if !errors.Is(err, enough) {
		t.Errorf("got %v", err)
	}
}

func TestCloseEndsStreams(t *testing.T) {
	g := &fakeGateway{ring: logging.NewRing(8)}
	path, c, s := serve(t, g, defaultLimits())
	g.ring.Add(logging.Record{})
	cmd, _ := Find("log")
	err := c.Call(t.Context(), cmd, map[string]any{"follow": true}, func(Result, json.RawMessage) error { return s.Close() })
	wantCode(t, err, CodeInterrupted)
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Close the socket is still there: %v", err)
	}
	_, err = call(t, c, "status", nil)
	if e := wantCode(t, err, CodeNotRunning); !strings.Contains(e.Message, path) || !strings.Contains(e.Cure, "caponier run") {
		t.Errorf("got %+v", e)
	}
}

func TestConcurrentClients(t *testing.T) {
	path, _, _ := serve(t, &fakeGateway{ring: logging.NewRing(8)}, defaultLimits())
	var clients sync.WaitGroup
	for range 16 {
		clients.Go(func() {
			c := NewClient(path)
			defer c.Close()
			for range 20 {
				if _, err := call(t, c, "status", nil); err != nil {
					t.Error(err)
				}
				if _, err := call(t, c, "connect", map[string]any{"target": "agw"}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	clients.Wait()
}

// post sends a request that no Client would.
func post(t *testing.T, path, method, url string, body io.Reader) (int, frame) {
	t.Helper()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://caponier"+url, body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var f frame
	if err := json.NewDecoder(resp.Body).Decode(&f); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, f
}

func TestHTTP(t *testing.T) {
	l := defaultLimits()
	l.body = 100
	g := &fakeGateway{ring: logging.NewRing(8)}
	path, _, _ := serve(t, g, l)
	for _, tt := range []struct {
		method, url, body string
		status            int
		code              string
	}{
		{"POST", "/v1/nonsense", "", 404, CodeUnknownCommand},
		{"GET", "/v1/reload", "", 404, CodeUnknownCommand},
		{"GET", "/", "", 404, CodeUnknownCommand},
		{"POST", "/v1/reload", "{", 400, CodeUsage},
		{"POST", "/v1/reload", "[]", 400, CodeUsage},
		{"POST", "/v1/reload", `{"dry-run":true} extra`, 400, CodeUsage},
		{"POST", "/v1/connect", `{"target":"` + strings.Repeat("a", 200) + `"}`, 400, CodeUsage},
		{"GET", "/v1/status?connection=a&connection=b", "", 400, CodeUsage},
		{"GET", "/v1/status?connection=nobody", "", 404, CodeUnknownConnection},
		{"GET", "/v1/sa/list", "", 409, CodeFailed},
	} {
		status, f := post(t, path, tt.method, tt.url, strings.NewReader(tt.body))
		if status != tt.status || f.Error == nil || f.Error.Code != tt.code {
			t.Errorf("%s %s %s: got %d %+v, want %d %s", tt.method, tt.url, tt.body, status, f.Error, tt.status, tt.code)
		}
	}
	if len(g.orders) != 0 {
		t.Errorf("a refused request was carried out: %v", g.orders)
	}
}

func TestRequestsAreLimited(t *testing.T) {
	l := defaultLimits()
	l.requests = 2
	g := &fakeGateway{ring: logging.NewRing(8)}
	path, c, _ := serve(t, g, l)
	g.ring.Add(logging.Record{})
	cmd, _ := Find("log")
	ctx, cancel := context.WithCancel(t.Context())
	var streams sync.WaitGroup
	for range l.requests {
		started := make(chan struct{})
		streams.Go(func() {
			s := NewClient(path)
			defer s.Close()
			_ = s.Call(ctx, cmd, map[string]any{"follow": true}, func(Result, json.RawMessage) error {
				close(started)
				return nil
			})
		})
		<-started
	}
	_, err := call(t, c, "status", nil)
	wantCode(t, err, CodeBusy)
	cancel()
	streams.Wait()
	eventually(t, func() bool { _, err := call(t, c, "status", nil); return err == nil })
}

func TestConnectionsAreLimited(t *testing.T) {
	l := defaultLimits()
	l.connections = 2
	path, c, _ := serve(t, &fakeGateway{ring: logging.NewRing(8)}, l)
	var idle []net.Conn
	for range l.connections {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		idle = append(idle, conn)
	}
	_, err := call(t, c, "status", nil)
	wantCode(t, err, CodeBusy)
	for _, conn := range idle {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
	eventually(t, func() bool { _, err := call(t, c, "status", nil); return err == nil })
}

// A client that connects and says nothing is given up.
func TestSilentClient(t *testing.T) {
	l := defaultLimits()
	l.read = 20 * time.Millisecond
	path, _, _ := serve(t, &fakeGateway{}, l)
	for _, sent := range []string{"", "POST /v1/reload HTTP/1.1\r\n", "POST /v1/reload HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"} {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, sent); err != nil {
			t.Fatal(err)
		}
		if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(c); err != nil {
			t.Errorf("after %q: %v", sent, err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A stream outlives the time that a request has to arrive.
func TestStreamOutlivesReadLimit(t *testing.T) {
	l := defaultLimits()
	l.read = 50 * time.Millisecond
	_, c, _ := serve(t, &fakeGateway{hold: true}, l)
	began := time.Now()
	_, err := call(t, c, "connect", map[string]any{"target": "agw", "timeout": "300ms"})
	wantCode(t, err, CodeTimeout)
	if took := time.Since(began); took < 300*time.Millisecond {
		t.Errorf("the stream ended after %v", took)
	}
}

func TestSocket(t *testing.T) {
	g := &fakeGateway{}
	logger := slog.New(slog.DiscardHandler)
	dir := filepath.Join(t.TempDir(), "run")
	path := filepath.Join(dir, "control.sock")

	// A socket that a daemon left behind when it was killed.
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	c := NewClient(path)
	defer c.Close()
	_, err = call(t, c, "status", nil)
	wantCode(t, err, CodeNotRunning)

	first, err := Listen(path, g, logger)
	if err != nil {
		t.Fatalf("with a stale socket: %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the socket: %v, %v", info.Mode(), err)
	}
	_, err = Listen(path, g, logger)
	wantCode(t, err, CodeRunning)

	if err := first.Close(); err != nil {
		t.Errorf("close without Serve: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Errorf("close again: %v", err)
	}
	second, err := Listen(path, g, logger)
	if err != nil {
		t.Fatalf("after Close: %v", err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}

	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Listen(path, g, logger)
	wantCode(t, err, CodeRefused)
	if b, err := os.ReadFile(path); err != nil || string(b) != "precious" {
		t.Errorf("the file was touched: %q, %v", b, err)
	}

	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	_, err = Listen(path, g, logger)
	wantCode(t, err, CodeRefused)

	fresh := filepath.Join(t.TempDir(), "a", "b", "control.sock")
	s, err := Listen(fresh, g, logger)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Dir(fresh)); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode of the directory: %v, %v", info.Mode(), err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestMayControl(t *testing.T) {
	for _, tt := range []struct {
		uid, self int
		want      bool
	}{{0, 0, true}, {0, 998, true}, {998, 998, true}, {1000, 998, false}, {1000, 0, false}, {-1, 0, false}} {
		if got := mayControl(tt.uid, tt.self); got != tt.want {
			t.Errorf("user %d at a daemon of user %d: %v, want %v", tt.uid, tt.self, got, tt.want)
		}
	}
}

func TestOrdersAreLogged(t *testing.T) {
	var b syncBuffer
	path := filepath.Join(t.TempDir(), "control.sock")
	s, err := Listen(path, &fakeGateway{}, slog.New(slog.NewTextHandler(&b, nil)))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve() }()
	c := NewClient(path)
	if _, err := call(t, c, "connect", map[string]any{"target": "agw/broken"}); err == nil {
		t.Error("agw/broken was set up")
	}
	c.Close()
	if err := errors.Join(s.Close(), <-done); err != nil {
		t.Error(err)
	}
	who := fmt.Sprintf("uid=%d pid=%d", os.Geteuid(), os.Getpid())
	for _, want := range []string{"command=connect target=agw/broken " + who, "code=no-proposal-chosen"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, b.String())
		}
	}
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it never happened")
		}
	}
}
