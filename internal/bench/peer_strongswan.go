package bench

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"text/template"

	"caponier/internal/lab/netns"
)

// strongSwanPeer is strongSwan with its own user-space data plane,
// kernel-libipsec, which always encapsulates ESP in UDP.
type strongSwanPeer struct{}

// strongSwanDaemons are the daemons that packages install, with the name of
// their section in strongswan.conf.
var strongSwanDaemons = []struct{ program, section string }{
	{"/usr/sbin/charon-systemd", "charon-systemd"},
	{"/usr/lib/ipsec/charon", "charon"},
	{"/usr/lib/strongswan/charon", "charon"},
}

const strongSwanPackages = "apt-get install --no-install-recommends strongswan-swanctl charon-systemd " +
	"libcharon-extra-plugins libstrongswan-extra-plugins libstrongswan-standard-plugins"

func (strongSwanPeer) about() PeerInfo {
	return PeerInfo{
		Name: StrongSwan, What: "strongSwan with kernel-libipsec, its user-space data plane",
		Settings: "ESP " + DefaultESP + " in UDP, otherwise defaults",
	}
}

func strongSwanDaemon() (program, section string, err error) {
	for _, d := range strongSwanDaemons {
		if _, err := os.Stat(d.program); err == nil {
			return d.program, d.section, nil
		}
	}
	return "", "", errors.New("strongSwan is missing: " + strongSwanPackages)
}

func (strongSwanPeer) find(ctx context.Context) (string, error) {
	if _, _, err := strongSwanDaemon(); err != nil {
		return "", err
	}
	found, err := filepath.Glob("/usr/lib/ipsec/plugins/libstrongswan-kernel-libipsec.so")
	if err != nil || len(found) == 0 {
		return "", errors.Join(err, errors.New("strongSwan's plugin kernel-libipsec is missing: "+strongSwanPackages))
	}
	// --version would ask a daemon, and the daemon's own does not exist. The help
	// begins with the version.
	version, err := output(ctx, "swanctl", "--help")
	return strings.TrimSuffix(version, " swanctl"), err
}

var (
	strongSwanDaemonConfig = template.Must(template.New("strongswan.conf").Parse(`{{.Section}} {
  load_modular = yes
{{- if gt (len .Connections) 1}}
  # As its documentation advises for many peers.
  threads = 64
  dos_protection = no
  ikesa_table_size = 16384
  ikesa_table_segments = 16
{{- end}}
  journal { default = -1 }
  filelog {
    log { path = {{.Dir}}/charon.log
      default = 0
      flush_line = yes }
  }
  plugins {
    include /etc/strongswan.d/charon/*.conf
    kernel-libipsec { load = yes }
    stroke { load = no }
    bypass-lan { load = no }
    vici { socket = unix://{{.Dir}}/charon.vici }
  }
}
`))
	swanctlConfig = template.Must(template.New("swanctl.conf").Parse(`connections {
{{- range .Connections}}
  {{.Name}} {
    version = 2
    local_addrs = {{$.Local}}
    remote_addrs = {{$.Remote}}
    proposals = aes128gcm16-prfsha256-x25519
    encap = yes
    local { auth = psk
      id = {{.LocalID}} }
    remote { auth = psk
      id = {{.RemoteID}} }
    children {
      {{.Name}}-lan {
        local_ts = {{.LocalTS}}
        remote_ts = {{.RemoteTS}}
        esp_proposals = {{$.ESP}}
        rekey_time = 24h
      }
    }
  }
{{- end}}
}
secrets {
  ike-bench { secret = 0x{{.Secret}} }
}
`))
)

type strongSwanEnd struct {
	ns                                                netns.NS
	Section, Dir, Local, Remote, ESP, Secret, program string
	Connections                                       []benchConnection
}

func (s strongSwanPeer) start(ctx context.Context, p *pair) error {
	err := s.startConnections(ctx, p, []benchConnection{{
		Name: "bench", LocalID: "a.bench.example", RemoteID: "b.bench.example", LocalTS: lanA.String(), RemoteTS: lanB.String(),
	}})
	if err != nil {
		return err
	}
	c, err := dialVici(ctx, viciPath(p, "gwa"))
	if err != nil {
		return err
	}
	defer c.Close()
	return c.initiate("bench")
}

// startMany implements gatherer.
func (s strongSwanPeer) startMany(ctx context.Context, p *pair, n int) error {
	conns := manyConnections(n)
	for i := range conns {
		// kernel-libipsec wants an address of the gateway inside its selectors: what
		// tells tunnels apart is a port.
		conns[i].RemoteTS = fmt.Sprintf("%s[udp/%d]", lanB, i+1)
	}
	return s.startConnections(ctx, p, conns)
}

// carriesAll implements gatherer.
func (strongSwanPeer) carriesAll() bool { return false }

// caller implements gatherer.
func (strongSwanPeer) caller(p *pair) (call func(context.Context, int) error, leave func()) {
	var c *viciConn
	return func(ctx context.Context, i int) (err error) {
			if c == nil {
				if c, err = dialVici(ctx, viciPath(p, "gwa")); err != nil {
					return err
				}
			}
			return c.initiate(connectionName(i))
		}, func() {
			if c != nil {
				c.Close()
			}
		}
}

// initiate sets up a connection with its tunnel, and waits for it.
func (c *viciConn) initiate(connection string) error {
	answer, err := c.call("initiate", [2]string{"child", connection + "-lan"}, [2]string{"timeout", "15000"}, [2]string{"loglevel", "-1"})
	if err == nil && answer["success"] != "yes" {
		err = fmt.Errorf("strongSwan does not connect: %s", answer["errmsg"])
	}
	return err
}

// tunnelsUp implements gatherer: charon counts IKE SAs, which have a tunnel each.
func (strongSwanPeer) tunnelsUp(ctx context.Context, p *pair) (int, error) {
	c, err := dialVici(ctx, viciPath(p, "gwb"))
	if err != nil {
		return 0, err
	}
	defer c.Close()
	answer, err := c.call("stats")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(answer["total"])
}

func viciPath(p *pair, gateway string) string { return filepath.Join(p.dir, gateway, "charon.vici") }

// startConnections runs the gateways with connections as A sees them.
func (s strongSwanPeer) startConnections(ctx context.Context, p *pair, conns []benchConnection) error {
	program, section, err := strongSwanDaemon()
	if err != nil {
		return err
	}
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // it never fails
	a := strongSwanEnd{
		ns: p.gwA, Section: section, program: program, Dir: filepath.Join(p.dir, "gwa"), ESP: DefaultESP, Secret: hex.EncodeToString(secret),
		Local: addrOutsideA.String(), Remote: addrOutsideB.String(), Connections: conns,
	}
	b := a
	b.ns, b.Dir = p.gwB, filepath.Join(p.dir, "gwb")
	b.Local, b.Remote, b.Connections = a.Remote, a.Local, mirrored(conns)
	for _, e := range []strongSwanEnd{a, b} {
		if err := s.startEnd(ctx, p, e); err != nil {
			return err
		}
	}
	return nil
}

// startEnd runs the daemon with a /run of its own, where it would meet its twin.
func (strongSwanPeer) startEnd(ctx context.Context, p *pair, e strongSwanEnd) error {
	if err := os.MkdirAll(filepath.Join(e.Dir, "swanctl"), 0o700); err != nil {
		return err
	}
	for file, t := range map[string]*template.Template{
		"strongswan.conf": strongSwanDaemonConfig, "swanctl/swanctl.conf": swanctlConfig,
	} {
		var b bytes.Buffer
		if err := t.Execute(&b, e); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(e.Dir, file), b.Bytes(), 0o600); err != nil {
			return err
		}
	}
	err := p.gateway(e.ns, filepath.Base(e.Dir), []string{"STRONGSWAN_CONF=" + filepath.Join(e.Dir, "strongswan.conf")},
		"unshare", "--mount", "sh", "-c", `mount -t tmpfs tmpfs /run && exec "$0"`, e.program)
	if err != nil {
		return err
	}
	if err := waitFile(ctx, p, filepath.Join(e.Dir, "charon.vici")); err != nil {
		return err
	}
	return swanctl(ctx, p, e, "--load-all")
}

func swanctl(ctx context.Context, p *pair, e strongSwanEnd, args ...string) error {
	args = append(args, "--uri", "unix://"+filepath.Join(e.Dir, "charon.vici"))
	cmd := exec.CommandContext(ctx, "swanctl", args...)
	cmd.Env = append(os.Environ(), "SWANCTL_DIR="+filepath.Join(e.Dir, "swanctl"), "STRONGSWAN_CONF="+filepath.Join(e.Dir, "strongswan.conf"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return p.blame(fmt.Errorf("swanctl %s: %w: %s", args[0], err, bytes.TrimSpace(out)))
	}
	return nil
}
