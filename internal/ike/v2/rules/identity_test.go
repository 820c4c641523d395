package rules

import (
	"testing"

	"caponier/internal/dn"
	"caponier/internal/ike/message"
)

func name(t *testing.T, text string) Identity {
	t.Helper()
	der, err := dn.ParsePattern(text)
	if err != nil {
		t.Fatal(err)
	}
	return Identity{Kind: message.IDDERASN1DN, Data: string(der)}
}

func TestFits(t *testing.T) {
	host := func(s string) Identity { return Identity{Kind: message.IDFQDN, Data: s} }
	mail := func(s string) Identity { return Identity{Kind: message.IDRFC822, Data: s} }
	tests := map[string]struct {
		configured, claimed Identity
		want                Fit
	}{
		"anyone":                 {Identity{}, host("a"), FitsAny},
		"name":                   {name(t, "C=FI, CN=a"), name(t, "C=fi, CN=A"), FitsExactly},
		"another name":           {name(t, "C=FI, CN=a"), name(t, "C=FI, CN=b"), FitsNot},
		"pattern":                {name(t, "C=FI, CN=*"), name(t, "C=FI, CN=b"), FitsPattern},
		"pattern, another name":  {name(t, "C=FI, CN=*"), name(t, "C=SE, CN=b"), FitsNot},
		"pattern of the peer":    {name(t, "C=FI, CN=a"), name(t, "C=FI, CN=*"), FitsNot},
		"another kind":           {name(t, "C=FI, CN=*"), host("a"), FitsNot},
		"host":                   {host("gw.example.com"), host("GW.example.com"), FitsExactly},
		"domain":                 {host("*.example.com"), host("gw.Example.com"), FitsPattern},
		"domain, deeper":         {host("*.example.com"), host("a.gw.example.com"), FitsPattern},
		"domain itself":          {host("*.example.com"), host("example.com"), FitsNot},
		"domain without a host":  {host("*.example.com"), host(".example.com"), FitsNot},
		"domain, another suffix": {host("*.example.com"), host("badexample.com"), FitsNot},
		"domain of the peer":     {host("gw.example.com"), host("*.example.com"), FitsNot},
		"mail":                   {mail("*@example.com"), mail("user@example.com"), FitsPattern},
		"mail without a user":    {mail("*@example.com"), mail("@example.com"), FitsNot},
		"mail elsewhere":         {mail("*@example.com"), mail("user@example.com.evil"), FitsNot},
		"mail and host":          {mail("*@example.com"), host("user@example.com"), FitsNot},
	}
	for what, tt := range tests {
		if got := tt.configured.Fits(tt.claimed); got != tt.want {
			t.Errorf("%s: %d, want %d", what, got, tt.want)
		}
		if got := tt.configured.Permits(tt.claimed); got != (tt.want != FitsNot) {
			t.Errorf("%s: permits %v", what, got)
		}
	}
}
