// Package afpacket captures frames with packet sockets (packet(7)).
//
// A packet socket sees a copy of each frame, while the frame goes on into the
// kernel. So two programs, made of the same instructions over the same tables,
// judge each frame by frame.Steering: the filter of the socket keeps what is
// ours, and a program behind it, at the interface's ingress (TCX, Linux 6.6),
// drops just that. Both go with the process, whose descriptors hold them.
//
// Sockets carry a virtio header before each frame (PACKET_VNET_HDR): so many
// packets of a flow travel as one, as with TUN devices, and checksums are left
// to who computes them cheapest.
package afpacket
