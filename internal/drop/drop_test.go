package drop

import (
	"strings"
	"testing"

	"caponier/internal/ipsec"
)

func TestNames(t *testing.T) {
	seen := map[string]Reason{"": 0}
	for r := Short; int(r) < Count; r++ {
		if r.Error() == "" || r.Error() == Reason(0).Error() {
			t.Errorf("reason %d has no text", r)
		}
		for _, p := range []ipsec.Protocol{ipsec.ESP, ipsec.AH} {
			name := r.Name(p)
			if other, taken := seen[name]; taken && other != r || strings.ToLower(name) != name {
				t.Errorf("reason %d: name %q", r, name)
			}
			seen[name] = r
		}
	}
	if got := Replay.Name(ipsec.AH) + " " + Replay.Name(ipsec.ESP) + " " + NoSA.Name(ipsec.AH); got != "ah-replay esp-replay sa-not-found" {
		t.Error(got)
	}
	if Reason(0).Name(ipsec.ESP) != "" || Reason(200).Name(ipsec.ESP) != "" || Reason(200).Error() == "" {
		t.Error("values that are no reasons")
	}
}
