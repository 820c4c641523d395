package config

import "strings"

// DataPlane says what carries packets.
type DataPlane uint8

// The data planes.
const (
	DataPlaneUserspace DataPlane = iota
	DataPlaneKernel              // Linux's own IPsec
)

// Capture says how the user-space data plane gets at packets.
type Capture uint8

// The ways to capture.
const (
	CaptureTUN      Capture = iota // the kernel routes them to a TUN device
	CaptureAFPacket                // whole frames, by packet sockets
	CaptureAFXDP                   // whole frames, before the kernel, by AF_XDP
)

// Shutdown says what becomes of protected prefixes after a clean stop.
type Shutdown uint8

// The settings of shutdown. The zero value keeps traffic from leaving in clear.
const (
	ShutdownBlock   Shutdown = iota // they stay unreachable
	ShutdownRelease                 // they are routed as if there were no gateway
)

// Latency says whether workers stay awake for a while after a packet.
type Latency uint8

// The settings of latency.
const (
	LatencyNormal Latency = iota
	LatencyLow
)

// CaptureKeys says whether operators may capture packets with the keys.
type CaptureKeys uint8

// The settings of capture-keys.
const (
	CaptureKeysRefuse CaptureKeys = iota
	CaptureKeysAllow
)

// LogFormat is the form of log lines.
type LogFormat uint8

// The forms of log lines.
const (
	LogText LogFormat = iota
	LogJSON
)

// Auth is a way to authenticate.
type Auth uint8

// The ways to authenticate.
const (
	AuthCert Auth = iota
	AuthPSK
)

// Signature says how an RSA key signs; others have one way.
type Signature uint8

// The settings of signature. Auto: RSASSA-PKCS1-v1_5, which every peer knows.
const (
	SignatureAuto Signature = iota
	SignatureRSAPSS
)

// Revocation says what to think of a peer's certificate whose issuer has no
// current revocation list here.
type Revocation uint8

// The policies of revocation.
const (
	RevocationRelaxed Revocation = iota // it is good
	RevocationStrict                    // it is refused
)

// SHA1 says when a peer may sign with SHA-1.
type SHA1 uint8

// The settings of sha1. Auto: where it does not announce better.
const (
	SHA1Auto SHA1 = iota
	SHA1Never
	SHA1Always
)

// Unique says what becomes of several IKE SAs between the same identities.
type Unique uint8

// The settings of unique: the newer IKE SA replaces the older one, or is refused,
// or all live.
const (
	UniqueReplace Unique = iota
	UniqueKeep
	UniqueNever
)

// Encapsulation says when ESP travels in UDP (RFC 3948).
type Encapsulation uint8

// The settings of encapsulation. Auto: what suits the data plane, and in any case
// where a NAT is detected.
const (
	EncapsulationAuto Encapsulation = iota
	EncapsulationAlways
	EncapsulationNever
)

// Start says when a tunnel is set up by this end.
type Start uint8

// The settings of start.
const (
	StartNone  Start = iota // by the peer, or by an operator's command
	StartTrap               // by the first packet that it protects
	StartStart              // at once
)

// A wordList is the configuration's words for the values of a type, by value,
// and the words that other versions of the contract use.
type wordList struct {
	words []string
	later []string
}

var (
	dataPlaneWords     = wordList{[]string{"userspace", "kernel"}, nil}
	captureWords       = wordList{[]string{"tun", "afpacket", "afxdp"}, nil}
	latencyWords       = wordList{[]string{"normal", "low"}, nil}
	shutdownWords      = wordList{[]string{"block", "release"}, nil}
	captureKeysWords   = wordList{[]string{"refuse", "allow"}, nil}
	logFormatWords     = wordList{[]string{"text", "json"}, nil}
	logLevelWords      = wordList{[]string{"debug", "info", "warn", "error"}, nil}
	versionWords       = wordList{[]string{"2", "gm"}, []string{"1"}}
	authWords          = wordList{[]string{"cert", "psk"}, []string{"eap"}}
	signatureWords     = wordList{[]string{"auto", "rsa-pss"}, nil}
	revocationWords    = wordList{[]string{"relaxed", "strict"}, nil}
	sha1Words          = wordList{[]string{"auto", "never", "always"}, nil}
	uniqueWords        = wordList{[]string{"replace", "keep", "never"}, nil}
	encapsulationWords = wordList{[]string{"auto", "always", "never"}, nil}
	modeWords          = wordList{[]string{"tunnel", "transport"}, nil}
	protocolWords      = wordList{[]string{"esp", "ah", "ah+esp"}, nil}
	startWords         = wordList{[]string{"none", "trap", "start"}, nil}
	fragmentWords      = wordList{[]string{"before", "after"}, nil}
	aggfragWords       = wordList{[]string{"off", "on", "required"}, nil}
	actionWords        = wordList{[]string{"discard", "bypass"}, nil}
	priorityWords      = wordList{[]string{"low", "normal", "high"}, nil}
)

func (l wordList) word(i uint8) string {
	if int(i) < len(l.words) {
		return l.words[i]
	}
	return "unknown"
}

func (l wordList) String() string { return strings.Join(l.words, " | ") }

// String returns the configuration's word.
func (d DataPlane) String() string { return dataPlaneWords.word(uint8(d)) }

// String returns the configuration's word.
func (c Capture) String() string { return captureWords.word(uint8(c)) }

// String returns the configuration's word.
func (l Latency) String() string { return latencyWords.word(uint8(l)) }

// String returns the configuration's word.
func (k CaptureKeys) String() string { return captureKeysWords.word(uint8(k)) }

// String returns the configuration's word.
func (s Shutdown) String() string { return shutdownWords.word(uint8(s)) }

// String returns the configuration's word.
func (f LogFormat) String() string { return logFormatWords.word(uint8(f)) }

// String returns the configuration's word.
func (a Auth) String() string { return authWords.word(uint8(a)) }

// String returns the configuration's word.
func (s Signature) String() string { return signatureWords.word(uint8(s)) }

// String returns the configuration's word.
func (v Version) String() string { return versionWords.word(uint8(v)) }

// String returns the configuration's word.
func (r Revocation) String() string { return revocationWords.word(uint8(r)) }

// String returns the configuration's word.
func (s SHA1) String() string { return sha1Words.word(uint8(s)) }

// String returns the configuration's word.
func (u Unique) String() string { return uniqueWords.word(uint8(u)) }

// String returns the configuration's word.
func (e Encapsulation) String() string { return encapsulationWords.word(uint8(e)) }

// String returns the configuration's word.
func (s Start) String() string { return startWords.word(uint8(s)) }
