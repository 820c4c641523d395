package config

import "slices"

// maxKernelWindow is the widest window of the Linux kernel (XFRMA_REPLAY_ESN_MAX).
const maxKernelWindow = 4096

// validateDataPlane checks what only one of the data planes has.
func (d *decoder) validateDataPlane() {
	if d.cfg.Gateway.DataPlane != DataPlaneKernel {
		if d.cfg.Gateway.XfrmInterfaces {
			d.errorf(d.keys["gateway.xfrm-interfaces"], "xfrm-interfaces is for dataplane kernel alone")
		}
		return
	}
	for _, k := range []string{"capture", "workers"} {
		if path := "gateway." + k; d.set(path) {
			d.errorf(d.keys[path], "%s has no meaning with dataplane kernel: the kernel captures and works by itself", k)
		}
		d.cfg.Defaults = slices.DeleteFunc(d.cfg.Defaults, func(x Default) bool { return x.Key == "gateway."+k })
	}
	for _, c := range d.cfg.Connections {
		for _, t := range c.Tunnels {
			if n := d.at("connections." + c.Name + ".tunnels." + t.Name + ".replay-window"); t.ReplayWindow > maxKernelWindow {
				d.errorf(n, "the kernel's window has at most %d packets", maxKernelWindow)
			}
		}
	}
}
