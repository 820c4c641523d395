//go:build !amd64 && !arm64

package sm

func carryless() bool { return false }

func products(z *[6]uint64, a, b *[3]uint64) {
	for i := range a {
		z[2*i+1], z[2*i] = clmul(a[i], b[i])
	}
}
