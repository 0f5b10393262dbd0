package local

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// rolloverBackdate is how far before its making the validity of a next CA certificate begins, though not before that of
// the one that it follows: what was decided before the rollover, with its dates, is certified after it.
const rolloverBackdate = 31 * day

// Rollover makes the next generation of an issuing CA: a folder that appears complete or not at all, and with that it
// counts. Then those who issue are let end, the ledger is told, and the next ones issue by it.
//
// INVALID_ARGUMENT: no such issuer or kind. FAILED_PRECONDITION: the CA was imported, the root's key is not there, or the
// root has too little time left. ALREADY_EXISTS: the ID was used for another rollover. UNAVAILABLE: the disk or the
// ledger failed: the same ID finds out what came of it.
func (c *CA) Rollover(ctx context.Context, q *backend.RolloverRequest) (*backend.CA, error) {
	if q.ID == "" || !plain(q.ID) {
		return nil, backend.Refuse(codes.InvalidArgument, "ID: 1 to %d octets of UTF-8 without control characters", maxName)
	}
	if q.Kind != backend.RolloverRenew && q.Kind != backend.RolloverRekey {
		return nil, backend.Refuse(codes.InvalidArgument, "no such kind of rollover: %q", q.Kind)
	}
	if err := c.catchUp(ctx); err != nil {
		return nil, backend.Refuse(codes.Unavailable, "%v", err)
	}
	c.configuring.Lock()
	defer c.configuring.Unlock()
	r, err := c.running()
	if err != nil {
		return nil, err
	}
	i := r.issuer(q.Issuer)
	if i == nil {
		return nil, backend.Refuse(codes.InvalidArgument, "there is no issuing CA %q", q.Issuer)
	}
	if _, ended := c.ended.Load(i.id()); ended {
		return nil, backend.Refuse(codes.FailedPrecondition, "%v", r.successor(i))
	}
	if did := r.rolledOver(q.ID); did != nil {
		if did.ca != i.name || !did.origin.answers(q) {
			return nil, backend.Refuse(codes.AlreadyExists, "the ID was used for another rollover")
		}
	} else if err := c.rollOver(ctx, r, i, q); err != nil {
		return nil, err
	}
	if r, err = c.running(); err != nil {
		return nil, err
	}
	return r.describeSharded(ctx, r.issuer(i.name), c.o.Clock())
}

func originOf(q *backend.RolloverRequest) origin {
	o := origin{Kind: string(q.Kind), Root: q.Root}
	if q.Announce {
		o.Announced = q.ID
	} else {
		o.ID = q.ID
	}
	return o
}

// answers reports whether the request, whose ID made the generation or put it in force, is the one that did.
func (o origin) answers(q *backend.RolloverRequest) bool {
	by := o.ID
	if q.Announce {
		by = o.Announced
	}
	return by == q.ID && o.Kind == string(q.Kind) && o.Root == q.Root
}

// rolledOver finds the generation that a rollover with the ID has made, announced or put in force, nil for none.
func (a *authority) rolledOver(id string) *generation {
	for _, i := range a.issuers {
		for _, g := range i.known() {
			if g.origin.ID == id || g.origin.Announced == id {
				return g
			}
		}
	}
	return nil
}

// rollOver makes the next generation, or takes the one that was announced, and puts it in force; or makes and announces it.
// c.configuring is held.
func (c *CA) rollOver(ctx context.Context, r *running, i *issuer, q *backend.RolloverRequest) error {
	now := c.o.Clock()
	// What one rollover adds at most: the old root, two links, the issuing certificate, and its key's CRL.
	if ca := r.describe(i, now); len(ca.Rollover)+4 > backend.MaxRollover || len(ca.CRLs)+1 > backend.MaxRollover || i.number >= maxGenerations {
		return backend.Refuse(codes.FailedPrecondition, "%d generations of CA %s have unexpired certificates: wait until some have expired", len(i.all), i.name)
	}
	path := filepath.Join(r.full.Dir, authorityDir, generationDir(i.name, i.number+1))
	var files map[string][]byte
	var err error
	if i.announced != nil {
		files, err = i.announcedFiles(announcedDir(filepath.Dir(path), i.name), q)
	} else {
		files, err = i.next(r.full, q, now)
	}
	if err != nil {
		return backend.Refuse(codes.FailedPrecondition, "CA %s: %v", i.name, err)
	}
	if q.Announce {
		path = announcedDir(filepath.Dir(path), i.name)
		// One that is in force since, whose folder a crash has left.
		if err := os.RemoveAll(path); err != nil {
			return backend.Refuse(codes.Unavailable, "%v", err)
		}
	}
	if err := ctx.Err(); err != nil {
		return status.FromContextError(err).Err()
	}
	c.o.Crash(CrashBeforeRollover)
	unfinished := filepath.Join(r.full.Dir, unfinishedDir)
	if err := writeUnfinished(unfinished, files); err != nil {
		return backend.Refuse(codes.Unavailable, "%v", err)
	}
	c.o.Crash(CrashMidRollover)
	c.behind.Store(true)
	err = r.ledger.putGeneration(ctx, unfinished, path, generationID{i.name, i.number + 1}, files[issuingFile], q.Announce)
	if errors.Is(err, errMadeElsewhere) {
		c.behind.Store(false)
		return backend.Refuse(codes.FailedPrecondition, "CA %s: %v", i.name, err)
	}
	if err == nil {
		c.o.Crash(CrashAfterRollover)
	}
	if err := errors.Join(err, c.readAgain(ctx)); err != nil {
		return backend.Refuse(codes.Unavailable, "%v", err)
	}
	c.o.Crash(CrashRolloverLedger)
	if !q.Announce {
		// Its keys stand in the generation's folder. Left behind it is known for what it is.
		if err := os.RemoveAll(announcedDir(filepath.Dir(path), i.name)); err != nil {
			c.o.Log.Warn("what was announced is in force, and its folder is still there", "ca", i.name, "err", err)
		}
	}
	c.o.Log.Info("a new generation of a CA", "folder", path, "kind", q.Kind, "root", q.Root, "announced", q.Announce, "id", q.ID)
	return nil
}

// catchUp ends a rollover that failed between the disk and the ledger.
func (c *CA) catchUp(ctx context.Context) error {
	if !c.behind.Load() {
		return nil
	}
	c.configuring.Lock()
	defer c.configuring.Unlock()
	return c.readAgain(ctx)
}

// readAgain puts in force what stands on the disk, when nobody issues. c.configuring is held.
func (c *CA) readAgain(ctx context.Context) error {
	c.issuing.Lock()
	defer c.issuing.Unlock()
	r, err := c.running()
	if err != nil || !c.behind.Load() {
		return err
	}
	next, err := c.read(context.WithoutCancel(ctx), r)
	if err != nil {
		return fmt.Errorf("a rollover is not finished: %w", err)
	}
	c.open.Store(next)
	c.behind.Store(false)
	return nil
}

// next makes the files of the generation that follows. Its errors are for the operator to act on.
func (i *issuer) next(c *Config, q *backend.RolloverRequest, now time.Time) (files map[string][]byte, err error) {
	old, rekey := i.generation, q.Kind == backend.RolloverRekey
	if i.imported() {
		return nil, fmt.Errorf("it was imported: its next certificate is made where its root is; configure it as issuers.%s.import, with generation: %d", i.name, i.number+1)
	}
	rootKey, err := c.keyring.read(old.rootKey, old.root.PublicKey)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is not there: the root's key has to sign; bring it back for the rollover, and take it away again afterwards", old.rootKey)
	}
	if err != nil {
		return nil, err
	}
	files = map[string][]byte{}
	if files[originFile], err = originOf(q).text(); err != nil {
		return nil, err
	}
	g := &generation{ca: i.name, number: i.number + 1, root: old.root}
	if q.Root {
		if rootKey, err = g.nextRoot(c, old, rootKey, i.constraints, rekey, now, files); err != nil {
			return nil, err
		}
	}
	key := old.key
	if rekey {
		if key, err = newKey(c.keyring, old.cert, i.name, issuingKeyFile, files); err != nil {
			return nil, err
		}
	}
	t := issuingTemplate(begin(now, old.cert), earlier(end(now, c.Validity.Issuing), g.root.NotAfter))
	t.RawSubject = old.cert.RawSubject
	i.constraints.following(t, old.cert)
	switch {
	case t.NotAfter.Before(now.Add(day)):
		return nil, fmt.Errorf("its root ends at %s, and no certificate below it lasts longer: roll over the root", g.root.NotAfter.Format(time.RFC3339))
	case !rekey && t.NotAfter.Equal(g.root.NotAfter) && !t.NotAfter.After(old.cert.NotAfter):
		return nil, fmt.Errorf("a renewed certificate would last no longer than the one that stands: both end with their root, at %s: roll over the root", g.root.NotAfter.Format(time.RFC3339))
	}
	cert, err := certifyCA(t, g.root, key.Public(), rootKey)
	if err != nil {
		return nil, err
	}
	files[issuingFile], files[chainFile] = certificatePEM(cert), certificatePEM(g.root)
	return files, g.setChain([]*x509.Certificate{cert, g.root}) // what would not be read again must not be written
}

// nextRoot makes the next root, and with a new key the certificates that link it with the old one. It returns the key
// that signs below it.
func (g *generation) nextRoot(c *Config, old *generation, oldKey crypto.Signer, constraints *NameConstraints, rekey bool, now time.Time, files map[string][]byte) (key crypto.Signer, err error) {
	key = oldKey
	if rekey {
		if !now.Before(old.root.NotAfter) {
			return nil, fmt.Errorf("its root has expired at %s: nobody believes what it signs; make a CA of another name", old.root.NotAfter.Format(time.RFC3339))
		}
		if key, err = newKey(c.keyring, old.root, g.ca+"-root", rootKeyFile, files); err != nil {
			return nil, err
		}
	}
	root := rootTemplate(begin(now, old.root), end(now, c.Validity.Root))
	root.RawSubject = old.root.RawSubject
	constraints.following(root, old.root)
	if g.root, err = certifyCA(root, root, key.Public(), key); err != nil || !rekey {
		return key, err
	}
	// Their validity: RFC 9810 section 4.4.1. Each ends with the old root, or before it with the new one.
	to := earlier(old.root.NotAfter, g.root.NotAfter)
	for _, x := range []struct {
		file        string
		from        time.Time
		subject, by *x509.Certificate
		key         crypto.Signer
	}{{oldWithNewFile, old.root.NotBefore, old.root, g.root, key}, {newWithOldFile, g.root.NotBefore, g.root, old.root, oldKey}} {
		link := rootTemplate(x.from, to)
		link.RawSubject = x.subject.RawSubject
		constrainAs(link, x.subject) // they are the subject's, whoever signs
		link, err := certifyCA(link, x.by, x.subject.PublicKey, x.key)
		if err != nil {
			return nil, err
		}
		files[x.file] = certificatePEM(link)
	}
	return key, nil
}

// newKey makes a key of the certificate's kind, and its file.
func newKey(k keyring, like *x509.Certificate, role, file string, files map[string][]byte) (crypto.Signer, error) {
	kind := kindOf(like.PublicKey)
	if keyKinds[kind] == nil {
		return nil, fmt.Errorf("keys of kind %s are not made here", kind)
	}
	key, err := k.generate(kind, role)
	if err != nil {
		return nil, err
	}
	files[file], err = keyPEM(key)
	return key, err
}

func begin(now time.Time, old *x509.Certificate) time.Time {
	if from := now.UTC().Truncate(time.Second).Add(-rolloverBackdate); from.After(old.NotBefore) {
		return from
	}
	return old.NotBefore
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// describe is an issuing CA as the gateway gets it. As long as an earlier generation counts, its issuing certificate and
// root go with it, and the links between that root and the next (RFC 7030 section 4.1.3).
func (r *running) describe(i *issuer, now time.Time) backend.CA {
	ca := backend.CA{Name: i.name, Chain: i.chain, CRLs: []string{i.name}}
	if i.announced != nil {
		ca.Next = i.announced.chain
	}
	seen := map[string]bool{}
	for _, der := range i.chain {
		seen[string(der)] = true
	}
	add := func(c *x509.Certificate) {
		if !seen[string(c.Raw)] && !now.After(c.NotAfter) {
			seen[string(c.Raw)] = true
			ca.Rollover = append(ca.Rollover, c.Raw)
		}
	}
	var issuing []*x509.Certificate
	last := len(i.all) - 1
	for n := last; n >= 0; n-- {
		g := i.all[n]
		if n < last && r.live(g, now) {
			add(g.root)
			issuing = append(issuing, g.certs...)
		}
		if g.oldWithNew != nil && r.anyLive(i.all[:n], now) {
			add(i.all[n-1].root)
			add(g.oldWithNew)
			add(g.newWithOld)
		}
	}
	for _, c := range issuing {
		add(c)
	}
	keys := i.keys()
	for n := len(keys) - 1; n >= 0; n-- {
		if r.publishes(i, keys[n], now) {
			ca.CRLs = append(ca.CRLs, keys[n].crlName())
		}
	}
	return ca
}

// roots returns the content of rootsFile: the root of each issuer, the newest first, and those of earlier generations that
// count.
func (r *running) roots(now time.Time) []byte {
	var certs []*x509.Certificate
	seen := map[string]bool{}
	for _, i := range r.issuers {
		all := i.known() // an announced root too: it has to be known before it is used
		for n := len(all) - 1; n >= 0; n-- {
			if g := all[n]; !seen[string(g.root.Raw)] && r.live(g, now) {
				seen[string(g.root.Raw)] = true
				certs = append(certs, g.root)
			}
		}
	}
	return certificatePEM(certs...)
}

var _ backend.Roller = (*CA)(nil)
