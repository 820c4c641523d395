package userspace

import (
	"bufio"
	"cmp"
	"crypto/rand"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"caponier/internal/esp"
	"caponier/internal/host"
	"caponier/internal/ipsec"
	"caponier/internal/lab/netns"
	"caponier/internal/netio/frame"
	"caponier/internal/packet"
	"caponier/internal/secret"
)

// hopEnv makes this program the gateway of BenchmarkHop: its value is the capture,
// and "awake" before it where the workers stay awake.
const hopEnv = "CAPONIER_TEST_HOP"

func TestMain(m *testing.M) {
	if how := os.Getenv(hopEnv); how != "" {
		if err := hopGateway(strings.TrimPrefix(strings.TrimPrefix(how, "awake"), "tun"), strings.HasPrefix(how, "awake")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// The SAs of the gateway of BenchmarkHop, whose key is no secret.
const (
	hopOut ipsec.SPI = 0x1001
	hopIn  ipsec.SPI = 0x1002
)

func hopSA(d ipsec.Direction, spi ipsec.SPI) ipsec.SA {
	side := func(s string) []ipsec.Selector { return []ipsec.Selector{ipsec.FromPrefix(netip.MustParsePrefix(s))} }
	return ipsec.SA{
		SPI: spi, Protocol: ipsec.ESP, Direction: d, Encap: true,
		Local: netip.MustParseAddrPort("192.0.2.1:4500"), Remote: netip.MustParseAddrPort("192.0.2.2:4500"),
		Encr: gcm128, EncrKey: secret.Copy(make([]byte, 20)),
		ReqID: 1, LocalTS: side("10.1.0.0/16"), RemoteTS: side("10.2.0.0/16"),
	}
}

// hopGateway runs a gateway between the interfaces lan and wan. For each line that
// it reads it writes how much time of a processor it has taken, in nanoseconds.
func hopGateway(capture string, awake bool) error {
	d, name, err := Open(OpenOptions{Name: "capo0", Workers: 1, Mark: host.Mark, Apart: awake})
	if err != nil {
		return err
	}
	if d.Frames, err = openFrames(capture, nil, 1, name, awake); err != nil {
		return err
	}
	steer := func(frame.Steering) error { return nil }
	if d.Frames != nil {
		steer = d.Frames.Steer
	}
	p, err := New(Options{Devices: d, Rand: rand.Reader, StayAwake: awake})
	if err != nil {
		return err
	}
	defer p.Close()
	sa := hopSA(ipsec.Out, hopOut)
	policies := []ipsec.Policy{{Name: "lan", Action: ipsec.Protect, ReqID: 1, Local: sa.LocalTS, Remote: sa.RemoteTS}}
	if err := p.SetPolicies(policies); err != nil {
		return err
	}
	h, err := host.Open(host.Options{Device: name, Steer: steer})
	if err != nil {
		return err
	}
	defer h.Close()
	if err := h.Set(host.FromPolicies(policies)); err != nil {
		return err
	}
	if err := p.AddSA(hopSA(ipsec.In, hopIn)); err != nil {
		return err
	}
	if err := p.AddSA(sa); err != nil {
		return err
	}
	for lines := bufio.NewScanner(os.Stdin); ; {
		fmt.Println(cpuTime().Nanoseconds())
		if !lines.Scan() {
			return lines.Err()
		}
	}
}

// BenchmarkHop measures how long one gateway keeps a packet of 64 octets, from the
// system call that sends it to the one that has it at the other side: sealing
// ("out"), opening ("in"). The gateway is a process on a processor of its own, the
// benchmark is host and peer on another, and asks without end. Between packets it
// pauses. Each is a median in microseconds; "cpus" is how many processors the
// gateway holds.
func BenchmarkHop(b *testing.B) {
	if runtime.NumCPU() < 2 {
		b.Fatal("needs two processors")
	}
	for _, pause := range []time.Duration{200 * time.Microsecond, 5 * time.Millisecond} {
		for _, capture := range []string{"tun", "afpacket", "afxdp"} {
			for _, mode := range []string{"", "awake"} {
				b.Run(fmt.Sprintf("pause=%v/capture=%s/latency=%s", pause, capture, cmp.Or(strings.Replace(mode, "awake", "low", 1), "normal")), func(b *testing.B) {
					newHop(b, mode+capture).run(b, pause)
				})
			}
		}
	}
}

// hop is a gateway between two interfaces of one namespace.
type hop struct {
	inner, outer int // sockets
	cpu          func() time.Duration
	sealer       *esp.Outbound
	sequence     uint64
	reply        []byte // the inner packet that comes back
	buf          [2048]byte
}

func newHop(b *testing.B, mode string) *hop {
	b.Helper()
	must := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	id := fmt.Sprintf("cphop-%d-%d", os.Getpid(), labs.Add(1))
	far, err := netns.Create(id + "far")
	must(err)
	b.Cleanup(func() { far.Delete() })
	gw, err := netns.Create(id + "gw")
	must(err)
	b.Cleanup(func() { gw.Delete() })
	must(gw.Forward())
	must(netns.Link(far, "in", gw, "lan"))
	must(netns.Link(far, "out", gw, "wan"))
	must(far.Addr("in", netip.MustParsePrefix("10.1.0.2/24")))
	must(gw.Addr("lan", netip.MustParsePrefix("10.1.0.1/24")))
	must(far.Addr("out", netip.MustParsePrefix("192.0.2.2/24")))
	must(gw.Addr("wan", netip.MustParsePrefix("192.0.2.1/24")))
	must(far.Route(netip.MustParsePrefix("10.2.0.0/16"), netip.MustParseAddr("10.1.0.1")))
	must(gw.Route(netip.MustParsePrefix("10.2.0.0/16"), netip.MustParseAddr("192.0.2.2")))

	h := new(hop)
	open := func(near, remote string) (fd int) {
		must(far.Do(func() (err error) {
			if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
				return err
			}
			address := func(s string) unix.Sockaddr {
				a := netip.MustParseAddrPort(s)
				return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
			}
			if err := unix.Bind(fd, address(near)); err != nil {
				return err
			}
			return unix.Connect(fd, address(remote))
		}))
		b.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	h.inner = open("10.1.0.2:5000", "10.2.0.2:5000")
	h.outer = open("192.0.2.2:4500", "192.0.2.1:4500")
	sa := hopSA(ipsec.Out, hopIn)
	h.sealer, err = esp.NewOutbound(&sa)
	must(err)
	h.reply = datagramBack(64)

	program := exec.Command(os.Args[0])
	// More than one thread of Go's own runs on the processor, as it would on several.
	program.Env = append(os.Environ(), hopEnv+"="+mode, "GOMAXPROCS=2")
	program.Stderr = os.Stderr
	in, err := program.StdinPipe()
	must(err)
	out, err := program.StdoutPipe()
	must(err)
	must(gw.Do(func() error { return onProcessor(1, program.Start) }))
	b.Cleanup(func() {
		in.Close()
		if err := program.Wait(); err != nil {
			b.Error(err)
		}
	})
	lines := bufio.NewScanner(out)
	read := func() time.Duration {
		if !lines.Scan() {
			b.Fatal("the gateway has ended: ", lines.Err())
		}
		n, err := strconv.ParseInt(lines.Text(), 10, 64)
		must(err)
		return time.Duration(n)
	}
	read()
	h.cpu = func() time.Duration {
		fmt.Fprintln(in)
		return read()
	}
	return h
}

// onProcessor runs f on one processor alone; what it starts stays there.
func onProcessor(number int, f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, only unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return err
	}
	only.Set(number)
	if err := unix.SchedSetaffinity(0, &only); err != nil {
		return err
	}
	defer unix.SchedSetaffinity(0, &before)
	return f()
}

// datagramBack is a UDP packet with n octets from the far host to the near one.
func datagramBack(n int) []byte {
	p := make([]byte, 28+n)
	copy(p, []byte{0x45, 0, 0, byte(len(p)), 0, 0, 0, 0, 64, packet.ProtocolUDP, 0, 0, 10, 2, 0, 2, 10, 1, 0, 2})
	sum := packet.Checksum(p[:20])
	p[10], p[11] = byte(sum>>8), byte(sum)
	copy(p[20:], []byte{5000 >> 8, 5000 & 0xff, 5000 >> 8, 5000 & 0xff, 0, byte(8 + n)})
	return p
}

// seal makes the next packet of the peer.
func (h *hop) seal(b *testing.B) []byte {
	h.sequence++
	n, err := h.sealer.Seal(h.buf[:h.sealer.SealedLen(len(h.reply))], h.reply, h.sequence, esp.NextIPv4)
	if err != nil {
		b.Fatal(err)
	}
	return h.buf[:n]
}

// hopLost is when a packet counts as lost.
const hopLost = 200 * time.Millisecond

// pass sends data by one socket and asks the other until it has something.
func (h *hop) pass(b *testing.B, from, to int, data []byte) (took time.Duration, ok bool) {
	var got [2048]byte
	begin := time.Now()
	if _, err := unix.Write(from, data); err != nil {
		b.Fatal(err)
	}
	for {
		n, _, _ := unix.Recvfrom(to, got[:], unix.MSG_DONTWAIT)
		if took = time.Since(begin); n > 0 || took > hopLost {
			return took, n > 0
		}
	}
}

func (h *hop) run(b *testing.B, pause time.Duration) {
	err := onProcessor(0, func() error {
		data := make([]byte, 64)
		var out, in []time.Duration
		idle := func() {
			for begin := time.Now(); time.Since(begin) < pause; {
			}
		}
		for range 50 { // routes, neighbours, what is made when it is first used
			h.pass(b, h.inner, h.outer, data)
			h.pass(b, h.outer, h.inner, h.seal(b))
		}
		before, begin := h.cpu(), time.Now()
		for b.Loop() {
			idle()
			if took, ok := h.pass(b, h.inner, h.outer, data); ok {
				out = append(out, took)
			}
			idle()
			if took, ok := h.pass(b, h.outer, h.inner, h.seal(b)); ok {
				in = append(in, took)
			}
		}
		cpus := float64(h.cpu()-before) / float64(time.Since(begin))
		report := func(name string, all []time.Duration) {
			slices.Sort(all)
			if len(all) > 0 {
				b.ReportMetric(float64(all[len(all)/2].Nanoseconds())/1000, "us-"+name)
				b.ReportMetric(float64(all[len(all)*9/10].Nanoseconds())/1000, "us-"+name+"-p90")
			}
		}
		b.ReportMetric(0, "ns/op")
		report("out", out)
		report("in", in)
		b.ReportMetric(cpus, "cpus")
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
}
