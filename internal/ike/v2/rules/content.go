package rules

import (
	"fmt"
	"slices"

	"caponier/internal/ike/message"
)

// content says which payloads a message has. Notifications, vendor IDs and
// payloads of unknown types may stand in every message (RFC 7296, Section 1.2
// to 1.4 and Appendix C).
type content struct {
	required, allowed []message.PayloadType
}

type contentKey struct {
	exchange message.ExchangeType
	response bool
}

var contents = map[contentKey]content{
	{message.IKESAInit, false}: {required: types(message.TypeSA, message.TypeKE, message.TypeNonce)},
	{message.IKESAInit, true}: {
		required: types(message.TypeSA, message.TypeKE, message.TypeNonce),
		allowed:  types(message.TypeCertReq),
	},
	// AUTH is missing from the request of a peer that wants EAP.
	{message.IKEAuth, false}: {
		required: types(message.TypeIDi, message.TypeSA, message.TypeTSi, message.TypeTSr),
		allowed:  types(message.TypeAuth, message.TypeIDr, message.TypeCert, message.TypeCertReq),
	},
	// SA and traffic selectors are missing where the CHILD SA failed.
	{message.IKEAuth, true}: {
		allowed: types(message.TypeIDr, message.TypeAuth, message.TypeCert, message.TypeSA, message.TypeTSi, message.TypeTSr),
	},
	{message.CreateChildSA, false}: {
		required: types(message.TypeSA, message.TypeNonce),
		allowed:  types(message.TypeKE, message.TypeTSi, message.TypeTSr),
	},
	{message.CreateChildSA, true}: {
		required: types(message.TypeSA, message.TypeNonce),
		allowed:  types(message.TypeKE, message.TypeTSi, message.TypeTSr),
	},
	{message.Informational, false}: {allowed: types(message.TypeDelete)},
	{message.Informational, true}:  {allowed: types(message.TypeDelete)},
}

func types(t ...message.PayloadType) []message.PayloadType { return t }

// repeatable are the payloads that a message may have several of.
var repeatable = types(message.TypeCert, message.TypeCertReq, message.TypeDelete)

// CheckContent compares a message with the table of what each has. Its errors
// are for INVALID_SYNTAX.
func CheckContent(msg *message.Message) error {
	h := msg.Header
	response := h.Flags.Has(message.FlagResponse)
	want, ok := contents[contentKey{h.Exchange, response}]
	if !ok {
		return fmt.Errorf("unexpected exchange %s", h.Exchange)
	}
	var seen []message.PayloadType
	for _, p := range msg.Payloads {
		switch p.(type) {
		case *message.Notify, *message.VendorID, *message.Unknown:
			continue
		}
		t := p.Type()
		if !slices.Contains(want.required, t) && !slices.Contains(want.allowed, t) {
			return fmt.Errorf("unexpected %s payload in %s", t, h.Exchange)
		}
		if slices.Contains(seen, t) && !slices.Contains(repeatable, t) {
			return fmt.Errorf("second %s payload in %s", t, h.Exchange)
		}
		seen = append(seen, t)
	}
	if response && slices.ContainsFunc(msg.Payloads, replaces) {
		return nil
	}
	for _, t := range want.required {
		if !slices.Contains(seen, t) {
			return fmt.Errorf("no %s payload in %s", t, h.Exchange)
		}
	}
	return nil
}

// replaces reports whether p takes the place of the payloads of a response.
func replaces(p message.Payload) bool {
	n, ok := p.(*message.Notify)
	return ok && (n.Kind.IsError() || n.Kind == message.Cookie)
}
