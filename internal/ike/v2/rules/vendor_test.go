package rules

import (
	"bytes"
	"crypto/md5"
	"testing"

	"caponier/internal/ike/message"

	"github.com/google/go-cmp/cmp"
)

func TestVendors(t *testing.T) {
	strongSwan, windows := md5.Sum([]byte("strongSwan")), md5.Sum([]byte("MS NT5 ISAKMPOAKLEY"))
	msg := &message.Message{Payloads: []message.Payload{
		&message.Nonce{},
		&message.VendorID{Data: strongSwan[:]},
		&message.VendorID{Data: append(windows[:], 0, 0, 0, 9)},
		&message.VendorID{Data: []byte("OE-Libreswan-4.12")},
		&message.VendorID{Data: []byte("a\x1b[31mb")},
		&message.VendorID{Data: bytes.Repeat([]byte("x"), 1000)},
		&message.VendorID{},
	}}
	want := []string{"strongSwan", "Microsoft Windows", "OE-Libreswan-4.12", "0x611b5b33316d62", "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}
	if diff := cmp.Diff(want, Vendors(msg)); diff != "" {
		t.Error(diff)
	}
	for range 100 {
		msg.Payloads = append(msg.Payloads, &message.VendorID{Data: []byte{1}})
	}
	if n := len(Vendors(msg)); n != maxVendors {
		t.Errorf("%d are kept", n)
	}
}
