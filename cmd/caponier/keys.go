package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"caponier/internal/control"
	"caponier/internal/keystore"
	"caponier/internal/secret"
)

// keyFileFlag is the flag for a parameter of type Secret: it names a file, never
// the key.
func keyFileFlag(p control.Param) string { return p.Name + "-file" }

// keyReader gets the keys of one command.
type keyReader struct {
	cc    *cobra.Command
	lines *bufio.Reader // of the standard input; nil before the first
}

// gather adds to params the keys that flags name, and those that the command
// cannot do without.
func (k *keyReader) gather(cmd control.Command, params map[string]any) error {
	for _, p := range cmd.Params {
		if p.Type != control.Secret {
			continue
		}
		f := k.cc.Flags().Lookup(keyFileFlag(p))
		if !f.Changed {
			continue
		}
		path := f.Value.String()
		key, err := keystore.ReadSAKey(path)
		if err != nil {
			return control.Errorf(control.CodeRefused, "--%s: %v", f.Name, err)
		}
		params[p.Name] = key
	}
	needs, err := cmd.Needs(params)
	if err != nil {
		return err
	}
	for _, n := range needs {
		if params[n.Param] != nil {
			continue
		}
		key, err := k.ask(n.Prompt)
		if err != nil {
			return control.Errorf(control.CodeRefused, "%s: %v", n.Prompt, err)
		}
		params[n.Param] = key
	}
	return nil
}

// ask reads a key from the terminal, without showing it, or the next line of
// what the standard input is instead.
func (k *keyReader) ask(prompt string) (secret.Key, error) {
	in := k.cc.InOrStdin()
	if f, ok := in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		w := k.cc.ErrOrStderr()
		fmt.Fprintf(w, "%s: ", prompt)
		text, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(w)
		return parsed(text, err)
	}
	if k.lines == nil {
		k.lines = bufio.NewReader(in)
	}
	text, err := k.lines.ReadSlice('\n')
	if errors.Is(err, io.EOF) && len(text) > 0 {
		err = nil
	}
	return parsed(text, err)
}

// parsed makes a key of a line, and clears it. A line holds no raw octets:
// whoever types is to be told of a wrong digit.
func parsed(text []byte, err error) (secret.Key, error) {
	defer clear(text)
	switch {
	case errors.Is(err, io.EOF):
		return secret.Key{}, errors.New("the standard input has ended: give a key in each line, or name its file")
	case err != nil:
		return secret.Key{}, err
	}
	digits := bytes.TrimSpace(text)
	if !bytes.HasPrefix(digits, []byte("0x")) {
		digits = append([]byte("0x"), digits...)
		defer clear(digits)
	}
	return keystore.ParseSAKey(digits)
}
