package sm

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/cpu"
)

// keyForm is what a kernel's lanes take for a round: what remains of the round
// key behind the S-box in the short or the plain folded round, or the key.
type keyForm int

const (
	keysDelta keyForm = iota
	keysKappa
	keysRounds
)

// kernel is the number of an assembly function; 0 is none.
type kernel uint8

var portableEngine = engine{name: "portable"}

// goEngines returns the engines whose modes are written in Go.
func goEngines() []*engine { return append(gmsmEngines(), &portableEngine) }

// engines returns the engines that work, fastest first.
var engines = sync.OnceValue(func() []*engine {
	var es []*engine
	for _, e := range candidates() {
		if e.test() == nil {
			es = append(es, e)
		}
	}
	if len(es) == 0 {
		panic("sm: no implementation passes its tests")
	}
	return es
})

// best returns the fastest engine of this machine.
func best() *engine { return engines()[0] }

// Implementations names the implementations that this machine can run, fastest
// first. The first is used.
func Implementations() []string {
	var names []string
	for _, e := range engines() {
		names = append(names, e.name)
	}
	return names
}

// SelfTest runs all implementations of this machine on known answers. What fails
// is not used, whether SelfTest is called or not, and is named in the error;
// where nothing is left, constructors panic.
func SelfTest() error {
	var errs []error
	for _, e := range candidates() {
		if err := e.test(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", e.name, err))
		}
	}
	if cpu.ARM64.HasSM3 {
		if err := gmsmHashTest(); err != nil {
			errs = append(errs, fmt.Errorf("gmsm, SM3: %w", err))
		}
	}
	return errors.Join(errs...)
}
