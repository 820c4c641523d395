package afxdp

import (
	"encoding/binary"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"caponier/internal/ipsec"
	"caponier/internal/netio/frame"
	"caponier/internal/packet"
)

// Answers of an XDP program (enum xdp_action of linux/bpf.h).
const (
	xdpDrop     = 1
	xdpPass     = 2
	xdpRedirect = 4
)

// rules are the maps by which programs judge. Programs of all interfaces share
// them, but for sockets.
type rules struct {
	prefixes4, prefixes6 *ebpf.Map // LPM tries of verdicts
	sas                  *ebpf.Map // a hash of inbound SAs, by saKey
	words                *ebpf.Map // what is constant for a time, by index
}

// What rules.words holds.
const (
	wordPort uint32 = iota // the UDP port in the order of the network
	wordSift               // whether packets of SAs that are not in the hash are dropped
	wordCount
)

// Verdicts in the tries. What has none is not the gateway's.
const (
	verdictOwn  uint32 = 1 + iota // an address of the gateway
	verdictTake                   // behind a tunnel
	verdictPass                   // inside a prefix behind a tunnel, and not behind it
)

// tally is what a program counts, by index into a map with a value for each CPU.
const (
	tallyInner       uint32 = iota // inner packets redirected
	tallyOuter                     // outer packets redirected
	tallyNoSocket                  // inner packets dropped because their queue has no socket
	tallyOuterPassed               // outer packets left to the kernel for the same reason
	tallyNoSA                      // outer packets dropped because there is no SA of their SPI
	tallyReserved                  // outer packets dropped because no SA can have their SPI
	tallies
)

// place is what a program knows of its interface.
type place struct {
	mac     [6]byte
	tagged  bool
	longest int       // of the frames that fit a chunk, in octets
	sockets *ebpf.Map // XSKMAP by queue
	tally   *ebpf.Map
}

// Offsets into struct xdp_md (linux/bpf.h).
const (
	mdData    = 0
	mdDataEnd = 4
	mdQueue   = 16
)

// Registers with a purpose throughout. The others do not survive a call.
const (
	ctx  = asm.R6
	at   = asm.R7 // where the header under inspection begins; at the end, the verdict
	end  = asm.R8 // behind the frame
	next = asm.R9 // the protocol in the IP header; at the end, the tally
)

// program does for one interface what frame.Steering says, and leaves frames that
// fit no chunk to the kernel. In the words of C:
//
//	if (end - at > longest) pass;
//	Ethernet header to this interface, one tag at most;
//	IPv4 of 20 octets, or IPv6: v = trie[destination];
//	if (v == own)  { not a fragment; ESP, AH, or UDP to the port with a SPI:
//	                 if (sifting && no SA of protocol and SPI) drop; redirect or pass }
//	if (v == take) { time to live above 1: redirect or drop }
//	pass
//
// Numbers of more than one octet are loaded as they lie in the frame, and compared
// with constants turned around where that is needed.
func program(r *rules, p *place) asm.Instructions {
	var b builder
	b.add(
		asm.Mov.Reg(ctx, asm.R1),
		asm.LoadMem(at, ctx, mdData, asm.Word),
		asm.LoadMem(end, ctx, mdDataEnd, asm.Word),
		// A frame that goes beyond the longest fits no chunk.
		asm.Mov.Reg(asm.R2, at),
		asm.Add.Imm(asm.R2, int32(p.longest)),
		asm.JLT.Reg(asm.R2, end, "pass"),
	)
	b.need(frame.HeaderLen)
	b.add(
		asm.LoadMem(asm.R2, at, 0, asm.Word),
		asm.LoadImm(asm.R3, int64(binary.NativeEndian.Uint32(p.mac[0:4])), asm.DWord),
		asm.JNE.Reg(asm.R2, asm.R3, "pass"),
		asm.LoadMem(asm.R2, at, 4, asm.Half),
		asm.JNE.Imm(asm.R2, int32(binary.NativeEndian.Uint16(p.mac[4:6])), "pass"),
		asm.LoadMem(asm.R5, at, 12, asm.Half),
		asm.Add.Imm(at, frame.HeaderLen),
	)
	if p.tagged {
		b.add(asm.JNE.Imm(asm.R5, network(frame.TypeVLAN), "type"))
		b.need(frame.TagLen)
		b.add(
			asm.LoadMem(asm.R5, at, 2, asm.Half),
			asm.Add.Imm(at, frame.TagLen),
		)
		b.label("type")
	}
	b.add(
		asm.JEq.Imm(asm.R5, network(frame.TypeIPv4), "ipv4"),
		asm.JEq.Imm(asm.R5, network(frame.TypeIPv6), "ipv6"),
		asm.Ja.Label("pass"),
	)
	b.ipv4(r)
	b.ipv6(r)
	b.outer(r)
	b.redirect(p)
	b.label("pass")
	b.add(asm.Mov.Imm(asm.R0, xdpPass), asm.Return())
	return b.ins
}

// network turns a number of 16 bits into what a load of it from a frame gives.
func network(v uint16) int32 {
	return int32(binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v)))
}

// builder appends instructions; a label is for the one that is added next.
type builder struct {
	ins     asm.Instructions
	pending string
}

func (b *builder) add(list ...asm.Instruction) {
	if b.pending != "" {
		list[0] = list[0].WithSymbol(b.pending)
		b.pending = ""
	}
	b.ins = append(b.ins, list...)
}

func (b *builder) label(name string) { b.pending = name }

// need passes frames that have fewer than n octets from the present header on.
func (b *builder) need(n int32) {
	b.add(
		asm.Mov.Reg(asm.R2, at),
		asm.Add.Imm(asm.R2, n),
		asm.JGT.Reg(asm.R2, end, "pass"),
	)
}

// ipv4 parses an IPv4 header and looks its destination up.
func (b *builder) ipv4(r *rules) {
	b.label("ipv4")
	b.need(packet.IPv4HeaderLen)
	b.add(
		asm.LoadMem(asm.R2, at, 0, asm.Byte),
		asm.JNE.Imm(asm.R2, 0x45, "pass"), // version, and a header without options
		asm.LoadMem(next, at, 9, asm.Byte),
		asm.StoreImm(asm.RFP, -8, 32, asm.Word), // struct bpf_lpm_trie_key
		asm.LoadMem(asm.R2, at, 16, asm.Word),
		asm.StoreMem(asm.RFP, -4, asm.R2, asm.Word),
	)
	b.lookup(r.prefixes4, -8)
	b.add(
		asm.JEq.Imm(asm.R0, int32(verdictOwn), "own4"),
		asm.JNE.Imm(asm.R0, int32(verdictTake), "pass"),
		asm.LoadMem(asm.R2, at, 8, asm.Byte), // time to live
		asm.JGT.Imm(asm.R2, 1, "inner"),
		asm.Ja.Label("pass"),
	)
	b.label("own4")
	b.add(
		asm.LoadMem(asm.R2, at, 6, asm.Half),
		asm.JSet.Imm(asm.R2, network(0x3fff), "pass"), // a fragment: more to come, or an offset
		asm.Add.Imm(at, packet.IPv4HeaderLen),
		asm.Ja.Label("outer"),
	)
}

// ipv6 parses an IPv6 header and looks its destination up.
func (b *builder) ipv6(r *rules) {
	b.label("ipv6")
	b.need(packet.IPv6HeaderLen)
	b.add(
		asm.LoadMem(asm.R2, at, 0, asm.Byte),
		asm.And.Imm(asm.R2, 0xf0),
		asm.JNE.Imm(asm.R2, 0x60, "pass"),
		asm.LoadMem(next, at, 6, asm.Byte),
		asm.StoreImm(asm.RFP, -20, 128, asm.Word),
	)
	for i := int16(0); i < 16; i += 4 {
		b.add(
			asm.LoadMem(asm.R2, at, 24+i, asm.Word),
			asm.StoreMem(asm.RFP, -16+i, asm.R2, asm.Word),
		)
	}
	b.lookup(r.prefixes6, -20)
	b.add(
		asm.JEq.Imm(asm.R0, int32(verdictOwn), "own6"),
		asm.JNE.Imm(asm.R0, int32(verdictTake), "pass"),
		asm.LoadMem(asm.R2, at, 7, asm.Byte), // hop limit
		asm.JGT.Imm(asm.R2, 1, "inner"),
		asm.Ja.Label("pass"),
	)
	b.label("own6")
	b.add(
		asm.Add.Imm(at, packet.IPv6HeaderLen),
		asm.Ja.Label("outer"),
	)
}

// lookup looks up the key that begins at an offset of the stack, and loads the
// verdict into R0. What has none passes.
func (b *builder) lookup(m *ebpf.Map, key int32) {
	b.add(
		asm.LoadMapPtr(asm.R1, m.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, key),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "pass"),
		asm.LoadMem(asm.R0, asm.R0, 0, asm.Word),
	)
}

// Places on the stack for what follows the IP header of a packet to the gateway.
const (
	stackSPI      = -8 // with the protocol behind it, the key in the hash of SAs
	stackProtocol = -4
	stackIndex    = -12
)

// outer judges what follows the IP header of a packet to the gateway. One that is
// too short to name an SA is left to the data plane.
func (b *builder) outer(r *rules) {
	b.label("outer")
	b.add(
		asm.JEq.Imm(next, int32(packet.ProtocolESP), "esp"),
		asm.JEq.Imm(next, int32(packet.ProtocolAH), "ah"),
		asm.JNE.Imm(next, int32(packet.ProtocolUDP), "pass"),
	)
	// The UDP header, and the SPI or the zeros of the non-ESP marker.
	b.need(packet.UDPHeaderLen + 4)
	b.add(
		asm.LoadMem(asm.R2, at, packet.UDPHeaderLen, asm.Word),
		asm.JEq.Imm(asm.R2, 0, "pass"),
		asm.StoreMem(asm.RFP, stackSPI, asm.R2, asm.Word),
		asm.LoadMem(next, at, 2, asm.Half),
	)
	b.word(r, wordPort, "pass")
	b.add(
		asm.JNE.Reg(asm.R0, next, "pass"),
		asm.StoreImm(asm.RFP, stackProtocol, int64(ipsec.ESP), asm.Word),
		asm.Ja.Label("sift"),
	)
	for _, x := range []struct {
		name     string
		protocol ipsec.Protocol
		spi      int16
	}{{"esp", ipsec.ESP, 0}, {"ah", ipsec.AH, 4}} {
		b.label(x.name)
		b.add(
			asm.Mov.Reg(asm.R2, at),
			asm.Add.Imm(asm.R2, int32(x.spi)+4),
			asm.JGT.Reg(asm.R2, end, "sealed"),
			asm.LoadMem(asm.R2, at, x.spi, asm.Word),
			asm.StoreMem(asm.RFP, stackSPI, asm.R2, asm.Word),
			asm.StoreImm(asm.RFP, stackProtocol, int64(x.protocol), asm.Word),
			asm.Ja.Label("sift"),
		)
	}
	b.sift(r)
}

// sift drops what asks for an SA that there is not.
func (b *builder) sift(r *rules) {
	b.label("sift")
	b.add(
		asm.LoadMapPtr(asm.R1, r.sas.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, stackSPI),
		asm.FnMapLookupElem.Call(),
		asm.JNE.Imm(asm.R0, 0, "sealed"),
	)
	b.word(r, wordSift, "sealed")
	b.add(
		asm.JEq.Imm(asm.R0, 0, "sealed"),
		asm.Mov.Imm(at, xdpDrop),
		asm.Mov.Imm(next, int32(tallyReserved)),
		asm.LoadMem(asm.R2, asm.RFP, stackSPI, asm.Word),
		asm.HostTo(asm.BE, asm.R2, asm.Word),
		asm.JLT.Imm(asm.R2, int32(ipsec.MinSPI), "count"),
		asm.Mov.Imm(next, int32(tallyNoSA)),
		asm.Ja.Label("count"),
	)
}

// word loads an entry of the words into R0.
func (b *builder) word(r *rules, index uint32, without string) {
	b.add(
		asm.StoreImm(asm.RFP, stackIndex, int64(index), asm.Word),
		asm.LoadMapPtr(asm.R1, r.words.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, stackIndex),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, without),
		asm.LoadMem(asm.R0, asm.R0, 0, asm.Word),
	)
}

// redirect hands the frame to the socket of its queue, and counts. Where there is
// no socket, the lower bits of the flags are the answer (bpf_redirect_map): drop
// for what must not go on in clear.
func (b *builder) redirect(p *place) {
	b.label("sealed")
	b.add(
		asm.Mov.Imm(next, int32(tallyOuter)),
		asm.Mov.Imm(asm.R3, xdpPass),
		asm.Ja.Label("redirect"),
	)
	b.label("inner")
	b.add(
		asm.Mov.Imm(next, int32(tallyInner)),
		asm.Mov.Imm(asm.R3, xdpDrop),
	)
	b.label("redirect")
	b.add(
		asm.LoadMapPtr(asm.R1, p.sockets.FD()),
		asm.LoadMem(asm.R2, ctx, mdQueue, asm.Word),
		asm.FnRedirectMap.Call(),
		asm.Mov.Reg(at, asm.R0),
		asm.JEq.Imm(asm.R0, xdpRedirect, "count"),
		asm.Add.Imm(next, int32(tallyNoSocket-tallyInner)),
	)
	b.label("count")
	b.add(
		asm.StoreMem(asm.RFP, -4, next, asm.Word),
		asm.LoadMapPtr(asm.R1, p.tally.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "done"),
		asm.LoadMem(asm.R2, asm.R0, 0, asm.DWord), // this CPU's own
		asm.Add.Imm(asm.R2, 1),
		asm.StoreMem(asm.R0, 0, asm.R2, asm.DWord),
	)
	b.label("done")
	b.add(
		asm.Mov.Reg(asm.R0, at),
		asm.Return(),
	)
}
