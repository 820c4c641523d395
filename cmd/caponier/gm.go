package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"caponier/internal/control"
	"caponier/internal/randtest"
	"caponier/internal/sm"
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
	cmd.AddCommand(c.gmSelfTest())
	return cmd
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
			algorithms, kernels := suite.SelfTest(), sm.SelfTest()
			result, random := randtest.Judge(rand.Reader, samples)
			err := c.print(selfTests{Algorithms: word(algorithms), Kernels: word(kernels), Random: word(random), Samples: result})
			return errors.Join(err, algorithms, kernels, random)
		}),
	}
	cmd.Flags().IntVar(&samples, "samples", 100, "samples of a million random bits to test")
	return cmd
}
