package xfrm

import (
	"fmt"
	"net/netip"
)

// Acquire is struct xfrm_user_acquire: a packet met a policy that has no SA.
type Acquire struct {
	ID       StateID // of the larval state, whose SPI is 0
	Src      netip.Addr
	Selector Selector // of the packet
	Policy   Policy
	Seq      uint32 // of the larval state
}

const acquireLen = 280

// ParseAcquire reads the payload of MsgAcquire.
func ParseAcquire(b []byte) (Acquire, error) {
	if len(b) < acquireLen {
		return Acquire{}, ErrShort
	}
	sel, err := parseSelector(b[40:])
	if err != nil {
		return Acquire{}, err
	}
	policy, err := parsePolicyInfo(b[96:])
	if err != nil {
		return Acquire{}, err
	}
	a := Acquire{Selector: sel, Policy: policy, Seq: native.Uint32(b[276:])}
	if err := eachAttr(b[acquireLen:], a.Policy.parseAttr); err != nil {
		return Acquire{}, err
	}
	// The family of the addresses is the first template's, which belongs to
	// tunnel mode, or the packet's.
	family := sel.family()
	if t := a.Policy.Templates; len(t) > 0 && t[0].Mode == ModeTunnel {
		family = familyOf(t[0].Dst)
	}
	a.ID = StateID{Dst: addr(b, family), SPI: network.Uint32(b[16:]), Proto: b[20], Mark: a.Policy.Mark}
	a.Src = addr(b[24:], family)
	return a, nil
}

// Append appends the payload, as the kernel does.
func (a *Acquire) Append(b []byte) ([]byte, error) {
	b, v := grow(b, acquireLen)
	putAddr(v, a.ID.Dst)
	network.PutUint32(v[16:], a.ID.SPI)
	v[20] = a.ID.Proto
	putAddr(v[24:], a.Src)
	a.Selector.put(v[40:])
	a.Policy.put(v[96:])
	native.PutUint32(v[276:], a.Seq)
	whole, err := a.Policy.Append(nil)
	if err != nil {
		return b, err
	}
	return append(b, whole[policyLen:]...), nil
}

// Expire is struct xfrm_user_expire: a state met its soft limit, or its hard one
// and is gone. It comes without keys.
type Expire struct {
	State State
	Hard  bool
}

const expireLen = stateLen + 8

// ParseExpire reads the payload of MsgExpire.
func ParseExpire(b []byte) (Expire, error) {
	if len(b) < expireLen {
		return Expire{}, ErrShort
	}
	s, err := parseStateInfo(b)
	if err != nil {
		return Expire{}, err
	}
	if err := eachAttr(b[expireLen:], s.parseAttr); err != nil {
		s.Wipe()
		return Expire{}, err
	}
	return Expire{State: s, Hard: b[stateLen] != 0}, nil
}

// Append appends the payload, as the kernel does.
func (e *Expire) Append(b []byte) ([]byte, error) {
	b, v := grow(b, expireLen)
	e.State.putInfo(v)
	if e.Hard {
		v[stateLen] = 1
	}
	return e.State.appendAttrs(b)
}

// PolicyExpire is struct xfrm_user_polexpire.
type PolicyExpire struct {
	Policy Policy
	Hard   bool
}

const policyExpireLen = policyLen + 8

// ParsePolicyExpire reads the payload of MsgPolExpire.
func ParsePolicyExpire(b []byte) (PolicyExpire, error) {
	if len(b) < policyExpireLen {
		return PolicyExpire{}, ErrShort
	}
	p, err := parsePolicyInfo(b)
	if err != nil {
		return PolicyExpire{}, err
	}
	if err := eachAttr(b[policyExpireLen:], p.parseAttr); err != nil {
		return PolicyExpire{}, err
	}
	return PolicyExpire{Policy: p, Hard: b[policyLen] != 0}, nil
}

// Append appends the payload, as the kernel does.
func (e *PolicyExpire) Append(b []byte) ([]byte, error) {
	b, v := grow(b, policyExpireLen)
	e.Policy.put(v)
	if e.Hard {
		v[policyLen] = 1
	}
	whole, err := e.Policy.Append(nil)
	if err != nil {
		return b, err
	}
	return append(b, whole[policyLen:]...), nil
}

// Mapping is struct xfrm_user_mapping: packets of an inbound state came from
// another address or port, and were authentic.
type Mapping struct {
	ID       StateID
	ReqID    uint32
	Old, New netip.AddrPort
}

const mappingLen = 64

// ParseMapping reads the payload of MsgMapping.
func ParseMapping(b []byte) (Mapping, error) {
	if len(b) < mappingLen {
		return Mapping{}, ErrShort
	}
	m := Mapping{ID: parseStateID(b), ReqID: native.Uint32(b[24:])}
	if !m.ID.Dst.IsValid() {
		return Mapping{}, fmt.Errorf("%w: family of a mapping", ErrInvalid)
	}
	family := familyOf(m.ID.Dst)
	m.Old = netip.AddrPortFrom(addr(b[28:], family), network.Uint16(b[60:]))
	m.New = netip.AddrPortFrom(addr(b[44:], family), network.Uint16(b[62:]))
	return m, nil
}

// Append appends the payload, as the kernel does.
func (m *Mapping) Append(b []byte) []byte {
	b, v := grow(b, mappingLen)
	m.ID.put(v)
	native.PutUint32(v[24:], m.ReqID)
	putAddr(v[28:], m.Old.Addr())
	putAddr(v[44:], m.New.Addr())
	network.PutUint16(v[60:], m.Old.Port())
	network.PutUint16(v[62:], m.New.Port())
	return b
}

// ParseDeletedState reads the payload of MsgDelSA as the kernel notifies it: the
// name, and after it the state as it was in the end. The caller wipes b, and the
// State.
func ParseDeletedState(b []byte) (State, error) {
	if len(b) < stateIDLen {
		return State{}, ErrShort
	}
	var s State
	// The state itself first: attributes of it need its family.
	if err := eachAttr(b[stateIDLen:], func(kind uint16, v []byte) (err error) {
		if kind == attrSA {
			s, err = parseStateInfo(v)
		}
		return err
	}); err != nil {
		return State{}, err
	}
	id := parseStateID(b)
	if s.Src.IsValid() && s.ID != id {
		return State{}, fmt.Errorf("%w: the name of a state that is another's", ErrInvalid)
	}
	s.ID = id
	if err := eachAttr(b[stateIDLen:], s.parseAttr); err != nil {
		s.Wipe()
		return State{}, err
	}
	return s, nil
}

// AppendDeleted appends the payload of MsgDelSA, as the kernel notifies it.
func (s *State) AppendDeleted(b []byte) ([]byte, error) {
	b, v := grow(b, stateIDLen)
	s.ID.put(v)
	b, v = appendAttr(b, attrSA, stateLen)
	s.putInfo(v)
	return s.appendAttrs(b)
}
