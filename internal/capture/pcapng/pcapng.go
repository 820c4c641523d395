// Package pcapng writes captures to files that Wireshark reads: packets as pcapng
// with an interface for each side of the gateway, and keys as a directory of
// Wireshark's tables beside them.
package pcapng

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"caponier/internal/capture"
	"caponier/internal/ipsec"
)

// Writer writes packets as pcapng. It belongs to one goroutine.
type Writer struct {
	w       *pcapgo.NgWriter
	counted *counter
	// Packets are how many were written, by side.
	Packets [2]uint64
}

// counter counts octets.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}

// NewWriter writes the head of a file: the two interfaces. program names what
// wrote it.
func NewWriter(w io.Writer, program, comment string) (*Writer, error) {
	c := &counter{w: w}
	side := func(s capture.Side, description string) pcapgo.NgInterface {
		return pcapgo.NgInterface{
			Name: s.String(), Description: description, OS: runtime.GOOS, LinkType: layers.LinkTypeRaw,
			TimestampResolution: 9, // nanoseconds
		}
	}
	inner := side(capture.Inner, "what the tunnels carry, in clear")
	outer := side(capture.Outer, "ESP and IKE; the IP and UDP headers are rebuilt from the addresses")
	ng, err := pcapgo.NewNgWriterInterface(c, inner, pcapgo.NgWriterOptions{SectionInfo: pcapgo.NgSectionInfo{
		Hardware: runtime.GOARCH, OS: runtime.GOOS, Application: program, Comment: comment,
	}})
	if err != nil {
		return nil, fmt.Errorf("write capture: %w", err)
	}
	if _, err := ng.AddInterface(outer); err != nil {
		return nil, fmt.Errorf("write capture: %w", err)
	}
	out := &Writer{w: ng, counted: c}
	return out, out.Flush()
}

// Write writes a packet, with the names of its connection and tunnel as a
// comment.
func (w *Writer) Write(p *capture.Packet) error {
	direction := pcapgo.NgEpbFlagDirectionOutbound
	if p.Direction == ipsec.In {
		direction = pcapgo.NgEpbFlagDirectionInbound
	}
	info := gopacket.CaptureInfo{
		Timestamp: p.Time, CaptureLength: len(p.Data), Length: len(p.Data), InterfaceIndex: int(p.Side),
	}
	options := pcapgo.NgPacketOptions{Flags: &pcapgo.NgEpbFlags{Direction: direction}}
	if c := comment(p); c != "" {
		options.Comments = []string{c}
	}
	if err := w.w.WritePacketWithOptions(info, p.Data, options); err != nil {
		return fmt.Errorf("write capture: %w", err)
	}
	w.Packets[p.Side]++
	return nil
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
func (w *Writer) Octets() int64 { return w.counted.n }

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
