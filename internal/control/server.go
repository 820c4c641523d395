package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"caponier/internal/logging"
)

// DefaultSocket is where the daemon listens where the configuration does not
// say.
const DefaultSocket = "/run/caponier/control.sock"

// Server answers operators on a unix socket.
type Server struct {
	listener *listener
	lock     *os.File
	http     *http.Server
	stop     context.CancelCauseFunc
	logger   *slog.Logger

	closing  sync.Once
	closeErr error
}

// Listen opens the socket at path with mode 0600, in a directory that it makes
// with mode 0700 where it is missing. The socket of a dead daemon is replaced;
// that of a living one gives an error with CodeRunning.
//
// Only root and the user that the daemon runs as may connect.
func Listen(path string, g Gateway, logger *slog.Logger) (*Server, error) {
	return listenWith(path, g, logger, defaultLimits())
}

func listenWith(path string, g Gateway, logger *slog.Logger, l limits) (*Server, error) {
	if err := prepareDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	lock, err := lockSocket(path)
	if err != nil {
		return nil, err
	}
	ln, err := bind(path)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	ctx, stop := context.WithCancelCause(context.Background())
	s := &Server{
		listener: &listener{
			UnixListener: ln, logger: logger, slots: make(chan struct{}, l.connections),
			brake: logging.NewBrake(3, time.Minute), refused: make(chan struct{}, refusals),
		},
		lock: lock, stop: stop, logger: logger,
	}
	s.http = &http.Server{
		Handler:           newHandler(g, logger, l),
		ReadHeaderTimeout: l.read,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, callerKey{}, c.(*conn).caller)
		},
		ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
	return s, nil
}

func prepareDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	if info.Mode().Perm()&0o022 != 0 && info.Mode()&fs.ModeSticky == 0 {
		return &Error{
			Code:    CodeRefused,
			Message: fmt.Sprintf("others may write to %s, and could put their own control socket there", dir),
			Cure:    "chmod go-w " + dir,
		}
	}
	return nil
}

// lockSocket takes the lock beside the socket, which a dead daemon cannot hold:
// unlike a trial connection it leaves no gap between look and bind. The file
// stays, because removing it would let two daemons lock two files of one name.
func lockSocket(path string) (*os.File, error) {
	f, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = &Error{
			Code:    CodeRunning,
			Message: "another caponier is running on " + path,
			Cure:    "stop it, or set another gateway.control",
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// bind is called with the lock held: a socket that is there is nobody's.
func bind(path string) (*net.UnixListener, error) {
	info, err := os.Lstat(path)
	switch {
	case err == nil && info.Mode().Type() != fs.ModeSocket:
		return nil, Errorf(CodeRefused, "%s exists and is no socket", path)
	case err == nil:
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("control socket: %w", err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("control socket: %w", err)
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	// Whoever connects before this line meets the check of his credentials.
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("control socket: %w", err), ln.Close())
	}
	return ln, nil
}

// Serve answers until Close, after which it returns nil.
func (s *Server) Serve() error {
	err := s.http.Serve(s.listener)
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("control socket: %w", err)
}

// closeGrace is how long Close lets running commands finish.
const closeGrace = 2 * time.Second

// Close removes the socket, ends streams, and gives other commands a moment to
// finish. It is idempotent.
func (s *Server) Close() error {
	s.closing.Do(func() {
		s.stop(errStopping)
		ctx, cancel := context.WithTimeout(context.Background(), closeGrace)
		defer cancel()
		err := s.http.Shutdown(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			s.logger.Warn("control commands were cut off")
			err = s.http.Close()
		}
		// Without Serve the HTTP server does not know the listener.
		if lerr := s.listener.Close(); !errors.Is(lerr, net.ErrClosed) {
			err = errors.Join(err, lerr)
		}
		s.listener.refusing.Wait()
		s.closeErr = errors.Join(err, s.lock.Close())
	})
	return s.closeErr
}

// caller is the process at the other end.
type caller struct{ uid, pid int }

type callerKey struct{}

// callerOf returns who sent a request, or -1 for both where it is unknown.
func callerOf(ctx context.Context) caller {
	if c, ok := ctx.Value(callerKey{}).(caller); ok {
		return c
	}
	return caller{-1, -1}
}

// mayControl reports whether a user may control a daemon that runs as self.
func mayControl(uid, self int) bool { return uid == 0 || uid == self }

// listener accepts those who may control the daemon, up to a number of
// connections. Others get an answer in HTTP and are closed.
type listener struct {
	*net.UnixListener
	logger *slog.Logger
	slots  chan struct{}
	brake  *logging.Brake

	refused  chan struct{} // holds one for each client that is being refused
	refusing sync.WaitGroup
}

type conn struct {
	*net.UnixConn
	caller  caller
	release func()
}

// Close gives the slot back.
func (c *conn) Close() error {
	err := c.UnixConn.Close()
	c.release()
	return err
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		who, err := credentials(c)
		switch {
		case err != nil:
			l.refuse(c, who, Errorf(CodeForbidden, "the credentials of the caller are unknown"))
			continue
		case !mayControl(who.uid, os.Geteuid()):
			l.refuse(c, who, Errorf(CodeForbidden, "user %d may not control this daemon", who.uid))
			continue
		}
		select {
		case l.slots <- struct{}{}:
			return &conn{UnixConn: c, caller: who, release: sync.OnceFunc(func() { <-l.slots })}, nil
		default:
			l.refuse(c, who, Errorf(CodeBusy, "%d operators are connected already", cap(l.slots)))
		}
	}
}

// refusals is how many clients are told at once why they are refused; more are
// cut off in silence.
const refusals = 8

// refusalTime is how long a refused client has to ask and to listen.
const refusalTime = time.Second

// refuse takes over c: it answers what is asked, and closes.
func (l *listener) refuse(c *net.UnixConn, who caller, e *Error) {
	if lg, ok := l.brake.Limit(l.logger); ok {
		lg.Warn("control connection refused", "code", e.Code, "uid", who.uid, "pid", who.pid)
	}
	select {
	case l.refused <- struct{}{}:
		l.refusing.Go(func() {
			defer func() { <-l.refused }()
			// The client may be gone already: what fails needs no second report.
			_ = tell(c, e)
			_ = c.Close()
		})
	default:
		_ = c.Close()
	}
}

// tell answers the request on c with e. An answer before the request, or a close
// before its end, would look like a broken daemon to the client.
func tell(c *net.UnixConn, e *Error) error {
	if err := c.SetDeadline(time.Now().Add(refusalTime)); err != nil {
		return err
	}
	if _, err := c.Read(make([]byte, 4096)); err != nil {
		return err
	}
	body, err := json.Marshal(frame{Error: e})
	if err != nil {
		return err
	}
	status := e.httpStatus()
	if _, err := fmt.Fprintf(c, "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
		status, http.StatusText(status), len(body), body); err != nil {
		return err
	}
	if err := c.CloseWrite(); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, c)
	return err
}

// credentials returns who connected (SO_PEERCRED, unix(7)).
func credentials(c *net.UnixConn) (caller, error) {
	who := caller{-1, -1}
	raw, err := c.SyscallConn()
	if err != nil {
		return who, err
	}
	var cred *syscall.Ucred
	cerr := raw.Control(func(fd uintptr) {
		cred, err = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err = errors.Join(cerr, err); err != nil {
		return who, err
	}
	return caller{int(cred.Uid), int(cred.Pid)}, nil
}
