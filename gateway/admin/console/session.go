package console

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/muster-pki/muster/gateway/admin"
)

// Bounds of sessions.
const (
	maxSessions  = 1000
	maxOfPerson  = 10 // at once; the one that was used longest ago ends
	sessionsMost = 12 * time.Hour

	sessionCookie = "__Host-muster"
	signInCookie  = "__Host-muster-signin"
	signInTime    = 10 * time.Minute
)

// session is somebody who has signed in, in one browser.
type session struct {
	token string       // of its forms
	actor string       // as the audit trail has it
	oidc  *oidcSession // nil: by client certificate, which is looked at anew each time
	began time.Time
	used  time.Time

	mu  sync.Mutex
	job *importJob // its last import, nil for none
}

// oidcSession is what an identity provider has said of somebody. The role is found in it anew each time: by the configuration that runs.
type oidcSession struct {
	oidcTerms
	way    string // "oidc:NAME"
	groups []string
}

// oidcTerms are the settings by which a name and its groups were read.
type oidcTerms struct{ issuer, client, nameClaim, rolesClaim string }

// holds reports whether a form is this session's.
func (s *session) holds(token string) bool {
	return s != nil && len(token) == len(s.token) && subtle.ConstantTimeCompare([]byte(token), []byte(s.token)) == 1
}

// Sessions are kept in memory: those of one process, ended by its end. Make one by NewSessions.
type Sessions struct {
	clock func() time.Time
	seal  cipher.AEAD // of what is given to browsers to keep; a key of this process

	mu sync.Mutex
	by map[[sha256.Size]byte]*session // by the SHA-256 of the cookie

	uploading chan struct{} // holds a value while a file is read: one at a time is in memory
	life      context.Context
	stop      context.CancelFunc
	work      sync.WaitGroup // imports
}

// NewSessions makes an empty one.
func NewSessions(clock func() time.Time) (*Sessions, error) {
	key := make([]byte, 32)
	rand.Read(key) //nolint:errcheck // never fails
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	seal, err := cipher.NewGCM(block)
	all := &Sessions{clock: clock, seal: seal, by: map[[sha256.Size]byte]*session{}, uploading: make(chan struct{}, 1)}
	all.life, all.stop = context.WithCancel(context.Background())
	return all, err
}

// Close ends what was begun for people who do not wait for it, and waits for that.
func (all *Sessions) Close() {
	all.mu.Lock() // against run
	all.stop()
	all.mu.Unlock()
	all.work.Wait()
}

// run does something in the background until Close; false where that was called.
func (all *Sessions) run(do func(ctx context.Context)) bool {
	all.mu.Lock()
	defer all.mu.Unlock()
	if all.life.Err() != nil {
		return false
	}
	all.work.Go(func() { do(all.life) })
	return true
}

func random() string {
	b := make([]byte, 32)
	rand.Read(b) //nolint:errcheck // never fails
	return base64.RawURLEncoding.EncodeToString(b)
}

// begin makes a session, and the value of its cookie. Where there are too many, of this person or at all, the one that was used longest ago ends.
func (all *Sessions) begin(actor string, o *oidcSession) (value string) {
	now := all.clock()
	value = random()
	all.mu.Lock()
	defer all.mu.Unlock()
	var mine, any oldest
	for key, s := range all.by {
		any.see(key, s)
		if s.actor == actor {
			mine.see(key, s)
		}
	}
	switch {
	case mine.n >= maxOfPerson:
		delete(all.by, mine.key)
	case any.n >= maxSessions:
		delete(all.by, any.key)
	}
	all.by[sha256.Sum256([]byte(value))] = &session{token: random(), actor: actor, oidc: o, began: now, used: now}
	return value
}

// oldest finds the session that was used longest ago.
type oldest struct {
	n   int
	key [sha256.Size]byte
	at  time.Time
}

func (o *oldest) see(key [sha256.Size]byte, s *session) {
	if o.n == 0 || s.used.Before(o.at) {
		o.key, o.at = key, s.used
	}
	o.n++
}

// find returns the session of a cookie, nil for none that is good. touch says that somebody is there: what a page asks by itself does not
// make a session last.
func (all *Sessions) find(value string, idle time.Duration, touch bool) *session {
	now := all.clock()
	key := sha256.Sum256([]byte(value))
	all.mu.Lock()
	defer all.mu.Unlock()
	s := all.by[key]
	if s == nil {
		return nil
	}
	if now.Sub(s.used) >= idle || now.Sub(s.began) >= sessionsMost {
		delete(all.by, key)
		return nil
	}
	if touch {
		s.used = now
	}
	return s
}

// end ends one.
func (all *Sessions) end(value string) {
	all.mu.Lock()
	defer all.mu.Unlock()
	delete(all.by, sha256.Sum256([]byte(value)))
}

// sealed is a value that a browser keeps, and can neither read nor change.
func (all *Sessions) sealed(v any) (string, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	nonce := make([]byte, all.seal.NonceSize())
	rand.Read(nonce) //nolint:errcheck // never fails
	return base64.RawURLEncoding.EncodeToString(all.seal.Seal(nonce, nonce, text, []byte(signInCookie))), nil
}

var errUnsealed = errors.New("not sealed here")

// unsealed reads one.
func (all *Sessions) unsealed(s string, v any) error {
	data, err := base64.RawURLEncoding.DecodeString(s)
	n := all.seal.NonceSize()
	if err != nil || len(data) < n {
		return errUnsealed
	}
	text, err := all.seal.Open(nil, data[:n], data[n:], []byte(signInCookie))
	if err != nil {
		return errUnsealed
	}
	return json.Unmarshal(text, v)
}

// pollHeader is what a page sends along when it asks by itself.
const pollHeader = "X-Muster-Poll"

// recognise finds out who has signed in, if anybody. A session stands for what it was begun with, and only while that would still let its
// owner in: a certificate that is revoked, or a group that has lost its role, counts no more at once.
func (v *visit) recognise() error {
	cookie, err := v.r.Cookie(sessionCookie)
	if err != nil {
		return nil
	}
	s := v.k.Sessions.find(cookie.Value, v.k.Settings.Idle(), v.r.Header.Get(pollHeader) == "")
	if s == nil {
		return nil
	}
	var who admin.Person
	if s.oidc != nil {
		who = admin.Person{Actor: v.k.Access.Named(s.oidc.way), Role: v.k.idp.roleOf(s.oidc)}
	} else {
		who, err = v.k.API.Certified(v.k.Access, v.r)
		if err != nil && !errors.Is(err, admin.ErrNobody) {
			return err
		}
	}
	if err != nil || who.Actor != s.actor || who.Role < admin.Viewer {
		return nil
	}
	v.person, v.session = who, s
	return nil
}

// begin signs somebody in: a session with a new cookie, whatever the browser had before.
func (v *visit) begin(actor string, o *oidcSession) {
	if old, err := v.r.Cookie(sessionCookie); err == nil {
		v.k.Sessions.end(old.Value)
	}
	value := v.k.Sessions.begin(actor, o)
	// Lax, not Strict: the identity provider's page sends people here. What changes anything is a form with the session's token.
	http.SetCookie(v.w, &http.Cookie{Name: sessionCookie, Value: value, Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode})
}

// forget takes a cookie back.
func (v *visit) forget(name string) {
	http.SetCookie(v.w, &http.Cookie{Name: name, Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode, MaxAge: -1})
}
