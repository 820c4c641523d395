package vm

import (
	"crypto/rand"
	"errors"
	"fmt"

	"caponier/internal/dataplane"
	"caponier/internal/dataplane/userspace"
	"caponier/internal/host"
	"caponier/internal/ipsec"
	"caponier/internal/lab/netns"
)

// user is caponier's plane in user space, with the routes that lead to it.
type user struct {
	plane *userspace.Plane
	host  *host.Host
}

func newUser(in netns.NS) (*user, error) {
	g := new(user)
	err := in.Do(func() error {
		d, name, err := userspace.Open(userspace.OpenOptions{Name: "capo0", Workers: 1, Mark: host.Mark})
		if err != nil {
			return err
		}
		if g.plane, err = userspace.New(userspace.Options{Devices: d, Rand: rand.Reader}); err != nil {
			return err
		}
		g.host, err = host.Open(host.Options{Device: name})
		return err
	})
	if err != nil {
		return nil, errors.Join(err, g.close())
	}
	return g, nil
}

func (g *user) set(policies []ipsec.Policy, sas []ipsec.SA) error {
	if err := g.host.Set(host.FromPolicies(policies)); err != nil {
		return err
	}
	return setPlane(g.plane, policies, sas)
}

// setPlane replaces all that a plane has.
func setPlane(p dataplane.Backend, policies []ipsec.Policy, sas []ipsec.SA) error {
	for _, s := range p.SAs() {
		if err := p.DeleteSA(s.ID); err != nil {
			return err
		}
	}
	if err := p.SetPolicies(policies); err != nil {
		return err
	}
	for _, sa := range sas {
		if err := p.AddSA(sa); err != nil {
			return err
		}
	}
	return nil
}

func (g *user) tell() string { return fmt.Sprintf("%+v\n%v\n", g.plane.SAs(), g.plane.Counters()) }

func (g *user) close() error {
	var errs []error
	if g.plane != nil {
		errs = append(errs, g.plane.Close())
	}
	if g.host != nil {
		errs = append(errs, g.host.Close())
	}
	return errors.Join(errs...)
}
