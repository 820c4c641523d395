package userspace

import (
	"time"

	"caponier/internal/esp"
	"caponier/internal/ipsec"
	"caponier/internal/netio"
	"caponier/internal/packet"
	"caponier/internal/spd"
)

// fragments puts packets together that were cut before they came to a lane.
type fragments struct {
	reassembler *packet.Reassembler
	lost        uint64 // as counted
	// gathered says that the packet under way was put together, so that it may be
	// cut again, also if it is of IPv6.
	gathered bool
}

// gatherLimits are for what one lane has of the host's and its networks' own
// packets.
var gatherLimits = packet.ReassemblyLimits{Datagrams: 64, PerSource: 32, Octets: 1 << 20, Fragments: 128, Timeout: 30 * time.Second}

// add takes a fragment, and returns the packet that it completes, or nil, and how
// many fragments or packets were given up.
func (f *fragments) add(now time.Time, b []byte, info *packet.Info) (whole []byte, lost uint64) {
	whole, _ = f.reassembler.Add(now, b, info)
	var total uint64
	for d := range packet.ReassemblyDrop(packet.ReassemblyDrops) {
		if d != packet.FragmentKept {
			total += f.reassembler.Drops(d)
		}
	}
	lost, f.lost = total-f.lost, total
	return whole, lost
}

// gather keeps the fragment p, decoded to info, and takes the packet that it
// completes the way of one that came whole.
func (l *outbound) gather(p *netio.Packet, table *spd.Table) {
	if l.fragments.reassembler == nil {
		l.fragments.reassembler = packet.NewReassembler(gatherLimits)
	}
	whole, lost := l.fragments.add(l.plane.coarseNow(), p.Data(), &l.info)
	if lost > 0 {
		l.tally.add(dropFragment, lost)
	}
	if whole == nil {
		return
	}
	size := netio.Headroom + len(whole) + netio.Tailroom
	if l.used+size > len(l.sealed) {
		l.seal()
		if !l.turn() {
			l.tally.add(espDrop(esp.ErrSpace), 1)
			return
		}
	}
	buf := l.sealed[l.used : l.used+size : l.used+size]
	l.used += size
	q := netio.Packet{Buf: buf, Off: netio.Headroom, Len: copy(buf[netio.Headroom:], whole)}
	l.info.Decode(q.Data())
	entry := table.Lookup(ipsec.Out, &l.info)
	if entry == nil {
		l.tally.add(unmatched(&l.info), 1)
		return
	}
	l.flow.entry, l.flow.path, l.flow.info = entry, path{}, l.info
	if l.listeners != nil {
		l.show(&q, &entry.Policy)
	}
	l.fragments.gathered = true
	l.follow(&q, &entry.Policy)
	l.fragments.gathered = false
	l.seal()
}
