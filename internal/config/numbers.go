package config

import (
	"maps"
	"slices"

	"caponier/internal/ike/message"
	"caponier/internal/ipsec"
	"caponier/internal/suite"
)

// privateNumbers are the algorithms that have private-use numbers in IKEv2, by
// the words of proposals, and signature-sm3 for the hash of signatures.
var privateNumbers = map[string]message.Number{
	"sm4cbc":        {Registry: ipsec.TypeEncr, ID: ipsec.EncrSM4CBC},
	"sm4gcm16":      {Registry: ipsec.TypeEncr, ID: ipsec.EncrSM4GCM16},
	"prfsm3":        {Registry: ipsec.TypePRF, ID: ipsec.PRFHMACSM3},
	"sm3":           {Registry: ipsec.TypeInteg, ID: ipsec.IntegHMACSM3},
	"sm3_128":       {Registry: ipsec.TypeInteg, ID: ipsec.IntegHMACSM3128},
	"sm3_96":        {Registry: ipsec.TypeInteg, ID: ipsec.IntegHMACSM396},
	"signature-sm3": {Registry: message.SignatureHash, ID: suite.HashSM3},
}

// The private-use range of every registry that they are in (RFC 7296, Section
// 3.3.2; RFC 7427, Section 7), less the last number, which stands for none.
const (
	minPrivate = 1024
	maxPrivate = 65534
)

// numbers reads private-numbers: other numbers for algorithms that IANA has
// assigned none.
func (d *decoder) numbers(v *Gateway, n *node, path string) {
	v.Numbers = make(message.Numbers)
	d.named(n, path, "algorithm", func(name string, f field, _ string) {
		own, ok := privateNumbers[name]
		if !ok {
			d.unknownKey(f.Key, slices.Sorted(maps.Keys(privateNumbers)))
			return
		}
		var wire uint32
		if number(d, &wire, f.Value, minPrivate, maxPrivate); wire == 0 {
			return
		}
		v.Numbers[own] = uint16(wire)
	})
	taken := make(map[message.Number]string)
	for _, name := range slices.Sorted(maps.Keys(privateNumbers)) {
		x := privateNumbers[name]
		if wire, ok := v.Numbers[x]; ok {
			x.ID = wire
		}
		if other, ok := taken[x]; ok {
			d.errorf(n, "%s and %s would have one number, %d", other, name, x.ID)
		}
		taken[x] = name
	}
}
