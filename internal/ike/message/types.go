package message

import (
	"fmt"
	"strconv"
)

// SPI is an IKE SPI; 0 stands for "not known yet" (RFC 7296, Section 3.1).
type SPI uint64

// String prints all sixteen hexadecimal digits, as other IKE tools do.
func (s SPI) String() string { return fmt.Sprintf("%016x", uint64(s)) }

// ExchangeType is an IKEv2 exchange type (RFC 7296, Section 3.1).
type ExchangeType uint8

// The exchange types.
const (
	IKESAInit     ExchangeType = 34
	IKEAuth       ExchangeType = 35
	CreateChildSA ExchangeType = 36
	Informational ExchangeType = 37
)

// String returns the name in the RFC.
func (t ExchangeType) String() string {
	switch t {
	case IKESAInit:
		return "IKE_SA_INIT"
	case IKEAuth:
		return "IKE_AUTH"
	case CreateChildSA:
		return "CREATE_CHILD_SA"
	case Informational:
		return "INFORMATIONAL"
	default:
		return "EXCHANGE_" + strconv.Itoa(int(t))
	}
}

// Flags are the flags of the IKE header (RFC 7296, Section 3.1).
type Flags uint8

// The flags.
const (
	FlagInitiator Flags = 0x08 // sent by the original initiator of the IKE SA
	FlagVersion   Flags = 0x10 // the sender could speak a higher major version
	FlagResponse  Flags = 0x20 // answers a request with the same message ID

	flagsDefined = FlagInitiator | FlagVersion | FlagResponse
)

// Has reports whether all of the flags in mask are set.
func (f Flags) Has(mask Flags) bool { return f&mask == mask }

// PayloadType is an IKEv2 payload type (RFC 7296, Section 3.2).
type PayloadType uint8

// The payload types.
const (
	NoNextPayload PayloadType = 0
	TypeSA        PayloadType = 33
	TypeKE        PayloadType = 34
	TypeIDi       PayloadType = 35
	TypeIDr       PayloadType = 36
	TypeCert      PayloadType = 37
	TypeCertReq   PayloadType = 38
	TypeAuth      PayloadType = 39
	TypeNonce     PayloadType = 40
	TypeNotify    PayloadType = 41
	TypeDelete    PayloadType = 42
	TypeVendorID  PayloadType = 43
	TypeTSi       PayloadType = 44
	TypeTSr       PayloadType = 45
	TypeEncrypted PayloadType = 46 // SK
	TypeConfig    PayloadType = 47 // CP
	TypeEAP       PayloadType = 48
	TypeFragment  PayloadType = 53 // SKF, RFC 7383
)

var payloadNames = map[PayloadType]string{
	NoNextPayload: "none",
	TypeSA:        "SA",
	TypeKE:        "KE",
	TypeIDi:       "IDi",
	TypeIDr:       "IDr",
	TypeCert:      "CERT",
	TypeCertReq:   "CERTREQ",
	TypeAuth:      "AUTH",
	TypeNonce:     "Nonce",
	TypeNotify:    "N",
	TypeDelete:    "D",
	TypeVendorID:  "V",
	TypeTSi:       "TSi",
	TypeTSr:       "TSr",
	TypeEncrypted: "SK",
	TypeConfig:    "CP",
	TypeEAP:       "EAP",
	TypeFragment:  "SKF",
}

// String returns the notation of the RFC: SA, IDi, CERTREQ.
func (t PayloadType) String() string {
	if name, ok := payloadNames[t]; ok {
		return name
	}
	return "PAYLOAD_" + strconv.Itoa(int(t))
}

// inRFC7296 reports whether the type is one of those in RFC 7296, whose
// critical bit means nothing: every implementation must understand them
// (Section 2.5).
func (t PayloadType) inRFC7296() bool { return t >= TypeSA && t <= TypeEAP }

// ProtocolID is a security protocol identifier (RFC 7296, Section 3.3.1).
type ProtocolID uint8

// The protocol identifiers.
const (
	ProtocolNone ProtocolID = 0
	ProtocolIKE  ProtocolID = 1
	ProtocolAH   ProtocolID = 2
	ProtocolESP  ProtocolID = 3
)

// String returns the name in the RFC.
func (p ProtocolID) String() string {
	switch p {
	case ProtocolNone:
		return "none"
	case ProtocolIKE:
		return "IKE"
	case ProtocolAH:
		return "AH"
	case ProtocolESP:
		return "ESP"
	default:
		return "PROTOCOL_" + strconv.Itoa(int(p))
	}
}
