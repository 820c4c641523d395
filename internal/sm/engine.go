package sm

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
