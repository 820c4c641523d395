package app

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"
)

// notifier tells the service manager how the gateway is (sd_notify(3)). Without
// a service manager it does nothing.
type notifier struct{ conn net.Conn }

// newNotifier connects to the socket that NOTIFY_SOCKET names.
func newNotifier() (*notifier, error) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return &notifier{}, nil
	}
	conn, err := net.Dial("unixgram", path)
	if err != nil {
		return nil, fmt.Errorf("service manager: %w", err)
	}
	return &notifier{conn}, nil
}

func (n *notifier) tell(state string) error {
	if n.conn == nil {
		return nil
	}
	_, err := n.conn.Write([]byte(state))
	return err
}

// keepAlive reports to the watchdog, at half its interval, as long as ping
// returns (sd_watchdog_enabled(3)). A report that is lost is followed by another.
func (n *notifier) keepAlive(ctx context.Context, ping func()) {
	usec, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if n.conn == nil || err != nil || usec <= 0 {
		return
	}
	ticker := time.NewTicker(time.Duration(usec) * time.Microsecond / 2)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			ping()
			_ = n.tell("WATCHDOG=1")
		}
	}
}

func (n *notifier) close() {
	if n.conn != nil {
		n.conn.Close()
	}
}
