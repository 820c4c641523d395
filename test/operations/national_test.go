package operations

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"caponier/internal/lab/netns"
)

// TestNationalSuites runs IKE and ESP with SM4 and SM3 alone, as far as there are
// such algorithms: what is configured is what carries the traffic, through
// rekeying of both.
func TestNationalSuites(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ ike, esp, other string }{
		{"sm4gcm16-prfsm3-x25519", "sm4gcm16-x25519", "sm4cbc-sm3-prfsm3-ecp256"},
		{"sm4cbc-sm3-prfsm3-ecp256", "sm4cbc-sm3-ecp256", "sm4gcm16-prfsm3-x25519"},
		{"sm4cbc-sm3_128-prfsm3-ecp256", "sm4cbc-sm3_96", "sm4cbc-sm3-prfsm3-ecp256"},
	} {
		t.Run(tt.ike, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			c := peers([]string{"proposals: [" + tt.ike + "]"},
				through(net4in4, "proposals: ["+tt.esp+"]"), through(net6in4, "proposals: ["+tt.esp+"]"))
			for _, g := range []*gateway{s.gwA, s.gwB} {
				g.configure(nil, c)
				g.start()
			}
			s.tap.arm()
			for _, n := range []subnet{net4in4, net6in4} {
				mustPing(t, s.hostA, n.hostA, n.hostB, 3)
				talk(t, s.hostB, n.hostB, s.hostA, n.hostA)
				s.gwA.do("rekey", "peer/"+n.name)
				transfer(t, s.hostA, n.hostA, s.hostB, n.hostB, 8<<20)
			}
			s.gwB.do("rekey", "peer")
			for _, n := range []subnet{net4in4, net6in4} {
				mustPing(t, s.hostB, n.hostB, n.hostA, 3)
			}
			encr, integ, _ := strings.Cut(strings.TrimSuffix(strings.TrimSuffix(tt.esp, "-x25519"), "-ecp256"), "-")
			sas := s.gwA.sas()
			if len(sas) < 4 {
				t.Errorf("%d SAs, of two tunnels in two directions", len(sas))
			}
			for _, sa := range sas {
				if !strings.Contains(sa.Algorithms, encr) || !strings.Contains(sa.Algorithms, integ) {
					t.Errorf("an SA of %s has %s", tt.esp, sa.Algorithms)
				}
				if sa.IntegrityDrops != 0 {
					t.Errorf("packets with wrong ICVs: %+v", sa)
				}
			}
			s.tap.mustBeTight(t, "with "+tt.ike)

			// Who knows other numbers gets an answer, and nothing in clear.
			s.gwA.configure(nil, peers([]string{"proposals: [" + tt.other + "]"}, through(net4in4)))
			s.gwA.do("reload")
			s.gwA.do("disconnect", "peer")
			if out, err := s.gwA.try("connect", "peer"); err == nil || !strings.Contains(err.Error(), "no-proposal-chosen") {
				t.Errorf("connect with %s: %s, %v", tt.other, out, err)
			}
		})
	}
}

// transfer sends n octets over TCP and compares what arrives. The octets count
// as the marker's: in clear the tap would see them.
func transfer(t *testing.T, from netns.NS, src netip.Addr, to netns.NS, dst netip.Addr, n int) {
	t.Helper()
	l, err := to.Listen("tcp", netip.AddrPortFrom(dst, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	arrived := make(chan []byte, 1)
	go func() {
		defer close(arrived)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		b, err := io.ReadAll(c)
		if err == nil {
			arrived <- b
		}
	}()
	var c net.Conn
	err = from.Do(func() error {
		d := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: src.AsSlice()}}
		var err error
		c, err = d.DialContext(t.Context(), "tcp", l.Addr().String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	sent := bytes.Repeat([]byte(marker), n/len(marker))
	if _, err := c.Write(sent); err != nil {
		t.Errorf("TCP from %s to %s: %v", src, dst, err)
		return
	}
	c.Close()
	select {
	case got := <-arrived:
		if !bytes.Equal(got, sent) {
			t.Errorf("TCP from %s to %s: %d octets arrived of %d, or others", src, dst, len(got), len(sent))
		}
	case <-time.After(30 * time.Second):
		t.Errorf("TCP from %s to %s does not end", src, dst)
	}
}
