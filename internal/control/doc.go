// Package control is how operators reach the gateway: one registry of commands,
// the values that they exchange, and a transport over a unix socket. The
// registry knows nothing of the transport, and what people see is made from the
// same value that --json prints.
package control
