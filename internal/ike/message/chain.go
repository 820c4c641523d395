package message

import (
	"encoding/binary"
	"fmt"
)

// Limits on what a stranger can make Parse and Open build. Nothing is allocated
// from a length field: data stays where it was received.
const (
	// MaxLength is the longest message in octets: what the length field of a UDP
	// datagram can say, and that of a TCP frame (RFC 9329, Section 3).
	MaxLength = 0xffff
	// MaxPayloads is the largest number of payloads in a message, those inside SK
	// included. The longest IKE_AUTH request that makes sense, with a chain of
	// certificates, CP and every status notification, stays well below.
	MaxPayloads = 128
	// MaxProposals is the largest number of proposals in an SA payload,
	// for peers that offer a proposal for each combination of algorithms.
	MaxProposals = 64
	// MaxTransforms is the largest number of transforms in a proposal. The
	// largest that strongSwan 5.9.8 offers by default has 47.
	MaxTransforms = 128
)

// genericLen is the length of the generic payload header (RFC 7296, Section
// 3.2): next payload, critical bit and reserved bits, payload length.
//
//	                     1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	| Next Payload  |C|  RESERVED   |         Payload Length        |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
const genericLen = 4

const criticalBit = 0x80

// parseChain reads the payloads in b, the first of which is of type next, to
// the last octet. An SK or SKF payload ends the chain and is returned as sk; room
// is the number of payloads that there may be.
func parseChain(b []byte, next PayloadType, room int) (payloads []Payload, sk *Encrypted, err error) {
	for next != NoNextPayload {
		if len(payloads) == room {
			return nil, nil, limitf("more than %d payloads", MaxPayloads)
		}
		if len(b) < genericLen {
			return nil, nil, syntaxf("%s payload is cut off", next)
		}
		n := int(binary.BigEndian.Uint16(b[2:]))
		if n < genericLen || n > len(b) {
			return nil, nil, syntaxf("%s payload has length %d with %d octets left", next, n, len(b))
		}
		kind, critical, body := next, b[1]&criticalBit != 0, b[genericLen:n]
		next, b = PayloadType(b[0]), b[n:]
		if kind == TypeEncrypted {
			// The next payload field of SK is the type of the first payload inside
			// it, and SK is the last payload (RFC 7296, Section 3.14).
			if len(b) > 0 {
				return nil, nil, syntaxf("%d octets follow the SK payload", len(b))
			}
			return payloads, &Encrypted{First: next, Body: body[:len(body):len(body)]}, nil
		}
		if kind == TypeFragment {
			if len(b) > 0 {
				return nil, nil, syntaxf("%d octets follow the SKF payload", len(b))
			}
			sk, err := parseFragment(next, body)
			if err != nil {
				return nil, nil, fmt.Errorf("%s payload: %w", kind, err)
			}
			return payloads, sk, nil
		}
		p, err := parsePayload(kind, critical, body)
		if err != nil {
			return nil, nil, fmt.Errorf("%s payload: %w", kind, err)
		}
		payloads = append(payloads, p)
	}
	if len(b) > 0 {
		return nil, nil, syntaxf("%d octets follow the last payload", len(b))
	}
	return payloads, nil, nil
}

func parsePayload(kind PayloadType, critical bool, b []byte) (Payload, error) {
	switch kind {
	case TypeSA:
		return parseSA(b)
	case TypeKE:
		return parseKE(b)
	case TypeIDi, TypeIDr:
		return parseID(b, kind == TypeIDr)
	case TypeCert:
		return parseCert(b)
	case TypeCertReq:
		return parseCertReq(b)
	case TypeAuth:
		return parseAuth(b)
	case TypeNonce:
		return parseNonce(b)
	case TypeNotify:
		return parseNotify(b)
	case TypeDelete:
		return parseDelete(b)
	case TypeVendorID:
		return &VendorID{Data: clip(b)}, nil
	case TypeTSi, TypeTSr:
		return parseTS(b, kind == TypeTSr)
	default:
		return &Unknown{Kind: kind, Critical: critical && !kind.inRFC7296(), Data: clip(b)}, nil
	}
}

// hasCodec reports whether payloads of this type have a structure of their own.
func hasCodec(kind PayloadType) bool {
	return kind >= TypeSA && kind <= TypeEncrypted || kind == TypeFragment
}

// firstType is the next payload field of what stands before the payloads.
func firstType(payloads []Payload) PayloadType {
	if len(payloads) == 0 {
		return NoNextPayload
	}
	return payloads[0].Type()
}

func appendChain(dst []byte, payloads []Payload) ([]byte, error) {
	if len(payloads) > MaxPayloads {
		return dst, encodef("%d payloads are more than %d", len(payloads), MaxPayloads)
	}
	for i, p := range payloads {
		start := len(dst)
		dst = append(dst, byte(firstType(payloads[i+1:])), 0, 0, 0)
		if u, ok := p.(*Unknown); ok && u.Critical && !u.Kind.inRFC7296() {
			dst[start+1] = criticalBit
		}
		var err error
		if dst, err = p.appendBody(dst); err != nil {
			return dst, fmt.Errorf("%s payload: %w", p.Type(), err)
		}
		if err := setPayloadLength(dst[start:]); err != nil {
			return dst, fmt.Errorf("%s payload: %w", p.Type(), err)
		}
	}
	return dst, nil
}

// setPayloadLength completes the generic header of payload, or the header of a
// substructure of the SA payload, which has its length in the same place.
func setPayloadLength(payload []byte) error {
	if len(payload) > 0xffff {
		return encodef("%d octets do not fit a length of 16 bits", len(payload))
	}
	binary.BigEndian.PutUint16(payload[2:], uint16(len(payload)))
	return nil
}

// clip keeps a later append from writing into the octets behind b. It is nil
// where there are none, so that equal payloads are equal structures.
func clip(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return b[:len(b):len(b)]
}
