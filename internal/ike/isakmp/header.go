package isakmp

import (
	"encoding/binary"
	"fmt"

	"caponier/internal/ike/message"
)

// HeaderLen is the length of the ISAKMP header in octets.
const HeaderLen = message.HeaderLen

// majorVersion is the only one that this package reads and writes.
const majorVersion = 1

// Header is the ISAKMP header (RFC 2408, Section 3.1). It has the shape of the
// IKEv2 header, whose SPIs are called cookies here.
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	!                          Initiator                            !
//	!                            Cookie                             !
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	!                          Responder                            !
//	!                            Cookie                             !
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	!  Next Payload ! MjVer ! MnVer ! Exchange Type !     Flags     !
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	!                          Message ID                           !
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	!                            Length                             !
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//
// NextPayload and Length are what was received; what is written is what belongs
// there, whatever stands in these fields.
type Header struct {
	InitiatorCookie, ResponderCookie message.SPI
	NextPayload                      PayloadType
	Minor                            uint8 // of version 1: 0 for IKEv1, 1 for GM/T 0022
	Exchange                         ExchangeType
	Flags                            Flags
	MessageID                        uint32
	Length                           uint32 // of the whole message, in octets
}

// Flags are the flags of the header. Unknown ones are kept as received.
type Flags uint8

// The flags (RFC 2408, Section 3.1).
const (
	FlagEncrypted Flags = 0x01 // the payloads are encrypted
	FlagCommit    Flags = 0x02
	FlagAuthOnly  Flags = 0x04
)

// Has reports whether all flags of g are set.
func (f Flags) Has(g Flags) bool { return f&g == g }

// ParseHeader reads the header at the beginning of a datagram and looks at
// nothing behind it. It returns ErrShort where b holds no whole header, and
// ErrVersion for another major version.
func ParseHeader(b []byte) (Header, error) {
	h, err := message.ParseHeader(b)
	if err != nil {
		return Header{}, ErrShort
	}
	if h.Major != majorVersion {
		return Header{}, ErrVersion
	}
	return Header{
		InitiatorCookie: h.InitiatorSPI, ResponderCookie: h.ResponderSPI,
		NextPayload: PayloadType(h.NextPayload), Minor: h.Minor,
		Exchange: ExchangeType(h.Exchange), Flags: Flags(b[19]),
		MessageID: h.MessageID, Length: h.Length,
	}, nil
}

// append writes the header with a Length of 0, which setLength fills in.
func (h Header) append(dst []byte, next PayloadType) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(h.InitiatorCookie))
	dst = binary.BigEndian.AppendUint64(dst, uint64(h.ResponderCookie))
	dst = append(dst, byte(next), majorVersion<<4|h.Minor&0x0f, byte(h.Exchange), byte(h.Flags))
	dst = binary.BigEndian.AppendUint32(dst, h.MessageID)
	return binary.BigEndian.AppendUint32(dst, 0)
}

// setLength completes the message msg, header and all.
func setLength(msg []byte) error {
	if len(msg) > MaxLength {
		return encodef("%d octets are more than the %d that a datagram holds", len(msg), MaxLength)
	}
	binary.BigEndian.PutUint32(msg[24:], uint32(len(msg)))
	return nil
}

// String says what is needed to find the message in a capture.
func (h Header) String() string {
	return fmt.Sprintf("%s, message ID %08x, cookies %s/%s", h.Exchange, h.MessageID, h.InitiatorCookie, h.ResponderCookie)
}
