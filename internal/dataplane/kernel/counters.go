package kernel

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"unicode"

	"caponier/internal/dataplane/kernel/xfrm"
	"caponier/internal/ipsec"
)

// totals are what SAs that are gone have carried.
type totals struct{ outPackets, outOctets, inPackets, inOctets uint64 }

func (t *totals) retire(d ipsec.Direction, s *xfrm.State) {
	if d == ipsec.Out {
		t.outPackets += s.Usage.Packets
		t.outOctets += s.Usage.Bytes
		return
	}
	t.inPackets += s.Usage.Packets
	t.inOctets += s.Usage.Bytes
}

// Counters implements dataplane.Backend. Beside the totals they are those of
// /proc/net/xfrm_stat, where the kernel has it: those that the user-space plane
// has too by the same name, the others by their own. They count for the whole
// network namespace.
func (p *Plane) Counters() map[string]uint64 {
	out := p.stats.read()
	p.mu.Lock()
	defer p.mu.Unlock()
	sum := p.totals
	if len(p.sas) > 0 && !p.closed {
		if _, err := p.req.states(func(s *xfrm.State) {
			if e := p.byState[s.ID]; e != nil {
				sum.retire(e.sa.Direction, s)
			}
		}); err != nil {
			p.log.Debug("the kernel's counters are not read", "error", err)
		}
	}
	out["out-packets"], out["out-octets"] = sum.outPackets, sum.outOctets
	out["in-packets"], out["in-octets"] = sum.inPackets, sum.inOctets
	out["no-policy"] = p.ditched.Load()
	out["events-lost"] = p.events.Lost()
	out["netlink-unread"] = p.unread.Load()
	out["netlink-overruns"] = p.overruns.Load()
	out["policies-healed"] = p.healed.Load()
	return out
}

// statNames are the kernel's counters that mean what one of the user-space plane
// does (Documentation/networking/xfrm_proc.rst of the kernel).
var statNames = map[string]string{
	"XfrmInNoStates":         "sa-not-found",
	"XfrmInStateProtoError":  "esp-integrity",
	"XfrmInStateSeqError":    "esp-replay",
	"XfrmInStateExpired":     "sa-lifetime",
	"XfrmInStateMismatch":    "sa-selector",
	"XfrmOutNoStates":        "no-sa",
	"XfrmOutPolBlock":        "policy-discard",
	"XfrmOutStateSeqError":   "esp-sequence-exhausted",
	"XfrmInHdrError":         "esp-short",
	"XfrmInStateModeError":   "esp-next-header",
	"XfrmOutStateProtoError": "send-failed",
}

// statName names a counter: XfrmInTmplMismatch is xfrm-in-tmpl-mismatch.
func statName(theirs string) string {
	if ours := statNames[theirs]; ours != "" {
		return ours
	}
	var b strings.Builder
	for i, r := range theirs {
		if unicode.IsUpper(r) && i > 0 {
			b.WriteByte('-')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// statFile is /proc/net/xfrm_stat of the namespace in which it was opened.
type statFile struct{ f *os.File }

// openStats opens it; a kernel without CONFIG_XFRM_STATISTICS has none.
func openStats() *statFile {
	f, err := os.Open("/proc/thread-self/net/xfrm_stat")
	if err != nil {
		return &statFile{}
	}
	return &statFile{f}
}

func (s *statFile) read() map[string]uint64 {
	out := make(map[string]uint64)
	if s.f == nil {
		return out
	}
	const most = 1 << 16
	lines := bufio.NewScanner(io.NewSectionReader(s.f, 0, most))
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 64)
		if err == nil {
			out[statName(strings.TrimSpace(name))] += n
		}
	}
	return out
}

func (s *statFile) close() error {
	if s.f == nil {
		return nil
	}
	return s.f.Close()
}

// sysctl is a setting that was changed, with its value of before; nothing to
// restore where it is empty.
type sysctl struct {
	f      *os.File
	before string
}

// keepPackets makes the kernel hold packets that wait for an SA, up to 100 for
// each policy, instead of dropping them (net.core.xfrm_larval_drop of the
// network namespace).
func keepPackets(log *slog.Logger) sysctl {
	f, err := os.OpenFile("/proc/sys/net/core/xfrm_larval_drop", os.O_RDWR, 0)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			log.Warn("packets that wait for an SA are dropped by the kernel", "sysctl", "net.core.xfrm_larval_drop", "error", err)
		}
		return sysctl{}
	}
	b := make([]byte, 16)
	n, _ := f.ReadAt(b, 0)
	before := strings.TrimSpace(string(b[:n]))
	if before == "0" {
		f.Close()
		return sysctl{}
	}
	if _, err := f.WriteAt([]byte("0\n"), 0); err != nil {
		log.Warn("packets that wait for an SA are dropped by the kernel", "sysctl", "net.core.xfrm_larval_drop", "error", err)
		f.Close()
		return sysctl{}
	}
	return sysctl{f, before}
}

func (s *sysctl) restore() {
	if s.f == nil {
		return
	}
	_, _ = s.f.WriteAt([]byte(s.before+"\n"), 0) // what it was; nobody depends on it
	s.f.Close()
}
