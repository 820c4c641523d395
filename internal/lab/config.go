package lab

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"text/template"
)

// The configurations are what an operator would write. The customers ask for
// the whole cloud LAN, because their gateways are in their hands; the cloud
// gives each only its own server. GM/T 0022 does not narrow: there a customer
// asks for its server alone, and drops the rest by itself.
var (
	cloudConfig = template.Must(template.New("cloud").Parse(`# The cloud gateway: one connection for each customer.
gateway:
  name: cloudgw
  state: state-cloudgw
  control: cloudgw.sock
  dataplane: {{.DataPlane}}
{{- if .Capture}}
  capture: {{.Capture}}
{{- end}}
connections:
{{- range .Customers}}
  {{.Name}}:
{{- if .GM}}
    version: gm
    local:
      address: {{$.CloudOutside}}
      sign-cert: pki/cloudgw-sign.pem
      sign-key: pki/cloudgw-sign.key
      encrypt-cert: pki/cloudgw-encrypt.pem
      encrypt-key: pki/cloudgw-encrypt.key
    remote:
      address: {{.Outside}}
      id: "{{.ID}}"
      ca: pki/rootca.pem
      pin: pki/{{.Name}}-sign.pem
{{- else}}
    local:
      address: {{$.CloudOutside}}
      id: "{{$.CloudID}}"
      auth: cert
      cert: pki/cloudgw.pem
      key: pki/cloudgw.key
    remote:
      address: {{.Outside}}
      id: "{{.ID}}"
      auth: cert
      ca: pki/rootca.pem
      pin: pki/{{.Name}}.pem
    proposals: [aes256gcm16-prfsha512-x25519]
{{- end}}
    tunnels:
      lan:
        local: [{{.Server}}/32]
        remote: [{{.LAN}}]
        proposals: [{{.Proposal}}]
        start: trap
{{- end}}
policies:
{{- range .Customers}}
  - { name: {{.Name}}-nothing-else, local: {{$.CloudLAN}}, remote: {{.LAN}}, action: discard, priority: low }
{{- end}}
`))

	customerConfig = template.Must(template.New("customer").Parse(`# A customer's gateway: its LAN to the cloud.
gateway:
  name: {{.Name}}
  state: state-{{.Name}}
  control: {{.Name}}.sock
  dataplane: {{.DataPlane}}
{{- if .Capture}}
  capture: {{.Capture}}
{{- end}}
connections:
  cloud:
{{- if .GM}}
    version: gm
    local:
      address: {{.Outside}}
      sign-cert: pki/{{.Name}}-sign.pem
      sign-key: pki/{{.Name}}-sign.key
      encrypt-cert: pki/{{.Name}}-encrypt.pem
      encrypt-key: pki/{{.Name}}-encrypt.key
    remote:
      address: {{.CloudOutside}}
      id: "{{.CloudID}}"
      ca: pki/rootca.pem
{{- else}}
    local:
      address: {{.Outside}}
      id: "{{.ID}}"
      auth: cert
      cert: pki/{{.Name}}.pem
      key: pki/{{.Name}}.key
    remote:
      address: {{.CloudOutside}}
      id: "{{.CloudID}}"
      auth: cert
      ca: pki/rootca.pem
    proposals: [aes256gcm16-prfsha512-x25519]
{{- end}}
    dpd: 5s
    tunnels:
      lan:
        local: [{{.LAN}}]
        remote: [{{if .GM}}{{.Server}}/32{{else}}{{.CloudLAN}}{{end}}]
        proposals: [{{.Proposal}}]
        start: trap
{{- if .GM}}
policies:
  - { name: nothing-else, local: {{.LAN}}, remote: {{.CloudLAN}}, action: discard, priority: low }
{{- end}}
`))
)

// configPath is where the configuration of a gateway stands.
func configPath(dir, gateway string) string { return filepath.Join(dir, gateway+".yaml") }

// socketPath is the control socket that the configurations name.
func socketPath(dir, gateway string) string { return filepath.Join(dir, gateway+".sock") }

// writeConfigs writes the configuration of every gateway to dir.
func writeConfigs(dir string, o Options) error {
	type party struct {
		Name, ID, Outside, LAN, Server, CloudOutside, CloudID, CloudLAN, DataPlane, Capture, Proposal string

		GM bool
	}
	common := party{DataPlane: o.DataPlane, Capture: o.Capture, GM: o.GM, Proposal: "aes256gcm16-x25519", CloudOutside: cloudOutside.String(), CloudID: subject(cloudGW), CloudLAN: cloudLAN.String()}
	if o.GM {
		common.Proposal = "sm4cbc-sm3"
	}
	var parties []party
	for _, c := range customers {
		p := common
		p.Name, p.ID = c.gatewayName(), subject(c.gatewayName())
		p.Outside, p.LAN, p.Server = c.Outside.String(), c.LAN.String(), c.Server.String()
		parties = append(parties, p)
		if err := render(configPath(dir, p.Name), customerConfig, p); err != nil {
			return err
		}
	}
	return render(configPath(dir, cloudGW), cloudConfig, struct {
		party
		Customers []party
	}{common, parties})
}

func render(path string, t *template.Template, data any) error {
	var b bytes.Buffer
	if err := t.Execute(&b, data); err != nil {
		return fmt.Errorf("configuration %s: %w", t.Name(), err)
	}
	return os.WriteFile(path, b.Bytes(), 0o600)
}
