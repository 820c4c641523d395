package v1

import (
	"bytes"
	"crypto"
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

	"github.com/emmansun/gmsm/sm2"
	"github.com/emmansun/gmsm/smx509"

	"caponier/internal/ike/isakmp"
	"caponier/internal/ike/step"
	"caponier/internal/ike/v2/conf"
	"caponier/internal/ipsec"
	"caponier/internal/suite"
)

// The simulation: two gateways, each with its machines and a data plane that only
// remembers, joined by a link with virtual time. It does for this package what the
// daemon does: it routes by cookie, makes responders, and tells older machines to
// yield.
//
//	left (192.0.2.1) ── link: delay, loss, NAT ── right (198.51.100.1)

var (
	leftAddr  = netip.MustParseAddr("192.0.2.1")
	rightAddr = netip.MustParseAddr("198.51.100.1")
	natAddr   = netip.MustParseAddr("203.0.113.9")
)

const latency = 10 * time.Millisecond

type flight struct {
	at       time.Time
	seq      int
	src, dst netip.AddrPort
	ike      []byte
	esp      *ipsec.SA // the outbound SA it was sent through
	do       func()
}

type world struct {
	t                testing.TB
	now              time.Time
	rng              *mrand.Rand
	queue            []flight
	seq              int
	left, right      *gateway
	natShift         uint16 // of a NAT before the left gateway; 0: none
	mangle           func(f flight) []flight
	trace            []string
	espLost, espSent int
}

type gateway struct {
	w          *world
	name       string
	addr       netip.Addr
	env        step.Env
	conns      []*Connection
	pair       *pair
	machines   []*Machine
	inits      map[string]*Machine
	sad        map[ipsec.SAID]ipsec.SA
	order      []ipsec.SAID
	reserved   map[ipsec.SPI]bool
	used       map[ipsec.SPI]bool
	notices    []step.Notice
	dead       bool
	lost       int // IKE SAs that both ends had
	keepAlives int
	refuse     func(ipsec.SA) error
	rng        *mrand.Rand
	examine    func(*step.Examine) error // what the edge says of the peer, nil: that the signature is its
}

// pair is a gateway's two keys with their certificates.
type pair struct {
	sign, encrypt         *sm2.PrivateKey
	signCert, encryptCert []byte
}

type chacha struct{ *mrand.ChaCha8 }

func seeded(seed uint64, who byte) *mrand.ChaCha8 {
	var s [32]byte
	s[0], s[1], s[8] = byte(seed), byte(seed>>8), who
	return mrand.NewChaCha8(s)
}

// pairs are made once: the keys are always the same, so that transcripts can be
// recorded.
var pairs = sync.OnceValue(func() map[string]*pair {
	out := map[string]*pair{}
	for i, name := range []string{"left", "right", "stranger"} {
		p := &pair{}
		for j := range 2 {
			key, err := sm2.NewPrivateKeyFromInt(big.NewInt(int64(1_000_003*(i+1) + 7919*(j+1))))
			if err != nil {
				panic(err)
			}
			usage := smx509.KeyUsageDigitalSignature
			if j == 1 {
				usage = smx509.KeyUsageKeyEncipherment | smx509.KeyUsageDataEncipherment
			}
			template := &smx509.Certificate{
				SerialNumber: big.NewInt(int64(10*i + j + 1)), KeyUsage: usage,
				Subject:   pkix.Name{Country: []string{"CN"}, Organization: []string{"netsecvpn"}, CommonName: name},
				NotBefore: time.Unix(1_700_000_000, 0), NotAfter: time.Unix(2_000_000_000, 0),
			}
			der, err := smx509.CreateCertificate(chacha{seeded(99, byte(10*i+j))}, template, template, key.Public(), key)
			if err != nil {
				panic(err)
			}
			if j == 0 {
				p.sign, p.signCert = key, der
			} else {
				p.encrypt, p.encryptCert = key, der
			}
		}
		out[name] = p
	}
	return out
})

func publicKey(der []byte) (crypto.PublicKey, error) {
	cert, err := smx509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return cert.PublicKey, nil
}

func newWorld(t testing.TB, seed uint64) *world {
	w := &world{t: t, now: time.Unix(1_800_000_000, 0), rng: mrand.New(seeded(seed, 1))}
	w.left = newGateway(w, "left", leftAddr, seed, 2)
	w.right = newGateway(w, "right", rightAddr, seed, 3)
	return w
}

func newGateway(w *world, name string, addr netip.Addr, seed uint64, who byte) *gateway {
	g := &gateway{
		w: w, name: name, addr: addr, pair: pairs()[name], inits: map[string]*Machine{},
		sad: map[ipsec.SAID]ipsec.SA{}, reserved: map[ipsec.SPI]bool{}, used: map[ipsec.SPI]bool{},
		rng: mrand.New(seeded(seed, who+100)),
	}
	g.env = step.Env{
		Rand: chacha{seeded(seed, who)},
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

func (w *world) push(f flight) {
	w.seq++
	f.seq = w.seq
	w.queue = append(w.queue, f)
}

func (w *world) after(d time.Duration, do func()) { w.push(flight{at: w.now.Add(d), do: do}) }

func (w *world) translate(f flight) flight {
	if w.natShift == 0 {
		return f
	}
	if f.src.Addr() == leftAddr {
		f.src = netip.AddrPortFrom(natAddr, f.src.Port()+w.natShift)
	}
	if f.dst.Addr() == natAddr {
		f.dst = netip.AddrPortFrom(leftAddr, f.dst.Port()-w.natShift)
	}
	return f
}

// run lets time pass.
func (w *world) run(d time.Duration) {
	end := w.now.Add(d)
	for steps := 0; ; steps++ {
		if steps > 200_000 {
			w.t.Fatal("the simulation does not come to rest")
		}
		at, best := end, -1
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
		if due != nil {
			owner.step(due, step.Timeout{})
			continue
		}
		f := w.queue[best]
		w.queue = slices.Delete(w.queue, best, best+1)
		w.arrive(f)
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
	h, err := isakmp.ParseHeader(f.ike)
	if err != nil {
		return
	}
	e := step.Received{Raw: f.ike, Local: f.dst, Remote: f.src}
	for _, m := range g.machines {
		i, r := m.SPIs()
		if ours := m.LocalSPI(); ours == h.InitiatorCookie && m.initiator && (r == 0 || r == h.ResponderCookie || h.ResponderCookie == 0) ||
			ours == h.ResponderCookie && !m.initiator && i == h.InitiatorCookie {
			g.step(m, e)
			return
		}
	}
	if h.ResponderCookie != 0 || h.Exchange != isakmp.MainMode || len(g.conns) == 0 {
		return
	}
	key := fmt.Sprint(f.src, h.InitiatorCookie)
	m := g.inits[key]
	if m == nil || m.state == gone {
		m = NewResponder(g.env, g.conns, f.dst, f.src)
		g.machines = append(g.machines, m)
		g.inits[key] = m
	}
	g.step(m, e)
}

func (g *gateway) receiveESP(f flight) {
	sa, ok := g.sad[ipsec.SAID{Direction: ipsec.In, Protocol: f.esp.Protocol, SPI: f.esp.SPI}]
	if !ok || !sa.EncrKey.Equal(f.esp.EncrKey) || !sa.IntegKey.Equal(f.esp.IntegKey) {
		g.w.espLost++
		return
	}
	if !g.used[sa.SPI] {
		g.used[sa.SPI] = true
		g.tell(step.Used{ID: sa.ID()})
	}
}

// sendESP sends a packet through the outbound SA that was added last.
func (g *gateway) sendESP() {
	for _, id := range slices.Backward(g.order) {
		if sa, ok := g.sad[id]; ok && id.Direction == ipsec.Out {
			g.w.espSent++
			sa.EncrKey, sa.IntegKey = sa.EncrKey.Clone(), sa.IntegKey.Clone()
			g.w.push(g.w.translate(flight{at: g.w.now.Add(latency), src: sa.Local, dst: sa.Remote, esp: &sa}))
			return
		}
	}
}

func (g *gateway) tell(e step.Event) {
	for _, m := range slices.Clone(g.machines) {
		g.step(m, e)
	}
}

func (g *gateway) step(m *Machine, e step.Event) {
	for _, a := range m.Step(g.w.now, e) {
		g.perform(m, a)
	}
}

func (g *gateway) perform(m *Machine, a step.Action) {
	w := g.w
	random := chacha{seeded(uint64(len(w.trace)), g.name[0])}
	switch a := a.(type) {
	case step.Send:
		w.trace = append(w.trace, fmt.Sprintf("%s %s %x", w.now.Format("04:05.000"), g.name, a.Data))
		f := flight{at: w.now.Add(latency), src: a.Local, dst: a.Remote, ike: bytes.Clone(a.Data)}
		out := []flight{f}
		if w.mangle != nil {
			out = w.mangle(f)
		}
		for _, f := range out {
			w.push(w.translate(f))
		}
	case step.Unwrap:
		key, encoding, err := suite.SM2Decrypt(random, g.pair.encrypt, a.Ciphertext)
		w.after(5*time.Millisecond, func() {
			g.step(m, step.Unwrapped{Token: a.Token, Key: key, Encoding: encoding, Err: err})
		})
	case step.Envelope:
		answer := step.Enveloped{Token: a.Token}
		public, err := publicKey(a.Encryption)
		if err == nil {
			answer.Ciphertext, err = suite.SM2Encrypt(random, public, a.Key, a.Encoding)
		}
		if err == nil {
			answer.Signature, err = suite.SM2Sign(random, g.pair.sign, "", a.Style, a.Octets)
		}
		answer.Err = err
		w.after(5*time.Millisecond, func() { g.step(m, answer) })
	case step.Examine:
		answer := g.judge(&a)
		w.after(5*time.Millisecond, func() { g.step(m, answer) })
	case step.InstallSA:
		g.install(m, a)
	case step.MoveSA:
		g.move(a)
	case step.RemoveSA:
		sa, ok := g.sad[a.ID]
		if !ok {
			w.t.Errorf("%s removes %v, which is not installed", g.name, a.ID)
		}
		sa.EncrKey.Wipe()
		delete(g.sad, a.ID)
	case step.Begin:
		g.machines = append(g.machines, a.Machine.(*Machine))
		w.after(0, func() { g.step(a.Machine.(*Machine), a.Event) })
	case step.Tell:
		w.after(0, func() { g.step(a.To.(*Machine), a.Event) })
	case step.Report:
		g.notices = append(g.notices, a.What)
		switch a.What.Kind {
		case step.IKEUp:
			g.succeed(m, true)
		case step.IKEDown:
			if m.proven {
				g.lost++
			}
		default:
		}
	case step.TakeOver:
		g.succeed(m, false)
	case step.Done:
		g.machines = slices.DeleteFunc(g.machines, func(x *Machine) bool { return x == m })
	case step.SendKeepAlive:
		g.keepAlives++
	default:
		w.t.Errorf("action %T", a)
	}
}

// succeed tells the older machines between the same identities to yield.
func (g *gateway) succeed(m *Machine, unproven bool) {
	for _, old := range g.machines {
		if old != m && (old.state == established || old.state == deleted) && old.conn.Name == m.conn.Name && old.remoteID.Equals(m.remoteID) {
			g.w.after(0, func() { g.step(old, step.Yield{To: m, Unproven: unproven}) })
		}
	}
}

func (g *gateway) judge(a *step.Examine) step.Examined {
	answer := step.Examined{Token: a.Token}
	if g.examine != nil {
		if answer.Err = g.examine(a); answer.Err != nil {
			return answer
		}
	}
	public, err := publicKey(a.Certificates[0])
	if err != nil {
		answer.Err = err
		return answer
	}
	answer.Err = errors.New("the signature is wrong")
	for i, octets := range a.Octets {
		if style, err := suite.SM2Verify(public, "", octets, a.Signature); err == nil {
			answer.Style, answer.Form, answer.Err = style, i, nil
		}
	}
	return answer
}

func (g *gateway) install(m *Machine, a step.InstallSA) {
	id := a.SA.ID()
	if g.refuse != nil {
		if err := g.refuse(a.SA); err != nil {
			g.w.after(0, func() { g.step(m, step.InstallFailed{ID: id, Err: err}) })
			return
		}
	}
	if _, ok := g.sad[id]; ok {
		g.w.t.Errorf("%s installs %v twice", g.name, id)
	}
	if id.Direction == ipsec.In {
		if !g.reserved[id.SPI] {
			g.w.t.Errorf("%s installs SPI %s, which is not reserved", g.name, id.SPI)
		}
		delete(g.reserved, id.SPI)
	}
	g.sad[id] = a.SA
	g.order = append(g.order, id)
}

func (g *gateway) move(a step.MoveSA) {
	sa, ok := g.sad[a.ID]
	if !ok {
		g.w.t.Errorf("%s moves %v, which is not installed", g.name, a.ID)
		return
	}
	delete(g.sad, a.ID)
	sa.Local, sa.Remote = a.Local, a.Remote
	g.sad[sa.ID()] = sa
	g.order = append(g.order, sa.ID())
}

// ---- configuration ----

var (
	sm4cbc   = ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrSM4CBC}
	sm4gcm   = ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrSM4GCM16}
	prfSM3   = ipsec.Transform{Type: ipsec.TypePRF, ID: ipsec.PRFHMACSM3}
	integSM3 = ipsec.Transform{Type: ipsec.TypeInteg, ID: ipsec.IntegHMACSM3}
)

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

// connect gives both gateways a connection to each other, with one tunnel, "lan".
func (w *world) connect() (left, right *Connection) {
	make1 := func(g *gateway, peer *gateway, local, remote string) *Connection {
		c := &Connection{
			Name:       "site",
			LocalAddrs: []netip.Prefix{netip.PrefixFrom(g.addr, 32)}, RemoteAddrs: []netip.Prefix{netip.PrefixFrom(peer.addr, 32)},
			Proposals: []ipsec.Proposal{{sm4cbc, prfSM3}},
			Lifetime:  24 * time.Hour,
			GM:        &conf.GM{SignCertificate: g.pair.signCert, EncryptCertificate: g.pair.encryptCert},
			Children: []*Child{{
				Name: "lan", Protocol: ipsec.ESP, Local: sel(w.t, local), Remote: sel(w.t, remote),
				Proposals: []ipsec.Proposal{{sm4cbc, integSM3}}, Lifetime: ipsec.Limit{Time: time.Hour}, ReqID: 1,
			}},
		}
		g.conns = append(g.conns, c)
		return c
	}
	left = make1(w.left, w.right, "10.1.0.0/16", "10.2.0.0/16")
	right = make1(w.right, w.left, "10.2.0.0/16", "10.1.0.0/16")
	return left, right
}

// initiate starts the first connection of g.
func (g *gateway) initiate(known bool) *Machine {
	peer := g.w.right
	if g == g.w.right {
		peer = g.w.left
	}
	remote := netip.AddrPortFrom(peer.addr, ikePort)
	m := NewInitiator(g.env, g.conns[0], netip.AddrPortFrom(g.addr, ikePort), remote)
	g.machines = append(g.machines, m)
	g.step(m, step.Initiate{Children: g.conns[0].Children, Known: known})
	return m
}

func (g *gateway) count(kind step.NoticeKind) int {
	n := 0
	for _, x := range g.notices {
		if x.Kind == kind {
			n++
		}
	}
	return n
}

func (g *gateway) failure() string {
	for _, x := range slices.Backward(g.notices) {
		if x.Err != nil && x.Kind != step.PeerDropped {
			return x.Code + ": " + x.Err.Error()
		}
	}
	return ""
}

// mustMatch checks that each outbound SA has its inbound SA at the other end, with
// the same keys, and that so many pairs are there.
func (w *world) mustMatch(pairs int) {
	w.t.Helper()
	for _, g := range []*gateway{w.left, w.right} {
		peer := w.right
		if g == w.right {
			peer = w.left
		}
		out, in := 0, 0
		for id, sa := range g.sad {
			if id.Direction == ipsec.In {
				in++
				continue
			}
			out++
			other, ok := peer.sad[ipsec.SAID{Direction: ipsec.In, Protocol: id.Protocol, SPI: id.SPI}]
			if !ok {
				w.t.Errorf("%s sends through %s, which %s does not have", g.name, id.SPI, peer.name)
				continue
			}
			if !other.EncrKey.Equal(sa.EncrKey) || !other.IntegKey.Equal(sa.IntegKey) || sa.EncrKey.Len()+sa.IntegKey.Len() == 0 {
				w.t.Errorf("SA %s has different keys", id.SPI)
			}
			if !slices.Equal(sa.LocalTS, other.RemoteTS) || !slices.Equal(sa.RemoteTS, other.LocalTS) || sa.Mode != other.Mode {
				w.t.Errorf("SA %s: %v to %v here, %v to %v there", id.SPI, sa.LocalTS, sa.RemoteTS, other.RemoteTS, other.LocalTS)
			}
		}
		if out != pairs || in != pairs {
			w.t.Errorf("%s has %d outbound and %d inbound SAs, want %d (%s)", g.name, out, in, pairs, g.failure())
		}
		if len(g.reserved) > 0 {
			w.t.Errorf("%s still reserves %d SPIs", g.name, len(g.reserved))
		}
	}
}

func header(t testing.TB, raw []byte) isakmp.Header {
	t.Helper()
	h, err := isakmp.ParseHeader(raw)
	if err != nil {
		t.Fatal(err)
	}
	return h
}
