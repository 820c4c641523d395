// Package archtest holds the tests that keep the walls of the house where
// docs/architecture.md says they are. It has no code of its own.
package archtest
