//go:build !amd64

package sm

import "unsafe"

func candidates() []*engine { return []*engine{&portableEngine} }

func (kernel) call(unsafe.Pointer) {}
