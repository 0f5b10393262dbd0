package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"

	"github.com/muster-pki/muster/plugins/backend"
)

// instance is one life of a plugin: a process, its connection, and the facade over it. go-plugin's Client starts
// once, so a restart makes a new instance.
type instance struct {
	cfg    *Config
	proc   *process // nil until go-plugin asked for it
	client *plugin.Client
	api    *backend.Client
	broken chan struct{} // closed when the process or its connection has ended
	once   sync.Once
	lost   func()      // called once when broken
	served atomic.Bool // a call was answered, if only by an error
}

// launch starts the process and connects to it. ctx bounds the start, not the life; lost is called, from any
// goroutine, when the instance has ended.
func launch(ctx context.Context, c *Config, x executable, sockets string, lost func(*instance)) (*instance, error) {
	i := &instance{cfg: c, broken: make(chan struct{})}
	i.lost = func() { lost(i) }
	out, errs := &lines{log: c.Log, budget: c.lines}, &lines{log: c.Log, budget: c.lines}
	i.client = plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig:  backend.Handshake(),
		VersionedPlugins: backend.HostPlugins(c.Name),
		// A runner of our own: with Cmd, go-plugin hands the plugin our stdin, ignores TempDir, and parses its
		// stderr itself (see lines). SecureConfig does not work with it and is not needed (see copyHashed).
		RunnerFunc: func(_ hclog.Logger, cmd *exec.Cmd, dir string) (runner.Runner, error) {
			i.proc = newProcess(ctx, c, x, cmd.Env, dir, i.condemn)
			return i.proc, nil
		},
		UnixSocketConfig: &plugin.UnixSocketConfig{TempDir: sockets},
		SkipHostEnv:      true,
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		AutoMTLS:         true,
		StartTimeout:     c.StartTimeout + time.Second, // ctx comes first
		Logger:           hclog.NewNullLogger(),        // what happens is logged by supervise
		SyncStdout:       out,
		SyncStderr:       errs,
		// Later options win over go-plugin's own, whose receive limit is 2 GiB.
		GRPCDialOptions: []grpc.DialOption{
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(backend.MaxMessage), grpc.MaxCallSendMsgSize(backend.MaxMessage)),
			grpc.WithMaxHeaderListSize(64 << 10),
			grpc.WithContextDialer(func(ctx context.Context, target string) (net.Conn, error) { return i.proc.dial(ctx, target) }),
			grpc.WithIdleTimeout(0), // an idle connection would be closed, and cannot be dialled again
			grpc.WithDisableRetry(), // whoever calls knows what may be repeated
			grpc.WithNoProxy(),      // the target is no name
			grpc.WithDisableServiceConfig(),
			// Windows of a fixed size: gRPC would measure the path with a ping for every message, which on a socket of this
			// machine doubles what a call writes, reads and wakes.
			grpc.WithStaticStreamWindowSize(backend.Window), grpc.WithStaticConnWindowSize(backend.Window),
		},
	})
	if err := i.connect(); err != nil {
		i.stop()
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
		return nil, err
	}
	return i, nil
}

func (i *instance) connect() error {
	protocol, err := i.client.Client()
	if err != nil {
		return err
	}
	i.api, err = backend.Dispense(protocol)
	return err
}

// ready configures the plugin and asks what it is.
func (i *instance) ready(ctx context.Context) (*backend.Description, error) {
	if err := i.api.Configure(ctx, i.cfg.Config); err != nil {
		return nil, i.judged(ctx, err)
	}
	return i.api.Describe(ctx)
}

// settle ends the start: from now on the start's context has no power over the process.
func (i *instance) settle() error {
	if !i.proc.settled() {
		return errors.New("the start took too long")
	}
	return nil
}

// condemn ends the instance when its process or its connection has: neither is of use without the other.
func (i *instance) condemn() {
	i.once.Do(func() {
		close(i.broken)
		i.lost()
		i.proc.kill()
	})
}

func (i *instance) isBroken() bool {
	select {
	case <-i.broken:
		return true
	default:
		return false
	}
}

// stop ends the process and cleans up after it. go-plugin's Kill waits without bound for a plugin that does not
// answer, so it comes when the process is gone.
func (i *instance) stop() {
	if i.proc != nil {
		i.proc.stop(i.cfg.StopTimeout)
	}
	i.client.Kill()
}
