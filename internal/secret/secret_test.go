package secret

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestKeyIsNeverPrinted(t *testing.T) {
	k := Copy([]byte("hunter2hunter2"))
	holder := struct {
		K  Key
		KP *Key
	}{k, &k}
	var out []string
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		out = append(out, fmt.Sprintf(verb, k), fmt.Sprintf(verb, &k), fmt.Sprintf(verb, holder))
	}
	j, err := json.Marshal(holder)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "key", k, "holder", holder)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "key", k, "holder", holder)
	out = append(out, string(j), log.String())
	for _, s := range out {
		if strings.Contains(s, "hunter2") || strings.Contains(s, fmt.Sprintf("%x", "hunter2")) ||
			strings.Contains(s, "104 117 110") {
			t.Errorf("key shown in %q", s)
		}
	}
}

func TestWipeReachesCopies(t *testing.T) {
	k := Copy([]byte{1, 2, 3})
	other := k
	clone := k.Clone()
	k.Wipe()
	if !bytes.Equal(other.Bytes(), []byte{0, 0, 0}) {
		t.Errorf("copy after Wipe: %x", other.Bytes())
	}
	if !bytes.Equal(clone.Bytes(), []byte{1, 2, 3}) {
		t.Errorf("clone after Wipe of the original: %x", clone.Bytes())
	}
	if !clone.Equal(Copy([]byte{1, 2, 3})) || clone.Equal(other) || clone.Equal(Key{}) {
		t.Error("Equal is wrong")
	}
}

func TestZeroKey(t *testing.T) {
	var k Key
	k.Wipe()
	if !k.IsZero() || k.Len() != 0 || k.Bytes() != nil {
		t.Error("the zero Key is not empty")
	}
}
