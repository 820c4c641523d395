package netio

import "net/netip"

// Datagram is one IKE message on its way, without the non-ESP marker.
type Datagram struct {
	Data          []byte
	Local, Remote netip.AddrPort
}

// IKESocket carries IKE messages of one local port. On port 4500 it adds and
// strips the non-ESP marker (RFC 3948, Section 2.2) and shares the port with
// ESP; the user-space plane then reads it and passes on what is IKE.
type IKESocket interface {
	// Receive blocks for the next message, whose Data is the caller's to keep.
	// It returns net.ErrClosed after Close.
	Receive() (Datagram, error)
	// Send sends from d.Local (whose address may be unspecified) to d.Remote.
	Send(d Datagram) error
	// SendKeepAlive sends a NAT keepalive (RFC 3948, Section 2.3).
	SendKeepAlive(local, remote netip.AddrPort) error
	// LocalPort is the UDP port of the socket.
	LocalPort() uint16
	Close() error
}
