package app

import (
	"crypto/x509"
	"fmt"
	"time"

	"caponier/internal/config"
	"caponier/internal/control"
)

// expiryRound is how often the log is told of certificates that end soon.
const expiryRound = 24 * time.Hour

// validity is a certificate that a connection needs, and where it is named.
type validity struct {
	key      string // of the configuration: "local.cert"
	subject  string
	notAfter time.Time
}

func validities(key string, certs []*x509.Certificate) []validity {
	var out []validity
	for _, c := range certs {
		out = append(out, validity{key, c.Subject.String(), c.NotAfter})
	}
	return out
}

// expiring says which certificates of a connection have ended, or end soon.
func (c *credentials) expiring(now time.Time) []control.Warning {
	var out []control.Warning
	for _, v := range c.validities {
		day := v.notAfter.UTC().Format(time.DateOnly)
		cure := "renew the file that " + v.key + " names, and caponier reload"
		switch {
		case now.After(v.notAfter):
			out = append(out, control.Warning{
				Code: "certificate-expired", Message: fmt.Sprintf("the certificate of %s expired on %s", v.subject, day), Cure: cure,
			})
		case v.notAfter.Sub(now) < config.ExpiryWarning:
			out = append(out, control.Warning{
				Code: "certificate-expires", Message: fmt.Sprintf("the certificate of %s expires on %s", v.subject, day), Cure: cure,
			})
		}
	}
	return out
}

// warnExpiry logs what is expiring.
func (a *app) warnExpiry(now time.Time) {
	a.mu.Lock()
	cfg := a.cfg
	a.mu.Unlock()
	for _, conn := range cfg.Connections {
		creds := a.auth.of(conn.Name)
		if creds == nil {
			continue
		}
		for _, w := range creds.expiring(now) {
			a.slog.Warn("certificate", "connection", conn.Name, "code", w.Code, "problem", w.Message)
		}
	}
}
