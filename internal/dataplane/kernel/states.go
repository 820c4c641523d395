package kernel

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"time"

	"caponier/internal/dataplane"
	"caponier/internal/dataplane/kernel/xfrm"
	"caponier/internal/ipsec"
)

// DefaultReplayWindow is the window of SAs that ask for none in particular: the
// widest that the kernel has.
const DefaultReplayWindow = xfrm.MaxWindow

// stateOf says an SA in the kernel's terms. The state shares the SA's keys.
func stateOf(sa *ipsec.SA) (xfrm.State, error) {
	if len(sa.LocalTS) == 0 || len(sa.RemoteTS) == 0 {
		return xfrm.State{}, errors.New("no traffic selectors")
	}
	if sa.Aggfrag.On { // xfrm_iptfs, which kernels have from 6.14 on, is not spoken here
		return xfrm.State{}, fmt.Errorf("AGGFRAG mode is of the user-space plane: %w", dataplane.ErrTransform)
	}
	if sa.Protocol == ipsec.AH && sa.Encap {
		return xfrm.State{}, dataplane.ErrEncap
	}
	src, dst := sa.Local, sa.Remote
	if sa.Direction == ipsec.In {
		src, dst = dst, src
	}
	if !src.Addr().IsValid() || src.Addr().Is4() != dst.Addr().Is4() {
		return xfrm.State{}, fmt.Errorf("outer addresses %s and %s are not of one family", sa.Local.Addr(), sa.Remote.Addr())
	}
	s := xfrm.State{
		ID:  xfrm.StateID{Dst: dst.Addr(), SPI: uint32(sa.SPI), Proto: uint8(sa.Protocol), Mark: xfrm.Mark(sa.Kernel.Mark)},
		Src: src.Addr(), ReqID: sa.ReqID, Mode: modeOf(sa.Mode), Limits: limitsOf(sa.Lifetime),
		OutputMark: xfrm.Mark(sa.Kernel.OutputMark), IfID: sa.Kernel.IfID, CPU: sa.Kernel.CPU,
		Replay: replayOf(sa),
	}
	if s.OutputMark.Value != 0 && s.OutputMark.Mask == 0 {
		s.OutputMark.Mask = math.MaxUint32
	}
	if sa.ESN {
		s.Flags |= xfrm.FlagESN
	}
	if sa.Protocol == ipsec.AH && src.Addr().Is4() {
		s.Flags |= xfrm.FlagAlign4
	}
	if err := setOuter(&s, sa.Outer); err != nil {
		return xfrm.State{}, err
	}
	if sel, ok := stateSelector(sa); ok {
		s.Selector = sel
	} else if sa.Mode == ipsec.Tunnel {
		s.Flags |= xfrm.FlagUnspecified
	}
	if sa.Encap {
		s.Encap = &xfrm.Encap{Type: xfrm.EncapUDP, SrcPort: src.Port(), DstPort: dst.Port(), Original: unspecified(dst.Addr())}
	}
	if err := setAlgorithms(&s, sa); err != nil {
		return xfrm.State{}, err
	}
	if sa.Kernel.Offload != "" {
		dev, err := net.InterfaceByName(sa.Kernel.Offload)
		if err != nil {
			return xfrm.State{}, fmt.Errorf("offload to %s: %w", sa.Kernel.Offload, err)
		}
		s.Offload.IfIndex = int32(dev.Index)
		if sa.Direction == ipsec.In {
			s.Offload.Flags = xfrm.OffloadInbound
		}
	}
	return s, checkKeys(sa)
}

// limitsOf rounds times up to the kernel's seconds.
func limitsOf(l ipsec.Lifetime) xfrm.Limits {
	seconds := func(d time.Duration) uint64 { return uint64((d + time.Second - 1) / time.Second) }
	count := func(n uint64) uint64 {
		if n == 0 {
			return xfrm.NoLimit
		}
		return n
	}
	return xfrm.Limits{
		SoftBytes: count(l.Soft.Bytes), HardBytes: count(l.Hard.Bytes),
		SoftPackets: count(l.Soft.Packets), HardPackets: count(l.Hard.Packets),
		SoftAdded: seconds(l.Soft.Time), HardAdded: seconds(l.Hard.Time),
	}
}

// replayOf makes the window. One without a window, of an outbound SA, still
// counts.
func replayOf(sa *ipsec.SA) *xfrm.Replay {
	window := sa.ReplayWindow
	switch {
	case sa.Direction == ipsec.Out:
		window = 32
	case window == 0:
		window = DefaultReplayWindow
	}
	window = min(window, xfrm.MaxWindow)
	r := &xfrm.Replay{Window: window, Bitmap: make([]uint32, (window+31)/32), Extended: true}
	if sa.Direction == ipsec.Out {
		r.OutSeq, r.OutSeqHi = uint32(sa.Sequence), uint32(sa.Sequence>>32)
	}
	return r
}

// setOuter says the treatment of the outer header. The kernel copies DF unless
// told to clear it, and hands the DSCP out unless told not to.
func setOuter(s *xfrm.State, o ipsec.Outer) error {
	switch o.DF {
	case ipsec.SetDF:
		return &MissingError{What: "an outer DF bit that is always set", Needs: "the user-space data plane, or DF copied or cleared"}
	case ipsec.ClearDF:
		s.Flags |= xfrm.FlagNoPMTUDisc
	case ipsec.CopyDF:
	}
	if !o.DSCP.Hands() {
		s.ExtraFlags |= xfrm.ExtraDontEncapDSCP
	}
	if o.DSCP.Believes() {
		s.Flags |= xfrm.FlagDecapDSCP
	}
	if o.NoECN {
		s.Flags |= xfrm.FlagNoECN
	}
	return nil
}

// stateSelector is the selector of an SA that is for one pair of prefixes: the
// kernel then holds each packet against it. A state has no room for several:
// there the policies decide, by their reqid. AH may be the outside of a bundle,
// which has the selectors of the inside.
func stateSelector(sa *ipsec.SA) (xfrm.Selector, bool) {
	pairs := pairsOf(sa.LocalTS, sa.RemoteTS)
	if len(pairs) != 1 || sa.Protocol == ipsec.AH || sa.Mode == ipsec.Transport && sa.Encap {
		return xfrm.Selector{}, false
	}
	sels, err := pairs[0].selectors()
	if err != nil || len(sels) != 1 {
		return xfrm.Selector{}, false
	}
	if sa.Direction == ipsec.In {
		return reversed(sels[0]), true
	}
	return sels[0], true
}

// entry is an SA that is installed.
type entry struct {
	sa    ipsec.SA // with its keys, for UpdateSA
	state xfrm.StateID
	seq   uint32
	added time.Time
	order uint64 // the later, the higher
	used  bool   // FirstUse was raised, or is not for this SA
	soft  bool   // the soft limit was told
	// What the policies lead to instead, while the SA moves; else nil.
	next *ipsec.SA

	// The kernel reports each packet from elsewhere: where the last was from.
	moved netip.AddrPort
	// When the number of packets was first seen, for kernels that do not say when
	// an SA was used.
	packets uint64
	usedAt  time.Time
}

func (e *entry) wipe() {
	e.sa.EncrKey.Wipe()
	e.sa.IntegKey.Wipe()
}

// lastUse is when the last packet passed. Linux has said it for every packet
// since 6.2; before that, it is when the packet was noticed.
func (e *entry) lastUse(s *xfrm.State) time.Time {
	if s.LastUsed != 0 {
		return xfrm.Time(s.LastUsed)
	}
	if s.Usage.Packets != e.packets {
		e.packets, e.usedAt = s.Usage.Packets, time.Now().Truncate(time.Second)
	}
	return e.usedAt
}

// status puts together what we know and what the kernel has counted.
func (e *entry) status(s *xfrm.State) ipsec.SAStatus {
	sa := &e.sa
	out := ipsec.SAStatus{
		ID: sa.ID(), Mode: sa.Mode, Local: sa.Local, Remote: sa.Remote, Encap: sa.Encap,
		Encr: sa.Encr, Integ: sa.Integ, ESN: sa.ESN, ReqID: sa.ReqID, LocalTS: sa.LocalTS, RemoteTS: sa.RemoteTS,
		Connection: sa.Connection, Tunnel: sa.Tunnel, Added: e.added,
	}
	if sa.Direction == ipsec.In {
		out.ReplayWindow = replayOf(sa).Window
	}
	if s == nil {
		return out
	}
	out.Bytes, out.Packets = s.Usage.Bytes, s.Usage.Packets
	out.Used = e.lastUse(s)
	out.ReplayDrops = uint64(s.Stats.Replay) + uint64(s.Stats.ReplayWindow)
	out.IntegrityDrops = uint64(s.Stats.IntegrityFailed)
	if r := s.Replay; r != nil {
		out.Sequence = uint64(r.SeqHi)<<32 | uint64(r.Seq)
		if sa.Direction == ipsec.Out {
			out.Sequence = uint64(r.OutSeqHi)<<32 | uint64(r.OutSeq)
		}
	}
	return out
}
