package app

import (
	"errors"
	"fmt"
	"net"

	"caponier/internal/config"
	"caponier/internal/host"
	"caponier/internal/netio/afpacket"
	"caponier/internal/netio/afxdp"
	"caponier/internal/netio/frame"
	"caponier/internal/netio/nexthop"
)

// openFrames opens the capture of frames that the configuration names; nil where it
// names none. device is the TUN device, which carries what is not captured.
func (a *app) openFrames(device string) (*frame.Hub, error) {
	gw := &a.cfg.Gateway
	if gw.Capture == config.CaptureTUN {
		return nil, nil
	}
	names, err := interfacesOf(gw)
	if err != nil {
		return nil, err
	}
	inner, err := net.InterfaceByName(device)
	if err != nil {
		return nil, fmt.Errorf("capture frames: device %s: %w", device, err)
	}
	capture, err := openCapture(gw.Capture, names, a.workers, a.awake)
	if err != nil {
		return nil, err
	}
	ways, err := nexthop.Open(nexthop.Options{
		Ports: capture.Ports(), Inner: inner.Index, Mark: host.Mark, Logger: a.log.Subsystem("host"),
	})
	if err != nil {
		return nil, errors.Join(err, capture.Close())
	}
	a.captured = names
	return frame.NewHub(capture, ways), nil
}

func openCapture(kind config.Capture, names []string, workers int, apart bool) (frame.Capture, error) {
	if kind == config.CaptureAFXDP {
		c, err := afxdp.Open(names, afxdp.Options{Apart: apart})
		if err != nil {
			return nil, err
		}
		return c, nil
	}
	c, err := afpacket.Open(afpacket.Options{Interfaces: names, Queues: workers, Apart: apart})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// interfacesOf are the interfaces that the configuration names, or all Ethernet
// interfaces that are up and have an address that others can reach.
func interfacesOf(gw *config.Gateway) ([]string, error) {
	for _, name := range gw.Interfaces {
		i, err := net.InterfaceByName(name)
		switch {
		case err != nil:
			return nil, fmt.Errorf("capture frames: there is no interface %q: `ip link` lists them", name)
		case !isEthernet(i):
			return nil, fmt.Errorf("capture frames: %s is not an Ethernet interface: leave it to capture: tun", name)
		}
	}
	if len(gw.Interfaces) > 0 {
		return gw.Interfaces, nil
	}
	list, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("capture frames: %w", err)
	}
	var names []string
	for _, i := range list {
		if i.Flags&net.FlagUp == 0 || !isEthernet(&i) {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			return nil, fmt.Errorf("capture frames: addresses of %s: %w", i.Name, err)
		}
		for _, x := range addrs {
			if n, ok := x.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
				names = append(names, i.Name)
				break
			}
		}
	}
	if len(names) == 0 {
		return nil, errors.New("capture frames: no Ethernet interface is up and has an address: name them with gateway.interfaces, or use capture: tun")
	}
	return names, nil
}

func isEthernet(i *net.Interface) bool {
	return i.Flags&net.FlagLoopback == 0 && len(i.HardwareAddr) == 6
}

// checkCapture says what the system lacks for the capture that gw names. Whether a
// driver can do AF_XDP only shows when frames are taken, which is not tried here.
func checkCapture(gw *config.Gateway) Requirement {
	r := Requirement{Name: "capture " + gw.Capture.String(), For: "gateway"}
	c, err := openCapture(gw.Capture, nil, 1, false)
	if err == nil {
		err = c.Close()
	}
	_, missing := interfacesOf(gw)
	r.err = errors.Join(err, missing)
	return r.settled()
}
