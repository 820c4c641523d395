package app

import (
	"context"
	"maps"
	"slices"
	"time"

	"caponier/internal/control"
	"caponier/internal/diagnose"
	"caponier/internal/ipsec"
	"caponier/internal/manual"
)

// Why explains what failed. A tunnel through which nothing comes back is looked
// for now: nobody reports it.
func (a *app) Why(ctx context.Context, name string) (control.Why, error) {
	s, err := a.Status(ctx, name)
	if err != nil {
		return control.Why{}, err
	}
	y := control.Why{Time: s.Time, States: make(map[string]control.State)}
	for i := range s.Connections {
		c := &s.Connections[i]
		y.States[c.Name] = c.State
		y.Findings = append(y.Findings, diagnose.Traffic(s.Time, c)...)
	}
	if name != "" {
		y.Findings = append(y.Findings, a.book.Of(name)...)
		return y, nil
	}
	kept, missed := a.book.Overview()
	y.Findings, y.Missed = append(y.Findings, kept...), missed
	maps.DeleteFunc(y.States, func(name string, _ control.State) bool {
		return !slices.ContainsFunc(y.Findings, func(f control.Finding) bool { return f.Connection == name })
	})
	return y, nil
}

// explained returns the failure with its finding's code, cause and cure, where
// there is one.
func (a *app) explained(connection string, f *control.Failure) *control.Failure {
	finding, ok := a.book.Last(connection, f.Code)
	if !ok {
		return f
	}
	better := finding.Failure()
	better.Time = f.Time
	return better
}

// Trace walks a packet through the gateway.
func (a *app) Trace(ctx context.Context, flow ipsec.Flow) (control.Trace, error) {
	sas, err := a.SAs(ctx)
	if err != nil {
		return control.Trace{}, err
	}
	t, err := diagnose.Trace(diagnose.Gateway{
		Time: time.Now(), Policies: a.plane.Policies(), SAs: sas, Counters: a.plane.Counters(), Route: a.host.Lookup,
	}, flow)
	if t.Verdict == control.DroppedNoSA && a.off.Load() {
		t.Words, t.Cure = "the data plane drops it, for the gateway is switched off", manual.Off().Cure
	}
	return t, err
}
