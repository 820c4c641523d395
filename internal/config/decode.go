package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"caponier/internal/config/identity"
	"caponier/internal/config/problem"
	"caponier/internal/config/syntax"
	"caponier/internal/ipsec"
	"caponier/internal/nearest"
	"caponier/internal/suite"
)

// A decoder turns the nodes of one or several files into a Config, and notes
// every problem on the way.
type decoder struct {
	cfg      Config
	errs     []*problem.Problem
	warnings []*problem.Problem
	nodes    map[string]*node // values by path, as written in the files
	keys     map[string]*node // keys by path
	policies int
}

// The pieces of a file.
type (
	node  = syntax.Node
	field = syntax.Field
)

func newDecoder() *decoder {
	return &decoder{nodes: map[string]*node{}, keys: map[string]*node{}}
}

func (d *decoder) errorf(n *node, format string, args ...any) *problem.Problem {
	p := n.Problem(format, args...)
	d.errs = append(d.errs, p)
	return p
}

func (d *decoder) warnf(n *node, format string, args ...any) {
	d.warnings = append(d.warnings, n.Problem(format, args...))
}

// at returns the node at path, or what is nearest to it on the way up: the key
// of the section that lacks it.
func (d *decoder) at(path string) *node {
	if n := d.nodes[path]; n != nil {
		return n
	}
	for {
		if n := d.keys[path]; n != nil {
			return n
		}
		i := strings.LastIndexAny(path, ".[")
		if i < 0 {
			return d.nodes[""]
		}
		path = path[:i]
	}
}

// set reports whether a file has the key.
func (d *decoder) set(path string) bool { return d.nodes[path] != nil }

// file decodes one file into the configuration.
func (d *decoder) file(root *node) {
	d.cfg.Files = append(d.cfg.Files, root.Pos.File)
	if d.nodes[""] == nil {
		d.nodes[""] = root
	}
	decodeSection(d, root, "", rootKeys, &d.cfg, false)
}

// decodeSection reads the keys of one section into v. With defaults, keys that
// are missing are filled in, or reported where they are required.
func decodeSection[T any](d *decoder, n *node, path string, keys []key[T], v *T, defaults bool) {
	if n.Kind != syntax.Mapping {
		d.errorf(n, "%s is expected here, not %s", syntax.Mapping, n.Kind)
		return
	}
	here := map[string]*node{} // the keys of this one mapping
	for _, f := range n.Fields {
		if f.Key.Kind != syntax.Scalar {
			d.errorf(f.Key, "a key is expected here, not %s", f.Key.Kind)
			continue
		}
		if first := here[f.Key.Text]; first != nil {
			d.duplicate(f.Key, first, f.Key.Text+" is set twice")
			continue
		}
		here[f.Key.Text] = f.Key
		k := find(keys, f.Key.Text)
		switch {
		case k == nil:
			d.unknownKey(f.Key, names(keys))
		case k.later:
			d.errorf(f.Key, "%s is not supported by this version; valid: %s", k.name, strings.Join(names(keys), ", "))
		case k.never != "":
			d.conceal(f)
			d.errorf(f.Key, "%s", k.never)
		case k.section && (path == "" || path == "manual"):
			// The top sections may be spread over files.
			sub := join(path, k.name)
			d.keys[sub] = f.Key
			if d.present(f) {
				k.set(d, v, f.Value, sub)
			}
		default:
			sub := join(path, k.name)
			if first := d.keys[sub]; first != nil {
				d.duplicate(f.Key, first, k.name+" is set twice")
				continue
			}
			d.keys[sub] = f.Key
			if d.present(f) {
				d.nodes[sub] = f.Value
				k.set(d, v, f.Value, sub)
			}
		}
	}
	if defaults {
		fill(d, n, path, keys, v)
	}
}

// fill sets what no file set.
func fill[T any](d *decoder, n *node, path string, keys []key[T], v *T) {
	for _, k := range keys {
		sub := join(path, k.name)
		switch {
		case k.later || k.never != "" || d.keys[sub] != nil:
		case k.required:
			d.errorf(d.section(path), "%s is missing", k.name)
		case k.def != "":
			k.set(d, v, &node{Text: k.def, Pos: n.Pos, Source: n.Source}, sub)
			d.cfg.Defaults = append(d.cfg.Defaults, Default{Key: sub, Value: k.def})
		}
	}
}

// section returns the key under which a section stands, or what is nearest to
// it on the way up: the spot for what the section lacks.
func (d *decoder) section(path string) *node {
	if n := d.keys[path]; n != nil {
		return n
	}
	return d.at(path)
}

// failed reports whether the value at path has a problem already, so that what
// follows from it is not reported too.
func (d *decoder) failed(path string) bool {
	n := d.nodes[path]
	return n != nil && slices.ContainsFunc(d.errs, func(p *problem.Problem) bool { return p.Position == n.Pos })
}

// conceal keeps the lines of a key and its value out of every problem: they hold
// what nobody is to see.
func (d *decoder) conceal(f field) {
	first, last := f.Key.Pos.Line, max(f.Key.Pos.Line, f.Value.Pos.Line)+strings.Count(f.Value.Text, "\n")
	f.Key.Source.Conceal(first, last)
	for _, p := range slices.Concat(d.errs, d.warnings) {
		if p.File == f.Key.Pos.File && first <= p.Line && p.Line <= last {
			p.Text = ""
		}
	}
}

func (d *decoder) present(f field) bool {
	if f.Value.Kind == syntax.Null && f.Value.Text == "" {
		d.errorf(f.Key, "%s has no value", f.Key.Text)
		return false
	}
	return true
}

func (d *decoder) duplicate(n, first *node, message string) {
	p := d.errorf(n, "%s", message)
	e := first.Source.Excerpt(first.Pos)
	p.Earlier = &e
}

func (d *decoder) unknownKey(n *node, valid []string) {
	p := d.errorf(n, "%q is not a key of this section", n.Text)
	if p.Suggestion = nearest.Word(n.Text, valid); p.Suggestion == "" {
		p.Message += "; valid: " + strings.Join(valid, ", ")
	}
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// named walks a mapping whose keys the operator chooses, and calls each for
// every name that is valid and new.
func (d *decoder) named(n *node, path, what string, each func(name string, f field, path string)) {
	if n.Kind != syntax.Mapping {
		d.errorf(n, "%ss by name are expected here, not %s", what, n.Kind)
		return
	}
	for _, f := range n.Fields {
		if !d.name(f.Key) {
			continue
		}
		sub := join(path, f.Key.Text)
		if first := d.keys[sub]; first != nil {
			d.duplicate(f.Key, first, fmt.Sprintf("%s %q is defined twice", what, f.Key.Text))
			continue
		}
		d.keys[sub] = f.Key
		if d.present(f) {
			d.nodes[sub] = f.Value
			each(f.Key.Text, f, sub)
		}
	}
}

const maxName = 64

// name checks a name that the operator chose: it becomes a word of commands,
// paths and logs.
func (d *decoder) name(n *node) bool {
	ok := n.Kind == syntax.Scalar && n.Text != "" && len(n.Text) <= maxName && n.Text[0] != '-'
	for _, r := range n.Text {
		ok = ok && ('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_')
	}
	if !ok {
		d.errorf(n, "a name has 1 to %d letters, digits, hyphens and underscores, and does not begin with a hyphen", maxName)
	}
	return ok
}

// ---- values ----

// scalar returns the text of a single value.
func (d *decoder) scalar(n *node) (string, bool) {
	if n.Kind != syntax.Scalar {
		d.errorf(n, "one value is expected here, not %s", n.Kind)
		return "", false
	}
	if n.Text == "" {
		d.errorf(n, "the value is empty")
		return "", false
	}
	return n.Text, true
}

// each calls f for every item of a list, and for a single value that stands in
// place of a list.
func (d *decoder) each(n *node, path string, f func(item *node, text string)) {
	items := []*node{n}
	if n.Kind == syntax.Sequence {
		items = n.Items
	}
	if len(items) == 0 {
		d.errorf(n, "the list is empty")
	}
	for i, item := range items {
		if text, ok := d.scalar(item); ok {
			d.nodes[fmt.Sprintf("%s[%d]", path, i)] = item
			f(item, text)
		}
	}
}

// word sets *v to the number of a word in the list.
func word[T ~uint8](d *decoder, v *T, n *node, list wordList) {
	text, ok := d.scalar(n)
	if !ok {
		return
	}
	for i, w := range list.words {
		if w == text {
			*v = T(i)
			return
		}
	}
	valid := strings.Join(list.words, ", ")
	for _, w := range list.later {
		if w == text {
			d.errorf(n, "%q is not supported by this version; valid: %s", text, valid)
			return
		}
	}
	p := d.errorf(n, "%q is not valid here; valid: %s", text, valid)
	p.Suggestion = nearest.Word(text, list.words)
}

// number sets *v to a decimal number from low to high.
func number[T ~int | ~uint8 | ~uint16 | ~uint32 | ~uint64](d *decoder, v *T, n *node, low, high uint64) {
	text, ok := d.scalar(n)
	if !ok {
		return
	}
	x, err := strconv.ParseUint(text, 10, 64)
	if err != nil || x < low || x > high {
		d.errorf(n, "%q is not a number from %d to %d", text, low, high)
		return
	}
	*v = T(x)
}

// mss sets *v to what "auto", "off" or a number says.
func (d *decoder) mss(v *ipsec.MSS, n *node) {
	if text, ok := d.scalar(n); ok && v.UnmarshalText([]byte(text)) != nil {
		d.errorf(n, "%q is neither auto, off nor a number of octets from %d to %d", text, ipsec.MinMSS, ipsec.MaxMSS)
	}
}

// size sets *v to a number of octets; k, M, G and T are powers of 1024.
func (d *decoder) size(v *uint64, n *node) {
	text, ok := d.scalar(n)
	if !ok {
		return
	}
	digits, shift := text, 0
	if i := strings.IndexByte("kMGT", text[len(text)-1]); i >= 0 {
		digits, shift = text[:len(text)-1], 10*(i+1)
	}
	x, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || x == 0 || x > (1<<63)>>shift {
		d.errorf(n, "%q is not a number of octets, such as 4096 or 500G", text)
		return
	}
	*v = x << shift
}

// maxDuration bounds every duration: no SA should live for longer.
const maxDuration = 365 * 24 * time.Hour

// duration sets *v to a time from low on; zero is valid where low is zero.
func (d *decoder) duration(v *time.Duration, n *node, low time.Duration) {
	text, ok := d.scalar(n)
	if !ok {
		return
	}
	x, err := parseDuration(text)
	switch {
	case err != nil:
		d.errorf(n, "%q is not a duration, such as 30s, 4h or 1d", text)
	case x < low && (x != 0 || low != 0), x < 0, x > maxDuration:
		d.errorf(n, "%s is not between %s and %s", text, FormatDuration(low), FormatDuration(maxDuration))
	case x != 0 && x < time.Second:
		d.errorf(n, "%s is shorter than a second", text)
	default:
		*v = x
	}
}

// parseDuration reads a duration of package time, with days in front.
func parseDuration(text string) (time.Duration, error) {
	if text == "0" {
		return 0, nil
	}
	days, rest, ok := strings.Cut(text, "d")
	if !ok {
		return time.ParseDuration(text)
	}
	n, err := strconv.ParseUint(days, 10, 16)
	if err != nil {
		return 0, errors.New("not a number of days")
	}
	out := time.Duration(n) * 24 * time.Hour
	if rest == "" {
		return out, nil
	}
	more, err := time.ParseDuration(rest)
	return out + more, err
}

// FormatDuration prints a duration as an operator writes it: 4h, not 4h0m0s.
func FormatDuration(v time.Duration) string {
	switch {
	case v == 0:
		return "0s"
	case v%(24*time.Hour) == 0:
		return fmt.Sprintf("%dd", v/(24*time.Hour))
	}
	s := v.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// fileAt returns the file that n names, or nil.
func (d *decoder) fileAt(n *node) *File {
	f := new(File)
	if d.path(&f.Path, n); f.Path == "" {
		return nil
	}
	return f
}

// path sets *v to an absolute path; a relative one starts at the file.
func (d *decoder) path(v *string, n *node) {
	text, ok := d.scalar(n)
	if !ok {
		return
	}
	if scheme, _, ok := strings.Cut(text, ":"); ok && (scheme == "pkcs11" || scheme == "sdf") {
		d.errorf(n, "a key in %s is not supported by this version; valid: the path of a file", scheme)
		return
	}
	if strings.ContainsRune(text, 0) {
		d.errorf(n, "a path cannot hold a zero octet")
		return
	}
	if !filepath.IsAbs(text) {
		text = filepath.Join(filepath.Dir(n.Pos.File), text)
	}
	abs, err := filepath.Abs(text)
	if err != nil {
		d.errorf(n, "%v", err)
		return
	}
	*v = abs
}

func (d *decoder) addresses(v *[]netip.Prefix, n *node, path string) {
	any := false
	d.each(n, path, func(item *node, text string) {
		if text == "%any" {
			any = true
			return
		}
		p, err := netip.ParsePrefix(text)
		if err != nil {
			a, err := netip.ParseAddr(text)
			if err != nil {
				d.errorf(item, "%q is neither an address, a prefix nor %%any", text)
				return
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		switch {
		case p.Addr().Zone() != "" || p.Addr().Is4In6():
			d.errorf(item, "%s has a zone or is IPv4-mapped", text)
		case p != p.Masked():
			d.errorf(item, "%s has bits set after its prefix", text).Suggestion = p.Masked().String()
		default:
			*v = append(*v, p)
		}
	})
	if any && len(*v) > 0 {
		d.errorf(n, "%%any stands alone: it includes every other address")
		*v = nil
	}
}

func (d *decoder) selectors(v *[]ipsec.Selector, n *node, path string) {
	d.each(n, path, func(item *node, text string) {
		s, err := ipsec.ParseSelector(text)
		if err != nil {
			d.errorf(item, "%v", err)
			return
		}
		*v = append(*v, s)
	})
}

func (d *decoder) proposals(v *[]ipsec.Proposal, words *[]string, n *node, path string, parse func(string) (ipsec.Proposal, error)) {
	d.each(n, path, func(item *node, text string) {
		p, err := parse(text)
		if err == nil {
			*v, *words = append(*v, p), append(*words, text)
			for _, t := range p {
				if why, weak := suite.Weak(t); weak {
					d.warnf(item, "%s is weak: %s", suite.Name(t), why)
				}
			}
			return
		}
		d.wrongWord(item, text, err)
	})
}

// wordIndex returns where word stands in a proposal, in octets.
func wordIndex(proposal, word string) int {
	at := 0
	for w := range strings.SplitSeq(proposal, "-") {
		if w == word {
			return at
		}
		at += len(w) + 1
	}
	return -1
}

func (d *decoder) level(v *slog.Level, n *node) {
	var i uint8
	word(d, &i, n, logLevelWords)
	*v = []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError}[i]
}

func (d *decoder) priority(v *int32, n *node) {
	text, ok := d.scalar(n)
	if !ok {
		return
	}
	if x, err := strconv.ParseInt(text, 10, 32); err == nil {
		*v = int32(x)
		return
	}
	var i uint8
	word(d, &i, n, priorityWords)
	*v = []int32{PriorityLow, PriorityNormal, PriorityHigh}[i]
}

func (d *decoder) identity(v *identity.Identity, n *node) {
	text, ok := d.scalar(n)
	if !ok {
		return
	}
	id, err := identity.Parse(text)
	if err != nil {
		d.errorf(n, "%v", err)
		return
	}
	*v = id
}
