package gmreport

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestTestsExist keeps the report honest: the tests that it names are in the tree.
func TestTestsExist(t *testing.T) {
	there := make(map[string]bool)
	name := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	for _, dir := range []string{"..", "../../test"} {
		err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, "_test.go") {
				return err
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, m := range name.FindAllSubmatch(data, -1) {
				there[filepath.Base(filepath.Dir(path))+"."+string(m[1])] = true
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range Clauses() {
		for _, test := range c.Tests {
			if !there[test] {
				t.Errorf("%s, %s: there is no test %s", c.Standard, c.Subject, test)
			}
		}
		switch {
		case c.State == NotBuilt && len(c.Tests) > 0, c.State != NotBuilt && len(c.Tests) == 0:
			t.Errorf("%s, %s is %s with %d tests", c.Standard, c.Subject, c.State, len(c.Tests))
		case c.State == Unsure && c.Note == "":
			t.Errorf("%s, %s does not say what is unsure", c.Standard, c.Subject)
		}
	}
}
