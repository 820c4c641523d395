package xfrm

import (
	"fmt"
	"net/netip"
)

// Flags of a state (XFRM_STATE_*).
const (
	FlagNoECN       uint8 = 1
	FlagDecapDSCP   uint8 = 2
	FlagNoPMTUDisc  uint8 = 4
	FlagUnspecified uint8 = 32 // XFRM_STATE_AF_UNSPEC: the selector is of any family
	FlagAlign4      uint8 = 64 // AH ends on 4 octets, as RFC 4302 says for IPv4, and not on 8
	FlagESN         uint8 = 128
)

// ExtraDontEncapDSCP is XFRM_SA_XFLAG_DONT_ENCAP_DSCP: the outer header has no
// DSCP of the inner one.
const ExtraDontEncapDSCP uint32 = 1

// Flags of an offload (XFRM_OFFLOAD_*).
const (
	OffloadInbound uint8 = 2
	OffloadPacket  uint8 = 4
)

// EncapUDP is UDP_ENCAP_ESPINUDP, of RFC 3948.
const EncapUDP uint16 = 2

// StateID names a state: struct xfrm_usersa_id, and the mark that belongs to
// its name.
type StateID struct {
	Dst   netip.Addr
	SPI   uint32 // 0 for one that has none yet
	Proto uint8
	Mark  Mark
}

const stateIDLen = 24

// Append appends the payload of MsgDelSA and MsgGetSA.
func (id *StateID) Append(b []byte) []byte {
	b, v := grow(b, stateIDLen)
	id.put(v)
	return appendMark(b, id.Mark)
}

func (id *StateID) put(v []byte) {
	putAddr(v, id.Dst)
	network.PutUint32(v[16:], id.SPI)
	native.PutUint16(v[20:], familyOf(id.Dst))
	v[22] = id.Proto
}

func parseStateID(v []byte) StateID {
	return StateID{Dst: addr(v, native.Uint16(v[20:])), SPI: network.Uint32(v[16:]), Proto: v[22]}
}

// ParseStateID reads the payload of MsgDelSA as the kernel notifies it and as
// callers send it. SrcAddr, which may follow, is not kept.
func ParseStateID(b []byte) (StateID, error) {
	if len(b) < stateIDLen {
		return StateID{}, ErrShort
	}
	id := parseStateID(b)
	err := eachAttr(b[stateIDLen:], func(kind uint16, v []byte) error {
		if kind == attrMark {
			return parseMark(&id.Mark, v)
		}
		return nil
	})
	return id, err
}

// Encap is struct xfrm_encap_tmpl: ESP in UDP.
type Encap struct {
	Type             uint16 // EncapUDP
	SrcPort, DstPort uint16
	Original         netip.Addr // IPv4 or IPv6 as the state's; unused by EncapUDP
}

// Offload is struct xfrm_user_offload. The zero value is none.
type Offload struct {
	IfIndex int32
	Flags   uint8
}

// Replay are the sequence numbers and the window of a state: struct
// xfrm_replay_state_esn, or xfrm_replay_state where the window is small and
// numbers have 32 bits.
type Replay struct {
	OutSeq, OutSeqHi uint32
	Seq, SeqHi       uint32
	Window           uint32   // packets; 0 checks nothing
	Bitmap           []uint32 // len: Window/32, rounded up
	// Extended says that it is a xfrm_replay_state_esn.
	Extended bool
}

// MaxWindow is the largest window, in packets, that the kernel takes
// (XFRMA_REPLAY_ESN_MAX).
const MaxWindow = 4096

// Stats is struct xfrm_stats: drops of an inbound state.
type Stats struct {
	ReplayWindow, Replay, IntegrityFailed uint32
}

// State is struct xfrm_usersa_info with its attributes: one direction of a
// security association.
type State struct {
	Selector Selector
	ID       StateID
	Src      netip.Addr
	Limits   Limits
	Usage    Usage
	Stats    Stats
	// Seq ties a state to the acquire that asked for it; 0 is none.
	Seq    uint32
	ReqID  uint32
	Mode   uint8
	Window uint8 // where Replay is not Extended
	Flags  uint8

	Auth, Crypt, AEAD Algorithm
	// AuthPlain says that Auth is to be sent, or came, as struct xfrm_algo, with
	// the ICV's length left to the kernel.
	AuthPlain  bool
	Encap      *Encap
	Replay     *Replay
	ExtraFlags uint32
	Offload    Offload
	OutputMark Mark // set on packets that leave the state
	IfID       uint32
	// CPU is the number of the CPU plus one; 0 is any.
	CPU uint32
	// MapThreshold is the least number of seconds between two reports of a new
	// NAT mapping; 0 reports each packet.
	MapThreshold uint32
	LastUsed     uint64 // seconds since 1970, 0 if never; the kernel tells it
	// KeepUsage sends Usage along, so that a state begins with it.
	KeepUsage bool
}

const stateLen = 224

// Wipe clears the keys.
func (s *State) Wipe() {
	for _, a := range []*Algorithm{&s.Auth, &s.Crypt, &s.AEAD} {
		a.Key.Wipe()
	}
}

func (s *State) putInfo(v []byte) {
	s.Selector.put(v)
	putAddr(v[56:], s.ID.Dst)
	network.PutUint32(v[72:], s.ID.SPI)
	v[76] = s.ID.Proto
	putAddr(v[80:], s.Src)
	s.Limits.put(v[96:])
	s.Usage.put(v[160:])
	native.PutUint32(v[192:], s.Stats.ReplayWindow)
	native.PutUint32(v[196:], s.Stats.Replay)
	native.PutUint32(v[200:], s.Stats.IntegrityFailed)
	native.PutUint32(v[204:], s.Seq)
	native.PutUint32(v[208:], s.ReqID)
	native.PutUint16(v[212:], familyOf(s.ID.Dst))
	v[214], v[215], v[216] = s.Mode, s.Window, s.Flags
}

func parseStateInfo(v []byte) (State, error) {
	if len(v) < stateLen {
		return State{}, ErrShort
	}
	family := native.Uint16(v[212:])
	if family != familyIPv4 && family != familyIPv6 {
		return State{}, fmt.Errorf("%w: family %d of a state", ErrInvalid, family)
	}
	sel, err := parseSelector(v)
	return State{
		Selector: sel,
		ID:       StateID{Dst: addr(v[56:], family), SPI: network.Uint32(v[72:]), Proto: v[76]},
		Src:      addr(v[80:], family),
		Limits:   parseLimits(v[96:]),
		Usage:    parseUsage(v[160:]),
		Stats: Stats{
			ReplayWindow: native.Uint32(v[192:]), Replay: native.Uint32(v[196:]), IntegrityFailed: native.Uint32(v[200:]),
		},
		Seq: native.Uint32(v[204:]), ReqID: native.Uint32(v[208:]),
		Mode: v[214], Window: v[215], Flags: v[216],
	}, err
}

// Append appends the payload of MsgNewSA and MsgUpdSA. The caller wipes it after
// use: it holds the keys.
func (s *State) Append(b []byte) ([]byte, error) {
	b, v := grow(b, stateLen)
	s.putInfo(v)
	return s.appendAttrs(b)
}

func (s *State) appendAttrs(b []byte) ([]byte, error) {
	var err error
	if b, err = s.AEAD.append(b, attrAEAD, true); err != nil {
		return b, err
	}
	authKind := attrAuthTrunc
	if s.AuthPlain {
		authKind = attrAlgAuth
	}
	if b, err = s.Auth.append(b, authKind, !s.AuthPlain); err != nil {
		return b, err
	}
	if b, err = s.Crypt.append(b, attrAlgCrypt, false); err != nil {
		return b, err
	}
	if e := s.Encap; e != nil {
		var v []byte
		b, v = appendAttr(b, attrEncap, encapLen)
		native.PutUint16(v, e.Type)
		network.PutUint16(v[2:], e.SrcPort)
		network.PutUint16(v[4:], e.DstPort)
		putAddr(v[8:], e.Original)
	}
	b = appendMark(b, s.ID.Mark)
	if s.Replay != nil {
		if b, err = s.Replay.append(b); err != nil {
			return b, err
		}
	}
	if s.KeepUsage {
		var v []byte
		b, v = appendAttr(b, attrLifetimeCur, usageLen)
		s.Usage.put(v)
	}
	if s.ExtraFlags != 0 {
		b = appendUint32(b, attrExtraFlags, s.ExtraFlags)
	}
	if s.Offload != (Offload{}) {
		var v []byte
		b, v = appendAttr(b, attrOffload, offloadLen)
		native.PutUint32(v, uint32(s.Offload.IfIndex))
		v[4] = s.Offload.Flags
	}
	if s.OutputMark != (Mark{}) {
		b = appendUint32(b, attrSetMark, s.OutputMark.Value)
		if s.OutputMark.Mask != 0 {
			b = appendUint32(b, attrSetMarkMask, s.OutputMark.Mask)
		}
	}
	if s.IfID != 0 {
		b = appendUint32(b, attrIfID, s.IfID)
	}
	if s.MapThreshold != 0 {
		b = appendUint32(b, attrMapThresh, s.MapThreshold)
	}
	if s.CPU != 0 {
		b = appendUint32(b, attrCPU, s.CPU-1)
	}
	return b, nil
}

const (
	encapLen     = 24
	offloadLen   = 8
	replayLen    = 12             // struct xfrm_replay_state
	replayESNLen = 24             // struct xfrm_replay_state_esn without the bitmap
	maxBitmap    = MaxWindow / 32 // words
)

func (r *Replay) append(b []byte) ([]byte, error) {
	if !r.Extended {
		b, v := appendAttr(b, attrReplay, replayLen)
		native.PutUint32(v, r.OutSeq)
		native.PutUint32(v[4:], r.Seq)
		if len(r.Bitmap) > 0 {
			native.PutUint32(v[8:], r.Bitmap[0])
		}
		return b, nil
	}
	if len(r.Bitmap) > maxBitmap || uint64(r.Window) > uint64(len(r.Bitmap))*32 {
		return b, fmt.Errorf("%w: replay window of %d packets, bitmap of %d words", ErrInvalid, r.Window, len(r.Bitmap))
	}
	b, v := appendAttr(b, attrReplayESN, replayESNLen+4*len(r.Bitmap))
	for i, x := range []uint32{uint32(len(r.Bitmap)), r.OutSeq, r.Seq, r.OutSeqHi, r.SeqHi, r.Window} {
		native.PutUint32(v[4*i:], x)
	}
	for i, x := range r.Bitmap {
		native.PutUint32(v[replayESNLen+4*i:], x)
	}
	return b, nil
}

func parseReplayESN(v []byte) (*Replay, error) {
	if err := need(v, replayESNLen, "replay state"); err != nil {
		return nil, err
	}
	words := native.Uint32(v)
	// The kernel takes a bitmap of zeros that is left out, and iproute2 sends it so.
	leftOut := len(v) == replayESNLen
	if words > maxBitmap || int(words)*4 > len(v)-replayESNLen && !leftOut {
		return nil, fmt.Errorf("%w: replay bitmap of %d words", ErrShort, words)
	}
	r := &Replay{
		OutSeq: native.Uint32(v[4:]), Seq: native.Uint32(v[8:]),
		OutSeqHi: native.Uint32(v[12:]), SeqHi: native.Uint32(v[16:]),
		Window: native.Uint32(v[20:]), Extended: true, Bitmap: make([]uint32, words),
	}
	if uint64(r.Window) > uint64(words)*32 {
		return nil, fmt.Errorf("%w: replay window of %d packets, bitmap of %d words", ErrInvalid, r.Window, words)
	}
	for i := range r.Bitmap {
		if leftOut {
			break
		}
		r.Bitmap[i] = native.Uint32(v[replayESNLen+4*i:])
	}
	return r, nil
}

// ParseState reads the payload of MsgNewSA and MsgUpdSA. The caller wipes b, and
// the State when it is done with it.
func ParseState(b []byte) (State, error) {
	s, err := parseStateInfo(b)
	if err != nil {
		return State{}, err
	}
	if err := eachAttr(b[stateLen:], s.parseAttr); err != nil {
		s.Wipe()
		return State{}, err
	}
	return s, nil
}

func (s *State) parseAttr(kind uint16, v []byte) error {
	switch kind {
	case attrAEAD:
		return parseAlgorithm(&s.AEAD, v, true)
	case attrAuthTrunc:
		s.AuthPlain = false
		return parseAlgorithm(&s.Auth, v, true)
	case attrAlgAuth:
		if !s.Auth.isZero() {
			return nil // the kernel tells it both ways
		}
		s.AuthPlain = true
		return parseAlgorithm(&s.Auth, v, false)
	case attrAlgCrypt:
		return parseAlgorithm(&s.Crypt, v, false)
	case attrEncap:
		if err := need(v, encapLen, "encapsulation"); err != nil {
			return err
		}
		s.Encap = &Encap{
			Type: native.Uint16(v), SrcPort: network.Uint16(v[2:]), DstPort: network.Uint16(v[4:]),
			Original: addr(v[8:], familyOf(s.ID.Dst)),
		}
	case attrReplay:
		if err := need(v, replayLen, "replay state"); err != nil {
			return err
		}
		if s.Replay == nil { // an extended one is better
			s.Replay = &Replay{
				OutSeq: native.Uint32(v), Seq: native.Uint32(v[4:]), Bitmap: []uint32{native.Uint32(v[8:])}, Window: uint32(s.Window),
			}
		}
	case attrReplayESN:
		r, err := parseReplayESN(v)
		if err != nil {
			return err
		}
		s.Replay = r
	case attrLifetimeCur:
		if err := need(v, usageLen, "usage"); err != nil {
			return err
		}
		s.Usage, s.KeepUsage = parseUsage(v), true
	case attrMark:
		return parseMark(&s.ID.Mark, v)
	case attrExtraFlags:
		return parseUint32(&s.ExtraFlags, v, "extra flags")
	case attrOffload:
		if err := need(v, offloadLen, "offload"); err != nil {
			return err
		}
		s.Offload = Offload{IfIndex: int32(native.Uint32(v)), Flags: v[4]}
	case attrSetMark:
		return parseUint32(&s.OutputMark.Value, v, "output mark")
	case attrSetMarkMask:
		return parseUint32(&s.OutputMark.Mask, v, "output mark")
	case attrIfID:
		return parseUint32(&s.IfID, v, "interface id")
	case attrMapThresh:
		return parseUint32(&s.MapThreshold, v, "mapping threshold")
	case attrCPU:
		if err := parseUint32(&s.CPU, v, "CPU"); err != nil {
			return err
		}
		s.CPU++
	case attrLastUsed:
		if err := need(v, 8, "last use"); err != nil {
			return err
		}
		s.LastUsed = native.Uint64(v)
	}
	return nil
}

// SPIRequest is struct xfrm_userspi_info: it asks for a larval state with an SPI
// between Min and Max.
type SPIRequest struct {
	State    State // Seq names an acquire whose larval state is to be used
	Min, Max uint32
}

const spiRequestLen = stateLen + 8

// Append appends the payload of MsgAllocSPI. The answer is a MsgNewSA.
func (r *SPIRequest) Append(b []byte) ([]byte, error) {
	b, v := grow(b, spiRequestLen)
	r.State.putInfo(v)
	native.PutUint32(v[stateLen:], r.Min)
	native.PutUint32(v[stateLen+4:], r.Max)
	return r.State.appendAttrs(b)
}

// ParseSPIRequest reads the payload of MsgAllocSPI.
func ParseSPIRequest(b []byte) (SPIRequest, error) {
	if len(b) < spiRequestLen {
		return SPIRequest{}, ErrShort
	}
	s, err := parseStateInfo(b)
	if err != nil {
		return SPIRequest{}, err
	}
	if err := eachAttr(b[spiRequestLen:], s.parseAttr); err != nil {
		s.Wipe()
		return SPIRequest{}, err
	}
	return SPIRequest{State: s, Min: native.Uint32(b[stateLen:]), Max: native.Uint32(b[stateLen+4:])}, nil
}

// AppendFlushStates appends the payload of MsgFlushSA; proto 255 is every
// protocol (IPSEC_PROTO_ANY).
func AppendFlushStates(b []byte, proto uint8) []byte { return append(b, proto) }
