package aggfrag

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// datagram returns an IP packet of n octets that names itself.
func datagram(version, n, name int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(name + i*7)
	}
	if version == 6 {
		b[0] = 0x60
		binary.BigEndian.PutUint16(b[4:], uint16(n-40))
		binary.BigEndian.PutUint32(b[8:], uint32(name))
		return b
	}
	b[0] = 0x45
	binary.BigEndian.PutUint16(b[2:], uint16(n))
	binary.BigEndian.PutUint32(b[12:], uint32(name))
	return b
}

// random returns count packets of lengths of all kinds.
func random(r *rand.Rand, count int) [][]byte {
	var out [][]byte
	for i := range count {
		n := 40 + []int{0, r.IntN(100), r.IntN(1500), r.IntN(9000)}[r.IntN(4)]
		out = append(out, datagram(4+2*r.IntN(2), n, i))
	}
	return out
}

// pack makes payloads of at most size octets of the packets.
func pack(packets [][]byte, size int, spread bool) (payloads [][]byte) {
	var p Packer
	finish := func() { payloads = append(payloads, p.Finish()) }
	for _, b := range packets {
		if !p.Open() {
			p.Start(make([]byte, size), 0)
		}
		rest := p.Add(b, spread)
		if len(rest) == len(b) {
			finish()
			p.Start(make([]byte, size), 0)
			rest = p.Add(b, spread)
		}
		for len(rest) > 0 {
			finish()
			p.Start(make([]byte, size), len(rest))
			rest = p.Continue(rest)
		}
	}
	if p.Open() {
		finish()
	}
	return payloads
}

// unpack gives the payload of the sequence number seq to r.
func unpack(r *Receiver, seq uint64, payload []byte) (out [][]byte) {
	r.Open(seq, payload)
	for {
		b, _ := r.Next()
		if b == nil {
			return out
		}
		out = append(out, bytes.Clone(b))
	}
}

func unpackAll(r *Receiver, payloads [][]byte) (out [][]byte) {
	for i, p := range payloads {
		out = append(out, unpack(r, uint64(i+1), p)...)
	}
	return out
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestWireFormat has the octets of RFC 9347, Section 6.1.1, and its BlockOffsets at
// lengths that can be read: each says how much of the packet under way is left, be
// it more than the payload holds (RFC 9347, Section 2.2.3).
func TestWireFormat(t *testing.T) {
	a := datagram(4, 20, 1)
	b := datagram(4, 30, 2)
	tests := map[string]struct {
		size    int
		spread  bool
		packets [][]byte
		want    []string
	}{
		"two packets": {100, true, [][]byte{a, b}, []string{
			"00 00 0000" + hex.EncodeToString(a) + hex.EncodeToString(b),
		}},
		"one goes on in the next": {100, true, [][]byte{a, datagram(4, 100, 3)}, []string{
			"00 00 0000" + hex.EncodeToString(a) + hex.EncodeToString(datagram(4, 100, 3)[:76]),
			"00 00 0018" + hex.EncodeToString(datagram(4, 100, 3)[76:]),
		}},
		"one fills several": {100, true, [][]byte{datagram(4, 250, 3), b}, []string{
			"00 00 0000" + hex.EncodeToString(datagram(4, 250, 3)[:96]),
			"00 00 009a" + hex.EncodeToString(datagram(4, 250, 3)[96:192]),
			"00 00 003a" + hex.EncodeToString(datagram(4, 250, 3)[192:]) + hex.EncodeToString(b),
		}},
		"none may be spread": {60, false, [][]byte{a, b, a}, []string{
			"00 00 0000" + hex.EncodeToString(a) + hex.EncodeToString(b),
			"00 00 0000" + hex.EncodeToString(a),
		}},
		"little room is left": {64, true, [][]byte{a, b, a}, []string{
			"00 00 0000" + hex.EncodeToString(a) + hex.EncodeToString(b),
			"00 00 0000" + hex.EncodeToString(a),
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := pack(tt.packets, tt.size, tt.spread)
			var want [][]byte
			for _, s := range tt.want {
				want = append(want, unhex(t, s))
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("payloads differ (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.packets, unpackAll(new(Receiver), got)); diff != "" {
				t.Errorf("packets differ (-want +got):\n%s", diff)
			}
		})
	}
}

// TestPad: a pad block goes to the end (RFC 9347, Section 6.1.3.3).
func TestPad(t *testing.T) {
	var p Packer
	dst := bytes.Repeat([]byte{0xff}, 64)
	p.Start(dst, 0)
	p.Add(datagram(4, 20, 1), true)
	got := p.Pad()
	if len(got) != 64 || !bytes.Equal(got[24:], make([]byte, 40)) {
		t.Errorf("payload %x is not padded to its length with zeros", got)
	}
	if all := unpack(new(Receiver), 1, got); len(all) != 1 {
		t.Errorf("%d packets, want 1", len(all))
	}
}

// python runs the decoder or encoder that was written from the RFC alone.
func python(t *testing.T, in [][]byte, args ...string) (out [][]byte) {
	t.Helper()
	for _, s := range pythonLines(t, in, args...) {
		out = append(out, unhex(t, s))
	}
	return out
}

func pythonLines(t *testing.T, in [][]byte, args ...string) []string {
	t.Helper()
	cmd := exec.Command("/usr/bin/python3", append([]string{"testdata/stream.py"}, args...)...)
	var lines, errs strings.Builder
	for _, b := range in {
		lines.WriteString(hex.EncodeToString(b) + "\n")
	}
	cmd.Stdin, cmd.Stderr = strings.NewReader(lines.String()), &errs
	got, err := cmd.Output()
	if err != nil {
		t.Fatalf("python3: %v\n%s", err, errs.String())
	}
	return strings.Fields(string(got))
}

// TestAnotherDecoder has what we pack taken apart by another implementation, and
// the other way round.
func TestAnotherDecoder(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int{60, 200, 1400, 9000} {
		packets := random(r, 300)
		if got := python(t, pack(packets, size, true), "decode"); !slices.EqualFunc(got, packets, bytes.Equal) {
			t.Errorf("payloads of %d octets: %d packets, want the %d that were packed", size, len(got), len(packets))
		}
	}
	small := random(r, 300)
	for i, b := range small {
		small[i] = datagram(4, min(len(b), 1396), i)
	}
	if got := python(t, pack(small, 1400, false), "decode"); !slices.EqualFunc(got, small, bytes.Equal) {
		t.Errorf("without spreading: %d packets, want the %d that were packed", len(got), len(small))
	}
	for seed := range 4 {
		var packets [][]byte
		for i := range 100 {
			packets = append(packets, datagram(4+2*r.IntN(2), 40+r.IntN(1500), i))
		}
		payloads := python(t, packets, "encode", strconv.Itoa(seed))
		var rx Receiver
		got := unpackAll(&rx, payloads)
		// Only what is cut into more payloads than the window has is given up.
		if n, _ := rx.Drops(); n[DropMalformed]+n[DropLimit] > 0 || len(got) < len(packets)-int(n[DropLost]) {
			t.Errorf("seed %d: %d packets of %d, dropped %v", seed, len(got), len(packets), n)
		}
		if !subsequence(got, packets) {
			t.Errorf("seed %d: packets that were not sent, or out of order", seed)
		}
		if len(got) == 0 {
			t.Errorf("seed %d: no packets", seed)
		}
	}
}

// subsequence reports whether got are some of all, in order.
func subsequence(got, all [][]byte) bool {
	for _, b := range got {
		i := slices.IndexFunc(all, func(x []byte) bool { return bytes.Equal(x, b) })
		if i < 0 {
			return false
		}
		all = all[i+1:]
	}
	return true
}

// TestLossAndOrder is a network that loses and delays: what comes out is whole
// packets that were sent, each once, all that no lost payload had a part of, and in
// order where the network kept the order.
func TestLossAndOrder(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 0))
		packets := random(r, 100)
		payloads := pack(packets, []int{100, 600, 1400}[r.IntN(3)], true)
		lose, delay := r.IntN(3)*5, r.IntN(2)*r.IntN(Window/2)
		type arrival struct{ seq, at int }
		var way []arrival
		lost := map[int]bool{}
		for i := range payloads {
			if r.IntN(100) < lose {
				lost[i] = true
				continue
			}
			at := i
			if delay > 0 {
				at += r.IntN(delay)
			}
			way = append(way, arrival{i, at})
		}
		slices.SortStableFunc(way, func(a, b arrival) int { return a.at - b.at })
		var rx Receiver
		var got [][]byte
		for _, a := range way {
			got = append(got, unpack(&rx, uint64(a.seq+1), payloads[a.seq])...)
		}
		seen := map[string]int{}
		for _, b := range got {
			seen[string(b)]++
		}
		for i, b := range packets {
			n := seen[string(b)]
			delete(seen, string(b))
			if want := expect(packets, payloads, lost, i); n > 1 || n < want {
				t.Fatalf("seed %d: packet %d of %d octets came %d times, want %d", seed, i, len(b), n, want)
			}
		}
		if len(seen) > 0 {
			t.Fatalf("seed %d: %d packets were not sent", seed, len(seen))
		}
		if delay == 0 && !subsequence(got, packets) {
			t.Fatalf("seed %d: packets are out of order", seed)
		}
		if rx.kept > maxKept {
			t.Fatalf("seed %d: %d octets kept", seed, rx.kept)
		}
	}
}

// expect is 1 for a packet that lies in payloads that came, and in few enough for
// the window with delays of half of it, and else 0.
func expect(packets, payloads [][]byte, lost map[int]bool, i int) int {
	at, begin := 0, 0
	for _, b := range packets[:i] {
		begin += len(b)
	}
	first, last := -1, -1
	for j, p := range payloads {
		n := len(p) - HeaderLen
		if at < begin+len(packets[i]) && at+n > begin {
			if first < 0 {
				first = j
			}
			last = j
			if lost[j] {
				return 0
			}
		}
		at += n
	}
	if last-first >= Window/2 {
		return 0
	}
	return 1
}

// TestAllPadBetween: an all-pad payload may stand between the pieces of a packet
// (RFC 9347, Section 2.2.3), wherever it arrives.
func TestAllPadBetween(t *testing.T) {
	packet := datagram(4, 150, 1)
	payloads := pack([][]byte{packet}, 100, true)
	pad := append([]byte{0, 0, 0, 0}, make([]byte, 60)...)
	between := [][]byte{payloads[0], pad, payloads[1]}
	for _, order := range [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
		var rx Receiver
		var got [][]byte
		for _, i := range order {
			got = append(got, unpack(&rx, uint64(i+7), between[i])...)
		}
		if diff := cmp.Diff([][]byte{packet}, got); diff != "" {
			t.Errorf("order %v: (-want +got):\n%s", order, diff)
		}
	}
}

// TestMalformed: reserved bits are ignored (RFC 9347, Section 6.1.1), congestion
// information is passed over (RFC 9347, Section 6.1.2), and what cannot be is
// dropped without harm to the rest (RFC 9347, Section 2.5).
func TestMalformed(t *testing.T) {
	good := hex.EncodeToString(datagram(4, 20, 1))
	tests := map[string]struct {
		payload string
		packets int
		drops   uint32
	}{
		"nothing":                  {"", 0, 1},
		"half a header":            {"0000", 0, 1},
		"unknown sub-type":         {"02000000" + good, 0, 1},
		"congestion header cut":    {"01000000" + "00", 0, 1},
		"no blocks":                {"00000000", 0, 0},
		"reserved bits":            {"00ff0000" + good, 1, 0},
		"a version there is not":   {"00000000" + good + "55", 1, 1},
		"shorter than its header":  {"00000000" + "45000013" + good, 0, 1},
		"longer than any packet":   {"00000000" + "60000000ffff" + good, 0, 1},
		"offset past everything":   {"0000ffff" + good, 0, 0},
		"offset to the very end":   {"00000014" + good, 0, 0},
		"congestion information":   {"01fd0000" + strings.Repeat("a5", 20) + good, 1, 0},
		"and nothing else":         {"01000000" + strings.Repeat("a5", 20), 0, 0},
		"a pad hides what follows": {"00000000" + good + "00" + good, 1, 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var rx Receiver
			if got := unpack(&rx, 1, unhex(t, tt.payload)); len(got) != tt.packets {
				t.Errorf("%d packets, want %d", len(got), tt.packets)
			}
			n, _ := rx.Drops()
			if n[DropMalformed] != tt.drops {
				t.Errorf("dropped %v, want %d malformed", n, tt.drops)
			}
			// What is wrong with one payload is not wrong with the next.
			if got := unpack(&rx, 2, unhex(t, "00000000"+good)); len(got) != 1 {
				t.Errorf("after it: %d packets, want 1", len(got))
			}
		})
	}
}

// TestEveryPrefix cuts payloads anywhere: no packet may come of what is cut off.
func TestEveryPrefix(t *testing.T) {
	packets := [][]byte{datagram(4, 30, 1), datagram(6, 60, 2), datagram(4, 90, 3)}
	payloads := pack(packets, 120, true)
	for i := range payloads {
		for n := range len(payloads[i]) {
			var rx Receiver
			cut := slices.Clone(payloads)
			cut[i] = cut[i][:n:n]
			if got := unpackAll(&rx, cut); !subsequence(got, packets) {
				t.Fatalf("payload %d cut to %d octets: packets that were not sent", i, n)
			}
		}
	}
}

// TestBounds: a peer that only begins packets keeps no more of our memory than
// there may be, and is counted.
func TestBounds(t *testing.T) {
	var rx Receiver
	begun := append([]byte{0, 0, 0, 0}, datagram(4, 60000, 1)[:9000]...)
	for seq := range uint64(10_000) {
		unpack(&rx, seq*2+1, begun)
		if rx.kept > maxKept || len(rx.free) > maxFree {
			t.Fatalf("%d octets kept, %d buffers free", rx.kept, len(rx.free))
		}
	}
	if n, _ := rx.Drops(); n[DropLost] == 0 || n[DropLimit] == 0 {
		t.Errorf("dropped %v, want pieces lost and over the limit", n)
	}
	packet := datagram(4, 20, 2)
	if got := unpack(&rx, 1<<40, append([]byte{0, 0, 0, 0}, packet...)); len(got) != 1 {
		t.Errorf("%d packets, want 1", len(got))
	}
}

func TestLate(t *testing.T) {
	payloads := pack([][]byte{datagram(4, 40, 1), datagram(4, 150, 2)}, 100, true)
	var rx Receiver
	unpack(&rx, 1000, []byte{0, 0, 0, 0})
	got := unpack(&rx, 5, payloads[0])
	got = append(got, unpack(&rx, 6, payloads[1])...)
	if len(got) != 1 {
		t.Errorf("%d packets, want the one that was whole", len(got))
	}
	if n, _ := rx.Drops(); n[DropLost] != 2 {
		t.Errorf("dropped %v, want 2 pieces", n)
	}
}

func TestNoAllocations(t *testing.T) {
	var packets [][]byte
	for i := range 200 {
		packets = append(packets, datagram(4, 40+i*9, i))
	}
	payloads := pack(packets, 1400, true)
	var rx Receiver
	seq := uint64(0)
	if n := testing.AllocsPerRun(100, func() {
		for _, p := range payloads {
			seq++
			rx.Open(seq, p)
			for b, _ := rx.Next(); b != nil; b, _ = rx.Next() {
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations to take packets out, want 0", n)
	}
	var p Packer
	dst := make([]byte, 1400)
	if n := testing.AllocsPerRun(100, func() {
		for _, b := range packets {
			p.Start(dst, 0)
			p.Add(b, true)
			p.Finish()
		}
	}); n != 0 {
		t.Errorf("%v allocations to pack, want 0", n)
	}
}

// FuzzReceiver takes a stream of payloads, each behind two octets that say how long
// it is and how far its number is from the one before. Numbers do not come twice.
func FuzzReceiver(f *testing.F) {
	add := func(step int8, payloads ...[]byte) {
		var b []byte
		for _, p := range payloads {
			b = append(append(b, byte(len(p)), byte(step)), p...)
		}
		f.Add(b)
	}
	payloads := pack([][]byte{datagram(4, 40, 1), datagram(6, 300, 2), datagram(4, 20, 3)}, 100, true)
	add(1, payloads...)
	slices.Reverse(payloads)
	add(-1, payloads...)
	add(1, []byte{0, 0, 0, 0, 0, 0}, []byte{1, 0, 0, 3})
	f.Fuzz(func(t *testing.T, b []byte) {
		var rx Receiver
		seq := uint64(1000)
		used := map[uint64]bool{}
		for len(b) >= 2 {
			n, step := int(b[0]), int8(b[1])
			b = b[2:]
			n = min(n, len(b))
			if seq += uint64(int64(step)); seq == 0 || used[seq] {
				b = b[n:]
				continue
			}
			used[seq] = true
			rx.Open(seq, b[:n])
			for p, _ := rx.Next(); p != nil; p, _ = rx.Next() {
				if blockLen(p) != len(p) {
					t.Fatalf("packet of %d octets says it has %d", len(p), blockLen(p))
				}
			}
			b = b[n:]
		}
		kept := 0
		for i := range rx.window {
			for _, p := range []piece{rx.window[i].head, rx.window[i].tail} {
				if p.octets != nil && !p.kept {
					t.Fatal("a piece is kept in memory of the caller")
				}
				kept += len(p.octets)
			}
		}
		if kept != rx.kept || kept > maxKept {
			t.Fatalf("%d octets are kept, counted as %d", kept, rx.kept)
		}
	})
}

func BenchmarkReceiver(b *testing.B) {
	for _, size := range []int{64, 92, 1340} {
		var packets [][]byte
		for i := range 1000 {
			packets = append(packets, datagram(4, size, i))
		}
		payloads := pack(packets, 1400, true)
		b.Run("size="+strconv.Itoa(size), func(b *testing.B) {
			var rx Receiver
			seq := uint64(0)
			for range b.N {
				for _, p := range payloads {
					seq++
					rx.Open(seq, p)
					for p, _ := rx.Next(); p != nil; p, _ = rx.Next() {
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(packets)), "ns/packet")
		})
	}
}
