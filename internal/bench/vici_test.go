package bench

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestVici reads an answer of charon to "stats", shortened.
func TestVici(t *testing.T) {
	answer := []byte("\x01\x06uptime\x03\x07running\x00\x0a38 seconds\x02" +
		"\x01\x06ikesas\x03\x05total\x00\x0212\x03\x09half-open\x00\x010\x02" +
		"\x04\x07plugins\x05\x00\x03aes\x05\x00\x04vici\x06")
	want := map[string]string{"running": "38 seconds", "total": "12", "half-open": "0"}
	got, err := viciValues(answer)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v, (-want +got)\n%s", err, diff)
	}
	for n := range answer {
		if _, err := viciValues(answer[:n]); err != nil {
			t.Errorf("the first %d octets: %v", n, err)
		}
	}
	if _, err := viciValues([]byte{9}); !errors.Is(err, errVici) {
		t.Errorf("an unknown element: %v", err)
	}
}
