package local

import (
	"context"
	"crypto/x509/pkix"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/groupcommit"
	"google.golang.org/grpc/codes"
)

// With crl-shard-size, certificates share CRLs (RFC 5280 section 5.2.5): each is put into a shard when it is issued, for good, and
// names the URLs of the shard's CRL (section 4.2.1.13). A shard is a key's, takes so many certificates and no more, and is never
// filled again. Its CRL names the same URLs, so that no other one can pass for it, and is made when something changed in the shard.
//
// The complete CRL of each key stays as it is, at its URL: for the certificates of before, for those who fetch it by
// configuration, and for software that does not know issuingDistributionPoint. It is made when somebody asks for it.

const (
	minShardSize, maxShardSize = 10, 1_000_000

	// maxShardsFilled is how many shards may have unexpired certificates before the newest one takes more than its size. What is
	// left to backend.MaxShards is for new keys and new URLs.
	maxShardsFilled = backend.MaxShards - 24

	// maxPlaces is how many places of a shard a process takes at once. What it has not filled when it ends stays empty.
	maxPlaces = 100
)

// shard is some of the certificates of a key. The zero value is none.
type shard struct {
	number int64     // from 1 for each issuer
	name   string    // of its CRL: that of the key's, a dot, and the number
	uris   []string  // in its certificates and its CRL
	last   bool      // the issuer's newest: it is being filled
	ends   time.Time // when the last of its certificates expires; the zero Unix time while there is none
}

// key is the name of the complete CRL of the shard's key.
func (s *shard) key() string { return s.name[:strings.LastIndexByte(s.name, '.')] }

// crlURIs are the URLs of a CRL: those configured, with its name in them.
func crlURIs(urls []string, name string) []string {
	uris := make([]string, len(urls))
	for n, u := range urls {
		uris[n] = strings.ReplaceAll(u, crlPlaceholder, url.PathEscape(name))
	}
	return uris
}

// checkShards checks what crl-shard-size asks of the issuers' URLs.
func (c *Config) checkShards() error {
	if c.CRLShardSize == 0 {
		return nil
	}
	if c.CRLShardSize < minShardSize || c.CRLShardSize > maxShardSize {
		return fmt.Errorf("crl-shard-size: %d to %d, or 0 for none", minShardSize, maxShardSize)
	}
	var errs []error
	sharded := false
	for _, name := range c.issuerNames() {
		urls := c.Issuers[name].CRL
		sharded = sharded || len(urls) > 0
		fail := func(format string, args ...any) {
			errs = append(errs, fmt.Errorf("issuers."+name+".crl: "+format, args...))
		}
		if len(urls) > backend.MaxURIs {
			fail("at most %d URLs with crl-shard-size", backend.MaxURIs)
		}
		for n, u := range urls {
			switch {
			case !strings.Contains(u, crlPlaceholder):
				fail("%q has no {name}: with crl-shard-size a CA has several CRLs, and each is at a URL of its own", u)
			case len(strings.ReplaceAll(u, crlPlaceholder, strings.Repeat("n", 64))) > backend.MaxURI:
				fail("a URL of at most %d octets with crl-shard-size", backend.MaxURI)
			case slices.Contains(urls[:n], u):
				fail("%q comes twice", u)
			}
		}
	}
	if !sharded {
		errs = append(errs, errors.New("crl-shard-size: no CA puts the URL of a CRL into certificates: say so in issuers.NAME.crl, such as http://ra.example:8080/crl/local/{name}.crl"))
	}
	return errors.Join(errs...)
}

// places are those in a shard that this process may fill. It takes some at a time, so that one issuance in many writes to the
// ledger for it.
type places struct {
	mu    sync.Mutex
	shard shard
	left  int
}

// place puts a certificate to come into a shard. Where the issuer has none, it is the zero shard.
func (r *running) place(i *issuer, now time.Time) (shard, error) {
	size := r.full.CRLShardSize
	if size == 0 || len(i.crlURLs) == 0 {
		return shard{}, nil
	}
	p := r.places[i.name]
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.left == 0 || p.shard.key() != i.crlName() { // a new key has shards of its own
		p.left = 0
		ctx, cancel := r.ledger.bound()
		defer cancel()
		s, n, err := r.ledger.takePlaces(ctx, i, size, now)
		if err != nil {
			return shard{}, err
		}
		p.shard, p.left = s, n
	}
	p.left--
	return p.shard, nil
}

// listedBy has the certificate name the CRL of its shard in the place of the complete one.
func (t *template) listedBy(s shard) error {
	if s.number == 0 {
		return nil
	}
	points, err := crlDistributionPoints(s.uris)
	if err != nil {
		return err
	}
	n := slices.IndexFunc(t.extensions, func(e pkix.Extension) bool { return e.Id.Equal(oidCRLDistribution) })
	if n < 0 {
		return errors.New("a certificate of a shard without cRLDistributionPoints")
	}
	t.extensions[n] = points
	return nil
}

// takePlaces takes n places in the newest shard of the issuer's key, or in the one after it, which it opens: when the newest is
// full, another key's, or at other URLs than those configured.
func (l *ledger) takePlaces(ctx context.Context, i *issuer, size int, now time.Time) (s shard, n int, err error) {
	key, block := i.crlName(), int64(min(max(size/100, 1), maxPlaces))
	err = l.writer.Do(ctx, func(ctx context.Context, tx *groupcommit.Tx) error {
		if l.shared {
			// One replica at a time. Each statement sees what was committed before it.
			if _, err := tx.ExecContext(ctx, `SELECT name FROM keys WHERE issuer = $1 AND shard = 0 ORDER BY name FOR UPDATE`, i.name); err != nil {
				return err
			}
		}
		s, n = shard{}, int(block)
		var taken int64
		var uris string
		err := tx.QueryRowContext(ctx, `SELECT name, shard, uris, taken FROM keys WHERE issuer = $1 AND shard > 0 ORDER BY shard DESC LIMIT 1`, i.name).
			Scan(&s.name, &s.number, &uris, &taken)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		s.uris = strings.Fields(uris)
		fits := err == nil && s.key() == key && slices.Equal(s.uris, crlURIs(i.crlURLs, s.name))
		if fits && taken+block > int64(size) {
			filled, err := l.filledShards(ctx, tx, i.name, now)
			if err != nil {
				return err
			}
			fits = filled >= maxShardsFilled
		}
		if fits {
			_, err := tx.ExecContext(ctx, `UPDATE keys SET taken = taken + $1 WHERE name = $2`, block, s.name)
			return err
		}
		filled, err := l.filledShards(ctx, tx, i.name, now)
		switch {
		case err != nil:
			return err
		case filled >= backend.MaxShards-1:
			return fmt.Errorf("%d shards have unexpired certificates: make crl-shard-size larger, or wait until some have expired", filled)
		}
		s.number++
		s.name = fmt.Sprintf("%s.%d", key, s.number)
		s.uris = crlURIs(i.crlURLs, s.name)
		_, err = tx.ExecContext(ctx, `INSERT INTO keys (name, issuer, shard, uris, taken) VALUES ($1, $2, $3, $4, $5)`,
			s.name, i.name, s.number, strings.Join(s.uris, "\n"), block)
		return err
	})
	return s, n, err
}

// filledShards counts the shards with unexpired certificates.
func (l *ledger) filledShards(ctx context.Context, tx *groupcommit.Tx, issuer string, now time.Time) (n int, err error) {
	err = tx.QueryRowContext(ctx, `SELECT count(*) FROM keys WHERE issuer = $1 AND shard > 0 AND EXISTS (SELECT 1 FROM certificates AS c
		WHERE c.issuer = keys.issuer AND c.shard = keys.shard AND c.shard > 0 AND c.not_after >= $2)`, issuer, now.Unix()).Scan(&n)
	return n, err
}

const selectShards = `SELECT name, issuer, shard, uris, shard = (SELECT max(k.shard) FROM keys AS k WHERE k.issuer = keys.issuer),
	(SELECT coalesce(max(c.not_after), 0) FROM certificates AS c WHERE c.issuer = keys.issuer AND c.shard = keys.shard AND c.shard > 0)
	FROM keys WHERE shard > 0 AND `

func scanShard(row interface{ Scan(...any) error }) (s *shard, issuer string, err error) {
	var uris string
	var ends int64
	s = new(shard)
	err = row.Scan(&s.name, &issuer, &s.number, &uris, &s.last, &ends)
	s.uris, s.ends = strings.Fields(uris), time.Unix(ends, 0).UTC()
	return s, issuer, err
}

// shardNamed finds the shard whose CRL has the name, nil for none.
func (r *running) shardNamed(ctx context.Context, name string) (*crlScope, error) {
	s, issuer, err := scanShard(r.ledger.read.QueryRowContext(ctx, selectShards+`name = $1`, name))
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil, nil
	case err != nil:
		return nil, err
	}
	i, key := r.crlNamed(s.key())
	if i == nil || i.name != issuer {
		return nil, nil // another replica's new key, which is not here yet
	}
	return &crlScope{issuer: i, key: key, shard: s}, nil
}

// shards lists the shards of an issuer whose CRLs are made, the oldest first.
func (r *running) shards(ctx context.Context, i *issuer, now time.Time) ([]*shard, error) {
	rows, err := r.ledger.read.QueryContext(ctx, selectShards+`issuer = $1 ORDER BY shard`, i.name)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []*shard
	for rows.Next() {
		s, _, err := scanShard(rows)
		if err != nil {
			return nil, err
		}
		if r.publishesShard(i, s, now) {
			all = append(all, s)
		}
	}
	return all, rows.Err()
}

// publishesShard reports whether the CRL of a shard is made: of the newest, and as long as a revoked certificate of it has to
// appear (RFC 5280 section 3.3); never after that of its key.
func (r *running) publishesShard(i *issuer, s *shard, now time.Time) bool {
	of, key := r.crlNamed(s.key())
	return of == i && r.publishes(i, key, now) && (s.last || !now.After(s.ends.Add(r.crlValidity)))
}

func (r *running) publishedShards(ctx context.Context, i *issuer, now time.Time) (map[int64]bool, error) {
	all, err := r.shards(ctx, i, now)
	published := map[int64]bool{}
	for _, s := range all {
		published[s.number] = true
	}
	return published, err
}

// describeSharded is describe with the shards.
func (r *running) describeSharded(ctx context.Context, i *issuer, now time.Time) (*backend.CA, error) {
	ca := r.describe(i, now)
	all, err := r.shards(ctx, i, now)
	if err != nil {
		return nil, backend.Refuse(codes.Unavailable, "ledger: %v", err)
	}
	for _, s := range all {
		ca.Shards = append(ca.Shards, backend.CRLShard{Name: s.name, URIs: s.uris})
	}
	return &ca, nil
}
