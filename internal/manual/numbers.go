package manual

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"

	"caponier/internal/config"
	"caponier/internal/control"
)

const (
	// reservation is how many sequence numbers are taken at once. A crash loses
	// them, which is a thousandth of what an SA has without ESN.
	reservation = 1 << 22
	// margin is for packets that are under way while an SA is removed.
	margin = 1 << 16
	// maxKnown bounds the keys of which numbers are kept.
	maxKnown = 1 << 16
)

// numbers are the sequence numbers that keys have used, by the fingerprint of
// the keys: an SPI can be given anew, a nonce cannot (RFC 4303, Section 3.3.3).
// They are in a file of the state directory before they are in packets.
type numbers struct {
	path string
	read bool
	// used has the last number that may be on the wire, or will be until the next
	// reservation.
	used map[string]uint64
}

// numbersFile is the name of the file.
const numbersFile = "manual-sequences.json"

func newNumbers(state string) *numbers {
	return &numbers{path: filepath.Join(state, numbersFile), used: make(map[string]uint64)}
}

// fingerprint names the keys of an association without telling them.
func fingerprint(a *config.Association) string {
	h := sha256.New()
	fmt.Fprintf(h, "caponier manual keys\n%d %v %v\n%d\n", a.Protocol, a.Encr, a.Integ, a.EncrKey.Len())
	h.Write(a.EncrKey.Bytes())
	h.Write(a.IntegKey.Bytes())
	return hex.EncodeToString(h.Sum(nil))
}

// first is the last number that may have been used before: the association that
// has reserved may take the next reservation of them.
func (n *numbers) first(a *config.Association) uint64 {
	used := n.used[fingerprint(a)]
	return used - min(used, reservation)
}

// reserve takes the next numbers for an association. Only save makes that last.
func (n *numbers) reserve(a *config.Association) error {
	if err := n.load(); err != nil {
		return err
	}
	id := fingerprint(a)
	used, known := n.used[id]
	last := uint64(math.MaxUint32)
	if a.ESN {
		last = math.MaxUint64 - math.MaxUint32 - reservation
	}
	switch {
	case used >= last:
		return &control.Error{
			Code: control.CodeRefused, Message: fmt.Sprintf("%s: the keys have used up all sequence numbers", a.Name), Cure: "give both ends new keys",
		}
	case !known && len(n.used) >= maxKnown:
		return &control.Error{
			Code: control.CodeLimit, Message: fmt.Sprintf("%s: sequence numbers of %d keys are kept already", a.Name, maxKnown),
			Cure: "stop the gateway, and remove from " + n.path + " what will never be used again",
		}
	}
	n.used[id] = used + reservation
	return nil
}

// extend reserves more for those that have used half of what they have, and
// reports whether any has.
func (n *numbers) extend(sent map[*config.Association]uint64) (changed bool) {
	for a, last := range sent {
		id := fingerprint(a)
		if last+reservation/2 > n.used[id] {
			n.used[id] = last + reservation
			changed = true
		}
	}
	return changed
}

// settle gives back what was not used.
func (n *numbers) settle(sent map[*config.Association]uint64) {
	highest := make(map[string]uint64)
	for a, last := range sent {
		id := fingerprint(a)
		highest[id] = max(highest[id], last)
	}
	for id, last := range highest {
		n.used[id] = min(n.used[id], last+margin)
	}
}

// load reads the file, once. Without it nothing was used yet. A file that cannot
// be read is an error: to begin anew would use numbers twice.
func (n *numbers) load() error {
	if n.read {
		return nil
	}
	data, err := os.ReadFile(n.path)
	if errors.Is(err, fs.ErrNotExist) {
		n.read = true
		return nil
	}
	if err == nil {
		err = json.Unmarshal(data, &n.used)
	}
	if err != nil {
		return &control.Error{
			Code: control.CodeRefused, Message: fmt.Sprintf("the sequence numbers of manual keys cannot be read from %s: %v", n.path, err),
			Cure: "restore the file; or remove it and give both ends new keys",
		}
	}
	n.read = true
	return nil
}

// save writes the file as a whole, and returns when it is on the disk.
func (n *numbers) save() error {
	data, err := json.MarshalIndent(n.used, "", "  ")
	if err != nil {
		return err
	}
	return WriteWhole(n.path, append(data, '\n'))
}

// WriteWhole replaces a file, so that a crash leaves the old one or the new one.
func WriteWhole(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
