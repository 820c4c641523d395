package dataplane_test

import (
	"errors"
	"testing"

	"caponier/internal/dataplane"
	"caponier/internal/dataplane/dataplanetest"
	"caponier/internal/ipsec"
)

func TestFakeConforms(t *testing.T) {
	dataplanetest.Run(t, func(t *testing.T, _ dataplanetest.Place) *dataplanetest.Instance {
		f := dataplane.NewFake()
		t.Cleanup(func() { f.Close() })
		return &dataplanetest.Instance{Backend: f}
	})
}

func TestFakeSaysAndRefuses(t *testing.T) {
	f := dataplane.NewFake()
	defer f.Close()
	refused := errors.New("no")
	f.Refuse(refused)
	if err := f.AddSA(ipsec.SA{SPI: 256}); !errors.Is(err, refused) {
		t.Errorf("AddSA returned %v", err)
	}
	f.Raise(ipsec.Acquire{ReqID: 7})
	if e := <-f.Events(); e != (ipsec.Acquire{ReqID: 7}) {
		t.Errorf("got %+v", e)
	}
	if spi, err := f.AllocateSPI(ipsec.ESP); err != nil || len(f.Reserved()) != 1 || f.Reserved()[0] != spi {
		t.Errorf("allocated %s, %v; reserved %v", spi, err, f.Reserved())
	}
}
