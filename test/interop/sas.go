package interop

import (
	"bufio"
	"fmt"
	"strconv"
	"strings"
)

// IKESA is an IKE SA as strongSwan lists it, in its words.
type IKESA struct {
	Name                       string
	UniqueID                   int
	Version                    int
	State                      string // "ESTABLISHED"
	Initiator                  bool
	InitiatorSPI, ResponderSPI string // hexadecimal
	LocalHost, RemoteHost      string
	LocalPort, RemotePort      int
	LocalID, RemoteID          string
	// Encryption is "AES_GCM_16-256", Integrity is empty for combined modes.
	Encryption, Integrity, PRF, DH string
	Children                       []ChildSA
}

// ChildSA is a CHILD SA as strongSwan lists it.
type ChildSA struct {
	Name                      string
	UniqueID, ReqID           int
	State                     string // "INSTALLED", "REKEYED"
	Mode                      string // "TUNNEL"
	Protocol                  string // "ESP"
	Encap                     bool
	SPIIn, SPIOut             string // hexadecimal
	Encryption, Integrity, DH string
	ESN                       bool
	BytesIn, PacketsIn        int
	BytesOut, PacketsOut      int
	LocalTS, RemoteTS         []string
}

// Child returns the installed CHILD SA of this name, the youngest of several.
func (sa IKESA) Child(name string) (ChildSA, bool) {
	var found ChildSA
	for _, c := range sa.Children {
		if c.Name == name && c.State == "INSTALLED" && c.UniqueID >= found.UniqueID {
			found = c
		}
	}
	return found, found.Name != ""
}

// node is a section of vici's messages: values, lists and sections, which can
// have the same name several times.
type node struct {
	name   string
	values map[string]string
	lists  map[string][]string
	nodes  []*node
}

func newNode(name string) *node {
	return &node{name: name, values: make(map[string]string), lists: make(map[string][]string)}
}

func (n *node) number(key string) int {
	v, err := strconv.Atoi(n.values[key])
	if err != nil {
		return 0 // strongSwan leaves out what is not known
	}
	return v
}

func (n *node) yes(key string) bool { return n.values[key] == "yes" }

// algorithm joins an algorithm and its key length.
func (n *node) algorithm(alg, size string) string {
	if n.values[size] == "" {
		return n.values[alg]
	}
	return n.values[alg] + "-" + n.values[size]
}

// parsePretty reads what swanctl --pretty prints.
func parsePretty(text string) (*node, error) {
	root := newNode("")
	stack := []*node{root}
	list := ""
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		top := stack[len(stack)-1]
		key, value, isValue := strings.Cut(line, " = ")
		switch {
		case line == "":
		case list != "" && line == "]":
			list = ""
		case list != "":
			top.lists[list] = append(top.lists[list], line)
		case isValue && value == "[":
			list = key
			top.lists[list] = nil
		case isValue:
			top.values[key] = value
		case strings.HasSuffix(line, " ="):
			top.values[strings.TrimSuffix(line, " =")] = ""
		case strings.HasSuffix(line, "{"):
			n := newNode(strings.TrimSpace(strings.TrimSuffix(line, "{")))
			top.nodes = append(top.nodes, n)
			stack = append(stack, n)
		case line == "}" && len(stack) > 1:
			stack = stack[:len(stack)-1]
		default:
			return nil, fmt.Errorf("unexpected line %q", line)
		}
	}
	if len(stack) > 1 || list != "" {
		return nil, fmt.Errorf("section %s is not closed", stack[len(stack)-1].name)
	}
	return root, lines.Err()
}

// parseSAs reads what swanctl --list-sas --pretty prints.
func parseSAs(text string) ([]IKESA, error) {
	root, err := parsePretty(text)
	if err != nil {
		return nil, err
	}
	var sas []IKESA
	for _, event := range root.nodes {
		if event.name != "list-sa event" {
			continue
		}
		for _, n := range event.nodes {
			sas = append(sas, ikeSA(n))
		}
	}
	return sas, nil
}

func ikeSA(n *node) IKESA {
	sa := IKESA{
		Name: n.name, UniqueID: n.number("uniqueid"), Version: n.number("version"), State: n.values["state"],
		Initiator: n.yes("initiator"), InitiatorSPI: n.values["initiator-spi"], ResponderSPI: n.values["responder-spi"],
		LocalHost: n.values["local-host"], RemoteHost: n.values["remote-host"],
		LocalPort: n.number("local-port"), RemotePort: n.number("remote-port"),
		LocalID: n.values["local-id"], RemoteID: n.values["remote-id"],
		Encryption: n.algorithm("encr-alg", "encr-keysize"), Integrity: n.algorithm("integ-alg", "integ-keysize"),
		PRF: n.values["prf-alg"], DH: n.values["dh-group"],
	}
	for _, children := range n.nodes {
		if children.name != "child-sas" {
			continue
		}
		for _, c := range children.nodes {
			sa.Children = append(sa.Children, ChildSA{
				Name: c.values["name"], UniqueID: c.number("uniqueid"), ReqID: c.number("reqid"),
				State: c.values["state"], Mode: c.values["mode"], Protocol: c.values["protocol"], Encap: c.yes("encap"),
				SPIIn: c.values["spi-in"], SPIOut: c.values["spi-out"],
				Encryption: c.algorithm("encr-alg", "encr-keysize"), Integrity: c.algorithm("integ-alg", "integ-keysize"),
				DH: c.values["dh-group"], ESN: c.values["esn"] == "1",
				BytesIn: c.number("bytes-in"), PacketsIn: c.number("packets-in"),
				BytesOut: c.number("bytes-out"), PacketsOut: c.number("packets-out"),
				LocalTS: c.lists["local-ts"], RemoteTS: c.lists["remote-ts"],
			})
		}
	}
	return sa
}
