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
// process, however often a request is looked for, and what this process issued is not read at all. 100 bytes each.
type inventory struct {
	page int           // pageSize
	turn chan struct{} // held by who takes stock

	mu     sync.Mutex
	keys   map[string]item // by serial number, big-endian
	listed time.Time       // when the list was asked for of which all certificates are known; zero for never
}

// item is one certificate.
type item struct {
	key [16]byte // of its SHA-256
	id  [16]byte // likewise of the request that it was issued for, by this process; zero for not known
	at  int64    // when this process heard of it, in Unix seconds
}

func newInventory() *inventory {
	return &inventory{page: pageSize, turn: make(chan struct{}, 1), keys: map[string]item{}}
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
)

// takeStock makes the inventory whole: it lists the serial numbers, and reads what it does not know. When it is not done before ctx ends, the
// next call goes on where it stopped. A list asked for at or after the time given is as good as a new one. It returns when that was.
func (e *engine) takeStock(ctx context.Context, after time.Time) (time.Time, error) {
	v := e.inventory
	select {
	case v.turn <- struct{}{}:
		defer func() { <-v.turn }()
	case <-ctx.Done():
		return time.Time{}, ended(ctx)
	}
	began := e.o.Clock()
	v.mu.Lock()
	listed := v.listed
	v.mu.Unlock()
	if age := began.Sub(listed); !listed.IsZero() && age >= 0 && age < fresh && (!listed.Before(after) || began.Before(after)) {
		return listed, nil
	}
	serials, err := e.list(ctx)
	if err != nil {
		return time.Time{}, err
	}
	if err := e.read(ctx, v.missing(serials)); err != nil {
		return time.Time{}, err
	}
	v.whole(serials, began)
	return began, nil
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

// read learns the keys of certificates.
func (e *engine) read(ctx context.Context, serials []string) error {
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
