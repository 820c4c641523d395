package app

import (
	"context"
	"slices"
	"strings"
	"time"

	"caponier/internal/config"
	"caponier/internal/control"
	"caponier/internal/ike"
)

// Reload reads the configuration again and applies the difference, or only says
// what it would be. A configuration with an error changes nothing.
func (a *app) Reload(_ context.Context, dryRun bool) (control.ReloadReport, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	defer reading()()
	cfg, warnings, err := config.Load(a.opts.Config, config.Checks{Now: time.Now()})
	if err != nil {
		return control.ReloadReport{}, &control.Error{
			Code: control.CodeInvalidConfig, Message: err.Error(), Cure: "caponier check shows the same; nothing was changed",
		}
	}
	cfg.Defaults = nil
	creds, err := readAllCredentials(cfg)
	if err != nil {
		return control.ReloadReport{}, control.Errorf(control.CodeInvalidConfig, "%v", err)
	}
	plan := config.Diff(a.cfg, cfg)
	report := describe(plan)
	report.DryRun = dryRun
	if dryRun {
		return report, nil
	}
	if plan.Empty() {
		cfg = a.cfg // they say the same: one of them is enough
	}
	for _, w := range warnings {
		a.slog.Warn("configuration", "problem", w.Error())
	}
	if a.cfg.Gateway.DataPlane == config.DataPlaneKernel {
		if err := a.checkKernel(cfg); err != nil {
			return report, control.Errorf(control.CodeInvalidConfig, "%v", err)
		}
	}
	reqIDs := config.ReqIDs(cfg, a.reqIDs)
	// What can be refused comes first.
	if err := a.hand.clash(cfg); err != nil {
		return report, err
	}
	if err := a.keeper.Set(cfg.Manual.Associations); err != nil {
		return report, err
	}
	a.hand.afterReload(plan)
	if err := a.enforce(cfg, reqIDs); err != nil {
		return report, err
	}
	if allow := cfg.Gateway.CaptureKeys == config.CaptureKeysAllow; allow != a.keyring.Allowed() {
		a.keyring.Allow(allow)
		a.daemon.KeepKeys()
	}
	a.auth.set(creds)
	conns := connections(cfg, creds, reqIDs)
	a.daemon.SetLimits(limits(cfg))
	a.book.Configure(conns)
	if !a.off.Load() {
		a.daemon.Apply(conns, changes(plan))
	}
	a.log.SetLevels(cfg.Gateway.Log.Level, cfg.Gateway.Log.Levels)
	a.cfg, a.reqIDs = cfg, reqIDs
	a.slog.Info("configuration reloaded", "changes", len(report.Changes), "restart-required", len(report.RestartRequired))
	return report, nil
}

// changes says what a plan asks of the IKE daemon.
func changes(plan *config.Plan) map[string]ike.Change {
	out := make(map[string]ike.Change)
	waits := slices.ContainsFunc(plan.Gateway, func(k config.KeyChange) bool {
		return strings.HasPrefix(k.Key, "gateway.ike.retransmit-") // every connection has them
	})
	for _, c := range plan.Connections {
		var change ike.Change
		touched := waits || c.State == config.Changed
		switch c.Effect() {
		case config.EffectReconnect:
			change.Reconnect = true
		case config.EffectRekey:
			change.RekeyIKE = true
		default:
		}
		for _, t := range c.Tunnels {
			touched = touched || t.State != config.Unchanged
			switch {
			case t.State == config.Removed, t.Effect() == config.EffectRenegotiate:
				change.Drop = append(change.Drop, t.Name)
			case t.Effect() == config.EffectRekey:
				change.Rekey = append(change.Rekey, t.Name)
			}
		}
		if touched && (c.State == config.Changed || c.State == config.Unchanged) {
			out[c.Name] = change
		}
	}
	return out
}

// describe turns a plan into the operator's report.
func describe(plan *config.Plan) control.ReloadReport {
	var r control.ReloadReport
	add := func(kind, name string, p config.Part) {
		c := control.Change{Kind: kind, Name: name, Action: p.State.String(), Effect: p.Effect().String()}
		for _, k := range p.Keys {
			c.Keys = append(c.Keys, k.Key)
		}
		switch p.State {
		case config.Added, config.Removed:
			c.Effect = ""
		case config.Unchanged, config.Changed:
		}
		r.Changes = append(r.Changes, c)
	}
	for _, k := range plan.Gateway {
		r.Changes = append(r.Changes, control.Change{
			Kind: "gateway", Name: k.Key, Action: config.Changed.String(), Effect: k.Effect.String(),
		})
	}
	for _, c := range plan.Connections {
		add("connection", c.Name, c.Part)
		for _, t := range c.Tunnels {
			add("tunnel", c.Name+"/"+t.Name, t)
		}
	}
	for _, p := range plan.Policies {
		add("policy", p.Name, p)
	}
	for _, x := range plan.Associations {
		add("association", x.Name, x)
	}
	r.RestartRequired = plan.NeedsRestart()
	return r
}
