// Package netio moves packets in batches between the gateway and the world:
// TUN devices, UDP sockets, raw IP sockets, and memory for tests.
package netio
