package diagnose

import (
	"caponier/internal/ike"
	"caponier/internal/ike/v2/fault"
	"caponier/internal/pki"
)

// The codes of findings that no notification and no certificate stands for.
const (
	CodeNoProposal     = "no-proposal-chosen"
	CodeTS             = "ts-unacceptable"
	CodePSK            = "psk-mismatch-or-id"
	CodeMethod         = "authentication-method"
	CodeSignature      = "wrong-signature"
	CodeRefused        = "refused-by-peer"
	CodeAuthentication = "authentication-failed"
	CodeIdentity       = string(pki.CodeIdentityMismatch)
	CodeClock          = "clock-wrong"
	CodeNoAnswer       = "peer-not-responding"
	CodePort4500       = "udp-4500-blocked"
	CodeAuthLost       = "ike-auth-lost"
	CodeNoReturn       = "no-return-traffic"
	CodeKE             = "invalid-ke-payload"
	CodeVersion        = ike.CodeVersion
	CodeNoConnection   = ike.CodeNoConnection
	CodeMode           = fault.CodeMode
	CodeThroughNAT     = fault.CodeThroughNAT
	CodeAggfrag        = fault.CodeAggfrag
	CodeNotUnique      = "not-unique"
	CodeLimit          = fault.CodeLimit
	CodeQueueFull      = fault.CodeQueueFull
)

// Code is a row of the table of codes.
type Code struct {
	Code  string
	Cause string // what it means
	Cure  string // what to do, in general
}

// Codes is every code that why explains, with its general cause and cure. A
// finding has both in particular. Codes of other failures are the names of IKE
// notifications.
func Codes() []Code {
	return []Code{
		{CodeNoProposal, "the ends have no algorithm in common for the IKE SA or a tunnel; the type that lacks one is named", "add the named proposal at one end"},
		{CodeKE, "the peer asks for a key exchange method that is not offered here", "add a proposal with that method"},
		{CodeTS, "the ends do not agree on the prefixes of a tunnel", "make local and remote of one end the mirror image of the other's"},
		{CodeMode, "one end takes transport mode for a tunnel, the other tunnel mode", "set the same mode at both ends"},
		{CodeThroughNAT, "a NAT is on the way of a tunnel of AH, which covers the addresses that the NAT changes", "set protocol: esp at both ends"},
		{CodeAggfrag, "one end requires AGGFRAG mode for a tunnel, or reports of losses in it, and the other has none", "set aggfrag: on at both ends, or off, to do without; and iptfs at both where one has a loss-limit"},
		{CodePSK, "the pre-shared keys of the ends differ, or an identity made the peer take another key", "write the same key at both ends"},
		{CodeMethod, "the peer authenticates by another method than remote.auth allows", "let both ends agree on cert or psk"},
		{CodeSignature, "the peer's signature is not by the key of its certificate, or by a method not accepted", "give the peer the key that belongs to its certificate"},
		{CodeIdentity, "the peer is not who the connection expects, its certificate does not speak for it, or it asks for another than this gateway", "write the peer's identity into remote.id, or change the id at the peer"},
		{string(pki.CodePinMismatch), "the peer's certificate is not the pinned one", "pin the peer's present certificate"},
		{string(pki.CodeExpired), "a certificate of the peer has expired", "renew it"},
		{string(pki.CodeNotYetValid), "a certificate of the peer is not valid yet", "set the clock of the end that is wrong"},
		{CodeClock, "by this gateway's clock both ends' certificates are outside their validity", "set this gateway's clock"},
		{string(pki.CodeRevoked), "the issuer has revoked a certificate of the peer", "issue the peer a new certificate"},
		{string(pki.CodeRevocationUnknown), "there is no current revocation list for a certificate of the peer", "renew the list under remote.crl, or set revocation: relaxed"},
		{string(pki.CodeUnknownCA), "the peer's certificate does not lead to a CA that the connection trusts", "name the issuer in remote.ca, or make the peer send its intermediates"},
		{string(pki.CodeKeyUsage), "the peer's certificate is not for signatures of IKE", "reissue it with digitalSignature, and ipsecIKE or no extended key usage"},
		{string(pki.CodeNoCertificate), "the peer sent no certificate", "make the peer send it"},
		{string(pki.CodeTooMany), "the peer sent more certificates than are looked at", "make the peer send only its own and its intermediates"},
		{string(pki.CodeTooLarge), "a certificate of the peer is larger than what is looked at", "reissue it"},
		{string(pki.CodeMalformed), "a certificate of the peer cannot be read", "reissue it"},
		{string(pki.CodeNotCA), "an issuer of the peer's certificate is not an authority", "have the issuer's certificate reissued"},
		{string(pki.CodePathLength), "an authority allows fewer intermediates below it", "have the issuer's certificate reissued"},
		{string(pki.CodeNameConstraint), "an authority may not certify the peer's name", "have the issuer's certificate reissued"},
		{string(pki.CodeCriticalExtension), "a critical extension of a certificate is not understood", "reissue the certificate without it"},
		{string(pki.CodeWeakKey), "a key of the peer's certificates is too weak", "reissue the certificate with a stronger key"},
		{string(pki.CodeWeakSignature), "a certificate of the peer is signed with a broken hash", "reissue the certificate with SHA-256 or better"},
		{string(pki.CodeAnchorAsPeer), "the peer shows the CA's own certificate", "issue the peer a certificate of its own, or pin this one"},
		{string(pki.CodeInvalid), "a certificate of the peer is refused for another reason", "reissue the certificate"},
		{CodeRefused, "the peer refused this gateway's authentication, and does not say why", "look at the peer: its log, or its own caponier why"},
		{CodeAuthentication, "authentication failed for another reason", "read the cause"},
		{CodeNoAnswer, "nothing came back at all, or the peer stopped answering", "check remote.address, that the peer runs, and that UDP 500 passes both ways"},
		{CodePort4500, "answers came on UDP 500 and none on UDP 4500", "let UDP 4500 pass both ways"},
		{CodeAuthLost, "IKE_SA_INIT passed, and IKE_AUTH did not", "let IP fragments pass, or UDP 4500 where there is a NAT"},
		{CodeNoReturn, "the tunnel is established and packets leave, but none ever came back", "let ESP or UDP 4500 pass to this gateway, and give the peer a route back"},
		{CodeVersion, "the peer speaks another version of IKE", "set the peer to IKEv2"},
		{CodeNotUnique, "the peer is connected already, and the connection keeps the older IKE SA", "set unique to replace or never, or end the older connection"},
		{CodeLimit, "a message has more payloads, proposals, transforms or fragments than this gateway looks at; it was refused unread", "configure fewer proposals at the peer; from a stranger it may be an attack"},
		{CodeQueueFull, "so many requests wait for the peer's answers that this one was given up", "see why the peer is slow, or spread the tunnels over more connections"},
		{CodeNoConnection, "a peer called from an address that no connection allows", "add a connection, or correct remote.address"},
	}
}
