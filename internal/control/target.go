package control

import (
	"fmt"
	"strings"
)

// Target names a connection, or one of its tunnels: "agw", "agw/lan".
type Target struct {
	Connection string
	Tunnel     string // empty: the connection with all its tunnels
}

// ParseTarget reads CONN or CONN/TUNNEL.
func ParseTarget(text string) (Target, error) {
	conn, tunnel, has := strings.Cut(text, "/")
	if conn == "" || has && (tunnel == "" || strings.Contains(tunnel, "/")) {
		return Target{}, fmt.Errorf("%q is neither CONN nor CONN/TUNNEL", text)
	}
	return Target{Connection: conn, Tunnel: tunnel}, nil
}

// String prints what ParseTarget reads.
func (t Target) String() string {
	if t.Tunnel == "" {
		return t.Connection
	}
	return t.Connection + "/" + t.Tunnel
}

// MarshalText makes JSON show what String shows.
func (t Target) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads what String prints.
func (t *Target) UnmarshalText(b []byte) error {
	got, err := ParseTarget(string(b))
	if err != nil {
		return err
	}
	*t = got
	return nil
}
