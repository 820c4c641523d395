// Package logging sets up log/slog: text or JSON, a level for each subsystem
// that can change while the gateway runs, a ring of the last records for
// `caponier log`, and a brake for messages that a stranger can repeat.
package logging
