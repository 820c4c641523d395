package interop

import (
	"os"
	"os/exec"
	"testing"
	"time"
)

// charon is strongSwan's IKE daemon.
const charon = "/usr/sbin/charon-systemd"

// programs are what the harness calls, and where they come from.
var programs = []struct{ name, pkg string }{
	{charon, "charon-systemd libcharon-extra-plugins libstrongswan-extra-plugins"},
	{"swanctl", "strongswan-swanctl"},
	{"ip", "iproute2"},
	{"nft", "nftables"},
	{"ping", "iputils-ping"},
	{"tcpdump", "tcpdump"},
	{"unshare", "util-linux"},
	{"openssl", "openssl"},
	{"tshark", "tshark"},
}

// require fails the test where it cannot run. It does not skip: a test that
// quietly did nothing would count as a success.
func require(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("network namespaces need root: run as root, with sudo for example")
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p.name); err != nil {
			t.Fatalf("%s is missing: apt-get install %s (scripts/setup.sh test installs everything)", p.name, p.pkg)
		}
	}
}

// Eventually waits until condition holds, and fails the test if it does not
// within the time.
func Eventually(t testing.TB, within time.Duration, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !condition(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}
