package host

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/plugins/backend"
)

// StartTimeout is Config.StartTimeout where that is 0.
const StartTimeout = 30 * time.Second

// Config says which plugin to run, and how. Name and Plugin are needed; zero values work for the rest.
type Config struct {
	// Name is the configured backend's: it stands in errors, log lines and metrics.
	Name string
	// Plugin is the name of a shipped backend, run as `Self plugin NAME`, or a third party's executable, an
	// absolute path.
	Plugin string
	// SHA256 is the hexadecimal hash of a third party's executable, without which it is not run. A shipped
	// backend has none: it is this very program.
	SHA256 string
	// Config is the backend's own configuration, YAML, at most backend.MaxConfig.
	Config []byte
	// Env is what the process finds in its environment ("KEY=value") beside PATH, HOME, TMPDIR, TZ,
	// SSL_CERT_FILE, SSL_CERT_DIR and GODEBUG, which are the host's. Nothing else of the host's reaches it.
	Env []string

	// Assume is what the plugin described itself as when it last ran with this Config, nil where that is not known. With it, a plugin that
	// runs and whose Configure is UNAVAILABLE is started all the same, as one that has just died: it is launched again until it can be
	// configured, and used when it describes itself like that.
	Assume *backend.Description

	// Dir holds private run directories: sockets, and the copy of a third party's executable. It is made if
	// missing, mode 0700; "" takes the system's directory for temporary files.
	Dir string
	// Self is the program that shipped backends are part of; "" is /proc/self/exe.
	Self string
	// Log takes the host's lines and the plugin's own, all with plugin=Name; nil discards them.
	Log *slog.Logger

	// CallTimeout bounds a call whose context has no deadline; 0 is 30 s.
	CallTimeout time.Duration
	// StartTimeout bounds launch, Configure and Describe together; 0 is the constant.
	StartTimeout time.Duration
	// StopTimeout is how long a plugin that was told to stop lives before it is killed; 0 is 5 s.
	StopTimeout time.Duration
	// BackoffFirst and BackoffMax space the restarts: the first follows at once, the next after BackoffFirst
	// (0 is 100 ms), each later one after twice as long, up to BackoffMax (0 is 10 s). A process that answered a
	// call begins the count anew.
	BackoffFirst, BackoffMax time.Duration
	// After is the timer of the backoff; nil is time.After.
	After func(time.Duration) <-chan time.Time
	// Clock measures calls; nil is time.Now.
	Clock func() time.Time

	// OnRestart is called after each restart that succeeded.
	OnRestart func(name string)
	// OnBegin is called before each call, which has the context that it returns; end is called after it.
	OnBegin func(ctx context.Context, name, method string) (_ context.Context, end func(code codes.Code))
	// OnCall is called after each call, with the status that the caller got.
	OnCall func(name, method string, code codes.Code, took time.Duration)

	lines *lineBudget
}

// withDefaults checks the configuration and fills what is empty.
func (c Config) withDefaults() (Config, error) {
	if c.Name == "" {
		return c, errors.New("a plugin without a name")
	}
	if err := c.checkPlugin(); err != nil {
		return c, fmt.Errorf("%s: %w", c.Name, err)
	}
	if len(c.Config) > backend.MaxConfig {
		return c, fmt.Errorf("%s: a configuration of %d bytes, more than %d", c.Name, len(c.Config), backend.MaxConfig)
	}
	for _, e := range c.Env {
		key, _, ok := strings.Cut(e, "=")
		if !ok || key == "" || strings.HasPrefix(key, "PLUGIN_") || strings.HasPrefix(key, "MUSTER_PLUGIN") {
			return c, fmt.Errorf("%s: the environment cannot hold %q", c.Name, key)
		}
	}
	if c.Self == "" {
		c.Self = "/proc/self/exe"
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.Log = c.Log.With("plugin", c.Name)
	for _, d := range []struct {
		at    *time.Duration
		value time.Duration
	}{
		{&c.CallTimeout, 30 * time.Second}, {&c.StartTimeout, StartTimeout}, {&c.StopTimeout, 5 * time.Second},
		{&c.BackoffFirst, 100 * time.Millisecond}, {&c.BackoffMax, 10 * time.Second},
	} {
		if *d.at <= 0 {
			*d.at = d.value
		}
	}
	if c.After == nil {
		c.After = time.After
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	c.lines = &lineBudget{clock: c.Clock}
	if c.OnRestart == nil {
		c.OnRestart = func(string) {}
	}
	if c.OnBegin == nil {
		c.OnBegin = func(ctx context.Context, _, _ string) (context.Context, func(codes.Code)) {
			return ctx, func(codes.Code) {}
		}
	}
	if c.OnCall == nil {
		c.OnCall = func(string, string, codes.Code, time.Duration) {}
	}
	return c, nil
}

// shipped reports whether the plugin is part of this program.
func (c *Config) shipped() bool { return !strings.Contains(c.Plugin, "/") }

func (c *Config) checkPlugin() error {
	if c.Plugin == "" {
		return errors.New("no plugin is named")
	}
	if c.shipped() {
		if strings.Trim(c.Plugin, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || c.Plugin[0] == '-' {
			return fmt.Errorf("%q is neither a shipped backend's name nor an absolute path", c.Plugin)
		}
		if c.SHA256 != "" {
			return fmt.Errorf("%q is a shipped backend: sha256 belongs to an executable given by its path", c.Plugin)
		}
		return nil
	}
	if !filepath.IsAbs(c.Plugin) {
		return fmt.Errorf("the path %s is not absolute", c.Plugin)
	}
	if sum, err := hex.DecodeString(c.SHA256); err != nil || len(sum) != 32 {
		return fmt.Errorf("%s needs its sha256, 64 hexadecimal digits (sha256sum %s)", c.Plugin, c.Plugin)
	}
	return nil
}

// backoff is the wait before a restart, after so many in a row without a call answered.
func (c *Config) backoff(failures int) time.Duration {
	if failures == 0 {
		return 0
	}
	d := c.BackoffFirst
	for range failures - 1 {
		if d >= c.BackoffMax {
			break
		}
		d *= 2
	}
	return min(d, c.BackoffMax)
}
