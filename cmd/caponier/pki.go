package main

import (
	"errors"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"caponier/internal/control"
	"caponier/internal/pki"
)

// certificates is what the pki commands show.
type certificates []pki.Description

// Text prints one after the other.
func (cs certificates) Text(w io.Writer, _ control.Style) error {
	for i, d := range cs {
		if i > 0 {
			if _, err := io.WriteString(w, "\n"); err != nil {
				return err
			}
		}
		if err := d.WriteText(w); err != nil {
			return err
		}
	}
	return nil
}

func (c *cli) pki() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pki",
		Short: "Make and show certificates",
		Long: "A small certification authority in a directory: init makes the authority, issue a\n" +
			"certificate for each gateway and user, revoke takes one back. export and import carry\n" +
			"private keys to other systems and from them.",
		Args: subcommand,
		RunE: noSubcommand,
	}
	cmd.AddCommand(c.pkiInit(), c.pkiIssue(), c.pkiRevoke(), c.pkiExport(), c.pkiImport(), c.pkiShow())
	return cmd
}

// requestFlags are the flags of init and issue.
type requestFlags struct {
	dir, subject, key string
	sans              []string
	days              int
	force             bool
}

func (f *requestFlags) declare(cmd *cobra.Command, days time.Duration) {
	types := make([]string, 0, len(pki.KeyTypes()))
	for _, t := range pki.KeyTypes() {
		types = append(types, string(t))
	}
	fs := cmd.Flags()
	fs.StringVar(&f.dir, "dir", ".", "directory of the authority")
	fs.StringVar(&f.subject, "subject", "", `distinguished name, like "C=FI, O=example, CN=gw" (required)`)
	fs.StringVar(&f.key, "key", types[0], "type of the key: "+strings.Join(types, ", "))
	fs.IntVar(&f.days, "days", int(days.Hours()/24), "days that the certificate is valid")
	fs.BoolVar(&f.force, "force", false, "replace the files that are there")
	// They fail only for a flag that is not declared.
	_ = cmd.MarkFlagRequired("subject")
	_ = cmd.MarkFlagDirname("dir")
	_ = cmd.RegisterFlagCompletionFunc("key", cobra.FixedCompletions(types, cobra.ShellCompDirectiveNoFileComp))
}

func (f *requestFlags) request() (pki.Request, error) {
	key, err := pki.ParseKeyType(f.key)
	if err != nil {
		return pki.Request{}, control.Errorf(control.CodeUsage, "%v", err)
	}
	if f.days < 1 || f.days > 36500 {
		return pki.Request{}, control.Errorf(control.CodeUsage, "%d days are not between 1 and 36500", f.days)
	}
	return pki.Request{
		Subject: f.subject, SANs: f.sans, Key: key, Force: f.force,
		Validity: time.Duration(f.days) * 24 * time.Hour,
	}, nil
}

func (c *cli) pkiInit() *cobra.Command {
	var f requestFlags
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make a certification authority",
		Long:  "Makes the key and the certificate of an authority: rootca.key and rootca.pem.",
		Args:  cobra.NoArgs,
		RunE: run(func(*cobra.Command, []string) error {
			r, err := f.request()
			if err != nil {
				return err
			}
			if _, err := pki.Init(f.dir, r, time.Now()); err != nil {
				return refused(err)
			}
			return c.showPKI(f.dir, pki.RootName)
		}),
	}
	f.declare(cmd, pki.RootValidity)
	return cmd
}

func (c *cli) pkiIssue() *cobra.Command {
	var f requestFlags
	var dual bool
	cmd := &cobra.Command{
		Use:   "issue NAME",
		Short: "Issue a certificate for a gateway or a user",
		Long: "Makes a key and a certificate that the authority signs: NAME.key and NAME.pem.\n" +
			"With --dual, the two pairs that GM/T 0022 asks for: NAME-sign and NAME-encrypt, of SM2.",
		Args: cobra.ExactArgs(1),
		RunE: run(func(cmd *cobra.Command, args []string) error {
			if dual && !cmd.Flags().Changed("key") {
				f.key = string(pki.SM2)
			}
			r, err := f.request()
			if err != nil {
				return err
			}
			if !dual {
				if _, err := pki.Issue(f.dir, args[0], r, time.Now()); err != nil {
					return refused(err)
				}
				return c.showPKI(f.dir, args[0])
			}
			if _, _, err := pki.IssueDual(f.dir, args[0], r, time.Now()); err != nil {
				return refused(err)
			}
			return c.showPKI(f.dir, args[0]+pki.SignSuffix, args[0]+pki.EncryptSuffix)
		}),
	}
	f.declare(cmd, pki.LeafValidity)
	cmd.Flags().StringSliceVar(&f.sans, "san", nil, "alternative names: host names, IP addresses, mail addresses")
	cmd.Flags().BoolVar(&dual, "dual", false, "two pairs of SM2, for signatures and for encryption (GM/T 0015)")
	return cmd
}

func (c *cli) pkiShow() *cobra.Command {
	return &cobra.Command{
		Use:   "show FILE|DIR...",
		Short: "Show certificates, and which key belongs to them",
		Args:  cobra.MinimumNArgs(1),
		RunE: run(func(_ *cobra.Command, args []string) error {
			all := certificates{}
			var failures []error
			for _, path := range args {
				found, err := pki.Show(path, time.Now())
				all = append(all, found...)
				failures = append(failures, err)
			}
			return errors.Join(c.print(all), errors.Join(failures...))
		}),
	}
}

// showPKI prints the certificates that were made under names.
func (c *cli) showPKI(dir string, names ...string) error {
	var all certificates
	for _, name := range names {
		made, err := pki.Show(filepath.Join(dir, name+".pem"), time.Now())
		if err != nil {
			return err
		}
		all = append(all, made...)
	}
	return c.print(all)
}

// refused gives the errors of package pki their codes.
func refused(err error) error {
	switch {
	case errors.Is(err, pki.ErrRequest):
		return control.Errorf(control.CodeUsage, "%v", err)
	case errors.Is(err, pki.ErrExists):
		return &control.Error{Code: control.CodeRefused, Message: err.Error(), Cure: "--force replaces it"}
	default:
		return err
	}
}
