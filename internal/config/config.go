// Package config turns YAML into a typed, defaulted and validated
// configuration, says what changed between two of them, and tells in words what
// one does. It has no side effects: it reads the files that are named and
// touches nothing else.
package config

import (
	"log/slog"
	"net/netip"
	"time"

	"caponier/internal/config/identity"

	"caponier/internal/config/problem"
	"caponier/internal/ike/message"
	"caponier/internal/ipsec"
	"caponier/internal/secret"
)

// Config is a whole configuration that passed validation. It is immutable.
type Config struct {
	Gateway     Gateway
	Connections []*Connection // in order of name
	Policies    []Policy      // in the order of the files
	Manual      Manual
	// Defaults are the values that were filled in, in the order of the files.
	Defaults []Default
	// Files are the files the configuration was read from, in lexical order,
	// without the certificates and keys that they name.
	Files []string
}

// Connection returns the connection of this name, or nil.
func (c *Config) Connection(name string) *Connection {
	for _, conn := range c.Connections {
		if conn.Name == name {
			return conn
		}
	}
	return nil
}

// Default is a value that no file set.
type Default struct {
	Key   string `json:"key"`   // as in connections.agw.tunnels.lan.lifetime
	Value string `json:"value"` // in the configuration's form
}

// Gateway is the section gateway.
type Gateway struct {
	Name      string
	State     string // absolute path of the directory for keys, audit and leases
	Control   string // absolute path of the control socket
	DataPlane DataPlane
	// XfrmInterfaces gives each connection an xfrm interface (kernel only).
	XfrmInterfaces bool
	Capture        Capture
	// Interfaces are those whose frames are captured; none: all that have an
	// address when the gateway starts.
	Interfaces []string
	// Workers is 0 for one for each CPU, and with LatencyLow one fewer.
	Workers  int
	Latency  Latency
	MTU      int // of the inner interface, in octets; 0: from the outer path
	Shutdown Shutdown
	// CaptureKeys lets "caponier capture --keys" have the keys in use.
	CaptureKeys CaptureKeys
	// Numbers are those of algorithms that IANA has not assigned, where they are
	// not caponier's own.
	Numbers message.Numbers
	IKE     IKE
	Log     Log
}

// Log is the section gateway.log.
type Log struct {
	File   string // absolute path; empty: standard error
	Format LogFormat
	Level  slog.Level
	// Levels overrides Level for single subsystems, by name.
	Levels map[string]slog.Level
}

// Connection is one peer: who both ends are, how each proves it, and what is
// protected between them.
type Connection struct {
	Name          string
	Source        problem.Position
	Version       Version
	GM            *GM // nil where Version is another
	Local, Remote Party
	Proposals     []ipsec.Proposal // for the IKE SA, in order of preference
	ProposalWords []string         // Proposals as configured; empty for the default
	Unique        Unique
	Encapsulation Encapsulation
	FragmentSize  int           // octets of the IP datagrams that long IKE messages are cut to
	DPD           time.Duration // 0: no liveness checks
	Lifetime      time.Duration // of the IKE SA, before jitter
	Use           ipsec.Limit   // of the IKE SA: octets and datagrams of IKE, without Time
	Tunnels       []*Tunnel     // in order of name
}

// Tunnel returns the tunnel of this name, or nil.
func (c *Connection) Tunnel(name string) *Tunnel {
	for _, t := range c.Tunnels {
		if t.Name == name {
			return t
		}
	}
	return nil
}

// Party is one end of a connection.
type Party struct {
	// Addresses are what the end may use; empty means any. A single address is
	// a prefix of full length. An initiator uses the first one.
	Addresses []netip.Prefix
	// ID is the identity. IDDefault stands for the subject of the certificate,
	// or the address, of the local end; IDAny for everyone at the remote end.
	ID   identity.Identity
	Auth Auth

	// The files are nil where none is named: of ten thousand connections, most
	// have hardly one.

	Cert *File // of the local end with AuthCert: the leaf first, then its chain
	Key  *File // of the local end with AuthCert
	// With VersionGM, the local end has these two pairs instead.
	SignCert, SignKey, EncryptCert, EncryptKey *File

	CA  []*File // of the remote end with AuthCert: whom to trust
	Pin *File   // of the remote end with AuthCert: exactly this certificate
	CRL []*File // of the remote end with AuthCert: revocation lists
	// Revocation says what to think of a certificate that no current list covers.
	Revocation Revocation

	Signature Signature // of the local end with AuthCert
	SHA1      SHA1      // of the remote end with AuthCert

	// PSKFile and PSK are set with AuthPSK. Where only one end names a file, both
	// ends have it.
	PSKFile string
	PSK     secret.Key
}

// File is a file that the configuration names.
type File struct {
	Path string // absolute
	// Digest is the SHA-256 of the contents when they were checked, so that
	// Diff sees a certificate that was replaced in place.
	Digest [32]byte
}

// Tunnel is one pair of CHILD SAs: what is protected, how, and when it starts.
type Tunnel struct {
	Name          string
	Source        problem.Position
	Mode          ipsec.Mode
	Protocol      ipsec.Protocol
	WithAH        bool // a bundle: ESP, and AH around it
	Local, Remote []ipsec.Selector
	Proposals     []ipsec.Proposal // in order of preference
	ProposalWords []string         // Proposals as configured; empty for the default
	Start         Start
	Lifetime      ipsec.Limit // before jitter
	ReplayWindow  uint32      // in packets
	Outer         ipsec.Outer
	Fit           ipsec.Fit
	Aggfrag       ipsec.Aggfrag
	Pace          ipsec.Pace // the section iptfs
	ReqID         uint32     // 0: assigned, see ReqIDs
}

// Policy is a shunt: traffic that is let through or dropped without IKE.
type Policy struct {
	Name          string
	Source        problem.Position
	Local, Remote []ipsec.Selector
	Action        ipsec.Action // Bypass or Discard
	Priority      int32
}

// The priorities behind the words low, normal and high. Tunnels have
// PriorityNormal.
const (
	PriorityLow    int32 = -1000
	PriorityNormal int32 = 0
	PriorityHigh   int32 = 1000
)
