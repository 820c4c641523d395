package vm

import (
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"caponier/internal/ipsec"
	"caponier/internal/lab/netns"
	"caponier/internal/pki"
	"caponier/test/interop"
)

// Other makes of gateways, which leave ESP and AH to the kernel.
const (
	strongSwan = "strongSwan"
	libreswan  = "Libreswan"

	caponierName = "caponier" // what the others call it here
)

// peering is a row of the report: what caponier and a gateway of another make
// negotiate by IKEv2 and then carry.
type peering struct {
	peer  string
	plane string // caponier's
	roles string // caponier's, one after the other
	short string // that of the short form
	v6    bool   // between IPv6 addresses
	udp   bool   // encapsulated without need
	nat   bool   // caponier is behind a NAT, and so has to begin
	mode  ipsec.Mode
	ah    bool
	words string      // algorithms of the CHILD SA, in caponier's words
	key   pki.KeyType // of both ends' certificates; empty with a pre-shared key
}

const (
	kernelWord = "kernel"
	userWord   = "userspace"

	initiator = "initiator"
	responder = "responder"
	both      = initiator + ", " + responder

	gcm   = "aes256gcm16-x25519"
	ahMAC = "sha256-x25519"
)

// peerings are all rows of the report.
var peerings = []*peering{
	{peer: strongSwan, plane: kernelWord, roles: both, short: initiator, words: gcm},
	{peer: strongSwan, plane: kernelWord, roles: both, v6: true, words: gcm, key: pki.ECDSAP256},
	{peer: strongSwan, plane: kernelWord, roles: initiator, udp: true, words: gcm, key: pki.RSA3072},
	{peer: strongSwan, plane: kernelWord, roles: responder, v6: true, udp: true, words: gcm},
	{peer: strongSwan, plane: kernelWord, roles: initiator, nat: true, words: gcm},
	{peer: strongSwan, plane: kernelWord, roles: responder, words: "aes256-sha256"},
	{peer: strongSwan, plane: kernelWord, roles: responder, mode: ipsec.Transport, v6: true, words: gcm},
	{peer: strongSwan, plane: kernelWord, roles: initiator, mode: ipsec.Transport, udp: true, words: gcm},
	{peer: strongSwan, plane: kernelWord, roles: both, ah: true, words: ahMAC},
	{peer: strongSwan, plane: kernelWord, roles: responder, ah: true, v6: true, words: "sha512-x25519"},
	{peer: strongSwan, plane: kernelWord, roles: both, short: responder, ah: true, mode: ipsec.Transport, words: ahMAC},
	{peer: strongSwan, plane: kernelWord, roles: initiator, ah: true, mode: ipsec.Transport, v6: true, words: "sha384-x25519"},
	{peer: strongSwan, plane: userWord, roles: responder, words: gcm, key: pki.ECDSAP256},
	{peer: strongSwan, plane: userWord, roles: initiator, ah: true, v6: true, words: ahMAC},
	{peer: strongSwan, plane: userWord, roles: both, short: responder, mode: ipsec.Transport, words: gcm},
	{peer: strongSwan, plane: userWord, roles: initiator, mode: ipsec.Transport, v6: true, words: gcm},
	{peer: strongSwan, plane: userWord, roles: responder, mode: ipsec.Transport, udp: true, words: gcm},
	{peer: strongSwan, plane: userWord, roles: initiator, mode: ipsec.Transport, nat: true, words: gcm},
	{peer: libreswan, plane: kernelWord, roles: both, short: responder, words: gcm},
	{peer: libreswan, plane: kernelWord, roles: both, short: initiator, v6: true, words: gcm, key: pki.ECDSAP256},
	{peer: libreswan, plane: kernelWord, roles: responder, udp: true, words: gcm, key: pki.RSA3072},
	{peer: libreswan, plane: kernelWord, roles: initiator, nat: true, words: gcm},
	{peer: libreswan, plane: kernelWord, roles: initiator, ah: true, words: ahMAC},
	{peer: libreswan, plane: kernelWord, roles: responder, ah: true, mode: ipsec.Transport, v6: true, words: "sha512-x25519"},
	{peer: libreswan, plane: userWord, roles: initiator, words: "aes256-sha256-x25519"},
}

func (p *peering) protocol() ipsec.Protocol {
	if p.ah {
		return ipsec.AH
	}
	return ipsec.ESP
}

// between is what lies between the gateways, in words.
func (p *peering) between() string {
	family := "IPv4"
	if p.v6 {
		family = "IPv6"
	}
	switch {
	case p.nat:
		return family + ", caponier behind a NAT"
	case p.udp:
		return family + " and UDP"
	default:
		return family
	}
}

func (p *peering) auth() string {
	if p.key == "" {
		return "pre-shared key"
	}
	return "certificates, " + string(p.key)
}

func (p *peering) String() string {
	return strings.Join([]string{p.peer, p.plane, p.between(), p.mode.String(), p.protocol().String(), p.words, p.auth()}, " ")
}

// onTheWire are the protocols that the gateways may send each other: what carries
// packets, and IKE. Fragments of UDP have no ports.
func (p *peering) onTheWire() (carrier string, others []string) {
	ike := []string{"udp 500", "udp 4500"}
	switch {
	case p.udp || p.nat:
		return "udp 4500", append(ike, "udp 0")
	default:
		return p.protocol().String(), ike
	}
}

// Names in the configuration of both ends.
const (
	peerName   = "gw"
	caponierID = "caponier.example"
	peerID     = "peer.example"
	peerSecret = "correct horse battery staple"
)

// child is a tunnel of both ends: what is protected at caponier's, and at the
// peer's.
type child struct {
	name      string
	near, far []string
}

// children are the tunnels of the row. Libreswan has selectors of one prefix only.
func (p *peering) children(n *interop.Network) []child {
	near, far := p.addresses(n)
	switch {
	case p.mode == ipsec.Transport:
		return []child{{"hosts", []string{near.String()}, []string{far.String()}}}
	case p.peer == libreswan:
		return []child{
			{"net", []string{n.A.LAN.String()}, []string{n.B.LAN.String()}},
			{"net6", []string{n.A.LAN6.String()}, []string{n.B.LAN6.String()}},
		}
	default:
		return []child{{"net", []string{n.A.LAN.String(), n.A.LAN6.String()}, []string{n.B.LAN.String(), n.B.LAN6.String()}}}
	}
}

// addresses are the gateways' own.
func (p *peering) addresses(n *interop.Network) (near, far netip.Addr) {
	if p.v6 {
		return n.A.Outside6, n.B.Outside6
	}
	return n.A.Outside, n.B.Outside
}

// other is a gateway of another make.
type other interface {
	// initiate sets up a child and waits for it. The other orders only begin.
	initiate(t *testing.T, child string)
	rekeyChild(t *testing.T, child string)
	rekeyIKE(t *testing.T)
	terminate(t *testing.T)
	// settled reports whether it has one IKE SA, and as many CHILD SAs as that,
	// of which none is about to be replaced.
	settled(t *testing.T, children int) bool
}

// negotiated is a peering that runs.
type negotiated struct {
	*peering
	net      *interop.Network
	children []child
	near     *interop.Caponier
	far      other
	wire     *wire
}

// TestPeers has caponier, on one side, speak IKEv2 with other makes of gateways,
// whose ESP and AH are the kernel's.
func TestPeers(t *testing.T) {
	for _, between := range []struct {
		name string
		nat  bool
		make func(testing.TB) *interop.Network
	}{{"direct", false, interop.NewNetwork}, {"nat", true, interop.NewNATNetwork}} {
		var rows []*peering
		for _, p := range peerings {
			if p.nat == between.nat && (*long || p.short != "") {
				rows = append(rows, p)
			}
		}
		if len(rows) == 0 {
			continue
		}
		t.Run(between.name, func(t *testing.T) {
			n := between.make(t) // for all rows: to make one takes as long as a row
			warm(t, n.B.Gateway)
			w := watch(t, n)
			for _, p := range rows {
				t.Run(p.String(), func(t *testing.T) { p.run(t, n, w) })
			}
		})
	}
}

func (p *peering) run(t *testing.T, n *interop.Network, w *wire) {
	r := &negotiated{peering: p, net: n, wire: w, children: p.children(n)}
	a := newAuthority(t, p.key)
	// A gateway that stops leaves the kernel's policies, which block: also the
	// plane of the next row.
	t.Cleanup(func() { must(t, ipXfrm{n.A.Gateway}.batch([]string{"xfrm policy flush"})) })
	r.near = interop.StartCaponier(t, n.A.Gateway, p.caponier(n, a))
	if p.peer == libreswan {
		r.far = p.startLibreswan(t, n, a)
	} else {
		r.far = p.startStrongSwan(t, n, a)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("A: %s\nB: %s", ipXfrm{n.A.Gateway}.tell(), ipXfrm{n.B.Gateway}.tell())
		}
	})
	w.all()
	roles := p.roles
	if !*long {
		roles = p.short
	}
	for _, role := range strings.Split(roles, ", ") {
		r.up(t, role)
		r.exercise(t)
		r.replaceAll(t)
		r.onlyProtected(t)
		r.down(t, role)
	}
	if !t.Failed() {
		recordPeering(p)
	}
}

// warm loads the kernel's algorithms before somebody waits for them.
func warm(t *testing.T, in netns.NS) {
	t.Helper()
	var lines []string
	for i, src := range []string{"192.0.2.8", "2001:db8::8"} {
		for _, proto := range []string{
			"esp spi 0x%d mode transport aead rfc4106(gcm(aes)) 0x" + strings.Repeat("7a", 36) + " 128",
			"ah spi 0x%d mode transport auth-trunc hmac(sha256) 0x" + strings.Repeat("7a", 32) + " 128",
		} {
			lines = append(lines, fmt.Sprintf("xfrm state add src %s dst %s proto "+proto, src, src, 1000+i))
		}
	}
	must(t, ipXfrm{in}.batch(append(lines, "xfrm state flush")))
}

// authority is a directory of certificates, or empty.
type authority string

func (a authority) path(name string) string { return filepath.Join(string(a), name) }

const rootSubject = "C=FI, O=netsecvpn, CN=rootca"

// newAuthority issues the certificates of both ends, caponier.pem and peer.pem.
func newAuthority(t *testing.T, key pki.KeyType) authority {
	t.Helper()
	if key == "" {
		return ""
	}
	dir := filepath.Join(t.TempDir(), "pki")
	_, err := pki.Init(dir, pki.Request{Subject: rootSubject, Key: key}, time.Now())
	must(t, err)
	for name, id := range map[string]string{"caponier": caponierID, "peer": peerID} {
		_, err := pki.Issue(dir, name, pki.Request{Subject: "C=FI, O=netsecvpn, CN=" + name, SANs: []string{id}, Key: key}, time.Now())
		must(t, err)
	}
	return authority(dir)
}

// caponier is its configuration.
func (p *peering) caponier(n *interop.Network, a authority) interop.CaponierConfig {
	near, far := p.addresses(n)
	local := interop.Party{Address: []string{near.String()}, ID: caponierID, Auth: "psk", PSKFile: interop.PSKFile}
	remote := interop.Party{Address: []string{far.String()}, ID: peerID, Auth: "psk", PSKFile: interop.PSKFile}
	if a != "" {
		local = interop.Party{Address: local.Address, ID: caponierID, Cert: a.path("caponier.pem"), Key: a.path("caponier.key")}
		remote = interop.Party{Address: remote.Address, ID: peerID, CA: a.path("rootca.pem")}
		if p.key == pki.RSA3072 && p.peer == libreswan {
			local.Signature = "rsa-pss" // it takes no other from those who know RFC 7427
		}
	}
	tunnels := make(map[string]interop.Tunnel)
	for _, c := range p.children(n) {
		tunnels[c.name] = interop.Tunnel{
			Mode: p.mode.String(), Protocol: p.protocol().String(), Local: c.near, Remote: c.far, Proposals: []string{p.words},
		}
	}
	encapsulation := "never"
	switch {
	case p.udp:
		encapsulation = "always"
	case p.nat:
		encapsulation = "auto"
	}
	return interop.CaponierConfig{
		DataPlane: p.plane, PSK: peerSecret,
		Connections: map[string]interop.Peer{peerName: {
			Local: local, Remote: remote, Proposals: []string{"aes256gcm16-prfsha512-x25519"}, Encapsulation: encapsulation, Tunnels: tunnels,
		}},
	}
}

// up sets all tunnels up.
func (r *negotiated) up(t *testing.T, role string) {
	t.Helper()
	for _, c := range r.children {
		if role == initiator {
			r.near.MustConnect(t, peerName+"/"+c.name)
		} else {
			r.far.initiate(t, c.name)
		}
	}
	r.await(t, "the tunnels are up", func() bool { return r.agreed(t, nil) })
}

// await waits for what both ends must do, in a machine that is slow.
func (r *negotiated) await(t *testing.T, what string, condition func() bool) {
	t.Helper()
	interop.Eventually(t, time.Minute, what, condition)
}

// agreed reports whether caponier and the kernel of the peer have the same SAs to
// send with, one for each tunnel, and none of the old ones.
func (r *negotiated) agreed(t *testing.T, old map[ipsec.SPI]bool) bool {
	t.Helper()
	own, theirs := r.sending(t), sendingStates(t, r.net.B, r.peering)
	if len(own) != len(r.children) || len(theirs) != len(r.children) || !r.far.settled(t, len(r.children)) {
		return false
	}
	for spi := range own {
		if old[spi] {
			return false
		}
	}
	received := make(map[ipsec.SPI]bool)
	for _, sa := range r.near.SAs(t) {
		if sa.Mode != r.mode || sa.ID.Protocol != r.protocol() || sa.Encap != (r.udp || r.nat) {
			t.Fatalf("caponier's SA is %+v", sa)
		}
		received[sa.ID.SPI] = received[sa.ID.SPI] || sa.ID.Direction == ipsec.In
	}
	for spi := range theirs {
		if old[spi] || !received[spi] {
			return false
		}
	}
	return true
}

// sending are the SAs that caponier sends with.
func (r *negotiated) sending(t *testing.T) map[ipsec.SPI]bool {
	t.Helper()
	spis := make(map[ipsec.SPI]bool)
	for _, sa := range r.near.SAs(t) {
		if sa.ID.Direction == ipsec.Out {
			spis[sa.ID.SPI] = true
		}
	}
	return spis
}

// sendingStates are the states that the kernel of a gateway sends with. All states
// must be what the row is about.
func sendingStates(t *testing.T, s *interop.Site, p *peering) map[ipsec.SPI]bool {
	t.Helper()
	spis := make(map[ipsec.SPI]bool)
	for _, state := range strings.Split("\n"+states(t, s.Gateway), "\nsrc ")[1:] {
		var src, dst, proto, mode string
		var spi, reqID uint32
		_, err := fmt.Sscanf(strings.Join(strings.Fields(state), " "), "%s dst %s proto %s spi %v reqid %d mode %s", &src, &dst, &proto, &spi, &reqID, &mode)
		must(t, err)
		if strings.Contains(state, "auth") || strings.Contains(state, "aead") { // and no promise of an SA
			if proto != p.protocol().String() || mode != p.mode.String() || strings.Contains(state, "encap type espinudp") != (p.udp || p.nat) {
				t.Fatalf("the kernel of %s has src %s", s.Gateway.Name, state)
			}
			if src == s.Outside.String() || src == s.Outside6.String() {
				spis[ipsec.SPI(spi)] = true
			}
		}
	}
	return spis
}

// states are all states of a kernel.
func states(t *testing.T, in netns.NS) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "ip", "-n", in.Name, "xfrm", "state").CombinedOutput()
	must(t, err)
	return string(out)
}

// paths are the ends of the packets that the tunnels carry.
func (r *negotiated) paths() [][2]place {
	k := keyed{mode: r.mode, v6: r.v6}
	return k.paths(r.net)
}

// exercise sends packets of all sizes, which all arrive.
func (r *negotiated) exercise(t *testing.T) {
	t.Helper()
	hidden := r.nat && r.mode == ipsec.Transport // the peer does not know caponier's own address
	for _, path := range r.paths() {
		a, b := path[0], path[1]
		if !hidden {
			there, back := exchange(a, b)
			if there != nil || back != nil {
				t.Fatalf("from caponier's %s: %v; to it: %v", a.addr, there, back)
			}
		}
		// A host learns the path MTU from the first packet that is too long.
		_, _ = a.in.Run(t.Context(), "ping", "-n", "-c", "1", "-W", "1", "-s", "1452", b.addr.String())
		if !hidden {
			_, _ = b.in.Run(t.Context(), "ping", "-n", "-c", "1", "-W", "1", "-s", "1452", a.addr.String())
		}
		for _, size := range []int{56, 1300, 4000} {
			interop.PingSize(t, a.in, b.addr, size)
		}
		interop.Transfer(t, a.in, b.in, b.addr, 1<<17)
	}
}

// replaceAll has both ends replace every SA, while datagrams are on their way in
// both directions.
func (r *negotiated) replaceAll(t *testing.T) {
	t.Helper()
	for _, by := range []string{caponierName, r.peer} {
		unknown, halfway := r.near.Counter(t, "sa-not-found"), r.halfway(t)
		var streams []*interop.Stream
		for i, path := range r.paths() {
			from, to := path[i%2], path[1-i%2]
			streams = append(streams, interop.StartStream(t, from.in, to.in, to.addr))
		}
		for _, c := range r.children {
			if by == libreswan && r.ah {
				continue // it would delete the old SA as one of ESP with SPI 0, which there is not
			}
			r.replaceChild(t, by, c.name)
		}
		r.replaceIKE(t, by)
		total := 0
		for _, s := range streams {
			sent, lost := s.Stop()
			if total += len(lost); sent < 50 {
				t.Errorf("only %d packets were sent", sent)
			}
		}
		known := r.halfway(t) - halfway
		if by == caponierName && r.peer == libreswan {
			known += int(r.near.Counter(t, "sa-not-found") - unknown)
		}
		if total > known {
			t.Errorf("while %s replaced the SAs, %d packets were lost, for %d of which the reason is known", by, total, known)
		}
	}
}

// halfway counts the packets of both kernels whose SA was removed when they were
// about to be sealed with it, which the kernel then drops.
func (r *negotiated) halfway(t *testing.T) (n int) {
	t.Helper()
	for _, s := range []*interop.Site{r.net.A, r.net.B} {
		out, err := s.Gateway.Run(t.Context(), "cat", "/proc/net/xfrm_stat")
		must(t, err)
		_, after, ok := strings.Cut(out, "XfrmOutStateInvalid")
		var count int
		if _, err := fmt.Sscan(after, &count); !ok || err != nil {
			t.Fatalf("the counters of the kernel are %s", out)
		}
		n += count
	}
	return n
}

// replaceChild has one end replace one CHILD SA. All others stay.
func (r *negotiated) replaceChild(t *testing.T, by, tunnel string) {
	t.Helper()
	old := r.carriedBy(t, tunnel)
	if by == caponierName {
		r.near.Rekey(t, peerName+"/"+tunnel)
	} else {
		r.far.rekeyChild(t, tunnel)
	}
	r.await(t, by+" has replaced the CHILD SA", func() bool { return r.agreed(t, old) })
}

// replaceIKE has one end replace the IKE SA: caponier its CHILD SAs, too.
func (r *negotiated) replaceIKE(t *testing.T, by string) {
	t.Helper()
	old := r.ike(t)
	if by == caponierName {
		r.near.Rekey(t, peerName)
	} else {
		r.far.rekeyIKE(t)
	}
	r.await(t, by+" has replaced the IKE SA", func() bool {
		now := r.ike(t)
		return len(now) == 1 && now[0] != old[0] && r.agreed(t, nil)
	})
}

// carriedBy are the SAs that caponier sends with for a tunnel.
func (r *negotiated) carriedBy(t *testing.T, tunnel string) map[ipsec.SPI]bool {
	t.Helper()
	spis := make(map[ipsec.SPI]bool)
	for _, tun := range r.near.Connection(t, peerName).Tunnels {
		for _, c := range tun.SAs {
			if tun.Name == tunnel {
				spis[c.Out.SPI] = true
			}
		}
	}
	return spis
}

// ike are the SPIs of caponier's IKE SAs that are not on their way out.
func (r *negotiated) ike(t *testing.T) []string {
	t.Helper()
	var spis []string
	for _, sa := range r.near.Connection(t, peerName).IKE {
		if sa.State == "established" {
			spis = append(spis, sa.InitiatorSPI+sa.ResponderSPI)
		}
	}
	return spis
}

// onlyProtected fails the test if anything else than the row's protocol and IKE
// was on the wire.
func (r *negotiated) onlyProtected(t *testing.T) {
	t.Helper()
	carrier, others := r.onTheWire()
	seen := r.wire.all()
	if seen[carrier] < 200 {
		t.Errorf("on the wire: %v, only %d of %s", seen, seen[carrier], carrier)
	}
	delete(seen, carrier)
	for _, what := range others {
		delete(seen, what)
	}
	if len(seen) > 0 {
		t.Errorf("on the wire is also %v", seen)
	}
}

// down has who began delete the IKE SA, and waits until nothing is left of it.
func (r *negotiated) down(t *testing.T, role string) {
	t.Helper()
	if role == initiator {
		r.near.Disconnect(t, peerName)
	} else {
		r.far.terminate(t)
	}
	r.await(t, "no SA is left", func() bool {
		for _, s := range []*interop.Site{r.net.A, r.net.B} {
			if states(t, s.Gateway) != "" {
				return false
			}
		}
		return len(r.near.SAs(t)) == 0 && r.far.settled(t, 0)
	})
}
