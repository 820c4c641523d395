package archtest

import (
	"cmp"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite docs/rfc-matrix.md")

var citation = regexp.MustCompile(`RFC (\d{3,5}), (?:Section|Appendix) ([A-Z0-9]+(?:\.[0-9]+)*)`)

// row is one section of an RFC and a test that cites it.
type row struct {
	rfc     int
	section string
	test    string
}

// TestMatrix keeps docs/rfc-matrix.md equal to what the tests cite, in their
// comments and in what they say when they fail.
func TestMatrix(t *testing.T) {
	top := root(t)
	rows := citations(t, top)
	slices.SortFunc(rows, func(a, b row) int {
		return cmp.Or(cmp.Compare(a.rfc, b.rfc), compareSections(a.section, b.section), cmp.Compare(a.test, b.test))
	})
	var b strings.Builder
	b.WriteString("# What the tests hold us to\n\n" +
		"Every section of an RFC that a test cites, generated from the tests by\n" +
		"`go test ./internal/archtest -run Matrix -update`.\n\n| RFC | section | tests |\n| --- | --- | --- |\n")
	for i := 0; i < len(rows); {
		j := i
		var tests []string
		for ; j < len(rows) && rows[j].rfc == rows[i].rfc && rows[j].section == rows[i].section; j++ {
			tests = append(tests, rows[j].test)
		}
		fmt.Fprintf(&b, "| [%d](https://www.rfc-editor.org/rfc/rfc%d) | %s | %s |\n",
			rows[i].rfc, rows[i].rfc, rows[i].section, strings.Join(slices.Compact(tests), ", "))
		i = j
	}
	path := filepath.Join(top, "docs", "rfc-matrix.md")
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	have, err := os.ReadFile(path)
	if err != nil || string(have) != b.String() {
		t.Errorf("%s is not what the tests cite: go test ./internal/archtest -run Matrix -update", path)
	}
}

func citations(t *testing.T, top string) []row {
	t.Helper()
	var rows []row
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, path, src, parser.ParseComments)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(top, filepath.Dir(path))
		if err != nil {
			return err
		}
		for _, decl := range file.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok || f.Recv != nil || !strings.HasPrefix(f.Name.Name, "Test") {
				continue
			}
			from := f.Pos()
			if f.Doc != nil {
				from = f.Doc.Pos()
			}
			// A citation may be broken over two lines of a comment.
			text := string(src[fset.Position(from).Offset:fset.Position(f.End()).Offset])
			text = regexp.MustCompile(`\s*\n\s*//\s*`).ReplaceAllString(text, " ")
			for _, m := range citation.FindAllStringSubmatch(text, -1) {
				rfc, _ := strconv.Atoi(m[1])
				rows = append(rows, row{rfc, m[2], "`" + strings.TrimPrefix(dir, "internal/") + "." + f.Name.Name + "`"})
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

// compareSections orders 2.9 before 2.15.
func compareSections(a, b string) int {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	for i := range min(len(x), len(y)) {
		m, errM := strconv.Atoi(x[i])
		n, errN := strconv.Atoi(y[i])
		c := cmp.Compare(m, n)
		if errM != nil || errN != nil {
			c = cmp.Compare(x[i], y[i])
		}
		if c != 0 {
			return c
		}
	}
	return cmp.Compare(len(x), len(y))
}
