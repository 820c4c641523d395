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
)

// peer is one way of joining the two LANs.
type peer interface {
	// about says what it is and with which settings it runs. Version is left
	// open.
	about() PeerInfo
	// find returns the version of what is installed. The error says how to get
	// what is missing.
	find(ctx context.Context) (version string, err error)
	// start joins the LANs of a pair. It need not wait until packets cross.
	start(ctx context.Context, p *pair) error
}

// The names of the peers.
const (
	Caponier   = "caponier"
	Plain      = "plain"
	StrongSwan = "strongswan"
	WireGuard  = "wireguard-go"
	Tailscale  = "tailscale"
)

// PeerNames lists the peers in the order of reports.
func PeerNames() []string { return []string{Caponier, Tailscale, WireGuard, StrongSwan, Plain} }

// entry is a peer of a run, and the measures that it takes part in: all where none
// are named.
type entry struct {
	name string
	only []string
}

// lineup is who takes part where the peers are not named: they all, and what this
// program does otherwise with small packets.
func lineup() []entry {
	var list []entry
	for _, name := range PeerNames() {
		list = append(list, entry{name: name})
		if name == Caponier {
			small := []string{"udp", "pps"}
			for _, variant := range []string{Aggfrag, Capture + "afxdp", Aggfrag + "+" + Capture + "afxdp"} {
				list = append(list, entry{Caponier + ":" + variant, small})
			}
		}
	}
	return list
}

// takesPart reports whether the entry is for a measure.
func (e entry) takesPart(measure string) bool {
	return len(e.only) == 0 || slices.Contains(e.only, measure)
}

// DefaultESP is the proposal for ESP that caponier and strongSwan are measured
// with.
const DefaultESP = "aes128gcm16"

// DefaultPeerDir is where `make bench-peers` puts what it builds.
func DefaultPeerDir() string {
	cache, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(cache, "caponier-bench")
}

// ErrUnknownPeer is returned for a name that PeerNames does not list.
var ErrUnknownPeer = errors.New("unknown peer")

// Variants of caponier, as "caponier:aggfrag", or several after one another with
// plus signs between: in one packets share ESP packets, in another frames are
// captured, or workers wait, as the word behind it says.
const (
	Aggfrag = "aggfrag"
	Capture = "capture="
	Latency = "latency="
)

// newPeer makes a peer from its name, for caponier also from
// "caponier:PROPOSAL", which is another ESP proposal, and its variants.
func newPeer(name string, o Options) (peer, error) {
	base, variant, isVariant := strings.Cut(name, ":")
	switch {
	case base == Caponier && (variant != "" || !isVariant):
		c := caponierPeer{name: name, program: o.Program, esp: DefaultESP, aggfrag: "off", capture: "tun", latency: "normal"}
		for word := range strings.SplitSeq(variant, "+") {
			kind, captured := strings.CutPrefix(word, Capture)
			latency, hurried := strings.CutPrefix(word, Latency)
			switch {
			case captured:
				c.capture, c.device, _ = strings.Cut(kind, "@")
			case hurried:
				c.latency = latency
			case word == Aggfrag:
				c.aggfrag = "required"
			case word != "":
				c.esp = word
			}
		}
		return c, nil
	case name == Plain:
		return plainPeer{}, nil
	case name == StrongSwan:
		return strongSwanPeer{}, nil
	case name == WireGuard:
		return wireGuardPeer{name: name, program: filepath.Join(o.PeerDir, "wireguard-go"), what: "wireguard-go, the reference in Go"}, nil
	case name == Tailscale:
		return wireGuardPeer{name: name, program: filepath.Join(o.PeerDir, "tailscale-wireguard-go"), what: "tailscale's fork of wireguard-go, the fastest tunnel in Go"}, nil
	default:
		return nil, fmt.Errorf("%w %q: it is none of %s, nor %s:PROPOSAL, %s:aggfrag, %s:capture=afxdp or %s:latency=low", ErrUnknownPeer, name, strings.Join(PeerNames(), ", "),
			Caponier, Caponier, Caponier, Caponier)
	}
}

// choose finds the peers of a run. Those that were asked for by name must be
// there; of all others, the infos say what is missing.
func choose(ctx context.Context, o Options, measures []measure) ([]contender, []PeerInfo, error) {
	var entries []entry
	asked := len(o.Peers) > 0
	for i, name := range o.Peers {
		if slices.Contains(o.Peers[:i], name) {
			return nil, nil, fmt.Errorf("peer %q is named twice", name)
		}
		entries = append(entries, entry{name: name})
	}
	if !asked {
		entries = lineup()
	}
	var (
		peers []contender
		infos []PeerInfo
	)
	for _, e := range entries {
		if !slices.ContainsFunc(measures, func(m measure) bool { return e.takesPart(m.name) }) {
			continue
		}
		name := e.name
		p, err := newPeer(name, o)
		if err != nil {
			return nil, nil, err
		}
		info := p.about()
		info.Version, err = p.find(ctx)
		switch {
		case err == nil:
			peers = append(peers, contender{entry: e, peer: p})
		case asked:
			return nil, nil, fmt.Errorf("peer %s: %w", name, err)
		default:
			info.Missing = err.Error()
		}
		infos = append(infos, info)
	}
	return peers, infos, nil
}

// plainPeer forwards without protection: what the machine can do at best.
type plainPeer struct{}

func (plainPeer) about() PeerInfo {
	return PeerInfo{Name: Plain, What: "forwarding by the kernel, no protection", Settings: "defaults"}
}

func (plainPeer) find(context.Context) (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	return "Linux " + strings.TrimSpace(string(b)), err
}

func (plainPeer) start(_ context.Context, p *pair) error {
	return errors.Join(p.gwA.Route(lanB, addrOutsideB), p.gwB.Route(lanA, addrOutsideA))
}

// output runs a program for its first line of output.
func output(ctx context.Context, name string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return line, nil
}

// isCaponier reports whether a peer's name is this program's, in any variant.
func isCaponier(name string) bool {
	base, _, _ := strings.Cut(name, ":")
	return base == Caponier
}
