package xfrm

import (
	"bytes"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// samples are payloads of every type that is parsed: what iproute2 sent, what
// the kernel said, and what only a codec can make here.
func samples(t testing.TB) map[uint16][][]byte {
	t.Helper()
	out := make(map[uint16][][]byte)
	for _, pattern := range []string{recorded + "/*.hex", "testdata/kernel/*.hex"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v, %d files", pattern, err, len(files))
		}
		for _, f := range files {
			kind, payload := message(t, f)
			out[kind] = append(out[kind], payload)
		}
	}
	add := func(kind uint16, v appender) {
		b, err := v.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		out[kind] = append(out[kind], b)
	}
	expired := esp4(0xc0ffee01, 7)
	expired.LastUsed = 0
	add(MsgExpire, &Expire{State: expired, Hard: true})
	add(MsgDelSA, deleted{&expired})
	add(MsgPolExpire, &PolicyExpire{Policy: Policy{Limits: Unlimited, Dir: DirOut}, Hard: true})
	add(MsgMapping, plain((&Mapping{
		ID: expired.ID, ReqID: 7, Old: netip.AddrPortFrom(src4, 4500), New: netip.AddrPortFrom(src4, 61000),
	}).Append))
	add(MsgMigrate, &Migrate{
		Policy: PolicyID{Selector: Selector{Src: netip.MustParsePrefix("10.1.0.0/16"), Dst: netip.MustParsePrefix("10.2.0.0/16")}, Dir: DirOut, IfID: 3},
		Moves:  []Move{{OldDst: dst4, OldSrc: src4, NewDst: dst6, NewSrc: src6, Proto: 50, Mode: ModeTunnel, ReqID: 7}},
		Encap:  &Encap{Type: EncapUDP, SrcPort: 4500, DstPort: 4500, Original: netip.IPv6Unspecified()},
	})
	return out
}

// deleted is a state as the kernel says that it is gone.
type deleted struct{ s *State }

func (d deleted) Append(b []byte) ([]byte, error) { return d.s.AppendDeleted(b) }

func TestADeletedStateIsWhole(t *testing.T) {
	want := esp4(0xc0ffee01, 7)
	want.LastUsed, want.Replay = 0, &Replay{OutSeq: 9, OutSeqHi: 1, Window: 32, Bitmap: []uint32{5}, Extended: true}
	b, err := want.AppendDeleted(nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseDeletedState(b)
	if err != nil || got.ID != want.ID || got.Seq != want.Seq || got.Usage != want.Usage || !cmp.Equal(got.Replay, want.Replay) {
		t.Errorf("got %+v, %v", got, err)
	}
	b[16] ^= 1 // the SPI of the name, not of the state
	if _, err := ParseDeletedState(b); err == nil {
		t.Error("the end of one state was taken for another's")
	}
}

func TestEveryPrefixIsRefusedOrReadAgain(t *testing.T) {
	for kind, payloads := range samples(t) {
		for _, b := range payloads {
			for n := range len(b) {
				// A prefix that ends between two attributes is a message of its own.
				again, err := parse(kind, bytes.Clone(b[:n]))
				if err == nil && again != nil && headers[kind] != 0 && n < headers[kind] {
					t.Errorf("message %#x cut to %d of %d octets was read", kind, n, len(b))
				}
			}
		}
	}
}

func TestWhatIsReadIsWrittenAgain(t *testing.T) {
	for kind, payloads := range samples(t) {
		for _, b := range payloads {
			once, err := parse(kind, b)
			if err != nil {
				t.Errorf("message %#x: %v", kind, err)
				continue
			}
			if once == nil {
				continue
			}
			twice, err := parse(kind, once)
			if err != nil || !bytes.Equal(once, twice) {
				t.Errorf("message %#x does not settle: %v\n%s", kind, err, cmp.Diff(once, twice))
			}
		}
	}
}

func TestRefusals(t *testing.T) {
	big := esp4(1, 1)
	big.AEAD = Algorithm{Name: "rfc4106(gcm(aes))", Key: key(make([]byte, maxKeyLen+1)...), ICVBits: 128}
	window := esp4(1, 1)
	window.Replay = &Replay{Window: 64, Bitmap: make([]uint32, 1), Extended: true}
	deep := Policy{Templates: make([]Template, maxTemplates+1)}
	for name, v := range map[string]appender{
		"a key of too many octets": &big, "a window wider than its bitmap": &window, "too many templates": &deep,
		"a migration of nothing": &Migrate{},
	} {
		if b, err := v.Append(nil); err == nil {
			t.Errorf("%s was encoded: %d octets", name, len(b))
		}
	}
	s := esp4(1, 1)
	b, err := s.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, attr := range map[string][]byte{
		"an algorithm without a name":    append([]byte{72, 0, 18, 0}, make([]byte, 68+4)...),
		"an attribute longer than b":     {9, 0, 21, 0, 0, 0, 0, 0},
		"an attribute shorter than it":   {3, 0, 21, 0},
		"a mark of four octets":          {8, 0, 21, 0, 1, 2, 3, 4},
		"a replay bitmap of all memory":  append([]byte{28, 0, 23, 0, 0xff, 0xff, 0xff, 0xff}, make([]byte, 20)...),
		"a key of all memory":            append(append([]byte{72, 0, 2, 0, 'x'}, make([]byte, 63)...), 0xff, 0xff, 0xff, 0xff),
		"a state of another family, cut": {7},
	} {
		if _, err := ParseState(append(bytes.Clone(b), attr...)); err == nil {
			t.Errorf("%s was read", name)
		}
	}
	b[212], b[213] = 99, 0
	if _, err := ParseState(b); err == nil {
		t.Error("a state of address family 99 was read")
	}
}

func TestInfo(t *testing.T) {
	b := AppendInfoRequest(nil)
	b = appendUint32(b, attrSADCount, 3)
	b, v := appendAttr(b, attrSADHash, 8)
	native.PutUint32(v, 8)
	native.PutUint32(v[4:], 1<<20)
	if got, err := ParseSADInfo(b); err != nil || got != (SADInfo{States: 3, Buckets: 8, MaxBuckets: 1 << 20}) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func FuzzParse(f *testing.F) {
	for kind, payloads := range samples(f) {
		for _, b := range payloads {
			f.Add(kind, b)
		}
	}
	f.Fuzz(func(t *testing.T, kind uint16, b []byte) {
		again, err := parse(kind, b)
		if err != nil || again == nil {
			return
		}
		twice, err := parse(kind, again)
		if err != nil || !bytes.Equal(again, twice) {
			t.Fatalf("message %#x does not settle: %v\n% x\n% x", kind, err, again, twice)
		}
	})
}
