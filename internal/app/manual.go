package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"caponier/internal/config"
	"caponier/internal/config/problem"
	"caponier/internal/control"
	"caponier/internal/dataplane"
	"caponier/internal/ipsec"
)

// byHand is what commands have changed in the SPD since the start. It is guarded
// by app.mu.
type byHand struct {
	added   []*config.ManualPolicy
	removed map[string]bool // policies of the configuration
}

// spd makes the SPD of a configuration, with what commands have changed in it,
// as the switch has it. While the gateway is off, nothing asks for SAs; with
// bypass, what would be protected is let through. The caller holds mu.
func (a *app) spd(cfg *config.Config, reqIDs map[string]uint32) []ipsec.Policy {
	all := policies(cfg, reqIDs)
	for _, p := range cfg.Manual.Policies {
		all = append(all, p.Policy())
	}
	all = slices.DeleteFunc(all, func(p ipsec.Policy) bool { return a.hand.removed[p.Name] && p.Connection == "" })
	for _, p := range a.hand.added {
		all = append(all, p.Policy())
	}
	for i := range all {
		p := &all[i]
		p.Acquire = p.Acquire && a.sw.Position == control.SwitchOn
		if a.sw.Position == control.SwitchBypass && p.Action == ipsec.Protect {
			p.Action, p.ReqID, p.Protocol, p.WithAH, p.Mode = ipsec.Bypass, 0, 0, false, 0
		}
	}
	return all
}

// enforce puts the SPD into force. Both old and new prefixes stay blocked while
// the policies change. The caller holds mu.
func (a *app) enforce(cfg *config.Config, reqIDs map[string]uint32) error {
	spd := a.spd(cfg, reqIDs)
	if err := a.plane.SetPolicies(spd); err != nil {
		return err
	}
	return a.host.Set(a.desired(spd))
}

// AddSA installs a manually keyed SA.
func (a *app) AddSA(ctx context.Context, n control.NewSA) (control.SAChange, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	sa, warnings, err := config.ParseAssociation(n.Name, n.Values, n.EncrKey, n.IntegKey, a.cfg.Gateway.DataPlane)
	if err != nil {
		return control.SAChange{}, control.Errorf(control.CodeUsage, "%v", err)
	}
	if err := a.reqIDIsFree(sa.ReqID); err != nil {
		return control.SAChange{}, err
	}
	if err := a.keeper.Add(sa); err != nil {
		return control.SAChange{}, err
	}
	out := control.SAChange{Action: control.ActionAdded, Time: time.Now(), SAs: []control.SA{}, Warnings: messages(warnings)}
	all, err := a.SAs(ctx)
	for _, x := range all {
		if x.ID == sa.ID() {
			x.Settle(out.Time)
			out.SAs = append(out.SAs, x)
		}
	}
	if !slices.ContainsFunc(a.plane.Policies(), func(p ipsec.Policy) bool { return p.ReqID == sa.ReqID }) {
		out.Warnings = append(out.Warnings, fmt.Sprintf("no policy has reqid %d: caponier policy add makes one", sa.ReqID))
	}
	return out, err
}

// reqIDIsFree refuses the reqid of a tunnel: its traffic is IKE's to protect.
func (a *app) reqIDIsFree(id uint32) error {
	for name, other := range a.reqIDs {
		if id == other {
			return &control.Error{
				Code: control.CodeExists, Message: fmt.Sprintf("reqid %d belongs to the tunnel %s", id, name),
				Cure: "choose another; caponier policy list shows those in use",
			}
		}
	}
	return nil
}

func messages(list []*problem.Problem) []string {
	var out []string
	for _, p := range list {
		out = append(out, p.Error())
	}
	return out
}

// DeleteSAs removes SAs: those that are keyed by hand, and those of IKE, which
// then tells the peer.
func (a *app) DeleteSAs(_ context.Context, ids []ipsec.SAID) error {
	var errs []error
	for _, id := range ids {
		if a.keeper.Delete(id) {
			continue
		}
		if err := a.plane.DeleteSA(id); err != nil && !errors.Is(err, dataplane.ErrNotFound) {
			errs = append(errs, err)
			continue
		}
		a.daemon.Deleted(id)
	}
	return errors.Join(errs...)
}

// Policies returns the SPD.
func (a *app) Policies(context.Context) ([]control.Policy, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := a.plane.Policies()
	out := make([]control.Policy, len(all))
	for i, p := range all {
		out[i] = control.Policy{Policy: p, Origin: control.OriginFile}
		switch {
		case p.Connection != "":
			out[i].Origin = control.OriginIKE
		case slices.ContainsFunc(a.hand.added, func(x *config.ManualPolicy) bool { return x.Name == p.Name }):
			out[i].Origin = control.OriginManual
		}
	}
	return out, nil
}

// AddPolicy puts a manual policy into force.
func (a *app) AddPolicy(_ context.Context, n control.NewPolicy) (control.PolicyChange, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p, warnings, err := config.ParsePolicy(n.Name, n.Values, a.cfg.Gateway.DataPlane)
	if err != nil {
		return control.PolicyChange{}, control.Errorf(control.CodeUsage, "%v", err)
	}
	if slices.ContainsFunc(a.spd(a.cfg, a.reqIDs), func(x ipsec.Policy) bool { return x.Name == p.Name }) {
		return control.PolicyChange{}, policyExists(p.Name)
	}
	if err := a.reqIDIsFree(p.ReqID); p.Action == ipsec.Protect && err != nil {
		return control.PolicyChange{}, err
	}
	a.hand.added = append(a.hand.added, p)
	if err := a.enforce(a.cfg, a.reqIDs); err != nil {
		a.hand.added = a.hand.added[:len(a.hand.added)-1]
		return control.PolicyChange{}, errors.Join(err, a.enforce(a.cfg, a.reqIDs))
	}
	a.slog.Info("policy added by command", "policy", p.Name, "action", p.Action.String())
	return control.PolicyChange{
		Action: control.ActionAdded, Warnings: messages(warnings),
		Policies: []control.Policy{{Policy: p.Policy(), Origin: control.OriginManual}},
	}, nil
}

func policyExists(name string) error {
	return &control.Error{
		Code: control.CodeExists, Message: fmt.Sprintf("there is a policy %s already", name),
		Cure: "choose another name, or caponier policy delete " + name,
	}
}

// DeletePolicies removes policies of commands, and those of the configuration
// until the next start.
func (a *app) DeletePolicies(_ context.Context, names []string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	before := a.hand
	a.hand = byHand{removed: make(map[string]bool)}
	for name := range before.removed {
		a.hand.removed[name] = true
	}
	for _, p := range before.added {
		if !slices.Contains(names, p.Name) {
			a.hand.added = append(a.hand.added, p)
		}
	}
	for _, name := range names {
		a.hand.removed[name] = a.hand.removed[name] || !slices.ContainsFunc(before.added, func(p *config.ManualPolicy) bool { return p.Name == name })
	}
	if err := a.enforce(a.cfg, a.reqIDs); err != nil {
		a.hand = before
		return errors.Join(err, a.enforce(a.cfg, a.reqIDs))
	}
	a.slog.Info("policies removed by command", "policies", names)
	return nil
}

// afterReload forgets what commands have removed and the file has changed since.
func (h *byHand) afterReload(plan *config.Plan) {
	for _, p := range plan.Policies {
		if p.State != config.Unchanged {
			delete(h.removed, p.Name)
		}
	}
}

// clash reports a policy of the file whose name a command has taken.
func (h *byHand) clash(cfg *config.Config) error {
	for _, p := range h.added {
		taken := slices.ContainsFunc(cfg.Policies, func(x config.Policy) bool { return x.Name == p.Name }) ||
			slices.ContainsFunc(cfg.Manual.Policies, func(x *config.ManualPolicy) bool { return x.Name == p.Name })
		if taken {
			return policyExists(p.Name)
		}
	}
	return nil
}
