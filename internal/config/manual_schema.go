package config

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"caponier/internal/ipsec"
	"caponier/internal/secret"
)

var (
	manualKeys       []key[Manual]
	associationKeys  []key[Association]
	manualPolicyKeys []key[ManualPolicy]
)

// The kinds of values of manual keying.
const (
	kindSPI  = "SPI"
	kindMark = "mark, or mark/mask"
)

func init() {
	manualKeys = []key[Manual]{
		{name: "associations", kind: "sections by name", section: true, set: func(d *decoder, v *Manual, n *node, path string) {
			d.named(n, path, "association", func(name string, f field, path string) {
				a := &Association{Name: name, Source: f.Key.Pos}
				decodeSection(d, f.Value, path, associationKeys, a, true)
				v.Associations = append(v.Associations, a)
			})
		}},
		{name: "policies", kind: "sections by name", section: true, set: func(d *decoder, v *Manual, n *node, path string) {
			d.named(n, path, "policy", func(name string, f field, path string) {
				p := &ManualPolicy{Name: name, Source: f.Key.Pos}
				decodeSection(d, f.Value, path, manualPolicyKeys, p, true)
				v.Policies = append(v.Policies, p)
			})
		}},
	}
	// What changes an association replaces it: an SA has no other way to change.
	associationKeys = []key[Association]{
		{
			name: "direction", kind: directionWords.String(), required: true, effect: EffectReplace,
			set: func(d *decoder, v *Association, n *node, _ string) { word(d, &v.Direction, n, directionWords) },
			get: func(v *Association) any { return v.Direction },
		},
		{
			name: "protocol", kind: saProtocolWords.String(), def: "esp", effect: EffectReplace,
			set: func(d *decoder, v *Association, n *node, _ string) {
				var i uint8
				word(d, &i, n, saProtocolWords)
				v.Protocol = []ipsec.Protocol{ipsec.ESP, ipsec.AH}[i]
			}, get: func(v *Association) any { return v.Protocol },
		},
		{
			name: "mode", kind: saModeWords.String(), def: "tunnel", effect: EffectReplace,
			set: func(d *decoder, v *Association, n *node, _ string) { word(d, &v.Mode, n, saModeWords) },
			get: func(v *Association) any { return v.Mode },
		},
		{
			name: "spi", kind: kindSPI, required: true, effect: EffectReplace,
			set: func(d *decoder, v *Association, n *node, _ string) { d.spi(&v.SPI, n) },
			get: func(v *Association) any { return v.SPI },
		},
		{
			name: "local-address", kind: "address", required: true, effect: EffectReplace,
			set: func(d *decoder, v *Association, n *node, _ string) { d.address(&v.LocalAddress, n) },
			get: func(v *Association) any { return v.LocalAddress.String() },
		},
		{
			name: "remote-address", kind: "address", required: true, effect: EffectReplace,
			set: func(d *decoder, v *Association, n *node, _ string) { d.address(&v.RemoteAddress, n) },
			get: func(v *Association) any { return v.RemoteAddress.String() },
		},
		{
			name: "encapsulation", kind: saEncapWords.String(), def: "none", effect: EffectReplace,
			set: func(d *decoder, v *Association, n *node, _ string) {
				var i uint8
				word(d, &i, n, saEncapWords)
				v.Encap = i == 1
			}, get: func(v *Association) any { return v.Encap },
		},
		{
			name: "remote-port", kind: "number, 1 to 65535", implied: "4500, with encapsulation", effect: EffectReplace,
			set: func(d *decoder, v *Association, n *node, _ string) {
				var port uint32
				number(d, &port, n, 1, 65535)
				v.RemotePort = uint16(port)
			}, get: func(v *Association) any { return v.RemotePort },
		},
		{
			name: "algorithms", kind: "proposal", required: true, effect: EffectReplace,
			set: func(d *decoder, v *Association, n *node, _ string) { v.Algorithms, _ = d.scalar(n) },
			get: func(v *Association) any { return v.Algorithms },
		},
		{
			name: "unsafe-counter-mode", kind: yesWords.String(), def: "no", effect: EffectReplace,
			set: func(d *decoder, v *Association, n *node, _ string) { yes(d, &v.CounterMode, n) },
			get: func(v *Association) any { return v.CounterMode },
		},
		{
			name: "encryption-key-file", kind: kindPath, effect: EffectReplace,
			set: func(d *decoder, v *Association, n *node, _ string) { d.keyFile(&v.EncrKeyFile, n) },
			get: func(v *Association) any { return [2]any{v.EncrKeyFile, keyDigest(v.EncrKey)} },
		},
		{
			name: "integrity-key-file", kind: kindPath, effect: EffectReplace,
			set: func(d *decoder, v *Association, n *node, _ string) { d.keyFile(&v.IntegKeyFile, n) },
			get: func(v *Association) any { return [2]any{v.IntegKeyFile, keyDigest(v.IntegKey)} },
		},
		{
			name: "local", kind: kindSelectors, implied: "`local-address`, in transport mode", effect: EffectReplace,
			set: func(d *decoder, v *Association, n *node, path string) { d.selectors(&v.Local, n, path) },
			get: func(v *Association) any { return v.Local },
		},
		{
			name: "remote", kind: kindSelectors, implied: "`remote-address`, in transport mode", effect: EffectReplace,
			set: func(d *decoder, v *Association, n *node, path string) { d.selectors(&v.Remote, n, path) },
			get: func(v *Association) any { return v.Remote },
		},
		{
			name: "reqid", kind: "number", required: true, effect: EffectReplace,
			set: func(d *decoder, v *Association, n *node, _ string) { number(d, &v.ReqID, n, 1, maxReqID) },
			get: func(v *Association) any { return v.ReqID },
		},
		{
			name: "esn", kind: yesWords.String(), def: "no", effect: EffectReplace,
			set: func(d *decoder, v *Association, n *node, _ string) { yes(d, &v.ESN, n) },
			get: func(v *Association) any { return v.ESN },
		},
		{
			name: "replay-window", kind: "number, 32 to 65536", implied: "4096", effect: EffectReplace,
			set: func(d *decoder, v *Association, n *node, _ string) { number(d, &v.ReplayWindow, n, 32, 65536) },
			get: func(v *Association) any { return v.ReplayWindow },
		},
	}
	associationKeys = append(associationKeys, limitKeys("soft-", func(v *Association) *ipsec.Limit { return &v.Lifetime.Soft })...)
	associationKeys = append(associationKeys, limitKeys("hard-", func(v *Association) *ipsec.Limit { return &v.Lifetime.Hard })...)
	associationKeys = append(associationKeys, outerKeys...)
	associationKeys = append(associationKeys, kernelKeys...)
	associationKeys = append(associationKeys, inlineKeys()...)

	manualPolicyKeys = []key[ManualPolicy]{
		{
			name: "action", kind: saActionWords.String(), required: true, effect: EffectAtOnce,
			set: func(d *decoder, v *ManualPolicy, n *node, _ string) { word(d, &v.Action, n, saActionWords) },
			get: func(v *ManualPolicy) any { return v.Action },
		},
		{
			name: "local", kind: kindSelectors, required: true, effect: EffectAtOnce,
			set: func(d *decoder, v *ManualPolicy, n *node, path string) { d.selectors(&v.Local, n, path) },
			get: func(v *ManualPolicy) any { return v.Local },
		},
		{
			name: "remote", kind: kindSelectors, required: true, effect: EffectAtOnce,
			set: func(d *decoder, v *ManualPolicy, n *node, path string) { d.selectors(&v.Remote, n, path) },
			get: func(v *ManualPolicy) any { return v.Remote },
		},
		{
			name: "priority", kind: "low | normal | high, or a number", def: "normal", effect: EffectAtOnce,
			set: func(d *decoder, v *ManualPolicy, n *node, _ string) { d.priority(&v.Priority, n) },
			get: func(v *ManualPolicy) any { return v.Priority },
		},
		{
			name: "reqid", kind: "number", implied: "required to protect", effect: EffectAtOnce,
			set: func(d *decoder, v *ManualPolicy, n *node, _ string) { number(d, &v.ReqID, n, 1, maxReqID) },
			get: func(v *ManualPolicy) any { return v.ReqID },
		},
		{
			name: "protocol", kind: policyProtocolWords.String(), implied: "esp", effect: EffectAtOnce,
			set: func(d *decoder, v *ManualPolicy, n *node, _ string) {
				var i uint8
				word(d, &i, n, policyProtocolWords)
				v.Protocol, v.WithAH = []ipsec.Protocol{ipsec.ESP, ipsec.AH, ipsec.ESP}[i], i == 2
			}, get: func(v *ManualPolicy) any { return [2]any{v.Protocol, v.WithAH} },
		},
		{
			name: "mode", kind: saModeWords.String(), implied: "tunnel", effect: EffectAtOnce,
			set: func(d *decoder, v *ManualPolicy, n *node, _ string) { word(d, &v.Mode, n, saModeWords) },
			get: func(v *ManualPolicy) any { return v.Mode },
		},
		{
			name: "mark", kind: kindMark, effect: EffectAtOnce,
			set: func(d *decoder, v *ManualPolicy, n *node, _ string) { d.mark(&v.Kernel.Mark, n) },
			get: func(v *ManualPolicy) any { return v.Kernel.Mark },
		},
		{
			name: "if-id", kind: "number", effect: EffectAtOnce,
			set: func(d *decoder, v *ManualPolicy, n *node, _ string) { number(d, &v.Kernel.IfID, n, 1, 1<<32-1) },
			get: func(v *ManualPolicy) any { return v.Kernel.IfID },
		},
	}
}

// outerKeys say how tunnel mode treats the outer header (RFC 4301, Section
// 5.1.2), and packets that are too long.
var outerKeys = []key[Association]{
	{
		name: "df", kind: dfWords.String(), implied: "copy", effect: EffectReplace,
		set: func(d *decoder, v *Association, n *node, _ string) { word(d, &v.Outer.DF, n, dfWords) },
		get: func(v *Association) any { return v.Outer.DF },
	},
	{
		name: "dscp", kind: dscpWords.String(), implied: "out", effect: EffectReplace,
		set: func(d *decoder, v *Association, n *node, _ string) { word(d, &v.Outer.DSCP, n, dscpWords) },
		get: func(v *Association) any { return v.Outer.DSCP },
	},
	{
		name: "ecn", kind: yesWords.String(), implied: "yes", effect: EffectReplace,
		set: func(d *decoder, v *Association, n *node, _ string) {
			var ecn bool
			yes(d, &ecn, n)
			v.Outer.NoECN = !ecn
		}, get: func(v *Association) any { return v.Outer.NoECN },
	},
	{
		name: "mss", kind: kindMSS, implied: "auto", effect: EffectReplace,
		set: func(d *decoder, v *Association, n *node, _ string) { d.mss(&v.Fit.MSS, n) },
		get: func(v *Association) any { return v.Fit.MSS },
	},
	{
		name: "fragment", kind: fragmentWords.String(), implied: "before", effect: EffectReplace,
		set: func(d *decoder, v *Association, n *node, _ string) { word(d, &v.Fit.Fragment, n, fragmentWords) },
		get: func(v *Association) any { return v.Fit.Fragment },
	},
}

// kernelKeys are what only the Linux kernel does.
var kernelKeys = []key[Association]{
	{
		name: "mark", kind: kindMark, effect: EffectReplace,
		set: func(d *decoder, v *Association, n *node, _ string) { d.mark(&v.Kernel.Mark, n) },
		get: func(v *Association) any { return v.Kernel.Mark },
	},
	{
		name: "output-mark", kind: kindMark, effect: EffectReplace,
		set: func(d *decoder, v *Association, n *node, _ string) { d.mark(&v.Kernel.OutputMark, n) },
		get: func(v *Association) any { return v.Kernel.OutputMark },
	},
	{
		name: "if-id", kind: "number", effect: EffectReplace,
		set: func(d *decoder, v *Association, n *node, _ string) { number(d, &v.Kernel.IfID, n, 1, 1<<32-1) },
		get: func(v *Association) any { return v.Kernel.IfID },
	},
	{
		name: "offload", kind: "name of a network device", effect: EffectReplace,
		set: func(d *decoder, v *Association, n *node, _ string) { v.Kernel.Offload, _ = d.scalar(n) },
		get: func(v *Association) any { return v.Kernel.Offload },
	},
	{
		name: "cpu", kind: "number, from 0", effect: EffectReplace,
		set: func(d *decoder, v *Association, n *node, _ string) {
			var cpu uint32
			number(d, &cpu, n, 0, maxCPU)
			v.Kernel.CPU = cpu + 1
		}, get: func(v *Association) any { return v.Kernel.CPU },
	},
}

// maxCPU is more than Linux counts processors (CONFIG_NR_CPUS).
const maxCPU = 8191

// limitKeys are the keys of a lifetime, under prefix.
func limitKeys(prefix string, of func(*Association) *ipsec.Limit) []key[Association] {
	return []key[Association]{
		{
			name: prefix + "lifetime", kind: kindDuration, implied: "no limit", effect: EffectReplace,
			set: func(d *decoder, v *Association, n *node, _ string) { d.duration(&of(v).Time, n, minLifetime) },
			get: func(v *Association) any { return of(v).Time },
		},
		{
			name: prefix + "lifetime-bytes", kind: "octets, with k, M, G or T", implied: "no limit", effect: EffectReplace,
			set: func(d *decoder, v *Association, n *node, _ string) { d.size(&of(v).Bytes, n) },
			get: func(v *Association) any { return of(v).Bytes },
		},
		{
			name: prefix + "lifetime-packets", kind: "number", implied: "no limit", effect: EffectReplace,
			set: func(d *decoder, v *Association, n *node, _ string) { number(d, &of(v).Packets, n, 1, 1<<63) },
			get: func(v *Association) any { return of(v).Packets },
		},
	}
}

func keyDigest(k secret.Key) [32]byte { return sha256.Sum256(k.Bytes()) }

func yes(d *decoder, v *bool, n *node) {
	var i uint8
	word(d, &i, n, yesWords)
	*v = i == 1
}

// spi sets *v to an SPI as `caponier sa list` and `ip xfrm` print it. A number
// that could be read in two ways is refused.
func (d *decoder) spi(v *ipsec.SPI, n *node) {
	text, ok := d.scalar(n)
	if !ok {
		return
	}
	x, err := ParseSPI(text)
	if err != nil {
		p := d.errorf(n, "%v", err)
		if y, err := strconv.ParseUint(text, 16, 32); err == nil && ipsec.SPI(y) >= ipsec.MinSPI && !strings.ContainsAny(text, "+-_") {
			p.Suggestion = fmt.Sprintf("%#x", y)
		}
		return
	}
	*v = x
}

// ParseSPI reads an SPI: 0x and hexadecimal digits, or the eight digits that
// String prints.
func ParseSPI(text string) (ipsec.SPI, error) {
	digits, prefixed := strings.CutPrefix(text, "0x")
	x, err := strconv.ParseUint(digits, 16, 32)
	if err != nil || strings.ContainsAny(digits, "+-_") || !prefixed && len(digits) != 8 {
		return 0, fmt.Errorf("%q is not an SPI: 0x and hexadecimal digits, or all eight of them", text)
	}
	if ipsec.SPI(x) < ipsec.MinSPI {
		return 0, fmt.Errorf("SPIs below %#x are reserved (RFC 4303, Section 2.1)", uint32(ipsec.MinSPI))
	}
	return ipsec.SPI(x), nil
}

func (d *decoder) address(v *netip.Addr, n *node) {
	text, ok := d.scalar(n)
	if !ok {
		return
	}
	a, err := netip.ParseAddr(text)
	switch {
	case err != nil:
		d.errorf(n, "%q is not an address", text)
	case a.Zone() != "" || a.Is4In6() || a.IsUnspecified() || a.IsMulticast():
		d.errorf(n, "%s cannot be one end of an SA", text)
	default:
		*v = a
	}
}

// keyFile sets *v to the path of a file. A key in its place is refused without
// being shown: the configuration is not the place for it.
func (d *decoder) keyFile(v *string, n *node) {
	text, ok := d.scalar(n)
	if !ok {
		return
	}
	if digits := strings.TrimPrefix(text, "0x"); len(digits) >= 16 && strings.Trim(digits, "0123456789abcdefABCDEF") == "" {
		d.conceal(field{Key: n, Value: n})
		d.errorf(n, "this looks like a key: %s", keysInFiles)
		return
	}
	d.path(v, n)
}

// keysInFiles is said where a key stands in a configuration.
const keysInFiles = "write it to a file that only you can read, and name the file in encryption-key-file or integrity-key-file"

// inlineKeys are the keys under which a key might be written into the
// configuration itself.
func inlineKeys() (out []key[Association]) {
	for _, name := range []string{"key", "encryption-key", "integrity-key", "enc-key", "auth-key"} {
		out = append(out, key[Association]{name: name, never: "a key is not written into the configuration: " + keysInFiles})
	}
	return out
}

// mark sets *v to a mark with its mask, in decimal or with 0x; without a mask all
// bits count.
func (d *decoder) mark(v *ipsec.Mark, n *node) {
	text, ok := d.scalar(n)
	if !ok {
		return
	}
	value, mask, masked := strings.Cut(text, "/")
	if !masked {
		mask = "0xffffffff"
	}
	x, errValue := strconv.ParseUint(value, 0, 32)
	y, errMask := strconv.ParseUint(mask, 0, 32)
	switch {
	case errValue != nil || errMask != nil:
		d.errorf(n, "%q is not a mark, such as 0x2a or 0x2a/0xff", text)
	case x&^y != 0:
		d.errorf(n, "mark %s has bits that its mask leaves out: it would match nothing", text)
	default:
		*v = ipsec.Mark{Value: uint32(x), Mask: uint32(y)}
	}
}
