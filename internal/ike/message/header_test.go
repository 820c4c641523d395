package message

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

const headerHex = "0102030405060708 1112131415161718 2e 20 23 28 00000102 0000001c"

func TestParseHeader(t *testing.T) {
	raw := unhex(t, headerHex)
	want := Header{
		InitiatorSPI: 0x0102030405060708, ResponderSPI: 0x1112131415161718,
		NextPayload: TypeEncrypted, Major: 2, Exchange: IKEAuth, Flags: FlagInitiator | FlagResponse,
		MessageID: 0x102, Length: 28,
	}
	got, err := ParseHeader(raw)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, got, want)
	out := got.append(nil, TypeEncrypted)
	if err := setLength(out); err != nil || !bytes.Equal(out, raw) {
		t.Errorf("written as % x, %v", out, err)
	}
	for n := range raw {
		if _, err := ParseHeader(raw[:n]); err != ErrShort {
			t.Errorf("%d octets: %v", n, err)
		}
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = ParseHeader(raw) }); n != 0 {
		t.Errorf("ParseHeader allocates %v times", n)
	}
}

func TestHeaderForPeople(t *testing.T) {
	h, err := ParseHeader(unhex(t, headerHex))
	if err != nil {
		t.Fatal(err)
	}
	want := "IKE_AUTH response 258 from initiator, SPIs 0102030405060708/1112131415161718"
	if got := h.String(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	var buf bytes.Buffer
	slog.New(slog.NewTextHandler(&buf, nil)).Info("dropped", "message", h)
	for _, part := range []string{
		"message.exchange=IKE_AUTH", "message.direction=response", "message.message-id=258",
		"message.initiator-spi=0102030405060708", "message.responder-spi=1112131415161718",
	} {
		if !strings.Contains(buf.String(), part) {
			t.Errorf("%s is missing in %s", part, buf.String())
		}
	}
}

func TestNames(t *testing.T) {
	tests := []struct{ got, want string }{
		{TypeIDi.String(), "IDi"},
		{PayloadType(99).String(), "PAYLOAD_99"},
		{CreateChildSA.String(), "CREATE_CHILD_SA"},
		{ExchangeType(43).String(), "EXCHANGE_43"},
		{ProtocolESP.String(), "ESP"},
		{ProtocolID(9).String(), "PROTOCOL_9"},
		{IDKeyID.String(), "ID_KEY_ID"},
		{IDType(6).String(), "ID_6"},
		{AuthSharedKey.String(), "shared key"},
		{AuthMethod(77).String(), "AUTH_77"},
		{TSUnacceptable.String(), "TS_UNACCEPTABLE"},
		{NotifyType(40000).String(), "NOTIFY_40000"},
	}
	for _, test := range tests {
		if test.got != test.want {
			t.Errorf("got %q, want %q", test.got, test.want)
		}
	}
	if !ChildSANotFound.IsError() || InitialContact.IsError() {
		t.Error("errors and status are confused")
	}
}
