package sm

import "crypto/subtle"

// softBlocks is how many blocks the modes that are written in Go give to the
// cipher at a time, at most.
const softBlocks = portableBlocks

// softKey is one direction of the cipher for the modes that are written in Go.
type softKey struct {
	gmsm   *gmsmKey
	planes *portableKey // where gmsm is nil
}

func newSoftKey(e *engine, key []byte, inverse bool) *softKey {
	if e.gmsm != gmsmTables {
		return &softKey{gmsm: newGMSMKey(e.gmsm, key, inverse)}
	}
	rk := schedule(key)
	if inverse {
		rk = reverse(rk)
	}
	k := &softKey{planes: new(portableKey)}
	k.planes.spread(&rk)
	clear(rk[:])
	return k
}

// crypt runs src, at most softBlocks, through the cipher to dst, which may be the
// same.
func (k *softKey) crypt(dst, src []byte) {
	if k.gmsm != nil {
		k.gmsm.crypt(dst, src)
		return
	}
	k.planes.crypt(dst, src)
}

func (k *softKey) wipe() {
	if k.gmsm != nil {
		k.gmsm.wipe()
		return
	}
	*k.planes = portableKey{}
}

// cbcSoft encrypts a batch without kernels for lanes: packets that follow each
// other and have one key are encrypted in columns, a block of each, which costs
// little more than one block.
func (l *Lanes) cbcSoft(jobs []CBCJob) {
	for len(jobs) > 0 {
		n := 1
		for n < len(jobs) && jobs[n].Key == jobs[0].Key {
			n++
		}
		l.cbcColumns(jobs[:n])
		jobs = jobs[n:]
	}
}

// cbcColumns encrypts packets of one key. A packet that has ended leaves its
// place to the next one, or to the last.
func (l *Lanes) cbcColumns(jobs []CBCJob) {
	key := jobs[0].Key.portable
	column := l.pool[:softBlocks*BlockSize]
	var at [softBlocks]int // octets of each packet that are done
	next, active := 0, 0
	for {
		for ; active < softBlocks && next < len(jobs); next++ {
			if j := &jobs[next]; len(j.Src) > 0 {
				copy(column[active*BlockSize:], j.IV)
				l.job[active], at[active] = next, 0
				active++
			}
		}
		if active == 0 {
			break
		}
		for i := range active {
			b := column[i*BlockSize:][:BlockSize]
			subtle.XORBytes(b, b, jobs[l.job[i]].Src[at[i]:])
		}
		if b := column[:active*BlockSize]; key.gmsm != nil {
			key.gmsm.inPlace(b)
		} else {
			key.planes.crypt(b, b)
		}
		for i := active - 1; i >= 0; i-- {
			b, j := column[i*BlockSize:][:BlockSize], &jobs[l.job[i]]
			at[i] += copy(j.Dst[at[i]:], b)
			if at[i] == len(j.Src) {
				active--
				copy(b, column[active*BlockSize:][:BlockSize])
				l.job[i], at[i] = l.job[active], at[active]
			}
		}
	}
	clear(column)
}
