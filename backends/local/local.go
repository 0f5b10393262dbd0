// Package local is the CA that Muster brings along: two issuing CAs (P-256 and RSA), and as many more as are configured,
// each under a root of its own or an imported one, with keys in files and a ledger in SQLite beside them, or in PostgreSQL for
// any number of replicas. It is a backend.Backend with native idempotency: an ID always leads
// to the same certificate, byte for byte, and to one row of the ledger, whatever process dies in between.
//
// It decides nothing: it certifies the template that it is given, if that makes a sound end-entity certificate. Keys
// in an HSM are a matter of the program that it is linked into (Options.OpenToken). One process at a time runs it in a directory. The gateway starts it as the plugin "local";
// everything else about it is in docs/backends/local.md.
package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
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

// The points of Rollover at which Options.Crash is called.
const (
	CrashBeforeRollover = "ca.before-rollover" // the next generation exists in memory only
	CrashMidRollover    = "ca.mid-rollover"    // it is written, and has not its name yet
	CrashAfterRollover  = "ca.after-rollover"  // it stands; the ledger does not know it
	CrashRolloverLedger = "ca.rollover-ledger" // the ledger knows it, nobody was told
)

// RolloverCrashPoints lists them all, in their order.
var RolloverCrashPoints = []string{CrashBeforeRollover, CrashMidRollover, CrashAfterRollover, CrashRolloverLedger}

// Options of New. The zero value works.
type Options struct {
	Clock   func() time.Time   // nil for time.Now
	Crash   func(point string) // called at each crash point, to die there; nil for never
	Log     *slog.Logger       // nil for none
	Version string             // for Describe; "" for "devel"
	RSAKey  string             // the kind of key of the CA "rsa" where the configuration names none; "" for RSA-3072
	// OpenToken opens the token that the configuration names; nil in a program without PKCS #11, which refuses such a configuration.
	OpenToken func(PKCS11) (Token, error)
}

// CA implements backend.Backend. Calls are concurrent.
type CA struct {
	backend.Unimplemented
	o Options

	configuring sync.Mutex // held by Configure, Rollover and Close
	open        atomic.Pointer[running]
	issuing     sync.RWMutex // read by those who issue: a rollover lets them end, and holds up the next
	ended       sync.Map     // generationID: that issue no more, as the ledger said which replicas share
	behind      atomic.Bool  // the disk may hold a newer authority than open does: nobody issues before it was read
}

// running is what Configure opens. It is never changed: a rollover puts another one in its place.
type running struct {
	*authority
	ledger      *ledger
	lock        *os.File
	crlValidity time.Duration
	given, full *Config
	flights     *flights
	crls        map[string]*crlMaker // by generation.crlName
	shardCRLs   *sync.Map            // *crlMaker by the name of a shard's CRL
	places      map[string]*places   // by issuer.name
	ocsp        *answers
	ocspKeys    ocspKeys
	ends        map[generationID]time.Time // of generations that issue no more: when the last certificate of each expires
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
	if _, _, err := c.parse(config); err != nil {
		return backend.Refuse(codes.InvalidArgument, "%v", err)
	}
	return nil
}

// parse is parseConfig, and refuses what this program cannot do.
func (c *CA) parse(config []byte) (given, full *Config, err error) {
	if given, full, err = parseConfig(config); err == nil && c.o.RSAKey != "" {
		is, asked := full.Issuers[IssuerRSA], given.Issuers[IssuerRSA]
		if asked.keyKind() == "" {
			is.Key = c.o.RSAKey
			full.Issuers[IssuerRSA] = is
		}
	}
	if err == nil && full.PKCS11 != nil && c.o.OpenToken == nil {
		err = errNoToken
	}
	return given, full, err
}

// Configure opens the CA in Config.Dir, and makes it when there is none. While another process holds it, it waits until
// ctx ends (UNAVAILABLE then, as when PostgreSQL does not answer). A CA that is damaged is FAILED_PRECONDITION: nothing is repaired that could cost a key.
func (c *CA) Configure(ctx context.Context, config []byte) error {
	given, full, err := c.parse(config)
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
	if full.PKCS11 != nil {
		if full.keyring.token, err = c.o.OpenToken(*full.PKCS11); err != nil {
			_ = lock.Close()
			return backend.Refuse(codes.Unavailable, "pkcs11: %v", err)
		}
	}
	r, err := c.openDir(ctx, given, full)
	if err != nil {
		_ = lock.Close()
		_ = full.keyring.close()
		if errors.Is(err, errUnreachable) {
			return backend.Refuse(codes.Unavailable, "%v", err)
		}
		return backend.Refuse(codes.FailedPrecondition, "%v", err)
	}
	r.lock = lock
	c.open.Store(r)
	if full.OCSP.Presign {
		c.signAhead(r.ocsp)
	}
	return nil
}

// openDir opens or makes what stands in the directory, whose lock is held.
//
// The order of making is: ledger, authority (at once, by a rename; later each folder in it likewise), the ledger's row of it.
// So a crash leaves no authority, or a complete one, and a ledger in every case; whatever else is found was not left by a crash.
// In a ledger that replicas share, its row comes before the rename: of those that start at once, one has made the CA.
func (c *CA) openDir(ctx context.Context, given, full *Config) (r *running, err error) {
	authorityPath := filepath.Join(full.Dir, authorityDir)
	hasAuthority, err := exists(authorityPath)
	if err != nil {
		return nil, err
	}
	ledger, err := c.openLedger(ctx, full, hasAuthority)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = ledger.close()
		}
	}()
	bound, err := ledger.identity(ctx)
	if err != nil {
		return nil, unreachable(err)
	}
	if !hasAuthority {
		if err := c.makeAll(ctx, ledger, full, bound); err != nil {
			return nil, unreachable(err)
		}
	}
	secret, err := readSecret(authorityPath)
	if err != nil {
		return nil, err
	}
	switch same := bytes.Equal(bound, identity(secret)); {
	case same || bound == nil && (!hasAuthority || !ledger.shared):
	case bound == nil:
		return nil, fmt.Errorf("%s knows nothing of the CA in %s, nor of what it issued and revoked: restore the ledger, or correct `ledger` and `ledger-name`", ledger.name, full.Dir)
	case ledger.shared:
		return nil, otherAuthority(ledger, full.Dir)
	default:
		return nil, fmt.Errorf("%w (%s)", errOtherLedger, full.Dir)
	}
	if err := c.addMissing(ctx, ledger, full); err != nil {
		return nil, unreachable(err)
	}
	r = &running{ledger: ledger, given: given, full: full, crlValidity: time.Duration(full.CRLValidity), flights: new(flights), shardCRLs: new(sync.Map), ocsp: newAnswers(&full.OCSP)}
	next, err := c.read(ctx, r)
	return next, unreachable(err)
}

// openLedger opens the ledger, makes it when it is missing, and moves one in a file to PostgreSQL.
func (c *CA) openLedger(ctx context.Context, full *Config, hasAuthority bool) (*ledger, error) {
	file := filepath.Join(full.Dir, ledgerFile)
	hasFile, err := exists(file)
	if err != nil {
		return nil, err
	}
	if full.Ledger == "" {
		if hasAuthority && !hasFile {
			return nil, fmt.Errorf("%s is gone, and with it what was issued and revoked: restore it", file)
		}
		l, err := openLedger(ctx, full.Dir, c.o.Log)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		return l, nil
	}
	l, err := openPostgresLedger(ctx, full.Ledger, full.LedgerName, c.o.Log)
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", unreachable(err))
	}
	if hasFile {
		if err := c.move(ctx, l, full.Dir, hasAuthority); err != nil {
			return nil, errors.Join(err, l.close())
		}
	}
	return l, nil
}

// makeAll makes the authority of a new CA. bound is the identity of the CA that the ledger is of, nil for none.
func (c *CA) makeAll(ctx context.Context, l *ledger, full *Config, bound []byte) error {
	path, unfinished := filepath.Join(full.Dir, authorityDir), filepath.Join(full.Dir, unfinishedDir)
	if bound != nil {
		// A crash between the claim and the rename.
		if secret, err := readSecret(unfinished); l.shared && err == nil && bytes.Equal(bound, identity(secret)) {
			return finishDir(path, unfinished)
		}
		if l.shared {
			return otherAuthority(l, full.Dir)
		}
		return fmt.Errorf("%s is gone, but there is a ledger of it: restore it", path)
	}
	start := time.Now()
	files, err := makeAuthority(full, c.o.Clock())
	if err != nil {
		return err
	}
	if err := writeUnfinished(unfinished, files); err != nil {
		return err
	}
	if l.shared {
		secret, err := readSecret(unfinished)
		if err != nil {
			return err
		}
		if err := l.claim(ctx, identity(secret)); errors.Is(err, errOtherAuthority) {
			return errors.Join(otherAuthority(l, full.Dir), os.RemoveAll(unfinished))
		} else if err != nil {
			return err // it may be claimed: the next start finds out
		}
	}
	if err := finishDir(path, unfinished); err != nil {
		return err
	}
	c.o.Log.Info("made a new CA", "dir", full.Dir, "ledger", l.name, "duration", time.Since(start).Round(time.Millisecond))
	return nil
}

// addMissing makes what the configuration asks for beside what stands: further issuers, and the next imports.
func (c *CA) addMissing(ctx context.Context, l *ledger, full *Config) error {
	if err := os.RemoveAll(filepath.Join(full.Dir, unfinishedDir)); err != nil {
		return err
	}
	dir := filepath.Join(full.Dir, authorityDir)
	known, err := l.generations(ctx)
	if err != nil {
		return err
	}
	if l.shared {
		if err := l.finishHalf(ctx, dir); err != nil {
			return err
		}
	}
	folders, err := missing(dir, full, func(ca string) error {
		if _, ok := known[generationID{ca, 1}]; ok && l.shared {
			return &missingError{dir: dir, ca: ca, number: 1}
		} else if ok {
			return fmt.Errorf("%s is gone: restore it", filepath.Join(dir, generationDir(ca, 1)))
		}
		return nil
	}, c.o.Clock())
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(folders)) {
		unfinished := filepath.Join(full.Dir, unfinishedDir)
		if err := writeUnfinished(unfinished, folders[name]); err != nil {
			return err
		}
		ca, number, _ := strings.Cut(name, ".")
		n, err := strconv.Atoi(number)
		if err != nil {
			return err
		}
		if err := l.putGeneration(ctx, unfinished, filepath.Join(dir, name), generationID{ca, n}, folders[name][issuingFile], false); err != nil {
			return err
		}
		c.o.Log.Info("a new generation of a CA", "folder", filepath.Join(dir, name))
	}
	return nil
}

// read returns what follows on r: with the authority as it stands on the disk now, whose generations the ledger is told.
// Nobody issues while it runs.
func (c *CA) read(ctx context.Context, r *running) (*running, error) {
	dir := r.authorityDir()
	if r.ledger.shared {
		if err := r.ledger.finishHalf(ctx, dir); err != nil {
			return nil, err
		}
	}
	a, err := readAuthority(dir, r.given, r.full)
	if err != nil {
		return nil, err
	}
	next := *r
	next.authority, next.crls, next.places = a, map[string]*crlMaker{}, map[string]*places{}
	if next.ocspKeys, err = readOCSPKeys(a); err != nil {
		return nil, err
	}
	if next.ends, err = r.ledger.adopt(ctx, a, dir); err != nil {
		return nil, err
	}
	for _, i := range a.issuers {
		if changed := i.constraints.changed(i.generation); changed != "" {
			c.o.Log.Warn("issuers."+i.name+".name-constraints: "+changed, "ca", i.name)
		}
		if next.places[i.name] = r.places[i.name]; next.places[i.name] == nil {
			next.places[i.name] = new(places)
		}
		for _, key := range i.keys() {
			name := key.crlName()
			if next.crls[name] = r.crls[name]; next.crls[name] == nil {
				next.crls[name] = new(crlMaker)
			}
		}
	}
	path, roots := filepath.Join(r.full.Dir, rootsFile), next.roots(c.o.Clock())
	if stands, err := os.ReadFile(path); err != nil || !bytes.Equal(stands, roots) {
		if err := writeFile(path, roots); err != nil {
			return nil, err
		}
	}
	return &next, nil
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
	if r.ocsp.stop != nil {
		r.ocsp.stop()
	}
	return errors.Join(r.ledger.close(), r.full.keyring.close(), r.lock.Close())
}

// Describe is backend.Backend. A CSR is certified by the template that comes with it, so that everything can be overridden.
func (c *CA) Describe(context.Context) (*backend.Description, error) {
	return &backend.Description{
		Name:    "local",
		Version: c.o.Version,
		Forms:   []backend.Form{backend.FormTemplate, backend.FormPKCS10},
		Overrides: []backend.Field{backend.FieldSubject, backend.FieldSubjectAltName, backend.FieldValidity,
			backend.FieldKeyUsage, backend.FieldExtKeyUsage},
		Idempotency: backend.IdempotencyNative,
		Capabilities: []backend.Capability{backend.CapRevoke, backend.CapCRL, backend.CapRollover, backend.CapAnnounce, backend.CapSignCMS,
			backend.CapOCSP},
	}, nil
}

// CACertificates returns the issuing CAs with their chains, "ec" first, and what is left of earlier generations.
func (c *CA) CACertificates(ctx context.Context) ([]backend.CA, error) {
	r, err := c.running()
	if err != nil {
		return nil, err
	}
	if r.ledger.shared {
		if r, err = c.caughtUp(ctx, r); err != nil {
			c.o.Log.Warn("this replica does not know what another one has done to the CA", "err", err)
		}
		if r == nil {
			return nil, err
		}
	}
	var cas []backend.CA
	for _, i := range r.issuers {
		ca, err := r.describeSharded(ctx, i, c.o.Clock())
		if err != nil {
			return nil, err
		}
		cas = append(cas, *ca)
	}
	return cas, nil
}
