package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"caponier/internal/app"
	"caponier/internal/config"
	"caponier/internal/config/describe"
	"caponier/internal/config/problem"
	"caponier/internal/control"
)

// checked is what `caponier check` shows.
type checked struct {
	Valid    bool                  `json:"valid"`
	Errors   []*problem.Problem    `json:"errors"`
	Warnings []*problem.Problem    `json:"warnings"`
	Does     *describe.Description `json:"does,omitempty"`
	System   app.Requirements      `json:"system,omitempty"`
}

// Text prints the problems, then what the configuration does.
func (r checked) Text(w io.Writer, _ control.Style) error {
	for _, p := range r.Errors {
		if _, err := fmt.Fprintf(w, "error: %v\n", p); err != nil {
			return err
		}
	}
	for _, p := range r.Warnings {
		if _, err := fmt.Fprintf(w, "warning: %v\n", p); err != nil {
			return err
		}
	}
	if r.Does == nil {
		return nil
	}
	if len(r.Warnings) > 0 {
		if _, err := io.WriteString(w, "\n"); err != nil {
			return err
		}
	}
	if err := r.Does.WriteText(w); err != nil {
		return err
	}
	return r.systemText(w)
}

// systemText prints what the configuration asks of the system.
func (r checked) systemText(w io.Writer) error {
	if len(r.System) == 0 {
		return nil
	}
	if _, err := io.WriteString(w, "\nthis system\n"); err != nil {
		return err
	}
	for _, x := range r.System {
		verdict := "ok"
		switch {
		case x.Problem != "" && x.For != "":
			verdict = "MISSING, for " + x.For + ": " + x.Problem
		case x.Problem != "":
			verdict = "missing, and others can take its place: " + x.Problem
		}
		if _, err := fmt.Fprintf(w, "  %s: %s\n", x.Name, verdict); err != nil {
			return err
		}
	}
	return nil
}

func (c *cli) check() *cobra.Command {
	var system bool
	cmd := &cobra.Command{
		Use:   "check FILE|DIR",
		Short: "Check a configuration and say what it does",
		Long: "Reads a configuration with all files that it names, and says what is wrong with it\n" +
			"and what it does. Nothing is changed, and no daemon is needed. With --system, this\n" +
			"system is asked too for what the configuration needs of it, which wants root.",
		Args: cobra.ExactArgs(1),
		RunE: run(func(_ *cobra.Command, args []string) error {
			cfg, warnings, err := config.Load(args[0], config.Checks{Now: time.Now()})
			r := checked{Valid: err == nil, Errors: []*problem.Problem{}, Warnings: append([]*problem.Problem{}, warnings...)}
			if err == nil {
				r.Does = describe.Config(cfg)
				if !system {
					return c.print(r)
				}
				if r.System, err = app.CheckSystem(cfg); err != nil {
					return err
				}
				if err := c.print(r); err != nil {
					return err
				}
				if r.System.Err() != nil {
					return control.Errorf(control.CodeRefused, "%s cannot run on this system", args[0])
				}
				return nil
			}
			problems, ok := errors.AsType[problem.Errors](err)
			if !ok {
				return err
			}
			r.Errors = problems
			if err := c.print(r); err != nil {
				return err
			}
			return control.Errorf(control.CodeInvalidConfig, "%s cannot be used: errors: %d", args[0], len(problems))
		}),
	}
	cmd.Flags().BoolVar(&system, "system", false, "ask this system too for what the configuration needs")
	return cmd
}
