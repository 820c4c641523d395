package userspace

import "caponier/internal/packet"

// pieces remembers the ports of first fragments that came through SAs. Later ones
// of the same datagram do not show theirs, and are admitted by the first (RFC 4301,
// Section 7.3). Each place is for one datagram; a later one takes it over. Nothing
// is gained by filling the table: without it, later fragments are admitted only
// where ports do not matter.
type pieces [64]firstPiece

// firstPiece is a first fragment.
type firstPiece struct {
	info   packet.Info
	within uint32 // the SPI of the SA that carried it
	until  int64  // in seconds since 1970
}

// pieceSeconds is how long later fragments may follow: hosts wait for them for 30
// to 60 seconds (RFC 1122, Section 3.3.2; RFC 8200, Section 4.5).
const pieceSeconds = 30

func (t *pieces) place(p *packet.Info) *firstPiece {
	h := p.FragmentID * 0x9e3779b1
	return &t[h>>26]
}

// remember notes the first fragment p.
func (t *pieces) remember(p *packet.Info, within uint32, now int64) {
	*t.place(p) = firstPiece{*p, within, now + pieceSeconds}
}

// recall gives p, a later fragment, the ports of the first, if that has come.
func (t *pieces) recall(p *packet.Info, within uint32, now int64) {
	x := t.place(p)
	f := &x.info
	if now > x.until || x.within != within || f.FragmentID != p.FragmentID || f.Version != p.Version ||
		f.Src != p.Src || f.Dst != p.Dst || p.Version == 4 && f.Protocol != p.Protocol {
		return
	}
	p.Protocol, p.SrcPort, p.DstPort, p.HasPorts = f.Protocol, f.SrcPort, f.DstPort, f.HasPorts
}
