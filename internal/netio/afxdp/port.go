package afxdp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"caponier/internal/drop"
	"caponier/internal/ipsec"
	"caponier/internal/netio/frame"
)

// port is an interface with its program, and a socket on each queue.
type port struct {
	// Constant after opening.
	name   string
	index  int
	tagged bool
	mode   Mode
	queues []*Socket

	program *ebpf.Program
	link    link.Link
	sockets *ebpf.Map // by queue
	tally   *ebpf.Map
}

func openPort(name string, r *rules, o Options) (_ *port, err error) {
	p := &port{name: name}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	nic, err := net.InterfaceByName(name)
	if err != nil {
		return nil, err
	}
	if len(nic.HardwareAddr) != 6 {
		return nil, errors.New("not an Ethernet interface: capture otherwise")
	}
	d, err := inspect(name)
	if err != nil {
		return nil, err
	}
	p.index, p.tagged = nic.Index, !d.strips
	chunk := chunkFor(nic.MTU + frame.HeaderLen + frame.TagLen)
	if err := p.makeProgram(r, &place{
		mac: [6]byte(nic.HardwareAddr), tagged: p.tagged, longest: chunk - kernelRoom,
	}, d.queues); err != nil {
		return nil, err
	}
	if p.link, p.mode, err = attach(p.program, p.index, o.Mode); err != nil {
		return nil, err
	}
	o.Mode = p.mode
	for q := range d.queues {
		s, err := openSocket(p.index, q, chunk, o)
		if err != nil {
			return nil, fmt.Errorf("queue %d: %w", q, err)
		}
		s.finishes = d.virtual
		p.queues = append(p.queues, s)
		if err := s.into(p.sockets, uint32(q)); err != nil {
			return nil, fmt.Errorf("queue %d: put the socket where the program finds it: %w", q, err)
		}
	}
	return p, nil
}

// makeProgram loads the program with the maps that are the interface's own.
func (p *port) makeProgram(r *rules, at *place, queues int) (err error) {
	if p.sockets, err = ebpf.NewMap(&ebpf.MapSpec{
		Name: "caponier_xsk", Type: ebpf.XSKMap, KeySize: 4, ValueSize: 4, MaxEntries: uint32(queues),
	}); err != nil {
		return needs(fmt.Errorf("make the map of sockets: %w", err), "CAP_BPF and CAP_NET_ADMIN")
	}
	if p.tally, err = ebpf.NewMap(&ebpf.MapSpec{
		Name: "caponier_tally", Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 8, MaxEntries: tallies,
	}); err != nil {
		return needs(fmt.Errorf("make the map of counters: %w", err), "CAP_BPF and CAP_NET_ADMIN")
	}
	at.sockets, at.tally = p.sockets, p.tally
	p.program, err = ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "caponier_steer", Type: ebpf.XDP, Instructions: program(r, at), License: "Apache-2.0",
	})
	if err != nil {
		return needs(fmt.Errorf("load the program: %w", err), "CAP_BPF and CAP_NET_ADMIN")
	}
	return nil
}

// into puts the socket into a map of sockets.
func (s *Socket) into(m *ebpf.Map, queue uint32) error {
	var putErr error
	err := s.raw.Control(func(fd uintptr) { putErr = m.Put(queue, uint32(fd)) })
	return errors.Join(err, putErr)
}

// addTo adds the port's counters to sums.
func (p *port) addTo(sums map[string]uint64) {
	for i, name := range [tallies]string{
		tallyInner: "xdp-inner", tallyOuter: "xdp-outer",
		tallyNoSocket: "xdp-drop-no-socket", tallyOuterPassed: "xdp-pass-no-socket",
		tallyNoSA: drop.NoSA.Name(ipsec.ESP), tallyReserved: "reserved-spi", // as the data plane counts them
	} {
		var each []uint64
		if p.tally == nil || p.tally.Lookup(uint32(i), &each) != nil {
			continue
		}
		for _, n := range each {
			sums[name] += n
		}
	}
	for _, s := range p.queues {
		n := s.Statistics()
		sums["xsk-drop-copy"] += n.Rx_dropped
		sums["xsk-drop-ring-full"] += n.Rx_ring_full
		sums["xsk-drop-no-chunk"] += n.Rx_fill_ring_empty_descs
		sums["xsk-invalid"] += n.Rx_invalid_descs + n.Tx_invalid_descs
		sums["xsk-no-room"] += n.NoRoom
	}
}

// close takes the program off first: with it and without a socket, inner packets
// would be dropped.
func (p *port) close() error {
	var errs []error
	if p.link != nil {
		errs = append(errs, p.link.Close())
	}
	for _, s := range p.queues {
		errs = append(errs, s.Close())
	}
	if p.program != nil {
		errs = append(errs, p.program.Close())
	}
	for _, m := range []*ebpf.Map{p.sockets, p.tally} {
		if m != nil {
			errs = append(errs, m.Close())
		}
	}
	return errors.Join(errs...)
}

// trieKey is the key of a prefix (struct bpf_lpm_trie_key).
func trieKey(p netip.Prefix) []byte {
	return append(binary.NativeEndian.AppendUint32(nil, uint32(p.Bits())), p.Addr().AsSlice()...)
}

// details are what the driver says of an interface.
type details struct {
	queues  int  // that receive
	strips  bool // it takes VLAN tags off
	virtual bool // its frames may come from memory, with their checksums unfinished
}

// Requests and flags of linux/ethtool.h.
const (
	ethtoolChannels = 0x3c // ETHTOOL_GCHANNELS
	ethtoolFlags    = 0x25 // ETHTOOL_GFLAGS
	flagStripsVLAN  = 1 << 8
)

// virtualDrivers are those whose interfaces do not compute checksums, because the
// other end is on the same machine.
var virtualDrivers = map[string]bool{"veth": true, "virtio_net": true, "tun": true, "vif": true, "bridge": true, "macvlan": true}

// inspect asks the driver. What it does not answer is taken for one queue, and no
// offload.
func inspect(name string) (details, error) {
	d := details{queues: 1}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return d, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	if info, err := unix.IoctlGetEthtoolDrvinfo(fd, name); err == nil {
		d.virtual = virtualDrivers[unix.ByteSliceToString(info.Driver[:])]
	}
	var channels struct{ cmd, maxRx, maxTx, maxOther, maxCombined, rx, tx, other, combined uint32 }
	channels.cmd = ethtoolChannels
	if ethtool(fd, name, unsafe.Pointer(&channels)) == nil {
		d.queues = max(1, int(channels.rx+channels.combined))
	}
	var flags struct{ cmd, data uint32 }
	flags.cmd = ethtoolFlags
	if ethtool(fd, name, unsafe.Pointer(&flags)) == nil {
		d.strips = flags.data&flagStripsVLAN != 0
	}
	return d, nil
}

// ethtool makes a request of SIOCETHTOOL.
func ethtool(fd int, name string, request unsafe.Pointer) error {
	var ifr struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [24 - unsafe.Sizeof(uintptr(0))]byte // the rest of the union
	}
	ifr.data = request
	copy(ifr.name[:unix.IFNAMSIZ-1], name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifr)))
	if errno != 0 {
		return os.NewSyscallError("ioctl SIOCETHTOOL", errno)
	}
	return nil
}
