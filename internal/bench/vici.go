package bench

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"
)

// viciConn speaks the protocol of strongSwan's control socket, as far as a bench
// needs it: swanctl(8) is a process for each order, which would be measured too.
// The packets and the encoding of messages are in libcharon/plugins/vici/README.md.
type viciConn struct{ net.Conn }

// The packets and the elements of messages.
const (
	viciRequest  = 0
	viciResponse = 1

	viciSectionStart = 1
	viciSectionEnd   = 2
	viciKeyValue     = 3
	viciListStart    = 4
	viciListItem     = 5
	viciListEnd      = 6
)

const maxVici = 1 << 20

var errVici = errors.New("strongSwan's answer is not understood")

func dialVici(ctx context.Context, path string) (*viciConn, error) {
	for {
		c, err := new(net.Dialer).DialContext(ctx, "unix", path)
		switch {
		case err == nil:
			return &viciConn{c}, nil
		case errors.Is(err, syscall.EAGAIN): // few may wait for charon to accept them
			time.Sleep(10 * time.Millisecond)
		default:
			return nil, err
		}
	}
}

// call returns the values of the answer, whatever sections they are in, by key.
func (c *viciConn) call(command string, values ...[2]string) (map[string]string, error) {
	b := append([]byte{0, 0, 0, 0, viciRequest, byte(len(command))}, command...)
	for _, kv := range values {
		b = append(b, viciKeyValue, byte(len(kv[0])))
		b = append(b, kv[0]...)
		b = binary.BigEndian.AppendUint16(b, uint16(len(kv[1])))
		b = append(b, kv[1]...)
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	if _, err := c.Write(b); err != nil {
		return nil, err
	}
	var head [4]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n < 1 || n > maxVici {
		return nil, fmt.Errorf("%w: %d octets", errVici, n)
	}
	b = make([]byte, n)
	if _, err := io.ReadFull(c, b); err != nil {
		return nil, err
	}
	if b[0] != viciResponse {
		return nil, fmt.Errorf("%w: packet of type %d to %q", errVici, b[0], command)
	}
	return viciValues(b[1:])
}

// viciValues reads a message.
func viciValues(b []byte) (map[string]string, error) {
	r := bytes.NewReader(b)
	short := func() string {
		n, _ := r.ReadByte()
		text := make([]byte, n)
		_, _ = io.ReadFull(r, text)
		return string(text)
	}
	long := func() string {
		var n [2]byte
		_, _ = io.ReadFull(r, n[:])
		text := make([]byte, binary.BigEndian.Uint16(n[:]))
		_, _ = io.ReadFull(r, text)
		return string(text)
	}
	out := make(map[string]string)
	for {
		kind, err := r.ReadByte()
		if err != nil {
			return out, nil //nolint:nilerr // the end
		}
		switch kind {
		case viciSectionStart, viciListStart:
			short()
		case viciKeyValue:
			key := short()
			out[key] = long()
		case viciListItem:
			long()
		case viciSectionEnd, viciListEnd:
		default:
			return nil, fmt.Errorf("%w: element of type %d", errVici, kind)
		}
	}
}
