package esp

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
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
	Do       string  `json:"do"`
	Crypt    string  `json:"crypt"`
	Auth     string  `json:"auth"`
	CryptKey string  `json:"crypt_key"`
	AuthKey  string  `json:"auth_key"`
	SPI      uint32  `json:"spi"`
	Seq      uint32  `json:"seq"`
	ESN      *uint32 `json:"esn"`
	Packet   string  `json:"packet"`
	Outer    int     `json:"outer"`
	UDP      bool    `json:"udp"`

	Transport bool `json:"transport"`
}

var scapyNames = map[string][2]string{
	gcm128.name: {"AES-GCM", "NULL"},
	gcm256.name: {"AES-GCM", "NULL"},
	cbc256.name: {"AES-CBC", "SHA2-256-128"},
	cbc384.name: {"AES-CBC", "SHA2-384-192"},
	cbc512.name: {"AES-CBC", "SHA2-512-256"},
	ccm192.name: {"AES-CCM", "NULL"},
	chacha.name: {"CHACHA20-POLY1305", "NULL"},
	ctr128.name: {"AES-CTR", "AES-CMAC-96"},
	nulls.name:  {"NULL", "HMAC-SHA1-96"},
}

// scapy runs all cases in one process.
func scapy(t *testing.T, cases []scapyCase) [][]byte {
	t.Helper()
	in, err := json.Marshal(cases)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(python, filepath.Join("testdata", "scapy_esp.py"))
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

// outer puts an ESP packet behind outer headers.
func outer(version int, udp bool, esp []byte) []byte {
	protocol, transport := packet.ProtocolESP, []byte(nil)
	if udp {
		protocol, transport = packet.ProtocolUDP, make([]byte, packet.UDPHeaderLen)
		packet.PutUDP(transport, 4500, 4500, packet.UDPHeaderLen+len(esp), 0)
	}
	var head []byte
	if version == 4 {
		head = make([]byte, packet.IPv4HeaderLen)
		packet.PutIPv4(head, &packet.IPv4Header{
			Src: netip.MustParseAddr("192.0.2.1"), Dst: netip.MustParseAddr("192.0.2.2"),
			TotalLen: len(head) + len(transport) + len(esp), TTL: 64, Protocol: protocol, DontFragment: true,
		})
	} else {
		head = make([]byte, packet.IPv6HeaderLen)
		packet.PutIPv6(head, &packet.IPv6Header{
			Src: netip.MustParseAddr("2001:db8::1"), Dst: netip.MustParseAddr("2001:db8::2"),
			PayloadLen: len(transport) + len(esp), HopLimit: 64, NextHeader: protocol,
		})
	}
	return append(append(head, transport...), esp...)
}

// scapyCases makes each combination of algorithms, families, encapsulation and
// inner length, with the inner packets beside.
func scapyCases(t *testing.T, do string) (cases []scapyCase, inners [][]byte, algos []algorithms) {
	for _, a := range standard {
		sa := testSA(t, a, ipsec.Out)
		seq := uint32(0)
		for _, outerVersion := range []int{4, 6} {
			for _, innerVersion := range []int{4, 6} {
				for _, udp := range []bool{false, true} {
					for _, size := range []int{61, 62, 63, 64, 1380} {
						seq++
						inner := innerPacket(innerVersion, size)
						cases = append(cases, scapyCase{
							Do: do, Crypt: scapyNames[a.name][0], Auth: scapyNames[a.name][1],
							CryptKey: hex.EncodeToString(sa.EncrKey.Bytes()), AuthKey: hex.EncodeToString(sa.IntegKey.Bytes()),
							SPI: uint32(sa.SPI), Seq: seq, Packet: hex.EncodeToString(inner), Outer: outerVersion, UDP: udp,
						})
						inners = append(inners, inner)
						algos = append(algos, a)
					}
				}
			}
		}
	}
	// Extended sequence numbers: scapy knows them for combined modes only.
	for _, a := range []algorithms{gcm128, gcm256, ccm192, chacha} {
		c := cases[0]
		c.Crypt = scapyNames[a.name][0]
		sa := testSA(t, a, ipsec.Out)
		high := uint32(5)
		c.CryptKey, c.ESN, c.Seq = hex.EncodeToString(sa.EncrKey.Bytes()), &high, 77
		cases, inners, algos = append(cases, c), append(inners, inners[0]), append(algos, a)
	}
	return cases, inners, algos
}

func (c *scapyCase) seq() (uint64, bool) {
	if c.ESN == nil {
		return uint64(c.Seq), false
	}
	return uint64(*c.ESN)<<32 | uint64(c.Seq), true
}

func TestScapyOpensOurs(t *testing.T) {
	cases, inners, algos := scapyCases(t, "open")
	for i := range cases {
		seq, esn := cases[i].seq()
		out, _ := pair(t, algos[i], esn)
		esp := sealed(t, out, inners[i], seq, next(int(inners[i][0]>>4)))
		cases[i].Packet = hex.EncodeToString(outer(cases[i].Outer, cases[i].UDP, esp))
	}
	for i, got := range scapy(t, cases) {
		if !bytes.Equal(got, inners[i]) {
			t.Errorf("%s, %+v:\nscapy found %x\ninstead of  %x", algos[i].name, cases[i], got, inners[i])
		}
	}
}

func TestOurselvesOpenScapys(t *testing.T) {
	cases, inners, algos := scapyCases(t, "seal")
	for i, pkt := range scapy(t, cases) {
		seq, esn := cases[i].seq()
		_, in := pair(t, algos[i], esn)
		if esn {
			in.window.Update(seq - 10)
		}
		var p packet.Info
		p.Decode(pkt)
		if want := map[bool]uint8{false: packet.ProtocolESP, true: packet.ProtocolUDP}[cases[i].UDP]; p.Protocol != want {
			t.Fatalf("outer packet of scapy: %+v", p)
		}
		esp := pkt[p.HeaderLen:p.TotalLen]
		if cases[i].UDP {
			esp = esp[packet.UDPHeaderLen:]
		}
		got, _, gotSeq, err := in.Open(esp)
		if err != nil || gotSeq != seq || !bytes.Equal(got, inners[i]) {
			t.Errorf("%s, %+v: seq %d, %v", algos[i].name, cases[i], gotSeq, err)
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
	name := filepath.Join(t.TempDir(), "esp.pcap")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestWiresharkOpensOurs judges layout and encryption; Wireshark does not say
// whether an ICV is right, but scapy does.
func TestWiresharkOpensOurs(t *testing.T) {
	judged := []struct {
		algorithms
		encr, auth string
		spi        ipsec.SPI
	}{
		{gcm128, "AES-GCM with 16 octet ICV [RFC4106]", "NULL", 0x1001},
		{gcm256, "AES-GCM with 16 octet ICV [RFC4106]", "NULL", 0x1002},
		{cbc256, "AES-CBC [RFC3602]", "HMAC-SHA-256-128 [RFC4868]", 0x1003},
	}
	args := []string{
		"-T", "fields", "-E", "separator=/s", "-e", "esp.spi", "-e", "esp.sequence", "-e", "esp.contained_data",
		"-o", "esp.enable_encryption_decode:TRUE",
	}
	var packets [][]byte
	var want []string
	for _, j := range judged {
		sa := testSA(t, j.algorithms, ipsec.Out)
		sa.SPI = j.spi
		out, err := NewOutbound(sa)
		if err != nil {
			t.Fatal(err)
		}
		authKey := ""
		if !sa.IntegKey.IsZero() {
			authKey = "0x" + hex.EncodeToString(sa.IntegKey.Bytes())
		}
		args = append(args, "-o", fmt.Sprintf(`uat:esp_sa:"IPv4","192.0.2.1","192.0.2.2","0x%08x","%s","0x%x","%s","%s"`,
			uint32(j.spi), j.encr, sa.EncrKey.Bytes(), j.auth, authKey))
		for i, size := range []int{61, 62, 63, 64, 1400} {
			for _, version := range []int{4, 6} {
				seq := uint64(len(packets) + 1)
				inner := innerPacket(version, size)
				esp := sealed(t, out, inner, seq, next(version))
				packets = append(packets, outer(4, i%2 == 1, esp))
				line := fmt.Sprintf("0x%08x %d %x", uint32(j.spi), seq, inner)
				want = append(want, line)
			}
		}
	}
	cmd := exec.Command("tshark", append([]string{"-r", pcap(t, packets)}, args...)...)
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
