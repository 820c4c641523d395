package config

import (
	"errors"
	"fmt"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"caponier/internal/config/problem"
)

// Limits on what one file may hold. Whoever writes the file is trusted, yet a
// file in the wrong place must not stop a gateway that is running.
const (
	maxFileSize = 4 << 20
	maxDepth    = 16 // the schema has 5 levels
)

type nodeKind uint8

const (
	scalarNode nodeKind = iota
	mappingNode
	sequenceNode
	nullNode
)

func (k nodeKind) String() string {
	return [...]string{"a value", "a section", "a list", "nothing"}[k]
}

// A node is a piece of a file: the YAML that the configuration uses. Scalars
// are text as written, whatever they look like.
type node struct {
	kind   nodeKind
	pos    problem.Position
	src    *source
	text   string
	fields []field // of a mapping
	items  []*node // of a sequence
}

type field struct {
	key   *node
	value *node
}

// A source is a file with its lines, for excerpts.
type source struct {
	name  string
	lines []string
}

func newSource(name string, data []byte) *source {
	return &source{name: name, lines: strings.Split(string(data), "\n")}
}

func (s *source) excerpt(p problem.Position) problem.Excerpt {
	e := problem.Excerpt{Position: p}
	if p.Line >= 1 && p.Line <= len(s.lines) {
		e.Text = strings.TrimSuffix(s.lines[p.Line-1], "\r")
	}
	return e
}

func (s *source) problem(tk *token.Token, format string, args ...any) *problem.Problem {
	return &problem.Problem{Excerpt: s.excerpt(s.position(tk)), Message: fmt.Sprintf(format, args...)}
}

func (s *source) position(tk *token.Token) problem.Position {
	p := problem.Position{File: s.name, Line: 1, Column: 1}
	if tk != nil && tk.Position != nil {
		p.Line, p.Column = max(tk.Position.Line, 1), max(tk.Position.Column, 1)
	}
	// The library counts a tab in front of a value as part of it.
	line := []rune(s.excerpt(p).Text)
	for p.Column < len(line) && (line[p.Column-1] == ' ' || line[p.Column-1] == '\t') {
		p.Column++
	}
	return p
}

// parseYAML reads a file into nodes. Anchors, aliases, merge keys, tags and
// directives are not part of the configuration's language: what a key means
// stands where the key stands, and nothing expands.
func parseYAML(name string, data []byte) (root *node, wrong *problem.Problem) {
	src := newSource(name, data)
	if len(data) > maxFileSize {
		return nil, &problem.Problem{Excerpt: problem.Excerpt{Position: problem.Position{File: name}}, Message: fmt.Sprintf("the file is larger than %d octets", maxFileSize)}
	}
	defer func() {
		// The library has had faults on malformed input before; a reload must not
		// end the gateway.
		if r := recover(); r != nil {
			root, wrong = nil, src.problem(nil, "the file is not YAML that can be read: %v", r)
		}
	}()
	tokens := lexer.Tokenize(string(data))
	if p := checkTokens(src, tokens); p != nil {
		return nil, p
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		var syntax interface {
			GetMessage() string
			GetToken() *token.Token
		}
		if errors.As(err, &syntax) {
			return nil, src.problem(syntax.GetToken(), "%s", syntax.GetMessage())
		}
		return nil, src.problem(nil, "%v", err)
	}
	root = &node{kind: mappingNode, pos: problem.Position{File: name, Line: 1, Column: 1}, src: src}
	for i, doc := range file.Docs {
		if i > 0 {
			return nil, src.problem(doc.Start, "a file holds one YAML document")
		}
		if doc.Body == nil || doc.Body.Type() == ast.NullType {
			continue
		}
		if root, wrong = src.convert(doc.Body); wrong != nil {
			return nil, wrong
		}
	}
	return root, nil
}

// checkTokens refuses what would cost the parser much, or what the language
// does not have, before anything is built from it.
func checkTokens(src *source, tokens token.Tokens) *problem.Problem {
	depth := 0
	for _, tk := range tokens {
		switch tk.Type {
		case token.InvalidType:
			return src.problem(tk, "%s", tk.Error)
		case token.AnchorType, token.AliasType, token.MergeKeyType, token.TagType, token.DirectiveType:
			return src.problem(tk, "anchors, aliases, merge keys, tags and directives are not used here: write the value out")
		case token.MappingKeyType:
			return src.problem(tk, "a key is written without a question mark")
		case token.SequenceStartType, token.MappingStartType:
			depth++
		case token.SequenceEndType, token.MappingEndType:
			depth--
		case token.SequenceEntryType:
			if tk.Position != nil && tk.Position.Column > 8*maxDepth {
				return src.problem(tk, "the file is nested too deeply")
			}
		default:
		}
		if depth > maxDepth {
			return src.problem(tk, "the file is nested too deeply")
		}
	}
	return nil
}

func (s *source) convert(n ast.Node) (*node, *problem.Problem) { return s.convertAt(n, 0) }

func (s *source) convertAt(n ast.Node, depth int) (*node, *problem.Problem) {
	out := &node{pos: s.position(n.GetToken()), src: s}
	if depth > maxDepth {
		return nil, s.problem(n.GetToken(), "the file is nested too deeply")
	}
	switch n := n.(type) {
	case *ast.MappingNode:
		out.kind = mappingNode
		for _, v := range n.Values {
			if p := s.addField(out, v, depth); p != nil {
				return nil, p
			}
		}
	case *ast.MappingValueNode:
		out.kind = mappingNode
		if p := s.addField(out, n, depth); p != nil {
			return nil, p
		}
	case *ast.SequenceNode:
		out.kind = sequenceNode
		for _, v := range n.Values {
			item, p := s.convertAt(v, depth+1)
			if p != nil {
				return nil, p
			}
			out.items = append(out.items, item)
		}
	case *ast.NullNode:
		out.kind = nullNode
		if n.Token.Type == token.NullType {
			out.text = n.Token.Value
		}
	case *ast.StringNode:
		out.text = n.Value
	case *ast.LiteralNode:
		out.text = n.Value.Value
	default:
		scalar, ok := n.(ast.ScalarNode)
		if !ok {
			return nil, s.problem(n.GetToken(), "a %s is not used here", n.Type())
		}
		out.text = scalar.GetToken().Value
	}
	return out, nil
}

func (s *source) addField(out *node, v *ast.MappingValueNode, depth int) *problem.Problem {
	key, p := s.convertAt(v.Key, depth+1)
	if p != nil {
		return p
	}
	value, p := s.convertAt(v.Value, depth+1)
	if p != nil {
		return p
	}
	if key.kind == nullNode {
		key.kind = scalarNode
	}
	if len(out.fields) == 0 {
		out.pos = key.pos
	}
	out.fields = append(out.fields, field{key, value})
	return nil
}
