package diagnose

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
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

	"caponier/internal/control"
	"caponier/internal/dataplane"
	"caponier/internal/ike"
	"caponier/internal/ike/message"
	v2 "caponier/internal/ike/v2"
	"caponier/internal/ike/v2/conf"
	"caponier/internal/ipsec"
	"caponier/internal/netio"
	"caponier/internal/pki"
	"caponier/internal/secret"
	"caponier/internal/suite"
)

// The harness: two gateways with real daemons, real certificates and data planes
// that only remember, joined by a network in memory. Time is virtual, so that a
// peer that does not answer costs none.

var (
	leftAddr  = netip.MustParseAddr("192.0.2.1")
	rightAddr = netip.MustParseAddr("198.51.100.1")
)

// wire is the network. filter says what passes; nil lets everything pass.
type wire struct {
	mu      sync.Mutex
	sockets map[netip.AddrPort]*socket
	filter  func(src, dst netip.AddrPort, data []byte) bool
}

type socket struct {
	w      *wire
	addr   netip.AddrPort
	in     chan netio.Datagram
	closed chan struct{}
	once   sync.Once
}

func (w *wire) listen(addr netip.AddrPort) *socket {
	s := &socket{w: w, addr: addr, in: make(chan netio.Datagram, 1024), closed: make(chan struct{})}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sockets[addr] = s
	return s
}

func (s *socket) Receive() (netio.Datagram, error) {
	select {
	case d := <-s.in:
		return d, nil
	case <-s.closed:
		return netio.Datagram{}, net.ErrClosed
	}
}

func (s *socket) Send(d netio.Datagram) error {
	s.w.mu.Lock()
	to := s.w.sockets[d.Remote]
	pass := s.w.filter == nil || s.w.filter(d.Local, d.Remote, d.Data)
	s.w.mu.Unlock()
	if to == nil || !pass {
		return nil
	}
	got := netio.Datagram{Data: slices.Clone(d.Data), Local: d.Remote, Remote: d.Local}
	time.AfterFunc(5*time.Millisecond, func() { to.in <- got })
	return nil
}

func (s *socket) SendKeepAlive(_, _ netip.AddrPort) error { return nil }
func (s *socket) LocalPort() uint16                       { return s.addr.Port() }

func (s *socket) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

// side is one end: its configuration, credentials and, once it runs, its daemon
// and book.
type side struct {
	addr   netip.Addr
	c      *conf.Connection
	key    crypto.Signer
	anchor []*x509.Certificate
	pin    *x509.Certificate

	daemon *ike.Daemon
	book   *Book
}

func (s *side) Sign(_ string, scheme suite.SignatureScheme, octets []byte) (message.Auth, error) {
	data, err := scheme.Sign(s.key, octets)
	return message.Auth{Method: message.AuthMethod(scheme.Method), Data: data}, err
}

func (s *side) Verify(v v2.Verify) error {
	verifier, err := pki.NewVerifier(s.anchor, s.pin)
	if err != nil {
		return err
	}
	pub, err := verifier.Verify(v.Certificates, uint8(v.Identity.Kind), []byte(v.Identity.Data), time.Now())
	if err != nil {
		return err
	}
	return suite.VerifyAuth(pub, uint8(v.Auth.Method), v.Auth.Data, v.Octets)
}

// pair is two ends and what is between them.
type pair struct {
	t           *testing.T
	w           *wire
	left, right *side
}

// simulate runs f in virtual time.
func simulate(t *testing.T, f func(p *pair)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := &pair{t: t, left: newSide(leftAddr, rightAddr, "left", "right"), right: newSide(rightAddr, leftAddr, "right", "left")}
		f(p)
	})
}

func newSide(addr, peer netip.Addr, name, peerName string) *side {
	nets := map[string]string{"left": "10.1.0.0/16", "right": "10.2.0.0/16"}
	psk := secret.Copy([]byte("correct horse battery staple"))
	return &side{addr: addr, c: &conf.Connection{
		Name:  "site",
		Local: conf.Party{ID: fqdn(name + ".example"), Auth: conf.AuthPSK, PSK: psk}, Remote: conf.Party{ID: fqdn(peerName + ".example"), Auth: conf.AuthPSK, PSK: psk},
		LocalAddrs: host32(addr), RemoteAddrs: host32(peer),
		Proposals: ikeWords("aes256gcm16-prfsha384-x25519"), DPD: 30 * time.Second, Lifetime: 4 * time.Hour,
		Children: []*conf.Child{{
			Name: "lan", Protocol: ipsec.ESP, ReqID: 7, Local: sel(nets[name]), Remote: sel(nets[peerName]), Proposals: espWords("aes256gcm16-x25519"),
		}},
	}}
}

func fqdn(name string) v2.Identity { return v2.Identity{Kind: message.IDFQDN, Data: name} }

func host32(a netip.Addr) []netip.Prefix { return []netip.Prefix{netip.PrefixFrom(a, a.BitLen())} }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func sel(text ...string) []ipsec.Selector {
	var out []ipsec.Selector
	for _, x := range text {
		out = append(out, must(ipsec.ParseSelector(x)))
	}
	return out
}

func ikeWords(words ...string) (out []ipsec.Proposal) {
	for _, w := range words {
		out = append(out, must(suite.ParseIKE(w)))
	}
	return out
}

func espWords(words ...string) (out []ipsec.Proposal) {
	for _, w := range words {
		out = append(out, must(suite.ParseESP(w)))
	}
	return out
}

// start starts both ends with fresh books, and returns what stops them.
func (p *pair) start() (stop func()) {
	p.w = &wire{sockets: make(map[netip.AddrPort]*socket), filter: p.filter()}
	for _, s := range []*side{p.left, p.right} {
		s.book = new(Book)
		s.book.Configure([]*conf.Connection{s.c})
		s.daemon = ike.New(ike.Options{
			Sockets: []netio.IKESocket{p.w.listen(netip.AddrPortFrom(s.addr, 500)), p.w.listen(netip.AddrPortFrom(s.addr, 4500))},
			Backend: dataplane.NewFake(), Authenticator: s, Rand: rand.Reader, Log: slog.New(slog.DiscardHandler), OnFailure: s.book.Take,
		})
		s.daemon.Apply([]*conf.Connection{s.c}, nil)
		s.daemon.Start()
	}
	return func() {
		p.left.daemon.Close()
		p.right.daemon.Close()
	}
}

func (p *pair) filter() func(src, dst netip.AddrPort, data []byte) bool {
	if p.w == nil {
		return nil
	}
	return p.w.filter
}

// connect brings the tunnel up from the left.
func (p *pair) connect() error {
	ctx, cancel := context.WithTimeout(p.t.Context(), 10*time.Minute)
	defer cancel()
	err := p.left.daemon.Connect(ctx, "site", "lan")
	time.Sleep(time.Second)
	synctest.Wait()
	return err
}

// ---- certificates ----

// authority issues certificates.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func newAuthority(name string) *authority {
	return issue(nil, name, func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
	})
}

// issue makes a certificate that ca signs, or itself where ca is nil.
func issue(ca *authority, name string, change ...func(*x509.Certificate)) *authority {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	now := time.Now()
	t := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(1000 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
	}
	if !strings.Contains(name, " ") {
		t.DNSNames = []string{name}
	}
	for _, f := range change {
		f(t)
	}
	parent, signer := t, crypto.Signer(key)
	if ca != nil {
		parent, signer = ca.cert, ca.key
	}
	der := must(x509.CreateCertificate(rand.Reader, t, parent, pub, signer))
	return &authority{must(x509.ParseCertificate(der)), key}
}

// withCertificates makes both ends authenticate by certificates of one CA.
func (p *pair) withCertificates(change func(ca *authority, l, r *side)) {
	ca := newAuthority("the CA")
	for _, s := range []*side{p.left, p.right} {
		s.anchor = []*x509.Certificate{ca.cert}
		s.c.Local.Auth, s.c.Remote.Auth = conf.AuthCert, conf.AuthCert
		s.c.Remote.Authorities = [][]byte{pki.AuthorityHash(ca.cert)}
		s.certify(issue(ca, s.c.Local.ID.Data))
	}
	change(ca, p.left, p.right)
}

// certify gives an end its certificate.
func (s *side) certify(a *authority, chain ...*authority) {
	s.key, s.c.Local.Certificates = a.key, [][]byte{a.cert.Raw}
	for _, c := range chain {
		s.c.Local.Certificates = append(s.c.Local.Certificates, c.cert.Raw)
	}
}

// ---- cures ----

var errNotMechanical = errors.New("not an edit of the configuration")

// follow applies a cure here to the configuration, as an operator does who
// follows it word by word.
func (s *side) follow(c control.Cure) error {
	words := strings.Fields(c.Edit)
	for i := range words {
		words[i] = strings.Trim(words[i], `",`)
	}
	at := func(n int, want string) bool { return n < len(words) && words[n] == want }
	switch {
	case at(0, "add") && at(2, "to") && at(3, "connections.site.proposals"):
		p, err := suite.ParseIKE(words[1])
		s.c.Proposals = append(s.c.Proposals, p)
		return err
	case at(0, "add") && at(2, "to") && at(3, "connections.site.tunnels.lan.proposals"):
		p, err := suite.ParseESP(words[1])
		s.c.Children[0].Proposals = append(s.c.Children[0].Proposals, p)
		return err
	case at(0, "add") && at(2, "to") && at(3, "connections.site.tunnels.lan.local"):
		s.c.Children[0].Local = append(s.c.Children[0].Local, sel(words[1])...)
		return nil
	case at(0, "add") && at(2, "to") && at(3, "connections.site.tunnels.lan.remote"):
		s.c.Children[0].Remote = append(s.c.Children[0].Remote, sel(words[1])...)
		return nil
	case at(0, "add") && at(2, "to") && at(3, "connections.site.remote.address"):
		s.c.RemoteAddrs = append(s.c.RemoteAddrs, host32(netip.MustParseAddr(words[1]))...)
		return nil
	case at(0, "set") && at(1, "connections.site.remote.id") && at(2, "to"):
		s.c.Remote.ID = fqdn(words[3])
		return nil
	case at(0, "set") && at(1, "connections.site.local.id") && at(2, "to"):
		s.c.Local.ID = fqdn(words[3])
		return nil
	default:
		return errNotMechanical
	}
}

// betweenHosts makes the tunnel one for the two ends themselves.
func (p *pair) betweenHosts() {
	for _, s := range []*side{p.left, p.right} {
		child := s.c.Children[0]
		child.Local = sel(s.c.LocalAddrs[0].String())
		child.Remote = sel(s.c.RemoteAddrs[0].String())
	}
}
