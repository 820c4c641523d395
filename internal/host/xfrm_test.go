package host

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/jsimonetti/rtnetlink/v2"

	"caponier/internal/ipsec"
	"caponier/internal/lab/netns"
)

func TestPoliciesWithInterfaces(t *testing.T) {
	own := ipsec.Policy{
		Name: "peer/lan", Action: ipsec.Protect, Acquire: true, Connection: "peer", Kernel: ipsec.KernelPolicy{IfID: 7},
		Local: selectors("10.1.0.0/16"), Remote: selectors("10.2.0.0/16"),
	}
	byHand := own
	byHand.Name, byHand.Connection, byHand.Remote = "manual", "", selectors("10.3.0.0/16")
	d := FromPolicies([]ipsec.Policy{own, byHand})
	if len(d.Protect) != 2 || d.Protect[1].Interface != nil {
		t.Fatalf("%+v", d.Protect)
	}
	if x := d.Protect[0].Interface; x == nil || *x != (Interface{ID: 7, Alias: "caponier peer", Always: true}) {
		t.Errorf("the connection's interface is %+v", x)
	}
}

func TestRoutesFollowTheTunnel(t *testing.T) {
	const ditch, xfrm = 3, 9
	h := &Host{index: ditch, xfrm: map[uint32]uint32{7: xfrm}}
	for _, c := range []struct {
		of   *Interface
		up   bool
		want uint32
	}{
		{nil, true, ditch},
		{&Interface{ID: 7}, false, ditch},
		{&Interface{ID: 7}, true, xfrm},
		{&Interface{ID: 7, Always: true}, false, xfrm},
		{&Interface{ID: 8, Always: true}, true, ditch}, // it was not made
	} {
		h.up = map[uint32]bool{7: c.up}
		if got := h.deviceOf(c.of); got != c.want {
			t.Errorf("%+v, up %t: device %d, want %d", c.of, c.up, got, c.want)
		}
	}
}

// A kernel has xfrm interfaces, or is named what it needs for them.
func TestCheckInterfaces(t *testing.T) {
	ns, err := netns.Create(fmt.Sprintf("cphost-%d-%d", os.Getpid(), nextNS.Add(1)))
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Delete()
	if err := ns.Do(CheckInterfaces); err != nil && !strings.Contains(err.Error(), "CONFIG_XFRM_INTERFACE") {
		t.Error(err)
	}
	if err := ns.Do(func() (err error) {
		h := new(Host)
		if h.route, err = rtnetlink.Dial(nil); err != nil {
			return err
		}
		defer h.route.Close()
		left, err := h.interfaces()
		if len(left) != 0 {
			t.Errorf("the check leaves %v", left)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}
