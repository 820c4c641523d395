// Package pki issues the certificates of a small VPN and checks those of its
// peers, as RFC 4945 profiles X.509 (RFC 5280) for IKE.
//
// Init and Issue are a certification authority in a directory. A Verifier
// answers, for the IKE daemon, whether a peer's certificates lead to a trust
// anchor and speak for the identity it claims; whether the peer has the private
// key is for the signature in AUTH to show.
package pki
