package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"caponier/internal/control"
)

// controlCommands makes the commands of the registry, all of which the daemon
// carries out.
func (c *cli) controlCommands() []*cobra.Command {
	var out []*cobra.Command
	groups := make(map[string]*cobra.Command)
	for _, cmd := range control.Commands() {
		group, name, grouped := strings.Cut(cmd.Name, " ")
		switch {
		case cmd.Name == "version": // has an answer of its own, without a daemon
		case cmd.Name == "capture":
			out = append(out, c.capture())
		case cmd.Name == "destroy-keys":
			out = append(out, c.destroyKeys())
		case !grouped:
			out = append(out, c.controlCommand(cmd, cmd.Name))
		default:
			if groups[group] == nil {
				groups[group] = &cobra.Command{
					Use: group, Short: control.Groups()[group], Args: subcommand, RunE: noSubcommand,
				}
				out = append(out, groups[group])
			}
			groups[group].AddCommand(c.controlCommand(cmd, name))
		}
	}
	return out
}

func (c *cli) controlCommand(cmd control.Command, name string) *cobra.Command {
	var arguments []control.Param
	use, required := name, 0
	cc := &cobra.Command{Short: cmd.Short, Long: cmd.Long}
	for _, p := range cmd.Params {
		switch {
		case p.Arg == "":
			c.flag(cc, p)
		case p.Required:
			required++
			use += " " + p.Arg
			arguments = append(arguments, p)
		default:
			use += " [" + p.Arg + "]"
			arguments = append(arguments, p)
		}
	}
	cc.Use = use
	cc.Args = func(_ *cobra.Command, args []string) error {
		if len(args) < required {
			return fmt.Errorf("%s needs %s", cmd.Name, arguments[len(args)].Arg)
		}
		if len(args) > len(arguments) {
			return fmt.Errorf("%s takes no argument %q", cmd.Name, args[len(arguments)])
		}
		return nil
	}
	cc.ValidArgsFunction = func(cc *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= len(arguments) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return c.names(cc.Context(), arguments[len(args)].Complete), cobra.ShellCompDirectiveNoFileComp
	}
	cc.RunE = run(func(cc *cobra.Command, args []string) error {
		params, err := requestOf(cc, cmd, args)
		if err != nil {
			return err
		}
		return c.call(cc.Context(), cmd, params)
	})
	return cc
}

// requestOf gathers the parameters of a command from the command line. What the
// daemon would refuse as wrong usage is so without a daemon too.
func requestOf(cc *cobra.Command, cmd control.Command, args []string) (map[string]any, error) {
	params := make(map[string]any)
	for _, p := range cmd.Params {
		switch {
		case p.Type == control.Secret:
		case p.Arg == "":
			if f := cc.Flags().Lookup(p.Name); f.Changed {
				params[p.Name] = f.Value.String()
			}
		case len(args) > 0:
			params[p.Name], args = args[0], args[1:]
		}
	}
	keys := keyReader{cc: cc}
	if err := keys.gather(cmd, params); err != nil {
		return nil, err
	}
	_, err := cmd.Request(params)
	return params, err
}

// flag declares a parameter as a flag. The type only guides cobra: the registry
// parses the values.
func (c *cli) flag(cc *cobra.Command, p control.Param) {
	switch p.Type {
	case control.Bool:
		cc.Flags().BoolP(p.Name, p.Letter, p.Default == "true", p.Help)
	case control.Duration:
		d, _ := time.ParseDuration(p.Default)
		cc.Flags().DurationP(p.Name, p.Letter, d, p.Help)
	case control.Secret:
		cc.Flags().String(keyFileFlag(p), "", p.Help)
		_ = cc.MarkFlagFilename(keyFileFlag(p)) // it fails only for a flag that is not declared
	case control.Number:
		cc.Flags().Uint64P(p.Name, p.Letter, 0, p.Help)
	default:
		cc.Flags().StringP(p.Name, p.Letter, p.Default, p.Help)
	}
	if len(p.Words) > 0 {
		// It fails only for a flag that is not declared.
		_ = cc.RegisterFlagCompletionFunc(p.Name, cobra.FixedCompletions(p.Words, cobra.ShellCompDirectiveNoFileComp))
	}
}

// call runs a command on the daemon and prints the results: JSON as the daemon
// sent it, one line for each result of a stream.
func (c *cli) call(ctx context.Context, cmd control.Command, params map[string]any) error {
	client := control.NewClient(c.socket())
	defer client.Close()
	err := client.Call(ctx, cmd, params, func(r control.Result, raw json.RawMessage) error {
		var b bytes.Buffer
		switch {
		case !c.json:
			return r.Text(c.out, c.style())
		case cmd.Streams:
			b.Write(raw)
		default:
			if err := json.Indent(&b, raw, "", "  "); err != nil {
				return err
			}
		}
		b.WriteByte('\n')
		_, err := b.WriteTo(c.out)
		return err
	})
	if cmd.Reads && cmd.Streams && ctx.Err() != nil {
		return nil // the operator has seen enough
	}
	return err
}

// completionTimeout is how long a shell waits for names.
const completionTimeout = time.Second

// names asks the daemon for what completes an argument. Without an answer there
// is nothing to offer.
func (c *cli) names(ctx context.Context, kind control.Completion) []string {
	if kind != control.CompleteConnection && kind != control.CompleteTarget {
		return nil
	}
	cmd, ok := control.Find("status")
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, completionTimeout)
	defer cancel()
	client := control.NewClient(c.socket())
	defer client.Close()
	var names []string
	_ = client.Call(ctx, cmd, nil, func(r control.Result, _ json.RawMessage) error {
		for _, conn := range r.(control.Status).Connections {
			names = append(names, conn.Name)
			for _, t := range conn.Tunnels {
				if kind == control.CompleteTarget {
					names = append(names, control.Target{Connection: conn.Name, Tunnel: t.Name}.String())
				}
			}
		}
		return nil
	})
	return names
}
