package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"

	"caponier/internal/lab/netns"
)

// requestTimeout is how long a client waits. A packet that is dropped by policy
// is never answered, so that it is also how long a refusal takes.
const requestTimeout = 4 * time.Second

// Serve answers HTTP requests on the servers of all customers, from inside
// their namespaces, until ctx ends. Each answers with its name and repeats the
// timestamp that it was given.
func Serve(ctx context.Context, prefix string) error {
	mux := http.NewServeMux()
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		name, _ := r.Context().Value(serverName{}).(string)
		fmt.Fprintf(w, "%s %s", name, r.URL.Query().Get("time"))
	})
	srv.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		for _, cu := range customers {
			if a, ok := c.LocalAddr().(*net.TCPAddr); ok && a.AddrPort().Addr().Unmap() == cu.Server {
				ctx = context.WithValue(ctx, serverName{}, cu.serverName())
			}
		}
		return ctx
	}
	failed := make(chan error, len(customers))
	for _, cu := range customers {
		l, err := netns.NS{Name: prefix + cu.serverName()}.Listen("tcp", netip.AddrPortFrom(cu.Server, 80).String())
		if err != nil {
			return fmt.Errorf("server of customer %s: %w", cu.Letter, err)
		}
		go func() { failed <- srv.Serve(l) }()
	}
	select {
	case <-ctx.Done():
		return srv.Close()
	case err := <-failed:
		return errors.Join(err, srv.Close())
	}
}

type serverName struct{}

// request sends a timestamp from a client to a server and returns the answer.
func request(ctx context.Context, client netns.NS, server netip.Addr, stamp string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	tr := &http.Transport{
		DialContext:       client.Dial,
		DisableKeepAlives: true,
	}
	url := fmt.Sprintf("http://%s/?time=%s", netip.AddrPortFrom(server, 80), stamp)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	return string(body), err
}
