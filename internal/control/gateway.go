package control

import (
	"context"
	"time"

	"caponier/internal/ipsec"
	"caponier/internal/logging"
)

// Gateway is what the commands act on. All methods may be called from several
// goroutines at once.
//
// A method that fails returns an *Error where the operator can be told a stable
// code; any other error is shown under CodeFailed. A name that the
// configuration does not know gives UnknownConnection or UnknownTunnel.
type Gateway interface {
	// Status describes the gateway and one connection, or all of them in order of
	// their names if connection is empty.
	Status(ctx context.Context, connection string) (Status, error)

	// Connect sets up the IKE SA of the target's connection, and its tunnel or
	// all tunnels of the connection. What is up already stays as it is.
	//
	// Without wait it returns as soon as the order has been accepted. With wait
	// it returns when the target is up, or with the cause when it failed; report
	// is called from the same goroutine for each step on the way. The end of ctx
	// ends the waiting, not the order.
	Connect(ctx context.Context, target Target, wait bool, report func(Progress)) error
	// Disconnect deletes the SAs of the target: of one tunnel, or the IKE SA with
	// all. It waits and reports like Connect.
	Disconnect(ctx context.Context, target Target, wait bool, report func(Progress)) error
	// Rekey replaces the CHILD SAs of a tunnel, or the IKE SA and all its CHILD
	// SAs, before their time. It waits and reports like Connect.
	Rekey(ctx context.Context, target Target, wait bool, report func(Progress)) error

	// Reload reads the configuration again and applies what changed; with dryRun
	// it only says what it would do. A configuration that does not load changes
	// nothing.
	Reload(ctx context.Context, dryRun bool) (ReloadReport, error)

	// SAs returns the SAD of the data plane.
	SAs(ctx context.Context) ([]SA, error)
	// Policies returns the SPD of the data plane, in order of decision.
	Policies(ctx context.Context) ([]Policy, error)

	// AddSA installs an SA that is keyed by hand.
	AddSA(ctx context.Context, sa NewSA) (SAChange, error)
	// DeleteSAs removes SAs. Of those that IKE has made, IKE deletes the other
	// half and tells the peer.
	DeleteSAs(ctx context.Context, ids []ipsec.SAID) error
	// AddPolicy puts a manual policy into force.
	AddPolicy(ctx context.Context, p NewPolicy) (PolicyChange, error)
	// DeletePolicies removes policies that are not those of tunnels.
	DeletePolicies(ctx context.Context, names []string) error
	// Switch sets the gateway's switch, and returns when the gateway has followed.
	Switch(ctx context.Context, position string) (Switch, error)

	// DestroyKeys wipes every key, in memory and on disk, and switches the gateway
	// off.
	DestroyKeys(ctx context.Context) (Destroyed, error)

	// Why explains the failures that are kept of a connection, or of every
	// connection and of peers without one if connection is empty.
	Why(ctx context.Context, connection string) (Why, error)
	// Trace walks a packet through the gateway. It sends nothing.
	Trace(ctx context.Context, flow ipsec.Flow) (Trace, error)

	// Capture passes the packets of a connection, or of all if connection is empty,
	// to emit until ctx ends, which is no error. With keys it passes the keys too,
	// where the configuration allows it. It returns at once what emit returns.
	Capture(ctx context.Context, connection string, keys bool, emit func(Captured) error) error

	// Log passes the kept log records that filter lets through to emit, the
	// oldest first. With follow it goes on with new ones until ctx ends, which is
	// no error. It returns at once what emit returns.
	Log(ctx context.Context, filter logging.Filter, follow bool, emit func(logging.Record) error) error
}

// Progress is one step of an order that is under way.
type Progress struct {
	Time   time.Time `json:"time"`
	Target Target    `json:"target"`
	// Step is a stable word: "accepted", "negotiating", "established",
	// "rekeyed", "deleted", "retransmitting", "failed".
	Step   string `json:"step"`
	Detail string `json:"detail,omitempty"` // in words
}

// The steps of Progress.
const (
	StepAccepted       = "accepted"
	StepNegotiating    = "negotiating"
	StepRetransmitting = "retransmitting"
	StepEstablished    = "established"
	StepRekeyed        = "rekeyed"
	StepDeleted        = "deleted"
	StepFailed         = "failed"
)
