// Package sad is the security association database (RFC 4301, Section 4.4.2):
// many readers, the workers of the data plane, and one writer at a time.
//
// # Who owns what
//
// A worker reads through its Worker, between Begin and End, which enclose one
// batch of packets. What it found there is good until End, even if the SA is
// deleted meanwhile. Lookups take no lock: the writer replaces small immutable
// maps. The writer wipes the keys of a deleted SA only when every worker has
// ended the batch in which it could have found it; see Reclaim.
//
// The state of an inbound SA, its anti-replay window above all, belongs to the
// one worker that Owner names: it is encoded in the SPI. An outbound SA may be
// used by all workers: each has a sealer of its own, and they share the
// sequence number, of which each batch claims a run with one atomic addition.
// Packets of one flow stay in order if one worker handles the flow.
package sad

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"caponier/internal/ipsec"
)

// Errors of the writer's methods, wrapped with what they are about. An SA that
// ESP cannot serve gives the errors of packages esp, ah and suite.
var (
	ErrExists      = errors.New("SA exists already")
	ErrNotFound    = errors.New("no such SA")
	ErrLimit       = errors.New("limit reached")
	ErrNoSelectors = errors.New("SA has no traffic selectors")
	ErrAddress     = errors.New("SA has no outer address")
	ErrEncap       = errors.New("AH cannot travel in UDP")
	ErrClosed      = errors.New("SAD is closed")
)

// Limits that hold where Config leaves a field 0.
const (
	DefaultMaxSAs      = 100_000
	DefaultMaxReserved = 10_000
)

// Config says how a DB is made.
type Config struct {
	// Workers is the number of workers, at least 1.
	Workers int
	// Owners is how many of the workers, from the first, own inbound SAs; 0 is
	// all of them. The others may only seal.
	Owners int
	// Rand gives the randomness of SPIs: crypto/rand.Reader.
	Rand io.Reader
	// MaxSAs bounds the SAs of both directions and the reserved SPIs together.
	MaxSAs int
	// MaxReserved bounds the SPIs that are allocated but have no SA yet.
	MaxReserved int
	// Awaits is told of every inbound SA whose packets may come from now on: of its
	// SPI when that is reserved, or else before the SA is there; and of those whose
	// packets are in vain from now on. It must not block, nor call the DB. nil is for
	// nobody who asks.
	Awaits func(p ipsec.Protocol, spi ipsec.SPI, may bool)
}

// DB is the database. Its methods are the writer's: they may be called from
// several goroutines, and take turns.
type DB struct {
	cfg     Config
	workers []*Worker // constant after New

	in   shards[*In]
	out  shards[[]*Out] // by ReqID, the newest first
	tick atomic.Uint64  // grows with each removal; see reclaim.go

	paced atomic.Pointer[[]*Out] // SAs of a constant rate

	mu       sync.Mutex // guards all below
	ins      map[inKey]*In
	outs     map[ipsec.SAID]*Out
	reserved map[inKey]struct{}
	load     []int // inbound SAs and reservations of each owner
	added    uint64
	retired  []retiree
	next     time.Time // no time limit passes before; zero if there is none
	closed   bool
}

// New makes an empty DB.
func New(cfg Config) *DB {
	cfg.Workers = max(cfg.Workers, 1)
	if cfg.Owners <= 0 || cfg.Owners > cfg.Workers {
		cfg.Owners = cfg.Workers
	}
	if cfg.MaxSAs == 0 {
		cfg.MaxSAs = DefaultMaxSAs
	}
	if cfg.MaxReserved == 0 {
		cfg.MaxReserved = DefaultMaxReserved
	}
	if cfg.Awaits == nil {
		cfg.Awaits = func(ipsec.Protocol, ipsec.SPI, bool) {}
	}
	db := &DB{
		cfg:      cfg,
		ins:      make(map[inKey]*In),
		outs:     make(map[ipsec.SAID]*Out),
		reserved: make(map[inKey]struct{}),
		load:     make([]int, cfg.Owners),
	}
	db.tick.Store(1)
	for i := range cfg.Workers {
		db.workers = append(db.workers, newWorker(db, i))
	}
	return db
}

// Worker returns the view of worker i, from 0 to Config.Workers-1. It is for one
// goroutine.
func (db *DB) Worker(i int) *Worker { return db.workers[i] }

// Add installs sa as of now. It takes over the keys and wipes them when they
// are no longer needed; where it fails, they remain the caller's. For an
// inbound SA the reservation of its SPI, if there is one, ends.
func (db *DB) Add(sa ipsec.SA, now time.Time) error {
	db.mu.Lock()
	defer db.mu.Unlock()
	if err := db.add(&sa, now); err != nil {
		return fmt.Errorf("add SA %s %s: %w", sa.Direction, sa.SPI, err)
	}
	return nil
}

func (db *DB) add(sa *ipsec.SA, now time.Time) error {
	key := inKey{sa.Protocol, sa.SPI}
	_, reserved := db.reserved[key]
	reserved = reserved && sa.Direction == ipsec.In
	switch {
	case db.closed:
		return ErrClosed
	case len(sa.LocalTS) == 0 || len(sa.RemoteTS) == 0:
		return ErrNoSelectors
	case !sa.Local.Addr().IsValid() || !sa.Remote.Addr().IsValid():
		return ErrAddress
	case sa.Protocol == ipsec.AH && sa.Local.Addr().IsUnspecified():
		return ErrAddress // AH covers it
	case sa.Protocol == ipsec.AH && sa.Encap:
		return ErrEncap
	case !reserved && db.size() >= db.cfg.MaxSAs:
		return ErrLimit
	}
	var e *entry
	if sa.Direction == ipsec.In {
		if db.ins[key] != nil {
			return ErrExists
		}
		in, err := newIn(sa, now)
		if err != nil {
			return err
		}
		e = &in.entry
		if reserved {
			delete(db.reserved, key)
		} else {
			db.load[db.Owner(sa.SPI)]++
			db.cfg.Awaits(key.protocol, key.spi, true)
		}
		db.ins[key] = in
		db.in.set(key.number(), in)
	} else {
		id := sa.ID()
		if db.outs[id] != nil {
			return ErrExists
		}
		out, err := newOut(sa, now, db.cfg.Workers)
		if err != nil {
			return err
		}
		e = &out.entry
		db.outs[id] = out
		older, _ := db.out.get(uint64(sa.ReqID))
		if len(older) > 0 {
			out.inherit(older[0])
		}
		out.measure()
		db.setPaced(out, true)
		db.lookAt(out.path.ends())
		db.out.set(uint64(sa.ReqID), slices.Concat([]*Out{out}, older))
	}
	db.added++
	e.serial = db.added
	db.schedule(e)
	return nil
}

func (db *DB) size() int { return len(db.ins) + len(db.outs) + len(db.reserved) }

// Update gives the SA other outer addresses. The name of an outbound SA changes
// with its peer's address, and what was learned of the path to it is forgotten.
func (db *DB) Update(id ipsec.SAID, to Endpoint) error {
	db.mu.Lock()
	defer db.mu.Unlock()
	e, err := db.find(id)
	switch {
	case err != nil:
	case !to.Local.Addr().IsValid() || !to.Remote.Addr().IsValid():
		err = ErrAddress
	case id.Protocol == ipsec.AH && to.Local.Addr().IsUnspecified():
		err = ErrAddress
	case id.Protocol == ipsec.AH && to.Encap:
		err = ErrEncap
	case id.Direction == ipsec.Out:
		moved := id
		moved.Peer = to.Remote.Addr()
		if moved == id {
			break
		}
		if db.outs[moved] != nil {
			err = ErrExists
			break
		}
		db.outs[moved] = db.outs[id]
		delete(db.outs, id)
	}
	if err != nil {
		return fmt.Errorf("update SA %s %s: %w", id.Direction, id.SPI, err)
	}
	was := e.endpoint.Swap(&to)
	if id.Direction == ipsec.Out {
		id.Peer = to.Remote.Addr()
		o := db.outs[id]
		if was.Local != to.Local || was.Remote != to.Remote || was.Encap != to.Encap {
			o.path = path{} // it is another way
		}
		o.measure()
	}
	return nil
}

// Delete removes the SA. Its keys are wiped at once if no worker is inside a
// batch, or else by a later Reclaim.
func (db *DB) Delete(id ipsec.SAID) error {
	db.mu.Lock()
	defer db.mu.Unlock()
	if _, err := db.find(id); err != nil {
		return fmt.Errorf("delete SA %s %s: %w", id.Direction, id.SPI, err)
	}
	db.remove(id)
	db.reclaim()
	return nil
}

// remove takes an SA that exists out of the maps.
func (db *DB) remove(id ipsec.SAID) {
	if id.Direction == ipsec.In {
		key := inKey{id.Protocol, id.SPI}
		in := db.ins[key]
		delete(db.ins, key)
		db.load[db.Owner(id.SPI)]--
		db.in.unset(key.number())
		db.cfg.Awaits(key.protocol, key.spi, false)
		db.retire(in)
		return
	}
	out := db.outs[id]
	delete(db.outs, id)
	all, _ := db.out.get(uint64(out.sa.ReqID))
	rest := slices.DeleteFunc(slices.Clone(all), func(o *Out) bool { return o == out })
	if len(rest) == 0 {
		db.out.unset(uint64(out.sa.ReqID))
	} else {
		db.out.set(uint64(out.sa.ReqID), rest)
	}
	db.setPaced(out, false)
	db.retire(out)
}

func (db *DB) find(id ipsec.SAID) (*entry, error) {
	if id.Direction == ipsec.In {
		if in := db.ins[inKey{id.Protocol, id.SPI}]; in != nil && !id.Peer.IsValid() {
			return &in.entry, nil
		}
	} else if out := db.outs[id]; out != nil {
		return &out.entry, nil
	}
	return nil, ErrNotFound
}

// Status returns what is known of each SA, in the order in which they were
// added. Counters of inbound SAs are as of the last End of their owner.
func (db *DB) Status() []ipsec.SAStatus {
	db.mu.Lock()
	defer db.mu.Unlock()
	type row struct {
		serial uint64
		status ipsec.SAStatus
	}
	rows := make([]row, 0, len(db.ins)+len(db.outs))
	for _, in := range db.ins {
		rows = append(rows, row{in.serial, in.status()})
	}
	for _, out := range db.outs {
		rows = append(rows, row{out.serial, out.status()})
	}
	slices.SortFunc(rows, func(a, b row) int { return cmp.Compare(a.serial, b.serial) })
	all := make([]ipsec.SAStatus, len(rows))
	for i := range rows {
		all[i] = rows[i].status
	}
	return all
}

// Close removes every SA and refuses others. The workers should have ended their
// last batch: keys that one of them may still use are left to Reclaim.
func (db *DB) Close() {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.closed = true
	for key := range db.ins {
		db.remove(ipsec.SAID{Direction: ipsec.In, Protocol: key.protocol, SPI: key.spi})
	}
	for id := range db.outs {
		db.remove(id)
	}
	for key := range db.reserved {
		db.cfg.Awaits(key.protocol, key.spi, false)
	}
	clear(db.reserved)
	clear(db.load)
	db.reclaim()
}

// Endpoint holds the outer addresses of an SA. The ports count only where Encap
// is set.
type Endpoint struct {
	Local, Remote netip.AddrPort
	Encap         bool // ESP in UDP (RFC 3948)
	// MTU is that of the route to Remote in octets; 0 where it is not known. It
	// counts for outbound SAs only.
	MTU int
}

type inKey struct {
	protocol ipsec.Protocol
	spi      ipsec.SPI
}

// number is the key of the readers' map.
func (k inKey) number() uint64 { return uint64(k.protocol)<<32 | uint64(k.spi) }
