// Command caponier is an IPsec VPN gateway: the daemon, and the tools of those
// who operate it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"caponier/internal/control"
)

// Exit statuses.
const (
	exitDone    = 0
	exitRefused = 1 // refused or failed, with a code
	exitUsage   = 2
)

// envControl names the control socket where the flag does not.
const envControl = "CAPONIER_CONTROL"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second signal ends the program at once.
	context.AfterFunc(ctx, stop)
	status := execute(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// cli is what the commands share.
type cli struct {
	out     io.Writer
	json    bool
	control string
}

// failed marks an error of a command that was called as it should be. All
// others are wrong usage.
type failed struct{ error }

func (f failed) Unwrap() error { return f.error }

func execute(ctx context.Context, args []string, out, errOut io.Writer) int {
	c := &cli{out: out}
	root := newRoot(c)
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errOut)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitDone
	}
	e := control.AsError(err)
	if _, ok := errors.AsType[failed](err); !ok {
		e = &control.Error{Code: control.CodeUsage, Message: err.Error(), Cure: cmd.CommandPath() + " --help"}
	}
	c.report(errOut, e)
	if e.Code == control.CodeUsage {
		return exitUsage
	}
	return exitRefused
}

// report tells why a command failed. There is nobody to tell that this failed.
func (c *cli) report(w io.Writer, e *control.Error) {
	if c.json {
		_ = json.NewEncoder(w).Encode(map[string]*control.Error{"error": e})
		return
	}
	_, _ = fmt.Fprintf(w, "caponier: %s (%s)\n", e.Message, e.Code)
	if e.Cure != "" {
		_, _ = fmt.Fprintf(w, "  cure: %s\n", e.Cure)
	}
}

func newRoot(c *cli) *cobra.Command {
	root := &cobra.Command{
		Use:           "caponier",
		Short:         "IPsec VPN gateway",
		Long:          "caponier is an IPsec VPN gateway.\n\nExit status: 0 done, 1 refused or failed (with the code of the cause), 2 wrong usage.",
		Args:          subcommand,
		RunE:          noSubcommand,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.PersistentFlags().BoolVar(&c.json, "json", false, "print JSON")
	root.PersistentFlags().StringVar(&c.control, "control", "",
		"control socket of the daemon (default $"+envControl+" or "+control.DefaultSocket+")")
	root.AddCommand(c.controlCommands()...)
	root.AddCommand(c.daemon(), c.check(), c.pki(), c.gm(), c.lab(), c.bench(), c.version())
	return root
}

// socket is the path of the control socket.
func (c *cli) socket() string {
	if c.control != "" {
		return c.control
	}
	if path := os.Getenv(envControl); path != "" {
		return path
	}
	return control.DefaultSocket
}

// subcommand refuses what follows a word that only groups commands.
func subcommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := fmt.Errorf("unknown command %q", cmd.CommandPath()+" "+args[0])
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		err = fmt.Errorf("%w; did you mean %s?", err, near[0])
	}
	return err
}

func noSubcommand(cmd *cobra.Command, _ []string) error {
	return fmt.Errorf("%s needs a command", cmd.CommandPath())
}

// run adapts a command's function: its errors are failures, not wrong usage.
func run(f func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if err := f(cmd, args); err != nil {
			return failed{err}
		}
		return nil
	}
}

// print writes a result: as JSON, or for people.
func (c *cli) print(r control.Result) error {
	if !c.json {
		return r.Text(c.out, c.style())
	}
	enc := json.NewEncoder(c.out)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

// style is that of the terminal, or plain where the output is none. See
// https://no-color.org for NO_COLOR.
func (c *cli) style() control.Style {
	f, ok := c.out.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return control.Style{}
	}
	s := control.Style{Colour: os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
	if width, _, err := term.GetSize(int(f.Fd())); err == nil {
		s.Width = width
	}
	return s
}
