package interop

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What a test makes is gone when it ends, also when it panics. What a test
// process leaves behind that is killed, the next network sweeps away.
func TestHarnessCleansUp(t *testing.T) {
	const variable = "INTEROP_VICTIM"
	if end := os.Getenv(variable); end != "" {
		victim(t, end)
		return
	}
	t.Parallel()
	for _, end := range []string{"return", "fail", "panic", "kill"} {
		t.Run(end, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestHarnessCleansUp$")
			cmd.Env = append(os.Environ(), variable+"="+end)
			out, err := cmd.StdoutPipe()
			must(t, err)
			must(t, cmd.Start())
			var left []string
			for lines := bufio.NewScanner(out); lines.Scan(); {
				path, ok := strings.CutPrefix(lines.Text(), "made ")
				if !ok {
					continue
				}
				if path == "everything" {
					if end == "kill" {
						must(t, cmd.Process.Kill())
					}
					continue
				}
				left = append(left, path)
			}
			err = cmd.Wait()
			if (err == nil) != (end == "return") {
				t.Errorf("the test process ended with %v", err)
			}
			if len(left) != 7 {
				t.Fatalf("the test process made %q", left)
			}
			if end == "kill" {
				sweep(t)
			}
			for _, path := range left {
				Eventually(t, 5*time.Second, path+" is gone", func() bool {
					_, err := os.Stat(path)
					return os.IsNotExist(err)
				})
			}
		})
	}
}

// victim makes things, says what, and comes to its end.
func victim(t *testing.T, end string) {
	n := NewNATNetwork(t)
	s := StartStrongSwan(t, n.A.Gateway, pskConfig(n.A, n.B, "a.example", "b.example"))
	for _, name := range []string{n.A.Gateway.Name, n.A.Host.Name, n.B.Gateway.Name, n.B.Host.Name, n.NAT.Name} {
		path := filepath.Join("/run/netns", name)
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
		fmt.Println("made", path)
	}
	fmt.Println("made", s.Dir)
	fmt.Printf("made /proc/%d\n", s.cmd.Process.Pid)
	fmt.Println("made everything")
	switch end {
	case "fail":
		t.Fatal("on purpose")
	case "panic":
		panic("on purpose")
	case "kill":
		time.Sleep(time.Minute)
	}
}
