package ike

import (
	"crypto/rand"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"testing/iotest"
	"time"

	"caponier/internal/ike/message"
	v2 "caponier/internal/ike/v2"
	"caponier/internal/netio"
)

// RFC 7296, Section 2.6: a cookie is good for the request that it was made for,
// and after a change of the secret for a while.
func TestCookieJar(t *testing.T) {
	j := &cookieJar{rand: rand.Reader}
	from := netip.MustParseAddrPort("192.0.2.1:500")
	nonce := []byte("a nonce of the initiator")
	start := time.Unix(1_800_000_000, 0)
	cookie, err := j.bake(start, from, 7, nonce)
	if err != nil {
		t.Fatal(err)
	}
	if len(cookie) > 64 {
		t.Errorf("%d octets, RFC 7296 allows 64", len(cookie))
	}
	good := func(after time.Duration) bool { return j.good(start.Add(after), cookie, from, 7, nonce) }
	if !good(0) || !good(cookieLife-1) {
		t.Error("a good cookie is refused")
	}
	at := start.Add(time.Second)
	other := slices.Clone(cookie)
	other[0]++
	flipped := slices.Clone(cookie)
	flipped[len(flipped)-1] ^= 1
	for name, is := range map[string]bool{
		"address":    j.good(at, cookie, netip.MustParseAddrPort("192.0.2.2:500"), 7, nonce),
		"port":       j.good(at, cookie, netip.MustParseAddrPort("192.0.2.1:501"), 7, nonce),
		"SPI":        j.good(at, cookie, from, 8, nonce),
		"nonce":      j.good(at, cookie, from, 7, nonce[1:]),
		"no cookie":  j.good(at, nil, from, 7, nonce),
		"cut off":    j.good(at, cookie[:len(cookie)-1], from, 7, nonce),
		"longer":     j.good(at, append(slices.Clone(cookie), 0), from, 7, nonce),
		"all zero":   j.good(at, make([]byte, cookieLen), from, 7, nonce),
		"the secret": j.good(at, other, from, 7, nonce),
		"one bit":    j.good(at, flipped, from, 7, nonce),
	} {
		if is {
			t.Errorf("good with another %s", name)
		}
	}
	if !good(cookieLife) || !good(2*cookieLife-1) {
		t.Error("refused just after the secret changed")
	}
	if good(2*cookieLife+1) || good(10*cookieLife) {
		t.Error("still good when its secret is too old")
	}
	// A secret that nobody asked for in a long time is no predecessor.
	cookie, err = j.bake(start.Add(20*cookieLife), from, 7, nonce)
	if err != nil {
		t.Fatal(err)
	}
	if !good(20*cookieLife) || good(22*cookieLife) {
		t.Error("the secret lives too long")
	}
	j = &cookieJar{rand: iotest.ErrReader(errors.New("no entropy"))}
	if _, err := j.bake(start, from, 7, nonce); err == nil || good(0) {
		t.Error("a cookie without a secret")
	}
}

// requestFrom makes the flood: requests that differ in their SPI, with a cookie
// where it is not nil.
func requestFrom(template []byte, spi uint64, cookie []byte) []byte {
	b := slices.Clone(template)
	b[0], b[5], b[6], b[7] = 0xee, byte(spi>>16), byte(spi>>8), byte(spi)
	if cookie == nil {
		return b
	}
	msg := must(message.Parse(b))
	msg.Payloads = slices.Insert(msg.Payloads, 0, message.Payload(&message.Notify{Kind: message.Cookie, Data: cookie}))
	return must(msg.Append(nil))
}

// TestFloodFromForgedAddresses: peers connect while requests come from addresses
// that nobody answers at.
func TestFloodFromForgedAddresses(t *testing.T) {
	simulate(t, func(t *testing.T, n *network) {
		open := changed(end("site", false), func(c *v2.Connection) { c.RemoteAddrs = nil })
		g := n.gateway(t, rightAddr, []*v2.Connection{open})
		to := netip.AddrPortFrom(rightAddr, 500)
		template := initRequest(netip.AddrPortFrom(leftAddr, 500), to, "aes256gcm16-prfsha256-x25519")
		stop, stopped := make(chan struct{}), make(chan struct{})
		var bytesIn int
		go func() {
			defer close(stopped)
			for i := uint64(0); ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				src := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 500)
				var cookie []byte
				if i%3 == 0 { // some guess
					cookie = make([]byte, cookieLen)
					cookie[0] = byte(i)
				}
				raw := requestFrom(template, i, cookie)
				bytesIn += len(raw)
				n.send(netio.Datagram{Data: raw, Local: src, Remote: to})
				if i%20 == 19 {
					time.Sleep(10 * time.Millisecond)
				}
			}
		}()
		pass(2 * time.Second)
		l := n.gateway(t, leftAddr, []*v2.Connection{end("site", true)})
		l.connect("site", "lan")
		mustMirror(t, l, g, 1)
		c := g.Counters()
		close(stop)
		<-stopped
		if c["ike-half-open"] != cookieThreshold || c["ike-sas"] > cookieThreshold+2 {
			t.Errorf("%d half-open IKE SAs, %d in all", c["ike-half-open"], c["ike-sas"])
		}
		if c["ike-cookies-out"] < 1000 || c["ike-drop-wrong-cookie"] < 300 {
			t.Errorf("counters %v", c)
		}
		bytesOut := 0
		n.mu.Lock()
		for _, d := range n.sent {
			if d.Local.Addr() == rightAddr && d.Remote.Addr() != leftAddr {
				bytesOut += len(d.Data)
			}
		}
		n.mu.Unlock()
		if bytesOut > bytesIn/2 {
			t.Errorf("%d octets in, %d out", bytesIn, bytesOut)
		}
		pass(time.Minute)
		if c := g.Counters(); c["ike-half-open"] != 0 || c["ike-sas"] != 1 {
			t.Errorf("after the flood %v", c)
		}
	})
}

// A request under load that is malformed is not answered.
func TestMalformedRequestGetsNoCookie(t *testing.T) {
	simulate(t, func(t *testing.T, n *network) {
		open := changed(end("site", false), func(c *v2.Connection) { c.RemoteAddrs = nil })
		g := n.gateway(t, rightAddr, []*v2.Connection{open})
		to := netip.AddrPortFrom(rightAddr, 500)
		template := initRequest(netip.AddrPortFrom(leftAddr, 500), to, "aes256gcm16-prfsha256-x25519")
		for i := range uint64(cookieThreshold) {
			src := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 500)
			n.send(netio.Datagram{Data: requestFrom(template, i, nil), Local: src, Remote: to})
		}
		pass(time.Second)
		before := g.Counters()
		src := netip.MustParseAddrPort("203.0.113.66:500")
		bad := requestFrom(template, 1<<16, nil)
		bad[len(bad)-3]++ // inside the last payload
		bad = append(bad, 0)
		n.send(netio.Datagram{Data: bad, Local: src, Remote: to})
		empty := must((&message.Message{Header: message.Header{
			InitiatorSPI: 5, Exchange: message.IKESAInit, Flags: message.FlagInitiator,
		}}).Append(nil))
		n.send(netio.Datagram{Data: empty, Local: src, Remote: to})
		pass(time.Second)
		after := g.Counters()
		if after["ike-drop-malformed"] != before["ike-drop-malformed"]+2 || after["ike-messages-out"] != before["ike-messages-out"] {
			t.Errorf("before %v, after %v", before, after)
		}
	})
}
