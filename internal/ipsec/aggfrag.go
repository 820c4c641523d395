package ipsec

// Aggfrag says whether a tunnel uses AGGFRAG mode, in which packets share the
// payloads of ESP packets (RFC 9347).
type Aggfrag uint8

// The uses. On: where the peer agrees. Required: not without it.
const (
	AggfragOff Aggfrag = iota
	AggfragOn
	AggfragRequired
)

var aggfragWords = []string{AggfragOff: "off", AggfragOn: "on", AggfragRequired: "required"}

// String returns the configuration's word.
func (a Aggfrag) String() string { return wordOf(aggfragWords, int(a)) }

// MarshalText makes JSON show what String shows.
func (a Aggfrag) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads what String prints.
func (a *Aggfrag) UnmarshalText(b []byte) error {
	i, err := indexOf(aggfragWords, b)
	*a = Aggfrag(i)
	return err
}

// AggfragSA is what an SA has of AGGFRAG mode. The zero value has nothing of it.
type AggfragSA struct {
	// On says that the SA carries AGGFRAG payloads and nothing else (RFC 9347,
	// Section 2.3).
	On bool
	// Whole says that the peer does not put packets together that are spread over
	// several payloads (RFC 9347, Section 5.1, the D flag).
	Whole bool
}
