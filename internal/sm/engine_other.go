//go:build !amd64

package sm

import "unsafe"

func candidates() []*engine { return goEngines() }

func (kernel) call(unsafe.Pointer) {}
