package interop

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"caponier/internal/pki"
)

// pskConfig is a side of a tunnel between the networks inside, both families.
func pskConfig(local, remote *Site, localID, remoteID string) Config {
	return Config{
		Connections: []Connection{{
			Name:        "gw",
			LocalAddrs:  []string{local.Outside.String()},
			RemoteAddrs: []string{remote.Seen.String()},
			Proposals:   "aes256gcm16-prfsha512-x25519",
			Local:       Auth{Auth: "psk", ID: localID},
			Remote:      Auth{Auth: "psk", ID: remoteID},
			Children: []Child{{
				Name:      "net",
				LocalTS:   []string{local.LAN.String(), local.LAN6.String()},
				RemoteTS:  []string{remote.LAN.String(), remote.LAN6.String()},
				Proposals: "aes256gcm16-x25519",
			}},
			Extra: []string{"mobike = no"},
		}},
		PSKs: []PSK{{IDs: []string{localID, remoteID}, Secret: "correct horse battery staple"}},
	}
}

// theSA returns the only IKE SA and its installed child.
func theSA(t *testing.T, s *StrongSwan) (IKESA, ChildSA) {
	t.Helper()
	sas := s.SAs(t)
	if len(sas) != 1 || sas[0].State != "ESTABLISHED" {
		t.Fatalf("IKE SAs: %+v", sas)
	}
	child, ok := sas[0].Child("net")
	if !ok {
		t.Fatalf("no child: %+v", sas[0])
	}
	return sas[0], child
}

const inClear = "ip and net 10.0.0.0/8 or ip6 net fd00::/8"

func TestTunnelWithPSK(t *testing.T) {
	t.Parallel()
	n := NewNetwork(t)
	a := StartStrongSwan(t, n.A.Gateway, pskConfig(n.A, n.B, "a.example", "b.example"))
	b := StartStrongSwan(t, n.B.Gateway, pskConfig(n.B, n.A, "b.example", "a.example"))
	outside := StartCapture(t, n.A.Gateway, Outside)
	a.MustInitiate(t, "net")
	Ping(t, n.A.Host, n.B.HostAddr())
	Ping(t, n.B.Host, n.A.HostAddr6())
	PingSize(t, n.A.Host, n.B.HostAddr(), 4000)
	Transfer(t, n.A.Host, n.B.Host, n.B.HostAddr(), 1<<20)
	Transfer(t, n.B.Host, n.A.Host, n.A.HostAddr6(), 1<<20)

	sa, child := theSA(t, a)
	peer, peerChild := theSA(t, b)
	if sa.Encryption != "AES_GCM_16-256" || sa.PRF != "PRF_HMAC_SHA2_512" || sa.DH != "CURVE_25519" || !sa.Initiator ||
		sa.RemoteID != "b.example" || sa.RemoteHost != "192.0.2.2" || sa.InitiatorSPI != peer.InitiatorSPI {
		t.Errorf("IKE SA is %+v", sa)
	}
	if child.SPIOut != peerChild.SPIIn || child.SPIIn != peerChild.SPIOut || child.Encryption != "AES_GCM_16-256" ||
		!child.Encap || child.PacketsOut == 0 || child.PacketsIn == 0 || child.BytesIn < 1<<20 ||
		len(child.LocalTS) != 2 || child.RemoteTS[0] != "10.2.0.0/24" {
		t.Errorf("CHILD SA is %+v", child)
	}
	outside.Stop(t)
	if leaked := outside.Packets(t, inClear); len(leaked) > 0 {
		t.Errorf("in clear:\n%s", strings.Join(leaked, "\n"))
	}
	if esp := outside.Packets(t, "udp port 4500"); len(esp) < 100 {
		t.Errorf("only %d packets in UDP", len(esp))
	}
}

func TestRekeyAndTerminate(t *testing.T) {
	t.Parallel()
	n := NewNetwork(t)
	a := StartStrongSwan(t, n.A.Gateway, pskConfig(n.A, n.B, "a.example", "b.example"))
	b := StartStrongSwan(t, n.B.Gateway, pskConfig(n.B, n.A, "b.example", "a.example"))
	a.MustInitiate(t, "net")
	first, firstChild := theSA(t, a)

	a.RekeyChild(t, "net")
	Eventually(t, 5*time.Second, "the child is rekeyed", func() bool {
		c, ok := a.SAs(t)[0].Child("net")
		return ok && c.SPIIn != firstChild.SPIIn
	})
	Ping(t, n.A.Host, n.B.HostAddr())
	b.RekeyIKE(t, "gw")
	Eventually(t, 5*time.Second, "the IKE SA is rekeyed", func() bool {
		sas := a.SAs(t)
		return len(sas) == 1 && sas[0].InitiatorSPI != first.InitiatorSPI
	})
	Ping(t, n.B.Host, n.A.HostAddr())

	a.TerminateChild(t, "net")
	if sas := a.SAs(t); len(sas) != 1 || len(sas[0].Children) != 0 {
		t.Errorf("after the child is terminated: %+v", sas)
	}
	a.TerminateIKE(t, "gw")
	Eventually(t, 5*time.Second, "no IKE SA is left", func() bool { return len(a.SAs(t)) == 0 && len(b.SAs(t)) == 0 })
	b.Stop(t)
	if !strings.Contains(b.Log(), "SIGTERM received") {
		t.Error("the log does not tell of the end")
	}
}

// strongSwan accepts what internal/pki issues, and takes the subject for what
// the configuration writes.
func TestTunnelWithCertificates(t *testing.T) {
	for _, key := range []pki.KeyType{pki.ECDSAP256, pki.Ed25519, pki.RSA2048} {
		t.Run(string(key), func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "pki")
			now := time.Now()
			if _, err := pki.Init(dir, pki.Request{Subject: "C=FI, O=netsecvpn, CN=rootca", Key: key}, now); err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"a", "b"} {
				if _, err := pki.Issue(dir, name, pki.Request{Subject: "C=FI, O=netsecvpn, CN=" + name, SANs: []string{name + ".example"}, Key: key}, now); err != nil {
					t.Fatal(err)
				}
			}
			n := NewNetwork(t)
			// One end goes by its subject, the other by its alternative name.
			config := func(local, remote *Site, name, localID, remoteID string) Config {
				c := pskConfig(local, remote, localID, remoteID)
				c.PSKs = nil
				c.Connections[0].Local.Auth, c.Connections[0].Remote.Auth = "pubkey", "pubkey"
				c.Connections[0].Local.Certs = []string{name + ".pem"}
				c.CAs = []string{filepath.Join(dir, "rootca.pem")}
				c.Certs = []string{filepath.Join(dir, name+".pem")}
				c.Keys = []string{filepath.Join(dir, name+".key")}
				return c
			}
			subject := "C=FI, O=netsecvpn, CN=a"
			a := StartStrongSwan(t, n.A.Gateway, config(n.A, n.B, "a", subject, "b.example"))
			b := StartStrongSwan(t, n.B.Gateway, config(n.B, n.A, "b", "b.example", subject))
			a.MustInitiate(t, "net")
			Ping(t, n.A.Host, n.B.HostAddr())
			if sa, _ := theSA(t, b); sa.RemoteID != subject {
				t.Errorf("IKE SA is %+v", sa)
			}
		})
	}
}

func TestTunnelThroughNAT(t *testing.T) {
	t.Parallel()
	n := NewNATNetwork(t)
	a := StartStrongSwan(t, n.A.Gateway, pskConfig(n.A, n.B, "a.example", "b.example"))
	configB := pskConfig(n.B, n.A, "b.example", "a.example")
	configB.Connections[0].RemoteAddrs = nil
	b := StartStrongSwan(t, n.B.Gateway, configB)
	outside := StartCapture(t, n.B.Gateway, Outside)
	a.MustInitiate(t, "net")
	Ping(t, n.A.Host, n.B.HostAddr())
	Ping(t, n.B.Host, n.A.HostAddr())
	if sa, _ := theSA(t, b); sa.RemoteHost != n.A.Seen.String() {
		t.Errorf("IKE SA is %+v", sa)
	}
	outside.Stop(t)
	if seen := outside.Packets(t, "host "+n.A.Outside.String()); len(seen) > 0 {
		t.Errorf("not translated:\n%s", strings.Join(seen, "\n"))
	}
	if leaked := outside.Packets(t, inClear); len(leaked) > 0 {
		t.Errorf("in clear:\n%s", strings.Join(leaked, "\n"))
	}
}

// The harness notices what it is there to notice.
func TestHarnessNoticesFailures(t *testing.T) {
	t.Parallel()
	n := NewNetwork(t)
	wrong := pskConfig(n.A, n.B, "a.example", "b.example")
	wrong.PSKs[0].Secret = "another one"
	a := StartStrongSwan(t, n.A.Gateway, wrong)
	b := StartStrongSwan(t, n.B.Gateway, pskConfig(n.B, n.A, "b.example", "a.example"))
	if err := a.Initiate(t, "net"); err == nil || !strings.Contains(err.Error(), "AUTHENTICATION_FAILED") {
		t.Errorf("initiate with a wrong key: %v", err)
	}
	// Without a tunnel the inner packets cross the link in clear, and are seen.
	outside := StartCapture(t, n.A.Gateway, Outside)
	if !Reaches(t, n.A.Host, n.B.HostAddr()) {
		t.Error("the hosts do not reach each other in clear")
	}
	outside.Stop(t)
	if leaked := outside.Packets(t, inClear); len(leaked) != 2 {
		t.Errorf("seen in clear: %q", leaked)
	}
	if Reaches(t, n.A.Host, n.B.HostAddr().Next()) {
		t.Error("a host that is not there answers")
	}
	a.Reload(t, pskConfig(n.A, n.B, "a.example", "b.example"))
	a.MustInitiate(t, "net")
	b.Crash(t)
	if Reaches(t, n.A.Host, n.B.HostAddr()) {
		t.Error("a peer that has crashed forwards")
	}
}
