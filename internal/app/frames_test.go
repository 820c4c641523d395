package app

import (
	"strings"
	"testing"

	"caponier/internal/config"
)

// Whatever would stop a start is what `check --system` names.
func TestInterfacesThatCannotBeCaptured(t *testing.T) {
	for name, want := range map[string]string{
		"lo":       "lo is not an Ethernet interface",
		"missing0": `there is no interface "missing0"`,
	} {
		_, err := interfacesOf(&config.Gateway{Capture: config.CaptureAFPacket, Interfaces: []string{name}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
