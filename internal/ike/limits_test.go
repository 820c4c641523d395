package ike

import (
	"encoding/binary"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"caponier/internal/ike/message"
	v2 "caponier/internal/ike/v2"
	"caponier/internal/ike/v2/fault"
	"caponier/internal/netio"
)

// rawInit is an IKE_SA_INIT request with these payloads, each a type and a body,
// as no codec of ours would write it.
func rawInit(payloads ...rawPayload) []byte {
	b := make([]byte, message.HeaderLen)
	b[0], b[17], b[18], b[19] = 1, 2<<4, byte(message.IKESAInit), byte(message.FlagInitiator)
	next := &b[16]
	for _, p := range payloads {
		*next = byte(p.kind)
		head := []byte{0, 0, 0, 0}
		binary.BigEndian.PutUint16(head[2:], uint16(4+len(p.body)))
		at := len(b)
		b = append(append(b, head...), p.body...)
		next = &b[at]
	}
	binary.BigEndian.PutUint32(b[24:], uint32(len(b)))
	return b
}

type rawPayload struct {
	kind message.PayloadType
	body []byte
}

// rawProposal is one with n transforms of AES-GCM.
func rawProposal(more, number, n int) []byte {
	b := []byte{byte(more), 0, 0, 0, byte(number), byte(message.ProtocolIKE), 0, byte(n)}
	for i := range n {
		t := []byte{3, 0, 0, 8, 1, 0, 0, 20}
		if i == n-1 {
			t[0] = 0
		}
		b = append(b, t...)
	}
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	return b
}

// TestBeyondLimits sends first messages with more than is looked at: each is
// refused before it costs anything, with a counter and a reason for the operator.
func TestBeyondLimits(t *testing.T) {
	simulate(t, func(t *testing.T, n *network) {
		var mu sync.Mutex
		var seen []Attempt
		g := n.gateway(t, rightAddr, []*v2.Connection{end("site", false)}, func(o *Options) {
			o.OnFailure = func(a Attempt) {
				mu.Lock()
				defer mu.Unlock()
				seen = append(seen, a)
			}
		})
		var proposals []byte
		for i := range message.MaxProposals + 1 {
			more := 2
			if i == message.MaxProposals {
				more = 0
			}
			proposals = append(proposals, rawProposal(more, i+1, 1)...)
		}
		for _, tt := range []struct {
			what string
			raw  []byte
		}{
			{"more than 64 proposals", rawInit(rawPayload{message.TypeSA, proposals})},
			{"more than 128 transforms", rawInit(rawPayload{message.TypeSA, rawProposal(0, 1, message.MaxTransforms+1)})},
			{"more than 128 payloads", rawInit(slices.Repeat([]rawPayload{{message.TypeVendorID, nil}}, message.MaxPayloads+1)...)},
		} {
			before := g.Counters()["ike-drop-beyond-limits"]
			n.send(netio.Datagram{Data: tt.raw, Local: netip.AddrPortFrom(leftAddr, 500), Remote: netip.AddrPortFrom(rightAddr, 500)})
			pass(time.Second)
			mu.Lock()
			got := seen
			seen = nil
			mu.Unlock()
			if len(got) != 1 || got[0].Code != fault.CodeLimit || !strings.Contains(got[0].Err.Error(), tt.what) || got[0].Proven {
				t.Errorf("%s: %+v", tt.what, got)
			}
			if now := g.Counters(); now["ike-drop-beyond-limits"] != before+1 || now["ike-sas"] != 0 {
				t.Errorf("%s: counters %v", tt.what, now)
			}
		}
		g.mustBeEmpty()
	})
}

// TestDebugShowsExchanges looks at the log of a whole life at level debug: what is
// exchanged can be followed, and nothing secret stands there.
func TestDebugShowsExchanges(t *testing.T) {
	simulate(t, func(t *testing.T, n *network) {
		cl, cr := end("site", true), end("site", false)
		logs := new(logBuffer)
		l := n.gateway(t, leftAddr, []*v2.Connection{cl}, func(o *Options) {
			o.Log = slog.New(slog.NewTextHandler(logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
		})
		quiet := n.gateway(t, rightAddr, []*v2.Connection{cr})
		l.connect("site", "")
		if err := l.Rekey(t.Context(), "site", cl.Children[0].Name); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		if err := l.Disconnect(t.Context(), "site", ""); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		for _, want := range [][]string{
			{"IKE message sent", "exchange=IKE_SA_INIT", "kind=request", "SA(", "KE(", "N(NAT_DETECTION_SOURCE_IP)"},
			{"IKE message received", "exchange=IKE_SA_INIT", "kind=response"},
			{"IKE message sent", "exchange=IKE_AUTH", "message-id=1", "connection=site", "IDi(", "AUTH(", "TSi(10."},
			{"IKE message received", "exchange=CREATE_CHILD_SA", "kind=response", "connection=site"},
			{"IKE message sent", "exchange=INFORMATIONAL", "D(ESP"},
			{"SA installed", "direction=out", "tunnel=" + cl.Children[0].Name},
			{"SA removed", "direction=in"},
		} {
			if !slices.ContainsFunc(logs.lines(want[0]), func(line string) bool {
				return !slices.ContainsFunc(want, func(part string) bool { return !strings.Contains(line, part) })
			}) {
				t.Errorf("no line with %q in\n%s", want, strings.Join(logs.lines(""), ""))
			}
		}
		secret := string(cl.Local.PSK.Bytes())
		if secret == "" || len(logs.lines(secret)) != 0 {
			t.Error("the pre-shared key stands in the log, or there is none")
		}
		if got := quiet.logs.lines("IKE message"); len(got) != 0 {
			t.Errorf("at level info: %s", got)
		}
	})
}
