package ike

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"time"

	"caponier/internal/ike/message"
	v2 "caponier/internal/ike/v2"
	"caponier/internal/ipsec"
	"caponier/internal/netio"
)

const (
	// cookieThreshold is how many half-open IKE SAs there may be before a new one
	// has to show, by returning a cookie, that its address is its own (RFC 7296,
	// Section 2.6). It is far above what a busy gateway has in quiet times, where
	// each lasts some round trips; when many peers come at once, after a restart,
	// it costs each of them one round trip more. It is what forged addresses can
	// make this side compute key exchanges for, in half a minute.
	cookieThreshold = 64
	// cookieLife is how long a secret makes cookies. They are good for as long
	// again: a peer's answer takes a round trip, and some repetitions.
	cookieLife = time.Minute

	cookieLen = 1 + sha256.Size
)

// cookieJar makes and checks cookies, and keeps nothing for any of them. A cookie
// is the number of its secret, and an HMAC over what the peer must repeat: its
// address, its SPI and its nonce.
type cookieJar struct {
	rand io.Reader

	mu       sync.Mutex
	current  cookieSecret
	previous cookieSecret
}

type cookieSecret struct {
	key     [32]byte
	number  byte
	since   time.Time
	present bool
}

// rotate makes a new secret where the current one is old. The one before it is
// good for one more cookieLife.
func (j *cookieJar) rotate(now time.Time) error {
	age := now.Sub(j.current.since)
	if j.current.present && age < cookieLife {
		return nil
	}
	next := cookieSecret{number: j.current.number + 1, since: now, present: true}
	if _, err := io.ReadFull(j.rand, next.key[:]); err != nil {
		return fmt.Errorf("secret of cookies: %w", err)
	}
	j.previous = cookieSecret{}
	if age < 2*cookieLife {
		j.previous = j.current
	}
	j.current = next
	return nil
}

// bake returns the cookie for a request.
func (j *cookieJar) bake(now time.Time, from netip.AddrPort, spi message.SPI, nonce []byte) ([]byte, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.rotate(now); err != nil {
		return nil, err
	}
	return j.current.bake(from, spi, nonce), nil
}

// good reports whether a cookie is one of ours for this request.
func (j *cookieJar) good(now time.Time, cookie []byte, from netip.AddrPort, spi message.SPI, nonce []byte) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(cookie) != cookieLen || j.rotate(now) != nil {
		return false
	}
	for _, s := range []*cookieSecret{&j.current, &j.previous} {
		if s.present && s.number == cookie[0] {
			return hmac.Equal(cookie, s.bake(from, spi, nonce))
		}
	}
	return false
}

func (s *cookieSecret) bake(from netip.AddrPort, spi message.SPI, nonce []byte) []byte {
	mac := hmac.New(sha256.New, s.key[:])
	addr := from.Addr().As16()
	mac.Write(addr[:])
	var fixed [10]byte
	binary.BigEndian.PutUint16(fixed[:], from.Port())
	binary.BigEndian.PutUint64(fixed[2:], uint64(spi))
	mac.Write(fixed[:])
	mac.Write(nonce)
	return mac.Sum([]byte{s.number})
}

// admit reports whether an IKE_SA_INIT request may go on to a machine. When there
// are many half-open IKE SAs, one without a good cookie is answered with one and
// forgotten.
func (d *Daemon) admit(h message.Header, ev v2.Received) bool {
	d.mu.Lock()
	busy := len(d.halfOpen) >= cookieThreshold
	d.mu.Unlock()
	if !busy {
		return true
	}
	msg, err := message.Parse(ev.Raw)
	if err != nil {
		d.counters.malformed.Add(1)
		return false
	}
	nonce, ok := message.Find[*message.Nonce](msg)
	if !ok {
		d.counters.malformed.Add(1)
		return false
	}
	if n, ok := msg.Notify(message.Cookie); ok {
		if d.cookies.good(d.now(), n.Data, ev.Remote, h.InitiatorSPI, nonce.Data) {
			return true
		}
		d.counters.wrongCookie.Add(1)
	}
	cookie, err := d.cookies.bake(d.now(), ev.Remote, h.InitiatorSPI, nonce.Data)
	if err != nil {
		d.log.Error("no cookie for a peer", "error", err)
		return false
	}
	answer := message.Message{
		Header: message.Header{
			InitiatorSPI: h.InitiatorSPI, Exchange: message.IKESAInit, Flags: message.FlagResponse, MessageID: h.MessageID,
		},
		Payloads: []message.Payload{&message.Notify{Kind: message.Cookie, Data: cookie}},
	}
	raw, err := answer.Append(nil)
	if err != nil {
		d.log.Error("no cookie for a peer", "error", err)
		return false
	}
	d.counters.cookies.Add(1)
	dg := netio.Datagram{Data: raw, Local: ev.Local, Remote: ev.Remote}
	d.show(ipsec.Out, "", dg)
	d.send(dg)
	return false
}
