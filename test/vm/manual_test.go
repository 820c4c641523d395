package vm

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"caponier/internal/control"
	"caponier/internal/ipsec"
	"caponier/internal/lab/netns"
	"caponier/internal/suite"
	"caponier/test/interop"
)

// daemon is the program itself, with keys by hand and the kernel's data plane.
type daemon struct {
	t   *testing.T
	in  netns.NS
	dir string
	cmd *exec.Cmd
}

func newDaemon(t *testing.T, in netns.NS) *daemon {
	t.Helper()
	dir, err := os.MkdirTemp("", "manual-") //nolint:usetesting // the path of a socket is to be short
	must(t, err)
	d := &daemon{t: t, in: in, dir: dir}
	t.Cleanup(func() {
		if d.cmd != nil {
			_ = d.cmd.Process.Kill()
			_ = d.cmd.Wait()
		}
		if t.Failed() {
			log, _ := os.ReadFile(d.path("log"))
			t.Logf("log of the daemon:\n%s", log)
		}
		must(t, os.RemoveAll(dir))
	})
	return d
}

func (d *daemon) path(name string) string { return filepath.Join(d.dir, name) }

func (d *daemon) start() {
	d.t.Helper()
	log, err := os.OpenFile(d.path("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(d.t, err)
	defer log.Close()
	d.cmd = d.in.Command(d.t.Context(), os.Getenv(interop.ProgramVariable), "run", "-c", d.path("caponier.yaml"))
	d.cmd.Cancel = func() error { return nil } // the clean-up's business
	d.cmd.Stdout, d.cmd.Stderr = log, log
	must(d.t, d.cmd.Start())
	interop.Eventually(d.t, 30*time.Second, "answer of the daemon", func() bool {
		_, err := d.order("status")
		return err == nil
	})
}

func (d *daemon) kill() {
	_ = d.cmd.Process.Kill()
	_ = d.cmd.Wait()
	d.cmd = nil
}

func (d *daemon) order(args ...string) ([]byte, error) {
	cmd := exec.CommandContext(d.t.Context(), os.Getenv(interop.ProgramVariable), append([]string{"--json", "--control", d.path("sock")}, args...)...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("caponier %s: %w: %s", strings.Join(args, " "), err, errOut.Bytes())
	}
	return out.Bytes(), nil
}

func (d *daemon) must(args ...string) []byte {
	d.t.Helper()
	out, err := d.order(args...)
	must(d.t, err)
	return out
}

// configure writes the configuration and the keys of what k has at this end.
func (d *daemon) configure(k *keyed, s side) {
	d.t.Helper()
	var b strings.Builder
	b.WriteString("gateway: { name: gwa, dataplane: kernel, state: state, control: sock }\nmanual:\n  associations:\n")
	for _, sa := range k.sas(s) {
		name := fmt.Sprintf("%s-%s", sa.Protocol, sa.Direction)
		encap := "none"
		if sa.Encap {
			encap = "udp"
		}
		var words []string
		for _, a := range []ipsec.Transform{sa.Encr, sa.Integ} {
			if a.ID != 0 {
				words = append(words, suite.Name(a))
			}
		}
		fmt.Fprintf(&b, "    %s: { direction: %s, protocol: %s, mode: %s, spi: 0x%s, local-address: %q, remote-address: %q,\n"+
			"      encapsulation: %s, algorithms: %s, local: [%s], remote: [%s], reqid: %d,\n", name, sa.Direction, sa.Protocol, sa.Mode, sa.SPI,
			sa.Local.Addr(), sa.Remote.Addr(), encap, strings.Join(words, "-"), quotedSelectors(sa.LocalTS), quotedSelectors(sa.RemoteTS), sa.ReqID)
		for use, x := range map[string][]byte{"encryption": sa.EncrKey.Bytes(), "integrity": sa.IntegKey.Bytes()} {
			if len(x) == 0 {
				continue
			}
			must(d.t, os.WriteFile(d.path(name+"."+use), []byte(hex.EncodeToString(x)), 0o600))
			fmt.Fprintf(&b, "      %s-key-file: %s.%s,\n", use, name, use)
		}
		b.WriteString("    }\n")
	}
	p := k.policies(s)[0]
	protocol := p.Protocol.String()
	if p.WithAH {
		protocol = "ah+esp"
	}
	fmt.Fprintf(&b, "  policies:\n    far: { action: protect, local: [%s], remote: [%s], reqid: %d, protocol: %s, mode: %s }\n",
		quotedSelectors(p.Local), quotedSelectors(p.Remote), p.ReqID, protocol, p.Mode)
	must(d.t, os.WriteFile(d.path("caponier.yaml"), []byte(b.String()), 0o600))
}

func quotedSelectors(list []ipsec.Selector) string {
	words := make([]string, len(list))
	for i, s := range list {
		words[i] = fmt.Sprintf("%q", s)
	}
	return strings.Join(words, ", ")
}

var stateLines = regexp.MustCompile(`src (\S+) dst (\S+)\n\s+proto (\S+) spi 0x([0-9a-f]+)(?:\(\d+\))? reqid (\d+)(?:\([^)]*\))? mode (\S+)`)

// kernelStates are the SAs as `ip xfrm state` shows them.
func (d *daemon) kernelStates() []string {
	d.t.Helper()
	out, err := d.in.Run(d.t.Context(), "ip", "xfrm", "state")
	must(d.t, err)
	var list []string
	for _, m := range stateLines.FindAllStringSubmatch(out, -1) {
		list = append(list, strings.Join(m[1:], " "))
	}
	slices.Sort(list)
	return list
}

// ourStates are the same as `caponier sa list` shows them.
func (d *daemon) ourStates() []string {
	d.t.Helper()
	var l control.SAList
	must(d.t, json.Unmarshal(d.must("sa", "list"), &l))
	var list []string
	for _, sa := range l.SAs {
		from, to := sa.Local.Addr(), sa.Remote.Addr()
		if sa.ID.Direction == ipsec.In {
			from, to = to, from
		}
		list = append(list, fmt.Sprintf("%s %s %s %s %d %s", from, to, sa.ID.Protocol, sa.ID.SPI, sa.ReqID, sa.Mode))
	}
	slices.Sort(list)
	return list
}

// TestManualKeying: the program with `dataplane: kernel` and keys by hand, and at
// the far end the kernel as ip-xfrm(8) configures it. What `caponier sa list`
// and `policy list` tell is what `ip xfrm` shows.
func TestManualKeying(t *testing.T) {
	proposals := func(esp, ah string) (k keyed) {
		var err error
		if esp != "" {
			k.esp, err = suite.ParseESP(esp)
			must(t, err)
		}
		if ah != "" {
			k.ah, err = suite.ParseAH(ah)
			must(t, err)
		}
		return k
	}
	udp := proposals("aes128-sha512", "")
	udp.encap = true
	all := map[string]keyed{
		"1 ESP": proposals("aes256-sha256", ""), "2 ESP in UDP": udp,
		"3 AH": proposals("", "sha256"), "4 AH around ESP": proposals("aes128-sha256", "sha384"),
	}
	n := interop.NewNetwork(t)
	far := newIPXfrm(t, n.B.Gateway)
	d := newDaemon(t, n.A.Gateway)
	for i, name := range slices.Sorted(maps.Keys(all)) {
		k := all[name]
		k.number = 0x100 + i
		ours, theirs := side{n.A, n.B, 0}, side{n.B, n.A, 1}
		must(t, far.set(k.policies(theirs), k.sas(theirs)))
		d.configure(&k, ours)
		if d.cmd == nil {
			d.start()
		} else {
			d.must("reload")
		}
		back := n.A.HostAddr6()
		if k.bundle() {
			// The kernel takes an AH state in transport mode for inner packets of its own
			// family alone.
			back = n.A.HostAddr()
		}
		passes := func(when string) {
			t.Helper()
			if !interop.Reaches(t, n.A.Host, n.B.HostAddr()) || !interop.Reaches(t, n.B.Host, back) {
				t.Errorf("%s, %s: nothing passes\nfar end:\n%s\nhere:\n%s", name, when, far.tell(), ipXfrm{d.in}.tell())
			}
		}
		passes("configured")
		if kernel, list := d.kernelStates(), d.ourStates(); !slices.Equal(kernel, list) || len(list) != len(k.sas(ours)) {
			t.Errorf("%s: ip xfrm state shows\n%s\nand sa list\n%s", name, strings.Join(kernel, "\n"), strings.Join(list, "\n"))
		}
		var policies control.PolicyList
		must(t, json.Unmarshal(d.must("policy", "list"), &policies))
		out, err := d.in.Run(t.Context(), "ip", "xfrm", "policy")
		must(t, err)
		if len(policies.Policies) != 1 || policies.Policies[0].Name != "far" || !strings.Contains(out, fmt.Sprintf("src %s dst %s", n.A.LAN, n.B.LAN)) ||
			!strings.Contains(out, fmt.Sprintf("reqid %d", reqID)) {
			t.Errorf("%s: policy list tells %+v, ip xfrm policy\n%s", name, policies.Policies, out)
		}

		if i > 0 {
			continue
		}
		d.must("gateway", "off")
		if states := d.kernelStates(); len(states) != 0 {
			t.Errorf("%s: switched off, the kernel has %v", name, states)
		}
		if interop.Reaches(t, n.A.Host, n.B.HostAddr()) {
			t.Errorf("%s: switched off, packets pass", name)
		}
		d.must("gateway", "on")
		passes("switched on again")
		d.kill()
		d.start()
		passes("after kill -9 and a start")
		d.must("sa", "flush", "--all")
		if states := d.kernelStates(); len(states) != 0 {
			t.Errorf("flushed, the kernel has %v", states)
		}
	}
}
