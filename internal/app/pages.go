package app

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"syscall"
)

// releaseProgram gives back the pages of the program's file that its start has
// touched: the code and constants of self-tests, of reading the configuration
// and the credentials. What is needed again the kernel maps again. Where it does
// not succeed, nothing is lost but memory.
func releaseProgram() {
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return
	}
	defer maps.Close()
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		var first, last uintptr
		var access string
		_, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &first, &last, &access)
		written := strings.Contains(access, "w") // data would be as the file has it
		if err != nil || written || !strings.HasSuffix(lines.Text(), " "+self) {
			continue
		}
		_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, first, last-first, syscall.MADV_DONTNEED)
	}
}
