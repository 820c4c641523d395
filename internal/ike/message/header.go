package message

import (
	"encoding/binary"
	"fmt"
	"log/slog"
)

// HeaderLen is the length of the IKE header in octets.
const HeaderLen = 28

// majorVersion is the version that this package reads and writes. Its minor
// version is 0, and the one received is ignored (RFC 7296, Section 3.1).
const majorVersion = 2

// Header is the IKE header (RFC 7296, Section 3.1).
//
//	                     1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|                       IKE SA Initiator's SPI                  |
//	|                                                               |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|                       IKE SA Responder's SPI                  |
//	|                                                               |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|  Next Payload | MjVer | MnVer | Exchange Type |     Flags     |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|                          Message ID                           |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|                            Length                             |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//
// NextPayload, Major, Minor and Length are what was received: Append and Seal
// write what belongs there whatever stands in these fields. Reserved flags are
// neither read nor written.
type Header struct {
	InitiatorSPI, ResponderSPI SPI
	NextPayload                PayloadType
	Major, Minor               uint8
	Exchange                   ExchangeType
	Flags                      Flags
	MessageID                  uint32
	Length                     uint32 // of the whole message, in octets
}

// ParseHeader reads the header at the beginning of a datagram, of whatever
// version, and looks at nothing behind it. It returns ErrShort where b holds no
// whole header.
func ParseHeader(b []byte) (Header, error) {
	if len(b) < HeaderLen {
		return Header{}, ErrShort
	}
	return Header{
		InitiatorSPI: SPI(binary.BigEndian.Uint64(b)),
		ResponderSPI: SPI(binary.BigEndian.Uint64(b[8:])),
		NextPayload:  PayloadType(b[16]),
		Major:        b[17] >> 4,
		Minor:        b[17] & 0x0f,
		Exchange:     ExchangeType(b[18]),
		Flags:        Flags(b[19]) & flagsDefined,
		MessageID:    binary.BigEndian.Uint32(b[20:]),
		Length:       binary.BigEndian.Uint32(b[24:]),
	}, nil
}

// append writes the header with a Length of 0, which setLength fills in.
func (h Header) append(dst []byte, next PayloadType) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(h.InitiatorSPI))
	dst = binary.BigEndian.AppendUint64(dst, uint64(h.ResponderSPI))
	dst = append(dst, byte(next), majorVersion<<4, byte(h.Exchange), byte(h.Flags&flagsDefined))
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

func (h Header) direction() string {
	if h.Flags.Has(FlagResponse) {
		return "response"
	}
	return "request"
}

// String says what is needed to find the message in a capture: "IKE_AUTH
// request 1 from initiator, SPIs 0011223344556677/8899aabbccddeeff".
func (h Header) String() string {
	from := "responder"
	if h.Flags.Has(FlagInitiator) {
		from = "initiator"
	}
	return fmt.Sprintf("%s %s %d from %s, SPIs %s/%s", h.Exchange, h.direction(), h.MessageID, from,
		h.InitiatorSPI, h.ResponderSPI)
}

// LogValue is the header as a group of attributes.
func (h Header) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("exchange", h.Exchange.String()),
		slog.String("direction", h.direction()),
		slog.Uint64("message-id", uint64(h.MessageID)),
		slog.String("initiator-spi", h.InitiatorSPI.String()),
		slog.String("responder-spi", h.ResponderSPI.String()),
	)
}
