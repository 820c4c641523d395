// Package pcapng writes captures to files that Wireshark reads: packets as pcapng
// (draft-ietf-opsawg-pcapng) with an interface for each side of the gateway, and
// keys as a directory of Wireshark's tables beside them.
//
// The writer is our own, although libraries have one: those bring decoders of all
// protocols along, which a resident gateway would pay for with 3 MB of memory.
package pcapng

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"caponier/internal/capture"
	"caponier/internal/ipsec"
)

// Types of blocks (Section 4).
const (
	blockSection   = 0x0a0d0d0a
	blockInterface = 1
	blockPacket    = 6
)

// Codes of options: of every block, of sections, of interfaces and of packets.
const (
	optComment     = 1
	optHardware    = 2
	optOS          = 3
	optApplication = 4

	optName        = 2
	optDescription = 3
	optResolution  = 9

	optFlags = 2
)

const (
	byteOrder    = 0x1a2b3c4d
	linkTypeRaw  = 101 // packets begin with the IP header
	nanoseconds  = 9   // 10^-9 s, as the resolution of timestamps
	flagInbound  = 1
	flagOutbound = 2
)

// Writer writes packets as pcapng. It belongs to one goroutine.
type Writer struct {
	w      *bufio.Writer
	block  []byte // scratch
	octets int64
	// Packets are how many were written, by side.
	Packets [2]uint64
}

// NewWriter writes the head of a file: the two interfaces. program names what
// wrote it.
func NewWriter(w io.Writer, program, comment string) (*Writer, error) {
	out := &Writer{w: bufio.NewWriter(w)}
	out.begin(blockSection)
	out.u32(byteOrder)
	out.u32(1)          // version 1.0, in two halves
	out.u32(0xffffffff) // the length of the section is not known
	out.u32(0xffffffff)
	out.option(optComment, comment)
	out.option(optHardware, runtime.GOARCH)
	out.option(optOS, runtime.GOOS)
	out.option(optApplication, program)
	if err := out.end(); err != nil {
		return nil, err
	}
	for _, x := range []struct {
		side        capture.Side
		description string
	}{
		{capture.Inner, "what the tunnels carry, in clear"},
		{capture.Outer, "ESP and IKE; the IP and UDP headers are rebuilt from the addresses"},
	} {
		out.begin(blockInterface)
		out.u32(linkTypeRaw)
		out.u32(0) // packets are whole
		out.option(optName, x.side.String())
		out.option(optDescription, x.description)
		out.option(optResolution, string([]byte{nanoseconds}))
		if err := out.end(); err != nil {
			return nil, err
		}
	}
	return out, out.Flush()
}

// Write writes a packet, with the names of its connection and tunnel as a
// comment.
func (w *Writer) Write(p *capture.Packet) error {
	flags := uint32(flagOutbound)
	if p.Direction == ipsec.In {
		flags = flagInbound
	}
	at := uint64(p.Time.UnixNano())
	w.begin(blockPacket)
	w.u32(uint32(p.Side)) // the interfaces stand in this order
	w.u32(uint32(at >> 32))
	w.u32(uint32(at))
	w.u32(uint32(len(p.Data)))
	w.u32(uint32(len(p.Data)))
	w.padded(p.Data)
	w.option(optComment, comment(p))
	w.option(optFlags, string(binary.LittleEndian.AppendUint32(nil, flags)))
	if err := w.end(); err != nil {
		return err
	}
	w.Packets[p.Side]++
	return nil
}

// begin begins a block, end gives it its length and writes it (Section 3.1).
func (w *Writer) begin(kind uint32) {
	w.block = w.block[:0]
	w.u32(kind)
	w.u32(0)
}

func (w *Writer) end() error {
	w.u32(0) // no more options
	length := uint32(len(w.block) + 4)
	w.u32(length)
	binary.LittleEndian.PutUint32(w.block[4:], length)
	w.octets += int64(length)
	if _, err := w.w.Write(w.block); err != nil {
		return fmt.Errorf("write capture: %w", err)
	}
	return nil
}

func (w *Writer) u32(v uint32) { w.block = binary.LittleEndian.AppendUint32(w.block, v) }

// padded adds octets and fills up to 32 bits.
func (w *Writer) padded(b []byte) {
	w.block = append(w.block, b...)
	for len(w.block)%4 != 0 {
		w.block = append(w.block, 0)
	}
}

// option adds an option (Section 3.5), if it has a value.
func (w *Writer) option(code uint16, value string) {
	if value == "" {
		return
	}
	value = value[:min(len(value), 1<<16-4)]
	w.block = binary.LittleEndian.AppendUint16(w.block, code)
	w.block = binary.LittleEndian.AppendUint16(w.block, uint16(len(value)))
	w.padded([]byte(value))
}

func comment(p *capture.Packet) string {
	var words []string
	switch {
	case p.Tunnel != "":
		words = append(words, p.Connection+"/"+p.Tunnel)
	case p.Connection != "":
		words = append(words, p.Connection)
	}
	if p.Segment != 0 {
		words = append(words, fmt.Sprintf("stands for segments of %d octets", p.Segment))
	}
	return strings.Join(words, "; ")
}

// Flush writes out what is buffered, so that a reader who follows sees it.
func (w *Writer) Flush() error {
	if err := w.w.Flush(); err != nil {
		return fmt.Errorf("write capture: %w", err)
	}
	return nil
}

// Octets is how long the file is, up to the last Flush.
func (w *Writer) Octets() int64 { return w.octets }

// KeyDir is a directory with keys in the form that Wireshark reads: the personal
// configuration of one who has nothing but this capture.
type KeyDir struct {
	Path  string
	files map[string]*os.File
	Lines int
}

// preferences switch on what Wireshark does not do by itself.
const preferences = "esp.enable_encryption_decode: TRUE\nesp.enable_authentication_check: TRUE\n"

// KeyDirFor is the directory that belongs to a capture.
func KeyDirFor(file string) string { return strings.TrimSuffix(file, filepath.Ext(file)) + ".keys" }

// CreateKeyDir makes the directory, for its owner only, with empty tables.
func CreateKeyDir(path string) (*KeyDir, error) {
	if err := os.Mkdir(path, 0o700); err != nil {
		return nil, fmt.Errorf("directory for the keys: %w", err)
	}
	d := &KeyDir{Path: path, files: make(map[string]*os.File)}
	for name, head := range map[string]string{"preferences": preferences, capture.TableESP: "", capture.TableIKE: ""} {
		f, err := os.OpenFile(filepath.Join(path, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600)
		if err == nil {
			d.files[name] = f
			_, err = f.WriteString(head)
		}
		if err != nil {
			d.Close()
			return nil, fmt.Errorf("file for the keys: %w", err)
		}
	}
	return d, nil
}

// Write appends a line to its table.
func (d *KeyDir) Write(line capture.Line) error {
	f := d.files[line.Table]
	if f == nil || strings.ContainsAny(line.Text, "\r\n") {
		return fmt.Errorf("write keys: no table %q takes this line", line.Table)
	}
	if _, err := f.WriteString(line.Text + "\n"); err != nil {
		return fmt.Errorf("write keys: %w", err)
	}
	d.Lines++
	return nil
}

// Close closes the files.
func (d *KeyDir) Close() error {
	var first error
	for _, f := range d.files {
		if err := f.Close(); err != nil && first == nil {
			first = fmt.Errorf("write keys: %w", err)
		}
	}
	return first
}
