package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Waits of the watch: after putting things right, so that a burst of changes is
// one, and after that failed.
const (
	mendPause = 50 * time.Millisecond
	mendRetry = time.Second
)

// watchGroups are the kernel's announcements that concern us (rtnetlink(7)).
var watchGroups = []uint32{
	unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
	unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE,
}

// watch is what Watch starts.
type watch struct {
	conn    *netlink.Conn
	index   uint32        // of the TUN device
	changed chan struct{} // has room for one
	stop    chan struct{}
	wg      sync.WaitGroup
}

// Watch begins to keep the system as the last Set wants it: an address that goes
// takes the routes with it whose source it is, other programs remove routes and
// rules that they do not know, and somebody may set the TUN device down. What is
// missing comes back within a moment. Release and Close end it.
func (h *Host) Watch() error {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return fmt.Errorf("host: listen to the kernel's routing: %w", err)
	}
	for _, g := range watchGroups {
		if err := conn.JoinGroup(g); err != nil {
			return errors.Join(fmt.Errorf("host: listen to the kernel's routing: %w", err), conn.Close())
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || h.watch != nil {
		return errors.Join(errors.New("host: closed, or watched already"), conn.Close())
	}
	w := &watch{conn: conn, index: h.index, changed: make(chan struct{}, 1), stop: make(chan struct{})}
	h.watch = w
	w.wg.Go(func() { h.listen(w) })
	w.wg.Go(func() { h.keep(w) })
	return nil
}

// end stops the watch and waits for it. The caller does not hold Host.mu.
func (w *watch) end() error {
	close(w.stop)
	err := w.conn.Close()
	w.wg.Wait()
	return err
}

// listen reads what the kernel announces.
func (h *Host) listen(w *watch) {
	for {
		msgs, err := w.conn.Receive()
		select {
		case <-w.stop:
			return
		default:
		}
		// With an error announcements were lost: anything may have changed.
		concerned := err != nil
		for _, m := range msgs {
			concerned = concerned || w.concerns(m)
		}
		if concerned {
			select {
			case w.changed <- struct{}{}:
			default: // it is known already
			}
		}
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			h.log.Warn("cannot listen to the kernel's routing", "error", err)
			if !w.sleep(mendRetry) {
				return
			}
		}
	}
}

// concerns reports whether an announcement may be about what Set makes, or makes
// it from. A router announces routes by the thousand: those of others do not
// concern us.
func (w *watch) concerns(m netlink.Message) bool {
	switch m.Header.Type {
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return true
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		return len(m.Data) >= unix.SizeofIfInfomsg && binary.NativeEndian.Uint32(m.Data[4:]) == w.index
	case unix.RTM_DELROUTE:
		return len(m.Data) >= unix.SizeofRtMsg && m.Data[5] == Protocol
	case unix.RTM_DELRULE:
		_, ours, err := decodeRule(m.Data)
		return ours || err != nil
	default:
		return false
	}
}

// keep puts right what has changed.
func (h *Host) keep(w *watch) {
	said := ""
	for {
		select {
		case <-w.stop:
			return
		case <-w.changed:
		}
		changes, err := h.mend()
		switch {
		case err != nil && err.Error() != said:
			h.log.Error("routing cannot be put right", "error", err)
			said = err.Error()
		case err == nil && changes > 0:
			h.log.Warn("routing was changed by others, and is put right", "changes", changes)
			said = ""
		case err == nil:
			said = ""
		}
		pause := mendPause
		if err != nil {
			pause = mendRetry
			select {
			case w.changed <- struct{}{}:
			default:
			}
		}
		if !w.sleep(pause) {
			return
		}
	}
}

func (w *watch) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-w.stop:
		return false
	case <-t.C:
		return true
	}
}

// mend does what the last Set did, and returns how much there was to change.
func (h *Host) mend() (changes int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || h.desired == nil {
		return 0, nil
	}
	before := h.changes
	if err := h.setLink(); err != nil {
		return 0, fmt.Errorf("host: device %s: %w", h.opts.Device, needsAdmin(err))
	}
	err = h.setLocked(*h.desired)
	return h.changes - before, err
}
