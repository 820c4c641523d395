package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"

	"caponier/internal/ipsec"
	"caponier/internal/lab/netns"
)

// gateway is an end that is keyed by hand.
type gateway interface {
	// set replaces all that was set before. Where the gateway has no such
	// algorithm, the error says so.
	set(policies []ipsec.Policy, sas []ipsec.SA) error
	// tell says what helps to find out why nothing arrives.
	tell() string
}

// ipXfrm is the kernel, told what to do by ip-xfrm(8).
type ipXfrm struct{ in netns.NS }

func (g ipXfrm) set(policies []ipsec.Policy, sas []ipsec.SA) error {
	lines := []string{"xfrm policy flush", "xfrm state flush"}
	for i := range sas {
		line, err := stateLine(&sas[i])
		if err != nil {
			return err
		}
		lines = append(lines, line)
	}
	for i := range policies {
		lines = append(lines, policyLines(&policies[i], sas)...)
	}
	return g.batch(lines)
}

// batch runs the lines on standard input: none of them may be seen by others
// who list processes.
func (g ipXfrm) batch(lines []string) error {
	cmd := g.in.Command(context.Background(), "ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Exited() {
			first, _, _ := strings.Cut(strings.TrimSpace(string(bytes.TrimPrefix(out, []byte("Error: ")))), "\n")
			return errors.New(strings.TrimSuffix(strings.TrimPrefix(first, "RTNETLINK answers: "), "."))
		}
		return err
	}
	return nil
}

func (g ipXfrm) tell() string {
	var all strings.Builder
	for _, what := range []string{"state"} {
		out, _ := g.in.Run(context.Background(), "ip", "-s", "xfrm", what)
		all.WriteString(out)
	}
	out, _ := g.in.Run(context.Background(), "grep", "[1-9]$", "/proc/net/xfrm_stat")
	all.WriteString(out)
	return all.String()
}

func stateLine(sa *ipsec.SA) (string, error) {
	from, to := sa.Local.Addr(), sa.Remote.Addr()
	if sa.Direction == ipsec.In {
		from, to = to, from
	}
	algorithms, err := algorithmWords(sa)
	if err != nil {
		return "", err
	}
	line := fmt.Sprintf("xfrm state add src %s dst %s proto %s spi 0x%s reqid %d mode %s %s", from, to, sa.Protocol, sa.SPI, sa.ReqID, sa.Mode, algorithms)
	var flags []string
	if sa.Mode == ipsec.Tunnel {
		flags = append(flags, "af-unspec") // both families inside
	}
	if sa.Protocol == ipsec.AH && from.Is4() {
		flags = append(flags, "align4") // RFC 4302, Section 3.3.3.2.1, which is not the default
	}
	if sa.ESN {
		flags = append(flags, "esn")
	}
	if len(flags) > 0 {
		line += " flag " + strings.Join(flags, " flag ")
	}
	line += " replay-window 32"
	if sa.Encap {
		line += fmt.Sprintf(" encap espinudp %d %d 0.0.0.0", sa.Local.Port(), sa.Remote.Port())
	}
	return line, nil
}

// policyLines are the policies for the SAs: each template is one, from the
// inside to the outside.
func policyLines(p *ipsec.Policy, sas []ipsec.SA) []string {
	var lines []string
	for _, local := range p.Local {
		for _, remote := range p.Remote {
			if local.Is4() != remote.Is4() {
				continue
			}
			for _, dir := range []string{"out", "in", "fwd"} {
				if dir == "fwd" && p.Mode == ipsec.Transport {
					continue
				}
				src, dst, want := local, remote, ipsec.Out
				if dir != "out" {
					src, dst, want = remote, local, ipsec.In
				}
				line := fmt.Sprintf("xfrm policy add src %s dst %s", src.Prefixes()[0], dst.Prefixes()[0])
				if src.Protocol != 0 {
					line += fmt.Sprintf(" proto %d sport %d dport %d", src.Protocol, src.FirstPort, dst.FirstPort)
				}
				line += " dir " + dir
				for i := range sas {
					sa := &sas[i]
					if sa.Direction != want {
						continue
					}
					from, to := sa.Local.Addr(), sa.Remote.Addr()
					if want == ipsec.In {
						from, to = to, from
					}
					line += fmt.Sprintf(" tmpl src %s dst %s proto %s reqid %d mode %s", from, to, sa.Protocol, p.ReqID, sa.Mode)
				}
				lines = append(lines, line)
			}
		}
	}
	return lines
}

// The kernel's words for algorithms, with the ICV's length in bits.
var (
	aeadWords = map[uint16]struct {
		name string
		icv  int
	}{
		ipsec.EncrAESGCM8: {"rfc4106(gcm(aes))", 64}, ipsec.EncrAESGCM12: {"rfc4106(gcm(aes))", 96}, ipsec.EncrAESGCM16: {"rfc4106(gcm(aes))", 128},
		ipsec.EncrAESCCM8: {"rfc4309(ccm(aes))", 64}, ipsec.EncrAESCCM12: {"rfc4309(ccm(aes))", 96}, ipsec.EncrAESCCM16: {"rfc4309(ccm(aes))", 128},
		ipsec.EncrNullAESGMAC: {"rfc4543(gcm(aes))", 128}, ipsec.EncrChaCha20Poly1305: {"rfc7539esp(chacha20,poly1305)", 128},
		ipsec.EncrSM4GCM16: {"rfc4106(gcm(sm4))", 128},
	}
	cipherWords = map[uint16]string{
		ipsec.EncrNull: "ecb(cipher_null)", ipsec.EncrAESCBC: "cbc(aes)", ipsec.EncrAESCTR: "rfc3686(ctr(aes))",
		ipsec.EncrDES: "cbc(des)", ipsec.Encr3DES: "cbc(des3_ede)", ipsec.EncrSM4CBC: "cbc(sm4)",
	}
	macWords = map[uint16]struct {
		name string
		icv  int
	}{
		ipsec.IntegHMACMD596: {"hmac(md5)", 96}, ipsec.IntegHMACSHA196: {"hmac(sha1)", 96},
		ipsec.IntegAESXCBC96: {"xcbc(aes)", 96}, ipsec.IntegAESCMAC96: {"cmac(aes)", 96},
		ipsec.IntegHMACSHA256128: {"hmac(sha256)", 128}, ipsec.IntegHMACSHA384192: {"hmac(sha384)", 192}, ipsec.IntegHMACSHA512256: {"hmac(sha512)", 256},
		ipsec.IntegHMACSM3: {"hmac(sm3)", 256}, ipsec.IntegHMACSM3128: {"hmac(sm3)", 128}, ipsec.IntegHMACSM396: {"hmac(sm3)", 96},
	}
)

func algorithmWords(sa *ipsec.SA) (string, error) {
	encrKey, integKey := fmt.Sprintf("0x%x", sa.EncrKey.Bytes()), fmt.Sprintf("0x%x", sa.IntegKey.Bytes())
	mac, ok := macWords[sa.Integ.ID]
	macLine := fmt.Sprintf("auth-trunc %s %s %d", mac.name, integKey, mac.icv)
	switch {
	case sa.Protocol == ipsec.AH && ok:
		return macLine, nil
	case sa.Protocol == ipsec.AH:
		return "", fmt.Errorf("no word for integrity %d", sa.Integ.ID)
	}
	if aead, ok := aeadWords[sa.Encr.ID]; ok {
		return fmt.Sprintf("aead %s %s %d", aead.name, encrKey, aead.icv), nil
	}
	cipher, known := cipherWords[sa.Encr.ID]
	if !known || !ok {
		return "", fmt.Errorf("no word for encryption %d with integrity %d", sa.Encr.ID, sa.Integ.ID)
	}
	if encrKey == "0x" {
		encrKey = `""`
	}
	return fmt.Sprintf("enc %s %s %s", cipher, encrKey, macLine), nil
}
