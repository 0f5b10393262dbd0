package backend

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
)

// What the host tells a plugin process through its environment.
const (
	cookieKey   = "MUSTER_PLUGIN"
	cookieValue = "muster.backend"

	// LifelineEnv names the file descriptor whose end of file tells the plugin that its host is gone.
	LifelineEnv = "MUSTER_PLUGIN_LIFELINE"
	// LogLevelEnv is the lowest slog.Level that the host keeps.
	LogLevelEnv = "MUSTER_PLUGIN_LOG_LEVEL"
)

// closeWithin bounds how long a plugin finishes after its host has gone or has told it to stop.
const closeWithin = 2 * time.Second

// stderr is kept since go-plugin replaces os.Stderr while it serves.
var stderr = os.Stderr

// Logger returns the logger of a plugin process: JSON lines on stderr, which the host writes into its own log
// under the plugin's name. Serve makes it slog's default. Never log a secret: the host does not know one.
func Logger() *slog.Logger {
	var level slog.Level
	if n, err := strconv.Atoi(os.Getenv(LogLevelEnv)); err == nil {
		level = slog.Level(n)
	}
	return slog.New(slog.NewJSONHandler(stderr, &slog.HandlerOptions{Level: level, ReplaceAttr: readable}))
}

// readable keeps a duration what it is for the host's log: JSON would make it a number of nanoseconds.
func readable(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(a.Value.Duration().String())
	}
	return a
}

// Serve makes this process the plugin b. It is the whole of a plugin's main, called before anything is written to
// stdout, and returns or exits when the host tells it to stop or is gone, however it died.
//
// SIGINT, SIGTERM and SIGHUP are ignored: they reach a whole process group or service, and it is the host that
// drains its calls and then stops its plugins. If b has a method Close() error, it is called last, when no call is
// under way or two seconds have passed.
func Serve(b Backend) {
	if os.Getenv(cookieKey) != cookieValue {
		exit("this is a CA plugin: it is started by muster, not by hand")
	}
	lifeline, err := openLifeline(os.Getenv(LifelineEnv))
	if err != nil {
		exit(fmt.Sprintf("%s: %v", LifelineEnv, err))
	}
	// SIGPIPE too, so that a log line after the host's death does not cut Close short.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	log := Logger()
	slog.SetDefault(log)
	s := newServer(b, log)
	stop := sync.OnceFunc(func() { shutDown(s) })
	go func() {
		_, _ = io.Copy(io.Discard, lifeline)
		stop()
		os.Exit(0)
	}()
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig:  Handshake(),
		VersionedPlugins: map[int]plugin.PluginSet{protocolVersion: {pluginName: &grpcPlugin{server: s}}},
		GRPCServer: func(opts []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(opts, grpc.MaxRecvMsgSize(MaxMessage), grpc.MaxSendMsgSize(MaxMessage),
				grpc.StaticStreamWindowSize(Window), grpc.StaticConnWindowSize(Window),
				// A goroutine that has served a call has a stack of the size that calls need: a new one would grow its own.
				grpc.NumStreamWorkers(uint32(4*runtime.GOMAXPROCS(0))))...)
		},
		Logger: hclog.New(&hclog.LoggerOptions{Level: hclog.Warn, Output: stderr, JSONFormat: true}),
	})
	stop()
}

// openLifeline opens the descriptor that the host gave, and keeps it from this process's own children.
func openLifeline(fd string) (*os.File, error) {
	n, err := strconv.Atoi(fd)
	if err != nil || n < 3 {
		return nil, fmt.Errorf("no file descriptor: a plugin does not run without its host")
	}
	var st syscall.Stat_t
	if err := syscall.Fstat(n, &st); err != nil {
		return nil, err
	}
	if st.Mode&syscall.S_IFMT != syscall.S_IFIFO {
		return nil, fmt.Errorf("file descriptor %d is no pipe", n)
	}
	syscall.CloseOnExec(n)
	return os.NewFile(uintptr(n), "lifeline"), nil
}

// shutDown lets the calls under way finish and closes the backend, both within closeWithin.
func shutDown(s *server) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.drain(closeWithin)
		if c, ok := s.b.(io.Closer); ok {
			if err := c.Close(); err != nil {
				s.log.Error("closing the backend", "error", err)
			}
		}
	}()
	t := time.NewTimer(closeWithin + closeWithin/2)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
		s.log.Error("the backend did not close in time")
	}
}

func exit(message string) {
	fmt.Fprintln(stderr, message)
	os.Exit(1)
}
