package message

import "strconv"

// ID is the Identification payload (RFC 7296, Section 3.5).
//
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|   ID Type     |                 RESERVED                      |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	~                   Identification Data                         ~
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
type ID struct {
	Responder bool // IDr, otherwise IDi
	Kind      IDType
	Data      []byte
	// Reserved is zero, but where a peer sends something else, AUTH covers it
	// like the rest: see Body.
	Reserved [3]byte
}

// IDType is an identification type (RFC 7296, Section 3.5).
type IDType uint8

// The identification types.
const (
	IDIPv4      IDType = 1
	IDFQDN      IDType = 2
	IDRFC822    IDType = 3
	IDIPv6      IDType = 5
	IDDERASN1DN IDType = 9
	IDDERASN1GN IDType = 10
	IDKeyID     IDType = 11
)

// String returns the name in the RFC.
func (t IDType) String() string {
	switch t {
	case IDIPv4:
		return "ID_IPV4_ADDR"
	case IDFQDN:
		return "ID_FQDN"
	case IDRFC822:
		return "ID_RFC822_ADDR"
	case IDIPv6:
		return "ID_IPV6_ADDR"
	case IDDERASN1DN:
		return "ID_DER_ASN1_DN"
	case IDDERASN1GN:
		return "ID_DER_ASN1_GN"
	case IDKeyID:
		return "ID_KEY_ID"
	default:
		return "ID_" + strconv.Itoa(int(t))
	}
}

// fits reports whether an identity of this type can have n octets.
func (t IDType) fits(n int) bool {
	switch t {
	case IDIPv4:
		return n == 4
	case IDIPv6:
		return n == 16
	default:
		return true
	}
}

// Type is TypeIDi or TypeIDr.
func (p *ID) Type() PayloadType {
	if p.Responder {
		return TypeIDr
	}
	return TypeIDi
}

// Body returns the octets of the payload without its generic header, which are
// RestOfInitIDPayload or RestOfRespIDPayload in AUTH (RFC 7296, Section 2.15).
func (p *ID) Body() []byte { return p.appendOctets(nil) }

func (p *ID) appendOctets(dst []byte) []byte {
	dst = append(dst, byte(p.Kind))
	dst = append(dst, p.Reserved[:]...)
	return append(dst, p.Data...)
}

func parseID(b []byte, responder bool) (*ID, error) {
	if len(b) < 4 {
		return nil, syntaxf("%d octets are too few", len(b))
	}
	p := &ID{Responder: responder, Kind: IDType(b[0]), Data: clip(b[4:]), Reserved: [3]byte(b[1:4])}
	if !p.Kind.fits(len(p.Data)) {
		return nil, syntaxf("%s of %d octets", p.Kind, len(p.Data))
	}
	return p, nil
}

func (p *ID) appendBody(dst []byte) ([]byte, error) {
	if !p.Kind.fits(len(p.Data)) {
		return dst, encodef("%s of %d octets", p.Kind, len(p.Data))
	}
	return p.appendOctets(dst), nil
}
