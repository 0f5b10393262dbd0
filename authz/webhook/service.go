package webhook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Bounds of what goes over the wire, in bytes.
const (
	maxQuestion = 1 << 20
	maxAnswer   = 64 << 10
)

// firstPause is how long the first repetition waits; each further one twice as long.
const firstPause = 200 * time.Millisecond

// SignatureHeader has the HMAC of a question, or of an answer; IdempotencyHeader the same words in all attempts at one question.
const (
	SignatureHeader   = "Muster-Signature"
	IdempotencyHeader = "Idempotency-Key"
)

// ErrNot says that a question was not asked, by the word of who was about to.
var ErrNot = errors.New("not asked")

// Service is the operator's service. It is safe for concurrent use.
type Service struct {
	url, where, host string // where is url without its query: for people
	token, secret    secret
	client           *http.Client
	timeout          time.Duration
	retries          int
	private          bool
	signed           bool // an answer counts only with its signature
	turns            *turns

	// Tests put others in their place.
	deadline func(context.Context, time.Duration) (context.Context, context.CancelFunc)
	pause    func(context.Context, time.Duration) error
	lookup   func(ctx context.Context, network, host string) ([]netip.Addr, error)
	connect  func(ctx context.Context, network, address string) (net.Conn, error)
}

// Host is the service's name or address.
func (s *Service) Host() string { return s.host }

// Close gives up the connections that no question is under way on, and each other one when its question is answered. Who still
// asks is answered.
func (s *Service) Close() { s.client.CloseIdleConnections() }

// Ask posts the question as JSON, and decodes the answer into what answer points to, a struct with a json tag on each field. device is
// whom it is about, "" where that is not known: of one, few questions are under way at once. key goes along as Idempotency-Key: a service
// may answer a question with the same key as it did before. may is called when the question's turn has come, which can take a while: false
// ends it unasked, with ErrNot. The error says what went wrong in words for the operator, without anything of question or answer; answer is
// then not to be looked at.
func (s *Service) Ask(ctx context.Context, device, key string, question, answer any, may func() bool) error {
	body, err := json.Marshal(question)
	switch {
	case err != nil:
		return s.failed(errors.New("the question cannot be encoded"))
	case len(body) > maxQuestion:
		return s.failed(fmt.Errorf("the question has %d bytes, %d are sent", len(body), maxQuestion))
	}
	ctx, cancel := s.deadline(ctx, s.timeout)
	defer cancel()
	giveBack, err := s.turns.take(ctx, device)
	if err != nil {
		return s.failed(err)
	}
	defer giveBack()
	if !may() {
		return ErrNot
	}
	for n := 0; ; n++ {
		data, again, err := s.post(ctx, key, body)
		if err == nil {
			if err = decode(data, answer); err != nil {
				return s.failed(err)
			}
			return nil
		}
		if !again || n >= s.retries || s.pause(ctx, firstPause<<n) != nil {
			if n > 0 {
				err = fmt.Errorf("%w (asked %d times)", err, n+1)
			}
			return s.failed(err)
		}
	}
}

func (s *Service) failed(err error) error { return fmt.Errorf("webhook %s: %w", s.where, err) }

// post makes one attempt. again reports whether another one may fare better.
func (s *Service) post(ctx context.Context, key string, body []byte) (answer []byte, again bool, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(body))
	if err != nil {
		return nil, false, errors.New("the request cannot be made")
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json")
	r.Header.Set("User-Agent", "muster")
	// In the letters of RFC 9110 net/http would know it, take the question for one that may be repeated, and repeat it by itself when a
	// connection breaks: the attempts are counted here.
	r.Header[strings.ToLower(IdempotencyHeader)] = []string{key}
	if s.token != nil {
		r.Header.Set("Authorization", "Bearer "+string(s.token))
	}
	signature := ""
	if s.secret != nil {
		signature = s.sign(body)
		r.Header.Set(SignatureHeader, signature)
	}
	res, err := s.client.Do(r)
	if err != nil {
		if outer, ok := errors.AsType[*url.Error](err); ok {
			err = outer.Err // the outer one quotes the URL, with its query
		}
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("no answer came within %v: %w", s.timeout, context.DeadlineExceeded)
		}
		return nil, !errors.Is(err, errAddress), unquoted(err)
	}
	defer res.Body.Close()
	switch {
	case res.StatusCode >= 300 && res.StatusCode < 400:
		return nil, false, fmt.Errorf("it answered %d: redirections are not followed", res.StatusCode)
	case res.StatusCode != http.StatusOK:
		again := slices.Contains([]int{429, 500, 502, 503, 504}, res.StatusCode)
		return nil, again, fmt.Errorf("it answered %d, not 200", res.StatusCode)
	}
	if kind, _, err := mime.ParseMediaType(res.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return nil, false, errors.New("its answer is not application/json")
	}
	if res.Header.Get("Content-Encoding") != "" {
		return nil, false, errors.New("its answer has a Content-Encoding, which was not asked for")
	}
	answer, err = io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return nil, true, fmt.Errorf("no whole answer came within %v: %w", s.timeout, context.DeadlineExceeded)
	case err != nil:
		return nil, true, fmt.Errorf("its answer broke off: %w", unquoted(err))
	case len(answer) > maxAnswer:
		return nil, false, fmt.Errorf("its answer is larger than %d bytes", maxAnswer)
	case s.signed:
		return answer, false, s.verify(res.Header.Values(SignatureHeader), signature, answer)
	}
	return answer, false, nil
}

// sign is the signature over what the parts make together, as it stands in a header.
func (s *Service) sign(parts ...[]byte) string {
	mac := hmac.New(sha256.New, s.secret)
	for _, p := range parts {
		mac.Write(p)
	}
	return "sha256=" + hex.EncodeToString(mac.Sum(nil))
}

// verify says what is wrong with an answer's signature. That of the question stands before the body, and ends at the dot: the
// answer to another question, or to one of another time, has another.
func (s *Service) verify(got []string, question string, answer []byte) error {
	switch {
	case len(got) != 1:
		return errors.New("its answer has no " + SignatureHeader + ", or several, and signed-answers wants one")
	case !hmac.Equal([]byte(got[0]), []byte(s.sign([]byte(question), []byte("."), answer))):
		return errors.New("the signature of its answer is wrong: made with another secret, or for another question")
	}
	return nil
}

// unquoted is an error that says nothing of the answer. Those of net/http about what is not HTTP quote it, and it may hold what was asked.
func unquoted(err error) error {
	var (
		connection  *net.OpError
		name        *net.DNSError
		certificate *tls.CertificateVerificationError
		record      tls.RecordHeaderError
		alert       tls.AlertError
		late        net.Error
	)
	for _, known := range []error{errAddress, errNoAddress, context.DeadlineExceeded, context.Canceled, io.EOF, io.ErrUnexpectedEOF} {
		if errors.Is(err, known) {
			return err
		}
	}
	switch {
	case errors.As(err, &connection), errors.As(err, &name), errors.As(err, &certificate), errors.As(err, &record), errors.As(err, &alert):
		return err
	case errors.As(err, &late) && late.Timeout():
		return err
	// These have no type.
	case strings.HasPrefix(err.Error(), "http: server gave HTTP response to HTTPS client"):
		return errors.New("it answers without TLS: is `url` to begin with http?")
	case err.Error() == "http: server closed idle connection", strings.HasPrefix(err.Error(), "tls: "): // a handshake, before anything is asked
		return err
	}
	return errors.New("its answer is not HTTP, or its header is too long")
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

var (
	errAddress   = errors.New("address not allowed")
	errNoAddress = errors.New("its name has no address")
)

// dial connects to the service. What a name leads to is somebody else's word, that of DNS: unless the operator says so, it must not
// lead into the operator's own network.
func (s *Service) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return s.connect(ctx, network, address)
	}
	found, err := s.leads(ctx, host)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, errNoAddress
	}
	local := strings.EqualFold(host, "localhost")
	for _, ip := range found {
		ip = ip.Unmap()
		switch {
		case ip.IsUnspecified() || ip.IsMulticast():
			return nil, fmt.Errorf("%w: its name leads to %s", errAddress, ip)
		case !local && !s.private && isPrivate(ip):
			return nil, fmt.Errorf("%w: its name leads to %s, a private one: say `private: true` if that is meant", errAddress, ip)
		}
	}
	for _, ip := range found {
		var conn net.Conn
		if conn, err = s.connect(ctx, network, net.JoinHostPort(ip.Unmap().String(), port)); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

// leads is what a name leads to. Of localhost and the names below it that is known: nobody is asked (RFC 6761 section 6.3).
func (s *Service) leads(ctx context.Context, host string) ([]netip.Addr, error) {
	if name := strings.ToLower(strings.TrimSuffix(host, ".")); name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}, nil
	}
	return s.lookup(ctx, "ip", host)
}

// shared are further addresses that no service on the Internet has: RFC 6598 (carriers' own), RFC 6890 (for protocols, measurements and
// the future), RFC 3879 (the former site-local), and RFC 4380 (Teredo), RFC 6052, RFC 8215, RFC 3056 and RFC 4291 section 2.5.5.1, which stand for IPv4 addresses of any kind.
var shared = []netip.Prefix{
	netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("192.0.0.0/24"), netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("240.0.0.0/4"), netip.MustParsePrefix("fec0::/10"), netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("64:ff9b:1::/48"),
	netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("2001::/32"), netip.MustParsePrefix("::/96"),
}

func isPrivate(ip netip.Addr) bool {
	return ip.IsLoopback() || ip.IsPrivate() || ip.IsLinkLocalUnicast() || slices.ContainsFunc(shared, func(p netip.Prefix) bool { return p.Contains(ip.WithZone("")) })
}
