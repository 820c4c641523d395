package diagnose

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"caponier/internal/cert"
	"caponier/internal/control"
	"caponier/internal/dn"
	"caponier/internal/ike/message"
	"caponier/internal/ike/v2/conf"
	"caponier/internal/ike/v2/rules"
	"caponier/internal/pki"
)

// authentication explains why one end did not believe the other.
func (x *explainer) authentication() {
	e := &x.a.Evidence
	if e.ByPeer {
		x.identities()
		x.refusedByPeer()
		return
	}
	x.f.RefusedBy = control.Here
	if x.c == nil {
		x.choose(x.misfit)
		x.identities()
		if x.c != nil {
			x.noneFits()
		}
		return
	}
	x.identities()
	certError, isCert := as[*pki.Error](x.a.Err)
	switch {
	case isCert:
		x.certificate(certError)
	case e.Method != 0 && (e.Method == message.AuthSharedKey) != (x.c.Remote.Auth == conf.AuthPSK):
		x.method()
	case !x.c.Remote.ID.Permits(x.a.RemoteID):
		x.wrongPeer()
	case e.Method == message.AuthSharedKey:
		x.psk()
	case errors.Is(x.a.Err, conf.ErrSHA1):
		x.f.Code = CodeSignature
		x.peer("let it sign with SHA-256 or better (RFC 7427)")
		x.here("set %s to always, if it cannot", x.key("remote.sha1"))
	case e.Method != 0:
		x.f.Code = CodeSignature
		x.peer("give it the private key that belongs to its certificate, or a signature method of RFC 7427 with SHA-256 or better")
	}
}

// misfit counts what keeps a candidate from being the peer's.
func (x *explainer) misfit(c *conf.Connection) int {
	n := 0
	if !c.Remote.ID.Permits(x.a.RemoteID) {
		n += 2
	}
	if !x.asked(c) {
		n += 2
	}
	if (x.a.Evidence.Method == message.AuthSharedKey) != (c.Remote.Auth == conf.AuthPSK) {
		n++
	}
	return n
}

// asked reports whether the peer asks for who we are in c.
func (x *explainer) asked(c *conf.Connection) bool {
	local, err := c.LocalIdentity(x.a.Local.Addr())
	asked := x.a.Evidence.Asked
	return err == nil && (asked == rules.Identity{} || asked.Equals(local))
}

// noneFits explains that no connection is for the peer; x.c is the nearest.
func (x *explainer) noneFits() {
	switch {
	case !x.c.Remote.ID.Permits(x.a.RemoteID):
		x.wrongPeer()
	case !x.asked(x.c):
		x.f.Code = CodeIdentity
		x.f.Cause = fmt.Sprintf("the peer asks for %s, and this gateway is %s", x.a.Evidence.Asked, x.f.Ours.ID)
		x.here("set %s to %q", x.key("local.id"), x.a.Evidence.Asked)
		x.peer("expect %q as our identity", x.f.Ours.ID)
	case x.f.Theirs.Auth != authWord(x.c.Remote.Auth):
		x.method()
	default:
		x.f.Cause = fmt.Sprintf("connection %s fits the peer, but does not allow the algorithms that were agreed on for another one with these addresses", x.c.Name)
		x.here("make %s the same as those of the other connections with these addresses", x.key("proposals"))
	}
	x.f.Nearest = "connection " + x.c.Name
}

func (x *explainer) wrongPeer() {
	x.f.Code = CodeIdentity
	x.f.Cause = fmt.Sprintf("the peer is %s, and connection %s is for %s", x.a.RemoteID, x.c.Name, x.c.Remote.ID)
	// Nobody has proved the name yet.
	x.here("set %s to %q, if that is the peer you mean", x.key("remote.id"), x.a.RemoteID)
	own := "set its own identity to %q"
	if x.c.Remote.ID.IsPattern() {
		own = "set its own identity to one that fits %q"
	}
	x.peer(own, x.c.Remote.ID)
}

func (x *explainer) method() {
	x.f.Code = CodeMethod
	theirs, ours := x.f.Theirs.Auth, authWord(x.c.Remote.Auth)
	x.f.Cause = fmt.Sprintf("the peer authenticates by %s, and the connection asks for %s", theirs, ours)
	x.here("set %s to %s", x.key("remote.auth"), theirs)
	x.peer("authenticate by %s", map[string]string{"psk": "pre-shared key", "cert": "certificate"}[ours])
}

func (x *explainer) psk() {
	x.f.Code = CodePSK
	x.f.Cause = fmt.Sprintf("the pre-shared keys of both ends differ: %s has another than ours for it, or takes one that is not for %s",
		x.a.RemoteID, x.a.LocalID)
	x.here("write the peer's key into the file of %s", x.key("remote.psk-file"))
	x.peer("write our key where it keeps the one for %s and %s", x.a.RemoteID, x.a.LocalID)
}

// certificate explains why the peer's certificates were refused.
func (x *explainer) certificate(e *pki.Error) {
	x.f.Code, x.f.Cause = string(e.Code), e.Error()
	switch e.Code {
	case pki.CodeExpired, pki.CodeNotYetValid:
		if x.clock() {
			return
		}
		if e.Code == pki.CodeExpired {
			x.peer("renew the certificate of %s", e.Subject)
			x.here("set the clock, if it is not %s UTC", x.a.When.UTC().Format(minute))
			return
		}
		x.here("set the clock, if it is not %s UTC", x.a.When.UTC().Format(minute))
		x.peer("reissue the certificate of %s, whose issuer's clock was ahead", e.Subject)
	case pki.CodeUnknownCA:
		issuer := "its issuer"
		if n := len(x.f.Theirs.Certificates); n > 0 {
			issuer = x.f.Theirs.Certificates[n-1].Issuer
		}
		x.here("add the certificate of %s to %s, if you trust it", issuer, x.key("remote.ca"))
		x.peer("use a certificate of the CA in %s, and send its intermediates", x.key("remote.ca"))
	case pki.CodePinMismatch:
		x.here("if the peer has renewed its certificate, put the new one at %s", x.key("remote.pin"))
		x.peer("use the certificate that is pinned here")
	case pki.CodeIdentityMismatch:
		id := x.speaksFor()
		if id != "" {
			x.here("set %s to %q, if that is the peer you mean", x.key("remote.id"), id)
			x.peer("set its own identity to %q, or reissue its certificate with the name %s", id, x.a.RemoteID)
			return
		}
		x.peer("%s", e.Cure())
	case pki.CodeAnchorAsPeer:
		x.peer("%s", e.Cure())
	default:
		x.peer("%s", e.Cure())
	}
}

const minute = "2006-01-02 15:04"

// clock reports whether the peer's certificate is refused for the time while our
// own is not valid by it either: then the clock is wrong, and not the peer.
func (x *explainer) clock() bool {
	if x.c.Local.Auth != conf.AuthCert || len(x.f.Ours.Certificates) == 0 || len(x.f.Theirs.Certificates) == 0 {
		return false
	}
	own, theirs, now := x.f.Ours.Certificates[0], x.f.Theirs.Certificates[0], x.a.When
	early := now.Before(own.NotBefore) && now.Before(theirs.NotBefore)
	late := now.After(own.NotAfter) && now.After(theirs.NotAfter)
	if !early && !late {
		return false
	}
	x.f.Code = CodeClock
	when := "not valid yet"
	if late {
		when = "expired"
	}
	x.f.Cause = fmt.Sprintf("by this gateway's clock, %s UTC, the certificates of both ends are %s", now.UTC().Format(minute), when)
	x.here("set the clock")
	if late {
		x.here("renew the certificates of both ends, if the clock is right")
	}
	return true
}

// speaksFor is an identity that the peer's certificate does speak for.
func (x *explainer) speaksFor() string {
	if len(x.f.Theirs.Certificates) == 0 {
		return ""
	}
	leaf := x.f.Theirs.Certificates[0]
	if x.a.RemoteID.Kind != message.IDDERASN1DN && len(leaf.Names) > 0 {
		return leaf.Names[0]
	}
	return leaf.Subject
}

// refusedByPeer explains AUTHENTICATION_FAILED. The peer does not say why (RFC
// 7296, Section 2.21.2): what can be seen from here is said.
func (x *explainer) refusedByPeer() {
	x.f.Code = CodeRefused
	if x.c == nil {
		return
	}
	x.f.Cause = fmt.Sprintf("the peer refused our authentication as %s, and does not say why", x.f.Ours.ID)
	if x.c.Local.Auth == conf.AuthPSK {
		x.peer("its log, or its caponier why, says what it refused: most likely its pre-shared key is another than the one of %s, or it has none for %s",
			x.key("local.psk-file"), x.f.Ours.ID)
		return
	}
	if len(x.f.Ours.Certificates) > 0 {
		own, now := x.f.Ours.Certificates[0], x.a.When
		switch {
		case now.After(own.NotAfter):
			x.f.Cause += "; our certificate has expired"
			x.here("renew %s", x.key("local.cert"))
		case now.Before(own.NotBefore):
			x.f.Cause += "; our certificate is not valid yet by our clock"
			x.here("set the clock, or renew %s", x.key("local.cert"))
		case !x.ownIdentity():
			x.f.Cause += "; our certificate does not speak for it"
			x.here("set %s to %q, or leave it out", x.key("local.id"), own.Subject)
		}
	}
	x.peer("its log, or its caponier why, says what it refused: it must trust the issuer of our certificate and expect %s", x.f.Ours.ID)
}

// ownIdentity reports whether our certificate has our identity among its names.
func (x *explainer) ownIdentity() bool {
	own := x.f.Ours.Certificates[0]
	if x.a.LocalID.Kind == message.IDDERASN1DN || x.a.LocalID == (rules.Identity{}) {
		return own.Subject == x.f.Ours.ID
	}
	for _, n := range own.Names {
		if strings.EqualFold(n, x.f.Ours.ID) {
			return true
		}
	}
	return x.a.LocalID.Kind == message.IDKeyID // whoever pins it may take it
}

// maxDescribed bounds the certificates of a finding, and nameLimit their names.
const (
	maxDescribed = pki.MaxChain
	nameLimit    = 256
)

// describeCertificates says what is in the certificates that can be read.
func describeCertificates(chain [][]byte) []control.Certificate {
	var out []control.Certificate
	for _, der := range chain[:min(len(chain), maxDescribed)] {
		if len(der) > pki.MaxCertificate {
			continue
		}
		c, err := cert.Parse(der)
		if err != nil {
			continue
		}
		d := control.Certificate{
			Subject: cut(dn.FormatDN(c.RawSubject), nameLimit), Issuer: cut(dn.FormatDN(c.RawIssuer), nameLimit),
			NotBefore: c.NotBefore, NotAfter: c.NotAfter,
		}
		for _, n := range c.DNSNames {
			d.Names = append(d.Names, cut(n, nameLimit))
		}
		for _, n := range c.EmailAddresses {
			d.Names = append(d.Names, cut(n, nameLimit))
		}
		for _, ip := range c.IPAddresses {
			if a, ok := netip.AddrFromSlice(ip); ok {
				d.Names = append(d.Names, a.Unmap().String())
			}
		}
		d.Names = d.Names[:min(len(d.Names), 16)]
		out = append(out, d)
	}
	return out
}
