package afpacket

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"caponier/internal/netio/frame"
	"caponier/internal/packet"
)

// verdict is what the tables say of a destination.
type verdict uint32

const (
	own  verdict = 1 // an address of the gateway
	take verdict = 2 // behind a tunnel
	pass verdict = 3 // neither, within what is behind one
)

// maxPrefixes bounds each table: 10,000 tunnels with some prefixes each.
const maxPrefixes = 1 << 16

// tables are the destinations of frame.Steering by longest prefix.
type tables struct{ v4, v6 *ebpf.Map }

func newTables() (tables, error) {
	var t tables
	for _, m := range []struct {
		to   **ebpf.Map
		size uint32
	}{{&t.v4, 4}, {&t.v6, 16}} {
		var err error
		*m.to, err = ebpf.NewMap(&ebpf.MapSpec{
			Type: ebpf.LPMTrie, KeySize: 4 + m.size, ValueSize: 4, MaxEntries: maxPrefixes, Flags: noPrealloc,
		})
		if err != nil {
			t.close()
			return tables{}, fmt.Errorf("make a table of prefixes: %w", err)
		}
	}
	return t, nil
}

// noPrealloc is BPF_F_NO_PREALLOC (linux/bpf.h).
const noPrealloc = 1

func (t *tables) close() {
	for _, m := range []*ebpf.Map{t.v4, t.v6} {
		if m != nil {
			m.Close()
		}
	}
}

// entries are what the tables have to hold for s.
func entries(s *frame.Steering) map[netip.Prefix]verdict {
	out := make(map[netip.Prefix]verdict)
	for _, p := range s.Take {
		out[p] = take
	}
	for _, p := range s.Pass {
		out[p] = pass
	}
	for _, a := range s.Addresses {
		out[netip.PrefixFrom(a, a.BitLen())] = own
	}
	return out
}

// set changes the tables from what they have to what they shall have. New entries
// are there before old ones go.
func (t *tables) set(have, want map[netip.Prefix]verdict) error {
	for p, v := range want {
		if have[p] == v {
			continue
		}
		if err := t.of(p).Put(key(p), uint32(v)); err != nil {
			return fmt.Errorf("steer packets to %s: %w", p, err)
		}
	}
	for p := range have {
		if _, stays := want[p]; stays {
			continue
		}
		if err := t.of(p).Delete(key(p)); err != nil {
			return fmt.Errorf("steer packets to %s no more: %w", p, err)
		}
	}
	return nil
}

func (t *tables) of(p netip.Prefix) *ebpf.Map {
	if p.Addr().Is4() {
		return t.v4
	}
	return t.v6
}

// key is a struct bpf_lpm_trie_key.
func key(p netip.Prefix) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(p.Bits()))
	return append(b, p.Addr().AsSlice()...)
}

// Offsets in struct __sk_buff (linux/bpf.h).
const (
	skbPacketType  = 4
	skbProtocol    = 16
	skbVLANPresent = 20
)

// Places on the stack of a program: the IP header, or the beginning of it; the key
// for the tables, its address on a word of 8 octets; and the beginning of what
// follows the header.
const (
	atIP   = -40
	atKey  = -68
	atAddr = -64
	atNext = -80
	// nextLen is how much of what follows the header is read: of UDP, the header
	// and the SPI behind it.
	nextLen = packet.UDPHeaderLen + 4
)

// Registers that keep their value over calls.
const (
	rContext  = asm.R6
	rVerdict  = asm.R7
	rProtocol = asm.R8
	rTTL      = asm.R9 // then where what follows the header begins
)

// Where judge leads.
const (
	labelOurs  = "ours"
	labelOther = "other"
)

// network is x, an integer of 16 bits in network order, as the program loads it.
func network(x uint16) int32 {
	return int32(binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, x)))
}

// load reads n octets of the frame, from the offset in R2 on, to the stack. It
// leads to labelOther where the frame is too short.
func load(at, n int32) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R1, rContext),
		asm.Mov.Reg(asm.R3, asm.RFP),
		asm.Add.Imm(asm.R3, at),
		asm.Mov.Imm(asm.R4, n),
		asm.FnSkbLoadBytes.Call(),
		asm.JNE.Imm(asm.R0, 0, labelOther),
	}
}

// lookup asks a table about the key.
func lookup(table *ebpf.Map, bitLen int64) asm.Instructions {
	return asm.Instructions{
		asm.StoreImm(asm.RFP, atKey, bitLen, asm.Word),
		asm.LoadMapPtr(asm.R1, table.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, atKey),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, labelOther),
		asm.LoadMem(rVerdict, asm.R0, 0, asm.Word),
		asm.JEq.Imm(rVerdict, int32(pass), labelOther),
	}
}

// judge is frame.Steering for a port whose frames come without tags. It goes to
// labelOurs or to labelOther.
func judge(t *tables, port uint16) asm.Instructions {
	var p asm.Instructions
	add := func(parts ...asm.Instructions) {
		for _, x := range parts {
			p = append(p, x...)
		}
	}
	one := func(list ...asm.Instruction) asm.Instructions { return list }
	const (
		toIPv4, toIPv6     = "ipv4", "ipv6"
		toAddress, toOuter = "address", "outer"
	)
	add(one(
		asm.Mov.Reg(rContext, asm.R1),
		asm.LoadMem(asm.R2, rContext, skbPacketType, asm.Word),
		asm.JNE.Imm(asm.R2, 0, labelOther), // PACKET_HOST
		asm.LoadMem(asm.R2, rContext, skbVLANPresent, asm.Word),
		asm.JNE.Imm(asm.R2, 0, labelOther),
		asm.LoadMem(asm.R3, rContext, skbProtocol, asm.Word),
		asm.Mov.Imm(asm.R2, frame.HeaderLen),
		asm.JEq.Imm(asm.R3, network(frame.TypeIPv4), toIPv4),
		asm.JEq.Imm(asm.R3, network(frame.TypeIPv6), toIPv6),
		asm.Ja.Label(labelOther),
	))

	v4 := load(atIP, packet.IPv4HeaderLen)
	v4[0] = v4[0].WithSymbol(toIPv4)
	add(v4, one(
		asm.LoadMem(asm.R2, asm.RFP, atIP, asm.Byte),
		asm.JNE.Imm(asm.R2, 0x45, labelOther),
		asm.LoadMem(asm.R2, asm.RFP, atIP+16, asm.Word),
		asm.StoreMem(asm.RFP, atAddr, asm.R2, asm.Word),
	), lookup(t.v4, 32), one(
		asm.LoadMem(rTTL, asm.RFP, atIP+8, asm.Byte),
		asm.LoadMem(rProtocol, asm.RFP, atIP+9, asm.Byte),
		asm.JNE.Imm(rVerdict, int32(own), toAddress),
		asm.LoadMem(asm.R2, asm.RFP, atIP+6, asm.Half),
		asm.And.Imm(asm.R2, network(0x3fff)),
		asm.JNE.Imm(asm.R2, 0, labelOther), // a fragment
		asm.Mov.Imm(rTTL, frame.HeaderLen+packet.IPv4HeaderLen),
		asm.Ja.Label(toOuter),
	))

	v6 := load(atIP, packet.IPv6HeaderLen)
	v6[0] = v6[0].WithSymbol(toIPv6)
	add(v6, one(
		asm.LoadMem(asm.R2, asm.RFP, atIP, asm.Byte),
		asm.RSh.Imm(asm.R2, 4),
		asm.JNE.Imm(asm.R2, 6, labelOther),
		asm.LoadMem(asm.R2, asm.RFP, atIP+24, asm.DWord),
		asm.StoreMem(asm.RFP, atAddr, asm.R2, asm.DWord),
		asm.LoadMem(asm.R2, asm.RFP, atIP+32, asm.DWord),
		asm.StoreMem(asm.RFP, atAddr+8, asm.R2, asm.DWord),
	), lookup(t.v6, 128), one(
		asm.LoadMem(rProtocol, asm.RFP, atIP+6, asm.Byte),
		asm.LoadMem(rTTL, asm.RFP, atIP+7, asm.Byte),
		asm.JNE.Imm(rVerdict, int32(own), toAddress),
		asm.Mov.Imm(rTTL, frame.HeaderLen+packet.IPv6HeaderLen),
		asm.Ja.Label(toOuter),

		asm.JLT.Imm(rTTL, frame.MinTTL, labelOther).WithSymbol(toAddress),
		asm.Ja.Label(labelOurs),

		asm.JEq.Imm(rProtocol, int32(packet.ProtocolESP), labelOurs).WithSymbol(toOuter),
		asm.JEq.Imm(rProtocol, int32(packet.ProtocolAH), labelOurs),
		asm.JNE.Imm(rProtocol, int32(packet.ProtocolUDP), labelOther),
		asm.Mov.Reg(asm.R2, rTTL),
	), load(atNext, nextLen), one(
		asm.LoadMem(asm.R2, asm.RFP, atNext+2, asm.Half),
		asm.JNE.Imm(asm.R2, network(port), labelOther),
		asm.LoadMem(asm.R2, asm.RFP, atNext+packet.UDPHeaderLen, asm.Word),
		asm.JEq.Imm(asm.R2, 0, labelOther), // IKE
	))
	return p
}

// answer ends a program.
func answer(ours, other int32) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Imm(asm.R0, ours).WithSymbol(labelOurs),
		asm.Return(),
		asm.Mov.Imm(asm.R0, other).WithSymbol(labelOther),
		asm.Return(),
	}
}

// Answers: how many octets of a frame a socket gets, and what becomes of it
// (enum tcx_action_base of linux/bpf.h).
const (
	keepAll  = 1<<31 - 1
	keepNone = 0
	tcxDrop  = 2
	tcxNext  = -1
)

// newFilter makes the filter of sockets.
func newFilter(t *tables, port uint16) (*ebpf.Program, error) {
	return newProgram("caponier_filter", ebpf.SocketFilter, append(judge(t, port), answer(keepAll, keepNone)...))
}

// newIngress makes what keeps from the kernel what the sockets have.
func newIngress(t *tables, port uint16) (*ebpf.Program, error) {
	return newProgram("caponier_drop", ebpf.SchedCLS, append(judge(t, port), answer(tcxDrop, tcxNext)...))
}

func newProgram(name string, kind ebpf.ProgramType, code asm.Instructions) (*ebpf.Program, error) {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: name, Type: kind, Instructions: code, License: "GPL"})
	if err != nil {
		return nil, fmt.Errorf("load program %s: %w", name, err)
	}
	return p, nil
}

// newFanout makes what chooses among n sockets: what is outside by SPI, as
// netio.OwnerOf does, what is inside by addresses and ports. It sees every frame,
// also those that no socket keeps, and other than a filter from the IP header on.
func newFanout(n int) (*ebpf.Program, error) {
	const toIPv4, toIPv6, toNext, toSpread = "ipv4", "ipv6", "next", "spread"
	const rHash = asm.R7
	v4, v6 := load(atIP, packet.IPv4HeaderLen), load(atIP, packet.IPv6HeaderLen)
	v4[0], v6[0] = v4[0].WithSymbol(toIPv4), v6[0].WithSymbol(toIPv6)
	mix := func(at int16, size asm.Size) asm.Instructions {
		return asm.Instructions{asm.LoadMem(asm.R2, asm.RFP, at, size), asm.Xor.Reg(rHash, asm.R2)}
	}
	code := asm.Instructions{
		asm.Mov.Reg(rContext, asm.R1),
		asm.Mov.Imm(rHash, 0),
		asm.LoadMem(asm.R3, rContext, skbProtocol, asm.Word),
		asm.Mov.Imm(asm.R2, 0),
		asm.JEq.Imm(asm.R3, network(frame.TypeIPv4), toIPv4),
		asm.JEq.Imm(asm.R3, network(frame.TypeIPv6), toIPv6),
		asm.Ja.Label(labelOther),
	}
	code = append(code, v4...)
	code = append(code, mix(atIP+12, asm.Word)...)
	code = append(code, mix(atIP+16, asm.Word)...)
	code = append(code,
		asm.LoadMem(rProtocol, asm.RFP, atIP+9, asm.Byte),
		asm.LoadMem(asm.R2, asm.RFP, atIP+6, asm.Half),
		asm.And.Imm(asm.R2, network(0x3fff)),
		asm.JNE.Imm(asm.R2, 0, toSpread), // a fragment shows no ports
		asm.Mov.Imm(rTTL, packet.IPv4HeaderLen),
		asm.Ja.Label(toNext),
	)
	code = append(code, v6...)
	for at := int16(atIP + 8); at < atIP+40; at += 8 {
		code = append(code, mix(at, asm.DWord)...)
	}
	code = append(code,
		asm.LoadMem(rProtocol, asm.RFP, atIP+6, asm.Byte),
		asm.Mov.Imm(rTTL, packet.IPv6HeaderLen),

		// The SPI of ESP stands first, that of AH second.
		asm.Mov.Reg(asm.R2, rTTL).WithSymbol(toNext),
		asm.JEq.Imm(rProtocol, int32(packet.ProtocolESP), "first"),
		asm.Add.Imm(asm.R2, 4),
		asm.JEq.Imm(rProtocol, int32(packet.ProtocolAH), "first"),
		asm.Mov.Reg(asm.R2, rTTL),
		asm.JEq.Imm(rProtocol, int32(packet.ProtocolUDP), "udp"),
		asm.JNE.Imm(rProtocol, int32(packet.ProtocolTCP), toSpread),
	)
	code = append(code, load(atNext, 4)...)
	code = append(code, mix(atNext, asm.Word)...)
	code = append(code, asm.Ja.Label(toSpread))
	udp := load(atNext, nextLen)
	udp[0] = udp[0].WithSymbol("udp")
	code = append(code, udp...)
	code = append(code, mix(atNext, asm.Word)...)
	code = append(code,
		asm.LoadMem(asm.R2, asm.RFP, atNext+2, asm.Half),
		asm.JNE.Imm(asm.R2, network(espPort), toSpread),
		asm.LoadMem(asm.R0, asm.RFP, atNext+packet.UDPHeaderLen, asm.Word),
		asm.Ja.Label("spi"),
	)
	first := load(atNext, 4)
	first[0] = first[0].WithSymbol("first")
	code = append(code, first...)
	code = append(code,
		asm.LoadMem(asm.R0, asm.RFP, atNext, asm.Word),
		asm.HostTo(asm.BE, asm.R0, asm.Word).WithSymbol("spi"),
		asm.Mod.Imm32(asm.R0, int32(n)),
		asm.Return(),

		// Both halves, then the high bits of a product (Knuth's multiplicative hash).
		asm.Mov.Reg(asm.R2, rHash).WithSymbol(toSpread),
		asm.RSh.Imm(asm.R2, 32),
		asm.Xor.Reg(rHash, asm.R2),
		asm.Mov.Reg32(asm.R0, rHash),
		asm.Mul.Imm32(asm.R0, -0x61c88647),
		asm.RSh.Imm32(asm.R0, int32(32-bits.Len(uint(spread-1)))),
		asm.Mod.Imm32(asm.R0, int32(n)),
		asm.Return(),

		asm.Mov.Imm(asm.R0, 0).WithSymbol(labelOther),
		asm.Return(),
	)
	return newProgram("caponier_fanout", ebpf.SocketFilter, code)
}

// spread is how many values the hash of a flow has before it is reduced.
const spread = 1 << 16

// espPort is the UDP port of ESP (RFC 3948).
const espPort = 4500
