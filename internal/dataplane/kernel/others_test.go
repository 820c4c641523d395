package kernel

import (
	"bytes"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"

	"caponier/internal/dataplane/kernel/xfrm"
	"caponier/internal/ipsec"
)

// theirs is a policy of somebody else.
var theirs = []string{"src", "10.9.0.0/16", "dst", "10.8.0.0/16", "dir", "out", "priority", "1000"}

func addTheirs(t *testing.T, ip func(args ...string), policy []string) {
	t.Helper()
	ip(append([]string{"xfrm", "policy", "add"}, append(slices.Clone(policy), "tmpl", "proto", "esp", "reqid", "99", "mode", "transport")...)...)
}

// kill ends a plane as kill -9 does: nothing is tidied up.
func kill(p *Plane) {
	p.close.Do(func() {
		close(p.stop)
		p.notify.nl.Close()
		p.wg.Wait()
		p.req.close()
		p.stats.close()
		p.events.Close()
	})
}

func TestTheNextRunTakesOver(t *testing.T) {
	ns := newNamespace(t)
	ip := func(args ...string) { t.Helper(); ipText(t, ns, args...) }
	addTheirs(t, ip, theirs)
	ip("xfrm", "state", "allocspi", "src", "192.0.2.8", "dst", "192.0.2.9", "proto", "esp", "mode", "tunnel", "reqid", "99", "min", "0x1000", "max", "0x1000")
	first := newPlane(t, ns)
	outside(t, ns)
	old := lan(true)
	old.Name, old.ReqID, old.Remote = "peer/old", 8, selectors("10.3.0.0/16")
	set(t, first, lan(true), old)
	before := policiesOf(t, ns)
	kill(first)
	if diff := cmp.Diff(before, policiesOf(t, ns)); diff != "" {
		t.Errorf("with the process went policies:\n%s", diff)
	}

	second := newPlane(t, ns)
	if diff := cmp.Diff(before, policiesOf(t, ns)); diff != "" {
		t.Errorf("a start changes the policies before it is told to:\n%s", diff)
	}
	ages := ipText(t, ns, "-s", "xfrm", "policy", "list", "src", "10.1.0.0/16", "dst", "10.2.0.0/16", "dir", "out")
	set(t, second, lan(true))
	after := policiesOf(t, ns)
	want := slices.DeleteFunc(slices.Clone(before), func(s string) bool { return strings.Contains(s, "10.3.0.0/16") })
	if diff := cmp.Diff(want, after); diff != "" {
		t.Errorf("after the take-over:\n%s", diff)
	}
	if again := ipText(t, ns, "-s", "xfrm", "policy", "list", "src", "10.1.0.0/16", "dst", "10.2.0.0/16", "dir", "out"); again != ages {
		t.Errorf("a policy that stays was made anew: %s\n%s", ages, again)
	}
	speak(t, ns)
	if e := nextEvent[ipsec.Acquire](t, second); e.Policy != "peer/lan" {
		t.Errorf("the policy that was taken over says %+v", e)
	}

	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, policiesOf(t, ns)); diff != "" {
		t.Errorf("after Close, which is to leave traffic blocked:\n%s", diff)
	}
	third := newPlane(t, ns)
	set(t, third)
	if left := policiesOf(t, ns); len(left) != 1 || !strings.Contains(left[0], "reqid 99") {
		t.Errorf("somebody else's policy alone should be left: %v", left)
	}
	if states := ipText(t, ns, "xfrm", "state"); !strings.Contains(states, "reqid 99") {
		t.Errorf("somebody else's state is gone: %s", states)
	}
}

func TestOthersInTheWayAreNamed(t *testing.T) {
	ns := newNamespace(t)
	p := newPlane(t, ns)
	ip := func(args ...string) { t.Helper(); ipText(t, ns, args...) }
	for _, c := range []struct {
		name   string
		policy string
		same   bool
		fails  bool
	}{
		{"in the very place", "src 10.1.0.0/16 dst 10.2.0.0/16 dir out priority 99999999", true, true},
		{"inside, and before", "src 10.1.2.0/24 dst 10.2.0.0/16 dir out priority 1000", false, true},
		{"around, and before", "src 0.0.0.0/0 dst 10.0.0.0/8 dir out priority 1000", false, true},
		{"inside, and behind", "src 10.1.2.0/24 dst 10.2.0.0/16 dir out priority 99999999", false, false},
		{"elsewhere", "src 10.7.0.0/16 dst 10.2.0.0/16 dir out priority 1", false, false},
		{"of the other direction", "src 10.1.0.0/16 dst 10.2.0.0/16 dir in priority 1", false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			addTheirs(t, ip, strings.Fields(c.policy))
			before := policiesOf(t, ns)
			err := p.SetPolicies([]ipsec.Policy{lan(true)})
			foreign, is := errors.AsType[*ForeignError](err)
			if is != c.fails || is && (foreign.Same != c.same || foreign.Policy != "peer/lan") {
				t.Errorf("got %v", err)
			}
			if is {
				var stays error
				if inside := ns.Do(func() error { stays = CheckPolicies([]ipsec.Policy{lan(true)}); return nil }); inside != nil || stays == nil {
					t.Errorf("CheckPolicies says %v, %v", stays, inside)
				}
				if diff := cmp.Diff(before, policiesOf(t, ns)); diff != "" {
					t.Errorf("something was installed all the same:\n%s", diff)
				}
			}
			set(t, p)
			ip("xfrm", "policy", "flush")
		})
	}
}

func TestHalfAChangeIsTakenBack(t *testing.T) {
	ns := newNamespace(t)
	p := newPlane(t, ns)
	set(t, p, lan(true))
	before := policiesOf(t, ns)
	more := lan(true)
	more.Name, more.ReqID, more.Remote = "peer/more", 8, selectors("10.3.0.0/16", "10.4.0.0/16", "10.5.0.0/16")
	b, _, err := compile([]ipsec.Policy{more}, func(uint32) []*ipsec.SA { return nil })
	if err != nil {
		t.Fatal(err)
	}
	// Somebody comes in between.
	ipText(t, ns, "xfrm", "policy", "add", "src", "10.5.0.0/16", "dst", "10.1.0.0/16", "dir", "fwd", "priority", "99999999")
	touched := make(map[slot]bool)
	for s := range b.slots {
		touched[s] = true
	}
	for s := range p.installed {
		touched[s] = true
	}
	p.mu.Lock()
	err = p.apply(b, touched)
	p.mu.Unlock()
	if _, is := errors.AsType[*ForeignError](err); !is {
		t.Fatalf("got %v", err)
	}
	ipText(t, ns, "xfrm", "policy", "delete", "src", "10.5.0.0/16", "dst", "10.1.0.0/16", "dir", "fwd")
	if diff := cmp.Diff(before, policiesOf(t, ns)); diff != "" {
		t.Errorf("after a change that failed:\n%s", diff)
	}
	set(t, p, lan(true), more)
	if n := len(policiesOf(t, ns)); n != 12 {
		t.Errorf("%d policies, want 12", n)
	}
}

// waitFor waits until ok.
func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no %s", what)
		}
	}
}

func TestRemovedPoliciesArePutBack(t *testing.T) {
	ns := newNamespace(t)
	p := newPlane(t, ns)
	set(t, p, lan(true))
	before := policiesOf(t, ns)
	for _, command := range []string{"flush", "delete src 10.1.0.0/16 dst 10.2.0.0/16 dir out"} {
		ipText(t, ns, append([]string{"xfrm", "policy"}, strings.Fields(command)...)...)
		waitFor(t, "healing after "+command, func() bool { return slices.Equal(before, policiesOf(t, ns)) })
	}
	waitFor(t, "count of the policies put back", func() bool { return p.Counters()["policies-healed"] == 4 })
}

func TestOverrunIsNoticed(t *testing.T) {
	ns := newNamespace(t)
	p := newPlane(t, ns)
	set(t, p, lan(true))
	before := policiesOf(t, ns)
	if err := p.notify.nl.SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	p.mu.Lock() // the listener waits for it at the first of our policies
	ipText(t, ns, "xfrm", "policy", "delete", "src", "10.1.0.0/16", "dst", "10.2.0.0/16", "dir", "out")
	for range 100 {
		ipText(t, ns, "xfrm", "policy", "add", "src", "10.7.0.0/16", "dst", "10.7.0.0/16", "dir", "out")
		ipText(t, ns, "xfrm", "policy", "delete", "src", "10.7.0.0/16", "dst", "10.7.0.0/16", "dir", "out")
	}
	ipText(t, ns, "xfrm", "policy", "delete", "src", "10.2.0.0/16", "dst", "10.1.0.0/16", "dir", "in")
	p.mu.Unlock()
	waitFor(t, "overrun", func() bool { return p.overruns.Load() > 0 })
	waitFor(t, "policy back whose deletion was not heard", func() bool { return slices.Equal(before, policiesOf(t, ns)) })
}

func TestUnreadableMessagesAreCounted(t *testing.T) {
	p := newPlane(t, newNamespace(t))
	var log bytes.Buffer
	p.log = slog.New(slog.NewTextHandler(&log, nil))
	for _, kind := range []uint16{xfrm.MsgAcquire, xfrm.MsgExpire, xfrm.MsgMapping, xfrm.MsgPolExpire, xfrm.MsgMigrate, xfrm.MsgDelSA, xfrm.MsgDelPolicy} {
		p.notice(netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(kind)}, Data: []byte{1, 2, 3}})
	}
	if n := p.Counters()["netlink-unread"]; n != 7 {
		t.Errorf("%d unread messages counted, want 7", n)
	}
	if n := strings.Count(log.String(), "cannot read"); n != 1 {
		t.Errorf("they are logged %d times, want once:\n%s", n, &log)
	}
}

// A datagram of netlink is taken apart, however it lies about its lengths.
func TestMessagesOfADatagram(t *testing.T) {
	message := func(kind uint16, payload ...byte) []byte {
		b := append(make([]byte, headerLen), payload...)
		putHeader(b, kind, netlink.Multi, 7, 9)
		return append(b, make([]byte, (4-len(b)%4)%4)...)
	}
	whole := append(message(xfrm.MsgNewSA, 1, 2, 3), message(xfrm.MsgDelSA, 4)...)
	for n := range len(whole) + 1 {
		var kinds []uint16
		err := eachMessage(whole[:n], func(m netlink.Message) {
			kinds = append(kinds, uint16(m.Header.Type))
			if m.Header.Sequence != 7 || m.Header.PID != 9 || m.Header.Flags != netlink.Multi || len(m.Data) == 0 {
				t.Errorf("%d octets: %+v", n, m)
			}
		})
		const first, second = headerLen + 3, headerLen + 4 + headerLen + 1 // without padding
		want := []uint16{xfrm.MsgNewSA, xfrm.MsgDelSA}[:min(n/first, 1)+min(n/second, 1)]
		complete := n == 0 || n == first || n == first+1 || n >= second
		if !slices.Equal(kinds, want) || (err == nil) != complete {
			t.Errorf("%d octets: messages %v, want %v; %v", n, kinds, want, err)
		}
	}
	tooLong := message(xfrm.MsgNewSA, 1)
	tooLong[0] = 200
	if err := eachMessage(tooLong, func(netlink.Message) { t.Error("a message that is not there") }); !errors.Is(err, xfrm.ErrShort) {
		t.Errorf("got %v", err)
	}
}

func FuzzDatagram(f *testing.F) {
	refused := make([]byte, headerLen+4+headerLen+12)
	putHeader(refused, uint16(netlink.Error), 0x200, 1, 2)
	copy(refused[headerLen:], []byte{0xef, 0xff, 0xff, 0xff, headerLen})
	copy(refused[headerLen+4+headerLen:], []byte{9, 0, 1, 0, 'w', 'h', 'y', '?'})
	f.Add(refused)
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = eachMessage(b, func(m netlink.Message) { _ = refusal(m) })
	})
}

func TestEventsAreOfOursOnly(t *testing.T) {
	p := newPlane(t, newNamespace(t))
	set(t, p, lan(true))
	p.acquire(&xfrm.Acquire{Policy: xfrm.Policy{Index: 8, Dir: xfrm.DirOut}})
	p.acquire(&xfrm.Acquire{Policy: xfrm.Policy{Index: ownMark | 1, Dir: xfrm.DirOut}})
	p.expire(&xfrm.Expire{State: xfrm.State{ID: xfrm.StateID{SPI: 1000}}, Hard: true})
	p.mapping(&xfrm.Mapping{ID: xfrm.StateID{SPI: 1000}})
	noEvents(t, p)
}
