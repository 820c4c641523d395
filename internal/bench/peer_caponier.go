package bench

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"text/template"
	"time"

	"caponier/internal/control"
)

// caponierPeer is this very program, driven from outside as an operator would.
type caponierPeer struct {
	name    string
	program string
	esp     string // proposal
	aggfrag string // words of the configuration
	capture string
	latency string
	device  string // the only interface that is captured; all if empty
}

func (c caponierPeer) about() PeerInfo {
	settings := "ESP " + c.esp
	if c.aggfrag != "off" {
		settings += " in AGGFRAG mode (RFC 9347)"
	}
	if c.capture != "tun" {
		settings += ", capture " + c.capture
	}
	if c.device != "" {
		settings += " on " + c.device
	}
	if c.latency != "normal" {
		settings += ", latency " + c.latency
	}
	settings += ", otherwise defaults"
	return PeerInfo{
		Name: c.name, What: "this program, user-space data plane",
		Settings: settings,
	}
}

func (c caponierPeer) find(ctx context.Context) (string, error) {
	if c.program == "" {
		return "", errors.New("the caponier binary is not known")
	}
	return output(ctx, c.program, "version")
}

// caponierConfig is for one end. End A calls.
var caponierConfig = template.Must(template.New("caponier").Parse(`gateway:
  name: {{.Name}}
  state: state-{{.Name}}
  control: {{.Name}}.sock
  capture: {{.Capture}}
{{- if .Device}}
  interfaces: {{.Device}}
{{- end}}
  latency: {{.Latency}}
  log: { level: warn }
connections:
{{- range .Connections}}
  {{.Name}}:
    local: { address: {{$.Local}}, id: "{{.LocalID}}", auth: psk, psk-file: bench.psk }
    remote: { address: {{$.Remote}}, id: "{{.RemoteID}}", auth: psk }
    proposals: [aes128gcm16-prfsha256-x25519]
    tunnels:
      lan: { local: ["{{.LocalTS}}"], remote: ["{{.RemoteTS}}"], proposals: [{{$.ESP}}], aggfrag: {{$.Aggfrag}}, start: {{$.Start}}, lifetime: 1d }
{{- end}}
`))

type caponierEnd struct {
	Name, Local, Remote, ESP, Aggfrag, Capture, Latency, Device, Start string
	Connections                                                        []benchConnection
}

// start brings B up before A, which calls it.
func (c caponierPeer) start(ctx context.Context, p *pair) error {
	return c.startConnections(ctx, p, []benchConnection{{
		Name: "bench", LocalID: "a.bench.example", RemoteID: "b.bench.example",
		LocalTS: lanA.String(), RemoteTS: lanB.String(),
	}}, "start")
}

// startConnections runs the gateways with connections as A sees them, which A
// calls when start says so.
func (c caponierPeer) startConnections(ctx context.Context, p *pair, conns []benchConnection, start string) error {
	if err := os.WriteFile(filepath.Join(p.dir, "bench.psk"), []byte(rand.Text()+"\n"), 0o600); err != nil {
		return err
	}
	a := caponierEnd{Name: "gwa", Local: addrOutsideA.String(), Remote: addrOutsideB.String(), ESP: c.esp, Aggfrag: c.aggfrag, Capture: c.capture, Latency: c.latency, Device: c.device, Start: start, Connections: conns}
	b := caponierEnd{Name: "gwb", Local: a.Remote, Remote: a.Local, ESP: c.esp, Aggfrag: c.aggfrag, Capture: c.capture, Latency: c.latency, Device: c.device, Start: "none", Connections: mirrored(conns)}
	for _, end := range []caponierEnd{a, b} {
		var text bytes.Buffer
		if err := caponierConfig.Execute(&text, end); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(p.dir, end.Name+".yaml"), text.Bytes(), 0o600); err != nil {
			return err
		}
	}
	if err := p.gateway(p.gwB, "gwb", nil, c.program, "run", "-c", filepath.Join(p.dir, "gwb.yaml")); err != nil {
		return err
	}
	if _, err := caponierStatus(ctx, p, "gwb"); err != nil {
		return err
	}
	if err := p.gateway(p.gwA, "gwa", nil, c.program, "run", "-c", filepath.Join(p.dir, "gwa.yaml")); err != nil {
		return err
	}
	p.gateways[0], p.gateways[1] = p.gateways[1], p.gateways[0]
	return nil
}

// startMany implements gatherer.
func (c caponierPeer) startMany(ctx context.Context, p *pair, n int) error {
	if err := c.startConnections(ctx, p, manyConnections(n), "none"); err != nil {
		return err
	}
	_, err := caponierStatus(ctx, p, "gwa")
	return err
}

// carriesAll implements gatherer.
func (caponierPeer) carriesAll() bool { return true }

// caller implements gatherer, through the control socket.
func (caponierPeer) caller(p *pair) (call func(context.Context, int) error, leave func()) {
	client := control.NewClient(filepath.Join(p.dir, "gwa.sock"))
	order, ok := control.Find("connect")
	return func(ctx context.Context, i int) error {
		if !ok {
			return errors.New("the registry has no connect")
		}
		return client.Call(ctx, order, map[string]any{"target": connectionName(i)},
			func(control.Result, json.RawMessage) error { return nil })
	}, client.Close
}

// tunnelsUp implements gatherer.
func (caponierPeer) tunnelsUp(ctx context.Context, p *pair) (up int, err error) {
	status, err := caponierStatus(ctx, p, "gwb")
	for _, c := range status.Connections {
		for _, t := range c.Tunnels {
			if len(t.SAs) > 0 {
				up++
			}
		}
	}
	return up, err
}

// caponierStatus asks a gateway, and waits until it answers.
func caponierStatus(ctx context.Context, p *pair, gateway string) (status control.Status, err error) {
	path := filepath.Join(p.dir, gateway+".sock")
	if err := waitFile(ctx, p, path); err != nil {
		return status, err
	}
	ask, ok := control.Find("status")
	if !ok {
		return status, errors.New("the registry has no status")
	}
	client := control.NewClient(path)
	defer client.Close()
	deadline := time.Now().Add(15 * time.Second)
	for {
		err := client.Call(ctx, ask, nil, func(r control.Result, _ json.RawMessage) error {
			status, _ = r.(control.Status)
			return nil
		})
		if err == nil || ctx.Err() != nil || time.Now().After(deadline) {
			return status, err
		}
		if err := p.alive(); err != nil {
			return status, err
		}
		time.Sleep(20 * time.Millisecond)
	}
}
