package vault

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/plugins/backend"
)

// inventory is what is known of the engine's certificates: the key of each. Certificates do not change, so each is read once in the life of a
// process, however often a request is looked for, and what this process issued is not read at all. 150 bytes each.
type inventory struct {
	page int // pageSize

	mu     sync.Mutex
	keys   map[string]item // by serial number, big-endian
	listed time.Time       // when the list was asked for of which all certificates are known; zero for never
	taking *stock          // under way; nil for none
}

// stock is one taking of stock. It goes on when those who wait for it have gone: the first may take longer than a Lookup has.
type stock struct {
	began time.Time     // by the backend's clock
	done  chan struct{} // closed when it has ended
	err   error         // with what
	all   atomic.Int64  // certificates to be read; 0 before the list has come
	read  atomic.Int64  // of them, those that have been
}

// item is one certificate.
type item struct {
	key [16]byte // of its SHA-256
	id  [16]byte // likewise of the request that it was issued for, by this process; zero for not known
	at  int64    // when this process heard of it, in Unix seconds
}

func newInventory() *inventory {
	return &inventory{page: pageSize, keys: map[string]item{}}
}

func short(b []byte) [16]byte {
	sum := sha256.Sum256(b)
	return [16]byte(sum[:16])
}

// issued notes what this process knows anyway, as long as there are fewer than limit.
func (v *inventory) issued(c *x509.Certificate, id string, now time.Time, limit int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.keys) < limit {
		v.keys[string(c.SerialNumber.Bytes())] = item{key: short(c.RawSubjectPublicKeyInfo), id: short([]byte(id)), at: now.Unix()}
	}
}

// withKey are the serial numbers of certificates with the key but for those that are known to be another request's.
func (v *inventory) withKey(spki []byte, id string) (serials []string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	key, own := short(spki), short([]byte(id))
	for serial, it := range v.keys {
		if it.key == key && (it.id == own || it.id == [16]byte{}) {
			serials = append(serials, serial)
		}
	}
	return serials
}

const (
	readers   = 8               // certificates that are read at once
	pageSize  = 10_000          // serial numbers of an answer of OpenBao; Vault gives all
	serialMax = 64              // bytes of one in JSON: 20 octets with colons, quotes and a comma
	fresh     = 2 * time.Second // a list so young is not asked for again: many requests are looked for at once, after a crash

	longest = 2 * time.Hour // of one taking of stock: a million certificates at 140 in a second
	answers = time.Second   // before its caller's end a Lookup says how far it is, since the end itself has no words
)

// takeStock makes the inventory whole: it lists the serial numbers, and reads what it does not know. There is one at a time, which all wait for;
// whoever has no time left is told how far it is, and it goes on. A list asked for at or after the time given is as good as a new one. It
// returns when that was.
func (e *engine) takeStock(ctx context.Context, after time.Time) (time.Time, error) {
	wait := ctx
	if end, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		wait, cancel = context.WithDeadline(ctx, end.Add(-answers))
		defer cancel()
	}
	for first := true; ; first = false {
		if err := ended(ctx); err != nil {
			return time.Time{}, err
		}
		s, listed := e.stock(ctx, after)
		if s == nil {
			return listed, nil
		}
		select {
		case <-s.done:
		case <-wait.Done():
			return time.Time{}, backend.Refuse(codes.Unavailable, "unknown: the engine's certificates are being read, which goes on: %d of %d", s.read.Load(), s.all.Load())
		}
		// One that was under way already may be older than the time given: then another is due, which has little left to read.
		if s.err != nil || !first || !s.began.Before(after) || e.o.Clock().Before(after) {
			return s.began, s.err
		}
	}
}

// stock is the taking that is under way, or a new one; or nil, when the inventory was made whole a moment ago, and when that was.
func (e *engine) stock(ctx context.Context, after time.Time) (*stock, time.Time) {
	v, now := e.inventory, e.o.Clock()
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.taking != nil {
		return v.taking, time.Time{}
	}
	if age := now.Sub(v.listed); !v.listed.IsZero() && age >= 0 && age < fresh && (!v.listed.Before(after) || now.Before(after)) {
		return nil, v.listed
	}
	s := &stock{began: now, done: make(chan struct{})}
	v.taking = s
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), longest)
	go func() {
		defer cancel()
		s.err = e.take(ctx, s)
		v.mu.Lock()
		v.taking = nil
		v.mu.Unlock()
		close(s.done)
	}()
	return s, time.Time{}
}

func (e *engine) take(ctx context.Context, s *stock) error {
	serials, err := e.list(ctx)
	if err != nil {
		return err
	}
	missing := e.inventory.missing(serials)
	s.all.Store(int64(len(missing)))
	if err := e.read(ctx, missing, &s.read); err != nil {
		return err
	}
	e.inventory.whole(serials, s.began)
	return nil
}

// missing are those that are not known.
func (v *inventory) missing(serials map[string]bool) (out []string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for s := range serials {
		if _, known := v.keys[s]; !known {
			out = append(out, s)
		}
	}
	return out
}

// whole notes that all of a list are known, and forgets what the engine has tidied away: what is not in the list and older than it.
func (v *inventory) whole(serials map[string]bool, began time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for s, it := range v.keys {
		if !serials[s] && it.at < began.Unix() {
			delete(v.keys, s)
		}
	}
	v.listed = began
}

// list asks for all serial numbers, in pages where the server knows such. Those that come meanwhile may be missing.
func (e *engine) list(ctx context.Context) (map[string]bool, error) {
	out := map[string]bool{}
	v, limit := e.inventory, e.cfg.LookupLimit
	for last := ""; ; {
		query := url.Values{"list": {"true"}, "limit": {strconv.Itoa(v.page)}}
		if last != "" {
			query.Set("after", strings.ReplaceAll(last, ":", "-")) // as they are stored, and sorted
		}
		answer, err := e.api.call(ctx, http.MethodGet, e.path("certs")+"?"+query.Encode(), nil, int64(limit+v.page)*serialMax+maxAnswer)
		switch {
		case err != nil:
			return nil, named(err, "certs")
		case nothing(answer):
			return out, nil
		case answer.Status != http.StatusOK:
			return nil, named(refused(answer), "certs")
		}
		var got struct {
			Keys []string `json:"keys"`
		}
		if err := dataOf(answer, &got); err != nil {
			return nil, named(err, "certs")
		}
		before := len(out)
		for _, key := range got.Keys {
			serial, err := hex.DecodeString(strings.NewReplacer(":", "", "-", "").Replace(key))
			if err != nil || len(serial) == 0 {
				return nil, backend.Refuse(codes.Internal, "certs: a serial number that is none")
			}
			out[string(serial)] = true
		}
		if len(out) > limit {
			return nil, backend.Refuse(codes.ResourceExhausted, "the engine has more than %d certificates: raise lookup-limit, or have it tidy up", limit)
		}
		if len(got.Keys) != v.page || len(out) == before { // the last page; or all at once
			return out, nil
		}
		last = got.Keys[len(got.Keys)-1]
	}
}

// read learns the keys of certificates, and counts them.
func (e *engine) read(ctx context.Context, serials []string, done *atomic.Int64) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var next atomic.Int64
	var all sync.WaitGroup
	for range min(readers, len(serials)) {
		all.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(serials) {
					return
				}
				c, _, err := e.certificate(ctx, colons([]byte(serials[i])))
				if err != nil {
					stop(err)
					return
				}
				e.inventory.learn(serials[i], c)
				done.Add(1)
			}
		})
	}
	all.Wait()
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("reading %d certificates: %w", len(serials), err)
	}
	return nil
}

// learn notes a certificate that was read. One that is gone had expired; it has no key.
func (v *inventory) learn(serial string, c *x509.Certificate) {
	if c == nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, known := v.keys[serial]; !known {
		v.keys[serial] = item{key: short(c.RawSubjectPublicKeyInfo)}
	}
}
