package app

import (
	"context"
	"errors"
	"time"

	"caponier/internal/capture"
	"caponier/internal/control"
)

// captureOctets is how much a result of a capture holds at most, and
// capturePause how long news of keys and drops may wait for packets.
const (
	captureOctets = 256 << 10
	capturePause  = 200 * time.Millisecond
)

// Capture shows the packets of a connection, or of all, until ctx ends.
func (a *app) Capture(ctx context.Context, name string, keys bool, emit func(control.Captured) error) error {
	a.mu.Lock()
	known := name == "" || a.cfg.Connection(name) != nil
	a.mu.Unlock()
	if !known {
		return control.UnknownConnection(name)
	}
	var listener *capture.KeyListener
	if keys {
		var ok bool
		if listener, ok = a.keyring.Listen(name); !ok {
			return &control.Error{
				Code: control.CodeRefused, Message: "the configuration does not allow keys in captures",
				Cure: "gateway.capture-keys: allow, and caponier reload; or leave --keys out",
			}
		}
		defer listener.Close()
	}
	session, err := a.tap.Open(name)
	if errors.Is(err, capture.ErrBusy) {
		return control.Errorf(control.CodeBusy, "%v", err)
	}
	if err != nil {
		return err
	}
	defer session.Close()
	if a.kernel != nil {
		stop, err := a.overhear(session)
		if err != nil {
			return err
		}
		defer stop()
	}
	a.slog.Info("capture begins", "connection", name, "keys", keys)
	defer func() { a.slog.Info("capture ends", "connection", name, "dropped", session.Dropped()) }()
	// The first result says that the capture is under way.
	for last, first := (control.Captured{}), true; ; first = false {
		next := control.Captured{Packets: readFor(ctx, session, first)}
		next.Dropped = session.Dropped()
		if listener != nil {
			next.Keys, next.KeysLost, next.Unreadable = listener.Take()
		}
		if first || len(next.Packets)+len(next.Keys) > 0 || next.Dropped != last.Dropped || next.KeysLost != last.KeysLost || next.Unreadable != last.Unreadable {
			if err := emit(next); err != nil {
				return err
			}
		}
		last = next
		if ctx.Err() != nil {
			return nil
		}
	}
}

// readFor reads packets that come soon; at first only those that are there.
func readFor(ctx context.Context, s *capture.Session, first bool) []capture.Packet {
	pause := capturePause
	if first {
		pause = 0
	}
	ctx, cancel := context.WithTimeout(ctx, pause)
	defer cancel()
	return s.Read(ctx, captureOctets)
}
