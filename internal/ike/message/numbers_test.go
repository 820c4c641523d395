package message

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"caponier/internal/ipsec"
)

func TestNumbers(t *testing.T) {
	n := Numbers{
		{ipsec.TypeEncr, ipsec.EncrSM4CBC}:    1024,
		{ipsec.TypePRF, ipsec.PRFHMACSM3}:     ipsec.PRFHMACSM3 + 1,
		{ipsec.TypeInteg, ipsec.IntegHMACSM3}: 1024,
		{SignatureHash, 32905}:                2000,
	}
	payloads := func(encr, prf, integ uint16, hash byte, low byte) []Payload {
		return []Payload{
			&SA{Proposals: []Proposal{{Number: 1, Protocol: ProtocolIKE, Transforms: ipsec.Proposal{
				{Type: ipsec.TypeEncr, ID: encr},
				{Type: ipsec.TypeEncr, ID: ipsec.EncrAESGCM16, KeyBits: 128},
				{Type: ipsec.TypePRF, ID: prf},
				{Type: ipsec.TypeInteg, ID: integ},
				{Type: ipsec.TypeKE, ID: ipsec.KEX25519},
			}}}},
			&Nonce{Data: []byte{1}},
			&Notify{Kind: SignatureHashAlgorithms, Data: []byte{0, 2, hash, low}},
			&Notify{Kind: Cookie, Data: []byte{hash, low}},
		}
	}
	own := payloads(ipsec.EncrSM4CBC, ipsec.PRFHMACSM3, ipsec.IntegHMACSM3, 0x80, 0x89)
	wire := payloads(1024, ipsec.PRFHMACSM3+1, 1024, 2000>>8, 2000&0xff)
	wire[3] = own[3] // a cookie is nobody's hash
	before := payloads(ipsec.EncrSM4CBC, ipsec.PRFHMACSM3, ipsec.IntegHMACSM3, 0x80, 0x89)
	if diff := cmp.Diff(wire, n.Outgoing(own)); diff != "" {
		t.Errorf("outgoing (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(before, own); diff != "" {
		t.Errorf("the originals were changed (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(own, n.Incoming(wire)); diff != "" {
		t.Errorf("incoming (-want +got):\n%s", diff)
	}
	// A number that an algorithm has here, but not towards this peer, is unknown.
	stray := n.Incoming(payloads(ipsec.EncrSM4CBC, ipsec.PRFHMACSM3, ipsec.IntegHMACSM3, 0, 2))[0].(*SA).Proposals[0].Transforms
	for _, i := range []int{0, 2, 3} {
		if stray[i].ID != nobody {
			t.Errorf("number %d passes for an algorithm that has another one", stray[i].ID)
		}
	}
	if got := Numbers(nil).Incoming(wire); &got[0] != &wire[0] {
		t.Error("without numbers, payloads are copied")
	}
}
