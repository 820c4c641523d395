package v2

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	mrand "math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"caponier/internal/ike/message"
	"caponier/internal/ike/v2/conf"
	"caponier/internal/ipsec"
	"caponier/internal/suite"
)

// The simulation: two gateways, each with its machines and a data plane that
// only remembers, joined by a link with virtual time. ESP packets are simulated
// as SPI and key: they arrive if the receiver has that inbound SA.
//
//	left (192.0.2.1) ── link: delay, loss, NAT ── right (198.51.100.1)

var (
	leftAddr  = netip.MustParseAddr("192.0.2.1")
	rightAddr = netip.MustParseAddr("198.51.100.1")
	natAddr   = netip.MustParseAddr("203.0.113.9")
)

const latency = 10 * time.Millisecond

// flight is something on its way, or to be done at a time.
type flight struct {
	at       time.Time
	seq      int
	src, dst netip.AddrPort
	ike      []byte
	esp      *ipsec.SA // the outbound SA it was sent through
	do       func()
}

type world struct {
	t           testing.TB
	now         time.Time
	rng         *mrand.Rand
	queue       []flight
	seq         int
	left, right *gateway
	nat         *natBox
	// mangle may change, drop or multiply an IKE message on its way.
	mangle  func(f flight) []flight
	trace   []string
	espLost int
	espSent int
}

// natBox hides the left gateway behind natAddr, and with both the right one
// behind farNATAddr.
type natBox struct {
	shift uint16
	both  bool
}

var farNATAddr = netip.MustParseAddr("203.0.113.99")

type gateway struct {
	w        *world
	name     string
	addr     netip.Addr
	env      Env
	conns    []*Connection
	keys     map[*Connection]crypto.Signer
	machines []*Machine
	inits    map[string]*Machine
	sad      map[ipsec.SAID]ipsec.SA
	order    []ipsec.SAID // of installation
	reserved map[ipsec.SPI]bool
	used     map[ipsec.SPI]bool
	notices  []Notice
	dead     bool // does not receive any more
	refuse   func(ipsec.SA) error
	authWait time.Duration
	resign   func(*Sign) // changes how the gateway signs
	rng      *mrand.Rand
}

type chachaReader struct{ *mrand.ChaCha8 }

func seeded(seed uint64, who byte) *mrand.ChaCha8 {
	var s [32]byte
	s[0], s[1], s[2], s[3], s[8] = byte(seed), byte(seed>>8), byte(seed>>16), byte(seed>>24), who
	return mrand.NewChaCha8(s)
}

func newWorld(t testing.TB, seed uint64) *world {
	w := &world{t: t, now: time.Unix(1_800_000_000, 0), rng: mrand.New(seeded(seed, 1))}
	w.left = newGateway(w, "left", leftAddr, seed, 2)
	w.right = newGateway(w, "right", rightAddr, seed, 3)
	return w
}

func newGateway(w *world, name string, addr netip.Addr, seed uint64, who byte) *gateway {
	g := &gateway{
		w: w, name: name, addr: addr, keys: map[*Connection]crypto.Signer{}, inits: map[string]*Machine{},
		sad: map[ipsec.SAID]ipsec.SA{}, reserved: map[ipsec.SPI]bool{}, used: map[ipsec.SPI]bool{},
		authWait: 5 * time.Millisecond,
	}
	source := seeded(seed, who)
	g.rng = mrand.New(seeded(seed, who+100))
	g.env = Env{
		Rand: chachaReader{source},
		AllocateSPI: func(ipsec.Protocol) (ipsec.SPI, error) {
			spi := ipsec.SPI(g.rng.Uint32() | 0x1000)
			g.reserved[spi] = true
			return spi, nil
		},
		ReleaseSPI: func(_ ipsec.Protocol, spi ipsec.SPI) {
			if !g.reserved[spi] {
				w.t.Errorf("%s releases SPI %s, which is not reserved", name, spi)
			}
			delete(g.reserved, spi)
		},
	}
	return g
}

func (w *world) other(g *gateway) *gateway {
	if g == w.left {
		return w.right
	}
	return w.left
}

func (w *world) push(f flight) {
	w.seq++
	f.seq = w.seq
	w.queue = append(w.queue, f)
}

func (w *world) after(d time.Duration, do func()) { w.push(flight{at: w.now.Add(d), do: do}) }

// translate is the NAT box.
func (w *world) translate(f flight) flight {
	if w.nat == nil {
		return f
	}
	if f.src.Addr() == leftAddr {
		f.src = netip.AddrPortFrom(natAddr, f.src.Port()+w.nat.shift)
	}
	if f.dst.Addr() == natAddr {
		f.dst = netip.AddrPortFrom(leftAddr, f.dst.Port()-w.nat.shift)
	}
	if w.nat.both && f.src.Addr() == rightAddr {
		f.src = netip.AddrPortFrom(farNATAddr, f.src.Port())
	}
	if f.dst.Addr() == farNATAddr {
		f.dst = netip.AddrPortFrom(rightAddr, f.dst.Port())
	}
	return f
}

// run lets time pass until limit.
func (w *world) run(d time.Duration) {
	end := w.now.Add(d)
	for steps := 0; ; steps++ {
		if steps > 200_000 {
			w.t.Fatal("the simulation does not come to rest")
		}
		at, fire := end, func() {}
		best := -1
		for i, f := range w.queue {
			if f.at.Before(at) || best >= 0 && f.at.Equal(at) && f.seq < w.queue[best].seq {
				at, best = f.at, i
			}
		}
		var due *Machine
		var owner *gateway
		for _, g := range []*gateway{w.left, w.right} {
			for _, m := range g.machines {
				if dl := m.Deadline(); !dl.IsZero() && dl.Before(at) {
					at, due, owner = dl, m, g
				}
			}
		}
		if !at.Before(end) {
			w.now = end
			return
		}
		if at.After(w.now) {
			w.now = at
		}
		switch {
		case due != nil:
			fire = func() { owner.step(due, Timeout{}) }
		case best >= 0:
			f := w.queue[best]
			w.queue = slices.Delete(w.queue, best, best+1)
			fire = func() { w.arrive(f) }
		}
		fire()
	}
}

func (w *world) arrive(f flight) {
	if f.do != nil {
		f.do()
		return
	}
	g := w.left
	if f.dst.Addr() == rightAddr {
		g = w.right
	} else if f.dst.Addr() != leftAddr {
		return
	}
	if f.esp != nil {
		g.receiveESP(f)
		return
	}
	g.receive(f)
}

func (g *gateway) receive(f flight) {
	if g.dead {
		return
	}
	h, err := message.ParseHeader(f.ike)
	if err != nil {
		return
	}
	e := Received{Raw: f.ike, Local: f.dst, Remote: f.src}
	ours := h.ResponderSPI
	if !h.Flags.Has(message.FlagInitiator) {
		ours = h.InitiatorSPI
	}
	for _, m := range g.machines {
		if m.LocalSPI() == ours {
			g.step(m, e)
			return
		}
	}
	if ours != 0 || h.Exchange != message.IKESAInit || h.Flags.Has(message.FlagResponse) || len(g.conns) == 0 {
		return
	}
	key := fmt.Sprint(f.src, h.InitiatorSPI)
	m := g.inits[key]
	if m == nil || m.state == Gone {
		m = NewResponder(&g.env, conf.NewCandidates(g.conns), f.dst, f.src)
		g.machines = append(g.machines, m)
		g.inits[key] = m
	}
	g.step(m, e)
}

func (g *gateway) receiveESP(f flight) {
	sa, ok := g.sad[ipsec.SAID{Direction: ipsec.In, Protocol: f.esp.Protocol, SPI: f.esp.SPI}]
	if !ok || !sa.EncrKey.Equal(f.esp.EncrKey) {
		g.w.espLost++
		return
	}
	if !g.used[sa.SPI] {
		g.used[sa.SPI] = true
		g.tell(Used{ID: sa.ID()})
	}
}

// sendESP sends a packet through the outbound SA that was added last.
func (g *gateway) sendESP() {
	for _, id := range slices.Backward(g.order) {
		if sa, ok := g.sad[id]; ok && id.Direction == ipsec.Out {
			g.w.espSent++
			sa.EncrKey = sa.EncrKey.Clone()
			g.w.push(g.w.translate(flight{at: g.w.now.Add(latency), src: sa.Local, dst: sa.Remote, esp: &sa}))
			return
		}
	}
}

// tell passes on what the data plane says of an SA.
func (g *gateway) tell(e Event) {
	for _, m := range slices.Clone(g.machines) {
		g.step(m, e)
	}
}

func (g *gateway) step(m *Machine, e Event) {
	actions := m.Step(g.w.now, e)
	// The peer may use a new IKE SA as soon as it has our answer: it must be known
	// before that leaves.
	sent := slices.IndexFunc(actions, func(a Action) bool {
		s, ok := a.(Send)
		if !ok {
			return false
		}
		h, err := message.ParseHeader(s.Data)
		return err == nil && h.Exchange == message.CreateChildSA && h.Flags.Has(message.FlagResponse)
	})
	for i, a := range actions {
		if s, ok := a.(Succeed); ok && !s.Redundant && sent >= 0 && sent < i {
			g.w.t.Errorf("%s sends before it has the new IKE SA", g.name)
		}
		g.perform(m, a)
	}
}

func (g *gateway) perform(m *Machine, a Action) {
	w := g.w
	switch a := a.(type) {
	case Send:
		w.trace = append(w.trace, fmt.Sprintf("%s %s %x", w.now.Format("04:05.000"), g.name, a.Data))
		f := flight{at: w.now.Add(latency), src: a.Local, dst: a.Remote, ike: slices.Clone(a.Data)}
		out := []flight{f}
		if w.mangle != nil {
			out = w.mangle(f)
		}
		for _, f := range out {
			w.push(w.translate(f))
		}
	case Sign:
		if g.resign != nil {
			g.resign(&a)
		}
		w.after(g.authWait, func() {
			data, err := a.Scheme.Sign(g.keys[a.Connection], a.Octets)
			g.step(m, Signed{Token: a.Token, Auth: message.Auth{Method: message.AuthMethod(a.Scheme.Method), Data: data}, Err: err})
		})
	case Verify:
		w.after(g.authWait, func() { g.step(m, Verified{Token: a.Token, Err: verifyLeaf(a)}) })
	case InstallSA:
		id := a.SA.ID()
		if g.refuse != nil {
			if err := g.refuse(a.SA); err != nil {
				w.after(0, func() { g.tell(InstallFailed{ID: id, Err: err}) })
				return
			}
		}
		if _, ok := g.sad[id]; ok {
			w.t.Errorf("%s installs %v twice", g.name, id)
		}
		if a.SA.Direction == ipsec.In {
			if !g.reserved[a.SA.SPI] {
				w.t.Errorf("%s installs SPI %s, which is not reserved", g.name, a.SA.SPI)
			}
			delete(g.reserved, a.SA.SPI)
		}
		key := a.SA.EncrKey
		if a.SA.Protocol == ipsec.AH {
			key = a.SA.IntegKey
		}
		if key.IsZero() || slices.Max(key.Bytes()) == 0 {
			w.t.Errorf("%s installs %v without a key", g.name, id)
		}
		g.sad[id] = a.SA
		g.order = append(g.order, id)
	case MoveSA:
		sa, ok := g.sad[a.ID]
		if !ok {
			w.t.Errorf("%s moves %v, which is not installed", g.name, a.ID)
			return
		}
		delete(g.sad, a.ID)
		sa.Local, sa.Remote, sa.Encap = a.Local, a.Remote, a.Encap
		g.sad[sa.ID()] = sa
		g.order = append(g.order, sa.ID())
	case RemoveSA:
		sa, ok := g.sad[a.ID]
		if !ok {
			w.t.Errorf("%s removes %v, which is not installed", g.name, a.ID)
		}
		sa.EncrKey.Wipe()
		delete(g.sad, a.ID)
	case Succeed:
		g.machines = append(g.machines, a.Machine.(*Machine))
	case Report:
		g.notices = append(g.notices, a.What)
	case Done:
		g.machines = slices.DeleteFunc(g.machines, func(x *Machine) bool { return x == m })
	}
}

func verifyLeaf(v Verify) error {
	if len(v.Certificates) == 0 {
		return errors.New("no certificate")
	}
	leaf, err := x509.ParseCertificate(v.Certificates[0])
	if err != nil {
		return err
	}
	if v.Identity.Kind == message.IDDERASN1DN && v.Identity.Data != string(leaf.RawSubject) {
		return errors.New("certificate is not for the identity")
	}
	return suite.VerifyAuth(leaf.PublicKey, uint8(v.Auth.Method), v.Auth.Data, v.Octets)
}

// ---- configuration ----

func proposals(t testing.TB, parse func(string) (ipsec.Proposal, error), words ...string) []ipsec.Proposal {
	t.Helper()
	var out []ipsec.Proposal
	for _, w := range words {
		p, err := parse(w)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
	return out
}

func sel(t testing.TB, texts ...string) []ipsec.Selector {
	t.Helper()
	var out []ipsec.Selector
	for _, s := range texts {
		x, err := ipsec.ParseSelector(s)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, x)
	}
	return out
}

// pskPair configures both gateways for one connection with a shared key.
func (w *world) pskPair(change ...func(l, r *Connection)) (l, r *Connection) {
	t := w.t
	mk := func(name string) *Connection {
		return &Connection{
			Name:      name,
			Proposals: proposals(t, suite.ParseIKE, "aes256gcm16-prfsha256-x25519", "aes128-sha256-ecp256"),
			Retransmit: Retransmit{
				Initial: 500 * time.Millisecond, Factor: 1.5, Max: 4 * time.Second, Tries: 12,
			},
		}
	}
	l, r = mk("to-right"), mk("to-left")
	child := func(name, local, remote string) *Child {
		return &Child{
			Name: name, Protocol: ipsec.ESP, Local: sel(t, local), Remote: sel(t, remote), ReqID: 7,
			Proposals: proposals(t, suite.ParseESP, "aes256gcm16-x25519", "aes128-sha256-ecp256"),
		}
	}
	l.Children = []*Child{child("lan", "10.1.0.0/16", "10.2.0.0/16"), child("dmz", "10.11.0.0/16", "10.12.0.0/16")}
	r.Children = []*Child{child("lan", "10.2.0.0/16", "10.1.0.0/16"), child("dmz", "10.12.0.0/16", "10.11.0.0/16")}
	lid, rid := Identity{Kind: message.IDFQDN, Data: "left.example"}, Identity{Kind: message.IDFQDN, Data: "right.example"}
	psk := []byte("correct horse battery staple")
	l.Local, l.Remote = Party{ID: lid, Auth: AuthPSK, PSK: secretOf(psk)}, Party{ID: rid, Auth: AuthPSK, PSK: secretOf(psk)}
	r.Local, r.Remote = Party{ID: rid, Auth: AuthPSK, PSK: secretOf(psk)}, Party{ID: lid, Auth: AuthPSK, PSK: secretOf(psk)}
	for _, f := range change {
		f(l, r)
	}
	w.left.conns, w.right.conns = []*Connection{l}, []*Connection{r}
	return l, r
}

// credentials are made once: RSA is slow.
var credentials = sync.OnceValue(func() map[string]credential {
	_, ed1, _ := ed25519.GenerateKey(crand.Reader)
	_, ed2, _ := ed25519.GenerateKey(crand.Reader)
	p256, _ := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), crand.Reader)
	rsa1, _ := rsa.GenerateKey(crand.Reader, 2048)
	rsa2, _ := rsa.GenerateKey(crand.Reader, 2048)
	return map[string]credential{
		"ed25519-l": newCredential("left", ed1), "ed25519-r": newCredential("right", ed2),
		"ecdsa-l": newCredential("left", p256), "ecdsa-r": newCredential("right", p384),
		"rsa-l": newCredential("left", rsa1), "rsa-r": newCredential("right", rsa2),
	}
})

type credential struct {
	key crypto.Signer
	der []byte
}

func newCredential(name string, key crypto.Signer) credential {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0),
	}
	der, err := x509.CreateCertificate(crand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return credential{key, der}
}

// certPair configures authentication by certificates of a kind.
func (w *world) certPair(kind string) (l, r *Connection) {
	l, r = w.pskPair()
	cl, cr := credentials()[kind+"-l"], credentials()[kind+"-r"]
	subject := func(der []byte) Identity {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			w.t.Fatal(err)
		}
		return Identity{Kind: message.IDDERASN1DN, Data: string(c.RawSubject)}
	}
	authority := make([]byte, 20)
	l.Local = Party{Auth: AuthCert, Certificates: [][]byte{cl.der}}
	l.Remote = Party{ID: subject(cr.der), Auth: AuthCert, Authorities: [][]byte{authority}}
	r.Local = Party{Auth: AuthCert, Certificates: [][]byte{cr.der}}
	r.Remote = Party{ID: subject(cl.der), Auth: AuthCert, Authorities: [][]byte{authority}}
	w.left.keys[l], w.right.keys[r] = cl.key, cr.key
	return l, r
}

// ---- driving and checking ----

// initiate starts the left connection.
func (w *world) initiate(e Initiate) *Machine {
	m := NewInitiator(&w.left.env, w.left.conns[0], netip.AddrPortFrom(leftAddr, 500), netip.AddrPortFrom(rightAddr, 500))
	w.left.machines = append(w.left.machines, m)
	w.left.step(m, e)
	return m
}

// up sets up the connection and fails the test where that fails.
func (w *world) up(e Initiate) {
	w.t.Helper()
	w.initiate(e)
	w.run(20 * time.Second)
	w.left.mustBe(w.t, Established)
	w.right.mustBe(w.t, Established)
	w.check(max(1, len(e.Children)))
}

// machine is the one that is established.
func (g *gateway) machine() *Machine {
	for _, m := range g.machines {
		if m.state == Established && !m.redundant {
			return m
		}
	}
	return nil
}

func (g *gateway) order1(e Event) {
	if m := g.machine(); m != nil {
		g.step(m, e)
	}
}

func (g *gateway) mustBe(t testing.TB, s State) {
	t.Helper()
	if len(g.machines) != 1 || g.machines[0].state != s {
		var states []string
		for _, m := range g.machines {
			states = append(states, fmt.Sprintf("%s(redundant=%v)", m.state, m.redundant))
		}
		t.Fatalf("%s has machines %v, want one that is %s; notices %v", g.name, states, s, g.notices)
	}
}

// check compares both ends when all is quiet: n tunnels, each with one SA in
// each direction, with a mirror image at the other end, and nothing else.
func (w *world) check(n int) {
	w.t.Helper()
	for _, g := range []*gateway{w.left, w.right} {
		peer := w.other(g)
		if len(g.sad) != 2*n {
			w.t.Errorf("%s has %d SAs installed, want %d", g.name, len(g.sad), 2*n)
		}
		if len(g.reserved) != 0 {
			w.t.Errorf("%s keeps %d SPIs reserved", g.name, len(g.reserved))
		}
		for id, sa := range g.sad {
			if id.Direction == ipsec.In {
				continue
			}
			twin, ok := peer.sad[ipsec.SAID{Direction: ipsec.In, Protocol: id.Protocol, SPI: id.SPI}]
			if !ok {
				w.t.Errorf("%s sends through %s, which %s does not have", g.name, id.SPI, peer.name)
				continue
			}
			if !twin.EncrKey.Equal(sa.EncrKey) || !twin.IntegKey.Equal(sa.IntegKey) || twin.ESN != sa.ESN || twin.Encr != sa.Encr {
				w.t.Errorf("SA %s has different keys at both ends", id.SPI)
			}
			if !slices.Equal(twin.LocalTS, sa.RemoteTS) || !slices.Equal(twin.RemoteTS, sa.LocalTS) {
				w.t.Errorf("SA %s has different selectors at both ends", id.SPI)
			}
			if sa.Tunnel != twin.Tunnel || sa.Encap != twin.Encap {
				w.t.Errorf("SA %s is %s/%v at one end and %s/%v at the other", id.SPI, sa.Tunnel, sa.Encap, twin.Tunnel, twin.Encap)
			}
		}
		m := g.machine()
		if n > 0 && m == nil {
			w.t.Errorf("%s has no IKE SA", g.name)
			continue
		}
		if m != nil {
			if len(m.children) != n {
				w.t.Errorf("%s has %d CHILD SAs, want %d: %v", g.name, len(m.children), n, m.Status().Children)
			}
			if o := peer.machine(); o == nil || o.spiI != m.spiI || o.spiR != m.spiR {
				w.t.Errorf("the ends have different IKE SAs")
			}
			busy := m.outstanding != nil
			if busy {
				_, alive := m.outstanding.task.(*liveness)
				busy = !alive
			}
			if busy || len(m.queue) != 0 {
				w.t.Errorf("%s still waits for %v and %d more", g.name, m.outstanding, len(m.queue))
			}
		}
	}
}

func (g *gateway) count(kind NoticeKind) int {
	n := 0
	for _, x := range g.notices {
		if x.Kind == kind {
			n++
		}
	}
	return n
}

// last returns the last notice of a kind.
func (g *gateway) last(t testing.TB, kind NoticeKind) Notice {
	t.Helper()
	for _, x := range slices.Backward(g.notices) {
		if x.Kind == kind {
			return x
		}
	}
	t.Fatalf("%s reported no notice %d, but %v", g.name, kind, g.notices)
	return Notice{}
}

func (g *gateway) mustReport(t testing.TB, kind NoticeKind, code string) {
	t.Helper()
	if n := g.last(t, kind); n.Code != code {
		t.Errorf("%s reported %q (%v), want %q", g.name, n.Code, n.Err, code)
	}
}
