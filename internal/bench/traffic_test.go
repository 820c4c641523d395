package bench

import (
	"encoding/binary"
	"os"
	"strings"
	"testing"

	"golang.org/x/net/ipv4"
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

func TestReceiverCountsItsOwnStream(t *testing.T) {
	datagram := func(stream uint32, seq uint64, size int) ipv4.Message {
		b := make([]byte, size)
		binary.BigEndian.PutUint32(b, stream)
		binary.BigEndian.PutUint64(b[4:], seq)
		return ipv4.Message{Buffers: [][]byte{b}, N: size}
	}
	r := receiver{stream: 7}
	n := r.count([]ipv4.Message{
		datagram(7, 1, 64), datagram(7, 3, 64), datagram(7, 2, 64), // one is late
		datagram(6, 9, 64), datagram(7, 4, 65), // a straggler, another size
		datagram(7, 4, 64),
	}, 64)
	if n != 4 || r.reordered != 1 {
		t.Errorf("%d datagrams, %d late, want 4 and 1", n, r.reordered)
	}
}

func TestLossPercent(t *testing.T) {
	for _, tc := range []struct {
		sent, received uint64
		want           float64
	}{{0, 0, 0}, {100, 100, 0}, {100, 75, 25}, {100, 101, 0}, {4, 0, 100}} {
		if got := (udpResult{sent: tc.sent, received: tc.received}).lossPercent(); got != tc.want {
			t.Errorf("%d of %d: %v %%, want %v", tc.received, tc.sent, got, tc.want)
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
