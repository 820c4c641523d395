package config

import (
	"slices"
	"strings"

	"caponier/internal/config/problem"
	"caponier/internal/config/syntax"
	"caponier/internal/secret"
)

// ParseAssociation reads an association from the values of its keys, as an
// operator gives them to a running gateway: by the names, in the words and with
// the checks of the file, a list with commas. The keys are given apart; no path
// is taken. It returns warnings beside the association, or Errors in its place.
func ParseAssociation(name string, values map[string]string, encrKey, integKey secret.Key, plane DataPlane) (*Association, []*problem.Problem, error) {
	d := newDecoder()
	a := &Association{Name: name, EncrKey: encrKey, IntegKey: integKey}
	d.values(name, values, func(n *node, path string) {
		decodeSection(d, n, path, parameters(associationKeys), a, true)
		d.checkAssociation(a, path, plane)
	})
	if len(d.errs) == 0 {
		for _, k := range a.keyNeeds() {
			d.givenKey(k, map[string]secret.Key{"encryption": encrKey, "integrity": integKey}[k.Use])
		}
	}
	if len(d.errs) > 0 {
		return nil, d.warnings, problem.Errors(d.errs)
	}
	return a, d.warnings, nil
}

// A KeyNeed is a key that an association takes.
type KeyNeed struct {
	Use       string // "encryption" or "integrity"
	Algorithm string // "aes256"
	Octets    int    // with the salt, where the algorithm has one; 0: it takes none
}

func (a *Association) keyNeeds() []KeyNeed {
	encr, integ := a.KeyLengths()
	return []KeyNeed{
		{Use: "encryption", Algorithm: algorithmName(a.Encr), Octets: encr},
		{Use: "integrity", Algorithm: algorithmName(a.Integ), Octets: integ},
	}
}

// AssociationKeys reads an association as ParseAssociation does, without its
// keys, and returns those that it takes.
func AssociationKeys(name string, values map[string]string) ([]KeyNeed, error) {
	d := newDecoder()
	a := &Association{Name: name}
	d.values(name, values, func(n *node, path string) {
		decodeSection(d, n, path, parameters(associationKeys), a, true)
		d.checkAssociation(a, path, AnyDataPlane)
	})
	if len(d.errs) > 0 {
		return nil, problem.Errors(d.errs)
	}
	return slices.DeleteFunc(a.keyNeeds(), func(k KeyNeed) bool { return k.Octets == 0 }), nil
}

// AnyDataPlane stands for a plane that is not known: nothing is refused for its
// sake.
const AnyDataPlane DataPlane = 255

// ParsePolicy reads a manual policy in the same way.
func ParsePolicy(name string, values map[string]string, plane DataPlane) (*ManualPolicy, []*problem.Problem, error) {
	d := newDecoder()
	p := &ManualPolicy{Name: name}
	d.values(name, values, func(n *node, path string) {
		decodeSection(d, n, path, manualPolicyKeys, p, true)
		d.checkPolicy(p, path, plane)
	})
	if len(d.errs) > 0 {
		return nil, d.warnings, problem.Errors(d.errs)
	}
	return p, d.warnings, nil
}

// A Parameter is a value that ParseAssociation or ParsePolicy reads.
type Parameter struct {
	Name     string
	Kind     string // what it holds: "in | out", "number"
	Default  string // filled in where it is absent, or what its absence means
	Required bool
}

// AssociationParameters lists the values of an association, without its name and
// keys, in the order of the reference document.
func AssociationParameters() []Parameter { return parametersOf(parameters(associationKeys)) }

// PolicyParameters lists the values of a manual policy, without its name.
func PolicyParameters() []Parameter { return parametersOf(manualPolicyKeys) }

func parametersOf[T any](keys []key[T]) []Parameter {
	var out []Parameter
	for _, k := range keys {
		def := k.def
		if def == "" {
			def = strings.ReplaceAll(k.implied, "`", "")
		}
		out = append(out, Parameter{Name: k.name, Kind: k.kind, Default: def, Required: k.required})
	}
	return out
}

// parameters leaves out the files of keys: what is given to a running gateway is
// the keys themselves.
func parameters(keys []key[Association]) []key[Association] {
	return slices.DeleteFunc(slices.Clone(keys), func(k key[Association]) bool {
		return k.never != "" || strings.HasSuffix(k.name, "-key-file")
	})
}

// values gives the values to read as the section that they would be in a file.
// The place of each is its flag.
func (d *decoder) values(name string, values map[string]string, read func(n *node, path string)) {
	at := func(flag, text string) *node {
		return &node{Text: text, Pos: problem.Position{File: flag}, Source: syntax.NewSource(flag, nil)}
	}
	root := at(name, "")
	root.Kind = syntax.Mapping
	d.nodes[""], d.keys[name] = root, root
	if !d.name(at(name, name)) {
		return
	}
	for _, k := range sortedKeys(values) {
		flag := "--" + k
		value := at(flag, values[k])
		if parts := strings.Split(values[k], ","); len(parts) > 1 {
			value.Kind = syntax.Sequence
			for _, p := range parts {
				value.Items = append(value.Items, at(flag, strings.TrimSpace(p)))
			}
		}
		root.Fields = append(root.Fields, field{Key: at(flag, k), Value: value})
	}
	read(root, name)
}

func sortedKeys(m map[string]string) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func (d *decoder) givenKey(k KeyNeed, key secret.Key) {
	n := &node{Pos: problem.Position{File: "--" + k.Use + "-key-file"}, Source: syntax.NewSource("", nil)}
	switch {
	case k.Octets == 0 && key.IsZero():
	case k.Octets == 0:
		d.errorf(n, "the algorithms take no %s key", k.Use)
	case key.IsZero():
		d.errorf(n, "%s takes a key of %d bits", k.Algorithm, 8*k.Octets)
	default:
		if err := checkKey(key, k); err != nil {
			d.errorf(n, "%v", err)
		} else if uniform(key) {
			d.warnf(n, "all octets of the key are the same: openssl rand -hex %d makes a better one", k.Octets)
		}
	}
}
