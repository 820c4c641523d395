package ah

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"caponier/internal/ipsec"
	"caponier/internal/packet"
)

// The judges of this file were written by others: scapy and Wireshark.

// python is the interpreter for which the system's packages are installed; another
// one may come first in PATH.
const python = "/usr/bin/python3"

type scapyCase struct {
	Do     string  `json:"do"`
	Auth   string  `json:"auth"`
	Key    string  `json:"key"`
	SPI    uint32  `json:"spi"`
	Seq    uint32  `json:"seq"`
	ESN    *uint32 `json:"esn"`
	Tunnel bool    `json:"tunnel"`
	Packet string  `json:"packet"`
	Outer  uint8   `json:"outer"`

	id    uint16
	shape string
	want  []byte // what AH is around
}

// scapyNames are the algorithms that scapy has.
var scapyNames = map[uint16]string{
	ipsec.IntegHMACMD596: "HMAC-MD5-96", ipsec.IntegHMACSHA196: "HMAC-SHA1-96", ipsec.IntegHMACSHA256128: "SHA2-256-128",
	ipsec.IntegHMACSHA384192: "SHA2-384-192", ipsec.IntegHMACSHA512256: "SHA2-512-256", ipsec.IntegAESCMAC96: "AES-CMAC-96",
}

// scapy runs all cases in one process.
func scapy(t *testing.T, cases []scapyCase) [][]byte {
	t.Helper()
	in, err := json.Marshal(cases)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(python, filepath.Join("testdata", "scapy_ah.py"))
	cmd.Stdin = bytes.NewReader(in)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("scapy (package python3-scapy) is needed as a judge: %v\n%s", err, stderr.String())
	}
	var texts []string
	if err := json.Unmarshal(out, &texts); err != nil || len(texts) != len(cases) {
		t.Fatalf("scapy gave %d results for %d cases: %v", len(texts), len(cases), err)
	}
	results := make([][]byte, len(texts))
	for i, text := range texts {
		if results[i], err = hex.DecodeString(text); err != nil {
			t.Fatal(err)
		}
	}
	return results
}

// scapyCases makes each combination of algorithms, modes, families and shapes.
func scapyCases(t *testing.T, do string) (cases []scapyCase) {
	seq := uint32(0)
	for id, auth := range scapyNames {
		add := func(s shape, n int, tunnel bool, outer uint8, esn *uint32) {
			seq++
			pkt := s.build(n)
			cases = append(cases, scapyCase{
				Do: do, Auth: auth, Key: hex.EncodeToString(testSA(t, id, ipsec.Tunnel, ipsec.In).IntegKey.Bytes()),
				SPI: uint32(testSPI), Seq: seq, ESN: esn, Tunnel: tunnel, Packet: hex.EncodeToString(pkt), Outer: outer,
				id: id, shape: s.name, want: pkt,
			})
		}
		high := uint32(5)
		for _, s := range shapes {
			for i, n := range []int{8, 61, 62, 63, 1380} {
				if i == 1 {
					add(s, n, false, s.version, &high)
					continue
				}
				add(s, n, false, s.version, nil)
			}
		}
		for _, inner := range []shape{plain4, plain6} {
			for _, outer := range []uint8{4, 6} {
				add(inner, 100, true, outer, nil)
				add(inner, 101, true, outer, &high)
			}
		}
	}
	return cases
}

func (c *scapyCase) seq() (uint64, bool) {
	if c.ESN == nil {
		return uint64(c.Seq), false
	}
	return uint64(*c.ESN)<<32 | uint64(c.Seq), true
}

func (c *scapyCase) mode() ipsec.Mode {
	if c.Tunnel {
		return ipsec.Tunnel
	}
	return ipsec.Transport
}

func TestScapyOpensOurs(t *testing.T) {
	cases := scapyCases(t, "open")
	for i := range cases {
		c := &cases[i]
		seq, esn := c.seq()
		out, _ := pair(t, c.id, c.mode(), esn)
		var pkt []byte
		if c.Tunnel {
			pkt = sealTunnel(t, out, c.Outer, c.want, seq)
		} else {
			pkt = seal(t, out, c.want, seq)
			l, err := locate(pkt)
			if err != nil {
				t.Fatal(err)
			}
			c.want = travelBefore(c.want, l.at)
		}
		c.Packet = hex.EncodeToString(travel(pkt))
	}
	for i, got := range scapy(t, cases) {
		if !bytes.Equal(got, cases[i].want) {
			t.Errorf("%+v:\nscapy found %x\ninstead of  %x", cases[i], got, cases[i].want)
		}
	}
}

// beyondScapy are the shapes whose destination scapy does not predict: it knows
// only routes of IPv6 that have not begun.
var beyondScapy = []string{"loose source route", "strict source route", "routing underway", "routing done"}

func TestOurselvesOpenScapys(t *testing.T) {
	cases := scapyCases(t, "seal")
	for i, pkt := range scapy(t, cases) {
		c := &cases[i]
		if slices.Contains(beyondScapy, c.shape) {
			continue
		}
		seq, esn := c.seq()
		_, in := pair(t, c.id, c.mode(), esn)
		if esn {
			in.window.Update(seq - 10)
		}
		l, err := locate(pkt)
		if err != nil {
			t.Fatal(err)
		}
		want := c.want
		if !c.Tunnel {
			want = travelBefore(want, l.at)
		}
		got, gotSeq, err := in.Open(travel(pkt))
		if err != nil || gotSeq != seq || !bytes.Equal(got, want) {
			t.Errorf("%+v: seq %d, %v\n%x, want\n%x", *c, gotSeq, err, got, want)
		}
	}
}

// pcap writes packets that begin with an IP header.
func pcap(t *testing.T, packets [][]byte) string {
	t.Helper()
	const linkTypeRaw = 101
	b := binary.LittleEndian.AppendUint32(nil, 0xa1b2c3d4)
	b = binary.LittleEndian.AppendUint16(b, 2)
	b = binary.LittleEndian.AppendUint16(b, 4)
	b = append(b, make([]byte, 8)...)
	b = binary.LittleEndian.AppendUint32(b, 65535)
	b = binary.LittleEndian.AppendUint32(b, linkTypeRaw)
	for i, p := range packets {
		for _, n := range []int{1700000000, i, len(p), len(p)} {
			b = binary.LittleEndian.AppendUint32(b, uint32(n))
		}
		b = append(b, p...)
	}
	name := filepath.Join(t.TempDir(), "ah.pcap")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestWiresharkReadsOurs judges the layout: Wireshark does not verify the ICV, but
// scapy does.
func TestWiresharkReadsOurs(t *testing.T) {
	var packets [][]byte
	var want []string
	for _, id := range algorithms {
		out, _ := pair(t, id, ipsec.Transport, false)
		for _, s := range []shape{plain4, plain6, shapes[14], shapes[21]} {
			seq := uint64(len(packets) + 1)
			pkt := seal(t, out, s.build(40), seq)
			packets = append(packets, pkt)
			l, err := locate(pkt)
			if err != nil {
				t.Fatal(err)
			}
			icv := pkt[l.at+fixedLen : l.at+out.HeaderLen(s.version)]
			next := packet.ProtocolUDP
			port := "1111"
			if s.name == "all headers" {
				next = packet.ProtocolDestination
			}
			want = append(want, fmt.Sprintf("%d %d 0x%08x %d %x %s", next, out.HeaderLen(s.version)/4-2, uint32(testSPI), seq, icv, port))
		}
	}
	cmd := exec.Command("tshark", "-r", pcap(t, packets), "-T", "fields", "-E", "separator=/s",
		"-e", "ah.next_header", "-e", "ah.length", "-e", "ah.spi", "-e", "ah.sequence", "-e", "ah.icv", "-e", "udp.srcport")
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	output, err := cmd.Output()
	if err != nil {
		t.Fatalf("tshark is needed as a judge: %v\n%s", err, stderr.String())
	}
	got := strings.Split(strings.TrimRight(string(output), "\n"), "\n")
	if len(got) != len(want) {
		t.Fatalf("tshark saw %d packets of %d\n%s", len(got), len(want), stderr.String())
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("packet %d: tshark saw %q, want %q", i+1, got[i], want[i])
		}
	}
}
