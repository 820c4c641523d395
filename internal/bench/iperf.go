package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"time"
)

// errNoIperf names what TCP is measured with.
var errNoIperf = errors.New("iperf3 is missing: apt-get install iperf3")

// serveTCP starts the server of measureTCP, where iperf3 is there.
func (p *pair) serveTCP() error {
	if _, err := exec.LookPath("iperf3"); err != nil {
		return nil //nolint:nilerr // what needs it is left out
	}
	p.iperf = true
	return p.helper(p.hostB, "iperf3", "iperf3", "--server")
}

// tcpLoad is one TCP measurement.
type tcpLoad struct {
	flows    int
	reverse  bool // from host B to host A
	mss      int  // 0: what the path allows
	duration time.Duration
}

// tcpResult is what iperf3 counted.
type tcpResult struct {
	rate        float64 // received, bit/s
	bytes       float64 // received
	retransmits float64
}

// measureTCP sends through the pair. Host B runs an iperf3 server already.
func measureTCP(ctx context.Context, p *pair, l tcpLoad) (tcpResult, error) {
	args := []string{
		"--client", addrHostB.String(), "--json", "--connect-timeout", "5000",
		"--time", strconv.Itoa(max(1, int(l.duration.Round(time.Second)/time.Second))), "--parallel", strconv.Itoa(l.flows),
	}
	if l.reverse {
		args = append(args, "--reverse")
	}
	if l.mss > 0 {
		args = append(args, "--set-mss", strconv.Itoa(l.mss))
	}
	ctx, cancel := context.WithTimeout(ctx, l.duration+20*time.Second)
	defer cancel()
	// iperf3 reports its errors in the JSON too.
	out, err := p.hostA.Command(ctx, "iperf3", args...).Output()
	r, parseErr := parseIperf(out)
	if parseErr == nil {
		return r, nil
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && len(exit.Stderr) > 0 {
		return r, fmt.Errorf("iperf3: %w: %s", parseErr, bytes.TrimSpace(exit.Stderr))
	}
	return r, fmt.Errorf("iperf3: %w", errors.Join(parseErr, err))
}

// parseIperf reads the JSON that iperf3 prints for a TCP test.
func parseIperf(out []byte) (tcpResult, error) {
	var doc struct {
		Error string `json:"error"`
		End   struct {
			Sent struct {
				Retransmits *float64 `json:"retransmits"`
			} `json:"sum_sent"`
			Received struct {
				Bytes float64 `json:"bytes"`
				Rate  float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	if err := json.Unmarshal(out, &doc); err != nil {
		return tcpResult{}, err
	}
	if doc.Error != "" {
		return tcpResult{}, errors.New(doc.Error)
	}
	if doc.End.Sent.Retransmits == nil || doc.End.Received.Bytes <= 0 {
		return tcpResult{}, errors.New("the report holds no result of a TCP test")
	}
	return tcpResult{
		rate: doc.End.Received.Rate, bytes: doc.End.Received.Bytes, retransmits: *doc.End.Sent.Retransmits,
	}, nil
}
