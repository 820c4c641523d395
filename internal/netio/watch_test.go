package netio

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"
)

// watched is a Watch over the near ends of pairs in memory.
func watched(t *testing.T, budget time.Duration, may *Permits, n int) (w *Watch, near, far []*Mem) {
	t.Helper()
	w, err := NewWatch(budget, may)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close(); w.Release() })
	for i := range n {
		a, b := NewMemPair(8, 100)
		t.Cleanup(func() { a.Close() })
		if err := a.SetApart(); err != nil {
			t.Fatal(err)
		}
		if err := w.Add(i, a); err != nil {
			t.Fatal(err)
		}
		near, far = append(near, a), append(far, b)
	}
	return w, near, far
}

func (m *Mem) mustInject(t *testing.T) {
	t.Helper()
	if err := m.Inject([]byte("packet"), netip.AddrPort{}, netip.AddrPort{}); err != nil {
		t.Error(err)
	}
}

func TestWatch(t *testing.T) {
	for _, budget := range []time.Duration{0, time.Millisecond, time.Hour} {
		t.Run(budget.String(), func(t *testing.T) {
			w, near, far := watched(t, budget, NewPermits(1), 3)
			pkts := NewBatch(8, 100)
			for round := range 20 {
				i := round % len(far)
				sent := make(chan struct{})
				go func() {
					defer close(sent)
					time.Sleep(time.Duration(round%4) * time.Millisecond)
					far[i].mustInject(t)
				}()
				got := 0
				for got == 0 {
					ready, err := w.Wait()
					if err != nil {
						t.Fatal(err)
					}
					for _, r := range ready {
						n, err := near[r].ReadBatch(pkts)
						if err != nil || r != i {
							t.Fatalf("device %d: %v, want device %d", r, err, i)
						}
						got += n
					}
				}
				<-sent
				if got != 1 {
					t.Fatalf("%d packets, want 1", got)
				}
			}
			// What is apart does not wait.
			if n, err := near[0].ReadBatch(pkts); n != 0 || err != nil {
				t.Errorf("read %d packets of an empty device, %v", n, err)
			}
		})
	}
}

func TestWatchCloses(t *testing.T) {
	for _, budget := range []time.Duration{0, time.Hour} { // asleep, and awake
		w, _, _ := watched(t, budget, NewPermits(1), 1)
		ended := make(chan error)
		go func() {
			_, err := w.Wait()
			ended <- err
		}()
		time.Sleep(5 * time.Millisecond)
		w.Close()
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Wait: %v", err)
		}
		if w.may.left.Load() != 1 {
			t.Error("a closed Watch keeps its permit")
		}
	}
}

// TestWatchGoesToSleep: after its budget a Watch leaves being awake to others, and
// without a permit it never begins.
func TestWatchGoesToSleep(t *testing.T) {
	may := NewPermits(1)
	first, _, _ := watched(t, time.Millisecond, may, 1)
	if n := first.linger(); n != 0 || first.awake || may.left.Load() != 1 {
		t.Fatalf("after the budget: %d devices, awake %v, %d permits", n, first.awake, may.left.Load())
	}

	second, _, far := watched(t, time.Hour, may, 1)
	far[0].mustInject(t)
	if n := second.linger(); n != 1 || !second.awake || may.left.Load() != 0 {
		t.Fatalf("with a packet: %d devices, awake %v, %d permits", n, second.awake, may.left.Load())
	}
	third, _, _ := watched(t, time.Hour, may, 1)
	if n := third.linger(); n != 0 || third.awake {
		t.Fatalf("without a permit: %d devices, awake %v", n, third.awake)
	}
}

// TestApartSocket reads and writes real sockets and their trains without Go's
// poller.
func TestApartSocket(t *testing.T) {
	socks, err := ListenUDP(IPv4, 0, 2, SocketOptions{Apart: true})
	if err != nil {
		t.Fatal(err)
	}
	defer socks[1].Close()
	w, err := NewWatch(time.Millisecond, NewPermits(1))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Release()
	r := NewReader(socks[0], 1500)
	defer r.Close()
	if pkts, err := r.Read(); len(pkts) != 0 || err != nil {
		t.Fatalf("read %d packets of an empty socket, %v", len(pkts), err)
	}
	if err := w.Add(7, r); err != nil {
		t.Fatal(err)
	}
	to := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), socks[0].LocalPort())
	out := NewBatch(5, 1500)
	for i := range out {
		out[i].Len, out[i].Remote = 100, to
	}
	if n, err := socks[0].WriteBatch(out); n != len(out) || err != nil {
		t.Fatalf("sent %d, %v", n, err)
	}
	for got := 0; got < len(out); {
		ready, err := w.Wait()
		if err != nil || len(ready) != 1 || ready[0] != 7 {
			t.Fatalf("ready: %v, %v", ready, err)
		}
		pkts, err := r.Read()
		if err != nil {
			t.Fatal(err)
		}
		got += len(pkts)
	}
	socks[0].Close()
	if _, err := r.Read(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read a closed socket: %v", err)
	}
	if _, err := socks[0].WriteBatch(out); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write to a closed socket: %v", err)
	}
}
