package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"caponier/internal/control"
	"caponier/internal/gmreport"
	"caponier/internal/randtest"
	"caponier/internal/suite"
)

// selfTests is what gm selftest shows.
type selfTests struct {
	Algorithms string          `json:"algorithms"` // ok, or what failed
	Kernels    string          `json:"kernels"`    // of SM4 and SM3
	Random     string          `json:"random"`
	Samples    randtest.Result `json:"samples"`
}

// Text prints it for people.
func (s selfTests) Text(w io.Writer, _ control.Style) error {
	_, err := fmt.Fprintf(w, "known answers of every algorithm, SM2 among them  %s\nkernels of SM4 and SM3                            %s\n"+
		"random numbers (GM/T 0005)                        %s: of %d samples %d passed the frequency test and %d the poker test, %d needed\n",
		s.Algorithms, s.Kernels, s.Random, s.Samples.Samples, s.Samples.Monobit, s.Samples.Poker, s.Samples.Need)
	return err
}

func (c *cli) gm() *cobra.Command {
	cmd := &cobra.Command{Use: "gm", Short: "What concerns GM/T 0022 and its algorithms", Args: subcommand, RunE: noSubcommand}
	cmd.AddCommand(c.gmReport(), c.gmSelfTest())
	return cmd
}

// gmClauses is what gm report shows.
type gmClauses []gmreport.Clause

// Text prints the clauses, a line or two each.
func (cs gmClauses) Text(w io.Writer, _ control.Style) error {
	standard := ""
	for _, x := range cs {
		if x.Standard != standard {
			standard = x.Standard
			if _, err := fmt.Fprintf(w, "%s\n", standard); err != nil {
				return err
			}
		}
		if _, err := fmt.Fprintf(w, "  %-9s  %s\n", x.State, x.Subject); err != nil {
			return err
		}
		if x.Note != "" {
			if _, err := fmt.Fprintf(w, "             %s\n", x.Note); err != nil {
				return err
			}
		}
	}
	_, err := fmt.Fprintf(w, "\njudged: tested against what shares no code with caponier; tested: by caponier alone; unsure: as sources say\n"+
		"that disagree or are few. Nothing here is certified.\n")
	return err
}

func (c *cli) gmReport() *cobra.Command {
	return &cobra.Command{
		Use:   "report",
		Short: "Say what of GM/T 0022 is implemented, tested, and unsure",
		Args:  cobra.NoArgs,
		RunE:  run(func(*cobra.Command, []string) error { return c.print(gmClauses(gmreport.Clauses())) }),
	}
}

// maxSamples is how many samples may be asked for: a gigabit.
const maxSamples = 1000

func (c *cli) gmSelfTest() *cobra.Command {
	var samples int
	cmd := &cobra.Command{
		Use:   "selftest",
		Short: "Test the algorithms and the random numbers of this machine",
		Long: "Runs the known-answer tests that the daemon runs at every start, and the frequency and\n" +
			"poker tests of GM/T 0005 on random numbers of the system. About one good source in three\n" +
			"hundred fails them once: test again, and believe it when it fails again.",
		Args: cobra.NoArgs,
		RunE: run(func(*cobra.Command, []string) error {
			if samples < 1 || samples > maxSamples {
				return control.Errorf(control.CodeUsage, "%d samples are not between 1 and %d", samples, maxSamples)
			}
			word := func(err error) string {
				if err != nil {
					return "FAILED: " + err.Error()
				}
				return "ok"
			}
			algorithms, kernels := suite.SelfTest(), suite.KernelSelfTest()
			result, random := randtest.Judge(rand.Reader, samples)
			err := c.print(selfTests{Algorithms: word(algorithms), Kernels: word(kernels), Random: word(random), Samples: result})
			return errors.Join(err, algorithms, kernels, random)
		}),
	}
	cmd.Flags().IntVar(&samples, "samples", 100, "samples of a million random bits to test")
	return cmd
}
