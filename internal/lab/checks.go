package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"time"

	"caponier/internal/lab/netns"
)

// Result is one row of the table that Test makes.
type Result struct {
	What  string `json:"what"`
	Pass  bool   `json:"pass"`
	Found string `json:"found"` // what was seen, or what went wrong
}

// Text writes the row for people.
func (r Result) Text(w io.Writer) error {
	verdict := "pass"
	if !r.Pass {
		verdict = "FAIL"
	}
	_, err := fmt.Fprintf(w, "%s  %-52s  %s\n", verdict, r.What, r.Found)
	return err
}

// Test proves on the running lab what it is for: each client reaches its own
// server, none reaches the other's, nothing but IKE and ESP crosses the outside,
// and a gateway that was killed comes back. It calls report after each row.
func (l *Lab) Test(ctx context.Context, report func(Result)) error {
	if err := l.load(); err != nil {
		return err
	}
	var tap wire
	capture, err := l.ns(internet).Watch(tap.see)
	if err != nil {
		return err
	}
	failed := 0
	row := func(what string, check func() (string, error)) {
		found, err := check()
		r := Result{What: what, Pass: err == nil, Found: found}
		if err != nil {
			failed++
			r.Found = err.Error()
		}
		report(r)
	}
	for _, c := range customers {
		row(fmt.Sprintf("client %s reaches its server", c.Letter), func() (string, error) {
			return l.mustReach(ctx, &tap, c, c)
		})
	}
	for i, c := range customers {
		other := customers[(i+1)%len(customers)]
		row(fmt.Sprintf("client %s is kept from server %s", c.Letter, other.Letter), func() (string, error) {
			return l.mustNotReach(ctx, &tap, c, other)
		})
	}
	victim := customers[0]
	row(fmt.Sprintf("%s is killed: nothing passes, in clear or otherwise", victim.gatewayName()), func() (string, error) {
		p, _ := l.process(victim.gatewayName())
		if err := p.end(syscall.SIGKILL, 5*time.Second); err != nil {
			return "", err
		}
		return l.mustCease(ctx, &tap, victim)
	})
	row(fmt.Sprintf("%s is back: traffic resumes", victim.gatewayName()), func() (string, error) {
		g := victim.gatewayName()
		if err := l.start(g, g, "run", "-c", configPath(l.dir, g)); err != nil {
			return "", err
		}
		if err := l.waitFor(ctx, g); err != nil {
			return "", err
		}
		return l.mustReach(ctx, &tap, victim, victim)
	})
	// Let the last frames arrive.
	time.Sleep(100 * time.Millisecond)
	row("outside, only IKE and ESP are seen", tap.verdict)
	if err := capture.Close(); err != nil {
		return err
	}
	if failed > 0 {
		return fmt.Errorf("%d checks failed; logs are in %s", failed, l.dir)
	}
	return nil
}

// stamp makes a timestamp that the tap will recognise in clear.
func stamp(tap *wire, c customer) string {
	s := fmt.Sprintf("%s-%s", time.Now().UTC().Format("20060102T150405.000000000"), c.Letter)
	tap.mustNotShow([]byte(s))
	return s
}

func (l *Lab) mustReach(ctx context.Context, tap *wire, from, to customer) (string, error) {
	s := stamp(tap, from)
	began := time.Now()
	got, err := request(ctx, l.ns(from.clientName()), to.Server, s)
	if err != nil {
		return "", err
	}
	if want := to.serverName() + " " + s; got != want {
		return "", fmt.Errorf("the answer was %q, not %q", got, want)
	}
	return fmt.Sprintf("%s repeated the timestamp after %d ms", to.serverName(), time.Since(began).Milliseconds()), nil
}

// lastWords is how long the kernel may take to remove the device of a process
// that was killed. Until then its own data plane goes on protecting what it has
// SAs for.
const lastWords = 3 * time.Second

// mustCease is mustNotReach for a gateway that has just been killed.
func (l *Lab) mustCease(ctx context.Context, tap *wire, c customer) (string, error) {
	for began := time.Now(); ; {
		found, err := l.mustNotReach(ctx, tap, c, c)
		if err == nil || time.Since(began) > lastWords {
			return found, err
		}
	}
}

func (l *Lab) mustNotReach(ctx context.Context, tap *wire, from, to customer) (string, error) {
	got, err := request(ctx, l.ns(from.clientName()), to.Server, stamp(tap, from))
	if err == nil {
		return "", fmt.Errorf("%s answered %q", to.serverName(), got)
	}
	if errors.Is(err, netns.ErrPrivilege) {
		return "", err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return "no answer", nil
	}
	if i := strings.LastIndex(err.Error(), ": "); i >= 0 {
		return err.Error()[i+2:], nil
	}
	return err.Error(), nil
}
