// Package local is the CA that Muster brings along: two issuing CAs (P-256 and RSA), each under a root of its own, with
// keys in files and a ledger in SQLite beside them. It is a backend.Backend with native idempotency: an ID always leads
// to the same certificate, byte for byte, and to one row of the ledger, whatever process dies in between.
//
// It decides nothing: it certifies the template that it is given, if that makes a sound end-entity certificate. It does
// not keep keys in an HSM, and it runs in one process at a time. The gateway starts it as the plugin "local";
// everything else about it is in docs/backends/local.md.
package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
	"google.golang.org/grpc/codes"
)

// The points of Issue at which Options.Crash is called.
const (
	CrashBeforeSign  = "ca.before-sign"  // the ledger does not know the ID
	CrashAfterSign   = "ca.after-sign"   // the certificate exists in memory only
	CrashAfterLedger = "ca.after-ledger" // the certificate is recorded, nobody was told
)

// CrashPoints lists them all, in the order in which an Issue passes them.
var CrashPoints = []string{CrashBeforeSign, CrashAfterSign, CrashAfterLedger}

// Options of New. The zero value works.
type Options struct {
	Clock   func() time.Time   // nil for time.Now
	Crash   func(point string) // called at each crash point, to die there; nil for never
	Log     *slog.Logger       // nil for none
	Version string             // for Describe; "" for "devel"
}

// CA implements backend.Backend. Calls are concurrent.
type CA struct {
	backend.Unimplemented
	o Options

	configuring sync.Mutex
	open        atomic.Pointer[running]
}

// running is what Configure opens.
type running struct {
	*authority
	ledger      *ledger
	lock        *os.File
	crlValidity time.Duration
	flights     flights
	crls        map[string]*crlMaker // by issuer.name
}

// New makes a CA that waits for Configure.
func New(o Options) *CA {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Crash == nil {
		o.Crash = func(string) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Version == "" {
		o.Version = "devel"
	}
	return &CA{o: o}
}

// Validate checks the configuration without touching a file. It fails with INVALID_ARGUMENT.
func (c *CA) Validate(_ context.Context, config []byte) error {
	if _, _, err := parseConfig(config); err != nil {
		return backend.Refuse(codes.InvalidArgument, "%v", err)
	}
	return nil
}

// Configure opens the CA in Config.Dir, and makes it when there is none. While another process holds it, it waits until
// ctx ends (UNAVAILABLE then). A CA that is damaged is FAILED_PRECONDITION: nothing is repaired that could cost a key.
func (c *CA) Configure(ctx context.Context, config []byte) error {
	given, full, err := parseConfig(config)
	if err != nil {
		return backend.Refuse(codes.InvalidArgument, "%v", err)
	}
	c.configuring.Lock()
	defer c.configuring.Unlock()
	if c.open.Load() != nil {
		return backend.Refuse(codes.FailedPrecondition, "the CA is configured already")
	}
	if err := makeDir(full.Dir); err != nil {
		return backend.Refuse(codes.FailedPrecondition, "%v", err)
	}
	lock, err := lockDir(ctx, full.Dir, c.o.Log)
	if err != nil {
		return backend.Refuse(codes.Unavailable, "%v", err)
	}
	r, err := c.openDir(ctx, given, full)
	if err != nil {
		_ = lock.Close()
		return backend.Refuse(codes.FailedPrecondition, "%v", err)
	}
	r.lock = lock
	c.open.Store(r)
	return nil
}

// openDir opens or makes what stands in the directory, whose lock is held.
//
// The order of making is: ledger, authority (at once, by a rename), the ledger's binding to it. So a crash leaves no
// authority, or a complete one, and a ledger in every case; whatever else is found was not left by a crash.
func (c *CA) openDir(ctx context.Context, given, full *Config) (r *running, err error) {
	authorityPath := filepath.Join(full.Dir, authorityDir)
	hasAuthority, err := exists(authorityPath)
	if err != nil {
		return nil, err
	}
	hasLedger, err := exists(filepath.Join(full.Dir, ledgerFile))
	if err != nil {
		return nil, err
	}
	if hasAuthority && !hasLedger {
		return nil, fmt.Errorf("%s is gone, and with it what was issued and revoked: restore it", filepath.Join(full.Dir, ledgerFile))
	}
	ledger, err := openLedger(ctx, full.Dir, c.o.Log)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(full.Dir, ledgerFile), err)
	}
	defer func() {
		if err != nil {
			_ = ledger.close()
		}
	}()
	bound, err := ledger.identity(ctx)
	if err != nil {
		return nil, err
	}
	if !hasAuthority {
		if bound != nil {
			return nil, fmt.Errorf("%s is gone, but there is a ledger of it: restore it", authorityPath)
		}
		start := time.Now()
		files, err := makeAuthority(full, c.o.Clock())
		if err != nil {
			return nil, err
		}
		if err := writeDir(authorityPath, filepath.Join(full.Dir, unfinishedDir), files); err != nil {
			return nil, err
		}
		c.o.Log.Info("made a new CA", "dir", full.Dir, "duration", time.Since(start).Round(time.Millisecond))
	}
	a, err := readAuthority(authorityPath, given, full)
	if err != nil {
		return nil, err
	}
	if bound == nil {
		if err := ledger.bind(ctx, a); err != nil {
			return nil, err
		}
	} else if !bytes.Equal(bound, a.identity()) {
		return nil, fmt.Errorf("%w (%s)", errOtherLedger, full.Dir)
	}
	rootsPath := filepath.Join(full.Dir, rootsFile)
	if stands, err := os.ReadFile(rootsPath); err != nil || !bytes.Equal(stands, a.roots()) {
		if err := writeFile(rootsPath, a.roots()); err != nil {
			return nil, err
		}
	}
	r = &running{authority: a, ledger: ledger, crlValidity: time.Duration(full.CRLValidity), crls: map[string]*crlMaker{}}
	for _, i := range a.issuers {
		r.crls[i.name] = new(crlMaker)
	}
	return r, nil
}

// running returns the configured CA, or UNAVAILABLE: one that is closed, or not open yet, refuses no request for good.
func (c *CA) running() (*running, error) {
	if r := c.open.Load(); r != nil {
		return r, nil
	}
	return nil, backend.Refuse(codes.Unavailable, "the CA is not open")
}

// Close ends the CA: it waits for the records under way, closes the ledger and gives up the lock. Calls after it fail.
func (c *CA) Close() error {
	c.configuring.Lock()
	defer c.configuring.Unlock()
	r := c.open.Swap(nil)
	if r == nil {
		return nil
	}
	return errors.Join(r.ledger.close(), r.lock.Close())
}

// Describe is backend.Backend. A CSR is certified by the template that comes with it, so that everything can be overridden.
func (c *CA) Describe(context.Context) (*backend.Description, error) {
	return &backend.Description{
		Name:    "local",
		Version: c.o.Version,
		Forms:   []backend.Form{backend.FormTemplate, backend.FormPKCS10},
		Overrides: []backend.Field{backend.FieldSubject, backend.FieldSubjectAltName, backend.FieldValidity,
			backend.FieldKeyUsage, backend.FieldExtKeyUsage},
		Idempotency:  backend.IdempotencyNative,
		Capabilities: []backend.Capability{backend.CapRevoke, backend.CapCRL},
	}, nil
}

// CACertificates returns both issuing CAs with their chains, "ec" first.
func (c *CA) CACertificates(context.Context) ([]backend.CA, error) {
	r, err := c.running()
	if err != nil {
		return nil, err
	}
	var cas []backend.CA
	for _, i := range r.issuers {
		cas = append(cas, backend.CA{Name: i.name, Chain: i.chain})
	}
	return cas, nil
}

// issuer finds an issuing CA by name, "" for the default.
func (a *authority) issuer(name string) *issuer {
	if name == "" {
		return a.issuers[0]
	}
	for _, i := range a.issuers {
		if i.name == name {
			return i
		}
	}
	return nil
}
