// Package nexthop finds, for packets that leave as frames, the interface, the next
// hop and its link address, by asking the kernel (rtnetlink(7)): its routing
// decides, for the same packet, as it would without a capture, and its neighbour
// table is the only one. ARP and neighbour discovery stay with the kernel, which
// is asked to resolve what is missing and to confirm what has become stale and is
// still in use.
//
// What was found is kept until the kernel announces a change. Nobody waits for an
// answer: until it is there, packets take the kernel's way.
package nexthop
