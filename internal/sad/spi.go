package sad

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"

	"caponier/internal/ipsec"
)

// spiAttempts is how often a random SPI may turn out to be taken. With half of
// all SPIs in use, that is one failure in 2^64.
const spiAttempts = 64

// Owner returns the number of the worker that owns the inbound SA of spi: the
// remainder by the number of owners.
func (db *DB) Owner(spi ipsec.SPI) int { return int(uint32(spi) % uint32(db.cfg.Owners)) }

// AllocateSPI reserves a random unused SPI whose owner is the worker with the
// fewest inbound SAs. Add or ReleaseSPI ends the reservation.
func (db *DB) AllocateSPI(p ipsec.Protocol) (ipsec.SPI, error) {
	db.mu.Lock()
	defer db.mu.Unlock()
	switch {
	case db.closed:
		return 0, fmt.Errorf("allocate SPI: %w", ErrClosed)
	case len(db.reserved) >= db.cfg.MaxReserved:
		return 0, fmt.Errorf("allocate SPI: %d are reserved: %w", len(db.reserved), ErrLimit)
	case db.size() >= db.cfg.MaxSAs:
		return 0, fmt.Errorf("allocate SPI: %d SAs: %w", db.size(), ErrLimit)
	}
	owner := 0
	for i, n := range db.load {
		if n < db.load[owner] {
			owner = i
		}
	}
	owners := uint64(db.cfg.Owners)
	for range spiAttempts {
		var b [4]byte
		if _, err := io.ReadFull(db.cfg.Rand, b[:]); err != nil {
			return 0, fmt.Errorf("allocate SPI: %w", err)
		}
		n := uint64(binary.BigEndian.Uint32(b[:]))
		n += uint64(owner) - n%owners
		if n > math.MaxUint32 || ipsec.SPI(n) < ipsec.MinSPI {
			continue
		}
		key := inKey{p, ipsec.SPI(n)}
		if _, taken := db.reserved[key]; taken || db.ins[key] != nil {
			continue
		}
		db.reserved[key] = struct{}{}
		db.load[owner]++
		db.cfg.Awaits(p, key.spi, true)
		return key.spi, nil
	}
	return 0, fmt.Errorf("allocate SPI: none found in %d attempts: %w", spiAttempts, ErrLimit)
}

// ReleaseSPI gives a reserved SPI back. It does nothing for an SPI that is not
// reserved, also if an SA has it.
func (db *DB) ReleaseSPI(p ipsec.Protocol, spi ipsec.SPI) {
	db.mu.Lock()
	defer db.mu.Unlock()
	key := inKey{p, spi}
	if _, ok := db.reserved[key]; ok {
		delete(db.reserved, key)
		db.load[db.Owner(spi)]--
		db.cfg.Awaits(p, spi, false)
	}
}
