// Package stream sends numbered UDP datagrams of one size from a host to
// another, and counts what arrives.
//
// A generator of traffic must cost less than what it measures (RFC 2544, Section
// 26.1, has it run at the rate of the medium). So frames are made ahead and given
// to the interface past the host's own stack, and the receiver looks for
// datagrams a thousand times a second instead of being woken for each. What is on
// the wire is what a socket would send: whole datagrams with their checksums, one
// to a frame, or fragments where the path takes no more.
package stream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"caponier/internal/lab/netns"
)

// Path is the way of a stream.
type Path struct {
	From, To netns.NS
	Device   string           // of From, by which the datagrams leave
	NextHop  net.HardwareAddr // whom they leave to
	Src, Dst netip.Addr       // IPv4
}

// Load is a stream of datagrams.
type Load struct {
	Size     int     // octets of data in a datagram
	Rate     float64 // offered, bit/s of data; 0: as fast as one thread sends
	Window   int     // frames that are on the way at most; 0: however many
	Duration time.Duration
	Targets  []netip.Addr // sent to in turn, instead of Path.Dst; the receiver has them all
}

// Result is what the two ends counted.
type Result struct {
	Sent, Received, Reordered uint64  // Reordered arrived after one that was sent later
	Rate                      float64 // received, bit/s of data
	Packets                   float64 // received per second
}

// LossPercent is the part of the datagrams that did not arrive.
func (r Result) LossPercent() float64 {
	if r.Sent == 0 || r.Received >= r.Sent {
		return 0
	}
	return 100 * float64(r.Sent-r.Received) / float64(r.Sent)
}

// The least and the most octets of data in a datagram. Each begins with the
// number of its stream and its own.
const (
	MinSize = 12
	MaxSize = 65507
)

// Drain is how long the receiver waits for a datagram after the last.
const Drain = 150 * time.Millisecond

const (
	port  = 5300
	batch = 64 // datagrams in one system call
	// nap is how long a sender with nothing due, and a receiver that has seen all,
	// look away; the latter less where a window waits for it.
	nap          = 50 * time.Microsecond
	lookAway     = time.Millisecond
	lookAwayLess = 100 * time.Microsecond
	// lost is when what a full window has on the way will not arrive any more.
	lost = 10 * time.Millisecond
)

// streams numbers the streams of this process, so that stragglers of one are
// not counted in the next.
var streams atomic.Uint32

// Measure sends a stream until its duration is over or ctx ends, and returns when
// all that arrives has arrived.
func Measure(ctx context.Context, p Path, l Load) (Result, error) {
	if l.Size < MinSize || l.Size > MaxSize {
		return Result{}, fmt.Errorf("datagrams of %d octets: they have %d to %d", l.Size, MinSize, MaxSize)
	}
	id := streams.Add(1)
	r, err := newReceiver(p, l, id)
	if err != nil {
		return Result{}, fmt.Errorf("receiving datagrams: %w", err)
	}
	defer r.close()
	s, err := newSender(p, l, id)
	if err != nil {
		return Result{}, fmt.Errorf("sending datagrams: %w", err)
	}
	defer s.close()

	done := make(chan error, 1)
	go func() { done <- r.run() }()
	began := time.Now()
	sent, err := s.run(ctx, l, began, r.received.Load)
	r.settle()
	if err := errors.Join(err, <-done); err != nil {
		return Result{}, err
	}
	result := Result{Sent: sent, Received: r.received.Load(), Reordered: r.reordered}
	if took := time.Duration(r.last.Load() - began.UnixNano()).Seconds(); result.Received > 0 && took > 0 {
		result.Packets = float64(result.Received) / took
		result.Rate = result.Packets * float64(l.Size) * 8
	}
	return result, nil
}
