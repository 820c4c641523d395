package archtest

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "caponier"

// floors lists the packages from the ground up. A package may import the ones
// on floors below its own, and on its own floor those named before it.
var floors = [][]string{
	{"internal/secret", "internal/buffer", "internal/nearest", "internal/ike/timer", "internal/ipsec", "internal/packet", "internal/dn", "internal/randtest", "internal/gmreport"},
	{"internal/vasm", "internal/sm/derive", "internal/sm/gen", "internal/sm", "internal/lanes/gen", "internal/lanes", "internal/suite/cbcmac", "internal/suite/modp", "internal/suite", "internal/cert", "internal/keystore"},
	{"internal/drop", "internal/replay", "internal/aggfrag", "internal/esp", "internal/ah", "internal/ike/message", "internal/ike/isakmp", "internal/ike/keys", "internal/ike/v2/rules", "internal/ike/v2/conf", "internal/ike/step", "internal/ike/v2/fault", "internal/ike/v1/proposal", "internal/ike/v1", "internal/ike/v2", "internal/config/identity", "internal/config/problem", "internal/config/syntax", "internal/config/compact", "internal/config", "internal/config/describe"},
	{"internal/dataplane/kernel/xfrm", "internal/spd", "internal/sad", "internal/pki"},
	{"internal/logging", "internal/netio", "internal/netio/frame", "internal/netio/afxdp", "internal/netio/afpacket", "internal/netio/overhear", "internal/netio/nexthop", "internal/dataplane", "internal/capture", "internal/capture/pcapng", "internal/dataplane/dataplanetest", "internal/dataplane/userspace", "internal/dataplane/kernel", "internal/ike", "internal/host"},
	{"internal/control", "internal/manual", "internal/diagnose", "internal/lab/netns", "internal/netio/frame/frametest", "internal/lab", "internal/bench/plot", "internal/bench/stream", "internal/bench"},
	{"internal/app"},
	{"cmd/caponier"},
}

// apart lists packages that must not reach each other, whatever their floors.
var apart = []struct{ from, to, why string }{
	{"internal/ike", "internal/dataplane/", "control speaks to planes through dataplane.Backend"},
	{"internal/dataplane", "internal/ike", "a plane knows SAs and policies, not how they were negotiated"},
	{"internal/control", "internal/ike", "control describes the gateway in its own values"},
	{"internal/control", "internal/app", "app implements control.Gateway"},
	{"internal/lab", "internal/app", "the lab drives the program from outside, as a user does"},
	{"internal/bench", "internal/app", "the benchmark drives the program from outside, as a user does"},
}

// fences names the packages that may import a third-party module. Test files
// are free.
var fences = map[string][]string{
	"golang.org/x/sys/unix":           {"internal/netio", "internal/host", "internal/lab/netns", "internal/netio/frame/frametest", "internal/dataplane/kernel", "internal/bench/stream"},
	"github.com/spf13/cobra":          {"cmd/caponier"},
	"github.com/spf13/pflag":          {"cmd/caponier"},
	"github.com/goccy/go-yaml":        {"internal/config/syntax"},
	"github.com/cloudflare/circl":     {"internal/suite"},
	"github.com/jsimonetti/rtnetlink": {"internal/host"},
	"github.com/mdlayher/netlink":     {"internal/netio/nexthop", "internal/host", "internal/dataplane/kernel"},
	"github.com/gopacket/gopacket":    {},
	"github.com/gaissmai/bart":        {"internal/spd"},
	"golang.org/x/sys/cpu":            {"internal/sm", "internal/lanes"},
	"github.com/cilium/ebpf":          {"internal/netio/afxdp", "internal/netio/afpacket"},
	"github.com/emmansun/gmsm":        {"internal/cert", "internal/keystore", "internal/pki", "internal/sm", "internal/suite"},
	"github.com/emmansun/go-pkcs12":   {"internal/pki"},
	"golang.org/x/term":               {"cmd/caponier", "internal/control"},
	"golang.org/x/crypto":             {"internal/suite", "internal/pki"},
	"golang.org/x/net":                {"internal/netio"},
	"github.com/go-analyze/charts":    {"internal/bench/plot"},
	"golang.org/x/sync":               {},
	"github.com/google/go-cmp":        {},
	"go.uber.org/goleak":              {},
}

// pure lists the packages that may not touch the world: no sockets, clocks,
// processes, files or logs.
var pure = []string{
	"internal/secret", "internal/buffer", "internal/nearest", "internal/ike/timer", "internal/ipsec", "internal/packet", "internal/dn", "internal/randtest", "internal/sm", "internal/lanes", "internal/suite/cbcmac", "internal/suite/modp", "internal/suite", "internal/cert",
	"internal/drop", "internal/replay", "internal/aggfrag", "internal/esp", "internal/ah", "internal/ike/message", "internal/ike/isakmp", "internal/ike/keys", "internal/ike/v2/rules", "internal/ike/v2/conf", "internal/ike/step", "internal/ike/v2/fault", "internal/ike/v1/proposal", "internal/ike/v1", "internal/ike/v2",
	"internal/spd", "internal/dataplane/kernel/xfrm",
}

var worldly = []string{"net", "os", "os/exec", "log", "syscall", "net/http"}

// logValues lists the pure packages whose values say how they are logged; none
// logs.
var logValues = []string{"internal/secret", "internal/ike/message"}

type pkg struct {
	ImportPath string
	Dir        string
	Doc        string
	Imports    []string
	GoFiles    []string
}

func load(t *testing.T) map[string]pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,Doc,Imports,GoFiles", "./...")
	cmd.Dir = root(t)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	pkgs := make(map[string]pkg)
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs[strings.TrimPrefix(p.ImportPath, module+"/")] = p
	}
	return pkgs
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Dir(filepath.Dir(dir))
}

func floorOf(name string) (floor, place int) {
	for f, rooms := range floors {
		if p := slices.Index(rooms, name); p >= 0 {
			return f, p
		}
	}
	return -1, -1
}

func isExempt(name string) bool {
	return name == "internal/archtest" || strings.HasPrefix(name, "test/")
}

func TestImportsPointDownwards(t *testing.T) {
	for name, p := range load(t) {
		if isExempt(name) {
			continue
		}
		floor, place := floorOf(name)
		if floor < 0 {
			t.Errorf("%s is on no floor: add it to the list, or to a room that exists", name)
			continue
		}
		for _, imp := range p.Imports {
			to, ours := strings.CutPrefix(imp, module+"/")
			if !ours {
				continue
			}
			f, q := floorOf(to)
			if f > floor || f == floor && q >= place {
				t.Errorf("%s imports %s, which is not below it", name, to)
			}
			for _, a := range apart {
				if strings.HasPrefix(name, a.from) && strings.HasPrefix(to, a.to) && !strings.HasPrefix(to, a.from+"/") {
					t.Errorf("%s imports %s: %s", name, to, a.why)
				}
			}
		}
	}
}

func TestFences(t *testing.T) {
	for name, p := range load(t) {
		if strings.HasPrefix(name, "test/") {
			continue
		}
		for _, imp := range p.Imports {
			if !strings.Contains(strings.Split(imp, "/")[0], ".") {
				continue
			}
			fenced := false
			for module, rooms := range fences {
				if imp == module || strings.HasPrefix(imp, module+"/") {
					fenced = true
					if !slices.ContainsFunc(rooms, func(r string) bool { return name == r || strings.HasPrefix(name, r+"/") }) {
						t.Errorf("%s imports %s, which is fenced in %v", name, imp, rooms)
					}
				}
			}
			if !fenced {
				t.Errorf("%s imports %s: give it a fence here and a line in docs/dependencies.md", name, imp)
			}
		}
	}
}

func TestPureRoomsStayPure(t *testing.T) {
	pkgs := load(t)
	for _, name := range pure {
		p, ok := pkgs[name]
		if !ok {
			t.Errorf("%s is gone: take it off the list", name)
			continue
		}
		for _, imp := range p.Imports {
			if slices.Contains(worldly, imp) || imp == "log/slog" && !slices.Contains(logValues, name) {
				t.Errorf("%s imports %s", name, imp)
			}
		}
		for _, f := range p.GoFiles {
			src, err := os.ReadFile(filepath.Join(p.Dir, f))
			if err != nil {
				t.Fatal(err)
			}
			for _, call := range []string{"time.Now(", "time.Since(", "time.After(", "time.NewTimer(", "\tgo func", "go:linkname"} {
				if strings.Contains(string(src), call) {
					t.Errorf("%s/%s uses %s", name, f, strings.TrimSpace(call))
				}
			}
		}
	}
}

func TestEveryPackageHasADocComment(t *testing.T) {
	for name, p := range load(t) {
		if p.Doc == "" && len(p.GoFiles) > 0 {
			t.Errorf("%s has no package comment", name)
		}
	}
}

// The caps of docs/architecture.md: past them, a room is two rooms.
func TestRoomsAreSmall(t *testing.T) {
	const maxFile, maxPackage = 650, 4000
	for name, p := range load(t) {
		total := 0
		for _, f := range p.GoFiles {
			src, err := os.ReadFile(filepath.Join(p.Dir, f))
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.Count(string(src), "\n")
			total += lines
			if lines > maxFile {
				t.Errorf("%s/%s has %d lines, more than %d", name, f, lines, maxFile)
			}
		}
		if total > maxPackage {
			t.Errorf("%s has %d lines, more than %d", name, total, maxPackage)
		}
	}
}
