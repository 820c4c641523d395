//go:build !amd64

package sm

import "unsafe"

func engines() []*engine { return []*engine{&portableEngine} }

func (kernel) call(unsafe.Pointer) {}
