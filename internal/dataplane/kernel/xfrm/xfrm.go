// Package xfrm is the codec of the Linux kernel's IPsec interface: the messages
// of NETLINK_XFRM with their structures and attributes (include/uapi/linux/xfrm.h
// of the kernel). It works on the payload of netlink messages, behind the header
// nlmsghdr; sockets are its caller's.
//
// Numbers are in host byte order except where the kernel has them in network
// byte order: addresses, SPIs and ports. Keys are held as secret.Key; Wipe
// clears the buffers that they pass through.
package xfrm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// Message types (enum in xfrm.h).
const (
	MsgNewSA      uint16 = 0x10
	MsgDelSA      uint16 = 0x11
	MsgGetSA      uint16 = 0x12
	MsgNewPolicy  uint16 = 0x13
	MsgDelPolicy  uint16 = 0x14
	MsgGetPolicy  uint16 = 0x15
	MsgAllocSPI   uint16 = 0x16
	MsgAcquire    uint16 = 0x17
	MsgExpire     uint16 = 0x18
	MsgUpdPolicy  uint16 = 0x19
	MsgUpdSA      uint16 = 0x1a
	MsgPolExpire  uint16 = 0x1b
	MsgFlushSA    uint16 = 0x1c
	MsgFlushPol   uint16 = 0x1d
	MsgMigrate    uint16 = 0x21
	MsgNewSADInfo uint16 = 0x22
	MsgGetSADInfo uint16 = 0x23
	MsgNewSPDInfo uint16 = 0x24
	MsgGetSPDInfo uint16 = 0x25
	MsgMapping    uint16 = 0x26
)

// Groups of notifications (enum xfrm_nlgroups).
const (
	GroupAcquire uint32 = 1
	GroupExpire  uint32 = 2
	GroupSA      uint32 = 3
	GroupPolicy  uint32 = 4
	GroupMigrate uint32 = 7
	GroupMapping uint32 = 8
)

// Attributes (enum xfrm_attr_type_t).
const (
	attrAlgAuth     uint16 = 1
	attrAlgCrypt    uint16 = 2
	attrEncap       uint16 = 4
	attrTmpl        uint16 = 5
	attrSA          uint16 = 6
	attrPolicy      uint16 = 7
	attrLifetimeCur uint16 = 9
	attrReplay      uint16 = 10
	attrLastUsed    uint16 = 15
	attrMigrate     uint16 = 17
	attrAEAD        uint16 = 18
	attrAuthTrunc   uint16 = 20
	attrMark        uint16 = 21
	attrReplayESN   uint16 = 23
	attrExtraFlags  uint16 = 24
	attrOffload     uint16 = 28
	attrSetMark     uint16 = 29
	attrSetMarkMask uint16 = 30
	attrIfID        uint16 = 31
	attrMapThresh   uint16 = 32 // since Linux 5.17
	attrCPU         uint16 = 35 // XFRMA_SA_PCPU, since Linux 6.13
)

// Address families of the kernel.
const (
	familyIPv4 uint16 = 2  // AF_INET
	familyIPv6 uint16 = 10 // AF_INET6
)

// Errors of every parser.
var (
	ErrShort   = errors.New("xfrm: message too short")
	ErrInvalid = errors.New("xfrm: invalid value")
)

// Modes of states and templates (XFRM_MODE_*).
const (
	ModeTransport uint8 = 0
	ModeTunnel    uint8 = 1
)

// Mark is struct xfrm_mark: a value, and the bits of it that count.
type Mark struct{ Value, Mask uint32 }

// familyOf returns the address family of a, 0 for the zero Addr.
func familyOf(a netip.Addr) uint16 {
	switch {
	case a.Is4():
		return familyIPv4
	case a.Is6():
		return familyIPv6
	default:
		return 0
	}
}

// putAddr writes an xfrm_address_t, 16 octets; the zero Addr is all zero.
func putAddr(b []byte, a netip.Addr) {
	if a.IsValid() {
		copy(b, a.AsSlice())
	}
}

// addr reads an xfrm_address_t of the family.
func addr(b []byte, family uint16) netip.Addr {
	switch family {
	case familyIPv4:
		return netip.AddrFrom4([4]byte(b[:4]))
	case familyIPv6:
		return netip.AddrFrom16([16]byte(b[:16]))
	default:
		return netip.Addr{}
	}
}

// grow appends n zero octets and returns them, too.
func grow(b []byte, n int) (all, fresh []byte) {
	b = append(b, make([]byte, n)...)
	return b, b[len(b)-n:]
}

// native is the byte order of the kernel's structures, network that of the wire.
var (
	native  = binary.NativeEndian
	network = binary.BigEndian
)

// attrHeader is the length of struct nlattr.
const attrHeader = 4

func align4(n int) int { return (n + 3) &^ 3 }

// appendAttr appends an attribute of n zero octets and returns its value.
func appendAttr(b []byte, kind uint16, n int) (all, value []byte) {
	b, fresh := grow(b, align4(attrHeader+n))
	native.PutUint16(fresh, uint16(attrHeader+n))
	native.PutUint16(fresh[2:], kind)
	return b, fresh[attrHeader : attrHeader+n]
}

func appendUint32(b []byte, kind uint16, v uint32) []byte {
	b, value := appendAttr(b, kind, 4)
	native.PutUint32(value, v)
	return b
}

func appendMark(b []byte, m Mark) []byte {
	if m == (Mark{}) {
		return b
	}
	b, value := appendAttr(b, attrMark, 8)
	native.PutUint32(value, m.Value)
	native.PutUint32(value[4:], m.Mask)
	return b
}

// eachAttr calls f for every attribute of b.
func eachAttr(b []byte, f func(kind uint16, value []byte) error) error {
	for len(b) > 0 {
		if len(b) < attrHeader {
			return ErrShort
		}
		n := int(native.Uint16(b))
		if n < attrHeader || n > len(b) {
			return ErrShort
		}
		const kindMask = 0x3fff // without NLA_F_NESTED and NLA_F_NET_BYTEORDER
		if err := f(native.Uint16(b[2:])&kindMask, b[attrHeader:n]); err != nil {
			return err
		}
		b = b[min(align4(n), len(b)):]
	}
	return nil
}

// need checks the length of an attribute's value.
func need(value []byte, n int, what string) error {
	if len(value) < n {
		return fmt.Errorf("%w: %s of %d octets", ErrShort, what, len(value))
	}
	return nil
}

func parseUint32(v *uint32, value []byte, what string) error {
	if err := need(value, 4, what); err != nil {
		return err
	}
	*v = native.Uint32(value)
	return nil
}

func parseMark(m *Mark, value []byte) error {
	if err := need(value, 8, "mark"); err != nil {
		return err
	}
	m.Value, m.Mask = native.Uint32(value), native.Uint32(value[4:])
	return nil
}

// Wipe clears a buffer that held keys.
func Wipe(b []byte) { clear(b) }
