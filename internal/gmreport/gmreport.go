// Package gmreport says of GM/T 0022 and the standards beside it what caponier
// does: what is tested against whom, and what nobody outside has confirmed.
package gmreport

// State is how far something is.
type State string

// The states. Nothing is called conformant: no laboratory has looked at it.
const (
	Judged   State = "judged" // tested against what shares no code with caponier
	Tested   State = "tested" // against caponier itself, or known answers of our own
	Unsure   State = "unsure" // implemented as sources say that disagree, or are few
	NotBuilt State = "not built"
)

// Clause is one thing that the standards ask for. Clauses of GM/T 0022 are named by
// their subject: the text is not freely available.
type Clause struct {
	Standard string   `json:"standard"`
	Subject  string   `json:"subject"`
	State    State    `json:"state"`
	Tests    []string `json:"tests,omitempty"` // package.Test
	Note     string   `json:"note,omitempty"`
}

const (
	gmt0022 = "GM/T 0022"
	gmt0009 = "GM/T 0009"
	gmt0015 = "GM/T 0015"
	gmt0005 = "GM/T 0005"
	gmt0002 = "GM/T 0002"
	gmt0004 = "GM/T 0004"
	gbt35   = "GB/T 35276"
)

// Clauses is the report, by standard.
func Clauses() []Clause {
	return []Clause{
		{gmt0022, "main mode with the SM2 digital envelope, both roles", Judged, []string{"gm.TestVariants", "gm.TestForged", "operations.TestGM"}, "against an own peer on OpenSSL; no vendor's device has been tried"},
		{gmt0022, "SKEYID, its descendants, IV, KEYMAT", Judged, []string{"keys.TestGMAnswers", "gm.TestVariants"}, ""},
		{gmt0022, "quick mode: HASH 1 to 3", Unsure, []string{"gm.TestVariants", "gm.TestCures"}, "the printed form and that of public implementations differ: both are understood"},
		{gmt0022, "SK payload: form of the ciphertext", Unsure, []string{"gm.TestVariants"}, "DER by default; C1C3C2 and C1C2C3 are understood"},
		{gmt0022, "signature: form, and what it covers", Unsure, []string{"gm.TestVariants", "gm.TestForged"}, "DER over the octets by default"},
		{gmt0022, "numbers of SM4-CBC, SM3, the envelope, SM2", Judged, []string{"gm.TestTshark"}, "129 in phase 1 and 127 in ESP by default; the other is understood"},
		{gmt0022, "version octet 0x11", Unsure, []string{"gm.TestVariants", "ike.TestVersionsApart"}, "0x10 of the edition of 2010 is understood"},
		{gmt0022, "informational exchange, deletion, dead peers", Judged, []string{"gm.TestLife", "gm.TestPeerDeletesIKE", "v1.TestDeadPeer"}, ""},
		{gmt0022, "retransmission, late, repeated and crossed messages", Tested, []string{"v1.TestEveryMessageLostOnce", "v1.TestEveryMessageTwice", "v1.TestChaos", "v1.TestCrossedQuickModes", "v1.TestCrossedLate"}, ""},
		{gmt0022, "nothing secret in clear on the wire", Judged, []string{"gm.TestNothingInClear", "gm.TestWire", "operations.TestGM"}, ""},
		{gmt0022, "ESP with SM4-CBC and HMAC-SM3", Judged, []string{"esp.TestSM4AgainstGMSM"}, "the length of the ICV is not negotiated: 32, 16 or 12 octets by configuration"},
		{gmt0022, "ESP with SM4-GCM (edition of 2023)", Unsure, []string{"gm.TestVariants"}, "one source for its number, 130"},
		{gmt0022, "AH with HMAC-SM3", Tested, []string{"gm.TestVariants"}, "no other implementation in reach carries it"},
		{gmt0022, "ESP and IKE with SM1", NotBuilt, nil, "the algorithm is in hardware only"},
		{gmt0022, "keys in three layers, and their destruction", Tested, []string{"operations.TestDestroyKeys", "operations.TestGM", "v1.TestDestroy"}, "in software: what a file system has copied is out of reach"},
		{gmt0022, "lifetimes: IKE SA 24 h, IPsec SA 1 h at most", Unsure, []string{"config.TestGMRefuses", "v1.TestLifetimes"}, "remembered from the product standard"},
		{gmt0015, "SM2 certificates, separate for signing and encryption", Judged, []string{"pki.TestDual", "pki.TestOthersAcceptWhatIsIssued"}, "OpenSSL verifies what is issued"},
		{gmt0015, "revocation lists", Judged, []string{"pki.TestRevocation", "cert.TestOpenSSLAccepts"}, ""},
		{gmt0009, "SM2: signing, verifying, encryption, decryption", Judged, []string{"suite.TestSM2Signature", "suite.TestSM2Encryption", "suite.TestSM2AuthAgainstOpenSSL"}, "tested at every start too"},
		{gbt35, "SM2 key in an envelope", Tested, []string{"pki.TestTransfer"}, ""},
		{gmt0002, "SM4", Judged, []string{"sm.TestBlockVectors", "sm.TestCBCEncryptAgainstOpenSSL", "sm.TestGCMAgainstPeer"}, "tested at every start too"},
		{gmt0004, "SM3 and HMAC-SM3", Judged, []string{"sm.TestHashVectors", "sm.TestHashAgainstOpenSSL"}, "tested at every start too"},
		{gmt0005, "random numbers: frequency and poker tests", Tested, []string{"randtest.TestStandardSample"}, "on demand: caponier gm selftest"},
		{gmt0005, "the other tests of randomness", NotBuilt, nil, ""},
	}
}
