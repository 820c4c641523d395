package app

import (
	"testing"

	"caponier/internal/control"
)

func TestStatusWarnsOfLegacyAlgorithms(t *testing.T) {
	c := &control.Connection{
		IKE: []control.IKESA{{Proposal: "3des-md5-prfmd5-modp1024"}, {Proposal: "3des-md5-prfmd5-modp1024"}},
		Tunnels: []control.Tunnel{
			{Name: "old", SAs: []control.ChildSA{{Proposal: "des-md5-noesn"}}},
			{Name: "new", SAs: []control.ChildSA{{Proposal: "aes256gcm16-x25519-esn"}}},
		},
	}
	var got []string
	for _, w := range legacy(c) {
		if w.Code != "legacy-algorithm" || w.Cure == "" {
			t.Errorf("%+v", w)
		}
		got = append(got, w.Message)
	}
	want := []string{"the IKE SA uses 3des", "the IKE SA uses md5", "the IKE SA uses prfmd5", "the IKE SA uses modp1024", "tunnel old uses des", "tunnel old uses md5"}
	if len(got) != len(want) {
		t.Fatalf("warnings %q", got)
	}
	for i := range want {
		if len(got[i]) <= len(want[i])+2 || got[i][:len(want[i])+1] != want[i]+":" {
			t.Errorf("warning %q, want %q and why", got[i], want[i])
		}
	}
}
