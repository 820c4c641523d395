// Package gm holds caponier's GM/T 0022 to a peer that shares no code with it:
// peer.py, in Python on OpenSSL's libcrypto.
package gm

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emmansun/gmsm/sm2"
	"github.com/emmansun/gmsm/smx509"

	"caponier/internal/ike/isakmp"
	"caponier/internal/ike/step"
	v1 "caponier/internal/ike/v1"
	"caponier/internal/ike/v2/conf"
	"caponier/internal/ipsec"
	"caponier/internal/suite"
)

var (
	ours   = netip.MustParseAddr("192.0.2.1")
	theirs = netip.MustParseAddr("198.51.100.1")
)

// credentials are the files of one side, made by the openssl command line.
type credentials struct{ SignCert, SignKey, EncryptCert, EncryptKey string }

// makeCredentials are made once for all tests: by name "ours" and "theirs", issued by
// one authority, of which the certificate stands in "root".
var makeCredentials = sync.OnceValues(func() (map[string]credentials, error) {
	dir, err := os.MkdirTemp("", "gm-")
	if err != nil {
		return nil, err
	}
	const id = "distid:1234567812345678"
	openssl := func(args ...string) {
		if err == nil {
			var text []byte
			if text, err = exec.Command("openssl", args...).CombinedOutput(); err != nil {
				err = fmt.Errorf("openssl %s: %w: %s", args[0], err, text)
			}
		}
	}
	caKey, ca := filepath.Join(dir, "root.key"), filepath.Join(dir, "root.pem")
	openssl("genpkey", "-algorithm", "SM2", "-out", caKey)
	openssl("req", "-x509", "-new", "-key", caKey, "-sm3", "-sigopt", id, "-days", "30", "-subj", "/C=CN/O=netsecvpn/CN=root",
		"-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign", "-out", ca)
	out := map[string]credentials{"root": {SignCert: ca}}
	for _, name := range []string{"ours", "theirs"} {
		file := func(s string) string { return filepath.Join(dir, name+"-"+s) }
		c := credentials{file("sign.pem"), file("sign.key"), file("encrypt.pem"), file("encrypt.key")}
		for _, p := range [][3]string{
			{c.SignCert, c.SignKey, "digitalSignature"}, {c.EncryptCert, c.EncryptKey, "keyEncipherment,dataEncipherment"},
		} {
			if err := os.WriteFile(p[0]+".ext", []byte("keyUsage=critical,"+p[2]+"\nbasicConstraints=critical,CA:FALSE\n"), 0o600); err != nil {
				return nil, err
			}
			openssl("genpkey", "-algorithm", "SM2", "-out", p[1])
			openssl("req", "-new", "-key", p[1], "-sm3", "-sigopt", id, "-subj", "/C=CN/O=netsecvpn/CN="+name, "-out", p[0]+".csr")
			openssl("x509", "-req", "-in", p[0]+".csr", "-CA", ca, "-CAkey", caKey, "-CAcreateserial", "-sm3", "-sigopt", id, "-vfyopt", id,
				"-days", "30", "-extfile", p[0]+".ext", "-out", p[0])
		}
		out[name] = c
	}
	return out, err
})

func TestMain(m *testing.M) {
	code := m.Run()
	if c, err := makeCredentials(); err == nil {
		_ = os.RemoveAll(filepath.Dir(c["ours"].SignCert))
	}
	os.Exit(code)
}

func readCert(t testing.TB, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatalf("%s holds no certificate", file)
	}
	return block.Bytes
}

func readKey(t testing.TB, file string) *sm2.PrivateKey {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatalf("%s holds no key", file)
	}
	key, err := smx509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	private, ok := key.(*sm2.PrivateKey)
	if !ok {
		t.Fatalf("%s holds a %T", file, key)
	}
	return private
}

// settings are those of peer.py: see its head.
type settings map[string]any

// event is one line that the peer reports.
type event map[string]any

func (e event) text(name string) string {
	s, _ := e[name].(string)
	return s
}

func (e event) number(name string) int {
	n, _ := e[name].(float64)
	return int(n)
}

// gateway runs machines of package v1 against the peer, in real time, and does for
// them what the daemon does.
type gateway struct {
	t             testing.TB
	conn          *conf.Connection
	sign, encrypt *sm2.PrivateKey
	peer          *exec.Cmd
	stdin         io.WriteCloser
	in            chan step.Received
	reports       chan event

	machines []*v1.Machine
	pending  []func() // what was asked of the edge
	sad      map[ipsec.SAID]ipsec.SA
	notices  []step.Notice
	failed   *v1.Machine // has reported a failure
	events   []event     // what the peer has reported
	sent     [][]byte
	received [][]byte
	wire     []passed
	nextSPI  uint32
}

// passed is a message that has passed, ours or the peer's.
type passed struct {
	ours bool
	raw  []byte
}

// start runs the peer, and makes a connection to it.
func start(t testing.TB, s settings) *gateway {
	t.Helper()
	creds, err := makeCredentials()
	if err != nil {
		t.Fatal(err)
	}
	all := settings{
		"address": theirs.String(), "peer_address": ours.String(),
		"local": []string{"10.2.0.0", "255.255.0.0"}, "remote": []string{"10.1.0.0", "255.255.0.0"},
	}
	c := creds["theirs"]
	all["sign_cert"], all["sign_key"], all["encrypt_cert"], all["encrypt_key"] = c.SignCert, c.SignKey, c.EncryptCert, c.EncryptKey
	for k, v := range s {
		all[k] = v
	}
	own := creds["ours"]
	local, remote := mustSelector(t, "10.1.0.0/16"), mustSelector(t, "10.2.0.0/16")
	g := &gateway{
		t: t, sign: readKey(t, own.SignKey), encrypt: readKey(t, own.EncryptKey),
		in: make(chan step.Received, 100), reports: make(chan event, 1000), sad: map[ipsec.SAID]ipsec.SA{}, nextSPI: 0x1000,
		conn: &conf.Connection{
			Name: "vendor", Lifetime: 24 * time.Hour, Encapsulation: conf.EncapNever,
			Proposals:  []ipsec.Proposal{{sm4cbc, prfSM3}},
			Retransmit: conf.Retransmit{Initial: 2 * time.Second, Tries: 2},
			Children: []*conf.Child{{
				Name: "lan", Protocol: ipsec.ESP, Local: []ipsec.Selector{local}, Remote: []ipsec.Selector{remote},
				Proposals: []ipsec.Proposal{{sm4cbc, integSM3}}, Lifetime: ipsec.Limit{Time: time.Hour},
			}},
			GM: &conf.GM{SignCertificate: readCert(t, own.SignCert), EncryptCertificate: readCert(t, own.EncryptCert)},
		},
	}
	g.run(all)
	return g
}

var (
	sm4cbc    = ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrSM4CBC}
	sm4gcm    = ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrSM4GCM16}
	prfSM3    = ipsec.Transform{Type: ipsec.TypePRF, ID: ipsec.PRFHMACSM3}
	integSM3  = ipsec.Transform{Type: ipsec.TypeInteg, ID: ipsec.IntegHMACSM3}
	integSM96 = ipsec.Transform{Type: ipsec.TypeInteg, ID: ipsec.IntegHMACSM396}
)

func mustSelector(t testing.TB, text string) ipsec.Selector {
	t.Helper()
	s, err := ipsec.ParseSelector(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (g *gateway) run(s settings) {
	t := g.t
	t.Helper()
	first, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	g.peer = exec.CommandContext(t.Context(), "python3", "-B", "peer.py")
	if g.stdin, err = g.peer.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := g.peer.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr, err := g.peer.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := g.peer.Start(); err != nil {
		t.Fatal(err)
	}
	var readers sync.WaitGroup
	readers.Go(func() {
		for {
			var head [5]byte
			if _, err := io.ReadFull(stdout, head[:]); err != nil {
				return
			}
			data := make([]byte, binary.BigEndian.Uint32(head[:])-1)
			if _, err := io.ReadFull(stdout, data); err != nil {
				return
			}
			port := uint16(500)
			if head[4] == 1 {
				port = 4500
			}
			g.in <- step.Received{Raw: data, Local: netip.AddrPortFrom(ours, port), Remote: netip.AddrPortFrom(theirs, port)}
		}
	})
	readers.Go(func() {
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			var e event
			if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
				e = event{"event": "crash", "line": lines.Text()}
			}
			g.reports <- e
		}
	})
	t.Cleanup(func() {
		_ = g.stdin.Close()
		readers.Wait()
		_ = g.peer.Wait()
	})
	if _, err := g.stdin.Write(append(first, '\n')); err != nil {
		t.Fatal(err)
	}
}

func (g *gateway) env() step.Env {
	return step.Env{
		Rand: rand.Reader,
		AllocateSPI: func(ipsec.Protocol) (ipsec.SPI, error) {
			g.nextSPI++
			return ipsec.SPI(g.nextSPI), nil
		},
		ReleaseSPI: func(ipsec.Protocol, ipsec.SPI) {},
	}
}

// initiate makes our side begin.
func (g *gateway) initiate() *v1.Machine {
	m := v1.NewInitiator(g.env(), g.conn, netip.AddrPortFrom(ours, 500), netip.AddrPortFrom(theirs, 500))
	g.machines = append(g.machines, m)
	g.step(m, step.Initiate{Children: g.conn.Children})
	return m
}

// until runs everything until cond holds, and reports whether it came to that.
func (g *gateway) until(limit time.Duration, cond func() bool) bool {
	g.t.Helper()
	end := time.Now().Add(limit)
	for {
		for len(g.pending) > 0 {
			f := g.pending[0]
			g.pending = g.pending[1:]
			f()
		}
		if cond() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
		now := time.Now()
		for _, m := range slices.Clone(g.machines) {
			if dl := m.Deadline(); !dl.IsZero() && !dl.After(now) {
				g.step(m, step.Timeout{})
			}
		}
		if len(g.pending) > 0 {
			continue
		}
		select {
		case r := <-g.in:
			g.received = append(g.received, r.Raw)
			g.wire = append(g.wire, passed{raw: r.Raw})
			g.dispatch(r)
		case e := <-g.reports:
			if e.text("event") == "crash" {
				g.t.Logf("peer: %s", e.text("line"))
			}
			g.events = append(g.events, e)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (g *gateway) dispatch(r step.Received) {
	h, err := isakmp.ParseHeader(r.Raw)
	if err != nil {
		g.t.Errorf("the peer sent %x: %v", r.Raw, err)
		return
	}
	for _, m := range g.machines {
		i, _ := m.SPIs()
		if i == h.InitiatorCookie {
			g.step(m, r)
			return
		}
	}
	if h.Exchange == isakmp.MainMode && h.ResponderCookie == 0 {
		m := v1.NewResponder(g.env(), []*conf.Connection{g.conn}, r.Local, r.Remote)
		g.machines = append(g.machines, m)
		g.step(m, r)
	}
}

func (g *gateway) step(m *v1.Machine, e step.Event) {
	for _, a := range m.Step(time.Now(), e) {
		g.perform(m, a)
	}
}

func (g *gateway) later(m *v1.Machine, e step.Event) {
	g.pending = append(g.pending, func() { g.step(m, e) })
}

func (g *gateway) perform(m *v1.Machine, a step.Action) {
	switch a := a.(type) {
	case step.Send:
		g.sent = append(g.sent, bytes.Clone(a.Data))
		g.wire = append(g.wire, passed{ours: true, raw: bytes.Clone(a.Data)})
		g.write(a)
	case step.Unwrap:
		key, encoding, err := suite.SM2Decrypt(rand.Reader, g.encrypt, a.Ciphertext)
		g.later(m, step.Unwrapped{Token: a.Token, Key: key, Encoding: encoding, Err: err})
	case step.Envelope:
		answer := step.Enveloped{Token: a.Token}
		if cert, err := smx509.ParseCertificate(a.Encryption); err != nil {
			answer.Err = err
		} else if answer.Ciphertext, err = suite.SM2Encrypt(rand.Reader, cert.PublicKey, a.Key, a.Encoding); err != nil {
			answer.Err = err
		} else {
			answer.Signature, answer.Err = suite.SM2Sign(rand.Reader, g.sign, "", a.Style, a.Octets)
		}
		g.later(m, answer)
	case step.Examine:
		g.later(m, examine(a))
	case step.InstallSA:
		g.sad[a.SA.ID()] = a.SA
	case step.RemoveSA:
		delete(g.sad, a.ID)
	case step.Begin:
		next := a.Machine.(*v1.Machine)
		g.machines = append(g.machines, next)
		g.later(next, a.Event)
	case step.Tell:
		g.later(a.To.(*v1.Machine), a.Event)
	case step.Report:
		if a.What.Kind == step.IKEFailed || a.What.Kind == step.ChildFailed {
			g.failed = m
		}
		if a.What.Kind == step.PeerDropped {
			return
		}
		g.notices = append(g.notices, a.What)
		if a.What.Kind == step.IKEUp {
			for _, old := range g.machines {
				if old != m && old.Status().State == step.Established {
					g.later(old, step.Yield{To: m})
				}
			}
		}
	case step.Done:
		g.machines = slices.DeleteFunc(g.machines, func(x *v1.Machine) bool { return x == m })
	default:
	}
}

func (g *gateway) write(a step.Send) {
	frame := binary.BigEndian.AppendUint32(nil, uint32(len(a.Data)+1))
	port := byte(0)
	if a.Local.Port() == 4500 {
		port = 1
	}
	frame = append(append(frame, port), a.Data...)
	if _, err := g.stdin.Write(frame); err != nil && !errors.Is(err, os.ErrClosed) {
		g.t.Logf("write to the peer: %v", err)
	}
}

func examine(a step.Examine) step.Examined {
	answer := step.Examined{Token: a.Token, Err: suite.ErrSM2}
	sign, err := smx509.ParseCertificate(a.Certificates[0])
	if err != nil {
		answer.Err = err
		return answer
	}
	encrypt, err := smx509.ParseCertificate(a.Encryption)
	if err != nil {
		answer.Err = err
		return answer
	}
	if sign.KeyUsage&smx509.KeyUsageDigitalSignature == 0 || encrypt.KeyUsage&smx509.KeyUsageDataEncipherment == 0 {
		answer.Err = errors.New("a certificate has the wrong usage")
		return answer
	}
	for i, octets := range a.Octets {
		if style, err := suite.SM2Verify(sign.PublicKey, "", octets, a.Signature); err == nil {
			answer.Style, answer.Form, answer.Err = style, i, nil
		}
	}
	return answer
}

// ---- looking ----

func (g *gateway) count(kind step.NoticeKind) int {
	n := 0
	for _, x := range g.notices {
		if x.Kind == kind {
			n++
		}
	}
	return n
}

// reported returns the events of a kind.
func (g *gateway) reported(kind string) []event {
	var out []event
	for _, e := range g.events {
		if e.text("event") == kind {
			out = append(out, e)
		}
	}
	return out
}

func (g *gateway) errors() string {
	var out []string
	for _, n := range g.notices {
		if n.Err != nil {
			out = append(out, n.Code+": "+n.Err.Error())
		}
	}
	for _, e := range g.events {
		if k := e.text("event"); k == "refused" || k == "crash" {
			out = append(out, fmt.Sprint("peer: ", e))
		}
	}
	return strings.Join(out, "\n")
}

// mustHave waits until the peer has made so many pairs of IPsec SAs, and compares
// the last with ours, key by key.
func (g *gateway) mustHave(n int) {
	g.t.Helper()
	if !g.until(time.Minute, func() bool {
		return len(g.reported("child")) >= n && g.count(step.ChildUp)+g.count(step.ChildRekeyed) >= n
	}) {
		g.t.Fatalf("%d pairs at the peer, notices %+v, want %d:\n%s", len(g.reported("child")), g.notices, n, g.errors())
	}
	c := g.reported("child")[n-1]
	g.compare(c, ipsec.Out, "in_spi", "in_key")
	g.compare(c, ipsec.In, "out_spi", "out_key")
}

func (g *gateway) compare(c event, d ipsec.Direction, spi, key string) {
	g.t.Helper()
	for id, sa := range g.sad {
		if id.Direction == d && strings.TrimPrefix(id.SPI.String(), "0x") == c.text(spi) {
			if got := fmt.Sprintf("%x%x", sa.EncrKey.Bytes(), sa.IntegKey.Bytes()); got != c.text(key) {
				g.t.Errorf("%s %s: our key differs from the peer's", d, id.SPI)
			}
			return
		}
	}
	g.t.Errorf("we have no %s SA %s", d, c.text(spi))
}

func hexOf(s string) string { return fmt.Sprintf("%x", s) }
