package interop

import (
	"os/exec"
	"runtime"
	"syscall"
)

// startBound starts a process that dies with this one, even if this one is
// killed, and sends its end to done.
func startBound(cmd *exec.Cmd, done chan<- error) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		// Pdeathsig is about the thread that starts the process. Any other thread
		// might end earlier: netns.NS.Do uses threads up.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			done <- cmd.Wait()
		}
	}()
	return <-started
}
