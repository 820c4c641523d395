package esp

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"testing"

	"caponier/internal/ipsec"
	"caponier/internal/packet"
	"caponier/internal/secret"
	"caponier/internal/suite"
)

type algorithms struct {
	name        string
	encr, integ ipsec.Transform
}

var (
	gcm128 = algorithms{"aes128gcm16", ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrAESGCM16, KeyBits: 128}, ipsec.Transform{}}
	gcm256 = algorithms{"aes256gcm16", ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrAESGCM16, KeyBits: 256}, ipsec.Transform{}}
	cbc256 = algorithms{"aes128-sha256", cbc(128), hmacs(ipsec.IntegHMACSHA256128)}
	cbc384 = algorithms{"aes192-sha384", cbc(192), hmacs(ipsec.IntegHMACSHA384192)}
	cbc512 = algorithms{"aes256-sha512", cbc(256), hmacs(ipsec.IntegHMACSHA512256)}

	ccm192 = algorithms{"aes192ccm16", encrs(ipsec.EncrAESCCM16, 192), ipsec.Transform{}}
	chacha = algorithms{"chacha20poly1305", encrs(ipsec.EncrChaCha20Poly1305, 0), ipsec.Transform{}}
	ctr128 = algorithms{"aes128ctr-aescmac", encrs(ipsec.EncrAESCTR, 128), hmacs(ipsec.IntegAESCMAC96)}
	nulls  = algorithms{"null-sha1", encrs(ipsec.EncrNull, 0), hmacs(ipsec.IntegHMACSHA196)}

	sm4gcm   = algorithms{"sm4gcm16", encrs(ipsec.EncrSM4GCM16, 0), ipsec.Transform{}}
	sm4cbc   = algorithms{"sm4cbc-sm3", encrs(ipsec.EncrSM4CBC, 0), hmacs(ipsec.IntegHMACSM3)}
	sm4cbc16 = algorithms{"sm4cbc-sm3_128", encrs(ipsec.EncrSM4CBC, 0), hmacs(ipsec.IntegHMACSM3128)}
	sm4cbc12 = algorithms{"sm4cbc-sm3_96", encrs(ipsec.EncrSM4CBC, 0), hmacs(ipsec.IntegHMACSM396)}

	standard = []algorithms{gcm128, gcm256, cbc256, cbc384, cbc512, ccm192, chacha, ctr128, nulls}
	national = []algorithms{sm4gcm, sm4cbc, sm4cbc16, sm4cbc12}
	all      = slices.Concat(standard, national)
)

func encrs(id, bits uint16) ipsec.Transform {
	return ipsec.Transform{Type: ipsec.TypeEncr, ID: id, KeyBits: bits}
}

func cbc(bits uint16) ipsec.Transform {
	return ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrAESCBC, KeyBits: bits}
}

func hmacs(id uint16) ipsec.Transform { return ipsec.Transform{Type: ipsec.TypeInteg, ID: id} }

const testSPI ipsec.SPI = 0xc0ffee01

// testSA has keys 1, 2, 3, ... and 0x80, 0x81, ...
func testSA(t testing.TB, a algorithms, d ipsec.Direction) *ipsec.SA {
	t.Helper()
	encrLen, integLen, err := suite.KeyLengths(a.encr, a.integ)
	if err != nil {
		t.Fatal(err)
	}
	count := func(first byte, n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = first + byte(i)
		}
		return b
	}
	return &ipsec.SA{
		SPI: testSPI, Protocol: ipsec.ESP, Mode: ipsec.Tunnel, Direction: d, Encr: a.encr, Integ: a.integ,
		EncrKey: secret.New(count(1, encrLen)), IntegKey: secret.New(count(0x80, integLen)),
	}
}

func pair(t testing.TB, a algorithms, esn bool) (*Outbound, *Inbound) {
	t.Helper()
	sa := testSA(t, a, ipsec.Out)
	sa.ESN = esn
	out, err := NewOutbound(sa)
	if err != nil {
		t.Fatal(err)
	}
	sa.Direction = ipsec.In
	in, err := NewInbound(sa)
	if err != nil {
		t.Fatal(err)
	}
	return out, in
}

// innerPacket returns a UDP packet of n octets.
func innerPacket(version, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7)
	}
	head := packet.IPv4HeaderLen
	if version == 6 {
		head = packet.IPv6HeaderLen
		packet.PutIPv6(b, &packet.IPv6Header{
			Src: netip.MustParseAddr("2001:db8:1::7"), Dst: netip.MustParseAddr("2001:db8:2::1"),
			PayloadLen: n - head, NextHeader: packet.ProtocolUDP, HopLimit: 64,
		})
	} else {
		packet.PutIPv4(b, &packet.IPv4Header{
			Src: netip.MustParseAddr("10.1.0.7"), Dst: netip.MustParseAddr("10.2.0.1"),
			TotalLen: n, TTL: 64, Protocol: packet.ProtocolUDP,
		})
	}
	if n >= head+packet.UDPHeaderLen {
		packet.PutUDP(b[head:], 1111, 2222, n-head, 0)
	}
	return b
}

func next(version int) uint8 {
	if version == 6 {
		return NextIPv6
	}
	return NextIPv4
}

func sealed(t testing.TB, out *Outbound, inner []byte, seq uint64, nextHeader uint8) []byte {
	t.Helper()
	b := make([]byte, out.SealedLen(len(inner)))
	n, err := out.Seal(b, inner, seq, nextHeader)
	if err != nil || n != len(b) {
		t.Fatalf("Seal of %d octets: %d of %d, %v", len(inner), n, len(b), err)
	}
	return b
}

func TestRoundTrip(t *testing.T) {
	for _, a := range all {
		for _, esn := range []bool{false, true} {
			out, in := pair(t, a, esn)
			seq := uint64(0)
			if esn {
				seq = 1<<32 - 100 // rolls over on the way
				in.window.Update(seq)
			}
			for _, version := range []int{4, 6} {
				for n := 48; n < 120; n++ {
					seq++
					inner := innerPacket(version, n)
					pkt := sealed(t, out, inner, seq, next(version))
					legible := bytes.Contains(pkt, inner[:24])
					if len(pkt) > n+out.Overhead() || legible != (a.encr.ID == ipsec.EncrNull) {
						t.Fatalf("%s: %d octets become %d: %x", a.name, n, len(pkt), pkt)
					}
					if spi, ok := PeekSPI(pkt); !ok || spi != testSPI || binary.BigEndian.Uint32(pkt[4:]) != uint32(seq) {
						t.Fatalf("%s: wrong header %x", a.name, pkt[:8])
					}
					again := bytes.Clone(pkt)
					got, nh, gotSeq, err := in.Open(pkt)
					if err != nil || nh != next(version) || gotSeq != seq || !bytes.Equal(got, inner) {
						t.Fatalf("%s, ESN %t, %d octets: seq %d of %d, %v", a.name, esn, n, gotSeq, seq, err)
					}
					if _, _, _, err := in.Open(again); err != ErrReplay {
						t.Fatalf("%s: replay gives %v", a.name, err)
					}
				}
			}
			if in.Top() != seq {
				t.Errorf("%s: top %d, want %d", a.name, in.Top(), seq)
			}
		}
	}
}

// TestSealInPlace: wherever the inner packet lies, the result opens to it.
func TestSealInPlace(t *testing.T) {
	for _, a := range all {
		out, in := pair(t, a, false)
		inner := innerPacket(4, 101)
		for offset := range out.HeadRoom() + out.TailRoom() + 1 {
			slab := make([]byte, out.Overhead()+len(inner)+8)
			n := copy(slab[offset:], inner)
			behind := bytes.Clone(slab[out.SealedLen(n):])
			size, err := out.Seal(slab, slab[offset:offset+n], uint64(offset+1), NextIPv4)
			if err != nil || size != out.SealedLen(n) {
				t.Fatalf("%s at %d: %d, %v", a.name, offset, size, err)
			}
			if !bytes.Equal(slab[size:], behind) {
				t.Fatalf("%s at %d: octets behind the packet changed", a.name, offset)
			}
			if got, _, _, err := in.Open(slab[:size]); err != nil || !bytes.Equal(got, inner) {
				t.Fatalf("%s at %d: %v", a.name, offset, err)
			}
		}
	}
}

func TestSealedLenAndMaxInner(t *testing.T) {
	for _, a := range all {
		out, _ := pair(t, a, false)
		for n := range 200 {
			size := out.SealedLen(n)
			if size > n+out.Overhead() || (size-out.HeadRoom()-int(out.icvLen))%4 != 0 {
				t.Fatalf("%s: %d octets need %d", a.name, n, size)
			}
			if got := out.MaxInner(size); got < n || out.SealedLen(got) != size || out.SealedLen(got+1) <= size {
				t.Fatalf("%s: MaxInner(%d) = %d", a.name, size, got)
			}
		}
		if out.MaxInner(out.SealedLen(0)-1) >= 0 {
			t.Errorf("%s: something fits into nothing", a.name)
		}
	}
	// RFC 4303 and RFC 4106: 8 + 8 + 1400 + pad 2 + 2 + 16.
	out, _ := pair(t, gcm128, false)
	if got := out.SealedLen(1400); got != 1436 {
		t.Errorf("GCM makes 1436 octets of 1400, not %d", got)
	}
}

func TestSealRefuses(t *testing.T) {
	out, _ := pair(t, gcm128, false)
	inner := innerPacket(4, 60)
	for _, tt := range []struct {
		name string
		size int
		seq  uint64
		want Drop
	}{
		{"sequence number 0", 200, 0, ErrSequence},
		{"wrapped sequence number", 200, 1 << 32, ErrSequence},
		{"no room", out.SealedLen(len(inner)) - 1, 1, ErrSpace},
	} {
		dst := make([]byte, tt.size)
		if n, err := out.Seal(dst, inner, tt.seq, NextIPv4); err != tt.want || n != 0 || !bytes.Equal(dst, make([]byte, tt.size)) {
			t.Errorf("%s: %d, %v", tt.name, n, err)
		}
	}
	big := make([]byte, 70000)
	if _, err := out.Seal(big, big[out.HeadRoom():][:MaxLen], 1, NextIPv4); err != ErrSpace {
		t.Errorf("a packet beyond IP: %v", err)
	}
	sealed(t, out, inner, math.MaxUint32, NextIPv4)
	esn, _ := pair(t, gcm128, true)
	sealed(t, esn, inner, 1<<32, NextIPv4)
	sealed(t, esn, inner, math.MaxUint64, NextIPv4)
}

// sealRaw seals a body that an honest sender would not make.
func sealRaw(out *Outbound, seq uint32, body []byte) []byte {
	head := out.HeadRoom()
	pkt := make([]byte, head+len(body)+int(out.icvLen))
	binary.BigEndian.PutUint32(pkt, uint32(out.spi))
	binary.BigEndian.PutUint32(pkt[4:], seq)
	out.awake().NextIV(pkt[8:head], uint64(seq))
	out.awake().Seal(pkt[head:], pkt[8:head], body, pkt[:8], nil)
	return pkt
}

func TestOpenRefuses(t *testing.T) {
	v4, v6 := innerPacket(4, 30), innerPacket(6, 46)
	long := bytes.Clone(v4)
	long[3]++
	below := bytes.Clone(v4)
	below[3] = 19
	cat := func(b []byte, tail ...byte) []byte { return append(bytes.Clone(b), tail...) }
	tests := []struct {
		name string
		body []byte
		want error
	}{
		{"good", cat(v4, 0, 4), nil},
		{"good IPv6", cat(v6, 0, 41), nil},
		{"traffic flow padding", cat(v4, 9, 9, 9, 9, 9, 9, 1, 2, 2, 4), nil},
		{"padding of zeros", cat(v4[:28], 0, 0, 2, 4), ErrPadding},
		{"padding reversed", cat(v4[:28], 2, 1, 2, 4), ErrPadding},
		{"padding longer than the body", cat(v4, 255, 4), ErrPadding},
		{"dummy", cat(v4, 0, 59), ErrDummy},
		{"TCP in tunnel mode", cat(v4, 0, 6), ErrNextHeader},
		{"IPv4 said to be IPv6", cat(v4, 0, 41), ErrNextHeader},
		{"IPv6 said to be IPv4", cat(v6, 0, 4), ErrNextHeader},
		{"empty", []byte{1, 2, 2, 4}, ErrNextHeader},
		{"longer than arrived", cat(long, 0, 4), ErrInner},
		{"shorter than its header", cat(below, 0, 4), ErrInner},
		{"header cut", cat(v4[:18], 0, 4), ErrInner},
		{"IPv6 header cut", cat(v6[:38], 0, 41), ErrInner},
	}
	out, in := pair(t, gcm128, false)
	for i, tt := range tests {
		if len(tt.body)%4 != 0 {
			t.Fatalf("%s: %d octets", tt.name, len(tt.body))
		}
		seq := uint32(i + 1)
		inner, _, got, err := in.Open(sealRaw(out, seq, tt.body))
		if err != tt.want || got != uint64(seq) || (err == nil) != (inner != nil) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
		if in.Top() != uint64(seq) {
			t.Errorf("%s: an authentic packet does not move the window", tt.name)
		}
	}
}

func TestOpenOfEveryPrefixAndFlippedBit(t *testing.T) {
	for _, a := range all {
		out, in := pair(t, a, false)
		pkt := sealed(t, out, innerPacket(4, 61), 5, NextIPv4)
		for n := range pkt {
			if _, _, _, err := in.Open(bytes.Clone(pkt[:n])[:n:n]); err != ErrShort && err != ErrIntegrity {
				t.Fatalf("%s: %d of %d octets: %v", a.name, n, len(pkt), err)
			}
		}
		for bit := range len(pkt) * 8 {
			bad := bytes.Clone(pkt)
			bad[bit/8] ^= 1 << (bit % 8)
			if _, _, _, err := in.Open(bad); err != ErrIntegrity {
				t.Fatalf("%s: bit %d flipped: %v", a.name, bit, err)
			}
		}
		if in.Top() != 0 {
			t.Errorf("%s: forged packets moved the window to %d", a.name, in.Top())
		}
		if _, _, _, err := in.Open(pkt); err != nil {
			t.Errorf("%s: the true packet after the forged ones: %v", a.name, err)
		}
	}
}

// TestESNCoversTheHighHalf recomputes the ICV of RFC 4303, Section 2.2.1.
func TestESNCoversTheHighHalf(t *testing.T) {
	out, _ := pair(t, cbc256, true)
	pkt := sealed(t, out, innerPacket(4, 60), 7<<32|9, NextIPv4)
	key := make([]byte, 32)
	for i := range key {
		key[i] = 0x80 + byte(i)
	}
	mac := hmac.New(sha256.New, key)
	mac.Write(pkt[:len(pkt)-16])
	mac.Write([]byte{0, 0, 0, 7})
	if !bytes.Equal(mac.Sum(nil)[:16], pkt[len(pkt)-16:]) {
		t.Error("the ICV does not cover the high half")
	}
	for _, a := range all {
		out, in := pair(t, a, true)
		in.window.Update(6 << 32) // infers 6 where the sender had 7
		if _, _, _, err := in.Open(sealed(t, out, innerPacket(4, 60), 7<<32|9, NextIPv4)); err != ErrIntegrity {
			t.Errorf("%s: wrong high half: %v", a.name, err)
		}
		in.window.Init(64)
		if _, _, _, err := in.Open(sealed(t, out, innerPacket(4, 60), 0xfffffff0, NextIPv4)); err != ErrReplay {
			t.Errorf("%s: a number before the first: %v", a.name, err)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*ipsec.SA)
		want   error
	}{
		{"AH", func(sa *ipsec.SA) { sa.Protocol = ipsec.AH }, ErrUnsupported},
		{"unknown mode", func(sa *ipsec.SA) { sa.Mode = 7 }, ErrUnsupported},
		{"reserved SPI", func(sa *ipsec.SA) { sa.SPI = 255 }, nil},
		{"other direction", func(sa *ipsec.SA) { sa.Direction = 1 - sa.Direction }, nil},
		{"key too short", func(sa *ipsec.SA) { sa.EncrKey = secret.Copy(sa.EncrKey.Bytes()[1:]) }, suite.ErrKeyLength},
		{"unknown cipher", func(sa *ipsec.SA) { sa.Encr.ID = 9999 }, suite.ErrUnknown},
	} {
		for _, d := range []ipsec.Direction{ipsec.In, ipsec.Out} {
			sa := testSA(t, gcm128, d)
			tt.change(sa)
			var err error
			if d == ipsec.In {
				_, err = NewInbound(sa)
			} else {
				_, err = NewOutbound(sa)
			}
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("%s, %s: %v", tt.name, d, err)
			}
		}
	}
	sa := testSA(t, gcm128, ipsec.In)
	sa.ReplayWindow = 31
	if _, err := NewInbound(sa); err == nil {
		t.Error("a replay window of 31 is accepted")
	}
	sa.ReplayWindow = 0
	if in, err := NewInbound(sa); err != nil || in.ReplayWindow() != 4096 {
		t.Error("a replay window of 0 is not the default")
	}
}

func TestBatch(t *testing.T) {
	out, in := pair(t, gcm128, false)
	inner := innerPacket(4, 60)
	seal := make([]SealItem, 3)
	for i := range seal {
		seal[i] = SealItem{Dst: make([]byte, 200), Inner: inner, Seq: uint64(i + 1), NextHeader: NextIPv4}
	}
	seal[1].Dst = nil
	out.SealBatch(seal)
	if seal[0].Err != nil || seal[1].Err != ErrSpace || seal[2].Err != nil {
		t.Fatalf("seal: %v, %v, %v", seal[0].Err, seal[1].Err, seal[2].Err)
	}
	first := seal[0].Dst[:seal[0].Len]
	open := []OpenItem{{Packet: first}, {Packet: bytes.Clone(first)}, {Packet: seal[2].Dst[:seal[2].Len]}}
	in.OpenBatch(open)
	if open[0].Err != nil || open[1].Err != ErrReplay || open[2].Err != nil || open[2].Seq != 3 || !bytes.Equal(open[2].Inner, inner) {
		t.Errorf("open: %v, %v, %v", open[0].Err, open[1].Err, open[2].Err)
	}
}

func TestPeekSPI(t *testing.T) {
	for _, tt := range []struct {
		b    []byte
		want bool
	}{
		{make([]byte, 8), false},
		{[]byte{0, 0, 0, 255, 0, 0, 0, 1}, false},
		{[]byte{0, 0, 1, 0, 0, 0, 0, 1}, true},
		{[]byte{0xff}, false},
		{[]byte{9, 9, 9, 9, 0, 0, 0}, false},
	} {
		if _, ok := PeekSPI(tt.b); ok != tt.want {
			t.Errorf("%x: %t", tt.b, ok)
		}
	}
}

func TestNoAllocs(t *testing.T) {
	for _, a := range all {
		for _, esn := range []bool{false, true} {
			out, in := pair(t, a, esn)
			inner := innerPacket(4, 1400)
			slab := make([]byte, out.SealedLen(len(inner)))
			seq := uint64(0)
			if n := testing.AllocsPerRun(200, func() {
				seq++
				n, err := out.Seal(slab, inner, seq, NextIPv4)
				if err != nil {
					t.Fatal(err)
				}
				slab[n-1] ^= 1
				if _, _, _, err := in.Open(slab[:n]); err != ErrIntegrity {
					t.Fatal(err)
				}
				n, _ = out.Seal(slab, inner, seq, NextIPv4)
				if _, _, _, err := in.Open(slab[:n]); err != nil {
					t.Fatal(err)
				}
			}); n != 0 && poolKeeps {
				t.Errorf("%s, ESN %t: %v allocations", a.name, esn, n)
			}
		}
	}
}

// FuzzOpen fuzzes behind the encryption too: raw is taken as a packet, and as
// the body of an authentic one.
func FuzzOpen(f *testing.F) {
	out, _ := pair(f, gcm128, false)
	f.Add(sealed(f, out, innerPacket(4, 60), 1, NextIPv4))
	f.Add(append(innerPacket(4, 30), 0, 4))
	f.Add(append(innerPacket(6, 46), 0, 41))
	f.Add(append(innerPacket(6, 44), 1, 2, 2, 41))
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, a := range []algorithms{gcm128, cbc256} {
			out, in := pair(t, a, false)
			in.Open(bytes.Clone(raw))
			body := raw[:len(raw)-len(raw)%int(out.align)]
			pkt := sealRaw(out, 77, body)
			inner, nh, _, err := in.Open(pkt)
			if err != nil {
				if _, ok := err.(Drop); !ok {
					t.Fatalf("error %v is not a Drop", err)
				}
				continue
			}
			var p packet.Info
			if p.Decode(inner); p.Version != 0 && (next(int(p.Version)) != nh || p.TotalLen != len(inner)) {
				t.Fatalf("%s: next header %d for %+v of %d octets", a.name, nh, p, len(inner))
			}
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	for _, a := range all {
		for _, size := range []int{64, 512, 1400} {
			b.Run(fmt.Sprintf("encr=%s/size=%d", a.name, size), func(b *testing.B) {
				out, _ := pair(b, a, false)
				slab := make([]byte, out.SealedLen(size))
				inner := slab[out.HeadRoom():][:size]
				copy(inner, innerPacket(4, size))
				b.SetBytes(int64(size))
				seq := uint64(0)
				for b.Loop() {
					seq++
					if _, err := out.Seal(slab, inner, seq, NextIPv4); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	for _, a := range all {
		for _, size := range []int{64, 512, 1400} {
			b.Run(fmt.Sprintf("encr=%s/size=%d", a.name, size), func(b *testing.B) {
				out, in := pair(b, a, false)
				pkt := sealed(b, out, innerPacket(4, size), 1, NextIPv4)
				work := make([]byte, len(pkt))
				b.SetBytes(int64(size))
				for b.Loop() {
					copy(work, pkt)
					in.window.Init(0)
					if _, _, _, err := in.Open(work); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
