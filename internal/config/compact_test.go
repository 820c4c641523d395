package config

import (
	"net/netip"
	"os"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"caponier/internal/config/compact"
	"caponier/internal/secret"
)

// TestCompact copies everything, and leaves nothing of the original in use.
func TestCompact(t *testing.T) {
	data, err := os.ReadFile("testdata/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	read := func() *Config {
		c, _, err := Parse("testdata/full.yaml", data)
		if err != nil {
			t.Fatal(err)
		}
		c.Connections[0].Local.PSK = secret.Copy([]byte("a key of both ends"))
		c.Connections[0].Remote.PSK = c.Connections[0].Local.PSK
		return c
	}
	want, original := read(), read()
	got := compact.Of(original)
	keys := cmp.Comparer(func(a, b secret.Key) bool { return a.Equal(b) })
	if diff := cmp.Diff(want, got, keys, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	ends := got.Connections[0]
	if &ends.Local.PSK.Bytes()[0] != &ends.Remote.PSK.Bytes()[0] {
		t.Error("the ends share their key no longer")
	}
	if original.Connections[0].Local.PSK.Bytes()[0] != 0 {
		t.Error("the key of the original is not wiped")
	}
	ours := make(map[uintptr]bool)
	memory(reflect.ValueOf(original), func(p uintptr) { ours[p] = true })
	memory(reflect.ValueOf(got), func(p uintptr) {
		if ours[p] {
			t.Errorf("the copy leads to %#x, as the original does", p)
		}
	})
}

// memory shows the addresses of what v leads to by pointers, slices and maps.
func memory(v reflect.Value, show func(uintptr)) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			show(v.Pointer())
			memory(v.Elem(), show)
		}
	case reflect.Slice:
		if v.Len() > 0 {
			show(v.Pointer())
		}
		for i := range v.Len() {
			memory(v.Index(i), show)
		}
	case reflect.Map:
		if !v.IsNil() {
			show(v.Pointer())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				memory(v.Field(i), show)
			}
		}
	default:
	}
}

// TestAlike makes lists of equal settings one, and no others.
func TestAlike(t *testing.T) {
	const text = `
gateway: { name: a }
connections:
  one: { local: { auth: psk, psk-file: k }, remote: { address: 192.0.2.1, id: one, auth: psk }, proposals: [aes128gcm16-prfsha256-x25519], tunnels: { x: { local: [10.1.0.0/16], remote: [10.2.0.0/16] } } }
  two: { local: { auth: psk, psk-file: k }, remote: { address: 192.0.2.2, id: two, auth: psk }, proposals: [aes128gcm16-prfsha256-x25519], tunnels: { x: { local: [10.1.0.0/16], remote: [10.3.0.0/16] } } }
`
	c, _, err := Parse("alike.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	a, b := c.Connections[0], c.Connections[1]
	if &a.Proposals[0] != &b.Proposals[0] || &a.ProposalWords[0] != &b.ProposalWords[0] {
		t.Error("the proposals of the connections are two lists")
	}
	if x, y := a.Tunnels[0], b.Tunnels[0]; &x.Local[0] != &y.Local[0] || &x.Proposals[0] != &y.Proposals[0] {
		t.Error("the selectors of the local ends, or the proposals of the tunnels, are two lists")
	} else if x.Remote[0] == y.Remote[0] || a.Remote.Addresses[0] == b.Remote.Addresses[0] {
		t.Error("what differs became the same")
	}
}
