// Package vm tests what needs a kernel with ESP and AH, inside the virtual
// machine of scripts/vm.sh: started outside, its test binary boots the machine
// and starts again inside. The network there is one of namespaces:
//
//	hostA ─ gwA ═══════════ gwB ─ hostB
//
// Three makes of gateway, keyed by hand, stand at the ends: caponier's plane in user space, its
// kernel plane, and the kernel as `ip xfrm` configures it, which shares no code
// with either and is their judge. Two more speak IKEv2 with caponier and leave ESP
// and AH to that kernel: strongSwan and Libreswan.
//
// Without flags it runs a short form. With -update it runs every row, and writes
// docs/planes.md if every row holds; with -long it only runs them.
package vm
