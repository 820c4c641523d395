package isakmp

import (
	"encoding/binary"
	"strconv"

	"caponier/internal/ike/message"
)

// Notify is the Notification payload (RFC 2408, Section 3.14).
//
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	!              Domain of Interpretation  (DOI)                  !
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	!  Protocol-ID  !   SPI Size    !      Notify Message Type      !
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	~                Security Parameter Index (SPI)                 ~
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	~                       Notification Data                       ~
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
type Notify struct {
	Protocol message.ProtocolID
	SPI      []byte
	Kind     NotifyType
	Data     []byte
}

// NotifyType is a notify message type (RFC 2408, Section 3.14.1, and RFC 2407,
// Section 4.6.3).
type NotifyType uint16

// The notify message types. Those below 16384 report errors.
const (
	InvalidPayloadType   NotifyType = 1
	DOINotSupported      NotifyType = 2
	InvalidCookie        NotifyType = 4
	InvalidMajorVersion  NotifyType = 5
	InvalidMinorVersion  NotifyType = 6
	InvalidExchangeType  NotifyType = 7
	InvalidFlags         NotifyType = 8
	InvalidMessageID     NotifyType = 9
	InvalidProtocolID    NotifyType = 10
	InvalidSPI           NotifyType = 11
	AttributesNotSupp    NotifyType = 13
	NoProposalChosen     NotifyType = 14
	BadProposalSyntax    NotifyType = 15
	PayloadMalformed     NotifyType = 16
	InvalidKeyInfo       NotifyType = 17
	InvalidIDInfo        NotifyType = 18
	InvalidCertEncoding  NotifyType = 19
	InvalidCertificate   NotifyType = 20
	InvalidCertAuthority NotifyType = 22
	InvalidHashInfo      NotifyType = 23
	AuthenticationFailed NotifyType = 24
	InvalidSignature     NotifyType = 25

	Connected         NotifyType = 16384
	ResponderLifetime NotifyType = 24576
	ReplayStatus      NotifyType = 24577
	InitialContact    NotifyType = 24578
	RUThere           NotifyType = 36136 // RFC 3706
	RUThereAck        NotifyType = 36137
)

var notifyNames = map[NotifyType]string{
	InvalidPayloadType:   "INVALID-PAYLOAD-TYPE",
	DOINotSupported:      "DOI-NOT-SUPPORTED",
	InvalidCookie:        "INVALID-COOKIE",
	InvalidMajorVersion:  "INVALID-MAJOR-VERSION",
	InvalidMinorVersion:  "INVALID-MINOR-VERSION",
	InvalidExchangeType:  "INVALID-EXCHANGE-TYPE",
	InvalidFlags:         "INVALID-FLAGS",
	InvalidMessageID:     "INVALID-MESSAGE-ID",
	InvalidProtocolID:    "INVALID-PROTOCOL-ID",
	InvalidSPI:           "INVALID-SPI",
	AttributesNotSupp:    "ATTRIBUTES-NOT-SUPPORTED",
	NoProposalChosen:     "NO-PROPOSAL-CHOSEN",
	BadProposalSyntax:    "BAD-PROPOSAL-SYNTAX",
	PayloadMalformed:     "PAYLOAD-MALFORMED",
	InvalidKeyInfo:       "INVALID-KEY-INFORMATION",
	InvalidIDInfo:        "INVALID-ID-INFORMATION",
	InvalidCertEncoding:  "INVALID-CERT-ENCODING",
	InvalidCertificate:   "INVALID-CERTIFICATE",
	InvalidCertAuthority: "INVALID-CERT-AUTHORITY",
	InvalidHashInfo:      "INVALID-HASH-INFORMATION",
	AuthenticationFailed: "AUTHENTICATION-FAILED",
	InvalidSignature:     "INVALID-SIGNATURE",
	Connected:            "CONNECTED",
	ResponderLifetime:    "RESPONDER-LIFETIME",
	ReplayStatus:         "REPLAY-STATUS",
	InitialContact:       "INITIAL-CONTACT",
	RUThere:              "R-U-THERE",
	RUThereAck:           "R-U-THERE-ACK",
}

// IsError reports whether the type says that something failed.
func (t NotifyType) IsError() bool { return t < Connected }

// String returns the name in the RFC.
func (t NotifyType) String() string {
	if name, ok := notifyNames[t]; ok {
		return name
	}
	return "NOTIFY-" + strconv.Itoa(int(t))
}

// ParseNotify reads the body of an N payload, of whatever DOI: peers send 0 with
// errors of phase 1.
func ParseNotify(b []byte) (*Notify, error) {
	if len(b) < 8 {
		return nil, syntaxf("N of %d octets", len(b))
	}
	n := int(b[5])
	if len(b) < 8+n {
		return nil, syntaxf("N with an SPI of %d octets in %d", n, len(b)-8)
	}
	return &Notify{
		Protocol: message.ProtocolID(b[4]), SPI: clip(b[8 : 8+n]),
		Kind: NotifyType(binary.BigEndian.Uint16(b[6:])), Data: clip(b[8+n:]),
	}, nil
}

// Body returns the octets of the payload behind its generic header. The SPI is of
// 255 octets at most.
func (n *Notify) Body() []byte {
	out := binary.BigEndian.AppendUint32(nil, DOI)
	out = append(out, byte(n.Protocol), byte(len(n.SPI)))
	out = binary.BigEndian.AppendUint16(out, uint16(n.Kind))
	out = append(out, n.SPI...)
	return append(out, n.Data...)
}

// Delete is the Delete payload (RFC 2408, Section 3.15).
type Delete struct {
	Protocol message.ProtocolID
	// SPIs are those of the sender's inbound SAs; for an IKE SA, its two cookies
	// make one of 16 octets.
	SPIs [][]byte
}

// ParseDelete reads the body of a D payload.
func ParseDelete(b []byte) (*Delete, error) {
	if len(b) < 8 {
		return nil, syntaxf("D of %d octets", len(b))
	}
	d := &Delete{Protocol: message.ProtocolID(b[4])}
	size, count, spis := int(b[5]), int(binary.BigEndian.Uint16(b[6:])), b[8:]
	if count > MaxSPIs {
		return nil, limitf("D with %d SPIs, more than %d", count, MaxSPIs)
	}
	if size == 0 || count == 0 || len(spis) != size*count {
		return nil, syntaxf("D with %d SPIs of %d octets in %d", count, size, len(spis))
	}
	for ; len(spis) > 0; spis = spis[size:] {
		d.SPIs = append(d.SPIs, clip(spis[:size]))
	}
	return d, nil
}

// Body returns the octets of the payload behind its generic header. All SPIs are
// of the same length.
func (d *Delete) Body() ([]byte, error) {
	if len(d.SPIs) == 0 || len(d.SPIs) > MaxSPIs || len(d.SPIs[0]) > 0xff {
		return nil, encodef("D with %d SPIs", len(d.SPIs))
	}
	out := binary.BigEndian.AppendUint32(nil, DOI)
	out = append(out, byte(d.Protocol), byte(len(d.SPIs[0])))
	out = binary.BigEndian.AppendUint16(out, uint16(len(d.SPIs)))
	for _, spi := range d.SPIs {
		if len(spi) != len(d.SPIs[0]) {
			return nil, encodef("D with SPIs of %d and %d octets", len(d.SPIs[0]), len(spi))
		}
		out = append(out, spi...)
	}
	return out, nil
}
