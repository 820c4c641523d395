package config

import (
	"fmt"
	"slices"
)

// maxKernelWindow is the widest anti-replay window of the Linux kernel
// (XFRMA_REPLAY_ESN_MAX), in packets.
const maxKernelWindow = 4096

// validateDataPlane checks what only one of the data planes has.
func (d *decoder) validateDataPlane() {
	if d.cfg.Gateway.DataPlane != DataPlaneKernel {
		if d.cfg.Gateway.XfrmInterfaces {
			d.errorf(d.keys["gateway.xfrm-interfaces"], "xfrm-interfaces is for dataplane kernel alone")
		}
		return
	}
	for _, k := range []string{"gateway.capture", "gateway.workers"} {
		if d.set(k) {
			d.errorf(d.keys[k], "%s has no meaning with dataplane kernel: the kernel captures and works by itself", k[len("gateway."):])
		}
		d.cfg.Defaults = slices.DeleteFunc(d.cfg.Defaults, func(x Default) bool { return x.Key == k })
	}
	for _, c := range d.cfg.Connections {
		for _, t := range c.Tunnels {
			if t.ReplayWindow > maxKernelWindow {
				d.errorf(d.at(fmt.Sprintf("connections.%s.tunnels.%s.replay-window", c.Name, t.Name)),
					"the kernel's window has at most %d packets", maxKernelWindow)
			}
		}
	}
}
