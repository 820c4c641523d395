package vm

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"caponier/internal/ipsec"
	"caponier/internal/lab/netns"
	"caponier/internal/suite"
	"caponier/test/interop"
)

// row is a line of the table: a tunnel that each pair of planes carries.
type row struct {
	keyed
	name string // of the algorithms
}

func (r *row) protocol() string {
	switch {
	case r.bundle():
		return "ah+esp"
	case len(r.ah) > 0:
		return "ah"
	default:
		return "esp"
	}
}

// onTheWire is the protocol of the outer packets.
func (r *row) onTheWire() string {
	switch {
	case len(r.ah) > 0:
		return "ah"
	case r.encap:
		return "udp 4500"
	default:
		return "esp"
	}
}

func (r *row) String() string {
	what := r.name
	if r.esn {
		what += "-esn"
	}
	if r.encap {
		what += " in UDP"
	}
	return what
}

// usual stands beside an algorithm that needs another.
const (
	usualCipher = "aes128"
	usualMAC    = "sha256"
	usualESP    = "aes128gcm16"
)

// rows are every algorithm of the registry, by protocol and mode.
func rows(t testing.TB) []*row {
	parse := func(parser func(string) (ipsec.Proposal, error), words string) ipsec.Proposal {
		p, err := parser(words)
		must(t, err)
		return p
	}
	esp := func(words string) ipsec.Proposal { return parse(suite.ParseESP, words) }
	ah := func(words string) ipsec.Proposal { return parse(suite.ParseAH, words) }
	ciphers := unique(ipsec.TypeEncr, func(w string) (string, ipsec.Proposal, error) {
		p, err := suite.ParseESP(w)
		if err != nil { // it needs another for integrity
			w += "-" + usualMAC
			p, err = suite.ParseESP(w)
		}
		return w, p, err
	})
	macs := unique(ipsec.TypeInteg, func(w string) (string, ipsec.Proposal, error) {
		p, err := suite.ParseAH(w)
		return w, p, err
	})
	var list []*row
	add := func(name string, k keyed) {
		for _, mode := range []ipsec.Mode{ipsec.Tunnel, ipsec.Transport} {
			k.mode, k.number = mode, len(list)
			list = append(list, &row{keyed: k, name: name})
		}
	}
	for _, w := range ciphers {
		add(w, keyed{esp: esp(w)})
	}
	for _, w := range macs {
		if w != usualMAC {
			add(usualCipher+"-"+w, keyed{esp: esp(usualCipher + "-" + w)})
		}
	}
	for _, w := range []string{usualESP, usualCipher + "-" + usualMAC, "chacha20poly1305"} {
		add(w, keyed{esp: esp(w), esn: true})
		add(w, keyed{esp: esp(w), encap: true})
	}
	for _, w := range macs {
		add(w, keyed{ah: ah(w)})
	}
	add(usualMAC, keyed{ah: ah(usualMAC), esn: true})
	for _, w := range ciphers {
		add(usualMAC+" around "+w, keyed{ah: ah(usualMAC), esp: esp(w)})
	}
	for _, w := range macs {
		if w != usualMAC {
			add(w+" around "+usualESP, keyed{ah: ah(w), esp: esp(usualESP)})
		}
	}
	return list
}

// unique are the words of a type without synonyms, as parse completes them.
func unique(t ipsec.TransformType, parse func(string) (string, ipsec.Proposal, error)) []string {
	var out []string
	seen := make(map[ipsec.Transform]bool)
	for _, w := range suite.Words(t) {
		words, p, err := parse(w)
		if x := p.First(t); err == nil && !seen[x] {
			seen[x] = true
			out = append(out, words)
		}
	}
	return out
}

// short are the rows of the short form.
var short = []string{
	"esp tunnel aes256gcm16", "esp transport aes256gcm16", "esp tunnel aes128-sha256-esn",
	"esp tunnel chacha20poly1305 in UDP", "esp transport 3des-sha256",
	"ah tunnel sha256", "ah transport sha1", "ah+esp tunnel sha256 around aes128gcm16",
}

// pairing is two makes of gateway.
type pairing struct {
	name string
	make func(t *testing.T, in netns.NS) gateway
	// The columns of the report for packets from the first to the second, and
	// back.
	there, back int
}

var pairings = []pairing{
	{"user-space", func(t *testing.T, in netns.NS) gateway {
		g, err := newUser(in)
		must(t, err)
		t.Cleanup(func() { must(t, g.close()) })
		return g
	}, userKernel, kernelUser},
	{"kernel", func(t *testing.T, in netns.NS) gateway {
		return kernelPlane{newKernel(t, in), ipXfrm{in}}
	}, kernelKernel, kernelKernel},
}

// TestMatrix sends packets between planes through every algorithm, protocol and
// mode. The second gateway is the kernel, as ip-xfrm(8) configures it.
func TestMatrix(t *testing.T) {
	all := rows(t)
	results.awaited = len(all)
	for _, p := range pairings {
		t.Run(p.name, func(t *testing.T) {
			n := interop.NewNetwork(t)
			a, b := p.make(t, n.A.Gateway), newIPXfrm(t, n.B.Gateway)
			w := watch(t, n)
			for _, r := range all {
				name := strings.Join([]string{r.protocol(), r.mode.String(), r.String()}, " ")
				if !*long && !slices.Contains(short, name) {
					continue
				}
				t.Run(name, func(t *testing.T) { r.carry(t, &p, n, a, b, w) })
			}
		})
	}
}

// carry is one row between two gateways.
func (r *row) carry(t *testing.T, p *pairing, n *interop.Network, a, b gateway, w *wire) {
	for _, v6 := range []bool{false, true} {
		k := r.keyed
		k.v6 = v6
		sides := [2]side{{n.A, n.B, 0}, {n.B, n.A, 1}}
		for i, g := range []gateway{b, a} {
			s := sides[1-i]
			if err := g.set(k.policies(s), k.sas(s)); err != nil {
				if !r.national() {
					t.Fatal(err)
				}
				record(r, p.there, err)
				record(r, p.back, err)
				return
			}
		}
		for _, path := range k.paths(n) {
			there, back := exchange(path[0], path[1])
			wired := w.only(r.onTheWire(), 2*len(datagramSizes))
			record(r, p.there, errors.Join(there, wired))
			record(r, p.back, errors.Join(back, wired))
			if err := errors.Join(there, back, wired); err != nil {
				t.Fatalf("%s over %s: from %s: %v; to it: %v; %v\n%s%s", path[0].addr, k.outer(n.A).Addr(), p.name, there, back, wired, a.tell(), b.tell())
			}
		}
	}
}

// paths are the ends of the packets that the tunnel carries. In a bundle they are
// of the gateways' family: the kernel has no AH in transport mode for others.
func (k *keyed) paths(n *interop.Network) [][2]place {
	if k.mode == ipsec.Transport {
		return [][2]place{{{n.A.Gateway, k.outer(n.A).Addr()}, {n.B.Gateway, k.outer(n.B).Addr()}}}
	}
	both := [][2]place{
		{{n.A.Host, n.A.HostAddr()}, {n.B.Host, n.B.HostAddr()}},
		{{n.A.Host, n.A.HostAddr6()}, {n.B.Host, n.B.HostAddr6()}},
	}
	switch {
	case !k.bundle():
		return both
	case k.v6:
		return both[1:]
	default:
		return both[:1]
	}
}

// national says that the kernel of the machine need not have the algorithm.
func (r *row) national() bool {
	return strings.Contains(r.name, "sm3") || strings.Contains(r.name, "sm4")
}

// newIPXfrm makes the judge. Its sockets take ESP in UDP (udp(7), UDP_ENCAP),
// which the kernel does nowhere else.
func newIPXfrm(t *testing.T, in netns.NS) ipXfrm {
	t.Helper()
	must(t, in.Do(func() error {
		for _, network := range []string{"udp4", "udp6"} {
			conn, err := net.ListenUDP(network, &net.UDPAddr{Port: 4500})
			if err != nil {
				return err
			}
			t.Cleanup(func() { conn.Close() })
			raw, err := conn.SyscallConn()
			if err != nil {
				return err
			}
			const udpEncap, espInUDP = 100, 2
			var failed error
			err = raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, udpEncap, espInUDP) })
			if err := errors.Join(err, failed); err != nil {
				return fmt.Errorf("ESP in UDP: %w", err)
			}
		}
		return nil
	}))
	return ipXfrm{in}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
