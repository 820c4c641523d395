package v2

// Machine is one IKE SA with its CHILD SAs.
type Machine struct{}
