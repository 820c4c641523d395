package bench

import (
	"encoding/binary"
	"os"
	"strings"
	"testing"
)

// The files are what iperf3 3.12 printed.
func TestParseIperf(t *testing.T) {
	read := func(name string) []byte {
		b, err := os.ReadFile("testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	got, err := parseIperf(read("iperf3.json"))
	if want := (tcpResult{rate: 31531801135.062885, bytes: 3942645760, retransmits: 8}); err != nil || got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	for _, tc := range []struct{ name, out, want string }{
		{"refused", string(read("iperf3-refused.json")), "Connection refused"},
		{"empty", "", "unexpected end"},
		{"udp", `{"end":{"sum":{"bytes":5}}}`, "no result of a TCP test"},
	} {
		if _, err := parseIperf([]byte(tc.out)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
	}
}

func TestEchoTakesOnlyItsAnswer(t *testing.T) {
	e := echo{id: 0x1234, seq: 5, request: make([]byte, icmpHeader+32)}
	reply := func(change func(ip []byte)) []byte {
		ip := make([]byte, 20+icmpHeader+32)
		ip[0] = 0x45
		binary.BigEndian.PutUint16(ip[24:], e.id)
		binary.BigEndian.PutUint64(ip[28:], e.seq)
		change(ip)
		return ip
	}
	good := reply(func([]byte) {})
	if !e.answers(good) {
		t.Error("the answer is refused")
	}
	for n := range good {
		if e.answers(good[:n]) {
			t.Errorf("the first %d octets are taken for the answer", n)
		}
	}
	for name, change := range map[string]func([]byte){
		"request":      func(ip []byte) { ip[20] = echoRequest },
		"other id":     func(ip []byte) { ip[24]++ },
		"late":         func(ip []byte) { ip[35]-- },
		"long header":  func(ip []byte) { ip[0] = 0x4f },
		"short header": func(ip []byte) { ip[0] = 0x40 },
	} {
		if e.answers(reply(change)) {
			t.Errorf("%s: taken for the answer", name)
		}
	}
}
