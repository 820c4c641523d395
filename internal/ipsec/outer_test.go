package ipsec

import (
	"encoding/json"
	"testing"
)

func TestOuterWords(t *testing.T) {
	for text, want := range map[string]Outer{
		`{}`:                            {},
		`{"df":"set","dscp":"in"}`:      {DF: SetDF, DSCP: DSCPIn},
		`{"df":"clear","dscp":"both"}`:  {DF: ClearDF, DSCP: DSCPBoth},
		`{"dscp":"none","no_ecn":true}`: {DSCP: DSCPNone, NoECN: true},
	} {
		b, err := json.Marshal(want)
		if err != nil || string(b) != text {
			t.Errorf("%+v: %s, %v, want %s", want, b, err, text)
		}
		var got Outer
		if err := json.Unmarshal([]byte(text), &got); err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{`{"df":"out"}`, `{"dscp":"copy"}`, `{"df":""}`} {
		if err := json.Unmarshal([]byte(text), new(Outer)); err == nil {
			t.Errorf("%s: no error", text)
		}
	}
	if DF(9).String() != "unknown" || DSCP(9).String() != "unknown" {
		t.Error("a number without a word")
	}
}
