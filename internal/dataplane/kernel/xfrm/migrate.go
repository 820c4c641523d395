package xfrm

import (
	"fmt"
	"net/netip"
)

// Move is struct xfrm_user_migrate: from where to where the states of a
// template go.
type Move struct {
	OldDst, OldSrc netip.Addr
	NewDst, NewSrc netip.Addr
	Proto, Mode    uint8
	ReqID          uint32
}

const moveLen = 76

func (m *Move) put(v []byte) {
	putAddr(v, m.OldDst)
	putAddr(v[16:], m.OldSrc)
	putAddr(v[32:], m.NewDst)
	putAddr(v[48:], m.NewSrc)
	v[64], v[65] = m.Proto, m.Mode
	native.PutUint32(v[68:], m.ReqID)
	native.PutUint16(v[72:], familyOf(m.OldDst))
	native.PutUint16(v[74:], familyOf(m.NewDst))
}

func parseMove(v []byte) Move {
	before, after := native.Uint16(v[72:]), native.Uint16(v[74:])
	return Move{
		OldDst: addr(v, before), OldSrc: addr(v[16:], before), NewDst: addr(v[32:], after), NewSrc: addr(v[48:], after),
		Proto: v[64], Mode: v[65], ReqID: native.Uint32(v[68:]),
	}
}

// Migrate moves a policy and its states to other addresses, with sequence
// numbers and windows.
type Migrate struct {
	Policy PolicyID
	Moves  []Move
	Encap  *Encap // of the states from now on
}

// Append appends the payload of MsgMigrate.
func (m *Migrate) Append(b []byte) ([]byte, error) {
	if len(m.Moves) == 0 || len(m.Moves) > maxTemplates {
		return b, fmt.Errorf("%w: %d moves", ErrInvalid, len(m.Moves))
	}
	b, v := grow(b, policyIDLen)
	m.Policy.Selector.put(v)
	native.PutUint32(v[56:], m.Policy.Index)
	v[60] = m.Policy.Dir
	b, v = appendAttr(b, attrMigrate, moveLen*len(m.Moves))
	for i := range m.Moves {
		m.Moves[i].put(v[i*moveLen:])
	}
	if e := m.Encap; e != nil {
		b, v = appendAttr(b, attrEncap, encapLen)
		native.PutUint16(v, e.Type)
		network.PutUint16(v[2:], e.SrcPort)
		network.PutUint16(v[4:], e.DstPort)
		putAddr(v[8:], e.Original)
	}
	if m.Policy.IfID != 0 {
		b = appendUint32(b, attrIfID, m.Policy.IfID)
	}
	return b, nil
}

// ParseMigrate reads the payload of MsgMigrate: of a caller, or as the kernel
// notifies it.
func ParseMigrate(b []byte) (Migrate, error) {
	if len(b) < policyIDLen {
		return Migrate{}, ErrShort
	}
	sel, err := parseSelector(b)
	if err != nil {
		return Migrate{}, err
	}
	m := Migrate{Policy: PolicyID{Selector: sel, Index: native.Uint32(b[56:]), Dir: b[60]}}
	err = eachAttr(b[policyIDLen:], func(kind uint16, v []byte) error {
		switch kind {
		case attrMigrate:
			if len(v)%moveLen != 0 || len(m.Moves)+len(v)/moveLen > maxTemplates {
				return fmt.Errorf("%w: moves of %d octets", ErrInvalid, len(v))
			}
			for ; len(v) > 0; v = v[moveLen:] {
				m.Moves = append(m.Moves, parseMove(v))
			}
		case attrEncap:
			if err := need(v, encapLen, "encapsulation"); err != nil {
				return err
			}
			m.Encap = &Encap{Type: native.Uint16(v), SrcPort: network.Uint16(v[2:]), DstPort: network.Uint16(v[4:])}
			if len(m.Moves) > 0 {
				m.Encap.Original = addr(v[8:], familyOf(m.Moves[0].NewDst))
			}
		case attrIfID:
			return parseUint32(&m.Policy.IfID, v, "interface id")
		}
		return nil
	})
	return m, err
}
