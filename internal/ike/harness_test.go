package ike

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"caponier/internal/dataplane"
	"caponier/internal/ike/message"
	v2 "caponier/internal/ike/v2"
	"caponier/internal/ipsec"
	"caponier/internal/netio"
	"caponier/internal/secret"
	"caponier/internal/suite"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The harness: gateways with real daemons and data planes that only remember,
// joined by a network in memory. Tests run in virtual time.
//
//	left (192.0.2.1) ── latency, tamper, NAT ── right (198.51.100.1)

var (
	leftAddr  = netip.MustParseAddr("192.0.2.1")
	rightAddr = netip.MustParseAddr("198.51.100.1")
	natAddr   = netip.MustParseAddr("203.0.113.9")
)

const latency = 5 * time.Millisecond

// simulate runs f in virtual time, with a network.
func simulate(t *testing.T, f func(t *testing.T, n *network)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f(t, &network{sockets: make(map[netip.AddrPort]*memSocket), dead: make(map[netip.Addr]bool)})
	})
}

type network struct {
	mu      sync.Mutex
	sockets map[netip.AddrPort]*memSocket
	dead    map[netip.Addr]bool // neither sends nor receives
	// tamper may drop, change, delay or multiply a datagram; nil leaves all alone.
	tamper func(d netio.Datagram) []delivery
	// nat changes the addresses of a datagram on its way; nil changes none.
	nat  func(src, dst netip.AddrPort) (netip.AddrPort, netip.AddrPort)
	sent []netio.Datagram

	started int // gateways, by the test itself
}

// delivery is a datagram on its way, behind the usual latency.
type delivery struct {
	d     netio.Datagram
	delay time.Duration
}

func (n *network) setTamper(f func(netio.Datagram) []delivery) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.tamper = f
}

func (n *network) setNAT(f func(src, dst netip.AddrPort) (netip.AddrPort, netip.AddrPort)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.nat = f
}

// cut takes a host off the network, or puts it back.
func (n *network) cut(a netip.Addr, dead bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dead[a] = dead
}

// count counts the datagrams that a host has sent so far and that ok accepts.
func (n *network) count(from netip.Addr, ok func(message.Header) bool) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	total := 0
	for _, d := range n.sent {
		if h, err := message.ParseHeader(d.Data); err == nil && d.Local.Addr() == from && ok(h) {
			total++
		}
	}
	return total
}

func isInitRequest(h message.Header) bool {
	return h.Exchange == message.IKESAInit && !h.Flags.Has(message.FlagResponse)
}

// send puts a datagram on its way.
func (n *network) send(d netio.Datagram) {
	d.Data = slices.Clone(d.Data)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sent = append(n.sent, d)
	out := []delivery{{d: d}}
	if n.tamper != nil {
		out = n.tamper(d)
	}
	for _, x := range out {
		time.AfterFunc(latency+x.delay, func() { n.arrive(x.d) })
	}
}

func (n *network) arrive(d netio.Datagram) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.dead[d.Local.Addr()] || n.dead[d.Remote.Addr()] {
		return
	}
	if n.nat != nil {
		d.Local, d.Remote = n.nat(d.Local, d.Remote)
	}
	s := n.sockets[d.Remote]
	if s == nil {
		return
	}
	select {
	case s.in <- netio.Datagram{Data: d.Data, Local: d.Remote, Remote: d.Local}:
	default:
		panic("nobody reads the socket")
	}
}

// memSocket is an IKESocket of the network.
type memSocket struct {
	n      *network
	addr   netip.AddrPort
	in     chan netio.Datagram
	closed chan struct{}
	once   sync.Once
}

func (n *network) listen(addr netip.AddrPort) *memSocket {
	s := &memSocket{n: n, addr: addr, in: make(chan netio.Datagram, 1<<15), closed: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sockets[addr] = s
	return s
}

func (s *memSocket) Receive() (netio.Datagram, error) {
	select {
	case d := <-s.in:
		return d, nil
	case <-s.closed:
		return netio.Datagram{}, net.ErrClosed
	}
}

func (s *memSocket) Send(d netio.Datagram) error {
	if d.Local != s.addr {
		return errors.New("not an address of this socket: " + d.Local.String())
	}
	s.n.send(d)
	return nil
}

func (s *memSocket) SendKeepAlive(_, _ netip.AddrPort) error { return nil }
func (s *memSocket) LocalPort() uint16                       { return s.addr.Port() }

func (s *memSocket) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

// gateway is one daemon on the network.
type gateway struct {
	*Daemon
	t    *testing.T
	addr netip.Addr
	fake *dataplane.Fake
	logs *logBuffer
}

// gateway starts a gateway, which ends with the test. options may be changed.
func (n *network) gateway(t *testing.T, addr netip.Addr, conns []*v2.Connection, change ...func(*Options)) *gateway {
	t.Helper()
	g := &gateway{t: t, addr: addr, fake: dataplane.NewFake(), logs: new(logBuffer)}
	o := Options{
		Sockets: []netio.IKESocket{
			n.listen(netip.AddrPortFrom(addr, 500)), n.listen(netip.AddrPortFrom(addr, 4500)),
		},
		Backend: g.fake, Authenticator: leafAuthenticator{}, Rand: rand.Reader,
		Log: slog.New(slog.NewTextHandler(g.logs, nil)),
	}
	for _, f := range change {
		f(&o)
	}
	// A gateway that starts again has other SPIs than before.
	n.started++
	for range 1000 * n.started {
		g.fake.ReleaseSPI(ipsec.ESP, must(g.fake.AllocateSPI(ipsec.ESP)))
	}
	g.Daemon = New(o)
	g.Apply(conns, nil)
	g.Start()
	t.Cleanup(func() { g.Close() })
	return g
}

// die takes the gateway down without a word to its peers.
func (g *gateway) die(n *network) {
	n.cut(g.addr, true)
	g.Close()
	pass(time.Second) // what is on its way is lost too
	n.cut(g.addr, false)
}

// logBuffer keeps the lines of a log.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// lines returns the lines that contain text.
func (l *logBuffer) lines(text string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []string
	for line := range strings.Lines(l.b.String()) {
		if strings.Contains(line, text) {
			out = append(out, line)
		}
	}
	return out
}

// ---- credentials and configuration ----

// leafAuthenticator signs and verifies with the leaf certificates themselves.
type leafAuthenticator struct{}

type credential struct {
	key crypto.Signer
	der []byte
}

// credentials are keys by the name of the connection that uses them.
var credentials = sync.OnceValue(func() map[string]credential {
	_, ed1, _ := ed25519.GenerateKey(rand.Reader)
	_, ed2, _ := ed25519.GenerateKey(rand.Reader)
	ec1, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ec2, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	out := make(map[string]credential)
	for name, key := range map[string]crypto.Signer{
		"ed25519-left": ed1, "ed25519-right": ed2, "ecdsa-left": ec1, "ecdsa-right": ec2,
	} {
		template := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
			NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0),
		}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			panic(err)
		}
		out[name] = credential{key, der}
	}
	return out
})

func (leafAuthenticator) Sign(connection string, scheme suite.SignatureScheme, octets []byte) (message.Auth, error) {
	c, ok := credentials()[connection]
	if !ok {
		return message.Auth{}, errors.New("no key")
	}
	data, err := scheme.Sign(c.key, octets)
	return message.Auth{Method: message.AuthMethod(scheme.Method), Data: data}, err
}

func (leafAuthenticator) Verify(v v2.Verify) error {
	if len(v.Certificates) == 0 {
		return errors.New("no certificate")
	}
	leaf, err := x509.ParseCertificate(v.Certificates[0])
	if err != nil {
		return err
	}
	if v.Identity.Data != string(leaf.RawSubject) {
		return errors.New("the certificate is for somebody else")
	}
	return suite.VerifyAuth(leaf.PublicKey, uint8(v.Auth.Method), v.Auth.Data, v.Octets)
}

func fqdn(name string) v2.Identity { return v2.Identity{Kind: message.IDFQDN, Data: name} }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func tunnel(name, local, remote string) *v2.Child {
	return &v2.Child{
		Name: name, Protocol: ipsec.ESP, ReqID: 7,
		Local: []ipsec.Selector{must(ipsec.ParseSelector(local))}, Remote: []ipsec.Selector{must(ipsec.ParseSelector(remote))},
		Proposals: []ipsec.Proposal{must(suite.ParseESP("aes256gcm16-x25519"))},
	}
}

// end makes one end's configuration of a connection between left and right with
// a shared key, and two tunnels.
func end(name string, left bool) *v2.Connection {
	c := &v2.Connection{
		Name:      name,
		Proposals: []ipsec.Proposal{must(suite.ParseIKE("aes256gcm16-prfsha256-x25519"))},
		DPD:       30 * time.Second, Lifetime: 4 * time.Hour,
	}
	lan, dmz := [2]string{"10.1.0.0/16", "10.2.0.0/16"}, [2]string{"10.11.0.0/16", "10.12.0.0/16"}
	addrs, ids := []netip.Addr{leftAddr, rightAddr}, []string{"left.example", "right.example"}
	if !left {
		lan[0], lan[1], dmz[0], dmz[1] = lan[1], lan[0], dmz[1], dmz[0]
		slices.Reverse(addrs)
		slices.Reverse(ids)
	}
	psk := []byte("correct horse battery staple")
	c.Local = v2.Party{ID: fqdn(ids[0]), Auth: v2.AuthPSK, PSK: secret.Copy(psk)}
	c.Remote = v2.Party{ID: fqdn(ids[1]), Auth: v2.AuthPSK, PSK: secret.Copy(psk)}
	c.LocalAddrs, c.RemoteAddrs = []netip.Prefix{netip.PrefixFrom(addrs[0], 32)}, []netip.Prefix{netip.PrefixFrom(addrs[1], 32)}
	c.Children = []*v2.Child{tunnel("lan", lan[0], lan[1]), tunnel("dmz", dmz[0], dmz[1])}
	return c
}

// changed copies a configuration and changes the copy.
func changed(c *v2.Connection, change ...func(c *v2.Connection)) *v2.Connection {
	out := *c
	out.Children = nil
	for _, ch := range c.Children {
		x := *ch
		out.Children = append(out.Children, &x)
	}
	for _, f := range change {
		f(&out)
	}
	return &out
}

func starting(c *v2.Connection) {
	for _, ch := range c.Children {
		ch.Start = true
	}
}

// withCertificates makes both ends authenticate with keys of a kind.
func withCertificates(l, r *v2.Connection, kind string) {
	party := func(name string) v2.Party {
		der := credentials()[name].der
		leaf := must(x509.ParseCertificate(der))
		return v2.Party{
			ID: v2.Identity{Kind: message.IDDERASN1DN, Data: string(leaf.RawSubject)}, Auth: v2.AuthCert,
			Certificates: [][]byte{der}, Authorities: [][]byte{make([]byte, 20)},
		}
	}
	l.Name, r.Name = kind+"-left", kind+"-right"
	l.Local, l.Remote = party(l.Name), party(r.Name)
	r.Local, r.Remote = party(r.Name), party(l.Name)
}

// two starts a gateway on the left and one on the right, for one connection that
// may be changed.
func (n *network) two(t *testing.T, change ...func(l, r *v2.Connection)) (l, r *gateway) {
	t.Helper()
	cl, cr := end("site", true), end("site", false)
	for _, f := range change {
		f(cl, cr)
	}
	return n.gateway(t, leftAddr, []*v2.Connection{cl}), n.gateway(t, rightAddr, []*v2.Connection{cr})
}

// ---- driving and checking ----

// pass lets time pass, and what is to happen until then happen.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// eventually waits for something, in virtual time.
func eventually(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); ; pass(10 * time.Millisecond) {
		if ok() {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not in %s: %s", limit, what)
		}
	}
}

// connect brings up a tunnel, or the connection where tunnel is empty.
func (g *gateway) connect(conn, tunnel string) {
	g.t.Helper()
	if err := g.Connect(g.t.Context(), conn, tunnel); err != nil {
		g.t.Fatalf("connect %s/%s: %v\n%s", conn, tunnel, err, g.logs.lines(""))
	}
	pass(time.Second)
}

// code is the stable code of an error of an order.
func code(err error) string {
	f, _ := errors.AsType[*Failure](err)
	if f == nil {
		return ""
	}
	return f.Code
}

// tunnels counts the outbound SAs of a tunnel in the data plane.
func (g *gateway) tunnels(name string) int {
	count := 0
	for _, sa := range g.fake.SAs() {
		if sa.Tunnel == name && sa.ID.Direction == ipsec.Out {
			count++
		}
	}
	return count
}

// spis returns the SPIs of a tunnel's SAs, in the order in which they were added.
func (g *gateway) spis(conn, tunnel string) []ipsec.SPI {
	var out []ipsec.SPI
	for _, sa := range g.fake.SAs() {
		if sa.Connection == conn && sa.Tunnel == tunnel {
			out = append(out, sa.ID.SPI)
		}
	}
	return out
}

// ikeSPIs returns the SPIs of a connection's IKE SAs that are established.
func (g *gateway) ikeSPIs(conn string) []string {
	var out []string
	for _, c := range g.Status(conn) {
		for _, s := range c.SAs {
			if s.State == v2.Established {
				out = append(out, s.SPIs)
			}
		}
	}
	return out
}

func (g *gateway) failure(conn string) string {
	for _, c := range g.Status(conn) {
		if c.Failure != nil {
			return c.Failure.Code
		}
	}
	return ""
}

// mustMirror fails the test unless every SA of one gateway has its counterpart,
// with the same keys, at the other, and there are n of them in each direction.
func mustMirror(t *testing.T, l, r *gateway, n int) {
	t.Helper()
	for _, p := range [][2]*gateway{{l, r}, {r, l}} {
		a, b := p[0].fake.Installed(), p[1].fake.Installed()
		if len(a) != 2*n {
			t.Errorf("%s has %d SAs, want %d", p[0].addr, len(a), 2*n)
		}
		if x := p[0].fake.Reserved(); len(x) != 0 {
			t.Errorf("%s keeps SPIs reserved: %v", p[0].addr, x)
		}
		for _, out := range a {
			if out.Direction == ipsec.In {
				continue
			}
			i := slices.IndexFunc(b, func(in ipsec.SA) bool { return in.Direction == ipsec.In && in.SPI == out.SPI })
			if i < 0 || !b[i].EncrKey.Equal(out.EncrKey) || b[i].Tunnel != out.Tunnel {
				t.Errorf("%s sends through %s, which %s does not have", p[0].addr, out.SPI, p[1].addr)
			}
		}
	}
}

// mustBeEmpty fails the test if anything is left of any IKE SA.
func (g *gateway) mustBeEmpty() {
	g.t.Helper()
	if sas := g.fake.SAs(); len(sas) != 0 {
		g.t.Errorf("%s still has %d SAs", g.addr, len(sas))
	}
	if x := g.fake.Reserved(); len(x) != 0 {
		g.t.Errorf("%s keeps SPIs reserved: %v", g.addr, x)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.bySPI) != 0 || len(g.halfOpen) != 0 || len(g.bySource) != 0 || len(g.bySA) != 0 {
		g.t.Errorf("%s still has %d IKE SAs, %d half-open of %d sources, %d owners", g.addr,
			len(g.bySPI), len(g.halfOpen), len(g.bySource), len(g.bySA))
	}
	for name, c := range g.conns {
		if len(c.sas) != 0 || len(c.waiters) != 0 {
			g.t.Errorf("%s: connection %s still has %d IKE SAs, %d orders", g.addr, name, len(c.sas), len(c.waiters))
		}
	}
}

// within limits an order in time.
func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// armed is a random source that panics once it is armed.
type armed struct {
	io.Reader
	fire chan struct{}
}

func (a armed) Read(p []byte) (int, error) {
	select {
	case <-a.fire:
		panic("the random source is broken")
	default:
		return a.Reader.Read(p)
	}
}
