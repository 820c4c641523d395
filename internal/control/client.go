package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"syscall"
	"time"

	"caponier/internal/secret"
)

// maxResult is the longest result that a client takes: some 100,000 SAs.
const maxResult = 256 << 20

// dialTimeout is how long a client waits for a daemon that accepts nothing.
const dialTimeout = 5 * time.Second

// Client calls the commands of a daemon through its socket. It may be used by
// several goroutines at once.
type Client struct {
	path string
	http *http.Client
}

// NewClient makes a client for the socket at path. It does not connect yet.
func NewClient(path string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		d := net.Dialer{Timeout: dialTimeout}
		return d.DialContext(ctx, "unix", path)
	}
	return &Client{path: path, http: &http.Client{Transport: &http.Transport{
		DialContext: dial, DisableCompression: true, MaxIdleConnsPerHost: 1,
	}}}
}

// Close gives up idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Call runs a command on the daemon with the given parameters. each gets the
// result, or one after the other for a stream, also in the JSON form that the
// daemon sent. Every error of the daemon or on the way is an *Error; what each
// returns comes back as it is.
func (c *Client) Call(ctx context.Context, cmd Command, params map[string]any, each func(Result, json.RawMessage) error) error {
	req, err := newRequest(ctx, cmd, params)
	if err != nil {
		return AsError(err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.dialError(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return refusal(resp)
	}
	if cmd.Streams {
		return readStream(ctx, resp.Body, cmd, each)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxResult))
	if err != nil {
		return interrupted(ctx, err)
	}
	return deliver(cmd, bytes.TrimSpace(b), each)
}

func newRequest(ctx context.Context, cmd Command, params map[string]any) (*http.Request, error) {
	u := url.URL{Scheme: "http", Host: "caponier", Path: cmd.path()}
	if cmd.Reads {
		q := make(url.Values, len(params))
		for name, v := range params {
			q.Set(name, fmt.Sprint(v))
		}
		u.RawQuery = q.Encode()
		return http.NewRequestWithContext(ctx, cmd.method(), u.String(), nil)
	}
	body, err := json.Marshal(revealed(params))
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, cmd.method(), u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	return req, nil
}

// revealed gives keys the form in which they travel: the socket is the daemon's
// alone.
func revealed(params map[string]any) map[string]any {
	out := make(map[string]any, len(params))
	for name, v := range params {
		if key, ok := v.(secret.Key); ok {
			v = hex.EncodeToString(key.Bytes())
		}
		out[name] = v
	}
	return out
}

func readStream(ctx context.Context, r io.Reader, cmd Command, each func(Result, json.RawMessage) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var f frame
		if err := json.Unmarshal(lines.Bytes(), &f); err != nil {
			return interrupted(ctx, err)
		}
		switch {
		case f.Error != nil:
			return f.Error
		case f.Done:
			return nil
		}
		if err := deliver(cmd, f.Result, each); err != nil {
			return err
		}
	}
	err := lines.Err()
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return interrupted(ctx, err)
}

func deliver(cmd Command, raw json.RawMessage, each func(Result, json.RawMessage) error) error {
	v, err := cmd.Decode(raw)
	if err != nil {
		return &Error{
			Code: CodeFailed, Message: fmt.Sprintf("the answer of the daemon is not understood: %v", err),
			Cure: "compare caponier version of the daemon with this one",
		}
	}
	return each(v, raw)
}

// refusal reads the error that the daemon answered with.
func refusal(resp *http.Response) error {
	var f frame
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err == nil {
		err = json.Unmarshal(b, &f)
	}
	if err != nil || f.Error == nil {
		return Errorf(CodeFailed, "the daemon answered %s", resp.Status)
	}
	return f.Error
}

func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return &Error{Code: CodeInterrupted, Message: "interrupted"}
	}
	return Errorf(CodeInterrupted, "the daemon broke off its answer: %v", err)
}

func (c *Client) dialError(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &Error{
			Code:    CodeNotRunning,
			Message: fmt.Sprintf("the daemon is not running (no socket at %s)", c.path),
			Cure:    "start it with caponier run -c FILE, or name its socket with --control",
		}
	case errors.Is(err, syscall.ECONNREFUSED):
		return &Error{
			Code:    CodeNotRunning,
			Message: fmt.Sprintf("the daemon is not running (nobody listens at %s)", c.path),
			Cure:    "start it with caponier run -c FILE",
		}
	case errors.Is(err, fs.ErrPermission):
		return &Error{
			Code:    CodeForbidden,
			Message: fmt.Sprintf("%s belongs to another user", c.path),
			Cure:    "run the command as root, or as the user that the daemon runs as",
		}
	case errors.Is(err, context.Canceled):
		return &Error{Code: CodeInterrupted, Message: "interrupted"}
	default:
		return &Error{Code: AsError(err).Code, Message: fmt.Sprintf("ask the daemon at %s: %v", c.path, err)}
	}
}
