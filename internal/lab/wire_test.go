package lab

import (
	"encoding/hex"
	"strings"
	"testing"

	"caponier/internal/lab/netns"
)

func frame(t *testing.T, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const (
	eth4 = "020000000001 020000000002 0800"
	eth6 = "020000000001 020000000002 86dd"
	// From 192.0.2.1 to 192.0.2.2.
	ipUDP  = "45000030 00000000 4011 0000 c0000201 c0000202"
	ipESP  = "45000030 00000000 4032 0000 c0000201 c0000202"
	ipTCP  = "45000030 00000000 4006 0000 0a020002 0a01000a"
	ipICMP = "45000030 00000000 4001 0000 c0000202 c0000201"
)

func TestClassify(t *testing.T) {
	for _, tc := range []struct{ name, frame, want string }{
		{"ike on 500", eth4 + ipUDP + "01f4 01f4 0014 0000 0102030405060708", "ike"},
		{"ike on 4500", eth4 + ipUDP + "1194 1194 0014 0000 00000000 01020304", "ike"},
		{"esp in udp", eth4 + ipUDP + "1194 1194 0014 0000 c0ffee01 00000001", "esp"},
		{"keepalive", eth4 + ipUDP + "1194 1194 0009 0000 ff", "esp"},
		{"esp", eth4 + ipESP + "c0ffee01 00000001", "esp"},
		{"arp", "ffffffffffff 020000000002 0806 0001", "link"},
		{"clear tcp", eth4 + ipTCP + "c000 0050", "IPv4 protocol 6 from 10.2.0.2"},
		{"dns", eth4 + ipUDP + "c000 0035 0014 0000 00000000", "UDP from port 49152 to 53"},
		{"ping", eth4 + ipICMP + "0800 0000 00000000", "ICMP type 8"},
		{"port unreachable for esp", eth4 + ipICMP + "0303 0000 00000000" + ipUDP + "1194 1194 0014 0000", "link"},
		{"port unreachable for dns", eth4 + ipICMP + "0303 0000 00000000" + ipUDP + "c000 0035 0014 0000", "ICMP type 3"},
		{"router solicitation", eth6 + "60000000 0008 3aff fe800000000000000000000000000001 ff020000000000000000000000000002 85000000", "link"},
		{"ping 6", eth6 + "60000000 0008 3aff 20010db8000000000000000000000001 20010db8000000000000000000000002 80000000", "IPv6 next header 58"},
	} {
		b := frame(t, tc.frame)
		if got := classify(b); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
		for n := range b {
			classify(b[:n]) // no prefix may panic
		}
	}
}

func TestVerdict(t *testing.T) {
	ike := frame(t, eth4+ipUDP+"01f4 01f4 0014 0000 0102030405060708")
	esp := frame(t, eth4+ipESP+"c0ffee01 00000001")
	clear := frame(t, eth4+ipTCP+"c000 0050 736563726574")
	for _, tc := range []struct {
		name   string
		frames [][]byte
		want   string // part of the error
	}{
		{"a tunnel", [][]byte{ike, esp}, ""},
		{"nothing", nil, "no tunnel"},
		{"no esp", [][]byte{ike}, "no tunnel"},
		{"clear", [][]byte{ike, esp, clear}, "in clear"},
	} {
		var w wire
		w.mustNotShow([]byte("secret"))
		for _, f := range tc.frames {
			w.see(netns.Frame{Data: f})
			w.see(netns.Frame{Data: clear, Outgoing: true}) // the same frame again
		}
		_, err := w.verdict()
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
	}
}
