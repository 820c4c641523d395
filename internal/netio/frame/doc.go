// Package frame is what the captures of whole Ethernet frames have in common:
// what a capture is, which frames it takes from the kernel, and how frames
// become the packets that the data plane works on, and packets frames.
//
// A capture (packages afpacket and afxdp) opens the network interfaces and
// decides, by the rule that Steering states, frame by frame what is the
// gateway's. It takes those frames out of the kernel's hands: the kernel neither
// answers nor forwards them. Everything else goes on into the kernel as if there
// was no capture: IKE, ARP, neighbour discovery, fragments of outer packets,
// frames for others, packets whose time to live ends here.
//
//	interface ─ Steering ─┬─ ours ──> Socket.ReadFrames ─> Reader ─> plane
//	                      └─ other ─> kernel ─> routes ─> TUN ─┘
//	plane ─> Writer ─┬─ next hop known ──> Socket.WriteFrames ─> interface
//	                 └─ not known, too long, local ─> TUN or socket ─> kernel
//
// The kernel's way stays open beside that of the frames, and everything that is
// not plain goes by it: that is why there are no frames on which anything
// depends, and why the end of a capture, planned or not, leaves the traffic with
// the routes that protect it without one (package host).
//
// Who does what:
//
//   - A capture does not look into frames beyond Steering, and changes nothing in
//     them. It delivers whole frames, one to a netio.Packet, with the room of
//     netio.Headroom before and netio.Tailroom behind each, and sends whole
//     frames. It knows nothing of neighbours, routes and SAs.
//   - A capture ends with the process, however that ends: what it attached to an
//     interface (a program, a rule) goes with the last descriptor.
//   - This package does everything else: it parts what was read (Reader), finds
//     next hops and their link addresses (package nexthop asks the kernel), puts
//     IP, UDP and Ethernet headers before what is sent, and falls back.
package frame
