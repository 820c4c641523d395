package interop

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	flag.Parse()
	status, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "interop:", err)
		status = 1
	}
	os.Exit(status)
}

func run(m *testing.M) (status int, err error) {
	// The tests wait most of the time: more of them than processors run side by
	// side.
	if err := flag.Set("test.parallel", "6"); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, removeProgram()) }()
	if status = m.Run(); status == 0 && complete() {
		err = checkReport()
	}
	return status, err
}
