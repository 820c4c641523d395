package ike

import (
	"caponier/internal/capture"
	v2 "caponier/internal/ike/v2"
	"caponier/internal/ipsec"
	"caponier/internal/netio"
)

// show shows a message to those who listen. A connection that is not known yet is
// one of those that the addresses allow.
func (d *Daemon) show(dir ipsec.Direction, connection string, dg netio.Datagram) {
	listeners := d.tap.Listeners()
	if listeners == nil {
		return
	}
	names := []string{connection}
	if connection == "" {
		names = names[:0]
		for _, c := range d.candidates(dg.Local.Addr(), dg.Remote.Addr(), speaksAny).All() {
			names = append(names, c.Name)
		}
	}
	listeners.IKE(dir, names, dg.Local, dg.Remote, dg.Data)
}

// exporter is a machine that gives its keys out.
type exporter interface {
	ExportKeys() (v2.ExportedKeys, bool)
}

// keepKeys hands the keys of the IKE SA to the keyring, where that keeps any: when
// there are some, and again when the connection is known.
func (sh *shard) keepKeys(s *sa) {
	if !sh.d.keys.Allowed() {
		s.kept, s.keptFor = false, ""
		return
	}
	if s.kept && s.keptFor == s.conn {
		return
	}
	m, ok := s.machine.(exporter)
	if !ok {
		if s.established() {
			// Nobody else could read with its keys: it is only counted.
			s.kept, s.keptFor = true, s.conn
			sh.d.keys.PutIKE(uint64(s.spi), s.conn, capture.IKEKeys{Encr: ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrSM4CBC}})
		}
		return
	}
	k, ok := m.ExportKeys()
	if !ok {
		return
	}
	s.kept, s.keptFor = true, s.conn
	sh.d.keys.PutIKE(uint64(s.spi), s.conn, capture.IKEKeys{
		InitiatorSPI: uint64(k.InitiatorSPI), ResponderSPI: uint64(k.ResponderSPI),
		Ei: k.Ei, Er: k.Er, Ai: k.Ai, Ar: k.Ar, Encr: k.Encr, Integ: k.Integ,
	})
}

// KeepKeys hands the keys of all IKE SAs to the keyring: after it was allowed to
// keep them.
func (d *Daemon) KeepKeys() {
	d.mu.Lock()
	all := d.liveLocked()
	d.mu.Unlock()
	for _, sh := range d.shards {
		sh.do(func() {
			for _, s := range all {
				if s.shard == sh && !s.gone {
					sh.keepKeys(s)
				}
			}
		})
	}
}
