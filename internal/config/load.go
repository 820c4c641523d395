package config

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"caponier/internal/config/compact"
	"caponier/internal/config/problem"
	"caponier/internal/config/syntax"
)

// Limits on a directory of files.
const (
	maxFiles = 10_000
	maxTotal = 64 << 20
)

// Load reads the configuration at path: a file, or a directory whose *.yaml and
// *.yml files are merged in lexical order. It returns warnings beside the
// configuration, and Errors, with everything that is wrong, in its place.
func Load(path string, checks Checks) (*Config, []*problem.Problem, error) {
	d := newDecoder()
	if err := d.readAll(path); err != nil {
		return nil, nil, err
	}
	return d.finish(&checks)
}

// Salvage reads what can be read of the configuration at path, without looking at
// the files that it names: for who needs their names, whatever else is wrong. The
// configuration is nil only where there is none.
func Salvage(path string) (*Config, error) {
	d := newDecoder()
	if err := d.readAll(path); err != nil {
		return nil, err
	}
	_, _, err := d.finish(nil)
	return &d.cfg, err
}

// readAll decodes the file at path, or those of the directory.
func (d *decoder) readAll(path string) error {
	files, err := list(path)
	if err != nil {
		return problem.Errors{fileProblem(path, err)}
	}
	total := 0
	for _, name := range files {
		data, err := readFile(name, syntax.MaxFileSize)
		if total += len(data); err == nil && total > maxTotal {
			err = fmt.Errorf("the files together are larger than %d octets", maxTotal)
		}
		if err != nil {
			d.errs = append(d.errs, fileProblem(name, err))
			continue
		}
		d.parse(name, data)
	}
	return nil
}

// Parse reads a configuration from memory. Relative paths in it start at the
// directory of name. The files that it names are not looked at, so that digests
// and pre-shared keys stay empty.
func Parse(name string, data []byte) (*Config, []*problem.Problem, error) {
	d := newDecoder()
	d.parse(name, data)
	return d.finish(nil)
}

func (d *decoder) parse(name string, data []byte) {
	root, problem := syntax.Parse(name, data)
	if problem != nil {
		d.errs = append(d.errs, problem)
		return
	}
	d.file(root)
}

func (d *decoder) finish(checks *Checks) (*Config, []*problem.Problem, error) {
	if root := d.nodes[""]; root != nil {
		fill(d, root, "gateway", gatewayKeys, &d.cfg.Gateway)
		fill(d, root, "gateway.ike", ikeKeys, &d.cfg.Gateway.IKE)
		fill(d, root, "gateway.log", logKeys, &d.cfg.Gateway.Log)
		slices.SortFunc(d.cfg.Connections, func(a, b *Connection) int { return cmp.Compare(a.Name, b.Name) })
		for _, c := range d.cfg.Connections {
			slices.SortFunc(c.Tunnels, func(a, b *Tunnel) int { return cmp.Compare(a.Name, b.Name) })
		}
		d.validate(checks)
	}
	problem.Sort(d.errs)
	problem.Sort(d.warnings)
	if len(d.errs) > 0 {
		return nil, d.warnings, problem.Errors(d.errs)
	}
	return compact.Of(&d.cfg), d.warnings, nil
}

func fileProblem(name string, err error) *problem.Problem {
	return &problem.Problem{Excerpt: problem.Excerpt{Position: problem.Position{File: name}}, Message: reason(err)}
}

// reason leaves out the path, which stands in front of the message already.
func reason(err error) string {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err.Error()
	}
	return err.Error()
}

func list(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries { // in lexical order
		ext := filepath.Ext(e.Name())
		if e.IsDir() || strings.HasPrefix(e.Name(), ".") || ext != ".yaml" && ext != ".yml" {
			continue
		}
		out = append(out, filepath.Join(path, e.Name()))
	}
	switch {
	case len(out) == 0:
		return nil, fmt.Errorf("the directory holds no *.yaml and no *.yml file")
	case len(out) > maxFiles:
		return nil, fmt.Errorf("the directory holds more than %d files", maxFiles)
	}
	return out, nil
}

// readFile reads a regular file of at most limit octets: a device or a pipe in
// its place could be read for ever.
func readFile(name string, limit int64) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("not a regular file")
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("the file is larger than %d octets", limit)
	}
	return data, err
}
