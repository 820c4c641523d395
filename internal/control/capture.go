package control

import (
	"context"
	"io"
	"os"
	"time"

	"caponier/internal/capture"
)

// Captured is a result of "capture": what has passed since the one before.
type Captured struct {
	Packets []capture.Packet `json:"packets,omitempty"`
	// Keys are lines of Wireshark's tables. They are for whoever asked.
	Keys []capture.Line `json:"keys,omitempty"`
	// Dropped is how many packets were left out so far, and KeysLost how many
	// lines.
	Dropped  uint64 `json:"dropped"`
	KeysLost uint64 `json:"keys_lost,omitempty"`
	// Unreadable is how many SAs have no line: Wireshark does not decrypt their
	// algorithms.
	Unreadable uint64 `json:"unreadable_sas,omitempty"`
}

// Text prints a line for each packet, and none of the keys.
func (c Captured) Text(w io.Writer, s Style) error {
	out := &printer{w: w, s: s}
	for i := range c.Packets {
		p := &c.Packets[i]
		name := p.Connection
		if p.Tunnel != "" {
			name += "/" + p.Tunnel
		}
		out.printf("%s %s %-3s %5d octets  %s\n", p.Time.Local().Format("15:04:05.000000"), p.Side, p.Direction, len(p.Data), clean(name))
	}
	return out.err
}

// capturePackets carries out "capture".
func capturePackets(ctx context.Context, g Gateway, r Request, emit func(Captured) error) error {
	keys := r.Bool("keys")
	// Others may be let in by other doors one day, but not to keys.
	if who := callerOf(ctx); keys && !mayControl(who.uid, os.Geteuid()) {
		return Errorf(CodeForbidden, "only root, and the user that the daemon runs as, may have keys")
	}
	left, limited := r.Number("count"), r.Number("count") > 0
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if d := r.Duration("duration"); d > 0 {
		defer time.AfterFunc(d, stop).Stop()
	}
	return g.Capture(ctx, r.String("connection"), keys, func(c Captured) error {
		if limited {
			c.Packets = c.Packets[:min(uint64(len(c.Packets)), left)]
			if left -= uint64(len(c.Packets)); left == 0 {
				stop()
			}
		}
		return emit(c)
	})
}
