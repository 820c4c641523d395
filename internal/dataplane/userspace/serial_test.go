package userspace

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"caponier/internal/ipsec"
	"caponier/internal/netio"
	"caponier/internal/secret"
)

var (
	aes128gcm = [2]ipsec.Transform{{Type: ipsec.TypeEncr, ID: ipsec.EncrAESGCM16, KeyBits: 128}, {}}
	sm4gcm    = [2]ipsec.Transform{{Type: ipsec.TypeEncr, ID: ipsec.EncrSM4GCM16}, {}}
	sm4cbc    = [2]ipsec.Transform{{Type: ipsec.TypeEncr, ID: ipsec.EncrSM4CBC}, {Type: ipsec.TypeInteg, ID: ipsec.IntegHMACSM3}}
)

// newer gives the planes a newer SA, of this suite.
func newer(t testing.TB, a, b *Plane, algorithms [2]ipsec.Transform) {
	t.Helper()
	for side, p := range []*Plane{a, b} {
		sa := testSA([]ipsec.Direction{ipsec.Out, ipsec.In}[side], 1002, side, true)
		sa.Encr, sa.Integ = algorithms[0], algorithms[1]
		if sa.Integ != (ipsec.Transform{}) {
			sa.EncrKey, sa.IntegKey = secret.New(bytes.Repeat([]byte{3}, 16)), secret.New(bytes.Repeat([]byte{4}, 32))
		}
		if err := p.AddSA(sa); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSerialSuites: with a suite whose packets are sealed and opened side by
// side, super-packets and single ones make the same octets on the wire, and all
// arrive in order, whatever forgeries, replays and packets of another SA there
// are among them.
func TestSerialSuites(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	for range 10 {
		list := offers(r, 20)
		var single []offer
		for _, o := range list {
			for _, b := range cutUp(t, o.data, o.segment) {
				single = append(single, offer{b, 0})
			}
		}
		a, b, aInner, bInner, aWire := bigPlanes(t, true)
		a2, b2, a2Inner, b2Inner, a2Wire := bigPlanes(t, false)
		a3, _, a3Inner, _, a3Wire := bigPlanes(t, true)
		other := sealAll(t, a3, a3Inner, a3Wire, offers(r, 2)) // of the SA that all have
		newer(t, a, b, sm4cbc)
		newer(t, a2, b2, sm4cbc)
		image, image2 := sealAll(t, a, aInner, aWire, list), sealAll(t, a2, a2Inner, a2Wire, single)
		if len(image) != len(single) || !slices.EqualFunc(image, image2, bytes.Equal) {
			t.Fatalf("%d packets on the wire, %d without super-packets, or others; %v", len(image), len(image2), a.Counters())
		}
		for i := range image {
			if image[i][3] != 1002&0xff {
				t.Fatalf("packet %d is not of the new SA: %x", i, image[i][:8])
			}
		}
		forged := bytes.Clone(image[0])
		forged[len(forged)-1] ^= 1
		image = slices.Concat([][]byte{forged}, other, image[:3], [][]byte{image[1], forged}, image[3:])
		got, _ := openAll(t, b, bInner, image)
		got2, _ := openAll(t, b2, b2Inner, image2)
		if len(got) != len(other)+len(single) || len(got2) != len(single) {
			t.Fatalf("%d and %d packets were delivered, want %d; %v", len(got), len(got2), len(single), b.Counters())
		}
		for i, want := range single {
			if !bytes.Equal(got2[i], want.data) {
				t.Fatalf("packet %d is another", i)
			}
		}
		if c := b.Counters(); c["esp-integrity"] != 2 || c["esp-replay"] != 1 {
			t.Errorf("two forgeries and a replay are counted as %v", c)
		}
	}
}

// BenchmarkSuperPackets takes TCP super-packets through two planes: cut, sealed,
// opened, joined.
func BenchmarkSuperPackets(b *testing.B) {
	for name, algorithms := range map[string][2]ipsec.Transform{"aes128gcm16": aes128gcm, "sm4gcm16": sm4gcm, "sm4cbc-sm3": sm4cbc} {
		b.Run("suite="+name, func(b *testing.B) {
			p, q, pInner, qInner, wire := bigPlanes(b, true)
			newer(b, p, q, algorithms)
			const size = 60000
			feed, wired, sink := netio.NewBatch(3, netio.MaxPacket), netio.NewBatch(256, 2000), netio.NewBatch(64, netio.MaxPacket)
			for i := range feed {
				feed[i].Len, feed[i].Segment = copy(feed[i].Buf[feed[i].Off:], tcpSuper(5, 0, size)), 1338
			}
			b.SetBytes(int64(len(feed) * size))
			for b.Loop() {
				if _, err := pInner.WriteBatch(feed); err != nil {
					b.Fatal(err)
				}
				pkts, err := p.out[0].reader.Read()
				if err != nil {
					b.Fatal(err)
				}
				p.out[0].carry(pkts)
				n, err := wire.ReadBatch(wired)
				if err != nil || n != 135 {
					b.Fatalf("%d packets, %v", n, err)
				}
				q.in[0].carry(wired[:n])
				if n, err := qInner.ReadBatch(sink); n != 3 || err != nil {
					b.Fatalf("%d super-packets, %v", n, err)
				}
			}
		})
	}
}
