package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"caponier/internal/control"
	"caponier/internal/dataplane"
	"caponier/internal/ipsec"
	"caponier/internal/manual"
)

// switchFile is in the state directory while the gateway is off: an operator who
// has switched it off will find it so after a crash or a restart.
const switchFile = "switched-off.json"

// goodbye is how long peers have to acknowledge that their tunnels are closed.
const goodbye = 3 * time.Second

// readSwitch reads the position of the switch that the last run has left. What
// was let through in clear then is blocked now: only a person decides that.
func readSwitch(state string) (control.Switch, error) {
	on := control.Switch{Position: control.SwitchOn}
	data, err := os.ReadFile(filepath.Join(state, switchFile))
	if errors.Is(err, fs.ErrNotExist) {
		return on, nil
	}
	off := control.Switch{Position: control.SwitchOff}
	if err != nil {
		return off, fmt.Errorf("position of the gateway's switch: %w", err)
	}
	// A file that was cut off by a crash still says that the switch is off.
	_ = json.Unmarshal(data, &off)
	off.Position = control.SwitchOff
	return off, nil
}

// keepSwitch has the position on disk.
func keepSwitch(state string, s control.Switch) error {
	path := filepath.Join(state, switchFile)
	if s.Position == control.SwitchOn {
		if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	data, err := json.Marshal(control.Switch{Position: control.SwitchOff, Since: s.Since})
	if err != nil {
		return err
	}
	return manual.WriteWhole(path, append(data, '\n'))
}

// Switch sets the gateway's switch and returns when the gateway has followed.
func (a *app) Switch(ctx context.Context, position string) (control.Switch, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	before := a.sw
	if position == before.Position {
		return before, nil
	}
	if position == control.SwitchOn && a.destroyed {
		return before, errDestroyed
	}
	a.sw = control.Switch{Position: position, Since: time.Now()}
	if position == control.SwitchOn {
		return a.switchOn(before)
	}
	// The position is on disk before anything follows it: who is killed on the
	// way starts with it.
	if err := keepSwitch(a.state, a.sw); err != nil {
		a.sw = before
		return before, fmt.Errorf("the position of the switch cannot be kept: %w", err)
	}
	taken := 0
	if before.Position == control.SwitchOn {
		taken = a.takeDown(ctx)
	}
	// Only now, without SAs: bypass must not let go what a tunnel still carries.
	err := a.enforce(a.cfg, a.reqIDs)
	a.slog.Warn("the gateway is switched off", "position", position, "sas", taken)
	out := a.sw
	out.SAs = taken
	return out, err
}

// takeDown closes every tunnel and removes every SA. What the policies protect is
// blocked from its beginning.
func (a *app) takeDown(ctx context.Context) (taken int) {
	a.off.Store(true)
	a.daemon.Apply(nil, nil)
	ours := func() []ipsec.SAStatus {
		return slices.DeleteFunc(a.plane.SAs(), func(s ipsec.SAStatus) bool { return s.Connection == "" })
	}
	taken = len(ours())
	ctx, cancel := context.WithTimeout(ctx, goodbye)
	defer cancel()
	for len(ours()) > 0 && ctx.Err() == nil {
		time.Sleep(20 * time.Millisecond)
	}
	for _, s := range ours() {
		if err := a.plane.DeleteSA(s.ID); err != nil && !errors.Is(err, dataplane.ErrNotFound) {
			a.slog.Error("SA not removed", "spi", s.ID.SPI.String(), "error", err)
		}
	}
	return taken + a.keeper.SwitchOff()
}

// switchOn puts everything back as after a start. Where that fails, the gateway
// stays off.
func (a *app) switchOn(before control.Switch) (control.Switch, error) {
	removed := a.hand.removed
	a.hand.removed = nil
	err := a.enforce(a.cfg, a.reqIDs)
	if err == nil {
		err = a.keeper.SwitchOn()
	}
	if err == nil {
		err = keepSwitch(a.state, a.sw)
	}
	if err != nil {
		a.keeper.SwitchOff()
		a.sw, a.hand.removed = before, removed
		return before, errors.Join(err, a.enforce(a.cfg, a.reqIDs))
	}
	a.off.Store(false)
	a.daemon.Apply(connections(a.cfg, a.auth.all(), a.reqIDs), nil)
	a.slog.Info("the gateway is switched on")
	return a.sw, nil
}
