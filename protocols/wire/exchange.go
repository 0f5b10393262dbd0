// Package wire is the HTTP end that the protocol adapters have in common: one exchange with its answer, its body and its
// panics, what all their configurations hold, and the names of their endpoints. It knows no protocol, and calls neither
// the gateway nor an adapter.
package wire

import (
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// Exchange is one HTTP request and its answer. An adapter's own exchange embeds it.
type Exchange struct {
	W        http.ResponseWriter
	R        *http.Request
	Request  *gateway.Request // as much of it as is known
	Log      *slog.Logger
	Limits   Limits // the endpoint's, once it is known; zero values stand for the defaults
	Answered bool   // Write sets it
}

// New begins an exchange with a Request of which ID, Protocol, POP (none), Source, Proxy and Received are filled in.
func New(w http.ResponseWriter, r *http.Request, protocol gateway.Protocol, now time.Time, log *slog.Logger) Exchange {
	return Exchange{W: w, R: r, Log: log, Request: &gateway.Request{
		ID: gateway.NewID(now), Protocol: protocol, POP: gateway.POPNone, Source: source(r.RemoteAddr), Proxy: gateway.ProxyOf(r.Context()), Received: now,
	}}
}

// source is the peer's address; the zero Addr when there is none to read.
func source(remote string) netip.Addr {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}

// Contain is deferred: it ends a panic by having it refused as Internal. What the panic says goes to the log only. When
// refuse panics too, plain text answers.
func (x *Exchange) Contain(refuse func(*Refusal)) {
	p := recover()
	if p == nil {
		return
	}
	if p == http.ErrAbortHandler { // net/http's own way to drop a connection
		panic(p)
	}
	log := x.Log.With("protocol", x.Request.Protocol, "id", x.Request.ID)
	log.Error("request panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	if x.Answered {
		return
	}
	defer func() {
		if p := recover(); p != nil {
			log.Error("refusal panicked", "panic", fmt.Sprint(p))
			if !x.Answered {
				x.Text(http.StatusInternalServerError, "internal server error", x.Request.ID)
			}
		}
	}()
	refuse(Refused(gateway.Internal, "", fmt.Errorf("panic: %v", p)))
}

// Write sends an answer with its length: some clients read no other. None is for a cache: each is made for one client at
// one time.
func (x *Exchange) Write(status int, contentType string, body []byte) {
	header := x.W.Header()
	header.Set("Content-Type", contentType)
	header.Set("Content-Length", strconv.Itoa(len(body)))
	header.Set("Cache-Control", "no-store")
	x.Answered = true
	x.W.WriteHeader(status)
	if x.R.Method == http.MethodHead {
		return
	}
	if x.R.TLS != nil && len(body) > buffered {
		// net/http would send as much as its buffer holds in one TLS record, and the rest in another. strongSwan's pki reads
		// the beginning, then the rest, and does not wait for a record more: so the header is one record, the body another.
		http.NewResponseController(x.W).Flush() //nolint:errcheck // other clients read it either way
	}
	if _, err := x.W.Write(body); err != nil {
		// The client is gone; it repeats its request, and gets the same answer.
		x.Log.Debug("answer not delivered", "protocol", x.Request.Protocol, "id", x.Request.ID, "err", err)
	}
}

// buffered is how large a body can be that net/http is sure to send together with the header: 4096 bytes are buffered.
const buffered = 2048

// Text answers with a Line of plain text.
func (x *Exchange) Text(status int, detail, transaction string) {
	x.Write(status, "text/plain; charset=utf-8", []byte(Line(detail, transaction)+"\n"))
}

// Error answers with what e says, as plain text, and the headers that the status asks for. allow is for 405.
func (x *Exchange) Error(status int, e *gateway.Error, allow string) {
	header := x.W.Header()
	switch status {
	case http.StatusMethodNotAllowed:
		header.Set("Allow", allow)
	case http.StatusRequestEntityTooLarge:
		header.Set("Connection", "close") // the rest of the body is not read
	case http.StatusServiceUnavailable:
		x.SetRetryAfter(e.RetryAfter)
	}
	detail := e.Detail
	if detail == "" {
		detail = strings.ToLower(http.StatusText(status))
	}
	x.Text(status, detail, e.Transaction)
}

// SetRetryAfter sets the header of that name (RFC 9110 section 10.2.3).
func (x *Exchange) SetRetryAfter(d time.Duration) {
	x.W.Header().Set("Retry-After", strconv.FormatInt(x.RetryAfter(d), 10))
}

// RetryAfter is d in whole seconds, at least one; the endpoint's delay where d is not positive.
func (x *Exchange) RetryAfter(d time.Duration) int64 {
	if d <= 0 {
		d = time.Duration(x.Limits.WithDefaults().RetryAfter)
	}
	return int64(math.Ceil(d.Seconds()))
}

// MaxDetail is how many bytes of a detail go out: it may quote a parser.
const MaxDetail = 400

// Line is one line of UTF-8, without its end, with the reference to a transaction where there is one.
func Line(detail, transaction string) string {
	detail = strings.Map(func(r rune) rune { // makes valid UTF-8, too
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, detail)
	if len(detail) > MaxDetail {
		detail = strings.ToValidUTF8(detail[:MaxDetail], "") + "..."
	}
	if transaction != "" {
		detail += " (reference " + transaction + ")"
	}
	return detail
}
