package host

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// The kernel's rules are encoded here and not by package rtnetlink, which fails
// for a whole dump when one rule, be it somebody else's, has an attribute that
// it does not know.

// ruleHeaderLen is the length of struct fib_rule_hdr.
const ruleHeaderLen = 12

// rule is one of our rules. It is comparable.
type rule struct {
	priority uint32
	v6       bool
	// What it matches; the zero values match everything.

	from, to netip.Prefix
	iif      string
	mark     uint32
	not      bool // what does not match all of the above
	specific bool // a default route of the table does not count

	action uint8  // FR_ACT_TO_TBL, FR_ACT_GOTO or FR_ACT_NOP
	target uint32 // the table, or the priority to go to
}

// String is how ip-rule(8) shows it.
func (r rule) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d:", r.priority)
	if r.not {
		b.WriteString(" not")
	}
	fmt.Fprintf(&b, " from %s", prefixText(r.from))
	if r.to.IsValid() {
		fmt.Fprintf(&b, " to %s", r.to)
	}
	if r.mark != 0 {
		fmt.Fprintf(&b, " fwmark %#x", r.mark)
	}
	if r.iif != "" {
		fmt.Fprintf(&b, " iif %s", r.iif)
	}
	switch r.action {
	case unix.FR_ACT_GOTO:
		fmt.Fprintf(&b, " goto %d", r.target)
	case unix.FR_ACT_NOP:
		b.WriteString(" nop")
	default:
		fmt.Fprintf(&b, " lookup %d", r.target)
	}
	if r.specific {
		b.WriteString(" suppress_prefixlength 0")
	}
	return b.String()
}

func prefixText(p netip.Prefix) string {
	if !p.IsValid() {
		return "all"
	}
	return p.String()
}

func (h *Host) rulesFor(d Desired) map[rule]bool {
	out := make(map[rule]bool)
	for _, r := range d.Protect {
		out[rule{
			priority: priorityProtect, v6: !r.To.Addr().Is4(), mark: Mark, not: true,
			action: unix.FR_ACT_TO_TBL, target: TableProtect,
		}] = true
		deliver := rule{v6: !r.To.Addr().Is4(), iif: h.opts.Device, action: unix.FR_ACT_TO_TBL}
		deliver.priority, deliver.target = priorityDeliver, TableDeliver
		out[deliver] = true
		deliver.priority, deliver.target, deliver.specific = priorityDirect, unix.RT_TABLE_MAIN, true
		out[deliver] = true
	}
	for _, p := range d.Discard {
		v6 := !p.From.Addr().Is4()
		// A mark cannot be excluded by not here, which turns all of a rule over:
		// packets that pass skip the rules that discard.
		skip := rule{priority: priorityPass, v6: v6, action: unix.FR_ACT_GOTO, target: priorityEnd}
		own := skip
		own.mark = Mark
		out[own] = true
		for _, r := range d.Protect {
			for _, l := range sameFamily(p.From, r.Local) {
				delivered := skip
				delivered.iif, delivered.to = h.opts.Device, l
				out[delivered] = true
			}
		}
		out[rule{priority: priorityEnd, v6: v6, action: unix.FR_ACT_NOP}] = true
		out[rule{
			priority: priorityDiscard, v6: v6, from: p.From, to: p.To,
			action: unix.FR_ACT_TO_TBL, target: TableDiscard,
		}] = true
	}
	return out
}

// ruleOrder puts rules behind those that they go to.
func ruleOrder(rules map[rule]bool) []rule {
	var out []rule
	for r := range rules {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b rule) int {
		if c := -cmp.Compare(a.priority, b.priority); c != 0 {
			return c
		}
		return cmp.Compare(a.String(), b.String())
	})
	// A captured packet must find its exceptions: the rules that discard come
	// last.
	slices.SortStableFunc(out, func(a, b rule) int {
		last := func(r rule) int {
			if r.priority == priorityDiscard {
				return 1
			}
			return 0
		}
		return last(a) - last(b)
	})
	return out
}

func (r rule) encode() ([]byte, error) {
	b := make([]byte, ruleHeaderLen)
	b[0] = unix.AF_INET
	if r.v6 {
		b[0] = unix.AF_INET6
	}
	b[7] = r.action
	var flags uint32
	if r.not {
		flags = unix.FIB_RULE_INVERT
	}
	binary.NativeEndian.PutUint32(b[8:], flags)

	ae := netlink.NewAttributeEncoder()
	ae.Uint32(unix.FRA_PRIORITY, r.priority)
	ae.Uint8(unix.FRA_PROTOCOL, Protocol)
	if r.from.IsValid() {
		b[2] = uint8(r.from.Bits())
		ae.Bytes(unix.FRA_SRC, r.from.Addr().AsSlice())
	}
	if r.to.IsValid() {
		b[1] = uint8(r.to.Bits())
		ae.Bytes(unix.FRA_DST, r.to.Addr().AsSlice())
	}
	if r.iif != "" {
		ae.String(unix.FRA_IIFNAME, r.iif)
	}
	if r.mark != 0 {
		ae.Uint32(unix.FRA_FWMARK, r.mark)
		ae.Uint32(unix.FRA_FWMASK, 0xffffffff)
	}
	switch r.action {
	case unix.FR_ACT_TO_TBL:
		b[4] = uint8(r.target)
		ae.Uint32(unix.FRA_TABLE, r.target)
		if r.specific {
			ae.Uint32(unix.FRA_SUPPRESS_PREFIXLEN, 0)
		}
	case unix.FR_ACT_GOTO:
		ae.Uint32(unix.FRA_GOTO, r.target)
	}
	attrs, err := ae.Encode()
	return append(b, attrs...), err
}

// decodeRule reads a rule, and reports whether it is ours.
func decodeRule(b []byte) (r rule, ours bool, err error) {
	if len(b) < ruleHeaderLen {
		return rule{}, false, errors.New("rule message too short")
	}
	r.v6 = b[0] == unix.AF_INET6
	r.action = b[7]
	r.not = binary.NativeEndian.Uint32(b[8:])&unix.FIB_RULE_INVERT != 0
	toLen, fromLen := int(b[1]), int(b[2])
	ad, err := netlink.NewAttributeDecoder(b[ruleHeaderLen:])
	if err != nil {
		return rule{}, false, err
	}
	var table, skipTo uint32
	for ad.Next() {
		switch ad.Type() {
		case unix.FRA_PRIORITY:
			r.priority = ad.Uint32()
		case unix.FRA_PROTOCOL:
			ours = ad.Uint8() == Protocol
		case unix.FRA_SRC:
			r.from = prefixOf(ad.Bytes(), fromLen)
		case unix.FRA_DST:
			r.to = prefixOf(ad.Bytes(), toLen)
		case unix.FRA_IIFNAME:
			r.iif = ad.String()
		case unix.FRA_FWMARK:
			r.mark = ad.Uint32()
		case unix.FRA_SUPPRESS_PREFIXLEN: // all ones for none
			r.specific = ad.Uint32() == 0
		case unix.FRA_TABLE:
			table = ad.Uint32()
		case unix.FRA_GOTO:
			skipTo = ad.Uint32()
		}
	}
	switch r.action {
	case unix.FR_ACT_TO_TBL:
		r.target = table
	case unix.FR_ACT_GOTO:
		r.target = skipTo
	}
	return r, ours, ad.Err()
}

func prefixOf(b []byte, bits int) netip.Prefix {
	a, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(a, bits)
}

// ourRules reads our rules from the system.
func (h *Host) ourRules() (map[rule]bool, error) {
	out := make(map[rule]bool)
	for _, f := range []byte{unix.AF_INET, unix.AF_INET6} {
		req := make([]byte, ruleHeaderLen)
		req[0] = f
		msgs, err := h.rule.Execute(netlink.Message{
			Header: netlink.Header{Type: unix.RTM_GETRULE, Flags: netlink.Request | netlink.Dump},
			Data:   req,
		})
		if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, err
		}
		for _, m := range msgs {
			r, ours, err := decodeRule(m.Data)
			if err != nil {
				return nil, err
			}
			if ours && m.Data[0] == f {
				out[r] = true
			}
		}
	}
	return out, nil
}

func (h *Host) addRule(r rule) error {
	return h.changeRule(unix.RTM_NEWRULE, netlink.Create|netlink.Excl, r)
}

func (h *Host) removeRule(r rule) error { return h.changeRule(unix.RTM_DELRULE, 0, r) }

func (h *Host) changeRule(what netlink.HeaderType, flags netlink.HeaderFlags, r rule) error {
	data, err := r.encode()
	if err != nil {
		return err
	}
	_, err = h.rule.Execute(netlink.Message{
		Header: netlink.Header{Type: what, Flags: netlink.Request | netlink.Acknowledge | flags},
		Data:   data,
	})
	return err
}
