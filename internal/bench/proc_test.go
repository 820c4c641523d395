package bench

import (
	"errors"
	"os"
	"strings"
	"testing"
)

const (
	stat   = "4711 (a name) 1 (x) S 1 4711 4711 0 -1 4194560 1500 0 0 0 1234 66 7 8 20 0 9 0 12345 2000000000 5000\n"
	status = "Name:\tcaponier\nVmPeak:\t 2000000 kB\nVmHWM:\t   21000 kB\nVmRSS:\t   20480 kB\nThreads:\t9\n"
)

func TestParseCPU(t *testing.T) {
	if got, err := parseCPU([]byte(stat)); err != nil || got != 13 {
		t.Errorf("%v seconds, %v, want 13", got, err)
	}
	until := strings.Index(stat, " 66")
	for n := range until {
		if got, err := parseCPU([]byte(stat[:n])); !errors.Is(err, errProc) {
			t.Errorf("the first %d octets give %v seconds, %v", n, got, err)
		}
	}
	if _, err := parseCPU([]byte("4711 (x) S 1")); !errors.Is(err, errProc) {
		t.Errorf("a short line: %v", err)
	}
	if _, err := parseCPU([]byte("1 (x) S 1 1 1 0 -1 1 1 0 0 0 many 66 7")); !errors.Is(err, errProc) {
		t.Errorf("a word for a number: %v", err)
	}
}

func TestParseResident(t *testing.T) {
	if got, err := parseResident([]byte(status)); err != nil || got != 20<<20 {
		t.Errorf("%v octets, %v, want 20 MiB", got, err)
	}
	for _, text := range []string{"", "Name:\tkthreadd\n", "VmRSS:\t many kB\n"} {
		if _, err := parseResident([]byte(text)); !errors.Is(err, errProc) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestUsageOfThisProcess(t *testing.T) {
	u, err := usageOf(os.Getpid())
	if err != nil || u.resident < 1<<20 {
		t.Errorf("%+v, %v", u, err)
	}
	if _, err := usageOf(-1); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no process: %v", err)
	}
}
