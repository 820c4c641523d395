package config

import (
	"crypto/sha256"
	"slices"

	"caponier/internal/ipsec"
	"caponier/internal/suite"
)

// A key is one row of the schema. Decoding, defaults, suggestions, Diff and the
// reference document all follow it.
type key[T any] struct {
	name     string
	kind     string // what it holds, as the reference document says
	def      string // filled in where no file sets it
	implied  string // what its absence means, where there is no def
	required bool
	section  bool   // holds keys of its own
	later    bool   // in the contract, for another version
	never    string // why it is refused, without its line being shown
	effect   Effect
	set      func(d *decoder, v *T, n *node, path string)
	get      func(v *T) any // for Diff; nil where the parts are compared
}

func find[T any](keys []key[T], name string) *key[T] {
	if i := slices.IndexFunc(keys, func(k key[T]) bool { return k.name == name }); i >= 0 {
		return &keys[i]
	}
	return nil
}

// names returns the keys that are valid in a section.
func names[T any](keys []key[T]) []string {
	var out []string
	for _, k := range keys {
		if !k.later && k.never == "" {
			out = append(out, k.name)
		}
	}
	return out
}

// fileKey is a key that names a file of an end.
func fileKey(name string, field func(*Party) **File) key[Party] {
	return key[Party]{
		name: name, kind: kindPath, effect: EffectReconnect,
		set: func(d *decoder, v *Party, n *node, _ string) { *field(v) = d.fileAt(n) },
		get: func(v *Party) any { return *field(v) },
	}
}

// The kinds of values.
const (
	kindName      = "name"
	kindPath      = "path"
	kindPaths     = "path or list"
	kindDuration  = "duration"
	kindAddresses = "address or list"
	kindSelectors = "selector or list"
	kindIdentity  = "identity"
	kindProposals = "proposal or list"
	kindMSS       = "auto | off | number, 88 to 65495"
)

// The tables are filled in by init functions, because sections refer to one
// another through their decoders.
var (
	rootKeys       []key[Config]
	gatewayKeys    []key[Gateway]
	logKeys        []key[Log]
	connectionKeys []key[Connection]
	localKeys      []key[Party]
	remoteKeys     []key[Party]
	tunnelKeys     []key[Tunnel]
	policyKeys     []key[Policy]
)

func init() {
	rootKeys = []key[Config]{
		{name: "gateway", kind: "section", section: true, set: func(d *decoder, v *Config, n *node, path string) {
			decodeSection(d, n, path, gatewayKeys, &v.Gateway, false)
		}},
		{name: "connections", kind: "sections by name", section: true, set: func(d *decoder, v *Config, n *node, path string) {
			d.named(n, path, "connection", func(name string, f field, path string) {
				c := &Connection{Name: name, Source: f.Key.Pos}
				decodeSection(d, f.Value, path, connectionKeys, c, true)
				v.Connections = append(v.Connections, c)
			})
		}},
		{name: "policies", kind: "list of sections", section: true, set: func(d *decoder, v *Config, n *node, path string) {
			d.policyList(n, path)
		}},
		{name: "manual", kind: "section", section: true, set: func(d *decoder, v *Config, n *node, path string) {
			decodeSection(d, n, path, manualKeys, &v.Manual, false)
		}},
	}
	gatewayKeys = []key[Gateway]{
		{
			name: "name", kind: kindName, implied: "the host name", effect: EffectAtOnce,
			set: func(d *decoder, v *Gateway, n *node, _ string) {
				if d.name(n) {
					v.Name = n.Text
				}
			}, get: func(v *Gateway) any { return v.Name },
		},
		{
			name: "state", kind: kindPath, def: "/var/lib/caponier", effect: EffectRestart,
			set: func(d *decoder, v *Gateway, n *node, _ string) { d.path(&v.State, n) },
			get: func(v *Gateway) any { return v.State },
		},
		{
			name: "control", kind: kindPath, def: "/run/caponier/control.sock", effect: EffectRestart,
			set: func(d *decoder, v *Gateway, n *node, _ string) { d.path(&v.Control, n) },
			get: func(v *Gateway) any { return v.Control },
		},
		{
			name: "dataplane", kind: dataPlaneWords.String(), def: "userspace", effect: EffectRestart,
			set: func(d *decoder, v *Gateway, n *node, _ string) { word(d, &v.DataPlane, n, dataPlaneWords) },
			get: func(v *Gateway) any { return v.DataPlane },
		},
		{
			name: "capture", kind: captureWords.String(), def: "tun", effect: EffectRestart,
			set: func(d *decoder, v *Gateway, n *node, _ string) { word(d, &v.Capture, n, captureWords) },
			get: func(v *Gateway) any { return v.Capture },
		},
		{
			name: "interfaces", kind: "name or list", implied: "all Ethernet interfaces with an address", effect: EffectRestart,
			set: func(d *decoder, v *Gateway, n *node, path string) { d.interfaces(&v.Interfaces, n, path) },
			get: func(v *Gateway) any { return v.Interfaces },
		},
		{
			name: "xfrm-interfaces", kind: yesWords.String(), implied: "no", effect: EffectRestart,
			set: func(d *decoder, v *Gateway, n *node, _ string) { yes(d, &v.XfrmInterfaces, n) },
			get: func(v *Gateway) any { return v.XfrmInterfaces },
		},
		{
			name: "workers", kind: "number, 0 to 256", def: "0", effect: EffectRestart,
			set: func(d *decoder, v *Gateway, n *node, _ string) { number(d, &v.Workers, n, 0, 256) },
			get: func(v *Gateway) any { return v.Workers },
		},
		{
			name: "latency", kind: latencyWords.String(), def: "normal", effect: EffectRestart,
			set: func(d *decoder, v *Gateway, n *node, _ string) { word(d, &v.Latency, n, latencyWords) },
			get: func(v *Gateway) any { return v.Latency },
		},
		{
			name: "mtu", kind: "number, 576 to 65535", implied: "from the outer path", effect: EffectRestart,
			set: func(d *decoder, v *Gateway, n *node, _ string) { number(d, &v.MTU, n, 576, 65535) },
			get: func(v *Gateway) any { return v.MTU },
		},
		{
			name: "shutdown", kind: shutdownWords.String(), def: "block", effect: EffectAtOnce,
			set: func(d *decoder, v *Gateway, n *node, _ string) { word(d, &v.Shutdown, n, shutdownWords) },
			get: func(v *Gateway) any { return v.Shutdown },
		},
		{
			name: "capture-keys", kind: captureKeysWords.String(), def: "refuse", effect: EffectAtOnce,
			set: func(d *decoder, v *Gateway, n *node, _ string) { word(d, &v.CaptureKeys, n, captureKeysWords) },
			get: func(v *Gateway) any { return v.CaptureKeys },
		},
		{
			name: "private-numbers", kind: "numbers by algorithm", implied: "see SM4 and SM3", effect: EffectRestart,
			set: func(d *decoder, v *Gateway, n *node, path string) { d.numbers(v, n, path) },
			get: func(v *Gateway) any { return v.Numbers },
		},
		{
			name: "ike", kind: "section", section: true,
			set: func(d *decoder, v *Gateway, n *node, path string) {
				decodeSection(d, n, path, ikeKeys, &v.IKE, false)
			},
		},
		{
			name: "log", kind: "section", section: true,
			set: func(d *decoder, v *Gateway, n *node, path string) {
				decodeSection(d, n, path, logKeys, &v.Log, false)
			},
		},
	}
	logKeys = []key[Log]{
		{
			name: "file", kind: kindPath, implied: "standard error", effect: EffectRestart,
			set: func(d *decoder, v *Log, n *node, _ string) { d.path(&v.File, n) },
			get: func(v *Log) any { return v.File },
		},
		{
			name: "format", kind: logFormatWords.String(), def: "text", effect: EffectRestart,
			set: func(d *decoder, v *Log, n *node, _ string) { word(d, &v.Format, n, logFormatWords) },
			get: func(v *Log) any { return v.Format },
		},
		{
			name: "level", kind: logLevelWords.String(), def: "info", effect: EffectAtOnce,
			set: func(d *decoder, v *Log, n *node, _ string) { d.level(&v.Level, n) },
			get: func(v *Log) any { return v.Level },
		},
		{
			name: "levels", kind: "levels by subsystem", implied: "level for all", effect: EffectAtOnce,
			set: func(d *decoder, v *Log, n *node, path string) { d.levels(v, n, path) },
			get: func(v *Log) any { return v.Levels },
		},
	}
	connectionKeys = []key[Connection]{
		{
			name: "version", kind: versionWords.String(), def: "2", effect: EffectReconnect,
			set: func(d *decoder, v *Connection, n *node, _ string) { word(d, &v.Version, n, versionWords) },
			get: func(v *Connection) any { return v.Version },
		},
		{
			name: "local", kind: "section", section: true,
			set: func(d *decoder, v *Connection, n *node, path string) {
				decodeSection(d, n, path, localKeys, &v.Local, true)
			},
		},
		{
			name: "remote", kind: "section", section: true, required: true,
			set: func(d *decoder, v *Connection, n *node, path string) {
				decodeSection(d, n, path, remoteKeys, &v.Remote, true)
			},
		},
		{
			name: "proposals", kind: kindProposals, implied: "built in", effect: EffectRekey,
			set: func(d *decoder, v *Connection, n *node, path string) {
				d.proposals(&v.Proposals, &v.ProposalWords, n, path, suite.ParseIKE)
			}, get: func(v *Connection) any { return v.Proposals },
		},
		{
			name: "unique", kind: uniqueWords.String(), def: "replace", effect: EffectAtOnce,
			set: func(d *decoder, v *Connection, n *node, _ string) { word(d, &v.Unique, n, uniqueWords) },
			get: func(v *Connection) any { return v.Unique },
		},
		{
			name: "encapsulation", kind: encapsulationWords.String(), def: "auto", effect: EffectReconnect,
			set: func(d *decoder, v *Connection, n *node, _ string) {
				word(d, &v.Encapsulation, n, encapsulationWords)
			},
			get: func(v *Connection) any { return v.Encapsulation },
		},
		{
			name: "fragment-size", kind: "number, 576 to 65535", def: "1280", effect: EffectAtOnce,
			set: func(d *decoder, v *Connection, n *node, _ string) { number(d, &v.FragmentSize, n, 576, 65535) },
			get: func(v *Connection) any { return v.FragmentSize },
		},
		{
			name: "dpd", kind: kindDuration, def: "30s", effect: EffectAtOnce,
			set: func(d *decoder, v *Connection, n *node, _ string) { d.duration(&v.DPD, n, 0) },
			get: func(v *Connection) any { return v.DPD },
		},
		{
			name: "lifetime", kind: kindDuration, def: "4h", effect: EffectNext,
			set: func(d *decoder, v *Connection, n *node, _ string) { d.duration(&v.Lifetime, n, minLifetime) },
			get: func(v *Connection) any { return v.Lifetime },
		},
		{
			name: "gm", kind: "section", section: true,
			set: func(d *decoder, v *Connection, n *node, path string) {
				v.GM = new(GM)
				decodeSection(d, n, path, gmKeys, v.GM, false)
			},
			get: func(v *Connection) any { return v.GM },
		},
		{
			name: "tunnels", kind: "sections by name", section: true,
			set: func(d *decoder, v *Connection, n *node, path string) {
				d.named(n, path, "tunnel", func(name string, f field, path string) {
					t := &Tunnel{Name: name, Source: f.Key.Pos}
					decodeSection(d, f.Value, path, tunnelKeys, t, true)
					v.Tunnels = append(v.Tunnels, t)
				})
			},
		},
	}
	party := []key[Party]{
		{
			name: "address", kind: kindAddresses, def: "%any", effect: EffectReconnect,
			set: func(d *decoder, v *Party, n *node, path string) { d.addresses(&v.Addresses, n, path) },
			get: func(v *Party) any { return v.Addresses },
		},
		{
			name: "id", kind: kindIdentity, effect: EffectReconnect,
			set: func(d *decoder, v *Party, n *node, _ string) { d.identity(&v.ID, n) },
			get: func(v *Party) any { return v.ID },
		},
		{
			name: "auth", kind: authWords.String(), implied: "cert", effect: EffectReconnect,
			set: func(d *decoder, v *Party, n *node, _ string) { word(d, &v.Auth, n, authWords) },
			get: func(v *Party) any { return v.Auth },
		},
		{
			name: "psk-file", kind: kindPath, effect: EffectReconnect,
			set: func(d *decoder, v *Party, n *node, _ string) { d.path(&v.PSKFile, n) },
			get: func(v *Party) any { return [2]any{v.PSKFile, sha256.Sum256(v.PSK.Bytes())} },
		},
	}
	localKeys = append(slices.Clone(party),
		fileKey("cert", func(v *Party) **File { return &v.Cert }), fileKey("key", func(v *Party) **File { return &v.Key }),
		key[Party]{
			name: "signature", kind: signatureWords.String(), implied: "auto", effect: EffectReconnect,
			set: func(d *decoder, v *Party, n *node, _ string) { word(d, &v.Signature, n, signatureWords) },
			get: func(v *Party) any { return v.Signature },
		},
		fileKey("sign-cert", func(v *Party) **File { return &v.SignCert }), fileKey("sign-key", func(v *Party) **File { return &v.SignKey }),
		fileKey("encrypt-cert", func(v *Party) **File { return &v.EncryptCert }), fileKey("encrypt-key", func(v *Party) **File { return &v.EncryptKey }),
	)
	find(localKeys, "id").implied = "the certificate's subject, or the address"
	find(localKeys, "auth").implied = "as the remote end"
	remoteKeys = append(slices.Clone(party),
		key[Party]{
			name: "ca", kind: kindPaths, effect: EffectReconnect,
			set: func(d *decoder, v *Party, n *node, path string) {
				d.each(n, path, func(item *node, _ string) {
					if f := d.fileAt(item); f != nil {
						v.CA = append(v.CA, f)
					}
				})
			}, get: func(v *Party) any { return v.CA },
		},
		fileKey("pin", func(v *Party) **File { return &v.Pin }),
		key[Party]{
			name: "crl", kind: kindPaths, effect: EffectReconnect,
			set: func(d *decoder, v *Party, n *node, path string) {
				d.each(n, path, func(item *node, _ string) {
					if f := d.fileAt(item); f != nil {
						v.CRL = append(v.CRL, f)
					}
				})
			}, get: func(v *Party) any { return v.CRL },
		},
		key[Party]{
			name: "revocation", kind: revocationWords.String(), implied: "relaxed", effect: EffectReconnect,
			set: func(d *decoder, v *Party, n *node, _ string) { word(d, &v.Revocation, n, revocationWords) },
			get: func(v *Party) any { return v.Revocation },
		},
		key[Party]{
			name: "sha1", kind: sha1Words.String(), implied: "auto", effect: EffectReconnect,
			set: func(d *decoder, v *Party, n *node, _ string) { word(d, &v.SHA1, n, sha1Words) },
			get: func(v *Party) any { return v.SHA1 },
		},
	)
	find(remoteKeys, "id").implied = "whom pin or the pre-shared key proves"
	tunnelKeys = []key[Tunnel]{
		{
			name: "mode", kind: modeWords.String(), def: "tunnel", effect: EffectRenegotiate,
			set: func(d *decoder, v *Tunnel, n *node, _ string) { word(d, &v.Mode, n, modeWords) },
			get: func(v *Tunnel) any { return v.Mode },
		},
		{
			name: "protocol", kind: protocolWords.String(), def: "esp", effect: EffectRenegotiate,
			set: func(d *decoder, v *Tunnel, n *node, _ string) {
				var i uint8
				word(d, &i, n, protocolWords)
				v.Protocol, v.WithAH = []ipsec.Protocol{ipsec.ESP, ipsec.AH, ipsec.ESP}[i], i == 2
			}, get: func(v *Tunnel) any { return v.protocol() },
		},
		{
			name: "local", kind: kindSelectors, required: true, effect: EffectRenegotiate,
			set: func(d *decoder, v *Tunnel, n *node, path string) { d.selectors(&v.Local, n, path) },
			get: func(v *Tunnel) any { return v.Local },
		},
		{
			name: "remote", kind: kindSelectors, required: true, effect: EffectRenegotiate,
			set: func(d *decoder, v *Tunnel, n *node, path string) { d.selectors(&v.Remote, n, path) },
			get: func(v *Tunnel) any { return v.Remote },
		},
		{
			name: "proposals", kind: kindProposals, implied: "built in", effect: EffectRekey,
			// They are read when the protocol is known: see validateTunnel.
			set: func(*decoder, *Tunnel, *node, string) {},
			get: func(v *Tunnel) any { return v.Proposals },
		},
		{
			name: "start", kind: startWords.String(), def: "none", effect: EffectAtOnce,
			set: func(d *decoder, v *Tunnel, n *node, _ string) { word(d, &v.Start, n, startWords) },
			get: func(v *Tunnel) any { return v.Start },
		},
		{
			name: "lifetime", kind: kindDuration, def: "1h", effect: EffectNext,
			set: func(d *decoder, v *Tunnel, n *node, _ string) { d.duration(&v.Lifetime.Time, n, minLifetime) },
			get: func(v *Tunnel) any { return v.Lifetime.Time },
		},
		{
			name: "replay-window", kind: "number, 32 to 65536", def: "4096", effect: EffectNext,
			set: func(d *decoder, v *Tunnel, n *node, _ string) { number(d, &v.ReplayWindow, n, 32, 65536) },
			get: func(v *Tunnel) any { return v.ReplayWindow },
		},
		{
			name: "df", kind: dfWords.String(), implied: "copy", effect: EffectRekey,
			set: func(d *decoder, v *Tunnel, n *node, _ string) { word(d, &v.Outer.DF, n, dfWords) },
			get: func(v *Tunnel) any { return v.Outer.DF },
		},
		{
			name: "dscp", kind: dscpWords.String(), implied: "out", effect: EffectRekey,
			set: func(d *decoder, v *Tunnel, n *node, _ string) { word(d, &v.Outer.DSCP, n, dscpWords) },
			get: func(v *Tunnel) any { return v.Outer.DSCP },
		},
		{
			name: "ecn", kind: yesWords.String(), implied: "yes", effect: EffectRekey,
			set: func(d *decoder, v *Tunnel, n *node, _ string) {
				var ecn bool
				yes(d, &ecn, n)
				v.Outer.NoECN = !ecn
			}, get: func(v *Tunnel) any { return v.Outer.NoECN },
		},
		{
			name: "mss", kind: kindMSS, implied: "auto", effect: EffectRekey,
			set: func(d *decoder, v *Tunnel, n *node, _ string) { d.mss(&v.Fit.MSS, n) },
			get: func(v *Tunnel) any { return v.Fit.MSS },
		},
		{
			name: "fragment", kind: fragmentWords.String(), implied: "before", effect: EffectRekey,
			set: func(d *decoder, v *Tunnel, n *node, _ string) { word(d, &v.Fit.Fragment, n, fragmentWords) },
			get: func(v *Tunnel) any { return v.Fit.Fragment },
		},
		{
			name: "aggfrag", kind: aggfragWords.String(), implied: "off", effect: EffectRekey,
			set: func(d *decoder, v *Tunnel, n *node, _ string) { word(d, &v.Aggfrag, n, aggfragWords) },
			get: func(v *Tunnel) any { return v.Aggfrag },
		},
		{
			name: "iptfs", kind: "section", section: true, effect: EffectRekey,
			set: func(d *decoder, v *Tunnel, n *node, path string) {
				decodeSection(d, n, path, iptfsKeys, &v.Pace, true)
			},
			get: func(v *Tunnel) any { return v.Pace },
		},
		{
			name: "reqid", kind: "number", implied: "assigned", effect: EffectRenegotiate,
			set: func(d *decoder, v *Tunnel, n *node, _ string) { number(d, &v.ReqID, n, 1, maxReqID) },
			get: func(v *Tunnel) any { return v.ReqID },
		},
	}
	tunnelKeys = append(tunnelKeys, useKeys(func(v *Tunnel) *ipsec.Limit { return &v.Lifetime })...)
	connectionKeys = append(connectionKeys, useKeys(func(v *Connection) *ipsec.Limit { return &v.Use })...)
	policyKeys = []key[Policy]{
		{
			name: "name", kind: kindName, required: true,
			set: func(d *decoder, v *Policy, n *node, _ string) {
				if d.name(n) {
					v.Name = n.Text
				}
			},
		},
		{
			name: "local", kind: kindSelectors, required: true, effect: EffectAtOnce,
			set: func(d *decoder, v *Policy, n *node, path string) { d.selectors(&v.Local, n, path) },
			get: func(v *Policy) any { return v.Local },
		},
		{
			name: "remote", kind: kindSelectors, required: true, effect: EffectAtOnce,
			set: func(d *decoder, v *Policy, n *node, path string) { d.selectors(&v.Remote, n, path) },
			get: func(v *Policy) any { return v.Remote },
		},
		{
			name: "action", kind: actionWords.String(), required: true, effect: EffectAtOnce,
			set: func(d *decoder, v *Policy, n *node, _ string) { word(d, &v.Action, n, actionWords) },
			get: func(v *Policy) any { return v.Action },
		},
		{
			name: "priority", kind: "low | normal | high, or a number", def: "normal", effect: EffectAtOnce,
			set: func(d *decoder, v *Policy, n *node, _ string) { d.priority(&v.Priority, n) },
			get: func(v *Policy) any { return v.Priority },
		},
	}
}

func useKeys[T any](limit func(v *T) *ipsec.Limit) []key[T] {
	return []key[T]{
		{
			name: "lifetime-bytes", kind: "octets, with k, M, G or T", implied: "no limit", effect: EffectNext,
			set: func(d *decoder, v *T, n *node, _ string) { d.size(&limit(v).Bytes, n) },
			get: func(v *T) any { return limit(v).Bytes },
		},
		{
			name: "lifetime-packets", kind: "number", implied: "no limit", effect: EffectNext,
			set: func(d *decoder, v *T, n *node, _ string) { number(d, &limit(v).Packets, n, 1, 1<<63) },
			get: func(v *T) any { return limit(v).Packets },
		},
	}
}
