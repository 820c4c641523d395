package derive

import (
	"math/bits"
	"math/rand/v2"
	"testing"
)

var productAES = func(a, b byte) byte { return mul(a, b, polyAES) }

func TestSBoxFromItsAffineForms(t *testing.T) {
	k := Derive()
	sm4 := inverses(func(a, b byte) byte { return mul(a, b, polySM4) })
	aes, tower := inverses(productAES), inverses(TowerMul)
	for i := range 256 {
		x, want := byte(i), SBox[i]
		if got := k.A.Apply(sm4[k.A.Apply(x)^k.C]) ^ k.C; got != want {
			t.Fatalf("own field: S(%#x) = %#x, want %#x", x, got, want)
		}
		if got := k.Post.Apply(aes[k.Pre.Apply(x)^k.PreC]) ^ k.PostC; got != want {
			t.Fatalf("AES's field: S(%#x) = %#x, want %#x", x, got, want)
		}
		s := aes[k.AESPre.Apply(x)^k.AESPreC]
		s = s ^ bits.RotateLeft8(s, 1) ^ bits.RotateLeft8(s, 2) ^ bits.RotateLeft8(s, 3) ^ bits.RotateLeft8(s, 4) ^ 0x63
		if got := k.AESPost.Apply(s) ^ k.AESPosC; got != want {
			t.Fatalf("AES's S-box: S(%#x) = %#x, want %#x", x, got, want)
		}
		if got := k.TowerOut.Apply(tower[k.TowerIn.Apply(x)^k.TowerInC]) ^ k.TowerOutC; got != want {
			t.Fatalf("tower: S(%#x) = %#x, want %#x", x, got, want)
		}
		low, high := k.Pre.Nibbles(k.PreC)
		if got, want := low[x&15]^high[x>>4], k.Pre.Apply(x)^k.PreC; got != want {
			t.Fatalf("nibbles of %#x: %#x, want %#x", x, got, want)
		}
	}
}

func TestFoldedRound(t *testing.T) {
	k, inv := Derive(), inverses(productAES)
	for range 2000 {
		x := [4]uint32{rand.Uint32(), rand.Uint32(), rand.Uint32(), rand.Uint32()}
		rk := rand.Uint32()
		var b uint32
		in := x[1] ^ x[2] ^ x[3] ^ rk
		for j := range 4 {
			b |= uint32(SBox[byte(in>>(8*j))]) << (8 * j)
		}
		want := x[0] ^ b ^ bits.RotateLeft32(b, 2) ^ bits.RotateLeft32(b, 10) ^ bits.RotateLeft32(b, 18) ^ bits.RotateLeft32(b, 24)

		y := func(w, j int) byte { return k.Basis.Apply(byte(x[w] >> (8 * j))) }
		var s, p [4]byte
		for j := range 4 {
			s[j] = inv[y(1, j)^y(2, j)^y(3, j)^k.Basis.Apply(byte(rk>>(8*j)))^k.PreC]
		}
		for j := range 4 {
			p[j] = k.W.Apply(s[j]) ^ k.U.Apply(s[(j+1)%4])
		}
		var got uint32
		for j := range 4 {
			z := y(0, j) ^ p[j] ^ p[0] ^ p[1] ^ p[2] ^ p[3] ^ k.FoldC
			got |= uint32(k.Unbasis.Apply(z)) << (8 * j)
		}
		if got != want {
			t.Fatalf("folded round gives %#x, want %#x", got, want)
		}
	}
}
