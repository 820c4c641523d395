package control

import (
	"context"
	"fmt"
	"io"
)

// Destroyed is the result of "destroy-keys".
type Destroyed struct {
	IKESAs int      `json:"ike_sas"`         // whose keys were wiped
	SAs    int      `json:"sas"`             // the same in the data plane
	Keys   int      `json:"keys"`            // private and pre-shared keys wiped in memory
	Files  []string `json:"files,omitempty"` // overwritten and removed
	Failed []string `json:"failed,omitempty"`
}

// Text says what is gone, and what is not.
func (d Destroyed) Text(w io.Writer, s Style) error {
	out := &printer{w: w, s: s}
	out.printf("%s and %s wiped, %s in memory\n", count(uint64(d.IKESAs), "IKE SA"), count(uint64(d.SAs), "SA"), count(uint64(d.Keys), "key"))
	for _, f := range d.Files {
		out.printf("destroyed   %s\n", clean(f))
	}
	for _, f := range d.Failed {
		out.printf("%s  %s\n", s.paint(red, "NOT DESTROYED"), clean(f))
	}
	out.printf("%s\n", s.paint(red, "the gateway is off for good: give it new keys, restart it, caponier gateway on"))
	return out.err
}

func destroyKeys() Command {
	return one(Command{
		Name:  "destroy-keys",
		Short: "Destroy all keys, in memory and on disk, and stop traffic",
		Long: "For the emergency in which a gateway may fall into other hands. Wipes the keys of all\n" +
			"IKE SAs and SAs, the private and the pre-shared keys, overwrites and removes the files\n" +
			"that held them, and switches the gateway off: what it protects is blocked, over restarts\n" +
			"too. Nothing brings the keys back. It does not reach copies that a file system, a flash\n" +
			"drive or a backup has made.",
		Params: []Param{{Name: "emergency", Type: Bool, Help: "yes, destroy them (required)"}},
		check: func(r Request) error {
			if !r.Bool("emergency") {
				return &Error{Code: CodeUsage, Message: "this destroys every key of the gateway for good", Cure: "say so with --emergency"}
			}
			return nil
		},
	}, func(ctx context.Context, g Gateway, _ Request) (Destroyed, error) {
		d, err := g.DestroyKeys(ctx)
		if err == nil {
			err = d.Err()
		}
		return d, err
	})
}

// Err says that something is not destroyed.
func (d Destroyed) Err() error {
	if len(d.Failed) == 0 {
		return nil
	}
	return fmt.Errorf("not everything could be destroyed: %v", d.Failed)
}
