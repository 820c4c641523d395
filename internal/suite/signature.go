package suite

// SignatureScheme is a way to make or check the AUTH value with a public key
// (RFC 7296, Section 2.15; RFC 4754; RFC 7427). (Contract sketch: the suite
// author fills it in.)
type SignatureScheme struct {
	Name   string
	Method uint8 // authentication method number of the AUTH payload
}
