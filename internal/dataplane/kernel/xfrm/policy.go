package xfrm

import (
	"fmt"
	"net/netip"
)

// Directions of policies (XFRM_POLICY_*).
const (
	DirIn      uint8 = 0
	DirOut     uint8 = 1
	DirForward uint8 = 2
	// DirMask are the bits of a policy's index that hold its direction; the
	// kernel keeps the one above for policies of sockets.
	DirMask uint32 = 7
)

// Actions of policies.
const (
	ActionAllow uint8 = 0
	ActionBlock uint8 = 1
)

// Template is struct xfrm_user_tmpl: an SA that packets of a policy pass
// through, the innermost first.
type Template struct {
	Dst, Src netip.Addr // of tunnel mode; zero is any
	SPI      uint32
	Proto    uint8
	ReqID    uint32
	Mode     uint8
	Share    uint8
	// Optional lets packets pass where there is no SA ("level use").
	Optional                              bool
	AuthAlgs, CryptAlgs, CompressionsAlgs uint32 // bit sets; all ones is any
}

// AnyAlgs is the bit set of all algorithms.
const AnyAlgs uint32 = 0xffffffff

const templateLen = 64

func (t *Template) put(v []byte) {
	putAddr(v, t.Dst)
	network.PutUint32(v[16:], t.SPI)
	v[20] = t.Proto
	family := familyOf(t.Dst)
	if family == 0 {
		family = familyOf(t.Src)
	}
	native.PutUint16(v[24:], family)
	putAddr(v[28:], t.Src)
	native.PutUint32(v[44:], t.ReqID)
	v[48], v[49] = t.Mode, t.Share
	if t.Optional {
		v[50] = 1
	}
	native.PutUint32(v[52:], t.AuthAlgs)
	native.PutUint32(v[56:], t.CryptAlgs)
	native.PutUint32(v[60:], t.CompressionsAlgs)
}

func parseTemplate(v []byte) Template {
	family := native.Uint16(v[24:])
	return Template{
		Dst: addr(v, family), Src: addr(v[28:], family), SPI: network.Uint32(v[16:]), Proto: v[20],
		ReqID: native.Uint32(v[44:]), Mode: v[48], Share: v[49], Optional: v[50] != 0,
		AuthAlgs: native.Uint32(v[52:]), CryptAlgs: native.Uint32(v[56:]), CompressionsAlgs: native.Uint32(v[60:]),
	}
}

// Policy is struct xfrm_userpolicy_info with its attributes. Two policies of one
// direction, selector, mark and interface cannot be at once.
type Policy struct {
	Selector Selector
	Limits   Limits
	Usage    Usage
	Priority uint32 // the lowest decides
	// Index is the policy's number; its lowest bits are Dir. 0 leaves it to the
	// kernel.
	Index     uint32
	Dir       uint8
	Action    uint8
	Flags     uint8
	Share     uint8
	Templates []Template
	Mark      Mark
	IfID      uint32
}

const (
	policyLen    = 168
	maxTemplates = 6 // XFRM_MAX_DEPTH
)

func (p *Policy) put(v []byte) {
	p.Selector.put(v)
	p.Limits.put(v[56:])
	p.Usage.put(v[120:])
	native.PutUint32(v[152:], p.Priority)
	native.PutUint32(v[156:], p.Index)
	v[160], v[161], v[162], v[163] = p.Dir, p.Action, p.Flags, p.Share
}

func parsePolicyInfo(v []byte) (Policy, error) {
	if len(v) < policyLen {
		return Policy{}, ErrShort
	}
	sel, err := parseSelector(v)
	return Policy{
		Selector: sel, Limits: parseLimits(v[56:]), Usage: parseUsage(v[120:]),
		Priority: native.Uint32(v[152:]), Index: native.Uint32(v[156:]),
		Dir: v[160], Action: v[161], Flags: v[162], Share: v[163],
	}, err
}

// Append appends the payload of MsgNewPolicy and MsgUpdPolicy.
func (p *Policy) Append(b []byte) ([]byte, error) {
	if len(p.Templates) > maxTemplates {
		return b, fmt.Errorf("%w: %d templates", ErrInvalid, len(p.Templates))
	}
	b, v := grow(b, policyLen)
	p.put(v)
	if len(p.Templates) > 0 {
		b, v = appendAttr(b, attrTmpl, templateLen*len(p.Templates))
		for i := range p.Templates {
			p.Templates[i].put(v[i*templateLen:])
		}
	}
	b = appendMark(b, p.Mark)
	if p.IfID != 0 {
		b = appendUint32(b, attrIfID, p.IfID)
	}
	return b, nil
}

// ParsePolicy reads the payload of MsgNewPolicy and MsgUpdPolicy.
func ParsePolicy(b []byte) (Policy, error) {
	p, err := parsePolicyInfo(b)
	if err != nil {
		return Policy{}, err
	}
	if err := eachAttr(b[policyLen:], p.parseAttr); err != nil {
		return Policy{}, err
	}
	return p, nil
}

func (p *Policy) parseAttr(kind uint16, v []byte) error {
	switch kind {
	case attrTmpl:
		if len(v)%templateLen != 0 || len(v)/templateLen > maxTemplates {
			return fmt.Errorf("%w: templates of %d octets", ErrInvalid, len(v))
		}
		p.Templates = nil
		for ; len(v) > 0; v = v[templateLen:] {
			p.Templates = append(p.Templates, parseTemplate(v))
		}
	case attrMark:
		return parseMark(&p.Mark, v)
	case attrIfID:
		return parseUint32(&p.IfID, v, "interface id")
	}
	return nil
}

// PolicyID is struct xfrm_userpolicy_id with the rest of a policy's name. With
// an Index, the selector is not looked at.
type PolicyID struct {
	Selector Selector
	Index    uint32
	Dir      uint8
	Mark     Mark
	IfID     uint32
}

const policyIDLen = 64

// Append appends the payload of MsgDelPolicy and MsgGetPolicy.
func (id *PolicyID) Append(b []byte) []byte {
	b, v := grow(b, policyIDLen)
	id.Selector.put(v)
	native.PutUint32(v[56:], id.Index)
	v[60] = id.Dir
	b = appendMark(b, id.Mark)
	if id.IfID != 0 {
		b = appendUint32(b, attrIfID, id.IfID)
	}
	return b
}

// ParsePolicyID reads the payload of MsgDelPolicy, of a caller or as the kernel
// notifies it.
func ParsePolicyID(b []byte) (PolicyID, error) {
	if len(b) < policyIDLen {
		return PolicyID{}, ErrShort
	}
	sel, err := parseSelector(b)
	if err != nil {
		return PolicyID{}, err
	}
	id := PolicyID{Selector: sel, Index: native.Uint32(b[56:]), Dir: b[60]}
	err = eachAttr(b[policyIDLen:], func(kind uint16, v []byte) error {
		switch kind {
		case attrMark:
			return parseMark(&id.Mark, v)
		case attrIfID:
			return parseUint32(&id.IfID, v, "interface id")
		case attrPolicy: // the kernel's notification: the policy itself
			p, err := parsePolicyInfo(v)
			if err == nil {
				id.Index = p.Index
			}
			return err
		}
		return nil
	})
	return id, err
}
