// Package isakmp is the codec of ISAKMP messages (RFC 2408, Section 3) with the
// payloads of IKEv1 (RFC 2407, RFC 2409), NAT traversal (RFC 3947) and GM/T
// 0022. It is pure: octets in, structures out, and the reverse.
//
// IKEv1 hashes the bodies of payloads as they stand on the wire, and GM/T 0022
// encrypts some of them by themselves. A Message therefore keeps each payload as
// its octets, and the structure inside is read by a function of its own:
//
//	msg, err := isakmp.Parse(datagram)
//	sa, err := isakmp.ParseSA(isakmp.First(msg.Payloads, isakmp.TypeSA))
package isakmp
