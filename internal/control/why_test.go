package control

import (
	"net/netip"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"caponier/internal/ipsec"
)

// sampleWhy has a finding of each shape.
func sampleWhy() Why {
	at := func(d time.Duration) time.Time { return sampleNow.Add(d) }
	peer := netip.MustParseAddrPort("192.0.2.2:500")
	return Why{
		Time: sampleNow, States: map[string]State{"agw": Established, "branch": Failed}, Missed: 3,
		Findings: []Finding{
			{
				Code: "no-proposal-chosen", Connection: "branch", First: at(-time.Hour), Last: at(-12 * time.Second), Count: 5,
				Cause: "for the IKE SA the ends have no encryption algorithm and no key exchange method in common",
				Stage: "IKE_SA_INIT", RefusedBy: Here, Remote: peer,
				Ours:    Offer{Proposals: []string{"aes256gcm16-prfsha512-x25519", "aes256gcm16-aes128gcm16-chacha20poly1305-prfsha384-prfsha256-prfsha512-x25519-ecp256-ecp384-ecp521"}},
				Theirs:  Offer{Proposals: []string{"aes128-sha256-prfsha256-ecp256"}},
				Nearest: "our aes256gcm16-prfsha512-x25519 and their aes128-sha256-prfsha256-ecp256 have nothing in common",
				Cures: []Cure{
					{Here, "add aes128-sha256-prfsha256-ecp256 to connections.branch.proposals"},
					{AtPeer, "add aes256gcm16-prfsha512-x25519"},
				},
			},
			{
				Code: "certificate-expired", Connection: "agw", First: at(-time.Minute), Last: at(-time.Minute), Count: 1,
				Cause: `certificate of "C=FI, CN=agw": it expired at 2026-11-19 12:00:00 UTC`,
				Stage: "IKE_AUTH", RefusedBy: Here, Remote: peer,
				Ours: Offer{ID: "C=FI, CN=cloudgw", Wants: "C=FI, CN=agw", Auth: "cert"},
				Theirs: Offer{ID: "C=FI, CN=agw", Wants: "C=FI, CN=cloudgw", Auth: "cert", Certificates: []Certificate{{
					Subject: "C=FI, CN=agw", Issuer: "C=FI, CN=\x1b[2Jroot", NotBefore: at(-48 * time.Hour), NotAfter: at(-24 * time.Hour), Names: []string{"agw.example"},
				}}},
				Cures: []Cure{{AtPeer, "renew the certificate of C=FI, CN=agw"}},
			},
			{
				Code: "ts-unacceptable", Connection: "agw", Tunnel: "lan", First: at(-2 * time.Minute), Last: at(-2 * time.Minute), Count: 1,
				Cause: "behind the peer the peer wants 10.3.0.0/16 and tunnel lan has 10.2.0.0/16", Stage: "CREATE_CHILD_SA", RefusedBy: Here, Remote: peer,
				Ours:    Offer{Local: selector("10.1.0.0/16"), Remote: selector("10.2.0.0/16")},
				Theirs:  Offer{Local: selector("10.1.0.0/16"), Remote: selector("10.3.0.0/16")},
				Nearest: "tunnel lan is nearest: local fits; remote does not",
				Cures:   []Cure{{Here, "add 10.3.0.0/16 to connections.agw.tunnels.lan.remote"}},
			},
			{
				Code: "no-connection", First: at(-3 * time.Minute), Last: at(-3 * time.Minute), Count: 1,
				Cause: "no connection allows a peer at 203.0.113.9 that calls 192.0.2.1", Stage: "IKE_SA_INIT", RefusedBy: Here,
				Remote: netip.MustParseAddrPort("203.0.113.9:500"), Nearest: "connection agw allows 192.0.2.2",
				Cures: []Cure{{Here, "add 203.0.113.9 to connections.agw.remote.address, or a connection for it, if it is a peer of yours"}},
			},
		},
	}
}

func sampleTrace() Trace {
	return Trace{
		Flow: ipsec.Flow{Src: netip.MustParseAddr("10.1.0.7"), Dst: netip.MustParseAddr("10.2.0.9"), Protocol: 1, SrcPort: echoType, DstPort: echoType},
		Steps: []TraceStep{
			{"route", true, "table 220 sends it to caponier0, the data plane"},
			{"policy", true, "agw/lan (10.1.0.0/16 <-> 10.2.0.0/16), protect, priority 0, decides: the only one that matches"},
			{"SA", true, "decade02 to 192.0.2.2:4500, aes256gcm16, 10.1.0.0/16 <-> 10.2.0.0/16, 12 packets, last used 3s ago"},
			{"MTU", true, "packets of up to 1400 octets pass: caponier0 takes no longer ones, and 1438 would fit eth0"},
			{"return", false, "12 packets left, and none ever came back: caponier why agw"},
		},
		Verdict: Protected, Passes: true, Words: "it leaves as ESP in UDP to 192.0.2.2:4500, in SA decade02 of agw/lan",
		Counter: "out-packets", Count: 1234,
	}
}

func TestParseFlow(t *testing.T) {
	for _, test := range []struct{ src, dst, protocol, port, want string }{
		{"10.1.0.7", "10.2.0.9", "", "", "10.1.0.7 -> 10.2.0.9, ICMP echo request"},
		{"fd00::1", "fd00::2", "icmp", "", "fd00::1 -> fd00::2, ICMP echo request"},
		{"10.1.0.7", "10.2.0.9", "tcp", "443", "10.1.0.7 -> 10.2.0.9, TCP to port 443"},
		{"10.1.0.7", "::ffff:10.2.0.9", "udp", "", "10.1.0.7 -> 10.2.0.9, UDP"},
		{"10.1.0.7", "10.2.0.9", "132", "9", "10.1.0.7 -> 10.2.0.9, protocol 132 to port 9"},
	} {
		f, err := ParseFlow(test.src, test.dst, test.protocol, test.port)
		if err != nil || flowWords(f) != test.want {
			t.Errorf("%+v: %q, %v", test, flowWords(f), err)
		}
		if HasPorts(f) != (test.protocol == "" || test.protocol == "icmp" || test.port != "") {
			t.Errorf("%+v: HasPorts is %v", test, HasPorts(f))
		}
	}
	for _, bad := range [][4]string{
		{"x", "10.2.0.9", "", ""},
		{"10.1.0.7", "fd00::1", "", ""},
		{"10.1.0.7", "10.2.0.9", "icmp", "7"},
		{"10.1.0.7", "10.2.0.9", "gre!", ""},
		{"10.1.0.7", "10.2.0.9", "0", ""},
		{"10.1.0.7", "10.2.0.9", "tcp", "0"},
		{"10.1.0.7", "10.2.0.9", "tcp", "65536"},
		{"fe80::1%lo", "fd00::1", "", ""},
	} {
		if f, err := ParseFlow(bad[0], bad[1], bad[2], bad[3]); err == nil {
			t.Errorf("%q was read as %+v", bad, f)
		}
	}
}

func TestWrapBreaksProposals(t *testing.T) {
	var b strings.Builder
	out := &printer{w: &b, s: Style{Width: 40}}
	long := "aes256gcm16-aes128gcm16-chacha20poly1305-prfsha384-x25519"
	out.wrap("  ", "      ", "ours "+long)
	for line := range strings.Lines(b.String()) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 40 {
			t.Errorf("%d columns: %q", n, line)
		}
	}
	if joined := strings.Join(strings.Fields(b.String()), ""); joined != "ours"+long {
		t.Errorf("%q", b.String())
	}
}
