package message

import "strconv"

// Auth is the Authentication payload (RFC 7296, Section 3.8).
//
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	| Auth Method   |                RESERVED                       |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	~                      Authentication Data                      ~
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
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

// String names the method.
func (m AuthMethod) String() string {
	switch m {
	case AuthRSA:
		return "RSA"
	case AuthSharedKey:
		return "shared key"
	case AuthECDSA256:
		return "ECDSA P-256"
	case AuthECDSA384:
		return "ECDSA P-384"
	case AuthECDSA521:
		return "ECDSA P-521"
	case AuthDigitalSignature:
		return "digital signature"
	default:
		return "AUTH_" + strconv.Itoa(int(m))
	}
}

// Type is TypeAuth.
func (*Auth) Type() PayloadType { return TypeAuth }

func parseAuth(b []byte) (*Auth, error) {
	if len(b) < 4 {
		return nil, syntaxf("%d octets are too few", len(b))
	}
	return &Auth{Method: AuthMethod(b[0]), Data: clip(b[4:])}, nil
}

func (p *Auth) appendBody(dst []byte) ([]byte, error) {
	dst = append(dst, byte(p.Method), 0, 0, 0)
	return append(dst, p.Data...), nil
}
