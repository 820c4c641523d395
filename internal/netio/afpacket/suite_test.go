package afpacket

import (
	"testing"

	"caponier/internal/netio/frame"
	"caponier/internal/netio/frame/frametest"
)

var captures = map[string]frametest.Opener{
	"sockets": func(names ...string) (frame.Capture, error) {
		c, err := Open(Options{Interfaces: names, Queues: 1})
		if err != nil {
			return nil, err
		}
		return c, nil
	},
}

func TestMain(m *testing.M) { frametest.Main(m, captures) }

func TestCapture(t *testing.T) { frametest.Run(t, captures) }
