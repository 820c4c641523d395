package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"caponier/internal/keystore"
)

// limits are what a client may use up.
type limits struct {
	connections int           // open at once
	requests    int           // under way at once
	body        int64         // octets of a request
	read        time.Duration // for a request to arrive
	write       time.Duration // for the client to take one result
	unary       time.Duration // for a command with one result
}

func defaultLimits() limits {
	return limits{
		connections: 64, requests: 32, body: 64 << 10,
		read: 10 * time.Second, write: 10 * time.Second, unary: time.Minute,
	}
}

// pathPrefix stands before the words of a command: /v1/sa/list.
const pathPrefix = "/v1/"

func (c *Command) path() string { return pathPrefix + strings.ReplaceAll(c.Name, " ", "/") }

func (c *Command) method() string {
	if c.Reads {
		return http.MethodGet
	}
	return http.MethodPost
}

// frame is one line of a stream: a result, or its end.
type frame struct {
	Result json.RawMessage `json:"result,omitempty"`
	Error  *Error          `json:"error,omitempty"`
	Done   bool            `json:"done,omitempty"` // all results were sent
}

// errStopping is the cause of a context that ends with the server.
var errStopping = &Error{
	Code: CodeInterrupted, Message: "the daemon is stopping", Cure: "try again when it runs",
}

// handler serves the registry over HTTP: GET with a query for commands that
// only read, POST with a JSON object for others. A command with one result
// answers with it; a stream answers with one frame per line.
type handler struct {
	gateway Gateway
	logger  *slog.Logger
	limits  limits
	slots   chan struct{}
	mux     *http.ServeMux
}

func newHandler(g Gateway, logger *slog.Logger, l limits) *handler {
	h := &handler{gateway: g, logger: logger, limits: l, slots: make(chan struct{}, l.requests), mux: http.NewServeMux()}
	for _, c := range Commands() {
		h.mux.HandleFunc(c.method()+" "+c.path(), func(w http.ResponseWriter, r *http.Request) { h.command(w, r, &c) })
	}
	h.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		h.fail(w, Errorf(CodeUnknownCommand, "%s %s is no command of this daemon", r.Method, r.URL.Path))
	})
	return h
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
		h.mux.ServeHTTP(w, r)
	default:
		h.fail(w, Errorf(CodeBusy, "the daemon is busy with %d other requests", h.limits.requests))
	}
}

func (h *handler) command(w http.ResponseWriter, r *http.Request, c *Command) {
	values, err := h.values(w, r, c)
	if err != nil {
		h.fail(w, err)
		return
	}
	req, err := c.Request(values)
	if err != nil {
		h.fail(w, err)
		return
	}
	who := callerOf(r.Context())
	if !c.Reads {
		h.logger.Info("operator command", "command", c.Name, "target", req.subject(), "uid", who.uid, "pid", who.pid)
	}
	if c.Streams {
		err = h.stream(w, r, c, req)
	} else {
		err = h.single(w, r, c, req)
	}
	if err != nil && !c.Reads {
		e := AsError(err)
		h.logger.Warn("operator command failed", "command", c.Name, "target", req.subject(), "code", e.Code, "error", e.Message)
	}
}

// values reads the parameters.
func (h *handler) values(w http.ResponseWriter, r *http.Request, c *Command) (map[string]any, error) {
	values := make(map[string]any)
	if r.Method == http.MethodGet {
		for name, v := range r.URL.Query() {
			if len(v) != 1 {
				return nil, Errorf(CodeUsage, "parameter %q is given %d times", name, len(v))
			}
			values[name] = v[0]
		}
		return values, nil
	}
	// A server-wide ReadTimeout would end streams too.
	rc := http.NewResponseController(w)
	if err := rc.SetReadDeadline(time.Now().Add(h.limits.read)); err != nil {
		return nil, err
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, h.limits.body))
	if err != nil {
		if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
			return nil, Errorf(CodeUsage, "the request is longer than %d octets", h.limits.body)
		}
		return nil, Errorf(CodeUsage, "read the request: %v", err)
	}
	if err := rc.SetReadDeadline(time.Time{}); err != nil {
		return nil, err
	}
	if len(body) == 0 {
		return values, nil
	}
	defer clear(body)
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(body, &raw); err != nil {
		return nil, Errorf(CodeUsage, "the request is no JSON object: %v", err)
	}
	for name, text := range raw {
		if slices.ContainsFunc(c.Params, func(p Param) bool { return p.Name == name && p.Type == Secret }) {
			// No string is made of a key: nobody could wipe it.
			key, err := keystore.ParseSAKey(bytes.Trim(text, `"`))
			clear(text)
			if err != nil {
				return nil, Errorf(CodeUsage, "parameter %q is no key in hexadecimal digits", name)
			}
			values[name] = key
			continue
		}
		var v any
		if err := json.Unmarshal(text, &v); err != nil {
			return nil, Errorf(CodeUsage, "parameter %q: %v", name, err)
		}
		values[name] = v
	}
	return values, nil
}

func (h *handler) single(w http.ResponseWriter, r *http.Request, c *Command, req Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), h.limits.unary)
	defer cancel()
	var result Result
	err := c.Run(ctx, h.gateway, req, func(v Result) error { result = v; return nil })
	if err = stopped(ctx, err); err != nil {
		h.fail(w, err)
		return err
	}
	h.answer(w, http.StatusOK, result)
	return nil
}

func (h *handler) stream(w http.ResponseWriter, r *http.Request, c *Command, req Request) error {
	w.Header().Set("Content-Type", "application/x-ndjson")
	rc := http.NewResponseController(w)
	send := func(f frame) error {
		if err := rc.SetWriteDeadline(time.Now().Add(h.limits.write)); err != nil {
			return err
		}
		if err := json.NewEncoder(w).Encode(f); err != nil {
			return err
		}
		return rc.Flush()
	}
	if err := rc.Flush(); err != nil {
		return err
	}
	err := c.Run(r.Context(), h.gateway, req, func(v Result) error {
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		return send(frame{Result: b})
	})
	if err = stopped(r.Context(), err); err != nil {
		// The client may be gone; then there is nobody to tell.
		_ = send(frame{Error: AsError(err)})
		return err
	}
	return send(frame{Done: true})
}

// stopped returns errStopping where the server's end was the cause.
func stopped(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), errStopping) {
		return errStopping
	}
	return err
}

func (h *handler) fail(w http.ResponseWriter, err error) {
	e := AsError(err)
	h.answer(w, e.httpStatus(), frame{Error: e})
}

func (h *handler) answer(w http.ResponseWriter, code int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		h.logger.Error("control answer has no JSON form", "error", err)
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(h.limits.write)); err != nil {
		h.logger.Debug("control client is gone", "error", err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	if _, err := w.Write(append(b, '\n')); err != nil {
		h.logger.Debug("control client is gone", "error", err)
	}
}
