package message

import "strconv"

// SPI is an IKE SPI; 0 stands for "not known yet" (RFC 7296, Section 3.1).
type SPI uint64

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
)

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
