package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/muster-pki/muster/gateway/serve"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// serveOptions are the flags of `muster serve`.
type serveOptions struct {
	config    string
	container bool
	data      string
	http      string
	https     string
	instance  string
	logFormat string
	logLevel  string
}

const (
	defaultData  = "./muster-data"
	interrupted  = 130 // what shells make of a death by SIGINT
	startTimeout = 2 * time.Minute
)

func newServeCommand() *cobra.Command {
	var o serveOptions
	cmd := &cobra.Command{
		Use: "serve", Short: "Run the gateway",
		Long: `Runs the gateway. Without --config it makes a data directory (--data) with an embedded CA, a store, a TLS certificate,
random secrets and a commented configuration, and prints the commands that enrol a device; a second start finds all of
it and changes nothing.

SIGHUP, or "muster reload", reads the configuration again: a faulty one changes nothing. Ctrl-C or SIGTERM lets requests under way end and
stops; a second one stops at once.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.OutOrStdout(), cmd.ErrOrStderr()) },
	}
	f := cmd.Flags()
	f.StringVar(&o.config, "config", "", "configuration file (default: DATA/muster.yaml, made if absent)")
	f.BoolVar(&o.container, "container", false, "the image's way: a first configuration listens on all addresses, and the commands that are printed are for the container's host")
	f.StringVar(&o.data, "data", "", "directory of the gateway's own files (default: "+defaultData+", or with --config the file's folder)")
	f.StringVar(&o.http, "http", "", "address of the plain listener, in place of the configured one; port 0 takes a free one")
	f.StringVar(&o.https, "https", "", "address of the TLS listener, in place of the configured one")
	f.StringVar(&o.instance, "instance", "", "name of this replica (default: the host's)")
	f.StringVar(&o.logFormat, "log-format", "text", "text or json, on standard error")
	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	return cmd
}

func (o *serveOptions) run(stdout, stderr io.Writer) error {
	began := time.Now()
	log, err := newLog(stderr, o.logFormat, o.logLevel)
	if err != nil {
		return err
	}
	listenToLibraries(log)
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)

	data, err := o.dataDir()
	if err != nil {
		return err
	}
	q := quickstart{data}
	file := o.config
	if file == "" {
		file = q.config()
	}
	load := func() (*Config, error) {
		cfg, err := loadConfig(file)
		if err != nil {
			return nil, err
		}
		return cfg, o.override(cfg)
	}
	// What is mistyped leaves no folder behind.
	if err := o.checkAddresses(); err != nil {
		return err
	}
	if o.config != "" {
		if _, err := load(); err != nil {
			return err
		}
	}
	p, err := newProcess(data, o.instance, log)
	if err != nil {
		return err
	}
	p.file, p.load = file, load
	p.notices = newNotices(os.Getenv, os.Getpid(), log)
	if o.config == "" {
		config := quickstartConfig
		if o.container {
			config = containerConfig
		}
		if err := q.prepare(config); err != nil {
			return errors.Join(err, p.stop(context.Background()))
		}
	}
	life, end := context.WithCancel(context.Background())
	defer end()
	outcome := make(chan error, 1)
	go func() { outcome <- o.begin(life, p, q, stdout, began) }()
	hups := make(chan struct{}, 1) // one that waits stands for all: the file is read when its turn comes
	ended := make(chan struct{})   // of start and reloads
	for {
		select {
		case err := <-outcome:
			if err != nil {
				return errors.Join(err, p.drain(log))
			}
			go func() {
				defer close(ended)
				for range hups {
					_, _ = p.reload(life, bySignal) // it has said what came of it
				}
			}()
			outcome = nil
		case s := <-signals:
			if s == syscall.SIGHUP {
				select {
				case hups <- struct{}{}:
				default:
				}
				continue
			}
			log.Info("stopping; once more stops at once", "signal", s.String())
			p.notices.stopping()
			go exitOnNext(signals)
			end()
			close(hups)
			if outcome != nil {
				<-outcome
			} else {
				<-ended
			}
			return p.drain(log)
		}
	}
}

// begin starts the gateway and tells where it is.
func (o *serveOptions) begin(ctx context.Context, p *process, q quickstart, stdout io.Writer, began time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	p.seen = lookAt(p.file).present()
	cfg, err := p.load()
	if err != nil {
		return err
	}
	quick := o.config == "" || q.owns(o.config)
	if quick {
		p.inForce = func(rt *Runtime) {
			if err := q.writeRoots(rt, p.log); err != nil {
				p.log.Error("the roots for clients are not written", "file", q.roots(), "err", err)
			}
		}
	}
	if err := p.start(ctx, cfg); err != nil {
		return err
	}
	if quick {
		reach := onThisHost(q)
		if o.container {
			reach = inContainer(q, p.hostname)
		}
		if err := q.tell(stdout, cfg, p, reach, time.Since(began)); err != nil {
			return err
		}
	}
	p.logListeners()
	p.log.Info("ready", "took", time.Since(began).Round(time.Millisecond), "config", cfg.file, "data", p.data, "version", version(), "instance", p.instance)
	p.notices.ready("Serving, version " + version())
	p.work.Go(p.watchdog)
	return nil
}

// exitOnNext ends the program at the next signal that asks for its end.
func exitOnNext(signals <-chan os.Signal) {
	for s := range signals {
		if s != syscall.SIGHUP {
			os.Exit(interrupted)
		}
	}
}

// drain stops everything within drainTimeout.
func (p *process) drain(log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	if err := p.stop(ctx); err != nil {
		return fmt.Errorf("stopping: %w", err)
	}
	log.Info("stopped")
	return nil
}

func (p *process) logListeners() {
	addrs := p.set.Addrs()
	for _, name := range byName(addrs) {
		p.log.Info("listening", "listener", name, "address", addrs[name].String(), "tls", p.runtime.Load().specs[name].TLS != nil)
	}
}

// owns reports whether file is the configuration that the quickstart wrote: run by its name, it is the quickstart still.
func (q quickstart) owns(file string) bool {
	a, err := os.Stat(file)
	if err != nil {
		return false
	}
	b, err := os.Stat(q.config())
	if err != nil {
		return false
	}
	_, err = os.Stat(filepath.Join(q.secrets(), passwordFile))
	return err == nil && os.SameFile(a, b)
}

// tell writes what clients of a quickstart need, then the screen. The env file comes last: who waits for it can begin.
func (q quickstart) tell(w io.Writer, cfg *Config, p *process, by reach, took time.Duration) error {
	if err := q.writeRoots(p.runtime.Load(), p.log); err != nil {
		return err
	}
	settings, err := q.settings(cfg, p.set.Addrs())
	if err != nil {
		return err
	}
	if err := writeChanged(q.env(), envFile(settings), 0o600); err != nil {
		return err
	}
	q.screen(w, cfg, settings, by, took)
	return nil
}

// dataDir is the absolute path of the data directory.
func (o *serveOptions) dataDir() (string, error) {
	dir := o.data
	switch {
	case dir != "":
	case o.config != "":
		dir = filepath.Dir(o.config)
	default:
		dir = defaultData
	}
	return filepath.Abs(dir)
}

// addressFlag is --http or --https.
type addressFlag struct {
	flag, value string
	tls         bool
}

// addresses are the flags that are given.
func (o *serveOptions) addresses() []addressFlag {
	return slices.DeleteFunc([]addressFlag{{"--http", o.http, false}, {"--https", o.https, true}}, func(f addressFlag) bool { return f.value == "" })
}

func (o *serveOptions) checkAddresses() error {
	for _, f := range o.addresses() {
		if _, _, err := net.SplitHostPort(f.value); err != nil {
			return fmt.Errorf("%s %s: want host:port, e.g. 127.0.0.1:0", f.flag, f.value)
		}
		if err := (&serve.Listener{Address: f.value}).Check(); err != nil {
			return fmt.Errorf("%s %s: %w", f.flag, f.value, err)
		}
	}
	return nil
}

// override puts --http and --https in the place of configured addresses.
func (o *serveOptions) override(c *Config) error {
	for _, f := range o.addresses() {
		name := c.listener(f.tls)
		if name == "" {
			return fmt.Errorf("%s: %s does not say which listener is meant: call it %q", f.flag, c.file, strings.TrimPrefix(f.flag, "--"))
		}
		c.Listeners[name].Address = f.value
	}
	return nil
}

func newLog(w io.Writer, format, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("--log-level %s: want debug, info, warn or error%s", level, strictyaml.Suggest(level, []string{"debug", "info", "warn", "error"}))
	}
	o := &slog.HandlerOptions{Level: l}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, o)), nil
	}
	return nil, fmt.Errorf("--log-format %s: want text or json", format)
}
