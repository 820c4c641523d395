package v2

import (
	"bytes"
	"crypto/rand"
	"slices"
	"testing"
	"time"

	"caponier/internal/ike/v2/conf"

	"caponier/internal/ipsec"
	"caponier/internal/secret"
)

func TestProposeSelectors(t *testing.T) {
	w := newWorld(t, 1)
	l, _ := w.pskPair()
	src, dst := sel(t, "10.1.0.7/32")[0].First, sel(t, "10.2.0.9/32")[0].First
	local, remote := l.Children[0].Propose(leftAddr, rightAddr, &ipsec.Flow{Src: src, Dst: dst, Protocol: 6, SrcPort: 1000, DstPort: 80})
	if !slices.Equal(local, sel(t, "10.1.0.7/32:tcp/1000", "10.1.0.0/16")) ||
		!slices.Equal(remote, sel(t, "10.2.0.9/32:tcp/80", "10.2.0.0/16")) {
		t.Errorf("%v === %v", local, remote)
	}
	local, _ = l.Children[0].Propose(leftAddr, rightAddr, &ipsec.Flow{Src: dst, Dst: src, Protocol: 6})
	if !slices.Equal(local, sel(t, "10.1.0.0/16")) {
		t.Errorf("a packet that does not fit: %v", local)
	}
	host := &Child{}
	if local, remote = host.Propose(leftAddr, rightAddr, nil); !slices.Equal(local, sel(t, "192.0.2.1/32")) || !slices.Equal(remote, sel(t, "198.51.100.1/32")) {
		t.Errorf("host to host: %v === %v", local, remote)
	}
}

func TestFlowInFront(t *testing.T) {
	w := newWorld(t, 1)
	w.pskPair()
	flow := ipsec.Flow{Src: sel(t, "10.1.0.7/32")[0].First, Dst: sel(t, "10.2.0.9/32")[0].First, Protocol: 6, SrcPort: 1, DstPort: 2}
	w.up(Initiate{Flow: &flow})
	for _, sa := range w.right.sad {
		if !slices.Equal(sa.RemoteTS, sel(t, "10.1.0.0/16")) {
			t.Errorf("selectors %v", sa.RemoteTS)
		}
	}
}

// A rekeying has time for its exchange also before the end of the shortest
// lifetimes, and does not begin at the same moment every time.
func TestSoftenTime(t *testing.T) {
	m := &Machine{env: &Env{Rand: rand.Reader}}
	for _, c := range []struct{ life, earliest, latest time.Duration }{
		{time.Hour, 48 * time.Minute, 54 * time.Minute},
		{20 * time.Second, 16 * time.Second, 18 * time.Second},
		{5 * time.Second, 2500 * time.Millisecond, 3 * time.Second},
		{time.Second, 400 * time.Millisecond, 500 * time.Millisecond},
	} {
		seen := make(map[time.Duration]bool)
		for range 100 {
			soft := conf.SoftenTime(c.life, m.randomBelow)
			if soft < c.earliest || soft > c.latest {
				t.Errorf("of %v rekeying begins after %v", c.life, soft)
			}
			seen[soft] = true
		}
		if len(seen) < 2 {
			t.Errorf("of %v rekeying always begins after the same time", c.life)
		}
	}
}

// An emergency leaves nothing at once, in whatever state: the peer hears of it,
// but nobody waits for the peer.
func TestDestroy(t *testing.T) {
	for name, after := range map[string]time.Duration{"set-up": 5 * time.Millisecond, "established": 10 * time.Second} {
		w := newWorld(t, 1)
		w.pskPair()
		w.initiate(Initiate{})
		w.run(after)
		l := w.left.machines[0]
		session := l.session
		w.left.step(l, Destroy{})
		if len(w.left.machines) != 0 || len(w.left.sad) != 0 || len(w.left.reserved) != 0 {
			t.Errorf("%s: %d machines, %d SAs and %d SPIs remain", name, len(w.left.machines), len(w.left.sad), len(w.left.reserved))
		}
		if session != nil {
			for _, k := range []secret.Key{session.Keys.D, session.Keys.Ei, session.Keys.Er} {
				if !bytes.Equal(k.Bytes(), make([]byte, k.Len())) {
					t.Errorf("%s: a key is left", name)
				}
			}
		}
		w.run(time.Minute)
		if name == "established" {
			w.left.mustReport(t, IKEDown, "closed")
			w.right.mustReport(t, IKEDown, "deleted")
			w.check(0)
		}
	}
}
