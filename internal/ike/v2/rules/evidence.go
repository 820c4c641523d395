package rules

import (
	"encoding/binary"

	"caponier/internal/ike/message"
	"caponier/internal/ipsec"
)

// Evidence is what the peer showed of a negotiation that failed, for whoever
// explains it. What no message showed is zero. What this end wanted stands in
// its configuration.
type Evidence struct {
	// Exchange is the one that failed, or 0.
	Exchange message.ExchangeType
	// ByPeer says that the peer refused, with a notification of this kind.
	// Otherwise this end did, or nothing was heard.
	ByPeer bool
	Notify message.NotifyType
	// Proposals are the peer's.
	Proposals []message.Proposal
	// Offered are our proposals and Heard the peer's, in the words of IKEv1, which
	// numbers algorithms in its own way.
	Offered, Heard []string
	// LocalTS and RemoteTS are the traffic selectors that the peer wants, from
	// this gateway's view.
	LocalTS, RemoteTS []ipsec.Selector
	// Asked is the identity that the peer wants this gateway to have.
	Asked Identity
	// Method is how the peer authenticates.
	Method message.AuthMethod
	// Certificates are the peer's, DER, the leaf first.
	Certificates [][]byte
}

// Refusal is what an error notification of the peer shows.
func Refusal(msg *message.Message, n *message.Notify) Evidence {
	return Evidence{Exchange: msg.Header.Exchange, ByPeer: true, Notify: n.Kind}
}

// RefusedKE is what INVALID_KE_PAYLOAD shows in IKE_SA_INIT: the method that the
// peer wants (RFC 7296, Section 1.2).
func RefusedKE(n *message.Notify) Evidence {
	e := Evidence{Exchange: message.IKESAInit, ByPeer: true, Notify: n.Kind}
	if len(n.Data) == 2 {
		want := ipsec.Transform{Type: ipsec.TypeKE, ID: binary.BigEndian.Uint16(n.Data)}
		e.Proposals = []message.Proposal{{Protocol: message.ProtocolIKE, Transforms: ipsec.Proposal{want}}}
	}
	return e
}

// AuthEvidence is how the peer authenticates in an IKE_AUTH message.
func AuthEvidence(msg *message.Message, method message.AuthMethod) Evidence {
	e := Evidence{Exchange: message.IKEAuth, Method: method}
	for _, p := range msg.Payloads {
		if c, ok := p.(*message.Cert); ok && c.Encoding == message.CertX509Signature {
			e.Certificates = append(e.Certificates, c.Data)
		}
	}
	return e
}
