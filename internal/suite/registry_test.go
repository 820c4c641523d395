package suite

import "testing"

func TestSelfTest(t *testing.T) {
	if err := SelfTest(); err != nil {
		t.Fatal(err)
	}
	t.Log(ProposalString(DefaultIKE()[1]), ProposalString(DefaultESP()[0]))
}
