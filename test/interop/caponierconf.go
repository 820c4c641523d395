package interop

import (
	"encoding/json"
	"os"
	"path/filepath"
)

// CaponierConfig is caponier's configuration. Its words are those of
// docs/configuration.md.
type CaponierConfig struct {
	Connections map[string]Peer
	// PSK is the pre-shared key in the file PSKFile.
	PSK string
	// DataPlane is the word for it; empty for the default.
	DataPlane string
	// XfrmInterfaces gives each connection one, on the kernel's data plane.
	XfrmInterfaces bool
}

// PSKFile is the path for Party.PSKFile.
const PSKFile = "psk"

// Names of files in a caponier's directory.
const (
	configFile    = "caponier.yaml"
	controlSocket = "control"
)

// Peer is a connection.
type Peer struct {
	Local         Party             `json:"local"`
	Remote        Party             `json:"remote"`
	Proposals     []string          `json:"proposals,omitempty"`
	Encapsulation string            `json:"encapsulation,omitempty"`
	FragmentSize  int               `json:"fragment-size,omitempty"`
	DPD           string            `json:"dpd,omitempty"`
	Lifetime      string            `json:"lifetime,omitempty"`
	Tunnels       map[string]Tunnel `json:"tunnels"`
}

// Party is one end of a connection.
type Party struct {
	Address []string `json:"address,omitempty"`
	ID      string   `json:"id,omitempty"`
	Auth    string   `json:"auth,omitempty"`
	PSKFile string   `json:"psk-file,omitempty"`
	Cert    string   `json:"cert,omitempty"`
	Key     string   `json:"key,omitempty"`
	CA      string   `json:"ca,omitempty"`

	Signature string `json:"signature,omitempty"`
}

// Tunnel is a tunnel of a Peer.
type Tunnel struct {
	Mode      string   `json:"mode,omitempty"`
	Protocol  string   `json:"protocol,omitempty"`
	Local     []string `json:"local"`
	Remote    []string `json:"remote"`
	Proposals []string `json:"proposals,omitempty"`
	Start     string   `json:"start,omitempty"`
	Lifetime  string   `json:"lifetime,omitempty"`
	Aggfrag   string   `json:"aggfrag,omitempty"`
	IPTFS     *IPTFS   `json:"iptfs,omitempty"`
}

// IPTFS is the constant rate of a Tunnel.
type IPTFS struct {
	Rate       string `json:"rate"`
	PacketSize int    `json:"packet-size,omitempty"`
	LossLimit  int    `json:"loss-limit,omitempty"`
	LossTime   string `json:"loss-time,omitempty"`
}

// write writes the files of c. JSON is YAML too.
func (c CaponierConfig) write(dir string) error {
	gateway := map[string]any{"state": "state", "control": controlSocket, "log": map[string]string{"level": "debug"}}
	if c.DataPlane != "" {
		gateway["dataplane"] = c.DataPlane
	}
	if c.XfrmInterfaces {
		gateway["xfrm-interfaces"] = "yes"
	}
	conf, err := json.MarshalIndent(map[string]any{"gateway": gateway, "connections": c.Connections}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, PSKFile), []byte(c.PSK), 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, configFile), conf, 0o600)
}
