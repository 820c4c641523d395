package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"caponier/internal/control"
)

// versions is what `caponier version` shows.
type versions struct {
	Program control.Build  `json:"program"`
	Daemon  *control.Build `json:"daemon"` // null where none runs
}

// Text prints a line for each.
func (v versions) Text(w io.Writer, s control.Style) error {
	if err := v.Program.Text(w, s); err != nil {
		return err
	}
	if v.Daemon == nil {
		_, err := fmt.Fprintln(w, "daemon: not running")
		return err
	}
	if _, err := io.WriteString(w, "daemon: "); err != nil {
		return err
	}
	return v.Daemon.Text(w, s)
}

func (c *cli) version() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Show the version of this program and of the daemon",
		Args:  cobra.NoArgs,
		RunE: run(func(cmd *cobra.Command, _ []string) error {
			v := versions{Program: control.LocalBuild()}
			ask, ok := control.Find("version")
			if !ok {
				return c.print(v)
			}
			client := control.NewClient(c.socket())
			defer client.Close()
			// Whatever keeps the daemon from answering, this program has a version.
			_ = client.Call(cmd.Context(), ask, nil, func(r control.Result, _ json.RawMessage) error {
				b := r.(control.Build)
				v.Daemon = &b
				return nil
			})
			return c.print(v)
		}),
	}
}
