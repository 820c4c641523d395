package app

import (
	"context"
	"errors"
	"strings"
	"time"

	"caponier/internal/control"
	"caponier/internal/ike"
	"caponier/internal/ipsec"
	"caponier/internal/logging"
	"caponier/internal/manual"
	"caponier/internal/suite"
)

var _ control.Gateway = (*app)(nil)

// orderTimeout bounds an order that nobody waits for.
const orderTimeout = 2 * time.Minute

// Connect sets up a connection or a tunnel.
func (a *app) Connect(ctx context.Context, t control.Target, wait bool, report func(control.Progress)) error {
	return a.carryOut(ctx, t, wait, report, control.StepNegotiating, control.StepEstablished, a.daemon.Connect)
}

// Disconnect deletes the SAs of a connection or a tunnel.
func (a *app) Disconnect(ctx context.Context, t control.Target, wait bool, report func(control.Progress)) error {
	return a.carryOut(ctx, t, wait, report, "", control.StepDeleted, a.daemon.Disconnect)
}

// Rekey replaces the CHILD SAs of a tunnel, or the IKE SA and all its CHILD SAs.
func (a *app) Rekey(ctx context.Context, t control.Target, wait bool, report func(control.Progress)) error {
	return a.carryOut(ctx, t, wait, report, control.StepNegotiating, control.StepRekeyed, a.rekey)
}

// rekey rekeys one tunnel, or the IKE SA and every tunnel that is up.
func (a *app) rekey(ctx context.Context, connection, tunnel string) error {
	if err := a.daemon.Rekey(ctx, connection, tunnel); err != nil || tunnel != "" {
		return err
	}
	a.mu.Lock()
	conf := a.cfg.Connection(connection)
	a.mu.Unlock()
	if conf == nil {
		return ike.ErrRemoved
	}
	for _, t := range conf.Tunnels {
		if err := a.daemon.Rekey(ctx, connection, t.Name); err != nil && !errors.Is(err, ike.ErrNotEstablished) {
			return err
		}
	}
	return nil
}

// carryOut gives an order to the daemon, in the background where nobody waits.
func (a *app) carryOut(ctx context.Context, t control.Target, wait bool, report func(control.Progress),
	during, after string, order func(ctx context.Context, connection, tunnel string) error,
) error {
	if a.off.Load() {
		return manual.Off()
	}
	if err := a.daemon.Knows(t.Connection, t.Tunnel); err != nil {
		return a.refusal(t, err)
	}
	if !wait {
		go func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), orderTimeout)
			defer cancel()
			// Its outcome stands in the log and in the status.
			_ = order(ctx, t.Connection, t.Tunnel)
		}()
		report(control.Progress{Time: time.Now(), Target: t, Step: control.StepAccepted})
		return nil
	}
	if during != "" {
		report(control.Progress{Time: time.Now(), Target: t, Step: during})
	}
	if err := order(ctx, t.Connection, t.Tunnel); err != nil {
		return a.refusal(t, err)
	}
	report(control.Progress{Time: time.Now(), Target: t, Step: after})
	return nil
}

// refusal gives an error of the daemon its stable code.
func (a *app) refusal(t control.Target, err error) error {
	failure, isFailure := errors.AsType[*ike.Failure](err)
	switch {
	case errors.Is(err, ike.ErrUnknownConnection):
		return control.UnknownConnection(t.Connection)
	case errors.Is(err, ike.ErrUnknownTunnel):
		return control.UnknownTunnel(t)
	case errors.Is(err, ike.ErrNoAddress), errors.Is(err, ike.ErrNotEstablished), errors.Is(err, ike.ErrRemoved):
		return control.Errorf(control.CodeRefused, "%v", err)
	case isFailure && failure.Code != "":
		f := a.explained(t.Connection, &control.Failure{Code: failure.Code, Message: err.Error()})
		cure := f.Cure
		if cure != "" {
			cure += "; "
		}
		return &control.Error{Code: f.Code, Message: f.Message, Cure: cure + "caponier why " + t.Connection + " shows more"}
	default:
		return err
	}
}

// SAs returns the SAD.
func (a *app) SAs(context.Context) ([]control.SA, error) {
	all := a.plane.SAs()
	out := make([]control.SA, len(all))
	for i, s := range all {
		out[i] = control.SA{SAStatus: s, Algorithms: algorithms(s), Origin: a.keeper.Origin(s.ID)}
	}
	return out, nil
}

// algorithms says with what an SA protects, in the configuration's words.
func algorithms(s ipsec.SAStatus) string {
	var words []string
	for _, t := range []ipsec.Transform{s.Encr, s.Integ} {
		if t.ID != ipsec.IntegNone { // as AH has for encryption, and combined modes for integrity
			words = append(words, suite.Name(t))
		}
	}
	return strings.Join(words, "-")
}

// Log streams the kept log records, and with follow the new ones.
func (a *app) Log(ctx context.Context, f logging.Filter, follow bool, emit func(logging.Record) error) error {
	return a.log.Ring().Stream(ctx, f, follow, emit)
}
