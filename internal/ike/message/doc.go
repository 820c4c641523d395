// Package message is the codec of IKEv2 messages (RFC 7296, Section 3), one
// payload to a file. It is pure: octets in, structures out, and the reverse.
package message
