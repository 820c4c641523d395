package message

import (
	"caponier/internal/ipsec"
)

// (Contract sketch: each payload moves to a file of its own with its codec.)

// Header is the IKE header (RFC 7296, Section 3.1).
type Header struct {
	InitiatorSPI, ResponderSPI SPI
	NextPayload                PayloadType
	Major, Minor               uint8
	Exchange                   ExchangeType
	Flags                      Flags
	MessageID                  uint32
	Length                     uint32
}

// Payload is one payload of a message.
type Payload interface {
	// Type is the payload type number.
	Type() PayloadType
}

// Message is an IKE message. For a message that has an Encrypted payload, Parse
// fills Payloads with what stands before it, and Open adds what was inside.
type Message struct {
	Header   Header
	Payloads []Payload
	// Encrypted is the SK payload as received, or nil.
	Encrypted *Encrypted
}

// Encrypted is the SK payload (RFC 7296, Section 3.14), still sealed.
type Encrypted struct {
	First PayloadType // type of the first payload inside
	Body  []byte      // IV | ciphertext | ICV; nil once opened
}

// Proposal is one proposal of an SA payload (RFC 7296, Section 3.3.1).
type Proposal struct {
	Number     uint8
	Protocol   ProtocolID
	SPI        []byte // 0, 4 or 8 octets
	Transforms ipsec.Proposal
	// Unknown says that the proposal holds what this package cannot represent,
	// so that it must not be selected (RFC 7296, Section 3.3.6).
	Unknown bool
}

// ProtocolID is a security protocol identifier (RFC 7296, Section 3.3.1).
type ProtocolID uint8

// The protocol identifiers.
const (
	ProtocolNone ProtocolID = 0
	ProtocolIKE  ProtocolID = 1
	ProtocolAH   ProtocolID = 2
	ProtocolESP  ProtocolID = 3
)

// SA is the Security Association payload (RFC 7296, Section 3.3).
type SA struct{ Proposals []Proposal }

// KE is the Key Exchange payload (RFC 7296, Section 3.4).
type KE struct {
	Method uint16
	Data   []byte
}

// ID is the Identification payload (RFC 7296, Section 3.5).
type ID struct {
	Responder bool // IDr, otherwise IDi
	Kind      IDType
	Data      []byte
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

// Cert is the Certificate payload (RFC 7296, Section 3.6).
type Cert struct {
	Encoding CertEncoding
	Data     []byte
}

// CertEncoding is a certificate encoding (RFC 7296, Section 3.6).
type CertEncoding uint8

// CertX509Signature is a DER encoded X.509 certificate.
const CertX509Signature CertEncoding = 4

// CertReq is the Certificate Request payload (RFC 7296, Section 3.7). For
// X.509, Data is a list of SHA-1 hashes of the CAs' SubjectPublicKeyInfo.
type CertReq struct {
	Encoding CertEncoding
	Data     []byte
}

// Auth is the Authentication payload (RFC 7296, Section 3.8).
type Auth struct {
	Method AuthMethod
	Data   []byte // for AuthDigitalSignature with its RFC 7427 prefix
}

// AuthMethod is an authentication method (RFC 7296, Section 3.8).
type AuthMethod uint8

// The authentication methods.
const (
	AuthRSA              AuthMethod = 1  // RSA digital signature, SHA-1 (RFC 7296)
	AuthSharedKey        AuthMethod = 2  // shared key message integrity code
	AuthECDSA256         AuthMethod = 9  // RFC 4754
	AuthECDSA384         AuthMethod = 10 // RFC 4754
	AuthECDSA521         AuthMethod = 11 // RFC 4754
	AuthDigitalSignature AuthMethod = 14 // RFC 7427
)

// Nonce is the Nonce payload (RFC 7296, Section 3.9).
type Nonce struct{ Data []byte }

// Notify is the Notify payload (RFC 7296, Section 3.10).
type Notify struct {
	Protocol ProtocolID
	SPI      []byte
	Kind     NotifyType
	Data     []byte
}

// Delete is the Delete payload (RFC 7296, Section 3.11).
type Delete struct {
	Protocol ProtocolID
	SPIs     []ipsec.SPI // empty for IKE
}

// VendorID is the Vendor ID payload (RFC 7296, Section 3.12).
type VendorID struct{ Data []byte }

// TS is the Traffic Selector payload (RFC 7296, Section 3.13). Selectors of
// types we do not know are left out by the parser.
type TS struct {
	Responder bool // TSr, otherwise TSi
	Selectors []ipsec.Selector
}

// Unknown is a payload of a type that this package has no codec for.
type Unknown struct {
	Kind     PayloadType
	Critical bool
	Data     []byte
}

// Payloads are pointers: Find[*SA](m).

func (*SA) Type() PayloadType        { return TypeSA }
func (*KE) Type() PayloadType        { return TypeKE }
func (*Cert) Type() PayloadType      { return TypeCert }
func (*CertReq) Type() PayloadType   { return TypeCertReq }
func (*Auth) Type() PayloadType      { return TypeAuth }
func (*Nonce) Type() PayloadType     { return TypeNonce }
func (*Notify) Type() PayloadType    { return TypeNotify }
func (*Delete) Type() PayloadType    { return TypeDelete }
func (*VendorID) Type() PayloadType  { return TypeVendorID }
func (u *Unknown) Type() PayloadType { return u.Kind }
func (p *ID) Type() PayloadType {
	if p.Responder {
		return TypeIDr
	}
	return TypeIDi
}
func (p *TS) Type() PayloadType {
	if p.Responder {
		return TypeTSr
	}
	return TypeTSi
}
