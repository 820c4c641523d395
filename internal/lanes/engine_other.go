//go:build !amd64

package lanes

import "unsafe"

func hasInstructions(Feature) bool { return false }

// The kernels are all there is of this package; here are none to call.
const (
	kAesEncrypt16 kernel = iota
	kAesEncrypt32
	kAesDecrypt
	kAesSubBytes
	kAesInvMixColumns
	kGcmSeal
	kGcmOpen
	kGcmAbsorb
	kGcmSetup
	kDesBlocks
	kMd5Lanes16
	kMd5Lanes32
	kMd5Outer16
	kMd5Outer32
	kSha1Lanes16
	kSha1Lanes32
	kSha1Outer16
	kSha1Outer32
	kSha256Lanes16
	kSha256Lanes32
	kSha256Outer16
	kSha256Outer32
)

func (kernel) call(unsafe.Pointer) {}
