// Package frametest is what every capture of frames is tested by: one suite, and the
// network that it runs in. It needs root.
package frametest
