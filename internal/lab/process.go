package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"caponier/internal/lab/netns"
)

// process is a program of the lab that outlives the command that started it.
// Start distinguishes it from a later one that got the same process id.
type process struct {
	Name  string `json:"name"`
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks after boot, from /proc/PID/stat
}

// launch starts a program in a namespace, or in the present one where n is nil,
// its output appended to a log file in dir, in a session of its own.
func launch(dir string, n *netns.NS, name string, argv ...string) (process, error) {
	log, err := os.OpenFile(filepath.Join(dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return process{}, err
	}
	defer log.Close()
	if n != nil {
		// ip-netns-exec replaces itself by the program, which keeps the process id.
		argv = append([]string{"ip", "netns", "exec", n.Name}, argv...)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return process{}, fmt.Errorf("starting %s: %w", name, err)
	}
	p := process{Name: name, PID: cmd.Process.Pid}
	if p.Start, err = startTime(p.PID); err != nil {
		return process{}, fmt.Errorf("starting %s: %w", name, errors.Join(err, cmd.Process.Kill()))
	}
	// Reap it where it ends while this command still runs, as in a test.
	go func() { _ = cmd.Wait() }()
	return p, nil
}

// alive reports whether the process is still the one that was started.
func (p process) alive() bool {
	start, err := startTime(p.PID)
	return err == nil && start == p.Start
}

// end sends a signal and waits for the process to be gone.
func (p process) end(sig syscall.Signal, patience time.Duration) error {
	if !p.alive() {
		return nil
	}
	if err := syscall.Kill(p.PID, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("ending %s: %w", p.Name, err)
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if !p.alive() {
			return nil
		}
	}
	return fmt.Errorf("%s (process %d) does not end", p.Name, p.PID)
}

// startTime reads the start time of a process that is not a zombie.
func startTime(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The second field, the program's name, may hold anything but ends with the
	// last parenthesis (proc_pid_stat(5)).
	s := string(b)
	fields := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
	if len(fields) < 20 || fields[0] == "Z" {
		return 0, os.ErrProcessDone
	}
	return strconv.ParseUint(fields[19], 10, 64)
}
