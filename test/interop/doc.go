// Package interop runs gateways of different makes against each other, in
// networks of namespaces that each test has for itself:
//
//	hostA ─ gwA ═══════════ gwB ─ hostB
//	hostA ─ gwA ═══ nat ═══ gwB ─ hostB
//
// The package is a harness: networks, strongSwan and Libreswan as peers, traffic,
// captures.
// Its own tests run strongSwan on both sides, so that a failure against another
// gateway is not the harness's.
//
// Tests need root and the packages that scripts/setup.sh installs; where
// something is missing they fail and say what. They may run in parallel.
package interop
