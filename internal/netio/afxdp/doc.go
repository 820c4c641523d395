// Package afxdp captures Ethernet frames by AF_XDP sockets: frames pass between
// the driver of a network interface and memory of this process, without the
// kernel's protocol stack.
//
// A program on the interface, made here instruction by instruction, does what
// frame.Steering says: it redirects the gateway's frames to the socket of the
// queue by which they came, and passes all others to the kernel.
//
//	interface ─ program ─┬─ taken ──> receive ring ──> ReadFrames
//	                     └─ other ──> kernel
//	WriteFrames ──> transmit ring ──> interface
//
// The program is attached by a link (bpf_link), which ends with its last
// descriptor: nothing stays behind when the process ends, however that happens.
// As long as it is attached and a queue has no socket, inner packets of that queue
// are dropped, while outer ones, which are sealed, go to the kernel.
package afxdp
