package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"caponier/internal/capture/pcapng"
	"caponier/internal/control"
)

// capture is the registry's command with a file to write to.
func (c *cli) capture() *cobra.Command {
	cmd, _ := control.Find("capture")
	var file string
	var size uint64
	cc := c.controlCommand(cmd, "capture")
	cc.Use = "capture [CONN] -o FILE"
	cc.DisableFlagsInUseLine = true
	cc.Long += "\n\nThe file is pcapng, with an interface for each side; - is standard output. With\n" +
		"--keys the tables stand in a directory beside it, which Wireshark takes as its\n" +
		"configuration:\n\n" +
		"  caponier capture agw -o agw.pcapng --keys\n" +
		"  WIRESHARK_CONFIG_DIR=agw.keys wireshark agw.pcapng"
	cc.Flags().StringVarP(&file, "output", "o", "", "file to write (required)")
	cc.Flags().Uint64Var(&size, "size", 0, "end when the file has so many MiB")
	// It fails only for a flag that is not declared.
	_ = cc.MarkFlagRequired("output")
	cc.RunE = run(func(cc *cobra.Command, args []string) error {
		params, err := requestOf(cc, cmd, args)
		if err != nil {
			return err
		}
		keys := params["keys"] == "true"
		if keys && file == "-" {
			return control.Errorf(control.CodeUsage, "--keys needs a file: the keys stand beside it")
		}
		return c.captureTo(cc.Context(), cmd, params, file, keys, int64(size)<<20)
	})
	return cc
}

// errFull ends a capture whose file is as long as it may be.
var errFull = errors.New("the file is full")

// captureTo writes what the daemon shows to a file.
func (c *cli) captureTo(ctx context.Context, cmd control.Command, params map[string]any, file string, withKeys bool, most int64) (err error) {
	client := control.NewClient(c.socket())
	defer client.Close()
	sink := &captureSink{file: file, withKeys: withKeys, most: most}
	defer func() { err = errors.Join(err, sink.close()) }()
	err = client.Call(ctx, cmd, params, func(r control.Result, _ json.RawMessage) error {
		return sink.take(r.(control.Captured))
	})
	if errors.Is(err, errFull) || ctx.Err() != nil && sink.w != nil {
		err = nil // the operator has seen enough
	}
	if err != nil || file == "-" {
		return err
	}
	return c.print(sink.summary())
}

// captureSink opens its files when the daemon has agreed.
type captureSink struct {
	file     string
	withKeys bool
	most     int64 // octets; 0: no limit

	out  io.WriteCloser
	w    *pcapng.Writer
	keys *pcapng.KeyDir
	last control.Captured
}

func (s *captureSink) open() error {
	if s.withKeys {
		var err error
		if s.keys, err = pcapng.CreateKeyDir(pcapng.KeyDirFor(s.file)); err != nil {
			return err
		}
	}
	s.out = os.Stdout
	if s.file != "-" {
		// Inner packets are nobody else's business.
		f, err := os.OpenFile(s.file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return err
		}
		s.out = f
	}
	build := control.LocalBuild()
	var err error
	s.w, err = pcapng.NewWriter(s.out, "caponier "+build.Version, "packets of caponier")
	return err
}

func (s *captureSink) take(c control.Captured) error {
	if s.w == nil {
		if err := s.open(); err != nil {
			return err
		}
	}
	s.last = c
	for _, line := range c.Keys {
		if err := s.keys.Write(line); err != nil {
			return err
		}
	}
	for i := range c.Packets {
		if err := s.w.Write(&c.Packets[i]); err != nil {
			return err
		}
	}
	if err := s.w.Flush(); err != nil {
		return err
	}
	if s.most > 0 && s.w.Octets() >= s.most {
		return errFull
	}
	return nil
}

func (s *captureSink) close() error {
	var errs []error
	if s.keys != nil {
		errs = append(errs, s.keys.Close())
	}
	if s.out != nil && s.file != "-" {
		errs = append(errs, s.out.Close())
	}
	return errors.Join(errs...)
}

func (s *captureSink) summary() captureSummary {
	out := captureSummary{
		File: s.file, Inner: s.w.Packets[0], Outer: s.w.Packets[1], Octets: s.w.Octets(),
		Dropped: s.last.Dropped, KeysLost: s.last.KeysLost, Unreadable: s.last.Unreadable,
	}
	if s.keys != nil {
		out.KeyDir, out.Keys = s.keys.Path, s.keys.Lines
	}
	return out
}

// captureSummary is what a capture has brought.
type captureSummary struct {
	File     string `json:"file"`
	Inner    uint64 `json:"inner_packets"`
	Outer    uint64 `json:"outer_packets"`
	Octets   int64  `json:"octets"`
	Dropped  uint64 `json:"dropped"`
	KeyDir   string `json:"key_dir,omitempty"`
	Keys     int    `json:"keys,omitempty"`
	KeysLost uint64 `json:"keys_lost,omitempty"`
	// Unreadable is how many SAs use what Wireshark does not decrypt.
	Unreadable uint64 `json:"unreadable_sas,omitempty"`
}

// Text prints the summary.
func (s captureSummary) Text(w io.Writer, _ control.Style) error {
	_, err := fmt.Fprintf(w, "%s: %d inner and %d outer packets, %d octets, %d packets left out\n",
		s.File, s.Inner, s.Outer, s.Octets, s.Dropped)
	if err == nil && s.KeyDir != "" {
		_, err = fmt.Fprintf(w, "%s: the keys of %d SAs; whoever has them reads the tunnels\nWIRESHARK_CONFIG_DIR=%[1]s wireshark %[3]s\n",
			s.KeyDir, s.Keys, s.File)
	}
	if err == nil && s.Unreadable > 0 {
		_, err = fmt.Fprintf(w, "%d SAs are not among them: Wireshark does not decrypt SM4 (nor GM/T 0022), AES-CCM in ESP, or ChaCha20-Poly1305 in IKE\n", s.Unreadable)
	}
	return err
}
