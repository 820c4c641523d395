package gm

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"caponier/internal/ike/step"
)

// TestTshark lets Wireshark's dissector, which knows the numbers of GM/T 0022's
// attributes, say what we send (RFC 2408, Section 3, is the rest).
func TestTshark(t *testing.T) {
	t.Parallel()
	g := start(t, settings{})
	g.conn.GM.KeyLength = true
	g.initiate()
	g.mustHave(1)
	g.order(step.Close{})
	g.until(time.Second, func() bool { return len(g.machines) == 0 })
	text := dissect(t, append(g.received, g.sent...))
	for _, want := range []string{
		"Version: 1.1", "Exchange type: Identity Protection (Main Mode) (2)", "Exchange type: Quick Mode (32)",
		"Exchange type: Informational (5)", "Encryption-Algorithm: SM4-CBC", "Hash-Algorithm: SM3",
		"Asymmetric-Cryptographic-Algorithm-Type: SM2", "Authentication-Method: ECDSA with SHA-384 on the P-384 curve", // 10
		"Key-Length: 128", "Life-Type: Seconds", "Life-Duration: 86400",
		"Certificate Encoding: X.509 Certificate - Signature (4)", "Certificate Encoding: X.509 Certificate - Key Exchange (5)",
		"Vendor ID: RFC 3706 DPD (Dead Peer Detection)", "Payload: Nonce (10)", "Payload: Identification (5)", "Payload: Signature (9)",
		"(128)",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("tshark does not say %q", want)
		}
	}
	if strings.Contains(text, "Malformed") || strings.Contains(text, "Expert Info (Error") {
		t.Errorf("tshark finds fault:\n%s", text)
	}
	if t.Failed() {
		t.Log(text)
	}
}

// dissect writes messages to a capture file, as UDP from port 500 to port 500, and
// returns what tshark prints of them.
func dissect(t *testing.T, messages [][]byte) string {
	t.Helper()
	// The header of a pcap file: magic number, version 2.4, link type 101, raw IP.
	out := binary.LittleEndian.AppendUint32(nil, 0xa1b2c3d4)
	out = binary.LittleEndian.AppendUint16(out, 2)
	out = binary.LittleEndian.AppendUint16(out, 4)
	for _, n := range []uint32{0, 0, 65535, 101} {
		out = binary.LittleEndian.AppendUint32(out, n)
	}
	for _, m := range messages {
		ip := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0}
		binary.BigEndian.PutUint16(ip[2:], uint16(28+len(m)))
		ip = append(ip, ours.AsSlice()...)
		ip = append(ip, theirs.AsSlice()...)
		for _, n := range []uint16{500, 500, uint16(8 + len(m)), 0} {
			ip = binary.BigEndian.AppendUint16(ip, n)
		}
		ip = append(ip, m...)
		for _, n := range []uint32{0, 0, uint32(len(ip)), uint32(len(ip))} {
			out = binary.LittleEndian.AppendUint32(out, n)
		}
		out = append(out, ip...)
	}
	file := filepath.Join(t.TempDir(), "gm.pcap")
	if err := os.WriteFile(file, out, 0o600); err != nil {
		t.Fatal(err)
	}
	text, err := exec.Command("tshark", "-n", "-V", "-r", file).Output()
	if err != nil {
		t.Fatalf("tshark: %v", err)
	}
	return string(text)
}
