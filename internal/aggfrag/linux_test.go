package aggfrag

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// linuxRun is a run of the kernel's code, as testdata/linux.txt explains it.
type linuxRun struct {
	sender   string
	size     int
	packets  [][]byte
	payloads [][]byte // nil: lost
	whole    [][]byte // the same, with those that were lost
	out      [][]byte // the packets that came out
}

func linuxRuns(t *testing.T) (runs []linuxRun) {
	t.Helper()
	text, err := os.ReadFile("testdata/linux.txt")
	if err != nil {
		t.Fatal(err)
	}
	for part := range strings.SplitSeq(strings.TrimSpace(string(text)), "\n\n") {
		if !strings.HasPrefix(part, "sender ") || strings.Contains(part, "sender     ") {
			continue
		}
		var run linuxRun
		var stream []byte
		for line := range strings.Lines(part) {
			words := strings.Fields(line)
			for i, word := range words[1:] {
				var a, b, pad int
				switch words[0] {
				case "packets":
					scan(t, word, "%d:%d", &a, &b)
					run.packets = append(run.packets, datagram(a, b, i))
					stream = append(stream, run.packets[i]...)
				case "payloads":
					scan(t, word, "%d:%d+%d", &a, &b, &pad)
					p := binary.BigEndian.AppendUint16([]byte{0, 0}, uint16(a))
					p = append(append(p, stream[:b]...), make([]byte, pad)...)
					stream = stream[b:]
					run.whole = append(run.whole, p)
					if strings.HasSuffix(word, "!") {
						p = nil
					}
					run.payloads = append(run.payloads, p)
				case "delivered":
					scan(t, word, "%d", &a)
					run.out = append(run.out, run.packets[a])
				}
			}
			if words[0] == "sender" {
				run.sender = words[1]
				scan(t, words[2], "%d", &run.size)
			}
		}
		runs = append(runs, run)
	}
	if len(runs) == 0 {
		t.Fatal("testdata/linux.txt has no runs")
	}
	return runs
}

func scan(t *testing.T, text, format string, into ...any) {
	t.Helper()
	if _, err := fmt.Sscanf(text, format, into...); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
}

// TestLinux: of payloads that Linux made, and of those that it was given, what comes
// out here is what came out there, with and without loss.
func TestLinux(t *testing.T) {
	for _, run := range linuxRuns(t) {
		var rx Receiver
		var got [][]byte
		for i, p := range run.payloads {
			if p != nil {
				got = append(got, unpack(&rx, uint64(i+1), p)...)
			}
		}
		if !slices.EqualFunc(got, run.out, bytes.Equal) {
			t.Errorf("payloads of %d octets from %s: %d packets, %d of Linux, %d were sent", run.size, run.sender, len(got), len(run.out), len(run.packets))
		}
	}
}

// TestLinuxTakesOurs: the payloads of which Linux has delivered every packet are
// those that Packer makes.
func TestLinuxTakesOurs(t *testing.T) {
	for _, run := range linuxRuns(t) {
		if run.sender != "packer" {
			continue
		}
		if diff := cmp.Diff(run.whole, pack(run.packets, run.size, true)); diff != "" {
			t.Errorf("payloads of %d octets are not those that Linux was given (-then +now):\n%s", run.size, diff)
		}
	}
}

// TestExampleOfTheRFC is the flow of RFC 9347, Appendix A.
func TestExampleOfTheRFC(t *testing.T) {
	pace := NewPace(1_000_000)
	for i, n := range []int{750, 750, 60, 240, 3000} {
		pace.Put(datagram(4, n, i))
	}
	for i, want := range []int{0, 100, 2000, 600} {
		p, _, _, _ := pace.Fill(make([]byte, 1404), true, nil)
		if offset := int(binary.BigEndian.Uint16(p[2:])); offset != want || len(p) != 1404 {
			t.Errorf("ESP%d: BlockOffset %d of %d octets, want %d", i+1, offset, len(p), want)
		}
	}
}
