package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"caponier/internal/keystore"
	"caponier/internal/secret"
)

// Result is what a command answers: a value with a JSON form, which prints
// itself for people. Its text is made from the fields that JSON shows.
type Result interface {
	Text(w io.Writer, s Style) error
}

// Command is one operator command. Everything that is known of it, by the CLI
// and by every transport, stands here.
type Command struct {
	Name   string // words, as typed: "status", "sa list"
	Short  string // one line, without a dot
	Long   string
	Params []Param
	// Reads says that the command changes nothing: GET instead of POST.
	Reads bool
	// Streams says that there are any number of results, over time.
	Streams bool

	run    func(ctx context.Context, g Gateway, r Request, emit func(Result) error) error
	decode func([]byte) (Result, error)
	// check refuses what the types of the parameters allow; needs says which
	// secrets the other parameters call for. Both may be nil.
	check func(Request) error
	needs func(Request) ([]Need, error)
}

// Need is a parameter of type Secret that a call cannot do without.
type Need struct {
	Param  string
	Prompt string // what to ask a person for
}

// ParamType is the type of a parameter's value.
type ParamType uint8

// The types of parameters.
const (
	String ParamType = iota
	Bool
	Duration
	Number // not negative
	// Secret is a key. It is never an argument: a flag names the file that holds
	// it. JSON has it in hexadecimal digits.
	Secret
)

// Completion says which names complete a parameter.
type Completion uint8

// The kinds of completion.
const (
	CompleteNothing    Completion = iota
	CompleteConnection            // CONN
	CompleteTarget                // CONN or CONN/TUNNEL
	CompleteWord                  // one of Words
)

// Param is a parameter: an argument by its place, or a flag.
type Param struct {
	Name     string // of the flag and in JSON: "dry-run"
	Type     ParamType
	Help     string
	Complete Completion
	Words    []string // the values that are allowed; empty: any

	// Arg is the placeholder of an argument: "CONN/TUNNEL". A parameter without
	// one is a flag.
	Arg      string
	Required bool

	Letter  string // short form of the flag
	Default string
}

// Request is the parameters of one call, checked against the command.
type Request struct{ values map[string]any }

// String returns a parameter of type String, or "".
func (r Request) String(name string) string { v, _ := r.values[name].(string); return v }

// Bool returns a parameter of type Bool, or false.
func (r Request) Bool(name string) bool { v, _ := r.values[name].(bool); return v }

// Duration returns a parameter of type Duration, or 0.
func (r Request) Duration(name string) time.Duration {
	v, _ := r.values[name].(time.Duration)
	return v
}

// subject is what an order is about, for the log.
func (r Request) subject() string {
	for _, name := range []string{"target", "name", "spi"} {
		if v := r.String(name); v != "" {
			return v
		}
	}
	return ""
}

// Secret returns a parameter of type Secret, or an empty key.
func (r Request) Secret(name string) secret.Key { v, _ := r.values[name].(secret.Key); return v }

// Needs returns the secrets that a call with these values needs. The values are
// checked as far as that takes.
func (c *Command) Needs(values map[string]any) ([]Need, error) {
	if c.needs == nil {
		return nil, nil
	}
	r, err := c.typed(values)
	if err != nil {
		return nil, err
	}
	return c.needs(r)
}

// Number returns a parameter of type Number, or 0.
func (r Request) Number(name string) uint64 { v, _ := r.values[name].(uint64); return v }

// Request checks values, as JSON or a query has them, and fills in defaults. The
// error has CodeUsage.
func (c *Command) Request(values map[string]any) (Request, error) {
	r, err := c.typed(values)
	if err != nil || c.check == nil {
		return r, err
	}
	if err := c.check(r); err != nil {
		e := AsError(err)
		return Request{}, &Error{Code: CodeUsage, Message: e.Message, Cure: e.Cure}
	}
	return r, nil
}

// typed gives the values their types.
func (c *Command) typed(values map[string]any) (Request, error) {
	out := make(map[string]any, len(c.Params))
	for name := range values {
		if !slices.ContainsFunc(c.Params, func(p Param) bool { return p.Name == name }) {
			return Request{}, Errorf(CodeUsage, "%s has no parameter %q", c.Name, name)
		}
	}
	for _, p := range c.Params {
		v, given := values[p.Name]
		if !given {
			if p.Required {
				return Request{}, Errorf(CodeUsage, "%s needs %s", c.Name, p.Arg)
			}
			if p.Default == "" {
				continue
			}
			v = p.Default
		}
		got, err := p.parse(v)
		if err != nil {
			return Request{}, Errorf(CodeUsage, "parameter %q: %v", p.Name, err)
		}
		out[p.Name] = got
	}
	return Request{out}, nil
}

func (p *Param) parse(v any) (any, error) {
	text, isText := v.(string)
	switch p.Type {
	case Bool:
		switch {
		case v == true || isText && text == "true":
			return true, nil
		case v == false || isText && text == "false":
			return false, nil
		}
		return nil, fmt.Errorf("%v is neither true nor false", v)
	case Duration:
		d, err := time.ParseDuration(text)
		if err != nil || d <= 0 {
			return nil, fmt.Errorf("%v is not a duration like 30s", v)
		}
		return d, nil
	case Secret:
		if key, ok := v.(secret.Key); ok {
			return key, nil
		}
		key, err := keystore.ParseSAKey([]byte(text))
		if err != nil || !isText {
			return nil, errors.New("not a key in hexadecimal digits") // without the key
		}
		return key, nil
	case Number:
		if n, ok := v.(float64); ok { // as JSON has it
			text = strconv.FormatFloat(n, 'f', -1, 64)
		}
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%v is not a number of 0 or more", v)
		}
		return n, nil
	default:
		if !isText {
			return nil, fmt.Errorf("%v is not a string", v)
		}
		if len(p.Words) > 0 && !slices.Contains(p.Words, text) {
			return nil, fmt.Errorf("%q is none of %s", text, strings.Join(p.Words, ", "))
		}
		if p.Complete == CompleteTarget {
			if _, err := ParseTarget(text); err != nil {
				return nil, err
			}
		}
		return text, nil
	}
}

// Run carries out the command; emit gets its result, or each of its results. It
// returns at once what emit returns.
func (c *Command) Run(ctx context.Context, g Gateway, r Request, emit func(Result) error) error {
	return c.run(ctx, g, r, emit)
}

// Decode reads the JSON form of a result.
func (c *Command) Decode(b []byte) (Result, error) { return c.decode(b) }

// Find returns the command of this name.
func Find(name string) (Command, bool) {
	for _, c := range Commands() {
		if c.Name == name {
			return c, true
		}
	}
	return Command{}, false
}

// one completes a command that has one result.
func one[T Result](c Command, run func(context.Context, Gateway, Request) (T, error)) Command {
	return many(c, func(ctx context.Context, g Gateway, r Request, emit func(T) error) error {
		got, err := run(ctx, g, r)
		if err != nil {
			return err
		}
		return emit(got)
	})
}

// many completes a command that has any number of results.
func many[T Result](c Command, run func(context.Context, Gateway, Request, func(T) error) error) Command {
	c.run = func(ctx context.Context, g Gateway, r Request, emit func(Result) error) error {
		return run(ctx, g, r, func(v T) error { return emit(v) })
	}
	c.decode = func(b []byte) (Result, error) {
		var v T
		if err := json.Unmarshal(b, &v); err != nil {
			return nil, err
		}
		return v, nil
	}
	return c
}
