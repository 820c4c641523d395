package message

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"caponier/internal/suite"
)

// longRequest is an IKE_AUTH request with a chain of certificates of n octets.
func longRequest(n int) *Message {
	m := authRequest()
	m.Payloads = append(m.Payloads, &Cert{Encoding: CertX509Signature, Data: octets(n, 5)})
	return m
}

func counter() func() uint64 {
	var n uint64
	return func() uint64 { n++; return n }
}

func fragments(t testing.TB, m *Message, p suite.Protector, size int) [][]byte {
	t.Helper()
	raws, err := m.SealFragments(p, counter(), size)
	if err != nil {
		t.Fatal(err)
	}
	return raws
}

// take gives a datagram to an assembly.
func take(t testing.TB, a *Assembly, raw []byte, p suite.Protector) (*Message, bool, error) {
	t.Helper()
	m, err := Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	complete, err := m.OpenFragment(raw, p, a)
	return m, complete, err
}

func TestFragmentsRoundTrip(t *testing.T) {
	for alg, newProtector := range protectors {
		t.Run(alg, func(t *testing.T) {
			for _, n := range []int{1, 100, 1000, 1100, 1200, 1300, 5000, 20000} {
				for _, size := range []int{1232, 548, 200} {
					m := longRequest(n)
					raws := fragments(t, m, newProtector(t), size)
					p := newProtector(t)
					var a Assembly
					var got *Message
					// The last one first: there is no order.
					slices.Reverse(raws)
					for i, raw := range raws {
						if len(raw) > size {
							t.Fatalf("%d octets of certificate: a datagram has %d octets, more than %d", n, len(raw), size)
						}
						if len(raws) == 1 {
							var err error
							if got, err = open(t, raw, p); err != nil {
								t.Fatal(err)
							}
							continue
						}
						x, complete, err := take(t, &a, raw, p)
						if err != nil || complete != (i == len(raws)-1) {
							t.Fatalf("fragment %d of %d: complete %v, %v", i+1, len(raws), complete, err)
						}
						got = x
					}
					equal(t, got.Payloads, m.Payloads)
					if got.Encrypted.IsFragment() || a.Total() != 0 {
						t.Error("the assembly is not empty")
					}
				}
			}
		})
	}
}

func TestOnlyTheFirstFragmentTellsThePayload(t *testing.T) {
	for i, raw := range fragments(t, longRequest(3000), protectors["AES-GCM"](t), 600) {
		m, err := Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		want := NoNextPayload
		if i == 0 {
			want = TypeIDi
		}
		if m.Encrypted.First != want || int(m.Encrypted.Fragment) != i+1 || m.Header.NextPayload != TypeFragment {
			t.Errorf("fragment %d: %+v", i+1, m.Encrypted)
		}
	}
}

func TestFragmentsThatDoNotFit(t *testing.T) {
	p := protectors["AES-GCM"](t)
	small := fragments(t, longRequest(3000), p, 600)
	large := fragments(t, longRequest(3000), p, 1200)
	var a Assembly
	mustKeep := func(raw []byte) {
		t.Helper()
		if _, complete, err := take(t, &a, raw, p); complete || err != nil {
			t.Fatalf("complete %v, %v", complete, err)
		}
	}
	mustRefuse := func(raw []byte, want error) {
		t.Helper()
		total := a.Total()
		if _, complete, err := take(t, &a, raw, p); complete || !errors.Is(err, want) {
			t.Fatalf("complete %v, %v, want %v", complete, err, want)
		}
		if a.Total() != total {
			t.Fatalf("the assembly has %d fragments, before %d", a.Total(), total)
		}
	}
	mustKeep(large[0])
	mustRefuse(large[0], ErrFragment)
	// RFC 7383, Section 2.6: the sender has cut the message into more pieces.
	forged := bytes.Clone(small[1])
	forged[len(forged)-1] ^= 1
	mustRefuse(forged, ErrNotAuthentic)
	mustKeep(small[1])
	if a.Total() != len(small) {
		t.Fatalf("the assembly is of %d fragments, want %d", a.Total(), len(small))
	}
	mustRefuse(large[1], ErrFragment) // fewer in all: late
	other := *longRequest(3000)
	other.Header.Exchange = Informational
	mustRefuse(fragments(t, &other, p, 600)[0], ErrFragment)
	mustKeep(small[0])
	for _, raw := range small[2 : len(small)-1] {
		mustKeep(raw)
	}
	m, complete, err := take(t, &a, small[len(small)-1], p)
	if !complete || err != nil {
		t.Fatalf("complete %v, %v", complete, err)
	}
	equal(t, m.Payloads, longRequest(3000).Payloads)
}

func TestFragmentIsNotAWholeMessage(t *testing.T) {
	p := protectors["AES-GCM"](t)
	raws := fragments(t, longRequest(3000), p, 600)
	if _, err := open(t, raws[0], p); !errors.Is(err, ErrNotEncrypted) {
		t.Errorf("Open of a fragment: %v", err)
	}
	whole := seal(t, authRequest(), p)
	if _, _, err := take(t, new(Assembly), whole, p); !errors.Is(err, ErrNotEncrypted) {
		t.Errorf("OpenFragment of a whole message: %v", err)
	}
}

// forgeFragment seals a fragment that SealFragments would not make.
func forgeFragment(t testing.TB, p suite.Protector, number, total uint16, first PayloadType, content []byte) []byte {
	t.Helper()
	raw, err := sealContent(nil, Header{Exchange: IKEAuth}, Encrypted{First: first, Fragment: number, Fragments: total}, content, p, 1)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestFragmentLimits(t *testing.T) {
	p := protectors["AES-GCM"](t)
	var a Assembly
	if _, _, err := take(t, &a, forgeFragment(t, p, 1, MaxFragments+1, TypeCert, nil), p); !errors.Is(err, ErrFragment) {
		t.Errorf("too many fragments: %v", err)
	}
	if a.Total() != 0 {
		t.Error("they are kept")
	}
	if _, _, err := take(t, &a, forgeFragment(t, p, 1, 2, TypeCert, make([]byte, 40_000)), p); err != nil {
		t.Fatal(err)
	}
	if _, _, err := take(t, &a, forgeFragment(t, p, 2, 2, 0, make([]byte, 40_000)), p); !errors.Is(err, ErrSyntax) {
		t.Errorf("too many octets: %v", err)
	}
	if a.Total() != 0 {
		t.Error("they are kept")
	}
	// Fragments of one octet, and of none, are allowed.
	content, err := appendChain(nil, []Payload{&VendorID{Data: []byte("a")}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint16(len(content) + 1) {
		part := content[min(int(i), len(content)):min(int(i)+1, len(content))]
		m, complete, err := take(t, &a, forgeFragment(t, p, i+1, uint16(len(content)+1), TypeVendorID, part), p)
		if err != nil || complete != (int(i) == len(content)) {
			t.Fatalf("fragment %d: complete %v, %v", i+1, complete, err)
		}
		if complete {
			equal(t, m.Payloads, []Payload{&VendorID{Data: []byte("a")}})
		}
	}
	// What is malformed as a whole is authentic, and malformed.
	_, complete, err := take(t, &a, forgeFragment(t, p, 1, 1, TypeNonce, []byte{0, 0, 0, 5, 1}), p)
	if !errors.Is(err, ErrSyntax) || errors.Is(err, ErrNotAuthentic) {
		t.Errorf("malformed inside: complete %v, %v", complete, err)
	}
	inside := []byte{0, 0, 0, 8, 0, 1, 0, 1}
	if _, _, err := take(t, &a, forgeFragment(t, p, 1, 1, TypeFragment, inside), p); !errors.Is(err, ErrSyntax) {
		t.Errorf("SKF inside SKF: %v", err)
	}
}

func TestSealFragmentsRefuses(t *testing.T) {
	p := protectors["AES-GCM"](t)
	for name, test := range map[string]struct {
		m    *Message
		size int
	}{
		"no room":       {longRequest(1000), 50},
		"too many":      {longRequest(60_000), 200},
		"malformed":     {&Message{Payloads: []Payload{&Nonce{}}}, 1200},
		"more than all": {&Message{Payloads: []Payload{&VendorID{Data: make([]byte, 40_000)}, &VendorID{Data: make([]byte, 40_000)}}}, 1200},
	} {
		if raws, err := test.m.SealFragments(p, counter(), test.size); !errors.Is(err, ErrEncode) || raws != nil {
			t.Errorf("%s: %d datagrams, %v", name, len(raws), err)
		}
	}
}

// TestFragmentEveryPrefix cuts a fragment at every octet, with and without the
// lengths put right.
func TestFragmentEveryPrefix(t *testing.T) {
	for alg, newProtector := range protectors {
		t.Run(alg, func(t *testing.T) {
			raw, p := fragments(t, longRequest(1000), newProtector(t), 600)[0], newProtector(t)
			for n := range raw {
				if _, err := Parse(raw[:n]); err == nil {
					t.Fatalf("%d octets are a message", n)
				}
				if n < HeaderLen+genericLen {
					continue
				}
				cut := bytes.Clone(raw[:n])
				binary.BigEndian.PutUint32(cut[24:], uint32(n))
				binary.BigEndian.PutUint16(cut[HeaderLen+2:], uint16(n-HeaderLen))
				m, err := Parse(cut)
				if n < HeaderLen+genericLen+fragmentLen {
					if !errors.Is(err, ErrSyntax) {
						t.Errorf("%d octets: %v", n, err)
					}
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				var a Assembly
				if _, err := m.OpenFragment(cut, p, &a); !errors.Is(err, ErrNotAuthentic) || a.Total() != 0 {
					t.Errorf("%d octets: %v, %d kept", n, err, a.Total())
				}
			}
			for i := range raw {
				forged := bytes.Clone(raw)
				forged[i] ^= 1
				m, err := Parse(forged)
				if err != nil || m.Encrypted == nil {
					continue
				}
				var a Assembly
				if _, err := m.OpenFragment(forged, p, &a); err == nil || a.Total() != 0 {
					t.Errorf("octet %d changed: %v, %d kept", i, err, a.Total())
				}
			}
		})
	}
}

func TestFragmentNumbers(t *testing.T) {
	p := protectors["AES-GCM"](t)
	for _, n := range [][2]uint16{{0, 1}, {0, 0}, {2, 1}, {1, 0}, {0xffff, 1}} {
		raw := forgeFragment(t, p, 1, 1, TypeVendorID, nil)
		binary.BigEndian.PutUint16(raw[HeaderLen+genericLen:], n[0])
		binary.BigEndian.PutUint16(raw[HeaderLen+genericLen+2:], n[1])
		if _, err := Parse(raw); !errors.Is(err, ErrSyntax) {
			t.Errorf("fragment %d of %d: %v", n[0], n[1], err)
		}
	}
}

// FuzzFragments gives authentic fragments to an assembly: each two octets of
// script are a number and a total, and what they carry is a piece of content.
func FuzzFragments(f *testing.F) {
	content, err := appendChain(nil, authRequest().Payloads)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte{0x11, 0x11}, byte(TypeIDi), content)
	f.Add([]byte{0x12, 0x22, 0x22, 0x12}, byte(TypeIDi), content)
	f.Add([]byte{0x23, 0x13, 0x12, 0x33, 0x22}, byte(TypeIDi), content)
	f.Add([]byte{0x1f, 0x2f, 0x3e, 0xff}, byte(TypeFragment), []byte{0, 0, 0, 4})
	p := protectors["AES-GCM"](f)
	f.Fuzz(func(t *testing.T, script []byte, first byte, content []byte) {
		if len(content) > 50_000 || len(script) > 100 {
			return
		}
		var a Assembly
		for _, s := range script {
			number, total := uint16(s>>4), uint16(s&15)
			if number == 0 || number > total {
				continue
			}
			lo, hi := len(content)*int(number-1)/int(total), len(content)*int(number)/int(total)
			raw := forgeFragment(t, p, number, total, PayloadType(first), content[lo:hi])
			m, complete, err := take(t, &a, raw, p)
			if complete && err == nil && m.Encrypted.IsFragment() {
				t.Fatal("complete, and still a fragment")
			}
			if a.size > maxContent || a.have > len(a.parts) {
				t.Fatalf("%d octets in %d of %d fragments", a.size, a.have, len(a.parts))
			}
			if complete && err == nil && total == 1 {
				want, _, err := parseChain(content, PayloadType(first), MaxPayloads)
				if err != nil {
					t.Fatal(err)
				}
				equal(t, m.Payloads, want)
			}
		}
	})
}
