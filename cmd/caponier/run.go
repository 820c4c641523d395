package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"caponier/internal/app"
	"caponier/internal/config/problem"
	"caponier/internal/control"
)

func (c *cli) daemon() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "run -c FILE|DIR",
		Short: "Run the gateway in the foreground",
		Long: "Runs the gateway until it gets SIGINT or SIGTERM. SIGHUP reads the configuration\n" +
			"again and reopens the log file. What a policy protects does not leave in clear,\n" +
			"neither before the first tunnel is up nor afterwards.",
		Args:                  cobra.NoArgs,
		DisableFlagsInUseLine: true,
		RunE: run(func(cmd *cobra.Command, _ []string) error {
			ctx, stop := context.WithCancel(cmd.Context())
			defer stop()
			err := app.Run(ctx, app.Options{
				Config: path, Version: control.LocalBuild().Version, Reload: hangups(ctx),
			})
			if problems, ok := errors.AsType[problem.Errors](err); ok {
				return &control.Error{
					Code: control.CodeInvalidConfig, Message: problems.Error(), Cure: "caponier check " + path + " shows the same",
				}
			}
			return err
		}),
	}
	cmd.Flags().StringVarP(&path, "config", "c", "", "configuration, a file or a directory (required)")
	// It fails only for a flag that is not declared.
	_ = cmd.MarkFlagRequired("config")
	return cmd
}

// hangups passes SIGHUP on until ctx ends. Those that come during a reload make
// one more.
func hangups(ctx context.Context) <-chan struct{} {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP)
	out := make(chan struct{})
	go func() {
		defer signal.Stop(signals)
		for {
			select {
			case <-ctx.Done():
				return
			case <-signals:
			}
			select {
			case <-ctx.Done():
				return
			case out <- struct{}{}:
			}
		}
	}()
	return out
}
