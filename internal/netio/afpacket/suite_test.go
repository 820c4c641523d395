package afpacket

import (
	"testing"

	"caponier/internal/netio/frame"
	"caponier/internal/netio/frame/frametest"
)

var captures = map[string]frametest.Opener{
	"one socket": func(names ...string) (frame.Capture, error) { return Open(Options{Interfaces: names, Queues: 1}) },
}

func TestMain(m *testing.M) { frametest.Main(m, captures) }

func TestCapture(t *testing.T) { frametest.Run(t, captures) }
