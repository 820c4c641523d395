package message

// VendorID is the Vendor ID payload (RFC 7296, Section 3.12).
type VendorID struct{ Data []byte }

// Type is TypeVendorID.
func (*VendorID) Type() PayloadType { return TypeVendorID }

func (p *VendorID) appendBody(dst []byte) ([]byte, error) { return append(dst, p.Data...), nil }
