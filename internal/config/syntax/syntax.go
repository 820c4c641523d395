// Package syntax reads the YAML that the configuration is written in, with the
// place of every value, so that a problem can show the line it is on.
package syntax

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
	MaxFileSize = 4 << 20 // octets
	maxDepth    = 16      // the schema has 5 levels
)

// Kind is what a Node is.
type Kind uint8

// The kinds.
const (
	Scalar Kind = iota
	Mapping
	Sequence
	Null
)

// String names the kind in an error.
func (k Kind) String() string {
	return [...]string{"a value", "a section", "a list", "nothing"}[k]
}

// Node is a piece of a file: the YAML that the configuration uses. Scalars
// are text as written, whatever they look like.
type Node struct {
	Kind   Kind
	Pos    problem.Position
	Source *Source
	Text   string
	Fields []Field // of a mapping
	Items  []*Node // of a sequence
}

// Problem says what is wrong with the node.
func (n *Node) Problem(format string, args ...any) *problem.Problem {
	return &problem.Problem{Excerpt: n.Source.Excerpt(n.Pos), Message: fmt.Sprintf(format, args...)}
}

// Field is one key of a mapping with its value.
type Field struct {
	Key   *Node
	Value *Node
}

// Source is a file with its lines, for excerpts.
type Source struct {
	name  string
	lines []string
}

// NewSource makes a source of what a file holds.
func NewSource(name string, data []byte) *Source {
	return &Source{name: name, lines: strings.Split(string(data), "\n")}
}

// Excerpt is the line at p.
func (s *Source) Excerpt(p problem.Position) problem.Excerpt {
	e := problem.Excerpt{Position: p}
	if p.Line >= 1 && p.Line <= len(s.lines) {
		e.Text = strings.TrimSuffix(s.lines[p.Line-1], "\r")
	}
	return e
}

// Find returns the position of text[i] for a value that starts at p, quoted or
// not; p itself where the file does not spell text out.
func (s *Source) Find(p problem.Position, text string, i int) problem.Position {
	line := []rune(s.Excerpt(p).Text)
	if p.Column < 1 || p.Column > len(line) {
		return p
	}
	rest := strings.TrimLeft(string(line[p.Column-1:]), `"'`)
	if strings.HasPrefix(rest, text) {
		quote := len(line) - (p.Column - 1) - len([]rune(rest))
		p.Column += quote + len([]rune(text[:i]))
	}
	return p
}

// Conceal empties the lines from first to last, counted from 1, in every excerpt
// that is made from now on.
func (s *Source) Conceal(first, last int) {
	for i := max(first, 1); i <= min(last, len(s.lines)); i++ {
		s.lines[i-1] = ""
	}
}

func (s *Source) problem(tk *token.Token, format string, args ...any) *problem.Problem {
	return &problem.Problem{Excerpt: s.Excerpt(s.position(tk)), Message: fmt.Sprintf(format, args...)}
}

func (s *Source) position(tk *token.Token) problem.Position {
	p := problem.Position{File: s.name, Line: 1, Column: 1}
	if tk != nil && tk.Position != nil {
		p.Line, p.Column = max(tk.Position.Line, 1), max(tk.Position.Column, 1)
	}
	// The library counts a tab in front of a value as part of it.
	line := []rune(s.Excerpt(p).Text)
	for p.Column < len(line) && (line[p.Column-1] == ' ' || line[p.Column-1] == '\t') {
		p.Column++
	}
	return p
}

// Parse reads a file into nodes. Anchors, aliases, merge keys, tags and
// directives are not part of the configuration's language: what a key means
// stands where the key stands, and nothing expands.
func Parse(name string, data []byte) (root *Node, wrong *problem.Problem) {
	src := NewSource(name, data)
	if len(data) > MaxFileSize {
		return nil, &problem.Problem{Excerpt: problem.Excerpt{Position: problem.Position{File: name}}, Message: fmt.Sprintf("the file is larger than %d octets", MaxFileSize)}
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
	root = &Node{Kind: Mapping, Pos: problem.Position{File: name, Line: 1, Column: 1}, Source: src}
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
func checkTokens(src *Source, tokens token.Tokens) *problem.Problem {
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

func (s *Source) convert(n ast.Node) (*Node, *problem.Problem) { return s.convertAt(n, 0) }

func (s *Source) convertAt(n ast.Node, depth int) (*Node, *problem.Problem) {
	out := &Node{Pos: s.position(n.GetToken()), Source: s}
	if depth > maxDepth {
		return nil, s.problem(n.GetToken(), "the file is nested too deeply")
	}
	switch n := n.(type) {
	case *ast.MappingNode:
		out.Kind = Mapping
		for _, v := range n.Values {
			if p := s.addField(out, v, depth); p != nil {
				return nil, p
			}
		}
	case *ast.MappingValueNode:
		out.Kind = Mapping
		if p := s.addField(out, n, depth); p != nil {
			return nil, p
		}
	case *ast.SequenceNode:
		out.Kind = Sequence
		for _, v := range n.Values {
			item, p := s.convertAt(v, depth+1)
			if p != nil {
				return nil, p
			}
			out.Items = append(out.Items, item)
		}
	case *ast.NullNode:
		out.Kind = Null
		if n.Token.Type == token.NullType {
			out.Text = n.Token.Value
		}
	case *ast.StringNode:
		out.Text = n.Value
	case *ast.LiteralNode:
		out.Text = n.Value.Value
	default:
		scalar, ok := n.(ast.ScalarNode)
		if !ok {
			return nil, s.problem(n.GetToken(), "a %s is not used here", n.Type())
		}
		out.Text = scalar.GetToken().Value
	}
	return out, nil
}

func (s *Source) addField(out *Node, v *ast.MappingValueNode, depth int) *problem.Problem {
	key, p := s.convertAt(v.Key, depth+1)
	if p != nil {
		return p
	}
	value, p := s.convertAt(v.Value, depth+1)
	if p != nil {
		return p
	}
	if key.Kind == Null {
		key.Kind = Scalar
	}
	if len(out.Fields) == 0 {
		out.Pos = key.Pos
	}
	out.Fields = append(out.Fields, Field{key, value})
	return nil
}
