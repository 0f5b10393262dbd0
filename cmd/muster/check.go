package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/muster-pki/muster/authz"
	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/admin/console"
	"github.com/muster-pki/muster/gateway/seal"
	"github.com/muster-pki/muster/gateway/serve"
	"github.com/muster-pki/muster/plugins/host"
)

func newCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use: "check FILE", Short: "Say what is wrong with a configuration file, with line numbers",
		Long: `Reads a configuration and the files that it names, and says what is wrong. Nothing is started or changed, but that a CA
plugin of your own, once its hash is right, is asked to check its part.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := checkConfig(cmd.Context(), args[0])
			if err != nil {
				fmt.Fprintln(cmd.ErrOrStderr(), err)
				return exitCode(1)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: good: %d listeners, %d backends, %d endpoints\n", args[0], len(c.Listeners), len(c.Backends), len(c.Endpoints))
			return nil
		},
	}
}

func checkConfig(ctx context.Context, file string) (*Config, error) {
	c, err := loadConfig(file)
	if err != nil {
		return nil, err
	}
	var errs []error
	deps := stageDeps{
		Dir: c.dir, Certs: nothing{}, Secrets: nothing{}, Devices: nothing{}, Challenges: nothing{}, Opener: nothing{}, Clock: time.Now, Log: slog.New(slog.DiscardHandler), Hashing: authz.NewHashing(1),
	}
	if c.Seal != nil {
		if deps.Opener, err = seal.Load(c.path(c.Seal.File), false); err != nil {
			errs = append(errs, c.fault(at("seal", "file"), "%v", err))
			deps.Opener = nothing{}
		}
	}
	endpoints, err := makeEndpoints(c, deps)
	if err != nil {
		errs = append(errs, err)
	}
	if _, err := loadRAs(c, endpoints, time.Now()); err != nil {
		errs = append(errs, err)
	}
	if c.Admin != nil {
		if _, _, err := c.adminAccess(&serve.Own{}, time.Now); err != nil {
			errs = append(errs, err)
		}
		if err := console.Check(c.Admin.Console, c.dir); err != nil {
			errs = append(errs, c.fault(at("admin"), "%v", err))
		}
	}
	for _, name := range byName(c.Listeners) {
		if _, err := c.clients(name, time.Now, slog.New(slog.DiscardHandler)); err != nil {
			errs = append(errs, err)
		}
		if l := c.Listeners[name]; l.TLS != nil && !l.TLS.SelfManaged() {
			if _, err := l.TLS.Policy(c.dir, nil, nil, time.Now); err != nil {
				errs = append(errs, c.fault(at("listeners", name, "tls"), "%v", err))
			}
		}
	}
	for _, name := range byName(c.Backends) {
		if !strings.Contains(c.Backends[name].Plugin, "/") {
			continue // checked in this process
		}
		if err := c.checkExecutable(name); err != nil {
			errs = append(errs, err)
			continue
		}
		_, lines, err := c.backendConfig(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		h, err := c.hostConfig(name, "", slog.New(slog.DiscardHandler))
		if err == nil {
			err = host.Validate(ctx, h)
		}
		if err != nil {
			errs = append(errs, lines.place(c, at("backends", name, "config"), err)...)
		}
	}
	return c, errors.Join(errs...)
}

// nothing stands in for the store and its key while a configuration is checked: stages are made, and asked nothing.
type nothing struct{}

func (nothing) Certificate(context.Context, []byte, []byte) (*gateway.Certificate, error) {
	return nil, gateway.ErrNotFound
}

func (nothing) Certificates(context.Context, gateway.CertificateFilter) ([]*gateway.Certificate, error) {
	return nil, gateway.ErrNotFound
}

func (nothing) Secret(context.Context, string, string) (*gateway.StoredSecret, error) {
	return nil, gateway.ErrNotFound
}

func (nothing) Device(context.Context, string, string) (*gateway.Device, error) {
	return nil, gateway.ErrNotFound
}

func (nothing) Challenge(context.Context, []byte) (*gateway.IssuedChallenge, error) {
	return nil, gateway.ErrNotFound
}

// Open opens everything: the key is in the data directory of a gateway, which is none of the configuration's.
func (nothing) Open(_ []byte, _ ...string) ([]byte, error) { return make([]byte, 32), nil }

// fileSHA256 hashes a file.
func fileSHA256(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return h.Sum(nil), err
}
