package control

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"caponier/internal/config"
	"caponier/internal/ipsec"
	"caponier/internal/secret"
)

// Origin says who made an SA or a policy. The words are stable.
type Origin string

// The origins.
const (
	OriginIKE    Origin = "ike"    // negotiated, or the policy of a tunnel
	OriginFile   Origin = "file"   // it stands in the configuration
	OriginManual Origin = "manual" // added by a command; it goes with the process
)

// Policy is an entry of the SPD, with who made it.
type Policy struct {
	ipsec.Policy
	Origin Origin `json:"origin"`
}

// NewSA is a manually keyed SA that is to be added.
type NewSA struct {
	Name              string
	Values            map[string]string // by the keys of manual.associations
	EncrKey, IntegKey secret.Key
}

// NewPolicy is a manual policy that is to be added.
type NewPolicy struct {
	Name   string
	Values map[string]string // by the keys of manual.policies
}

// The actions of SAChange and PolicyChange are ActionAdded and ActionRemoved.

// SAChange is the result of "sa add", "sa delete" and "sa flush".
type SAChange struct {
	Action   string    `json:"action"`
	Time     time.Time `json:"time"`
	SAs      []SA      `json:"sas"`
	Warnings []string  `json:"warnings,omitempty"`
}

// PolicyChange is the result of "policy add", "policy delete" and "policy flush".
type PolicyChange struct {
	Action   string   `json:"action"`
	Policies []Policy `json:"policies"`
	Warnings []string `json:"warnings,omitempty"`
}

// The positions of the gateway's switch.
const (
	SwitchOn     = "on"
	SwitchOff    = "off"    // no tunnels; what they protected is blocked
	SwitchBypass = "bypass" // no tunnels; what they protected leaves in clear
)

// Switch is the position of the gateway's switch, and since when it has it. It
// is the result of "gateway on" and "gateway off".
type Switch struct {
	Position string    `json:"position"`
	Since    time.Time `json:"since,omitzero"`
	// SAs is how many were taken down, of "gateway off".
	SAs int `json:"sas,omitempty"`
}

// parameters of the commands that add: those of the configuration.
func addParams(what string, list []config.Parameter, help map[string]string) []Param {
	out := []Param{{Name: "name", Arg: "NAME", Required: true, Help: "name of the " + what}}
	for _, p := range list {
		param := Param{Name: p.Name, Help: help[p.Name]}
		if words := strings.Split(p.Kind, " | "); len(words) > 1 && !strings.Contains(p.Kind, ",") {
			param.Words, param.Complete = words, CompleteWord
			param.Help += ": " + strings.Join(words, ", ")
		}
		switch {
		case p.Required:
			param.Help += " (required)"
		case p.Default != "":
			param.Help += " (default " + p.Default + ")"
		}
		out = append(out, param)
	}
	return out
}

// saHelp explains the parameters of "sa add".
var saHelp = map[string]string{
	"direction": "from the peer or to it", "protocol": "protocol of IPsec", "mode": "mode of IPsec",
	"spi":           "SPI: 0x and hexadecimal digits, or all eight of them",
	"local-address": "our end", "remote-address": "the peer's end",
	"encapsulation": "ESP in UDP", "remote-port": "UDP port of the peer",
	"algorithms":          "such as aes256-sha256; for AH, sha256",
	"unsafe-counter-mode": "allow an algorithm that must not be used with manual keys",
	"local":               "packets on our side: selectors with commas in between",
	"remote":              "packets on the peer's side",
	"reqid":               "ties the SA to policies",
	"esn":                 "extended sequence numbers", "replay-window": "packets, of an inbound SA",
	"soft-lifetime": "log a warning after this time", "soft-lifetime-bytes": "log a warning after so many octets",
	"soft-lifetime-packets": "log a warning after so many packets",
	"hard-lifetime":         "remove the SA after this time", "hard-lifetime-bytes": "remove it after so many octets",
	"hard-lifetime-packets": "remove it after so many packets",
	"df":                    "DF bit of the outer header", "dscp": "where the DSCP is copied to", "ecn": "congestion marks cross the tunnel",
	"mss": "largest TCP segment", "fragment": "when packets that do not fit are cut",
	"mark": "mark, or mark/mask, that packets must carry (kernel)", "output-mark": "mark of packets that leave it (kernel)",
	"if-id": "xfrm interface (kernel)", "offload": "network device that does the cryptography (kernel)",
	"cpu": "CPU that it is bound to, from 0 (kernel)",
}

// policyHelp explains the parameters of "policy add".
var policyHelp = map[string]string{
	"action": "what becomes of the packets", "local": "packets on our side: selectors with commas in between",
	"remote": "packets on the peer's side", "priority": "low, normal, high or a number",
	"reqid": "the SAs that protect", "protocol": "what protects", "mode": "mode of the SAs",
	"mark": "mark, or mark/mask, that packets must carry (kernel)", "if-id": "xfrm interface (kernel)",
}

// The parameters that carry keys. On the command line each is the name of a file.
const (
	paramEncrKey  = "encryption-key"
	paramIntegKey = "integrity-key"
)

func manualCommands() []Command {
	force := Param{Name: "force", Type: Bool, Help: "also what IKE or the configuration has made"}
	return []Command{
		saAdd(),
		one(Command{
			Name:  "sa delete",
			Short: "Remove a security association",
			Long: "Removes one SA. Where several have the SPI, --direction, --protocol and --peer\n" +
				"choose. One that IKE has made is refused: caponier disconnect takes the tunnel\n" +
				"down, and caponier rekey replaces its keys. With --force it goes nevertheless,\n" +
				"and IKE deletes it at the peer.",
			Params: append([]Param{{Name: "spi", Arg: "SPI", Required: true, Help: "SPI, as sa list prints it"}},
				append(filterParams("direction", "protocol", "peer"), force)...),
			check: checkFilter,
		}, saDelete),
		one(Command{
			Name:  "sa flush",
			Short: "Remove security associations that were keyed by hand",
			Long: "Removes all manually keyed SAs that the filters choose, or with --all every one of\n" +
				"them. SAs that IKE has made stay, unless --force is given.",
			Params: append(saFilterParams(), Param{Name: "all", Type: Bool, Help: "without a filter: all"}, force),
			check:  checkFilter,
		}, saFlush),
		policyAdd(),
		one(Command{
			Name:  "policy delete",
			Short: "Remove a security policy",
			Long: "Removes a policy that was added by a command. Its traffic is then for the next\n" +
				"policy that matches, or for the system's routing: in clear. One that stands in\n" +
				"the configuration is removed until the next start with --force; that of a tunnel\n" +
				"goes with the tunnel alone.",
			Params: []Param{{Name: "name", Arg: "NAME", Required: true, Help: "name, as policy list prints it"}, force},
		}, policyDelete),
		one(Command{
			Name:  "policy flush",
			Short: "Remove security policies that were added by commands",
			Long: "Removes all policies added by commands that the filters choose, or with --all\n" +
				"every one of them.",
			Params: append(policyFilterParams(), Param{Name: "all", Type: Bool, Help: "without a filter: all"}, force),
			check:  checkPolicyFilter,
		}, policyFlush),
		one(Command{
			Name:  "gateway on",
			Short: "Switch the gateway on",
			Long: "Installs the manually keyed SAs, sets up the tunnels that start by themselves, and\n" +
				"answers peers again.",
		}, func(ctx context.Context, g Gateway, _ Request) (Switch, error) { return g.Switch(ctx, SwitchOn) }),
		one(Command{
			Name:  "gateway off",
			Short: "Switch the gateway off: close all tunnels",
			Long: "Deletes all IKE SAs with their tunnels, removes all manually keyed SAs, and answers\n" +
				"no peer until caponier gateway on. What the policies protect is blocked meanwhile;\n" +
				"with --bypass it leaves in clear. The gateway stays off over restarts; after one,\n" +
				"traffic is blocked in any case.",
			Params: []Param{{Name: "bypass", Type: Bool, Help: "let protected traffic leave in clear"}},
		}, func(ctx context.Context, g Gateway, r Request) (Switch, error) {
			if r.Bool("bypass") {
				return g.Switch(ctx, SwitchBypass)
			}
			return g.Switch(ctx, SwitchOff)
		}),
	}
}

func saAdd() Command {
	list := config.AssociationParameters()
	c := Command{
		Name:  "sa add",
		Short: "Add a security association that is keyed by hand",
		Long: "Adds one direction of an SA. The parameters and their words are those of\n" +
			"manual.associations in the configuration. Keys are never arguments: they come from\n" +
			"files that only their owner can read, or are asked for; where the standard input\n" +
			"is no terminal, they are read from it, one in a line, that for encryption first.\n" +
			"A key is hexadecimal digits; a file may also hold its octets.\n\n" +
			"The SA lives until it is deleted, its hard lifetime ends, or the daemon ends.",
		Params: append(addParams("SA", list, saHelp),
			Param{Name: paramEncrKey, Type: Secret, Help: "file with the key for encryption"},
			Param{Name: paramIntegKey, Type: Secret, Help: "file with the key for integrity"}),
		needs: func(r Request) ([]Need, error) {
			keys, err := config.AssociationKeys(r.String("name"), given(r, list))
			if err != nil {
				return nil, Errorf(CodeUsage, "%v", err)
			}
			var out []Need
			for _, k := range keys {
				out = append(out, Need{
					Param: k.Use + "-key", Prompt: fmt.Sprintf("%s key of %s, %d hexadecimal digits", k.Use, k.Algorithm, 2*k.Octets),
				})
			}
			return out, nil
		},
		check: func(r Request) error {
			_, _, err := config.ParseAssociation(r.String("name"), given(r, list), r.Secret(paramEncrKey), r.Secret(paramIntegKey), config.AnyDataPlane)
			return err
		},
	}
	return one(c, func(ctx context.Context, g Gateway, r Request) (SAChange, error) {
		return g.AddSA(ctx, NewSA{
			Name: r.String("name"), Values: given(r, list),
			EncrKey: r.Secret(paramEncrKey), IntegKey: r.Secret(paramIntegKey),
		})
	})
}

func policyAdd() Command {
	list := config.PolicyParameters()
	return one(Command{
		Name:  "policy add",
		Short: "Add a security policy",
		Long: "Adds a policy for both directions. The parameters and their words are those of\n" +
			"manual.policies in the configuration. It lives until it is deleted or the daemon\n" +
			"ends.",
		Params: addParams("policy", list, policyHelp),
		check: func(r Request) error {
			_, _, err := config.ParsePolicy(r.String("name"), given(r, list), config.AnyDataPlane)
			return err
		},
	}, func(ctx context.Context, g Gateway, r Request) (PolicyChange, error) {
		return g.AddPolicy(ctx, NewPolicy{Name: r.String("name"), Values: given(r, list)})
	})
}

// given returns the parameters that have a value.
func given(r Request, list []config.Parameter) map[string]string {
	out := make(map[string]string)
	for _, p := range list {
		if v, ok := r.values[p.Name].(string); ok {
			out[p.Name] = v
		}
	}
	return out
}

func saDelete(ctx context.Context, g Gateway, r Request) (SAChange, error) {
	match, err := saFilter(r)
	if err != nil {
		return SAChange{}, err
	}
	found, err := listSAs(ctx, g, match)
	switch {
	case err != nil:
		return SAChange{}, err
	case len(found) == 0:
		return SAChange{}, &Error{
			Code: CodeNotFound, Message: fmt.Sprintf("there is no SA with SPI %s", r.String("spi")), Cure: "caponier sa list shows all",
		}
	case len(found) > 1:
		var which []string
		for _, sa := range found {
			which = append(which, fmt.Sprintf("%s %s %s", sa.ID.Direction, sa.ID.Protocol, sa.Remote.Addr()))
		}
		return SAChange{}, &Error{
			Code: CodeAmbiguous, Message: fmt.Sprintf("%d SAs have SPI %s: %s", len(found), r.String("spi"), strings.Join(which, "; ")),
			Cure: "choose with --direction, --protocol or --peer",
		}
	case found[0].Origin == OriginIKE && !r.Bool("force"):
		name := tunnelName(found[0].Connection, found[0].Tunnel)
		return SAChange{}, &Error{
			Code: CodeRefused, Message: fmt.Sprintf("IKE has made this SA, for %s", name),
			Cure: fmt.Sprintf("caponier disconnect %s, or caponier rekey %[1]s; --force deletes it nevertheless, here and at the peer", name),
		}
	}
	return removeSAs(ctx, g, found)
}

func saFlush(ctx context.Context, g Gateway, r Request) (SAChange, error) {
	match, err := saFilter(r)
	if err != nil {
		return SAChange{}, err
	}
	if err := chosen(r, "sa flush"); err != nil {
		return SAChange{}, err
	}
	found, err := listSAs(ctx, g, match)
	if err != nil {
		return SAChange{}, err
	}
	if !r.Bool("force") {
		found = slices.DeleteFunc(found, func(sa SA) bool { return sa.Origin == OriginIKE })
	}
	return removeSAs(ctx, g, found)
}

func removeSAs(ctx context.Context, g Gateway, list []SA) (SAChange, error) {
	ids := make([]ipsec.SAID, len(list))
	for i := range list {
		ids[i] = list[i].ID
	}
	out := SAChange{Action: ActionRemoved, Time: time.Now(), SAs: present(list)}
	if len(ids) == 0 {
		return out, nil
	}
	return out, g.DeleteSAs(ctx, ids)
}

// chosen refuses to flush everything by mistake.
func chosen(r Request, command string) error {
	filters := 0
	for name := range r.values {
		if name != "all" && name != "force" {
			filters++
		}
	}
	switch {
	case filters == 0 && !r.Bool("all"):
		return &Error{Code: CodeUsage, Message: command + " needs a filter, or --all", Cure: "caponier " + command + " --help"}
	case filters > 0 && r.Bool("all"):
		return &Error{Code: CodeUsage, Message: "--all contradicts the filters", Cure: "leave one of them out"}
	default:
		return nil
	}
}

func policyDelete(ctx context.Context, g Gateway, r Request) (PolicyChange, error) {
	all, err := g.Policies(ctx)
	if err != nil {
		return PolicyChange{}, err
	}
	name := r.String("name")
	i := slices.IndexFunc(all, func(p Policy) bool { return p.Name == name })
	if i < 0 {
		return PolicyChange{}, &Error{
			Code: CodeNotFound, Message: fmt.Sprintf("there is no policy %q", name), Cure: "caponier policy list shows all",
		}
	}
	switch p := all[i]; {
	case p.Origin == OriginIKE:
		return PolicyChange{}, &Error{
			Code: CodeRefused, Message: fmt.Sprintf("policy %s belongs to a tunnel", name),
			Cure: "remove the tunnel from the configuration and caponier reload",
		}
	case p.Origin == OriginFile && !r.Bool("force"):
		return PolicyChange{}, &Error{
			Code: CodeRefused, Message: fmt.Sprintf("policy %s stands in the configuration", name),
			Cure: "remove it there and caponier reload; --force removes it until the next start",
		}
	}
	return removePolicies(ctx, g, all[i:i+1])
}

func policyFlush(ctx context.Context, g Gateway, r Request) (PolicyChange, error) {
	match, err := policyFilter(r)
	if err != nil {
		return PolicyChange{}, err
	}
	if err := chosen(r, "policy flush"); err != nil {
		return PolicyChange{}, err
	}
	all, err := g.Policies(ctx)
	if err != nil {
		return PolicyChange{}, err
	}
	return removePolicies(ctx, g, slices.DeleteFunc(all, func(p Policy) bool {
		return p.Origin == OriginIKE || p.Origin == OriginFile && !r.Bool("force") || !match(&p)
	}))
}

func removePolicies(ctx context.Context, g Gateway, list []Policy) (PolicyChange, error) {
	names := make([]string, len(list))
	for i := range list {
		names[i] = list[i].Name
	}
	out := PolicyChange{Action: ActionRemoved, Policies: present(list)}
	if len(names) == 0 {
		return out, nil
	}
	return out, g.DeletePolicies(ctx, names)
}
