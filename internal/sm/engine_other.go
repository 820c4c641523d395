//go:build !amd64

package sm

func engines() []*engine { return []*engine{&portableEngine} }
