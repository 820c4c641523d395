package sm

import (
	"bytes"
	"crypto/cipher"
	"math/rand/v2"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/cpu"
)

// What runs in constant time was found by reading the assembly of this version.
func TestVersionOfGMSMIsTheOneThatWasRead(t *testing.T) {
	mod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(mod), "github.com/emmansun/gmsm v0.44.0\n") {
		t.Error("read what this version of gmsm does for key schedules, single blocks, tails and GCM" +
			" (docs/sm-kernels.md, \"The library gmsm\"), correct gmsmPathOf, then this test")
	}
}

// Keys with the methods of gmsm's.
type (
	tables struct{ cipher.Block }
	modes  struct{ tables }
	single struct{ tables }
)

func (modes) NewECBEncrypter() cipher.BlockMode { return nil }
func (modes) NewECBDecrypter() cipher.BlockMode { return nil }
func (modes) NewCTR([]byte) cipher.Stream       { return nil }
func (single) NewCTR([]byte) cipher.Stream      { return nil }

func TestTablesOfGMSMAreNotUsed(t *testing.T) {
	for _, c := range []struct {
		arch string
		key  cipher.Block
		want gmsmPath
	}{
		{"amd64", tables{}, gmsmTables},
		{"amd64", modes{}, gmsmAES},
		{"amd64", single{}, gmsmTables},
		{"arm64", tables{}, gmsmTables},
		{"arm64", modes{}, gmsmAES},
		{"arm64", single{}, gmsmSM4},
		{"ppc64le", tables{}, gmsmTables},
		{"ppc64le", modes{}, gmsmAES},
		{"loong64", modes{}, gmsmTables}, // tables for keys, and for what eight blocks leave over
		{"loong64", tables{}, gmsmTables},
		{"riscv64", tables{}, gmsmTables},
		{"arm", tables{}, gmsmTables},
	} {
		if got := gmsmPathOf(c.arch, c.key); got != c.want {
			t.Errorf("%s, %T: path %d, want %d", c.arch, c.key, got, c.want)
		}
	}
}

func TestGMSMIsUsedWhereItIsConstantInTime(t *testing.T) {
	want := gmsmTables
	switch {
	case cpu.ARM64.HasSM4 && os.Getenv("DISABLE_SM4NI") != "1": // gmsm reads it, too
		want = gmsmSM4
	case cpu.X86.HasAES, cpu.ARM64.HasAES, runtime.GOARCH == "ppc64le":
		want = gmsmAES
	}
	got := gmsmTables
	if es := gmsmEngines(); len(es) > 0 {
		got = es[0].gmsm
	}
	if got != want {
		t.Errorf("path %d, want %d", got, want)
	}
	if slices.Contains(Implementations(), "gmsm") != (want != gmsmTables) {
		t.Errorf("implementations %v", Implementations())
	}
}

func TestHashByGMSM(t *testing.T) {
	r := rand.New(rand.NewPCG(41, 42))
	for n := 0; n < 5000; n += HashBlockSize {
		p := random(r, n)
		want := [8]uint32{r.Uint32(), 1, 2, 3, r.Uint32(), 5, 6, 7}
		got := want
		sm3Blocks(&want, p)
		gmsmHash(&got, p)
		if got != want {
			t.Fatalf("%d octets: %x, want %x", n, got, want)
		}
	}
	p, s := random(r, 1408), sm3IV
	if n := testing.AllocsPerRun(20, func() { gmsmHash(&s, p) }); n != 0 && poolKeeps {
		t.Errorf("%v allocations", n)
	}
}

func TestProducts(t *testing.T) {
	if !carryless() {
		return // never called
	}
	r := rand.New(rand.NewPCG(43, 44))
	for range 1000 {
		a, b := [3]uint64{r.Uint64(), r.Uint64(), r.Uint64()}, [3]uint64{r.Uint64(), r.Uint64(), r.Uint64() >> r.IntN(64)}
		var z [6]uint64
		products(&z, &a, &b)
		for i := range a {
			if hi, lo := clmul(a[i], b[i]); z[2*i] != lo || z[2*i+1] != hi {
				t.Fatalf("%x * %x = %x %x, want %x %x", a[i], b[i], z[2*i+1], z[2*i], hi, lo)
			}
		}
	}
}

// What gmsm keeps of a key is reached, too.
func TestWipeReachesKeysOfGMSM(t *testing.T) {
	for _, e := range gmsmEngines() {
		key := bytes.Repeat([]byte{7}, KeySize)
		g, _ := newGCM(e, key)
		c, _ := newCipher(e, key)
		d, _ := newCBCDecrypter(e, key)
		b, _ := newCBCEncrypter(e, key)
		objects := []any{
			g.key.portable.gmsm.block, c.enc.portable.gmsm.block, c.dec.portable.gmsm.block,
			d.key.portable.gmsm.block, b.portable.gmsm.block,
		}
		if g.whole != nil {
			objects = append(objects, g.whole)
		}
		empty := func(o any) bool { return reflect.ValueOf(o).Elem().IsZero() }
		if slices.ContainsFunc(objects, empty) {
			t.Error("there is a key with nothing in it")
		}
		g.Wipe()
		c.Wipe()
		d.Wipe()
		b.Wipe()
		for i, o := range objects {
			if !empty(o) {
				t.Errorf("key %d is still there: %v", i, o)
			}
		}
	}
}
