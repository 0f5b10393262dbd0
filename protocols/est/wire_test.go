package est

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cryptobyteasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/gateway"
)

// certificatesOf reads a certs-only answer as RFC 5272 section 4.1 describes it, with no code of ours.
func certificatesOf(t *testing.T, body string) []*x509.Certificate {
	t.Helper()
	der, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(body, "\n", ""))
	if err != nil {
		t.Fatalf("not base64: %v", err)
	}
	s := cryptobyte.String(der)
	var info, content, signed, certs cryptobyte.String
	var version int
	ctx0 := cryptobyteasn1.Tag(0).ContextSpecific().Constructed()
	if !s.ReadASN1(&info, cryptobyteasn1.SEQUENCE) || !s.Empty() || !info.SkipASN1(cryptobyteasn1.OBJECT_IDENTIFIER) ||
		!info.ReadASN1(&content, ctx0) || !content.ReadASN1(&signed, cryptobyteasn1.SEQUENCE) || !signed.ReadASN1Integer(&version) ||
		!signed.SkipASN1(cryptobyteasn1.SET) || !signed.SkipASN1(cryptobyteasn1.SEQUENCE) || !signed.ReadASN1(&certs, ctx0) {
		t.Fatalf("not a degenerate SignedData: %x", der)
	}
	var signers cryptobyte.String
	if version != 1 || !signed.ReadASN1(&signers, cryptobyteasn1.SET) || !signers.Empty() || !signed.Empty() {
		t.Fatalf("SignedData version %d, signers %x", version, signers)
	}
	list, err := x509.ParseCertificates(certs)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// RFC 7030 sections 4.1.2 and 4.1.3: no authentication, the bare type, the whole chain with the root.
func TestCACerts(t *testing.T) {
	w := newWorld(t, worldOptions{})
	client := w.client(nil, nil, nil)
	for _, path := range []string{"/cacerts", "/ran/cacerts", "/plant/cacerts"} {
		got := send(t, client, w.request(http.MethodGet, root+path, nil))
		if got.StatusCode != 200 {
			t.Fatalf("%s: %d %s", path, got.StatusCode, got.body)
		}
		if ct := got.Header.Get("Content-Type"); ct != "application/pkcs7-mime" {
			t.Errorf("%s: Content-Type %q", path, ct)
		}
		if cte := got.Header.Get("Content-Transfer-Encoding"); cte != "base64" {
			t.Errorf("%s: Content-Transfer-Encoding %q", path, cte)
		}
		if got.ContentLength != int64(len(got.body)) {
			t.Errorf("%s: Content-Length %d of %d", path, got.ContentLength, len(got.body))
		}
		certs := certificatesOf(t, got.body)
		if len(certs) != 2 || !containsCert(certs, w.ca.root) || !containsCert(certs, w.ca.issuer) {
			t.Errorf("%s: %d certificates", path, len(certs))
		}
	}
	head := send(t, client, w.request(http.MethodHead, root+"/cacerts", nil))
	if head.StatusCode != 200 || head.ContentLength < 100 || head.body != "" {
		t.Errorf("HEAD: %d, length %d, body %q", head.StatusCode, head.ContentLength, head.body)
	}

	w.gateway.caCerts = func() ([]*x509.Certificate, error) {
		return nil, &gateway.Error{Reason: gateway.Unavailable, Detail: "the CA cannot be reached", Err: errors.New("dial")}
	}
	got := send(t, client, w.request(http.MethodGet, root+"/cacerts", nil))
	if got.StatusCode != 503 || got.Header.Get("Retry-After") != "30" || !strings.HasPrefix(got.body, "the CA cannot be reached (reference ") {
		t.Errorf("CA away: %d, Retry-After %q, %q", got.StatusCode, got.Header.Get("Retry-After"), got.body)
	}
	w.gateway.caCerts = func() ([]*x509.Certificate, error) { return nil, nil }
	if got := send(t, client, w.request(http.MethodGet, root+"/cacerts", nil)); got.StatusCode != 500 {
		t.Errorf("no certificates: %d", got.StatusCode)
	}
}

func containsCert(list []*x509.Certificate, c *x509.Certificate) bool {
	for _, x := range list {
		if x.Equal(c) {
			return true
		}
	}
	return false
}

// RFC 7030 sections 4.2.1 and 4.2.3, RFC 8951 section 3: what a client may send, and what it gets.
func TestSimpleEnroll(t *testing.T) {
	w := newWorld(t, worldOptions{})
	key := newP256()
	csr := makeCSR(t, csrOptions{key: key, subject: "device-0007", san: []string{"device-0007.ran.example"}})
	oneLine := b64(csr)
	cases := []struct {
		name   string
		body   []byte
		modify func(*http.Request)
	}{
		{"one line", oneLine, nil},
		{"PEM lines, LF", encodeBody(csr, true), nil},
		{"76 columns, CRLF (RFC 2045)", crlf(oneLine, 76), nil},
		{"white space anywhere (RFC 8951 section 3.1)", bytes.Join([][]byte{[]byte(" \t"), oneLine[:9], []byte("\r\n \t"), oneLine[9:], []byte(" \r\n\r\n")}, nil), nil},
		{"type in any case", oneLine, func(r *http.Request) { r.Header.Set("Content-Type", "Application/PKCS10") }},
		{"type with parameters", oneLine, func(r *http.Request) {
			r.Header.Set("Content-Type", `application/pkcs10; smime-type=certs-only; charset="utf-8"`)
		}},
		{"type with a parameter that does not parse", oneLine, func(r *http.Request) { r.Header.Set("Content-Type", "application/pkcs10; name") }},
		{"type with a parameter twice", oneLine, func(r *http.Request) { r.Header.Set("Content-Type", "application/pkcs10; charset=a; charset=b") }},
		{"type with a semicolon", oneLine, func(r *http.Request) { r.Header.Set("Content-Type", "application/pkcs10;") }},
		{"Content-Transfer-Encoding base64", oneLine, func(r *http.Request) { r.Header.Set("Content-Transfer-Encoding", "base64") }},
		{"Content-Transfer-Encoding that lies (RFC 8951 section 3)", oneLine, func(r *http.Request) { r.Header.Set("Content-Transfer-Encoding", "binary") }},
		{"chunked", oneLine, func(r *http.Request) { r.ContentLength, r.Body = -1, io.NopCloser(bytes.NewReader(oneLine)) }},
		{"identity Content-Encoding", oneLine, func(r *http.Request) { r.Header.Set("Content-Encoding", "identity") }},
		{"another authentication scheme", oneLine, func(r *http.Request) { r.Header.Set("Authorization", "Bearer x") }},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := w.enrollment(root+"/simpleenroll", c.body)
			if c.modify != nil {
				c.modify(r)
			}
			got := send(t, w.client(nil, nil, nil), r)
			if got.StatusCode != 200 {
				t.Fatalf("%d %s", got.StatusCode, got.body)
			}
			if ct := got.Header.Get("Content-Type"); ct != "application/pkcs7-mime; smime-type=certs-only" {
				t.Errorf("Content-Type %q", ct)
			}
			if cte := got.Header.Get("Content-Transfer-Encoding"); cte != "base64" {
				t.Errorf("Content-Transfer-Encoding %q", cte)
			}
			if got.Header.Get("Content-Length") != strconv.Itoa(len(got.body)) || len(got.TransferEncoding) != 0 {
				t.Errorf("Content-Length %q of %d", got.Header.Get("Content-Length"), len(got.body))
			}
			if strings.ContainsAny(got.body, "\r\n") {
				t.Error("line breaks for a client that is not libest")
			}
			certs := certificatesOf(t, got.body)
			if len(certs) != 1 || !key.Public().(*ecdsa.PublicKey).Equal(certs[0].PublicKey) {
				t.Errorf("%d certificates, or another key", len(certs))
			}
			asked := w.gateway.lastEnrolled(t)
			if asked.Operation != gateway.Enroll || asked.Protocol != gateway.EST || asked.Endpoint != "ran" || asked.WireID != "" ||
				asked.POP != gateway.POPSignature || !bytes.Equal(asked.CSR, csr) || !bytes.Equal(asked.Raw, c.body) ||
				!asked.Received.Equal(testTime) || !gateway.ValidID(asked.ID) || !asked.Source.IsLoopback() ||
				len(asked.Credentials) != 1 || asked.Credentials[0].Kind != gateway.CredentialKey { // who shows nothing goes by his key
				t.Errorf("request %+v", asked)
			}
			if !bytes.Equal(asked.Subject, nameDER("device-0007")) || asked.OldCert != nil || asked.NewNames != nil {
				t.Errorf("names of %+v", asked)
			}
			if san, ok := asked.Extension(oidSubjectAltName); !ok || !bytes.Contains(san, []byte("device-0007.ran.example")) {
				t.Errorf("subjectAltName %x", san)
			}
		})
	}
}

func crlf(text []byte, n int) []byte {
	var out []byte
	for len(text) > 0 {
		k := min(n, len(text))
		out = append(append(out, text[:k]...), "\r\n"...)
		text = text[k:]
	}
	return out
}

// libest reads no /cacerts without line breaks, strongSwan none with them (RFC 8951 section 3.1 lets senders choose).
func TestWrapping(t *testing.T) {
	w := newWorld(t, worldOptions{endpoints: []Endpoint{
		{Name: "auto", Default: true}, {Name: "always", Config: Config{Wrap: WrapAlways}}, {Name: "never", Config: Config{Wrap: WrapNever}},
	}})
	body := b64(makeCSR(t, csrOptions{key: newP256()}))
	for _, c := range []struct {
		label, agent string
		wrapped      bool
	}{
		{"auto", "", false}, {"auto", "curl/7.88.1", false}, {"auto", "libest 3.2.0", true}, {"auto", "LibEST", true},
		{"auto", "not libest", false}, {"auto", "libes", false},
		{"always", "", true}, {"always", "libest", true}, {"never", "libest 3.2.0", false}, {"never", "", false},
	} {
		for _, r := range []*http.Request{
			w.request(http.MethodGet, root+"/"+c.label+"/cacerts", nil), w.enrollment(root+"/"+c.label+"/simpleenroll", body),
		} {
			r.Header["User-Agent"] = []string{c.agent} // "" sends none, as strongSwan
			got := send(t, w.client(nil, nil, nil), r)
			if got.StatusCode != 200 {
				t.Fatalf("%d %s", got.StatusCode, got.body)
			}
			certificatesOf(t, got.body)
			lines := strings.SplitAfter(got.body, "\n")
			if !c.wrapped && (len(lines) != 1 || strings.ContainsAny(got.body, "\r\n ")) {
				t.Errorf("%s %s, %q: wrapped", r.URL.Path, c.label, c.agent)
			}
			if c.wrapped && (len(lines) < 5 || len(lines[0]) != lineLength+1 || !strings.HasSuffix(got.body, "\n")) {
				t.Errorf("%s %s, %q: not wrapped: %d lines", r.URL.Path, c.label, c.agent, len(lines))
			}
		}
	}
}

// RFC 7030 section 4.2.3: 202 MUST have Retry-After.
func TestPending(t *testing.T) {
	w := newWorld(t, worldOptions{})
	body := b64(makeCSR(t, csrOptions{key: newP256()}))
	for after, want := range map[time.Duration]string{0: "30", 90 * time.Second: "90"} {
		w.gateway.enroll = func(*gateway.Request) (*gateway.Result, error) {
			return &gateway.Result{Kind: gateway.ResultPending, Transaction: testReference, RetryAfter: after}, nil
		}
		got := send(t, w.client(nil, nil, nil), w.enrollment(root+"/simpleenroll", body))
		if got.StatusCode != 202 || got.Header.Get("Retry-After") != want || !strings.Contains(got.body, "(reference "+testReference+")") {
			t.Errorf("%d, Retry-After %q, %q", got.StatusCode, got.Header.Get("Retry-After"), got.body)
		}
	}
	w.gateway.enroll = func(*gateway.Request) (*gateway.Result, error) { return nil, nil }
	if got := send(t, w.client(nil, nil, nil), w.enrollment(root+"/simpleenroll", body)); got.StatusCode != 500 {
		t.Errorf("no result: %d", got.StatusCode)
	}
	for _, kind := range []gateway.ResultKind{gateway.ResultIssued, gateway.ResultRevoked, gateway.ResultAnswer} { // none with a certificate
		w.gateway.enroll = func(*gateway.Request) (*gateway.Result, error) { return &gateway.Result{Kind: kind}, nil }
		if got := send(t, w.client(nil, nil, nil), w.enrollment(root+"/simpleenroll", body)); got.StatusCode != 500 {
			t.Errorf("%s: %d", kind, got.StatusCode)
		}
	}
}

// RFC 7030 section 3.3: TLS throughout. Nothing is looked at and nothing asked for in clear.
func TestPlainHTTPIsRefused(t *testing.T) {
	w := newWorld(t, worldOptions{})
	plain := httptest.NewServer(w.router)
	defer plain.Close()
	body := b64(makeCSR(t, csrOptions{key: newP256()}))
	for _, c := range []struct{ method, path string }{
		{"GET", "/cacerts"}, {"GET", "/csrattrs"}, {"POST", "/simpleenroll"}, {"POST", "/simplereenroll"}, {"POST", "/plant/simpleenroll"},
		{"POST", "/serverkeygen"}, {"GET", "/no-such"}, {"DELETE", "/cacerts"},
	} {
		r, err := http.NewRequest(c.method, plain.URL+root+c.path, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/pkcs10")
		r.SetBasicAuth("factory", "in-the-clear")
		got := send(t, http.DefaultClient, r)
		if got.StatusCode != 403 || got.Header.Get("WWW-Authenticate") != "" || !strings.Contains(got.body, "HTTPS only") {
			t.Errorf("%s %s: %d %q %q", c.method, c.path, got.StatusCode, got.Header.Get("WWW-Authenticate"), got.body)
		}
		if rejected := w.gateway.lastRejected(t); len(rejected.request.Credentials) != 0 {
			t.Errorf("%s: credentials of a plain request were taken up", c.path)
		}
	}
	if len(w.gateway.enrolled) != 0 {
		t.Error("something was enrolled over plain HTTP")
	}
}

// HTTP/2 is offered by some listeners: nothing differs.
func TestHTTP2(t *testing.T) {
	w := newWorld(t, worldOptions{http2: true})
	got := send(t, w.client(nil, nil, nil), w.enrollment(root+"/simpleenroll", b64(makeCSR(t, csrOptions{key: newP256()}))))
	if got.ProtoMajor != 2 || got.StatusCode != 200 || got.ContentLength != int64(len(got.body)) {
		t.Fatalf("HTTP/%d %d, length %d", got.ProtoMajor, got.StatusCode, got.ContentLength)
	}
	certificatesOf(t, got.body)
}

// A panic ends its own request, and says nothing to the client.
func TestPanicIsContained(t *testing.T) {
	w := newWorld(t, worldOptions{})
	client, body := w.client(nil, nil, nil), b64(makeCSR(t, csrOptions{key: newP256()}))
	w.gateway.enroll = func(*gateway.Request) (*gateway.Result, error) { panic("stage 42 broke") }
	for _, inReject := range []bool{false, true} {
		w.gateway.panics = inReject
		got := send(t, client, w.enrollment(root+"/simpleenroll", body))
		if got.StatusCode != 500 || !strings.HasPrefix(got.body, "internal server error (reference ") || strings.Contains(got.body, "broke") {
			t.Errorf("reject panics %v: %d %q", inReject, got.StatusCode, got.body)
		}
	}
	if !strings.Contains(w.log.String(), "stage 42 broke") || !strings.Contains(w.log.String(), "wire_test.go") {
		t.Error("the log has no panic with its stack")
	}
	w.gateway.panics, w.gateway.enroll = false, w.sign
	if got := send(t, client, w.enrollment(root+"/simpleenroll", body)); got.StatusCode != 200 {
		t.Errorf("afterwards: %d", got.StatusCode)
	}
}
