package vm

import (
	"fmt"
	"testing"
	"time"

	"caponier/internal/dataplane/kernel"
	"caponier/internal/ipsec"
	"caponier/internal/lab/netns"
	"caponier/internal/netio"
)

// newKernel starts the kernel plane of a namespace, with the socket to which ESP
// in UDP comes. It ends with the test.
func newKernel(t *testing.T, in netns.NS) *kernel.Plane {
	t.Helper()
	var p *kernel.Plane
	must(t, in.Do(func() (err error) {
		if p, err = kernel.New(kernel.Options{Tick: 20 * time.Millisecond}); err != nil {
			return err
		}
		t.Cleanup(func() { must(t, p.Close()) })
		nat, err := netio.ListenNAT(4500, netio.SocketOptions{PastIPsec: true, UDPEncap: true})
		if err == nil {
			t.Cleanup(func() { nat.Close() })
		}
		return err
	}))
	return p
}

// kernelPlane is caponier's kernel plane as an end that is keyed by hand.
type kernelPlane struct {
	*kernel.Plane
	judge ipXfrm // of the same namespace, to look at
}

func (g kernelPlane) set(policies []ipsec.Policy, sas []ipsec.SA) error {
	return setPlane(g.Plane, policies, sas)
}

func (g kernelPlane) tell() string {
	return fmt.Sprintf("%+v\n%v\n%s", g.SAs(), g.Counters(), g.judge.tell())
}
