package interop

import (
	"encoding/hex"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"caponier/internal/pki"
)

// ikeKeys and espKeys are keys as charon logs them, in the tables of tshark.
type ikeKeys struct{ ai, ar, ei, er string }

type espKeys struct {
	spi, src, dst string
	encr, integ   string
}

// dump matches the head of a hexadecimal dump in charon's log, and dumpLine a
// line of it: 16 octets in columns, then the same as text.
var (
	dump     = regexp.MustCompile(`\] (Sk_(?:ai|ar|ei|er) secret|(?:encryption|integrity) (?:initiator|responder) key) => (\d+) bytes`)
	dumpLine = regexp.MustCompile(`\] +\d+: ((?:[0-9A-F]{2} ?){1,16})`)
	saLine   = regexp.MustCompile(`\]   SPI 0x([0-9a-f]{8}), src (\S+) dst (\S+)`)
	exchange = regexp.MustCompile(`parsed (?:IKE_AUTH|CREATE_CHILD_SA) (request|response)`)
	adding   = regexp.MustCompile(`(?:adding|registering) (inbound|outbound) ESP SA`)
)

// exportedKeys reads the keys of all SAs, in the order of their making, from
// charon's log (Config.LogKeys).
func exportedKeys(t testing.TB, log string) (ike []ikeKeys, esp []espKeys) {
	t.Helper()
	var (
		named     = make(map[string]string)
		name      string
		missing   int
		responder bool   // charon is, in the exchange that makes a CHILD SA
		direction string // of the ESP SA of the next SPI
	)
	key := func(name string) string {
		t.Helper()
		text, ok := named[name]
		if !ok {
			return ""
		}
		_, err := hex.DecodeString(text)
		must(t, err)
		return text
	}
	for line := range strings.Lines(log) {
		if m := dumpLine.FindStringSubmatch(line); m != nil && missing > 0 {
			text := strings.ToLower(strings.ReplaceAll(m[1], " ", ""))
			text = text[:min(len(text), 2*missing)]
			named[name] += text
			if missing -= len(text) / 2; missing == 0 && name == "Sk_er secret" {
				ike = append(ike, ikeKeys{key("Sk_ai secret"), key("Sk_ar secret"), key("Sk_ei secret"), key("Sk_er secret")})
				clear(named)
			}
			continue
		}
		if m := dump.FindStringSubmatch(line); m != nil {
			name = m[1]
			if name == "encryption initiator key" {
				clear(named)
			}
			_, err := fmt.Sscan(m[2], &missing)
			must(t, err)
			named[name] = ""
			continue
		}
		if m := exchange.FindStringSubmatch(line); m != nil {
			responder = m[1] == "request"
		}
		if m := adding.FindStringSubmatch(line); m != nil {
			direction = m[1]
		}
		if m := saLine.FindStringSubmatch(line); m != nil && direction != "" {
			// The initiator of the exchange sends with the initiator's keys.
			sender := "responder"
			if (direction == "inbound") == responder {
				sender = "initiator"
			}
			esp = append(esp, espKeys{m[1], m[2], m[3], key("encryption " + sender + " key"), key("integrity " + sender + " key")})
			direction = ""
		}
	}
	return ike, esp
}

// judged is a packet as tshark understands it, by its names of fields; of a field
// that stands several times, the values are joined by commas.
type judged map[string]string

var judgedFields = []string{
	"frame.number", "ip.src", "isakmp.exchangetype", "isakmp.flag_r", "isakmp.typepayload", "isakmp.id.data.fqdn",
	"isakmp.id.data.der_asn1_dn", "isakmp.auth.method", "isakmp.ts.start_ipv4", "isakmp.ts.end_ipv4", "isakmp.ts.start_ipv6",
	"isakmp.notify.msgtype", "esp.spi", "esp.icv_good", "esp.icv_bad", "icmp.type", "icmpv6.type", "tcp.port",
	"_ws.malformed", "_ws.expert.severity", "_ws.expert.group", "_ws.expert.message",
}

// judge has tshark decrypt a capture.
func judge(t testing.TB, c *Capture, options []string) []judged {
	t.Helper()
	args := append([]string{"-r", c.File, "-T", "fields", "-E", "separator=/t", "-E", "occurrence=a", "-E", "aggregator=,"}, options...)
	for _, f := range judgedFields {
		args = append(args, "-e", f)
	}
	cmd := exec.CommandContext(t.Context(), "tshark", args...)
	var errOut strings.Builder
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("tshark: %v\n%s", err, errOut.String())
	}
	var packets []judged
	for line := range strings.Lines(string(out)) {
		values := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(values) != len(judgedFields) {
			t.Fatalf("tshark prints %q", line)
		}
		packet := make(judged)
		for i, f := range judgedFields {
			packet[f] = values[i]
		}
		packets = append(packets, packet)
	}
	return packets
}

// has reports whether one of the values of a field is this one.
func (p judged) has(field, value string) bool {
	return slices.Contains(strings.Split(p[field], ","), value)
}

// source is the outer address that a packet comes from.
func (p judged) source() string {
	outer, _, _ := strings.Cut(p["ip.src"], ",")
	return outer
}

// Numbers of payloads and of the notification that the test looks for.
const (
	payloadAuth, payloadDelete, payloadTSi = "39", "42", "44"
	notifyRekeySA                          = "16393"

	severityWarning = 0x600000
	groupSequence   = "33554432" // remarks on lost packets and on their order, TCP's for the most part
)

func TestJudge(t *testing.T) {
	t.Parallel()
	rows := []struct {
		name, what, algorithms string
		cert                   bool
		ike                    string // formats for the tables of tshark
		esp                    string
		id, auth               string // the field of the identity, and the method of AUTH
		near, far              string
	}{
		{
			name: "cbc", what: "AES-CBC-128 with HMAC-SHA2-256, pre-shared key, host names", algorithms: "aes128-sha256-x25519",
			ike: `"AES-CBC-128 [RFC3602]",%s,%s,"HMAC_SHA2_256_128 [RFC4868]"`,
			esp: `"AES-CBC [RFC3602]","0x%s","HMAC-SHA-256-128 [RFC4868]","0x%s"`,
			id:  "isakmp.id.data.fqdn", auth: "2", near: caponierID, far: strongSwanID,
		},
		{
			name: "gcm", what: "AES-GCM-256, certificates with ECDSA, distinguished names", algorithms: "aes256gcm16-prfsha384-ecp384", cert: true,
			ike: `"AES-GCM-256 with 16 octet ICV [RFC5282]",%s,%s,"NONE [RFC4306]"`,
			esp: `"AES-GCM with 16 octet ICV [RFC4106]","0x%s","NULL","%s"`,
			id:  "isakmp.typepayload", auth: "14", near: "35", far: "36",
		},
	}
	for _, r := range rows {
		for _, role := range bothRoles {
			t.Run(r.name+"-"+role, func(t *testing.T) {
				record(t, r.what, role)
				t.Parallel()
				s := directSetup(t)
				s.StrongSwan.LogKeys = true
				s.propose(r.algorithms, r.algorithms)
				if r.cert {
					s.certify(ownAuthority(t, pki.ECDSAP384), caponierDN, strongSwanDN)
				}
				// Otherwise the capture sees several packets as one, before they are
				// segmented.
				must(t, s.Near.Gateway.IP("link", "set", Outside, "gso_max_segs", "1"))
				must(t, s.Far.Gateway.IP("link", "set", Outside, "gso_max_segs", "1"))
				p := s.start(t)
				outside := StartCapture(t, p.Near.Gateway, Outside)
				var spis []string
				note := func() {
					sa := p.ike(t)
					spis = append(spis, sa.InitiatorSPI+","+sa.ResponderSPI)
				}
				p.up(t, role)
				note()
				p.reachable(t)
				for _, by := range bothRoles {
					p.rekeyChild(t, by)
					p.rekeyIKE(t, by)
					note()
					Ping(t, p.Near.Host, p.Far.HostAddr6())
				}
				Transfer(t, p.Near.Host, p.Far.Host, p.Far.HostAddr(), 1<<16)
				p.down(t, role)
				outside.Stop(t)

				ike, esp := exportedKeys(t, p.s.Log())
				if len(ike) != len(spis) || len(esp) < 6 {
					t.Fatalf("strongSwan has exported the keys of %d IKE SAs and %d ESP SAs", len(ike), len(esp))
				}
				options := []string{"-o", "esp.enable_encryption_decode:TRUE", "-o", "esp.enable_authentication_check:TRUE"}
				for i, k := range ike {
					options = append(options, "-o", "uat:ikev2_decryption_table:"+spis[i]+","+k.ei+","+k.er+","+fmt.Sprintf(r.ike, k.ai, k.ar))
				}
				for _, k := range esp {
					options = append(options, "-o", fmt.Sprintf(`uat:esp_sa:"IPv4","%s","%s","0x%s",`, k.src, k.dst, k.spi)+fmt.Sprintf(r.esp, k.encr, k.integ))
				}
				packets := judge(t, outside, options)
				flawless(t, packets, !r.cert)
				p.judgeAuth(t, packets, r.id, r.near, r.far, r.auth, role)
				p.judgeLife(t, packets)
			})
		}
	}
}

// flawless checks that tshark understands every packet. It checks the ICV only
// of some algorithms.
func flawless(t testing.TB, packets []judged, icv bool) {
	t.Helper()
	for _, p := range packets {
		bad := p["_ws.malformed"] != "" || p.has("esp.icv_bad", "1") || p.has("esp.icv_bad", "True")
		groups := strings.Split(p["_ws.expert.group"], ",")
		for i, severity := range strings.Split(p["_ws.expert.severity"], ",") {
			if n, err := strconv.Atoi(severity); err == nil && n >= severityWarning && groups[i] != groupSequence {
				bad = true
			}
		}
		if p["esp.spi"] != "" {
			bad = bad || p["icmp.type"]+p["icmpv6.type"]+p["tcp.port"] == ""
			bad = bad || icv && !p.has("esp.icv_good", "1") && !p.has("esp.icv_good", "True")
		}
		if bad {
			t.Errorf("tshark says %v", p)
		}
	}
}

// judgeAuth checks the two messages of IKE_AUTH.
func (p *pair) judgeAuth(t testing.TB, packets []judged, id, near, far, method, role string) {
	t.Helper()
	if role == responder && id == "isakmp.typepayload" {
		near, far = far, near // the payloads are IDi and IDr
	}
	seen := 0
	for _, m := range packets {
		if m["isakmp.exchangetype"] != "35" {
			continue
		}
		seen++
		who := far
		if m.source() == p.Near.Outside.String() {
			who = near
		}
		if !m.has("isakmp.typepayload", payloadAuth) || !m.has("isakmp.typepayload", payloadTSi) || m["isakmp.auth.method"] != method || !m.has(id, who) {
			t.Errorf("a message of IKE_AUTH is %v", m)
		}
		initiator, responder := p.Near, p.Far
		if role != "initiator" {
			initiator, responder = responder, initiator
		}
		for field, want := range map[string]string{
			"isakmp.ts.start_ipv4": initiator.LAN.Addr().String() + "," + responder.LAN.Addr().String(),
			"isakmp.ts.start_ipv6": initiator.LAN6.Addr().String() + "," + responder.LAN6.Addr().String(),
		} {
			if m[field] != want {
				t.Errorf("IKE_AUTH has %s %s, not %s", field, m[field], want)
			}
		}
	}
	if seen != 2 {
		t.Errorf("tshark sees %d messages of IKE_AUTH", seen)
	}
}

// judgeLife checks that tshark has seen rekeyings and deletions by both, and the
// inner packets.
func (p *pair) judgeLife(t testing.TB, packets []judged) {
	t.Helper()
	count := make(map[string]int)
	for _, m := range packets {
		from := " from strongSwan"
		if m.source() == p.Near.Outside.String() {
			from = " from caponier"
		}
		switch {
		case m["isakmp.exchangetype"] == "36" && m.has("isakmp.notify.msgtype", notifyRekeySA):
			count["REKEY_SA"+from]++
		case m["isakmp.exchangetype"] == "37" && m.has("isakmp.typepayload", payloadDelete):
			count["Delete"+from]++
		}
		for _, field := range []string{"icmp.type", "icmpv6.type", "tcp.port"} {
			if m["esp.spi"] != "" && m[field] != "" {
				count[field+from]++
			}
		}
	}
	for _, what := range []string{"REKEY_SA", "Delete", "icmp.type", "icmpv6.type", "tcp.port"} {
		for _, from := range []string{" from caponier", " from strongSwan"} {
			if count[what+from] == 0 {
				t.Errorf("tshark does not see %s", what+from)
			}
		}
	}
}
