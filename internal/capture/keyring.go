package capture

import (
	"sync"
	"sync/atomic"

	"caponier/internal/dataplane"
	"caponier/internal/ipsec"
	"caponier/internal/secret"
)

// IKEKeys protect the messages of an IKE SA. Ai and Ar are empty beside a
// combined-mode algorithm.
type IKEKeys struct {
	InitiatorSPI, ResponderSPI uint64
	Ei, Er, Ai, Ar             secret.Key
	Encr, Integ                ipsec.Transform
}

func (k *IKEKeys) wipe() {
	for _, key := range []secret.Key{k.Ei, k.Er, k.Ai, k.Ar} {
		key.Wipe()
	}
}

// Keyring keeps copies of the keys in use for operators who ask for them, while
// the configuration allows that, and none otherwise. Keys go with their SAs. It
// may be used by several goroutines at once.
type Keyring struct {
	allowed atomic.Bool

	mu        sync.Mutex
	esp       map[ipsec.SAID]ipsec.SA
	ike       map[uint64]ikeEntry // by the SPI of this side
	listeners map[*KeyListener]struct{}
}

type ikeEntry struct {
	connection string
	keys       IKEKeys
}

// Allow begins or ceases to keep keys. What is kept is wiped, and listening ends,
// when it is no longer allowed.
func (k *Keyring) Allow(yes bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.allowed.Store(yes)
	if yes {
		return
	}
	for id := range k.esp {
		k.forgetESPLocked(id)
	}
	for spi := range k.ike {
		k.forgetIKELocked(spi)
	}
	for l := range k.listeners {
		l.lines = nil
	}
	clear(k.listeners)
}

// Allowed reports whether keys are kept. A nil Keyring keeps none.
func (k *Keyring) Allowed() bool { return k != nil && k.allowed.Load() }

// PutIKE keeps the keys of an IKE SA, under the SPI of this side, and takes them
// over. Without a connection, because the peer has not said who it is, they are
// shown only to those who listen to all.
func (k *Keyring) PutIKE(spi uint64, connection string, keys IKEKeys) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.allowed.Load() {
		keys.wipe()
		return
	}
	before, again := k.ike[spi]
	k.forgetIKELocked(spi)
	if k.ike == nil {
		k.ike = make(map[uint64]ikeEntry)
	}
	k.ike[spi] = ikeEntry{connection, keys}
	line := ikeLine(&keys)
	for l := range k.listeners {
		if l.wants(connection) && (line != (Line{}) || !again || !l.wants(before.connection)) {
			l.add(line)
		}
	}
}

// ForgetIKE wipes the keys of an IKE SA.
func (k *Keyring) ForgetIKE(spi uint64) {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.forgetIKELocked(spi)
}

func (k *Keyring) forgetIKELocked(spi uint64) {
	if e, ok := k.ike[spi]; ok {
		e.keys.wipe()
		delete(k.ike, spi)
	}
}

func (k *Keyring) putESP(sa *ipsec.SA) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.allowed.Load() {
		sa.EncrKey.Wipe()
		sa.IntegKey.Wipe()
		return
	}
	if k.esp == nil {
		k.esp = make(map[ipsec.SAID]ipsec.SA)
	}
	k.esp[sa.ID()] = *sa
	line := espLine(sa)
	for l := range k.listeners {
		if l.wants(sa.Connection) {
			l.add(line)
		}
	}
}

func (k *Keyring) moveESP(id ipsec.SAID, u dataplane.AddressUpdate) {
	k.mu.Lock()
	defer k.mu.Unlock()
	sa, ok := k.esp[id]
	if !ok {
		return
	}
	delete(k.esp, id)
	sa.Local, sa.Remote, sa.Encap = u.Local, u.Remote, u.Encap
	k.esp[sa.ID()] = sa
	line := espLine(&sa)
	for l := range k.listeners {
		if l.wants(sa.Connection) && line != (Line{}) {
			l.add(line)
		}
	}
}

func (k *Keyring) forgetESP(id ipsec.SAID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.forgetESPLocked(id)
}

func (k *Keyring) forgetESPLocked(id ipsec.SAID) {
	if sa, ok := k.esp[id]; ok {
		sa.EncrKey.Wipe()
		sa.IntegKey.Wipe()
		delete(k.esp, id)
	}
}

// maxLines bounds what waits for a listener.
const maxLines = 1 << 16

// KeyListener is told of keys.
type KeyListener struct {
	ring       *Keyring
	connection string // empty: all

	// Guarded by ring.mu.
	lines   []Line
	lost    uint64
	unknown uint64
}

func (l *KeyListener) wants(connection string) bool {
	return l.connection == "" || l.connection == connection
}

// add keeps the line of an SA for the listener. The zero Line, of algorithms that
// Wireshark does not decrypt, is only counted.
func (l *KeyListener) add(line Line) {
	switch {
	case line == (Line{}):
		l.unknown++
	case len(l.lines) >= maxLines:
		l.lost++
	default:
		l.lines = append(l.lines, line)
	}
}

// Listen begins to listen to the keys of one connection, or of all where it is
// empty: those that are in use and those that come. It returns false where keys
// are not kept.
func (k *Keyring) Listen(connection string) (*KeyListener, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.allowed.Load() {
		return nil, false
	}
	l := &KeyListener{ring: k, connection: connection}
	for _, e := range k.ike {
		if l.wants(e.connection) {
			l.add(ikeLine(&e.keys))
		}
	}
	for _, sa := range k.esp {
		if l.wants(sa.Connection) {
			l.add(espLine(&sa))
		}
	}
	if k.listeners == nil {
		k.listeners = make(map[*KeyListener]struct{})
	}
	k.listeners[l] = struct{}{}
	return l, true
}

// Take returns what is new since the last call; so far, how many lines had no room;
// and how many SAs have no line, because Wireshark does not decrypt what they use.
func (l *KeyListener) Take() (lines []Line, lost, unknown uint64) {
	l.ring.mu.Lock()
	defer l.ring.mu.Unlock()
	lines, l.lines = l.lines, nil
	return lines, l.lost, l.unknown
}

// Close ends the listening.
func (l *KeyListener) Close() {
	l.ring.mu.Lock()
	defer l.ring.mu.Unlock()
	delete(l.ring.listeners, l)
	l.lines = nil
}

// Backend returns b with the keyring beside it: it keeps copies of the keys of the
// SAs that are added to it.
func (k *Keyring) Backend(b dataplane.Backend) dataplane.Backend {
	return &keyedBackend{Backend: b, ring: k}
}

type keyedBackend struct {
	dataplane.Backend
	ring *Keyring
}

// AddSA implements dataplane.Backend.
func (b *keyedBackend) AddSA(sa ipsec.SA) error {
	if !b.ring.Allowed() {
		return b.Backend.AddSA(sa)
	}
	kept := sa
	kept.EncrKey, kept.IntegKey = sa.EncrKey.Clone(), sa.IntegKey.Clone()
	if err := b.Backend.AddSA(sa); err != nil {
		kept.EncrKey.Wipe()
		kept.IntegKey.Wipe()
		return err
	}
	b.ring.putESP(&kept)
	return nil
}

// UpdateSA implements dataplane.Backend.
func (b *keyedBackend) UpdateSA(id ipsec.SAID, u dataplane.AddressUpdate) error {
	if err := b.Backend.UpdateSA(id, u); err != nil {
		return err
	}
	b.ring.moveESP(id, u)
	return nil
}

// DeleteSA implements dataplane.Backend.
func (b *keyedBackend) DeleteSA(id ipsec.SAID) error {
	b.ring.forgetESP(id) // also of an SA that expired by itself
	return b.Backend.DeleteSA(id)
}
