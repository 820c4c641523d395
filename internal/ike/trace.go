package ike

import (
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strings"

	"caponier/internal/ike/isakmp"
	"caponier/internal/ike/message"
	"caponier/internal/ike/v1/proposal"
	v2 "caponier/internal/ike/v2"
	"caponier/internal/ike/v2/rules"
	"caponier/internal/ipsec"
	"caponier/internal/suite"
)

// maxTrace bounds the payloads in a line of the log, in octets.
const maxTrace = 1000

// trace logs an exchange's message, for debugging: which one, and what kinds of
// payloads it has. Nothing secret is in it: no key, no AUTH, no nonce.
func (d *Daemon) trace(dir ipsec.Direction, m *message.Message) {
	if !d.log.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	kind := "request"
	if m.Header.Flags.Has(message.FlagResponse) {
		kind = "response"
	}
	ours := m.Header.InitiatorSPI
	if m.Header.Flags.Has(message.FlagInitiator) == (dir == ipsec.In) {
		ours = m.Header.ResponderSPI
	}
	words := make([]string, len(m.Payloads))
	for i, p := range m.Payloads {
		words[i] = payloadWords(p)
	}
	d.traceMessage(dir, ours, words, "exchange", m.Header.Exchange.String(), "kind", kind, "message-id", m.Header.MessageID)
}

// traceISAKMP is trace for a message of IKEv1.
func (d *Daemon) traceISAKMP(dir ipsec.Direction, m *isakmp.Message) {
	if !d.log.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	words := make([]string, len(m.Payloads))
	for i, p := range m.Payloads {
		words[i] = isakmpWords(m.Header.Exchange, p)
	}
	// The header does not say which of the two cookies is ours.
	ours := m.Header.InitiatorCookie
	d.mu.Lock()
	if s := d.bySPI[m.Header.ResponderCookie]; s != nil && !s.machine.Initiator() {
		ours = m.Header.ResponderCookie
	}
	d.mu.Unlock()
	d.traceMessage(dir, ours, words, "exchange", m.Header.Exchange.String(), "message-id", fmt.Sprintf("%08x", m.Header.MessageID))
}

// traceMessage logs what is known of a message whose IKE SA has the SPI ours.
func (d *Daemon) traceMessage(dir ipsec.Direction, ours message.SPI, payloads []string, attrs ...any) {
	text := "IKE message received"
	if dir == ipsec.Out {
		text = "IKE message sent"
	}
	d.mu.Lock()
	s, conn := d.bySPI[ours], ""
	if s != nil {
		conn = s.conn
	}
	d.mu.Unlock()
	attrs = append(attrs, "spi", ours.String())
	if conn != "" {
		attrs = append(attrs, "connection", conn)
	}
	words := strings.Join(payloads, " ")
	if len(words) > maxTrace {
		words = words[:maxTrace] + "..."
	}
	d.log.Debug(text, append(attrs, "payloads", words)...)
}

// traceDrop logs a message that changed nothing, for debugging.
func (d *Daemon) traceDrop(s *sa, n v2.Notice) {
	if !d.log.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	attrs := []any{"code", n.Code, "spi", s.spi.String()}
	if s.conn != "" {
		attrs = append(attrs, "connection", s.conn)
	}
	if n.Err != nil {
		attrs = append(attrs, "error", n.Err)
	}
	d.log.Debug("IKE message dropped", attrs...)
}

// payloadWords is the notation of RFC 7296, with what can be told in a word.
func payloadWords(p message.Payload) string {
	name := p.Type().String()
	switch p := p.(type) {
	case *message.SA:
		var offers []string
		for _, o := range p.Proposals {
			offers = append(offers, suite.ProposalString(o.Transforms))
		}
		return name + "(" + strings.Join(offers, ",") + ")"
	case *message.KE:
		return name + "(" + suite.Name(ipsec.Transform{Type: ipsec.TypeKE, ID: p.Method}) + ")"
	case *message.ID:
		return fmt.Sprintf("%s(%q)", name, rules.IdentityOf(p).String())
	case *message.Auth:
		return name + "(" + p.Method.String() + ")"
	case *message.Notify:
		return name + "(" + p.Kind.String() + ")"
	case *message.Delete:
		words := []string{p.Protocol.String()}
		for _, spi := range p.SPIs {
			words = append(words, spi.String())
		}
		return name + "(" + strings.Join(words, " ") + ")"
	case *message.TS:
		var list []string
		for _, s := range p.Selectors {
			list = append(list, s.String())
		}
		return name + "(" + strings.Join(list, ",") + ")"
	default:
		return name
	}
}

// isakmpWords is the notation of RFC 2409, with what can be told in a word. The
// identities of main mode are encrypted.
func isakmpWords(exchange isakmp.ExchangeType, p isakmp.Payload) string {
	name := p.Type.String()
	switch p.Type {
	case isakmp.TypeSA:
		if sa, err := isakmp.ParseSA(p.Body); err == nil {
			return name + "(" + proposal.Describe(sa) + ")"
		}
	case isakmp.TypeID:
		if id, err := isakmp.ParseID(p.Body); err == nil && exchange == isakmp.QuickMode {
			if s, err := id.Selector(); err == nil {
				return name + "(" + s.String() + ")"
			}
		}
	case isakmp.TypeNotify:
		if n, err := isakmp.ParseNotify(p.Body); err == nil {
			return name + "(" + n.Kind.String() + ")"
		}
	case isakmp.TypeDelete:
		if d, err := isakmp.ParseDelete(p.Body); err == nil {
			words := []string{d.Protocol.String()}
			for _, spi := range d.SPIs {
				words = append(words, hex.EncodeToString(spi))
			}
			return name + "(" + strings.Join(words, " ") + ")"
		}
	default:
	}
	return name
}
