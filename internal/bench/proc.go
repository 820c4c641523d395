package bench

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// ticksPerSecond is USER_HZ, the unit of times in /proc, which is 100 on every
// architecture that Go runs on (proc_pid_stat(5)).
const ticksPerSecond = 100

var errProc = errors.New("/proc does not read as expected")

// parseCPU returns the CPU time in seconds, user and system, of a process from
// its /proc/PID/stat.
func parseCPU(stat []byte) (float64, error) {
	// The second field, the program's name, may hold anything but ends with the
	// last parenthesis.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("%w: stat has %d fields", errProc, len(fields))
	}
	var ticks uint64
	for _, f := range fields[11:13] { // utime, stime
		n, err := strconv.ParseUint(string(f), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%w: %w", errProc, err)
		}
		ticks += n
	}
	return float64(ticks) / ticksPerSecond, nil
}

// parseResident returns the resident memory in octets from /proc/PID/status.
func parseResident(status []byte) (float64, error) {
	for line := range strings.Lines(string(status)) {
		text, ok := strings.CutPrefix(line, "VmRSS:")
		if !ok {
			continue
		}
		kib, err := strconv.ParseUint(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(text), "kB")), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%w: %w", errProc, err)
		}
		return float64(kib) * 1024, nil
	}
	return 0, fmt.Errorf("%w: status has no VmRSS", errProc)
}

// usage is what a process has used so far.
type usage struct {
	cpu      float64 // seconds
	resident float64 // octets
}

func usageOf(pid int) (usage, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return usage{}, err
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return usage{}, err
	}
	var u usage
	if u.cpu, err = parseCPU(stat); err != nil {
		return usage{}, err
	}
	u.resident, err = parseResident(status)
	return u, err
}
