package message

import (
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"caponier/internal/suite"
)

// writePcap writes a capture of IPv4 packets with the messages as UDP from port
// 500 to port 500.
func writePcap(t *testing.T, messages ...[]byte) string {
	t.Helper()
	var b []byte
	le32 := func(values ...uint32) {
		for _, v := range values {
			b = binary.LittleEndian.AppendUint32(b, v)
		}
	}
	be16 := func(values ...int) {
		for _, v := range values {
			b = binary.BigEndian.AppendUint16(b, uint16(v))
		}
	}
	const rawIP = 101 // link type: the packet begins with the IP header
	le32(0xa1b2c3d4, 4<<16|2, 0, 0, 0x40000, rawIP)
	for _, m := range messages {
		n := 20 + 8 + len(m)
		le32(1, 0, uint32(n), uint32(n))
		be16(0x4500, n, 0, 0, 64<<8|17, 0, 0xc000, 0x0201, 0xc000, 0x0202) // checksum 0: not looked at
		be16(500, 500, 8+len(m), 0)
		b = append(b, m...)
	}
	file := filepath.Join(t.TempDir(), "messages.pcap")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func tshark(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command("tshark", append([]string{"-n"}, args...)...)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("tshark must be installed and run: %v\n%s", err, &complaint)
	}
	return string(out)
}

// checkTshark compares the values that tshark reads, of the first packet, and
// wants nothing malformed or remarkable in it.
func checkTshark(t *testing.T, raw []byte, want map[string]string, options ...string) {
	t.Helper()
	file := writePcap(t, raw)
	options = append(options, "-r", file)
	if got := tshark(t, append(options, "-Y", "_ws.malformed || _ws.expert")...); got != "" {
		t.Errorf("tshark complains:\n%s\n%s", got, tshark(t, append(options, "-V")...))
	}
	fields := slices.Sorted(maps.Keys(want))
	args := append(options, "-T", "fields", "-E", "aggregator= ", "-E", "separator=|")
	for _, field := range fields {
		args = append(args, "-e", field)
	}
	values := strings.Split(strings.TrimSpace(tshark(t, args...)), "|")
	if len(values) != len(fields) {
		t.Fatalf("tshark prints %d values for %d fields", len(values), len(fields))
	}
	for i, field := range fields {
		if values[i] != want[field] {
			t.Errorf("%s is %q, want %q", field, values[i], want[field])
		}
	}
}

func TestTsharkReadsInClear(t *testing.T) {
	checkTshark(t, mustAppend(t, initRequest()), map[string]string{
		"isakmp.ispi":                  "0102030405060708",
		"isakmp.rspi":                  "0000000000000000",
		"isakmp.version":               "0x20",
		"isakmp.exchangetype":          "34",
		"isakmp.flags":                 "0x08",
		"isakmp.messageid":             "0x00000000",
		"isakmp.length":                fmt.Sprint(len(mustAppend(t, initRequest()))),
		"isakmp.typepayload":           "33 2 3 3 3 2 3 3 3 3 34 40 41 41 41 43",
		"isakmp.prop.number":           "1 2",
		"isakmp.prop.protoid":          "1 1",
		"isakmp.prop.transforms":       "3 4",
		"isakmp.tf.type":               "1 2 4 1 3 2 4",
		"isakmp.tf.id.encr":            "20 12",
		"isakmp.tf.id.integ":           "12",
		"isakmp.tf.id.prf":             "7 5",
		"isakmp.tf.id.dh":              "31 19",
		"isakmp.ike2.attr.key_length":  "256 128",
		"isakmp.key_exchange.dh_group": "31",
		"isakmp.key_exchange.data":     fmt.Sprintf("%x", octets(32, 0x80)),
		"isakmp.nonce":                 fmt.Sprintf("%x", octets(32, 0x20)),
		"isakmp.notify.msgtype":        "16388 16389 16431",
		"isakmp.notify.data":           fmt.Sprintf("%x %x 000200030004", octets(20, 1), octets(20, 2)),
		"isakmp.vid_bytes":             fmt.Sprintf("%x", "caponier test"),
	})
}

func TestTsharkReadsSK(t *testing.T) {
	want := map[string]string{
		"isakmp.exchangetype":         "35",
		"isakmp.messageid":            "0x00000001",
		"isakmp.typepayload":          "46 35 38 36 39 33 2 3 3 44 45 41",
		"isakmp.id.type":              "2 1",
		"isakmp.id.data.fqdn":         "a.example.org",
		"isakmp.id.data.ipv4_addr":    "192.0.2.2",
		"isakmp.certreq.type":         "4",
		"isakmp.auth.method":          "2",
		"isakmp.auth.data":            fmt.Sprintf("%x", octets(32, 0xa0)),
		"isakmp.spi":                  "c0ffee01",
		"isakmp.tf.id.esn":            "0",
		"isakmp.ike2.attr.key_length": "128",
		"isakmp.ts.number":            "2 1",
		"isakmp.ts.type":              "7 8 7",
		"isakmp.ts.protoid":           "0 0 6",
		"isakmp.ts.start_port":        "0 0 80",
		"isakmp.ts.end_port":          "65535 65535 443",
		"isakmp.ts.start_ipv4":        "10.1.0.0 10.2.0.7",
		"isakmp.ts.end_ipv4":          "10.1.255.255 10.2.0.7",
		"isakmp.ts.start_ipv6":        "2001:db8:1::",
		"isakmp.ts.end_ipv6":          "2001:db8:1::ffff",
		"isakmp.notify.msgtype":       "16384",
	}
	type sealed struct {
		protector   suite.Protector
		encr, integ string // as tshark calls them
		encrKey     []byte
		integKey    []byte
	}
	for name, s := range map[string]sealed{
		"AES-GCM": {protectors["AES-GCM"](t), "AES-GCM-256 with 16 octet ICV [RFC5282]", "NONE [RFC4306]", octets(36, 1), nil},
		"AES-CBC with HMAC": {
			protectors["AES-CBC with HMAC"](t), "AES-CBC-128 [RFC3602]", "HMAC_SHA2_256_128 [RFC4868]",
			octets(16, 1), octets(32, 2),
		},
	} {
		t.Run(name, func(t *testing.T) {
			keys := fmt.Sprintf(`uat:ikev2_decryption_table:0102030405060708,1112131415161718,%x,%x,"%s",%x,%x,"%s"`,
				s.encrKey, s.encrKey, s.encr, s.integKey, s.integKey, s.integ)
			checkTshark(t, seal(t, authRequest(), s.protector), want, "-o", keys)
		})
	}
}

func TestTsharkReadsDelete(t *testing.T) {
	m := deleteRequest()
	m.Payloads = m.Payloads[:3] // tshark has opinions of what certificates and unknown payloads hold
	checkTshark(t, mustAppend(t, m), map[string]string{
		"isakmp.flags":          "0x20",
		"isakmp.messageid":      "0xfffffffe",
		"isakmp.delete.protoid": "3 1",
		"isakmp.spisize":        "4 0 4",
		"isakmp.spinum":         "2 0",
		"isakmp.delete.spi":     "c0ffee01 c0ffee02",
		"isakmp.notify.protoid": "3",
		"isakmp.notify.msgtype": "16393",
		"isakmp.spi":            "c0ffee01",
	})
}
