package interop

import (
	"fmt"
	"strings"
)

// Config is strongSwan's configuration. Its words are swanctl.conf's; what has
// no field can be given as a line in Extra.
type Config struct {
	Connections []Connection
	PSKs        []PSK
	// Files in PEM that are loaded: trust anchors, certificates, private keys.
	CAs, Certs, Keys []string
	// Settings are lines for the daemon's section of strongswan.conf, like
	// "retransmit_tries = 2".
	Settings []string
	// Kernel has the kernel carry ESP, which must have it: kernel-libipsec knows
	// tunnel mode in UDP only.
	Kernel bool
	// Plugins are the plugins to load instead of all that are installed, which
	// takes a slow machine long.
	Plugins string
	// LogKeys has charon write the keys of all SAs to its log.
	LogKeys bool
}

// Connection is a connection of swanctl.conf.
type Connection struct {
	Name                    string
	Version                 int      // 0: 2
	LocalAddrs, RemoteAddrs []string // empty: any
	Proposals               string   // IKE; empty: strongSwan's default
	Encap                   bool     // UDP encapsulation also without a NAT
	Local, Remote           Auth
	Children                []Child
	Extra                   []string
}

// Auth is a round of authentication of one side.
type Auth struct {
	Auth  string   // "pubkey", "psk"
	ID    string   // empty: the subject, or the address
	Certs []string // names of files in Config.Certs, without directory
	Extra []string
}

// Child is a CHILD SA of swanctl.conf.
type Child struct {
	Name              string
	LocalTS, RemoteTS []string
	Proposals         string // ESP; empty: strongSwan's default
	Extra             []string
}

// PSK is a pre-shared key for the identities.
type PSK struct {
	IDs    []string
	Secret string
}

// swanctlConf writes swanctl.conf.
func (c Config) swanctlConf() string {
	var w confWriter
	w.section("connections", func() {
		for _, conn := range c.Connections {
			w.section(conn.Name, func() { conn.write(&w) })
		}
	})
	w.section("secrets", func() {
		for i, psk := range c.PSKs {
			w.section(fmt.Sprintf("ike-%d", i), func() {
				for j, id := range psk.IDs {
					w.quoted(fmt.Sprintf("id-%d", j), id)
				}
				w.quoted("secret", psk.Secret)
			})
		}
	})
	return w.String()
}

func (c Connection) write(w *confWriter) {
	version := c.Version
	if version == 0 {
		version = 2
	}
	w.plain("version", fmt.Sprint(version))
	w.plain("local_addrs", strings.Join(c.LocalAddrs, ","))
	w.plain("remote_addrs", strings.Join(c.RemoteAddrs, ","))
	w.plain("proposals", c.Proposals)
	if c.Encap {
		w.plain("encap", "yes")
	}
	w.lines(c.Extra)
	w.section("local", func() { c.Local.write(w) })
	w.section("remote", func() { c.Remote.write(w) })
	w.section("children", func() {
		for _, child := range c.Children {
			w.section(child.Name, func() {
				w.plain("local_ts", strings.Join(child.LocalTS, ","))
				w.plain("remote_ts", strings.Join(child.RemoteTS, ","))
				w.plain("esp_proposals", child.Proposals)
				w.lines(child.Extra)
			})
		}
	})
}

func (a Auth) write(w *confWriter) {
	w.plain("auth", a.Auth)
	w.quoted("id", a.ID)
	w.plain("certs", strings.Join(a.Certs, ","))
	w.lines(a.Extra)
}

// confWriter writes the format of strongswan.conf. What is empty is left out.
type confWriter struct {
	strings.Builder
	depth int
}

func (w *confWriter) line(s string) {
	fmt.Fprintf(w, "%s%s\n", strings.Repeat("  ", w.depth), s)
}

func (w *confWriter) lines(lines []string) {
	for _, l := range lines {
		w.line(l)
	}
}

func (w *confWriter) plain(key, value string) {
	if value != "" {
		w.line(key + " = " + value)
	}
}

// quoted is for values that may hold what else would end them.
func (w *confWriter) quoted(key, value string) {
	if value != "" {
		w.line(key + ` = "` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(value) + `"`)
	}
}

func (w *confWriter) section(name string, body func()) {
	w.line(name + " {")
	w.depth++
	body()
	w.depth--
	w.line("}")
}
