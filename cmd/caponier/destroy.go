package main

import (
	"github.com/spf13/cobra"

	"caponier/internal/app"
	"caponier/internal/control"
)

// destroyKeys is the registry's command, which needs no daemon.
func (c *cli) destroyKeys() *cobra.Command {
	cmd, _ := control.Find("destroy-keys")
	var path string
	cc := c.controlCommand(cmd, "destroy-keys")
	cc.Long += "\n\nWhere no daemon runs, -c names the configuration whose keys on disk are destroyed. A\n" +
		"configuration with errors will do."
	cc.Flags().StringVarP(&path, "config", "c", "", "configuration, a file or a directory, where no daemon runs")
	cc.RunE = run(func(cc *cobra.Command, args []string) error {
		params, err := requestOf(cc, cmd, args)
		if err != nil {
			return err
		}
		if path != "" && c.control == "" {
			if c.control, err = app.Salvage(path); err != nil {
				return &control.Error{Code: control.CodeInvalidConfig, Message: err.Error()}
			}
		}
		err = c.call(cc.Context(), cmd, params)
		switch e := control.AsError(err); {
		case err == nil || e.Code != control.CodeNotRunning:
			return err
		case path == "":
			e.Cure = "name the configuration with -c, to destroy its keys on disk without a daemon"
			return e
		}
		d, err := app.DestroyKeys(path)
		if err != nil {
			return &control.Error{Code: control.CodeInvalidConfig, Message: err.Error()}
		}
		if err := c.print(d); err != nil {
			return err
		}
		return d.Err()
	})
	return cc
}
