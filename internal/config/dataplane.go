package config

import (
	"slices"
	"strings"
	"time"

	"caponier/internal/ipsec"
)

// maxKernelWindow is the widest window of the Linux kernel (XFRMA_REPLAY_ESN_MAX).
const maxKernelWindow = 4096

// validateDataPlane checks what only one of the data planes has.
func (d *decoder) validateDataPlane() {
	if d.cfg.Gateway.Capture == CaptureTUN && d.set("gateway.interfaces") {
		d.errorf(d.keys["gateway.interfaces"], "interfaces is for capture afpacket and afxdp: with capture tun, routes bring packets from every interface")
	}
	if d.cfg.Gateway.DataPlane != DataPlaneKernel {
		if d.cfg.Gateway.XfrmInterfaces {
			d.errorf(d.keys["gateway.xfrm-interfaces"], "xfrm-interfaces is for dataplane kernel alone")
		}
		return
	}
	for _, k := range []string{"capture", "interfaces", "workers", "latency"} {
		if path := "gateway." + k; d.set(path) {
			d.errorf(d.keys[path], "%s has no meaning with dataplane kernel: the kernel captures and works by itself", k)
		}
		d.cfg.Defaults = slices.DeleteFunc(d.cfg.Defaults, func(x Default) bool { return x.Key == "gateway."+k })
	}
	for _, c := range d.cfg.Connections {
		for _, t := range c.Tunnels {
			d.userspaceOnly("connections."+c.Name+".tunnels."+t.Name, t.ReplayWindow, t.Outer, t.Fit)
		}
	}
}

// maxInterface is the length of the longest name of a network interface (IFNAMSIZ
// of Linux, without the end mark).
const maxInterface = 15

// interfaces reads the names of network interfaces, each once.
func (d *decoder) interfaces(v *[]string, n *node, path string) {
	d.each(n, path, func(item *node, text string) {
		switch {
		case len(text) > maxInterface || strings.ContainsAny(text, "/: \t") || text == "." || text == "..":
			d.errorf(item, "%q is no name of a network interface: 1 to %d characters, no space, slash or colon", text, maxInterface)
		case slices.Contains(*v, text):
			d.errorf(item, "interface %s is named twice", text)
		default:
			*v = append(*v, text)
		}
	})
}

// iptfsKeys say at what rate a tunnel sends.
var iptfsKeys = []key[ipsec.Pace]{
	{
		name: "rate", kind: "bit/s, with k, M or G", required: true, effect: EffectRekey,
		set: func(d *decoder, v *ipsec.Pace, n *node, _ string) { d.rate(&v.Rate, n) },
	},
	{
		name: "packet-size", kind: "number, 400 to 65535", implied: "what the way takes", effect: EffectRekey,
		set: func(d *decoder, v *ipsec.Pace, n *node, _ string) { number(d, &v.Size, n, 400, 65535) },
	},
	{
		name: "dscp", kind: "number, 0 to 63", implied: "0", effect: EffectRekey,
		set: func(d *decoder, v *ipsec.Pace, n *node, _ string) { number(d, &v.DSCP, n, 0, 63) },
	},
	{
		name: "loss-limit", kind: "percent, 1 to 90", implied: "none", effect: EffectRekey,
		set: func(d *decoder, v *ipsec.Pace, n *node, _ string) { number(d, &v.LossLimit, n, 1, 90) },
	},
	{
		name: "loss-time", kind: kindDuration, def: "30s", effect: EffectRekey,
		set: func(d *decoder, v *ipsec.Pace, n *node, _ string) { d.duration(&v.LossTime, n, 5*time.Second) },
	},
}

// rate sets *v to a number of bits in a second.
func (d *decoder) rate(v *ipsec.Rate, n *node) {
	if text, ok := d.scalar(n); ok && v.UnmarshalText([]byte(text)) != nil {
		d.errorf(n, "%q is not a rate from 8k to 100G, such as 10M", text)
	}
}

// validateAggfrag checks that packets of the tunnel can share payloads. A constant
// rate hides nothing where the peer may have the tunnel without it.
func (d *decoder) validateAggfrag(c *Connection, t *Tunnel, path string) {
	if t.Pace.Rate != 0 {
		if !d.set(path) {
			t.Aggfrag = ipsec.AggfragRequired
		} else if t.Aggfrag != ipsec.AggfragRequired {
			d.errorf(d.at(path), "iptfs needs aggfrag: required, which it implies: a peer without it would see the traffic as it is")
			return
		}
		section := strings.TrimSuffix(path, "aggfrag") + "iptfs"
		path = section + ".rate"
		if t.Pace.LossLimit == 0 && d.set(section+".loss-time") {
			d.errorf(d.at(section+".loss-time"), "loss-time says how long more than loss-limit may be lost: set that too")
		}
	}
	switch {
	case t.Aggfrag == ipsec.AggfragOff:
	case c.Version == VersionGM:
		d.errorf(d.at(path), "AGGFRAG mode is negotiated by IKEv2 alone")
	case t.Mode == ipsec.Transport:
		d.errorf(d.at(path), "AGGFRAG mode is for mode: tunnel alone (RFC 9347, Section 5.1)")
	case t.Protocol != ipsec.ESP || t.WithAH:
		d.errorf(d.at(path), "AGGFRAG mode is for protocol: esp alone: AH carries packets one by one")
	case d.cfg.Gateway.DataPlane == DataPlaneKernel:
		d.errorf(d.at(path), "AGGFRAG mode is for dataplane: userspace alone")
	}
}

// userspaceOnly refuses values of a tunnel or an association that the kernel has
// nothing for. What it does by itself may be said.
func (d *decoder) userspaceOnly(path string, window uint32, outer ipsec.Outer, fit ipsec.Fit) {
	refuse := func(key string, is bool, format string, args ...any) {
		if is && d.set(path+"."+key) {
			d.errorf(d.at(path+"."+key), format, args...)
		}
	}
	refuse("replay-window", window > maxKernelWindow, "the kernel's window has at most %d packets", maxKernelWindow)
	refuse("df", outer.DF == ipsec.SetDF, "df: set is for dataplane: userspace: the kernel copies DF or clears it")
	refuse("fragment", fit.Fragment == ipsec.FragmentBefore,
		"fragment: before is for dataplane: userspace: the kernel cuts packets after it has sealed them")
	refuse("mss", fit.MSS != ipsec.MSSOff, "mss: %s is for dataplane: userspace: the kernel leaves the MSS as it is; "+
		"a rule of the firewall may lower it (nft: tcp option maxseg size set rt mtu)", fit.MSS)
}
