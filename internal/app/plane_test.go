package app

import (
	"net/netip"
	"testing"

	"caponier/internal/dataplane/kernel"
	"caponier/internal/ipsec"
)

func TestTransportModeKeepsItsRoute(t *testing.T) {
	peer := []ipsec.Selector{ipsec.FromPrefix(netip.MustParsePrefix("192.0.2.2/32"))}
	here := []ipsec.Selector{ipsec.FromPrefix(netip.MustParsePrefix("192.0.2.1/32"))}
	spd := []ipsec.Policy{{Name: "a/t", Action: ipsec.Protect, Mode: ipsec.Transport, Local: here, Remote: peer}}
	if d := (&app{}).desired(spd); len(d.Protect) != 1 {
		t.Errorf("user-space plane: routes %+v", d.Protect)
	}
	if d := (&app{kernel: new(kernel.Plane)}).desired(spd); len(d.Protect) != 0 {
		t.Errorf("kernel's plane: the route of %+v leads what is sealed into the ditch", d.Protect)
	}
	if len(spd) != 1 || spd[0].Name == "" {
		t.Error("the policies themselves were changed")
	}
}
