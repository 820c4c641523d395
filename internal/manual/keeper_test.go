package manual

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"caponier/internal/config"
	"caponier/internal/control"
	"caponier/internal/dataplane"
	"caponier/internal/ipsec"
	"caponier/internal/secret"
)

// association makes one with keys of its own.
func association(t *testing.T, name, direction string, spi int, more ...string) *config.Association {
	t.Helper()
	values := map[string]string{
		"direction": direction, "spi": fmt.Sprintf("%#x", spi), "local-address": "192.0.2.1", "remote-address": "192.0.2.9",
		"algorithms": "aes128-sha256", "local": "10.1.0.0/16", "remote": "10.9.0.0/16", "reqid": "9",
	}
	for i := 0; i < len(more); i += 2 {
		values[more[i]] = more[i+1]
	}
	octets := 16
	if values["algorithms"] == "aes128gcm16" {
		octets = 20
	}
	integ := secret.New(bytes.Repeat([]byte{byte(spi), 1}, 16))
	if octets == 20 {
		integ = secret.Key{}
	}
	a, _, err := config.ParseAssociation(name, values, secret.New(bytes.Repeat([]byte{byte(spi), 2}, octets/2)), integ, config.DataPlaneUserspace)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func keeper(t *testing.T, f *dataplane.Fake, state string) *Keeper {
	t.Helper()
	k := New(Options{Backend: f, State: state})
	t.Cleanup(k.Close)
	return k
}

// installed lists the data plane's SAs: name, direction, SPI and sequence.
func installed(f *dataplane.Fake) string {
	var out []string
	for _, s := range f.SAs() {
		out = append(out, fmt.Sprintf("%s %s %s@%d", s.Tunnel, s.ID.Direction, s.ID.SPI, s.Sequence))
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

func want(t *testing.T, when string, f *dataplane.Fake, list string) {
	t.Helper()
	if got := installed(f); got != list {
		t.Errorf("%s: installed %q, want %q", when, got, list)
	}
}

func code(err error) string {
	if err == nil {
		return ""
	}
	return control.AsError(err).Code
}

func TestSetTouchesOnlyWhatChanged(t *testing.T) {
	f := dataplane.NewFake()
	k := keeper(t, f, t.TempDir())
	a, b := association(t, "a", "in", 0x1001), association(t, "b", "out", 0x2001)
	if err := k.Set([]*config.Association{a, b}); err != nil {
		t.Fatal(err)
	}
	want(t, "at first", f, "a in 00001001@0, b out 00002001@0")
	calls := len(f.Calls())
	if err := k.Set([]*config.Association{association(t, "a", "in", 0x1001), association(t, "b", "out", 0x2001)}); err != nil {
		t.Fatal(err)
	}
	if more := f.Calls()[calls:]; len(more) != 0 {
		t.Errorf("the same again did %v", more)
	}
	// Another SPI: the new one is there before the old one goes.
	calls = len(f.Calls())
	if err := k.Set([]*config.Association{association(t, "a", "in", 0x1002), association(t, "b", "out", 0x2001)}); err != nil {
		t.Fatal(err)
	}
	if more := f.Calls()[calls:]; !slices.Equal(more, []string{"add in 00001002", "delete in 00001001"}) {
		t.Errorf("another SPI did %v", more)
	}
	// The same SPI with other selectors can only be exchanged.
	calls = len(f.Calls())
	if err := k.Set([]*config.Association{association(t, "a", "in", 0x1002, "remote", "10.8.0.0/16")}); err != nil {
		t.Fatal(err)
	}
	if more := f.Calls()[calls:]; !slices.Equal(more, []string{"delete in 00001002", "delete out 00002001", "add in 00001002"}) {
		t.Errorf("other selectors did %v", more)
	}
	if err := k.Set(nil); err != nil {
		t.Fatal(err)
	}
	want(t, "at last", f, "")
}

// What cannot be installed leaves everything as it was, and says why.
func TestRefusedSetChangesNothing(t *testing.T) {
	f := dataplane.NewFake()
	k := keeper(t, f, t.TempDir())
	if err := k.Set([]*config.Association{association(t, "a", "in", 0x1001), association(t, "b", "out", 0x2001)}); err != nil {
		t.Fatal(err)
	}
	f.Refuse(fmt.Errorf("no cipher: %w", dataplane.ErrTransform))
	err := k.Set([]*config.Association{association(t, "a", "in", 0x1001, "esn", "yes"), association(t, "c", "out", 0x2003)})
	if code(err) != control.CodeUnsupported || control.AsError(err).Cure == "" {
		t.Errorf("%v", err)
	}
	if got := installed(f); !strings.HasPrefix(got, "a in 00001001@0, b out 00002001@") {
		t.Errorf("installed %q", got)
	}
	// The next one is for what the file says then.
	if err := k.Set([]*config.Association{association(t, "a", "in", 0x1001, "esn", "yes")}); err != nil {
		t.Fatal(err)
	}
	want(t, "after a good one", f, "a in 00001001@0")
}

func TestCommandsAndTheirConflicts(t *testing.T) {
	f := dataplane.NewFake()
	k := keeper(t, f, t.TempDir())
	if err := k.Set([]*config.Association{association(t, "a", "in", 0x1001)}); err != nil {
		t.Fatal(err)
	}
	added := association(t, "r", "out", 0x2001)
	if err := k.Add(added); err != nil {
		t.Fatal(err)
	}
	for name, a := range map[string]*config.Association{
		"name": association(t, "a", "out", 0x2002), "SPI of a file's": association(t, "x", "in", 0x1001),
		"SPI of a command's": association(t, "x", "out", 0x2001),
	} {
		if err := k.Add(a); code(err) != control.CodeExists {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := k.Set([]*config.Association{association(t, "b", "out", 0x2001)}); code(err) != control.CodeExists {
		t.Errorf("a file takes the SPI of a command's: %v", err)
	}
	if o := k.Origin(added.ID()); o != control.OriginManual {
		t.Errorf("origin %s", o)
	}
	if o := k.Origin(ipsec.SAID{Protocol: ipsec.ESP, SPI: 0xc0ffee01}); o != control.OriginIKE {
		t.Errorf("origin of another's %s", o)
	}
	if !k.Delete(added.ID()) || k.Delete(added.ID()) {
		t.Error("an association is deleted once")
	}
	if !bytes.Equal(added.EncrKey.Bytes(), make([]byte, 16)) {
		t.Error("the key of a deleted association is still in memory")
	}
	want(t, "after deletion", f, "a in 00001001@0")
	gcm := []string{"algorithms", "aes128gcm16", "unsafe-counter-mode", "yes"}
	one, two := association(t, "g1", "out", 0x3001, gcm...), association(t, "g2", "in", 0x3101, gcm...)
	two.EncrKey = one.EncrKey.Clone()
	if err := k.Add(one); err != nil {
		t.Fatal(err)
	}
	if err := k.Add(two); code(err) != control.CodeRefused {
		t.Errorf("one key for two counters: %v", err)
	}
}

func TestSwitch(t *testing.T) {
	f := dataplane.NewFake()
	k := keeper(t, f, t.TempDir())
	file := []*config.Association{association(t, "a", "in", 0x1001), association(t, "b", "in", 0x1002)}
	if err := k.Set(file); err != nil {
		t.Fatal(err)
	}
	if err := k.Add(association(t, "r", "in", 0x1003)); err != nil {
		t.Fatal(err)
	}
	k.Delete(file[1].ID())
	if n := k.SwitchOff(); n != 2 {
		t.Errorf("%d were taken down", n)
	}
	want(t, "off", f, "")
	if err := k.Add(association(t, "s", "in", 0x1004)); code(err) != control.CodeOff {
		t.Errorf("add while off: %v", err)
	}
	// A reload while it is off counts when it is on.
	if err := k.Set(append(file, association(t, "c", "in", 0x1005))); err != nil {
		t.Fatal(err)
	}
	want(t, "off, after a reload", f, "")
	f.Refuse(errors.New("no"))
	if err := k.SwitchOn(); err == nil {
		t.Error("the data plane refuses, and nobody is told")
	}
	want(t, "after a failure", f, "")
	if err := k.SwitchOn(); err != nil {
		t.Fatal(err)
	}
	want(t, "on", f, "a in 00001001@0, b in 00001002@0, c in 00001005@0, r in 00001003@0")
}

func TestExpiryIsNotTheEnd(t *testing.T) {
	f := dataplane.NewFake()
	k := keeper(t, f, t.TempDir())
	a := association(t, "a", "in", 0x1001)
	if err := k.Set([]*config.Association{a}); err != nil {
		t.Fatal(err)
	}
	for _, hard := range []bool{false, true} {
		f.Raise(ipsec.Expire{ID: a.ID(), Hard: hard})
		k.Event(<-f.Events())
	}
	k.Event(ipsec.FirstUse{ID: a.ID()})
	k.Event(ipsec.Expire{ID: ipsec.SAID{SPI: 1}, Hard: true})
	want(t, "expired", f, "")
	k.SwitchOff()
	if err := k.SwitchOn(); err != nil {
		t.Fatal(err)
	}
	want(t, "after off and on", f, "a in 00001001@0")
}

// RFC 4303, Section 3.3.3: with manual keys, the sender's sequence number must
// be kept over restarts; and no nonce of a counter mode may come twice.
func TestNumbersOutliveTheProcess(t *testing.T) {
	state := t.TempDir()
	run := func(a *config.Association) uint64 {
		t.Helper()
		f := dataplane.NewFake()
		k := New(Options{Backend: f, State: state})
		if err := k.Set([]*config.Association{a}); err != nil {
			t.Fatal(err)
		}
		return f.SAs()[0].Sequence // and it is killed
	}
	for i := range 3 {
		if got := run(association(t, "a", "out", 0x2001)); got != uint64(i)*reservation {
			t.Errorf("start %d begins after %d", i, got)
		}
	}
	// Another SPI changes nothing: the keys are what counts. Other keys do.
	same := association(t, "a", "out", 0x2002)
	other := association(t, "a", "out", 0x2001)
	same.EncrKey, same.IntegKey = other.EncrKey.Clone(), other.IntegKey.Clone()
	if got := run(same); got != 3*reservation {
		t.Errorf("another SPI begins after %d", got)
	}
	if got := run(association(t, "a", "out", 0x2003)); got != 0 {
		t.Errorf("other keys begin after %d", got)
	}
	// A clean end gives back what was not used.
	f := dataplane.NewFake()
	k := New(Options{Backend: f, State: state})
	if err := k.Set([]*config.Association{association(t, "a", "out", 0x2003)}); err != nil {
		t.Fatal(err)
	}
	k.Close()
	if got := run(association(t, "a", "out", 0x2003)); got != reservation+margin {
		t.Errorf("after a clean end it begins after %d", got)
	}
	data, err := os.ReadFile(filepath.Join(state, numbersFile))
	if err != nil || bytes.Contains(data, []byte("0102")) {
		t.Errorf("%v\n%s", err, data)
	}
	if info, err := os.Stat(filepath.Join(state, numbersFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if left, _ := filepath.Glob(filepath.Join(state, "*-*-*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestNumbersThatCannotBeKnown(t *testing.T) {
	state := t.TempDir()
	if err := os.WriteFile(filepath.Join(state, numbersFile), []byte(`{"a": 1`), 0o600); err != nil {
		t.Fatal(err)
	}
	f := dataplane.NewFake()
	k := keeper(t, f, state)
	if err := k.Set([]*config.Association{association(t, "a", "out", 0x2001)}); code(err) != control.CodeRefused || control.AsError(err).Cure == "" {
		t.Errorf("a broken file: %v", err)
	}
	if err := k.Set([]*config.Association{association(t, "a", "in", 0x1001)}); err != nil {
		t.Errorf("an inbound association needs no numbers: %v", err)
	}
}

func TestNumbersAreExtendedAndEnd(t *testing.T) {
	n := newNumbers(t.TempDir())
	a := association(t, "a", "out", 0x2001)
	if err := n.reserve(a); err != nil {
		t.Fatal(err)
	}
	if n.extend(map[*config.Association]uint64{a: 10}) {
		t.Error("extended with nearly all left")
	}
	if !n.extend(map[*config.Association]uint64{a: reservation/2 + 1}) || n.used[fingerprint(a)] != reservation/2+1+reservation {
		t.Errorf("reserved up to %d", n.used[fingerprint(a)])
	}
	n.used[fingerprint(a)] = 1<<32 - 1
	if err := n.reserve(a); code(err) != control.CodeRefused || !strings.Contains(err.Error(), "used up all sequence numbers") {
		t.Errorf("at the end: %v", err)
	}
	esn := association(t, "a", "out", 0x2001, "esn", "yes")
	if err := n.reserve(esn); err != nil {
		t.Errorf("with ESN: %v", err)
	}
}

func TestErrorsAreExplained(t *testing.T) {
	a := association(t, "a", "out", 0x2001)
	for _, tt := range []struct {
		err  error
		code string
	}{
		{dataplane.ErrExists, control.CodeExists},
		{fmt.Errorf("netlink: %w", syscall.EEXIST), control.CodeExists},
		{dataplane.ErrLimit, control.CodeLimit},
		{syscall.ENOBUFS, control.CodeLimit},
		{dataplane.ErrTransform, control.CodeUnsupported},
		{syscall.ENOSYS, control.CodeUnsupported},
		{syscall.EPERM, control.CodeForbidden},
		{syscall.ENODEV, control.CodeRefused},
		{syscall.EINVAL, control.CodeRefused},
		{dataplane.ErrClosed, control.CodeInterrupted},
		{errors.New("something"), control.CodeFailed},
		{&control.Error{Code: "own"}, "own"},
	} {
		got := explain(a, tt.err)
		e := control.AsError(got)
		if e.Code != tt.code || e.Code != "own" && e.Message == tt.err.Error() {
			t.Errorf("%v: %s, %q", tt.err, e.Code, e.Message)
		}
		if _, bare := tt.err.(syscall.Errno); bare && e.Cure == "" {
			t.Errorf("%v has no cure", tt.err)
		}
	}
}
