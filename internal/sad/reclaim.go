package sad

// Wiping a deleted SA while a worker still uses it would be a race, and would
// seal packets with a key of zeros. So the writer waits, without blocking:
//
//	writer                               worker
//	1 take the SA out of the map         a seen = tick
//	2 tick++, remember it as the SA's    b look into the map, use the SA
//	3 wipe if every worker is idle       c seen = 0 (idle)
//	  or has seen that tick
//
// Atomics are sequentially consistent. A worker that finds the SA in b looked
// before 1, and so has seen an older tick than that of 2. In 3 the writer either
// reads that older tick, and leaves the SA for later, or it reads what the
// worker stored after its last use. Where it reads idle because the worker is
// about to do a, then b comes after 1 and finds nothing.

// retiree is an SA that was taken out of the maps at tick.
type retiree struct {
	sa   interface{ wipe() }
	tick uint64
}

func (db *DB) retire(sa interface{ wipe() }) {
	db.retired = append(db.retired, retiree{sa, db.tick.Add(1)})
}

// Reclaim wipes the deleted SAs that no worker can be using any more, and
// returns how many are left. The data plane calls it now and then, as with
// each Expire.
func (db *DB) Reclaim() int {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.reclaim()
	return len(db.retired)
}

func (db *DB) reclaim() {
	oldest := db.tick.Load()
	for _, w := range db.workers {
		if seen := w.seen.Load(); seen != 0 {
			oldest = min(oldest, seen)
		}
	}
	n := 0
	for n < len(db.retired) && db.retired[n].tick <= oldest {
		db.retired[n].sa.wipe()
		db.retired[n] = retiree{}
		n++
	}
	if db.retired = db.retired[n:]; len(db.retired) == 0 {
		db.retired = nil
	}
}
