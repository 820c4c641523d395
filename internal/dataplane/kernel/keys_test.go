package kernel

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"

	"caponier/internal/dataplane"
	"caponier/internal/ipsec"
	"caponier/internal/secret"

	"golang.org/x/sys/unix"
)

// veiled is a key that is nowhere in the memory of this process as it is.
type veiled struct{ a, b [20]byte }

func newVeiled() *veiled {
	v := new(veiled)
	_, _ = rand.Read(v.a[:])
	_, _ = rand.Read(v.b[:])
	return v
}

func (v *veiled) key() secret.Key {
	k := make([]byte, len(v.a))
	for i := range k {
		k[i] = v.a[i] ^ v.b[i]
	}
	return secret.New(k)
}

// copies counts where the key is on the heap.
func (v *veiled) copies(t *testing.T) int {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	memory, err := os.Open("/proc/self/mem")
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	// What is looked through is copied to where nobody looks: memory that is shared.
	window, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(window)
	found, looked := 0, int64(0)
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		var mode string
		// Its arenas lie together, and v is in one of them.
		const around = 4 << 30
		near := int64(reflect.ValueOf(v).Pointer())
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); err != nil || from < near-around || to > near+around || mode != "rw-p" {
			continue
		}
		looked += to - from
		found += v.in(memory, from, to, window)
	}
	if looked == 0 {
		t.Fatal("the heap is not where it is looked for")
	}
	return found
}

// in counts the key between two addresses, octet by octet, so that nothing but the
// window holds it.
func (v *veiled) in(memory io.ReaderAt, from, to int64, window []byte) (found int) {
	n := len(v.a)
	for from < to {
		got, err := memory.ReadAt(window[:min(int64(len(window)), to-from)], from)
		b := window[:got]
		for i := 0; i+n <= len(b); i++ {
			next := bytes.IndexByte(b[i:len(b)-n+1], v.a[0]^v.b[0])
			if next < 0 {
				break
			}
			i += next
			j := 1
			for j < n && b[i+j] == v.a[j]^v.b[j] {
				j++
			}
			if j == n {
				found++
			}
		}
		if err != nil || got < n {
			return found
		}
		from += int64(got - (n - 1)) // one may lie across
	}
	return found
}

// What passed to the kernel and back has left no copy of a key, whether the kernel
// took the state or not.
func TestKeysLeaveNoCopies(t *testing.T) {
	ns := newNamespace(t)
	p := newPlane(t, ns)
	set(t, p, lan(true))
	v := newVeiled()
	sa := ipsec.SA{
		SPI: 0x1000, Protocol: ipsec.ESP, Direction: ipsec.Out,
		Local: netip.MustParseAddrPort("192.0.2.1:4500"), Remote: netip.MustParseAddrPort("192.0.2.2:4500"),
		Encr:    ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrAESGCM16, KeyBits: 128},
		EncrKey: v.key(), ReqID: 7, LocalTS: selectors("10.1.0.0/16"), RemoteTS: selectors("10.2.0.0/16"),
	}
	if n := v.copies(t); n != 1 {
		t.Fatalf("%d copies of the key are found before it is used, want the one of the SA", n)
	}
	if err := p.AddSA(sa); err == nil { // a kernel with ESP
		p.SAs()
		p.Counters()
		u := dataplane.AddressUpdate{Local: sa.Local, Remote: netip.MustParseAddrPort("192.0.2.3:4500")}
		if err := p.UpdateSA(sa.ID(), u); err != nil {
			t.Error(err)
		}
		if n := v.copies(t); n != 1 {
			t.Errorf("%d copies of the key are there while it is used, want the one of the SA", n)
		}
		p.resync()
		sa.Remote = u.Remote
		if err := p.DeleteSA(sa.ID()); err != nil {
			t.Error(err)
		}
	} else {
		sa.EncrKey.Wipe()
	}
	if n := v.copies(t); n != 0 {
		t.Errorf("%d copies of a key that was used are left", n)
	}
}
