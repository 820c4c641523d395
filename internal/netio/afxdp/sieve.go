package afxdp

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"caponier/internal/netio/frame"
)

// maxSAs bounds the hash of SAs, which takes memory as it is filled: 80 octets an
// entry. It is above what a gateway may have and have reserved.
const maxSAs = 1 << 17

// saKeyLen is the length of a key of the hash: the SPI as it lies in the packet, and
// the protocol.
const saKeyLen = 8

func saKey(sa frame.SA) []byte {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, saKeyLen), uint32(sa.SPI))
	return binary.NativeEndian.AppendUint32(b, uint32(sa.Protocol))
}

// sieve keeps the hash of SAs. Only a hash that is complete may have packets
// dropped: where an SA finds no room, sifting ends until it has some.
type sieve struct {
	sas, words *ebpf.Map
	wanted     bool                  // by whoever called sift
	on         bool                  // as the programs see it
	outside    map[frame.SA]struct{} // that found no room
	noRoom     uint64                // how often one found none
}

func newSieve(r *rules) sieve {
	return sieve{sas: r.sas, words: r.words, outside: make(map[frame.SA]struct{})}
}

// sift begins or ends to drop, as far as that can be.
func (s *sieve) sift(on bool) error {
	s.wanted = on
	return s.settle()
}

// settle tells the programs. What ends the dropping is one word of an array, which
// always has room.
func (s *sieve) settle() error {
	on := s.wanted && len(s.outside) == 0
	if on == s.on {
		return nil
	}
	word := uint32(0)
	if on {
		word = 1
	}
	if err := s.words.Put(wordSift, word); err != nil {
		return fmt.Errorf("AF_XDP: sift packets by SA: %w", err)
	}
	s.on = on
	return nil
}

// admit returns an error only with the first SA of a row that finds no room.
func (s *sieve) admit(sa frame.SA) error {
	err := s.sas.Put(saKey(sa), uint8(1))
	if err == nil {
		return nil
	}
	s.noRoom++
	s.outside[sa] = struct{}{}
	if len(s.outside) > 1 {
		return nil
	}
	return errors.Join(fmt.Errorf("AF_XDP: list the SA %s: %w", sa.SPI, err), s.settle())
}

// dismiss lets an SA that is outside have the room.
func (s *sieve) dismiss(sa frame.SA) {
	if _, out := s.outside[sa]; out {
		delete(s.outside, sa)
	} else {
		// What is left over costs a look of the data plane for each packet, and an
		// entry.
		_ = s.sas.Delete(saKey(sa))
		for next := range s.outside {
			if s.sas.Put(saKey(next), uint8(1)) != nil {
				break
			}
			delete(s.outside, next)
		}
	}
	_ = s.settle() // where it fails nothing is dropped, or it is tried with the next
}
