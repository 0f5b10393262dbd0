package est

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/wire"
)

// digestAlgorithm is the one of RFC 7616 section 3.2 that is offered and accepted.
const digestAlgorithm = "SHA-256"

const (
	nonceLife  = 5 * time.Minute
	nonceAhead = time.Minute // how much further the clock of another replica may be
)

// challenges are what WWW-Authenticate says, one a line. The realm is the endpoint's name, which needs no quoting: it is part of a
// URL. Some clients look at the first one only, so the stronger leads; libest knows Digest with MD5 and nothing else, and would give
// up on it.
func (x *exchange) challenges() []string {
	var all []string
	if x.endpoint.Config.Offers(HTTPAuthDigest) {
		all = append(all, x.digestChallenge())
	}
	if x.endpoint.Config.Offers(HTTPAuthBasic) {
		all = append(all, `Basic realm="`+x.endpoint.Name+`", charset="UTF-8"`) // RFC 7617 section 2.1
	}
	if fromLibest(x.R.UserAgent()) {
		slices.Reverse(all)
	}
	return all
}

// digestChallenge is the challenge of RFC 7616 section 3.3 for the endpoint, with a nonce of this moment.
//
// BouncyCastle's client, the one with Digest among those for EST, reads quoted values only, and gives up at a parameter other than these:
// so algorithm is quoted for clients without a User-Agent, as it is one (the section has it without quotes, and others take it so
// only), charset and userhash are left out, and there is no opaque, which it would not send back. It makes a new challenge of
// each answer, so that it never sees stale.
func (x *exchange) digestChallenge() string {
	algorithm := digestAlgorithm
	if x.R.UserAgent() == "" {
		algorithm = `"` + algorithm + `"`
	}
	c := `Digest realm="` + x.endpoint.Name + `", qop="auth", algorithm=` + algorithm + `, nonce="` + x.h.makeNonce(x.endpoint.Name, x.h.now()) + `"`
	if x.stale {
		c += `, stale=true`
	}
	return c
}

// digest takes down a client's answer to such a challenge. It judges form, and that the answer is one to a challenge of the
// endpoint's, for this request, and not taken before; the password is compared by the pipeline.
func (x *exchange) digest(header string) *wire.Refusal {
	a, err := parseDigest(header)
	if err != nil {
		return wire.Refused(gateway.Malformed, "the Authorization header is not that of HTTP Digest (RFC 7616 section 3.4): "+err.Error(), nil)
	}
	if ref := checkUser(a.user); ref != nil {
		return ref
	}
	if a.uri != x.R.RequestURI {
		// RFC 7616 section 3.4.6.
		return wire.Refused(gateway.Malformed, "the uri in the Authorization header is not that of the request", nil)
	}
	if !strings.EqualFold(a.algorithm, digestAlgorithm) {
		return wire.Refused(gateway.Unauthenticated, "HTTP Digest is accepted with algorithm=SHA-256 only", nil)
	}
	if a.realm != x.endpoint.Name {
		return wire.Refused(gateway.Unauthenticated, "the realm in the Authorization header is not this endpoint's", nil)
	}
	made, ok := x.h.readNonce(x.endpoint.Name, a.nonce)
	now := x.Request.Received
	if !ok || made.After(now.Add(nonceAhead)) {
		return wire.Refused(gateway.Unauthenticated, "the nonce in the Authorization header is not one of this endpoint's", nil)
	}
	key := a.nonce + strings.ToLower(a.nc)
	if now.Sub(made) > nonceLife || made.Before(x.h.answered.From) {
		x.stale = true
		return wire.Refused(gateway.Unauthenticated, "the nonce in the Authorization header is too old: answer the new one", nil)
	}
	if x.h.answered.has(key) {
		x.stale = true
		return wire.Refused(gateway.Unauthenticated, "the nonce in the Authorization header has been answered already: answer the new one, or count nc up", nil)
	}
	method, id, answered := x.R.Method, x.Request.ID, x.h.answered
	x.Request.Credentials = append(x.Request.Credentials, gateway.Credential{Kind: gateway.CredentialPassword, ID: a.user, Digest: &gateway.DigestProof{
		Realm: a.realm,
		Matches: func(ha1 []byte) bool {
			return subtle.ConstantTimeCompare(a.expected(ha1, method), a.response) == 1 && answered.take(key, id, now)
		},
	}})
	return nil
}

// expected is the response of one who knows ha1 (RFC 7616 section 3.4.1, with qop=auth).
func (a *digestAnswer) expected(ha1 []byte, method string) []byte {
	ha2 := sha256.Sum256([]byte(method + ":" + a.uri))
	sum := sha256.Sum256([]byte(hex.EncodeToString(ha1) + ":" + a.nonce + ":" + a.nc + ":" + a.cnonce + ":auth:" + hex.EncodeToString(ha2[:])))
	return sum[:]
}

// The nonce, so that no replica has to remember it (RFC 7616 section 3.3):
//
//	base64url( time in nanoseconds since 1970 (8 bytes) || random (12) || HMAC-SHA-256 over these and the endpoint (16) )
const (
	nonceRandom = 12
	nonceBody   = 8 + nonceRandom
	nonceTag    = 16
)

func (h *Handler) makeNonce(endpoint string, now time.Time) string {
	n := binary.BigEndian.AppendUint64(make([]byte, 0, nonceBody+nonceTag), uint64(now.UnixNano()))
	n = n[:nonceBody]
	rand.Read(n[8:]) //nolint:errcheck // crypto/rand.Read never fails (Go 1.24)
	return base64.RawURLEncoding.EncodeToString(append(n, h.nonceTag(endpoint, n)...))
}

// readNonce returns when the nonce was made; ok is false if it was not made for the endpoint, with the secret.
func (h *Handler) readNonce(endpoint, nonce string) (made time.Time, ok bool) {
	n, err := base64.RawURLEncoding.Strict().DecodeString(nonce)
	if err != nil || len(n) != nonceBody+nonceTag || !hmac.Equal(n[nonceBody:], h.nonceTag(endpoint, n[:nonceBody])) {
		return time.Time{}, false
	}
	return time.Unix(0, int64(binary.BigEndian.Uint64(n))), true
}

func (h *Handler) nonceTag(endpoint string, body []byte) []byte {
	mac := hmac.New(sha256.New, h.secret)
	io.WriteString(mac, "digest nonce\x00"+endpoint+"\x00") //nolint:errcheck // a hash takes everything
	mac.Write(body)
	return mac.Sum(nil)[:nonceTag]
}

// maxAnswers is how many right answers are remembered at least, up to twice as many.
const maxAnswers = 1 << 16

// Answers are those to Digest challenges that were right, for as long as their nonces are good: each counts once (RFC 7616 section 3.4,
// nc). Wrong ones take no room. The zero value is ready.
type Answers struct {
	// From is since when answers are known here. Older nonces are stale, since a process before may have taken an answer to them. The zero
	// value makes none stale.
	From time.Time

	mu          sync.Mutex
	now, before map[string]string // nonce and nc, by whom
	since       time.Time         // of now
}

// has reports whether the answer was taken.
func (a *Answers) has(key string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.by(key) != ""
}

// take reports whether the request with the id has the answer for itself: more than one stage may compare it.
func (a *Answers) take(key, id string, at time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if by := a.by(key); by != "" {
		return by == id
	}
	if a.now == nil || len(a.now) >= maxAnswers || at.Sub(a.since) > nonceLife+nonceAhead {
		a.before, a.now, a.since = a.now, map[string]string{}, at
	}
	a.now[key] = id
	return true
}

func (a *Answers) by(key string) string {
	if by, ok := a.now[key]; ok {
		return by
	}
	return a.before[key]
}
