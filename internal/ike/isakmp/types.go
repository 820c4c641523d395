package isakmp

import "strconv"

// ExchangeType is an exchange type (RFC 2408, Section 3.1, and RFC 2409, Appendix
// A).
type ExchangeType uint8

// The exchange types.
const (
	MainMode       ExchangeType = 2 // Identity Protection
	AggressiveMode ExchangeType = 4
	Informational  ExchangeType = 5
	QuickMode      ExchangeType = 32
)

// String returns the name in the RFC.
func (t ExchangeType) String() string {
	switch t {
	case MainMode:
		return "Main Mode"
	case AggressiveMode:
		return "Aggressive Mode"
	case Informational:
		return "Informational"
	case QuickMode:
		return "Quick Mode"
	default:
		return "exchange " + strconv.Itoa(int(t))
	}
}

// PayloadType is a payload type (RFC 2408, Section 3.1).
type PayloadType uint8

// The payload types.
const (
	NoNextPayload    PayloadType = 0
	TypeSA           PayloadType = 1
	TypeKE           PayloadType = 4
	TypeID           PayloadType = 5
	TypeCert         PayloadType = 6
	TypeCertReq      PayloadType = 7
	TypeHash         PayloadType = 8
	TypeSignature    PayloadType = 9
	TypeNonce        PayloadType = 10
	TypeNotify       PayloadType = 11
	TypeDelete       PayloadType = 12
	TypeVendorID     PayloadType = 13
	TypeNATDiscovery PayloadType = 20 // NAT-D (RFC 3947)
	TypeNATOriginal  PayloadType = 21 // NAT-OA
	// TypeSymmetricKey is GM/T 0022's SK: the key that encrypts the bodies of
	// nonce and identity, itself encrypted to the receiver.
	TypeSymmetricKey PayloadType = 128
)

// The types of the substructures of an SA payload.
const (
	typeProposal  = 2
	typeTransform = 3
)

var payloadNames = map[PayloadType]string{
	NoNextPayload:    "none",
	TypeSA:           "SA",
	TypeKE:           "KE",
	TypeID:           "ID",
	TypeCert:         "CERT",
	TypeCertReq:      "CR",
	TypeHash:         "HASH",
	TypeSignature:    "SIG",
	TypeNonce:        "NONCE",
	TypeNotify:       "N",
	TypeDelete:       "D",
	TypeVendorID:     "VID",
	TypeNATDiscovery: "NAT-D",
	TypeNATOriginal:  "NAT-OA",
	TypeSymmetricKey: "SK",
}

// String returns the notation of the RFC: SA, NONCE, VID.
func (t PayloadType) String() string {
	if name, ok := payloadNames[t]; ok {
		return name
	}
	return "payload " + strconv.Itoa(int(t))
}

// DOI is the domain of interpretation IPSEC, the only one that this package
// writes; SituationIdentity is its situation SIT_IDENTITY_ONLY (RFC 2407,
// Sections 4.1 and 4.2.1).
const (
	DOI               uint32 = 1
	SituationIdentity uint32 = 1
)

// The protocol identifiers (RFC 2407, Section 4.4.1) have the numbers of
// IKEv2's: see message.ProtocolID.

// Transform identifiers (RFC 2407, Sections 4.4.2 to 4.4.4).
const (
	KeyIKE uint8 = 1 // of protocol ISAKMP

	// GM/T 0022.
	ESPSM4CBC    uint8 = 127
	ESPSM4CBCAlt uint8 = 129 // what some peers send, by analogy with the IKE SA
	ESPSM4GCM    uint8 = 130 // of the edition of 2023
	AHSM3        uint8 = 20
)

// Attributes of an IKE SA (RFC 2409, Appendix A).
const (
	AttrEncryption    uint16 = 1
	AttrHash          uint16 = 2
	AttrAuthMethod    uint16 = 3
	AttrGroup         uint16 = 4
	AttrIKELifeType   uint16 = 11
	AttrIKELife       uint16 = 12
	AttrIKEKeyLength  uint16 = 14
	AttrAsymmetricAlg uint16 = 20 // GM/T 0022
)

// Values of the attributes of an IKE SA in GM/T 0022.
const (
	EncryptionSM4CBC    uint16 = 129
	EncryptionSM4CBCOld uint16 = 127 // of the draft and the edition of 2010
	HashSM3             uint16 = 20
	AuthEnvelope        uint16 = 10 // digital envelope
	AsymmetricSM2       uint16 = 2
)

// Attributes of an IPsec SA (RFC 2407, Section 4.5).
const (
	AttrLifeType      uint16 = 1
	AttrLife          uint16 = 2
	AttrGroupPFS      uint16 = 3
	AttrEncapsulation uint16 = 4
	AttrAuthAlg       uint16 = 5
	AttrKeyLength     uint16 = 6
	AttrESN           uint16 = 11 // RFC 4304
)

// Values of the attributes of an IPsec SA.
const (
	EncapTunnel       uint16 = 1
	EncapTransport    uint16 = 2
	EncapUDPTunnel    uint16 = 3 // RFC 3947, Section 5.1
	EncapUDPTransport uint16 = 4
	// The same in the drafts before RFC 3947, which some peers still send.
	EncapUDPTunnelDraft    uint16 = 61443
	EncapUDPTransportDraft uint16 = 61444

	AuthAlgHMACSM3 uint16 = 20 // GM/T 0022
)

// Life types, of both kinds of SA.
const (
	LifeSeconds   uint16 = 1
	LifeKilobytes uint16 = 2
)
