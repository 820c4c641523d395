package userspace

import (
	"sync"
	"time"

	"caponier/internal/ipsec"
	"caponier/internal/packet"
	"caponier/internal/sad"
)

// Limits of what is held for policies without an SA.
const (
	holdPackets     = 16       // of one policy
	holdOctets      = 64 << 10 // of one policy
	holdTotalOctets = 4 << 20  // of all policies
)

// holdQueue keeps the packets that met a Protect policy without an SA, until an
// SA comes or the time is over. It is the slow path: it has a lock, and copies.
type holdQueue struct {
	timeout time.Duration
	now     func() time.Time
	raise   func(ipsec.Event)

	mu       sync.Mutex
	waits    map[string]*wait // by the policy's name
	octets   int
	overflow uint64
	late     uint64
}

// wait is a policy that has asked for an SA.
type wait struct {
	reqID   uint32
	asked   time.Time
	packets [][]byte // the oldest first
	octets  int
}

func newHoldQueue(timeout time.Duration, now func() time.Time, raise func(ipsec.Event)) *holdQueue {
	return &holdQueue{timeout: timeout, now: now, raise: raise, waits: make(map[string]*wait)}
}

// hold keeps a copy of b, which met the policy and found no SA through w. It
// returns the path if the last SA of it was added since then; the packet is not
// kept then. Such an SA cannot be missed: whoever adds it calls take afterwards,
// which waits for the lock that is held here.
func (q *holdQueue) hold(w *sad.Worker, policy *ipsec.Policy, p *packet.Info, b []byte) path {
	q.mu.Lock()
	defer q.mu.Unlock()
	if x := find(w, policy, p); x.out != nil {
		return x
	}
	now := q.now()
	x := q.waits[policy.Name]
	if x == nil {
		x = &wait{reqID: policy.ReqID}
		q.waits[policy.Name] = x
	}
	if x.asked.IsZero() || now.Sub(x.asked) >= q.timeout {
		x.asked = now
		flow := ipsec.Flow{Src: p.Src, Dst: p.Dst, Protocol: p.Protocol}
		if p.HasPorts {
			flow.SrcPort, flow.DstPort = p.SrcPort, p.DstPort
		}
		q.raise(ipsec.Acquire{
			Policy: policy.Name, Connection: policy.Connection, Tunnel: policy.Tunnel,
			ReqID: policy.ReqID, Flow: flow,
		})
	}
	for len(x.packets) > 0 && (len(x.packets) >= holdPackets || x.octets+len(b) > holdOctets) {
		q.dropOldest(x)
		q.overflow++
	}
	if len(b) > holdOctets || q.octets+len(b) > holdTotalOctets {
		q.overflow++
		return path{}
	}
	x.packets = append(x.packets, append([]byte(nil), b...))
	x.octets += len(b)
	q.octets += len(b)
	return path{}
}

func (q *holdQueue) dropOldest(x *wait) {
	n := len(x.packets[0])
	x.packets = x.packets[1:]
	x.octets -= n
	q.octets -= n
}

// take removes and returns the packets that wait for an SA of reqID. Those that
// the new SA does not cover come back through hold; the policy then still
// counts as having asked, so that an SA that is too narrow is not asked for
// again and again.
func (q *holdQueue) take(reqID uint32) [][]byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	var all [][]byte
	for _, x := range q.waits {
		if x.reqID == reqID {
			all = append(all, x.packets...)
			q.octets -= x.octets
			x.packets, x.octets = nil, 0
		}
	}
	return all
}

// served forgets the policies of reqID for which nothing waits any more: the
// next packet without an SA asks anew.
func (q *holdQueue) served(reqID uint32) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for name, x := range q.waits {
		if x.reqID == reqID && len(x.packets) == 0 {
			delete(q.waits, name)
		}
	}
}

// tick drops what has waited for too long.
func (q *holdQueue) tick() {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.now()
	for name, x := range q.waits {
		if now.Sub(x.asked) >= q.timeout {
			q.late += q.forget(name, x)
		}
	}
}

// keep drops what waits for other policies than those of the list.
func (q *holdQueue) keep(policies []ipsec.Policy) {
	q.mu.Lock()
	defer q.mu.Unlock()
	stay := make(map[string]uint32, len(policies))
	for _, p := range policies {
		if p.Action == ipsec.Protect && p.Acquire {
			stay[p.Name] = p.ReqID
		}
	}
	for name, x := range q.waits {
		if reqID, ok := stay[name]; !ok || reqID != x.reqID {
			q.late += q.forget(name, x)
		}
	}
}

func (q *holdQueue) forget(name string, x *wait) (dropped uint64) {
	q.octets -= x.octets
	delete(q.waits, name)
	return uint64(len(x.packets))
}

func (q *holdQueue) addTo(sums map[string]uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	sums[counterNames[dropHoldOverflow]] += q.overflow
	sums[counterNames[dropHoldTimeout]] += q.late
}
