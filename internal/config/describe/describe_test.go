package describe

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"testing"

	"caponier/internal/config"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// full is a configuration with every key.
func full(t testing.TB) []byte {
	t.Helper()
	data, err := os.ReadFile("../testdata/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestDescribe(t *testing.T) {
	c, _, err := config.Parse("/etc/caponier/full.yaml", full(t))
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	d := Config(c)
	if err := d.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/full.txt", text.String())
	j, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/full.json", string(j)+"\n")
}

// Whatever configuration is accepted can be described.
func FuzzDescribe(f *testing.F) {
	data := full(f)
	for i := 0; i < len(data); i += 16 {
		f.Add(data[:i])
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		c, _, err := config.Parse("x.yaml", data)
		if err != nil {
			return
		}
		if err := Config(c).WriteText(&bytes.Buffer{}); err != nil {
			t.Fatal(err)
		}
	})
}
