package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"caponier/internal/config"
	"caponier/internal/control"
	"caponier/internal/lab"
)

// The suites of the lab.
const (
	suiteDefault = "ikev2"
	suiteGM      = "gm"
)

// lab makes the commands of the lab.
func (c *cli) lab() *cobra.Command {
	var dir string
	group := &cobra.Command{
		Use:   "lab",
		Short: "A cloud gateway with two customers, in network namespaces of this machine",
		Long: "The lab builds a cloud gateway, and two customers with a gateway and an IoT client\n" +
			"each, in network namespaces that it makes and removes. It needs root.\n\n" + lab.Picture(),
		Args: subcommand, RunE: noSubcommand,
	}
	group.PersistentFlags().StringVar(&dir, "dir", lab.DefaultDir, "where the lab keeps its certificates, configurations and logs")
	open := func() (*lab.Lab, error) {
		program, err := os.Executable()
		if err != nil {
			return nil, err
		}
		return lab.New(dir, program, "caponier-"), nil
	}
	var dataPlane, captured, suite string
	up := &cobra.Command{
		Use: "up", Short: "Build the lab and start its gateways and servers", Args: cobra.NoArgs,
		RunE: run(func(cmd *cobra.Command, _ []string) error {
			if suite != suiteDefault && suite != suiteGM {
				return control.Errorf(control.CodeUsage, "unknown suite %q: choose %s or %s", suite, suiteDefault, suiteGM)
			}
			l, err := open()
			if err != nil {
				return err
			}
			if err := l.Up(cmd.Context(), lab.Options{DataPlane: dataPlane, Capture: captured, GM: suite == suiteGM}, c.say); err != nil {
				return err
			}
			return c.print(labUp{Dir: dir, Sockets: l.Sockets()})
		}),
	}
	words := []string{config.DataPlaneUserspace.String(), config.DataPlaneKernel.String()}
	up.Flags().StringVar(&dataPlane, "dataplane", words[0], "the gateways' data plane, userspace or kernel")
	_ = up.RegisterFlagCompletionFunc("dataplane", cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
	captures := []string{config.CaptureTUN.String(), config.CaptureAFPacket.String(), config.CaptureAFXDP.String()}
	up.Flags().StringVar(&captured, "capture", "", "how the user-space data plane gets at packets: tun (unless set), afpacket or afxdp")
	_ = up.RegisterFlagCompletionFunc("capture", cobra.FixedCompletions(captures, cobra.ShellCompDirectiveNoFileComp))
	up.Flags().StringVar(&suite, "suite", suiteDefault, "what the gateways negotiate by: "+suiteDefault+", or "+suiteGM+" for GM/T 0022 with SM2, SM3 and SM4")
	_ = up.RegisterFlagCompletionFunc("suite", cobra.FixedCompletions([]string{suiteDefault, suiteGM}, cobra.ShellCompDirectiveNoFileComp))
	group.AddCommand(
		up,
		&cobra.Command{
			Use: "test", Short: "Prove that traffic crosses, isolation holds and nothing leaks", Args: cobra.NoArgs,
			RunE: run(func(cmd *cobra.Command, _ []string) error {
				l, err := open()
				if err != nil {
					return err
				}
				var all labResults
				err = l.Test(cmd.Context(), func(r lab.Result) {
					all.Results = append(all.Results, r)
					if !c.json {
						_ = r.Text(c.out)
					}
				})
				if c.json && len(all.Results) > 0 {
					if err := c.print(all); err != nil {
						return err
					}
				}
				return err
			}),
		},
		&cobra.Command{
			Use: "down", Short: "End what the lab started and remove what it made", Args: cobra.NoArgs,
			RunE: run(func(_ *cobra.Command, _ []string) error {
				l, err := open()
				if err != nil {
					return err
				}
				if err := l.Down(); err != nil {
					return err
				}
				c.say("nothing is left of the lab")
				return nil
			}),
		},
		&cobra.Command{
			Use: "serve PREFIX", Hidden: true, Short: "Run the servers of the lab", Args: cobra.ExactArgs(1),
			RunE: run(func(cmd *cobra.Command, args []string) error { return lab.Serve(cmd.Context(), args[0]) }),
		},
	)
	return group
}

// say tells people about progress; JSON readers are not interested.
func (c *cli) say(text string) {
	if !c.json {
		_, _ = fmt.Fprintln(c.out, text)
	}
}

// labUp is what `lab up` answers.
type labUp struct {
	Dir     string            `json:"dir"`
	Sockets map[string]string `json:"sockets"`
}

// Text draws the lab and says how to look into it.
func (l labUp) Text(w io.Writer, _ control.Style) error {
	_, err := fmt.Fprintf(w, "\n%s\nlook inside:  caponier --control %s status\n", lab.Picture(), l.Sockets["cloudgw"])
	return err
}

// labResults is what `lab test` answers.
type labResults struct {
	Results []lab.Result `json:"results"`
}

// Text is not used: the rows were printed as they came.
func (labResults) Text(io.Writer, control.Style) error { return nil }
