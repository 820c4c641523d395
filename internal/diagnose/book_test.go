package diagnose

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"caponier/internal/control"
	"caponier/internal/ike"
	"caponier/internal/ike/message"
	"caponier/internal/ike/v2/conf"
	"caponier/internal/ike/v2/rules"
	"caponier/internal/ipsec"
)

var (
	testNow = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	errTest = errors.New("it failed")
)

func site(name string) *conf.Connection {
	return &conf.Connection{
		Name: name, LocalAddrs: host32(rightAddr), RemoteAddrs: host32(leftAddr),
		Proposals: ikeWords("aes256gcm16-prfsha384-x25519"),
		Children:  []*conf.Child{{Name: "lan", Protocol: ipsec.ESP, Local: sel("10.2.0.0/16"), Remote: sel("10.1.0.0/16"), Proposals: espWords("aes256gcm16-x25519")}},
	}
}

func from(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, byte(n >> 8), byte(n)}), 500)
}

func attempt(c *conf.Connection, code string, remote netip.AddrPort, after time.Duration) ike.Attempt {
	return ike.Attempt{
		When: testNow.Add(after), Connection: c, Code: code, Err: errTest,
		Local: netip.AddrPortFrom(rightAddr, 500), Remote: remote,
	}
}

func TestBookFoldsRepetitions(t *testing.T) {
	var b Book
	c := site("site")
	b.Configure([]*conf.Connection{c})
	for i := range 5 {
		b.Take(attempt(c, "invalid-syntax", from(1), time.Duration(i)*time.Minute))
	}
	b.Take(attempt(c, "lifetime-expired", from(1), 10*time.Minute))
	got := b.Of("site")
	if len(got) != 2 || got[0].Code != "lifetime-expired" || got[1].Count != 5 || !got[1].First.Equal(testNow) ||
		!got[1].Last.Equal(testNow.Add(4*time.Minute)) || got[1].Cause != errTest.Error() {
		t.Errorf("%+v", got)
	}
	if n := b.Counters(); n["failed-other"] != 6 {
		t.Errorf("counters %v", n)
	}
	overview, missed := b.Overview()
	if len(overview) != 1 || overview[0].Code != "lifetime-expired" || missed != 0 {
		t.Errorf("overview %+v, missed %d", overview, missed)
	}
	if f, ok := b.Last("site", "invalid-syntax"); !ok || f.Count != 5 {
		t.Errorf("last: %+v, %v", f, ok)
	}
	if _, ok := b.Last("site", "deleted"); ok {
		t.Error("a code that nothing has")
	}
	b.Configure(nil)
	if got := b.Of("site"); len(got) != 0 {
		t.Errorf("a connection that is gone: %+v", got)
	}
}

func TestBookIsBounded(t *testing.T) {
	var b Book
	var conns []*conf.Connection
	for i := range 200 {
		conns = append(conns, site(fmt.Sprint("site", i)))
	}
	b.Configure(conns)
	proven := attempt(conns[0], "invalid-syntax", from(0), 0)
	proven.Proven = true
	b.Take(proven)
	// Callers who prove nothing do not drive out what matters.
	for i := range 100 {
		b.Take(attempt(conns[0], "invalid-syntax", from(1+i), time.Duration(i)*time.Second))
	}
	got := b.Of("site0")
	if len(got) != maxUnproven+1 || got[len(got)-1].Remote != from(0) {
		t.Errorf("%d findings: %+v", len(got), got)
	}
	for i := range 1000 {
		a := attempt(nil, ike.CodeNoConnection, from(i), time.Hour+time.Duration(i)*time.Second)
		b.Take(a)
	}
	if got := b.Of(""); len(got) != maxStrangers || got[0].Remote != from(999) {
		t.Errorf("%d strangers", len(got))
	}
	for _, c := range conns {
		for i := range 40 {
			a := attempt(c, fmt.Sprint("code-", i), from(1), 2*time.Hour)
			a.Initiator = true
			b.Take(a)
		}
		if got := b.Of(c.Name); len(got) != maxConnection {
			t.Fatalf("%d findings of %s", len(got), c.Name)
		}
	}
	if n := len(b.list(func(*kept) bool { return true })); n != maxFindings {
		t.Errorf("%d findings in all", n)
	}
}

func TestBookLooksIntoSoManyStrangers(t *testing.T) {
	var b Book
	for i := range strangerRate + 10 {
		b.Take(attempt(nil, ike.CodeNoConnection, from(i%5), time.Duration(i)*time.Millisecond))
	}
	if _, missed := b.Overview(); missed != 10 {
		t.Errorf("missed %d, want 10", missed)
	}
	ours := attempt(nil, "peer-not-responding", from(1), time.Millisecond)
	ours.Initiator = true
	b.Take(ours)
	if got := b.Of(""); got[len(got)-1].Count == 0 || len(got) != 6 {
		t.Errorf("our own attempt is not kept: %+v", got)
	}
}

// What a stranger sends may be long.
func TestBookKeepsLittle(t *testing.T) {
	var b Book
	c := site("site")
	b.Configure([]*conf.Connection{c})
	a := attempt(c, CodeNoProposal, from(1), 0)
	many := ikeWords("aes256-aes128-aes192-sha256-sha384-sha512-x25519-ecp256-ecp384-ecp521-modp2048-modp3072")[0]
	for i := range 1000 {
		many = append(many, ipsec.Transform{Type: ipsec.TypeKE, ID: uint16(5000 + i)})
	}
	for range 100 {
		a.Evidence.Proposals = append(a.Evidence.Proposals, message.Proposal{Protocol: message.ProtocolIKE, Transforms: many})
	}
	a.Evidence.Asked = fqdn(strings.Repeat("x", 60000))
	b.Take(a)
	a = attempt(c, CodeTS, from(1), 0)
	for range 255 {
		a.Evidence.LocalTS = append(a.Evidence.LocalTS, sel("172.16.0.0/16")...)
	}
	a.Evidence.RemoteTS = a.Evidence.LocalTS
	b.Take(a)
	for _, f := range b.Of("site") {
		if n := len(fmt.Sprintf("%+v", f)); n > 32<<10 {
			t.Errorf("%s takes %d octets", f.Code, n)
		}
	}
}

func TestExplainWhatNoGatewayOfOursDoes(t *testing.T) {
	c := site("site")
	wrongKE := attempt(c, CodeKE, from(1), 0)
	wrongKE.Initiator = true
	wrongKE.Evidence = rules.RefusedKE(&message.Notify{Kind: message.InvalidKEPayload, Data: []byte{0, 20}})
	wide := attempt(c, CodeTS, from(1), 0)
	wide.Initiator, wide.Tunnel = true, "lan"
	wide.Evidence = rules.Evidence{Exchange: message.CreateChildSA, LocalTS: sel("10.0.0.0/8"), RemoteTS: sel("10.1.0.0/16")}
	version := attempt(c, "invalid-major-version", from(1), 0)
	version.Initiator = true
	version.Evidence = rules.Evidence{Exchange: message.IKESAInit, ByPeer: true, Notify: message.InvalidMajorVersion}
	dead := attempt(c, CodeNoAnswer, from(1), 0)
	dead.Evidence.Exchange = message.Informational
	unknown := attempt(c, CodeNoProposal, from(1), 0)
	unknown.Evidence = rules.Evidence{Exchange: message.IKESAInit, Proposals: []message.Proposal{{
		Protocol: message.ProtocolIKE, Transforms: ipsec.Proposal{{Type: ipsec.TypeEncr, ID: 999}, {Type: ipsec.TypePRF, ID: ipsec.PRFHMACSHA384}, {Type: ipsec.TypeKE, ID: ipsec.KEX25519}},
	}}}
	other := attempt(c, "no-additional-sas", from(1), 0)
	other.Evidence = rules.Evidence{Exchange: message.CreateChildSA, ByPeer: true, Notify: message.NoAdditionalSAs}
	again := attempt(c, CodeNotUnique, from(1), 0)
	sha1 := attempt(c, CodeAuthentication, from(1), 0)
	sha1.Evidence = rules.Evidence{Exchange: message.IKEAuth, Method: message.AuthRSA}
	sha1.RemoteID, sha1.Err = c.Remote.ID, fmt.Errorf("not authentic: %w", conf.ErrSHA1)
	nowhere := attempt(nil, ike.CodeNoConnection, from(1), 0)
	for _, test := range []struct {
		a           ike.Attempt
		all         []*conf.Connection
		code, cause string
		at          control.Place
		cure        string
	}{
		{wrongKE, nil, CodeKE, "asks for the key exchange method ecp384, which is not offered here", control.Here, "add aes256gcm16-prfsha384-ecp384 to connections.site.proposals"},
		{wide, nil, CodeTS, "the peer answered 10.0.0.0/8 <-> 10.1.0.0/16, which is more than was proposed", control.AtPeer, "answer no more than 10.1.0.0/16 on its side and 10.2.0.0/16 on ours"},
		{version, nil, CodeVersion, "it failed", control.AtPeer, "set it to IKEv2 for 198.51.100.1"},
		{dead, nil, CodeNoAnswer, "203.0.0.1:500 stopped answering while the connection was up", control.AtPeer, "check that it runs"},
		{unknown, nil, CodeNoProposal, "no encryption algorithm in common", control.AtPeer, "add aes256gcm16-prfsha384-x25519"},
		{other, nil, "no-additional-sas", "it failed", control.AtPeer, "its log says why it answered NO_ADDITIONAL_SAS"},
		{again, nil, CodeNotUnique, "it failed", control.Here, "set connections.site.unique to replace or never"},
		{sha1, nil, CodeSignature, "signs with SHA-1", control.AtPeer, "let it sign with SHA-256 or better"},
		{nowhere, nil, CodeNoConnection, "no connection allows a peer at 203.0.0.1", control.Here, "add a connection with remote.address 203.0.0.1"},
		{nowhere, []*conf.Connection{{Name: "any", LocalAddrs: host32(leftAddr), RemoteAddrs: []netip.Prefix{netip.MustParsePrefix("203.0.0.0/16")}}}, CodeNoConnection, "", control.Here, "add 198.51.100.1 to connections.any.local.address"},
	} {
		f := Explain(test.a, test.all)
		if f.Code != test.code || !strings.Contains(f.Cause, test.cause) || len(f.Cures) == 0 || f.Cures[0].At != test.at || !strings.HasPrefix(f.Cures[0].Edit, test.cure) {
			t.Errorf("%s: %+v", test.code, f)
		}
	}
}

func TestTraffic(t *testing.T) {
	sa := control.ChildSA{
		Established: testNow.Add(-time.Minute), LocalTS: sel("10.2.0.0/16"), RemoteTS: sel("10.1.0.0/16"),
		In: control.Half{SPI: 0xc0ffee01}, Out: control.Half{SPI: 0xc0ffee02, Packets: 12, Used: testNow.Add(-time.Second)},
	}
	with := func(change func(*control.ChildSA)) *control.Connection {
		x := sa
		change(&x)
		return &control.Connection{
			Name: "site", Tunnels: []control.Tunnel{{Name: "lan", SAs: []control.ChildSA{x}}},
			IKE: []control.IKESA{{State: control.IKEEstablished, Remote: netip.AddrPortFrom(leftAddr, 4500)}},
		}
	}
	got := Traffic(testNow, with(func(*control.ChildSA) {}))
	if len(got) != 1 || got[0].Code != CodeNoReturn || got[0].Tunnel != "lan" || len(got[0].Cures) != 3 ||
		!strings.Contains(got[0].Cause, "12 packets left in SA c0ffee02") || !strings.Contains(got[0].Cures[1].Edit, "let ESP (IP protocol 50) from 192.0.2.1 pass") {
		t.Errorf("%+v", got)
	}
	got = Traffic(testNow, with(func(x *control.ChildSA) { x.Encap = true }))
	if len(got) != 1 || len(got[0].Cures) != 2 || !strings.Contains(got[0].Cures[1].Edit, "let UDP 4500") {
		t.Errorf("in UDP: %+v", got)
	}
	for name, change := range map[string]func(*control.ChildSA){
		"something came":   func(x *control.ChildSA) { x.In.Packets = 1 },
		"it was dropped":   func(x *control.ChildSA) { x.In.Drops = 1 },
		"nothing was sent": func(x *control.ChildSA) { x.Out.Packets = 0 },
		"too young":        func(x *control.ChildSA) { x.Established = testNow.Add(-time.Second) },
		"long ago":         func(x *control.ChildSA) { x.Out.Used = testNow.Add(-time.Hour) },
	} {
		if got := Traffic(testNow, with(change)); len(got) != 0 {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
