package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
)

// Codes of errors. They are stable: scripts branch on them. A failed
// negotiation has the code of its cause instead, as in Failure.
const (
	CodeUsage             = "usage"              // the command was not called as it should
	CodeUnknownCommand    = "unknown-command"    // this daemon has no such command
	CodeUnknownConnection = "unknown-connection" // no such name in the configuration
	CodeUnknownTunnel     = "unknown-tunnel"
	CodeNotRunning        = "not-running" // there is no daemon to ask
	CodeRunning           = "already-running"
	CodeForbidden         = "forbidden"      // the caller may not control the daemon
	CodeBusy              = "busy"           // too many requests at once
	CodeRefused           = "refused"        // understood, but not in this state
	CodeInvalidConfig     = "invalid-config" // the configuration does not load
	CodeOff               = "gateway-off"    // not while the gateway is switched off
	CodeExists            = "exists"         // there is such an object already
	CodeNotFound          = "not-found"      // there is none
	CodeAmbiguous         = "ambiguous"      // there are several
	CodeUnsupported       = "not-supported"  // the data plane cannot do that
	CodeLimit             = "limit"          // there is no room for more
	CodeTimeout           = "timeout"
	CodeInterrupted       = "interrupted" // the daemon went away in mid-answer
	CodeFailed            = "failed"      // anything else
)

// Error is a refusal that an operator can act on.
type Error struct {
	Code    string `json:"code"` // stable
	Message string `json:"message"`
	Cure    string `json:"cure,omitempty"` // the smallest change that would help
}

// Error returns the message; code and cure are shown beside it.
func (e *Error) Error() string { return e.Message }

// Errorf makes an Error without a cure.
func Errorf(code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// UnknownConnection is the error for a name that the configuration lacks.
func UnknownConnection(name string) *Error {
	return &Error{
		Code:    CodeUnknownConnection,
		Message: fmt.Sprintf("there is no connection %q", name),
		Cure:    "caponier status lists the connections; caponier reload reads new ones",
	}
}

// UnknownTunnel is the error for a tunnel that its connection lacks.
func UnknownTunnel(t Target) *Error {
	return &Error{
		Code:    CodeUnknownTunnel,
		Message: fmt.Sprintf("connection %q has no tunnel %q", t.Connection, t.Tunnel),
		Cure:    fmt.Sprintf("caponier status %s lists its tunnels", t.Connection),
	}
}

// AsError returns the Error that err carries, or one with the code that fits
// best. It returns nil for nil.
func AsError(err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	code := CodeFailed
	if errors.Is(err, context.DeadlineExceeded) {
		code = CodeTimeout
	}
	return &Error{Code: code, Message: err.Error()}
}

// httpStatus is for clients that look at no more than the status line.
func (e *Error) httpStatus() int {
	switch e.Code {
	case CodeUsage:
		return http.StatusBadRequest
	case CodeUnknownCommand, CodeUnknownConnection, CodeUnknownTunnel, CodeNotFound:
		return http.StatusNotFound
	case CodeForbidden:
		return http.StatusForbidden
	case CodeBusy:
		return http.StatusServiceUnavailable
	case CodeTimeout:
		return http.StatusGatewayTimeout
	default:
		return http.StatusConflict
	}
}
