package frame

import "caponier/internal/netio"

// Capture is a set of interfaces whose frames are captured.
type Capture interface {
	// Ports returns the interfaces, in the order in which they were asked for.
	Ports() []Port
	// Steer says which frames are taken from now on. Until the first call it is
	// none. Frames that arrive meanwhile are judged by the old rule or by the new.
	Steer(Steering) error
	// Counters returns totals by name, for operators.
	Counters() map[string]uint64
	// Close gives the interfaces back to the kernel, and closes all sockets. It is
	// idempotent.
	Close() error
}

// Port is one interface of a capture.
type Port struct {
	Name  string
	Index int // of the interface (if_nametoindex)
	// Tagged says that frames of the VLANs of this interface pass its sockets with
	// their tags (IEEE 802.1Q), in both directions: then VLAN devices above it need
	// no port of their own. Otherwise tagged frames do not come.
	Tagged bool
	// Queues has one socket or more. Frames of one SPI, and of one inner flow, come
	// by one of them, as far as the interface can see to that. Any may send.
	Queues []Socket
}

// Socket moves whole Ethernet frames through one queue of an interface. Data of a
// packet is the frame from the destination address on, without preamble and check
// sequence. Other than Off, Len, Truncated, Segment and Pieces, a Socket uses no
// field of a netio.Packet.
type Socket interface {
	// ReadFrames waits for at least one frame, fills as many of frames as there
	// are at hand, each at Buf[netio.Headroom:], and returns how many. One
	// goroutine may read at a time. It returns net.ErrClosed after Close. Frames
	// with a Segment other than 0 come only from a Joiner. A socket that is apart
	// (netio.Watch) does not wait: where nothing is at hand it returns 0.
	ReadFrames(frames []netio.Packet) (int, error)
	// WriteFrames sends frames in order and returns how many have been sent. Where
	// it returns an error as well, that is about frames[n]: the caller may leave
	// that one out and go on behind it, except after net.ErrClosed. A frame that
	// finds no room is not waited for any longer than it takes to hand over those
	// before it. Several goroutines may write.
	WriteFrames(frames []netio.Packet) (int, error)
	// Close wakes readers and writers. It is idempotent.
	Close() error
}

// Joiner is a Socket that takes, and may deliver, frames with a Segment other than
// 0: the headers of one TCP or UDP packet before the payloads of several, as
// netio.Packet says of TUN devices. The checksums of such packets are unfinished,
// all others are right. What is sent may have Pieces.
type Joiner interface {
	Socket
	// Joins says for which protocols; it may become less while the socket works.
	Joins() (tcp, udp bool)
}
