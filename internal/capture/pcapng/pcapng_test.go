package pcapng

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket/pcapgo"

	"caponier/internal/capture"
	"caponier/internal/ipsec"
)

var samples = []capture.Packet{
	{Time: time.Unix(1, 2), Side: capture.Inner, Direction: ipsec.Out, Connection: "agw", Tunnel: "lan", Segment: 1300, Data: []byte{0x45, 1, 2}},
	{Time: time.Unix(3, 4), Side: capture.Outer, Direction: ipsec.In, Connection: "agw", Data: []byte{0x60}},
	{Time: time.Unix(5, 6), Side: capture.Outer, Direction: ipsec.In, Data: []byte{0x45, 1}},
}

func TestWriter(t *testing.T) {
	var b bytes.Buffer
	w, err := NewWriter(&b, "test", "a comment")
	if err != nil {
		t.Fatal(err)
	}
	for i := range samples {
		if err := w.Write(&samples[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil || w.Octets() != int64(b.Len()) || w.Packets != [2]uint64{1, 2} {
		t.Errorf("%v, %d of %d octets, %v packets", err, w.Octets(), b.Len(), w.Packets)
	}
	r, err := pcapgo.NewNgReader(&b, pcapgo.NgReaderOptions{WantMixedLinkType: true})
	if err != nil {
		t.Fatal(err)
	}
	for i := range samples {
		data, info, options, err := r.ReadPacketDataWithOptions()
		if err != nil {
			t.Fatal(err)
		}
		side, err := r.Interface(info.InterfaceIndex)
		if err != nil {
			t.Fatal(err)
		}
		p := &samples[i]
		if !bytes.Equal(data, p.Data) || !info.Timestamp.Equal(p.Time) || side.Name != p.Side.String() {
			t.Errorf("packet %d: %x at %s on %s", i, data, info.Timestamp, side.Name)
		}
		want := [][]string{{"agw/lan; stands for segments of 1300 octets"}, {"agw"}, nil}[i]
		if diff := cmp.Diff(want, options.Comments); diff != "" {
			t.Errorf("packet %d: %s", i, diff)
		}
	}
	if _, _, err := r.ReadPacketData(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last packet: %v", err)
	}
}

type fullDisk struct{ left int }

func (d *fullDisk) Write(b []byte) (int, error) {
	if d.left -= len(b); d.left < 0 {
		return 0, errors.New("no space left")
	}
	return len(b), nil
}

func TestFullDisk(t *testing.T) {
	if _, err := NewWriter(&fullDisk{}, "", ""); err == nil {
		t.Error("the head is lost in silence")
	}
	w, err := NewWriter(&fullDisk{1000}, "", "")
	for i := 0; err == nil && i < 10000; i++ {
		if err = w.Write(&samples[0]); err == nil {
			err = w.Flush()
		}
	}
	if err == nil {
		t.Error("packets are lost in silence")
	}
}

func TestKeyDir(t *testing.T) {
	path := KeyDirFor(filepath.Join(t.TempDir(), "x.pcapng"))
	d, err := CreateKeyDir(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Write(capture.Line{Table: capture.TableESP, Text: "a"}); err != nil {
		t.Error(err)
	}
	for _, bad := range []capture.Line{{Table: "../x", Text: "a"}, {Table: capture.TableIKE, Text: "a\nb"}} {
		if err := d.Write(bad); err == nil {
			t.Errorf("%q is written", bad.Text)
		}
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	got, err := os.ReadFile(filepath.Join(path, capture.TableESP))
	if err != nil || string(got) != "a\n" || d.Lines != 1 {
		t.Errorf("%q, %v", got, err)
	}
	// Keys of another capture are not mixed with these.
	if _, err := CreateKeyDir(path); err == nil {
		t.Error("the directory of another capture is taken")
	}
}
