package app

import (
	"context"
	"time"

	"caponier/internal/config"
	"caponier/internal/control"
	"caponier/internal/keystore"
)

// errDestroyed is why a gateway without keys cannot be switched on.
var errDestroyed = &control.Error{
	Code: control.CodeRefused, Message: "the keys of this gateway have been destroyed",
	Cure: "put new keys in place and restart it",
}

// DestroyKeys wipes every key that the gateway has, in memory and on disk, and
// leaves it switched off for good: session keys first, for they carry traffic,
// then what could make new ones.
func (a *app) DestroyKeys(context.Context) (control.Destroyed, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out control.Destroyed
	a.off.Store(true)
	a.destroyed = true
	a.sw = control.Switch{Position: control.SwitchOff, Since: time.Now()}
	kept := keepSwitch(a.state, a.sw)
	if kept != nil {
		a.slog.Error("the position of the switch cannot be kept", "error", kept)
	}
	out.SAs = len(a.plane.SAs())
	out.IKESAs = a.daemon.Abandon()
	a.daemon.Apply(nil, nil) // nobody is answered any more
	a.keeper.Close()         // with the keys of commands
	for _, s := range a.plane.SAs() {
		_ = a.plane.DeleteSA(s.ID) // gone is gone, whoever was first
	}
	a.keyring.Allow(false) // with the copies for captures
	err := a.enforce(a.cfg, a.reqIDs)

	for _, creds := range a.auth.all() {
		out.Keys += creds.wipe()
	}
	a.auth.set(nil)
	out.Keys += wipeConfig(a.cfg)
	destroyFiles(&out, keyFiles(a.cfg))
	a.slog.Warn("all keys are destroyed on an operator's order", "keys", out.Keys, "files", len(out.Files), "failed", len(out.Failed))
	return out, err
}

// Salvage says where the gateway of a configuration listens for orders, as far as the
// configuration can be read.
func Salvage(path string) (socket string, err error) {
	cfg, err := config.Salvage(path)
	if cfg == nil {
		return "", err
	}
	return cfg.Gateway.Control, nil
}

// DestroyKeys destroys the keys on disk of a gateway whose daemon does not run, and
// leaves it switched off. A configuration that does not load is no reason to keep
// them: what it names of keys goes, and what is wrong with it is said.
func DestroyKeys(path string) (control.Destroyed, error) {
	var out control.Destroyed
	cfg, wrong := config.Salvage(path)
	if cfg == nil {
		return out, wrong
	}
	if lock, err := lockState(cfg.Gateway.State); err != nil {
		// A daemon that does not answer: it has keys in memory, which end with it.
		out.Failed = append(out.Failed, err.Error())
	} else {
		defer lock.Close()
	}
	if err := keepSwitch(cfg.Gateway.State, control.Switch{Position: control.SwitchOff, Since: time.Now()}); err != nil {
		out.Failed = append(out.Failed, "the position of the switch cannot be kept: "+err.Error())
	}
	destroyFiles(&out, keyFiles(cfg))
	if wrong != nil {
		out.Failed = append(out.Failed, "what the configuration names where it is wrong: "+wrong.Error())
	}
	return out, nil
}

func destroyFiles(out *control.Destroyed, paths []string) {
	for _, path := range paths {
		if err := keystore.Destroy(path); err != nil {
			out.Failed = append(out.Failed, path+": "+err.Error())
			continue
		}
		out.Files = append(out.Files, path)
	}
}

// wipeConfig wipes the keys that the configuration holds, and counts them.
func wipeConfig(cfg *config.Config) (n int) {
	for _, c := range cfg.Connections {
		for _, p := range []*config.Party{&c.Local, &c.Remote} {
			if !p.PSK.IsZero() {
				p.PSK.Wipe()
				n++
			}
		}
	}
	for _, x := range cfg.Manual.Associations {
		x.EncrKey.Wipe()
		x.IntegKey.Wipe()
		n++
	}
	return n
}

// keyFiles are the files of the configuration that hold secrets, each once.
func keyFiles(cfg *config.Config) []string {
	var out []string
	seen := map[string]bool{"": true}
	add := func(paths ...string) {
		for _, p := range paths {
			if !seen[p] {
				seen[p] = true
				out = append(out, p)
			}
		}
	}
	for _, c := range cfg.Connections {
		for _, f := range []*config.File{c.Local.Key, c.Local.SignKey, c.Local.EncryptKey} {
			if f != nil {
				add(f.Path)
			}
		}
		add(c.Local.PSKFile, c.Remote.PSKFile)
	}
	for _, x := range cfg.Manual.Associations {
		add(x.EncrKeyFile, x.IntegKeyFile)
	}
	return out
}
