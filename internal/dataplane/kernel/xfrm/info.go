package xfrm

// SADInfo is what MsgGetSADInfo asks for: how many states there are, and the
// buckets of the kernel's table of them.
type SADInfo struct {
	States              uint32
	Buckets, MaxBuckets uint32
}

// SPDInfo is what MsgGetSPDInfo asks for: how many policies there are, of the
// gateway and of sockets.
type SPDInfo struct {
	In, Out, Forward                   uint32
	SocketIn, SocketOut, SocketForward uint32
}

// Attributes of MsgNewSADInfo (enum xfrm_sadattr_type_t) and of MsgNewSPDInfo
// (enum xfrm_spdattr_type_t).
const (
	attrSADCount uint16 = 1
	attrSADHash  uint16 = 2
	attrSPDInfo  uint16 = 1
)

// AppendInfoRequest appends the payload of MsgGetSADInfo and MsgGetSPDInfo.
func AppendInfoRequest(b []byte) []byte { return append(b, 0, 0, 0, 0) }

// ParseSADInfo reads the payload of MsgNewSADInfo.
func ParseSADInfo(b []byte) (SADInfo, error) {
	var i SADInfo
	if len(b) < 4 {
		return i, ErrShort
	}
	err := eachAttr(b[4:], func(kind uint16, v []byte) error {
		switch kind {
		case attrSADCount:
			return parseUint32(&i.States, v, "number of states")
		case attrSADHash:
			if err := need(v, 8, "buckets"); err != nil {
				return err
			}
			i.Buckets, i.MaxBuckets = native.Uint32(v), native.Uint32(v[4:])
		}
		return nil
	})
	return i, err
}

// ParseSPDInfo reads the payload of MsgNewSPDInfo.
func ParseSPDInfo(b []byte) (SPDInfo, error) {
	var i SPDInfo
	if len(b) < 4 {
		return i, ErrShort
	}
	err := eachAttr(b[4:], func(kind uint16, v []byte) error {
		if kind != attrSPDInfo {
			return nil
		}
		if err := need(v, 24, "numbers of policies"); err != nil {
			return err
		}
		for n, x := range []*uint32{&i.In, &i.Out, &i.Forward, &i.SocketIn, &i.SocketOut, &i.SocketForward} {
			*x = native.Uint32(v[4*n:])
		}
		return nil
	})
	return i, err
}
