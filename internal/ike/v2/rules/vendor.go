package rules

import (
	"encoding/hex"
	"strconv"
	"strings"

	"caponier/internal/ike/message"
)

// Limits on what is kept of a peer's vendor IDs.
const (
	maxVendors   = 8
	maxVendorLen = 32 // octets shown of one
)

// vendors are the beginnings of vendor IDs that say nothing to a reader: hashes
// of a text that their makers have published.
var vendors = []struct{ prefix, name string }{
	{"882fe56d6fd20dbc2251613b2ebe5beb", "strongSwan"},
	{"1e2b516905991c7d7c96fcbfb587e461", "Microsoft Windows"},
	{"4048b7d56ebce88525e7de7f00d6c2d3", "fragmentation"},
	{"fb1de3cdf341b7ea16b7e5be0855f120", "MS-Negotiation Discovery Capable"},
	{"26244d38eddb61b3172a36e3d0cfb819", "Vid-Initial-Contact"},
	{"e3a5966a76379fe707228231e5ce8652", "IKE CGA version 1"},
}

// Vendors names the vendor IDs of a message (RFC 7296, Section 3.12), each once.
// They are a peer's word, and nothing is decided by them: they are for whoever
// looks for a cause.
func Vendors(msg *message.Message) []string {
	var out []string
	for _, p := range msg.Payloads {
		v, ok := p.(*message.VendorID)
		if !ok || len(v.Data) == 0 {
			continue
		}
		out = append(out, vendorName(v.Data))
		if len(out) == maxVendors {
			break
		}
	}
	return out
}

func vendorName(id []byte) string {
	text := hex.EncodeToString(id)
	for _, v := range vendors {
		if strings.HasPrefix(text, v.prefix) {
			return v.name
		}
	}
	cut := id[:min(len(id), maxVendorLen)]
	if quoted := strconv.QuoteToASCII(string(cut)); !strings.Contains(quoted, `\`) {
		return strings.Trim(quoted, `"`)
	}
	return "0x" + hex.EncodeToString(cut)
}
