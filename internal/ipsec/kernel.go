package ipsec

// Mark is a packet mark with the bits of it that count, as in `ip xfrm`.
type Mark struct {
	Value uint32 `json:"value"`
	Mask  uint32 `json:"mask"`
}

// KernelSA are the parameters of an SA that only the Linux kernel has.
type KernelSA struct {
	Mark       Mark   `json:"mark,omitzero"`        // packets must carry it
	OutputMark Mark   `json:"output_mark,omitzero"` // set on packets that leave the SA
	IfID       uint32 `json:"if_id,omitempty"`      // of the xfrm interface
	// Offload names the network device that shall do the SA's cryptography.
	Offload string `json:"offload,omitempty"`
	// CPU binds an SA to one CPU, as number plus one; 0 binds it to none.
	CPU uint32 `json:"cpu,omitempty"`
}

// KernelPolicy are the parameters of a policy that only the Linux kernel has.
type KernelPolicy struct {
	Mark Mark   `json:"mark,omitzero"`
	IfID uint32 `json:"if_id,omitempty"`
}
