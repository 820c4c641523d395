// Package lab builds the site-to-site scenario on one machine: a cloud gateway,
// two customers with a gateway and an IoT client each, and a server in the
// cloud for each customer, in network namespaces that it makes and removes. The
// gateways run this very program, driven from outside as an operator would.
package lab

import (
	"fmt"
	"net/netip"
	"strings"
)

// customer is one tenant: a gateway with an IoT LAN behind it, and a server in
// the cloud.
type customer struct {
	Letter  string // "a", "b"
	Outside netip.Addr
	LAN     netip.Prefix
	Gateway netip.Addr // on the LAN
	Client  netip.Addr
	Server  netip.Addr // in the cloud LAN
}

// gatewayName is what the customer's gateway is called, in certificates too.
func (c customer) gatewayName() string { return c.Letter + "gw" }
func (c customer) clientName() string  { return c.Letter + "iot" }
func (c customer) serverName() string  { return c.Letter + "srv" }

// The addresses of the scenario: documentation prefixes outside (RFC 5737),
// private ones inside.
var (
	cloudOutside = netip.MustParseAddr("192.0.2.1")
	cloudLAN     = netip.MustParsePrefix("10.1.0.0/16")
	cloudGateway = netip.MustParseAddr("10.1.0.1")

	customers = []customer{
		{
			Letter: "a", Outside: netip.MustParseAddr("198.51.100.2"), LAN: netip.MustParsePrefix("10.2.0.0/16"),
			Gateway: netip.MustParseAddr("10.2.0.1"), Client: netip.MustParseAddr("10.2.0.2"),
			Server: netip.MustParseAddr("10.1.0.10"),
		},
		{
			Letter: "b", Outside: netip.MustParseAddr("203.0.113.2"), LAN: netip.MustParsePrefix("10.3.0.0/16"),
			Gateway: netip.MustParseAddr("10.3.0.1"), Client: netip.MustParseAddr("10.3.0.2"),
			Server: netip.MustParseAddr("10.1.0.20"),
		},
	}
)

// The names of the other nodes. internet is a router that stands for the
// outside, cloudlan a switch.
const (
	cloudGW  = "cloudgw"
	internet = "internet"
	cloudSW  = "cloudlan"
)

// router is the internet's address on the link of an outside address.
func router(outside netip.Addr) netip.Addr {
	b := outside.As4()
	b[3] = 254
	return netip.AddrFrom4(b)
}

func onLink(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, 24) }

// subject is the distinguished name of a gateway's certificate.
func subject(name string) string { return "C=FI, O=netsecvpn, CN=" + name }

// Picture draws the scenario for people.
func Picture() string {
	a, b := customers[0], customers[1]
	return strings.TrimPrefix(fmt.Sprintf(`
  customer A                                                  the cloud
  ┌──────────┐   ┌──────────┐ %-30[1]s┌───────────┐
  │ %-8[2]s ├───┤ %-8[3]s ╞═════════════╗              ┌──┤ %-9[4]s │
  │ %-8[5]s │   │ %-8[6]s │             ║ %-13[7]s│  │ %-9[8]s │
  └──────────┘   └──────────┘       ┌─────╨────┐ ┌───────┴─┐└───────────┘
                                    │ %[9]s ╞═╡ %-7[10]s │
  ┌──────────┐   ┌──────────┐       └─────╥────┘ └───────┬─┘┌───────────┐
  │ %-8[11]s ├───┤ %-8[12]s ╞═════════════╝              │  │ %-9[13]s │
  │ %-8[14]s │   │ %-8[15]s │ %-27[16]s└──┤ %-9[17]s │
  └──────────┘   └──────────┘                               └───────────┘
  customer B          ═══ carries ESP and IKE only
`,
		a.Outside,
		a.clientName(), a.gatewayName(), a.serverName(),
		a.Client, a.Gateway, cloudOutside, a.Server,
		internet, cloudGW,
		b.clientName(), b.gatewayName(), b.serverName(),
		b.Client, b.Gateway, b.Outside, b.Server), "\n")
}
