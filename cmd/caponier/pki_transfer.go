package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"caponier/internal/control"
	"caponier/internal/keystore"
	"caponier/internal/pki"
)

// revocationList is what pki revoke shows.
type revocationList struct {
	File       string    `json:"file"`
	Number     string    `json:"number"`
	Revoked    int       `json:"revoked"`
	NextUpdate time.Time `json:"nextUpdate"`
}

// Text prints it for people.
func (l revocationList) Text(w io.Writer, _ control.Style) error {
	_, err := fmt.Fprintf(w, "%s: list %s, %d revoked, renew it before %s\n", l.File, l.Number, l.Revoked, l.NextUpdate.Format(time.DateTime))
	return err
}

func (c *cli) pkiRevoke() *cobra.Command {
	var dir string
	var days int
	cmd := &cobra.Command{
		Use:   "revoke [NAME]",
		Short: "Revoke a certificate, or renew the revocation list",
		Long: "Puts the certificate NAME.pem on the authority's revocation list, rootca.crl, which\n" +
			"gateways read where crl of the remote names it, at start and at each reload. Without\n" +
			"NAME it renews the list.",
		Args: cobra.MaximumNArgs(1),
		RunE: run(func(_ *cobra.Command, args []string) error {
			if days < 1 || days > 3650 {
				return control.Errorf(control.CodeUsage, "%d days are not between 1 and 3650", days)
			}
			list, err := pki.Revoke(dir, strings.Join(args, ""), time.Duration(days)*24*time.Hour, time.Now())
			if err != nil {
				return refused(err)
			}
			return c.print(revocationList{
				File: filepath.Join(dir, pki.CRLName), Number: list.Number.String(),
				Revoked: len(list.RevokedCertificateEntries), NextUpdate: list.NextUpdate,
			})
		}),
	}
	cmd.Flags().StringVar(&dir, "dir", ".", "directory of the authority")
	cmd.Flags().IntVar(&days, "days", int(pki.CRLValidity.Hours()/24), "days until the next list")
	_ = cmd.MarkFlagDirname("dir")
	return cmd
}

// transferFlags are the flags of export and import.
type transferFlags struct {
	dir, format, passphrase, with, certificate string
	force                                      bool
}

func (f *transferFlags) declare(cmd *cobra.Command) {
	words := make([]string, 0, len(pki.Formats()))
	for _, x := range pki.Formats() {
		words = append(words, string(x))
	}
	fs := cmd.Flags()
	fs.StringVar(&f.dir, "dir", ".", "directory of the authority")
	fs.StringVar(&f.format, "format", words[0], "form of the private key: "+strings.Join(words, ", "))
	fs.StringVar(&f.passphrase, "passphrase-file", "", "file with the passphrase (asked for where none is named)")
	fs.StringVar(&f.with, "with", "", "for envelope: name of the pair whose certificate seals and whose key opens it")
	fs.BoolVar(&f.force, "force", false, "replace the files that are there")
	_ = cmd.MarkFlagDirname("dir")
	_ = cmd.MarkFlagFilename("passphrase-file")
	_ = cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
}

// transfer reads what the flags name. The caller wipes the passphrase.
func (f *transferFlags) transfer(confirm bool) (t pki.Transfer, err error) {
	if t.Format, err = pki.ParseFormat(f.format); err != nil {
		return t, control.Errorf(control.CodeUsage, "%v", err)
	}
	t.With, t.Certificate, t.Force = f.with, f.certificate, f.force
	switch {
	case t.Format == pki.Envelope && f.with == "":
		return t, control.Errorf(control.CodeUsage, "an envelope is for somebody: name the pair with --with")
	case t.Format == pki.Envelope:
		return t, nil
	case f.passphrase != "":
		t.Passphrase, err = keystore.ReadSecret(f.passphrase)
		t.Passphrase = bytes.TrimRight(t.Passphrase, "\r\n")
		return t, err
	}
	t.Passphrase, err = askPassphrase(confirm)
	return t, err
}

// askPassphrase reads a passphrase from the terminal, twice to confirm it.
func askPassphrase(confirm bool) ([]byte, error) {
	fd := int(os.Stdin.Fd())
	if !term.IsTerminal(fd) {
		return nil, &control.Error{Code: control.CodeUsage, Message: "there is no terminal to ask for the passphrase on", Cure: "name a file with --passphrase-file"}
	}
	ask := func(prompt string) ([]byte, error) {
		fmt.Fprint(os.Stderr, prompt)
		defer fmt.Fprintln(os.Stderr)
		return term.ReadPassword(fd)
	}
	first, err := ask("Passphrase: ")
	if err != nil || !confirm {
		return first, err
	}
	second, err := ask("The same again: ")
	defer clear(second)
	if err == nil && !bytes.Equal(first, second) {
		clear(first)
		return nil, control.Errorf(control.CodeRefused, "the two passphrases differ")
	}
	return first, err
}

func (c *cli) pkiExport() *cobra.Command {
	var f transferFlags
	var out string
	cmd := &cobra.Command{
		Use:   "export NAME",
		Short: "Write a private key for another system",
		Long: "Writes the private key NAME.key in another form: pkcs12 with its certificate and the\n" +
			"authority's, pkcs8 encrypted by a passphrase, or envelope, an SM2 key encrypted to the\n" +
			"certificate of --with as authorities deliver encryption keys (GB/T 35276).",
		Args: cobra.ExactArgs(1),
		RunE: run(func(_ *cobra.Command, args []string) error {
			t, err := f.transfer(true)
			defer clear(t.Passphrase)
			if err != nil {
				return err
			}
			data, err := pki.Export(f.dir, args[0], t)
			if err != nil {
				return refused(err)
			}
			defer clear(data)
			return refused(pki.WriteSecret(out, data, f.force))
		}),
	}
	f.declare(cmd)
	cmd.Flags().StringVarP(&out, "output", "o", "", "file to write, readable for its owner only (required)")
	_ = cmd.MarkFlagRequired("output")
	return cmd
}

func (c *cli) pkiImport() *cobra.Command {
	var f transferFlags
	var name string
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Read a private key from another system",
		Long: "Reads a private key in pkcs12, pkcs8 or envelope form and writes it, with its certificate,\n" +
			"as NAME.key and NAME.pem. An envelope opens with the private key of --with.",
		Args: cobra.ExactArgs(1),
		RunE: run(func(_ *cobra.Command, args []string) error {
			t, err := f.transfer(false)
			defer clear(t.Passphrase)
			if err != nil {
				return err
			}
			data, err := keystore.ReadSecret(args[0])
			if err != nil {
				return err
			}
			defer clear(data)
			if _, err := pki.Import(f.dir, name, data, t); err != nil {
				return refused(err)
			}
			return c.showPKI(f.dir, name)
		}),
	}
	f.declare(cmd)
	cmd.Flags().StringVar(&name, "name", "", "name of the files to write (required)")
	cmd.Flags().StringVar(&f.certificate, "cert", "", "certificate of the key, for pkcs8 and envelope")
	_ = cmd.MarkFlagRequired("name")
	_ = cmd.MarkFlagFilename("cert")
	return cmd
}
