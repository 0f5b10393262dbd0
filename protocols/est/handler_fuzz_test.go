package est

import (
	"crypto/x509"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/muster-pki/muster/gateway"
)

// FuzzHandler: whatever stands in a request's line, headers and body, the answer is one of HTTP's words for a client's fault in one line, or
// what a complete request gets; and a password counts only as it was sent.
func FuzzHandler(f *testing.F) {
	w := newWorld(f, worldOptions{endpoints: []Endpoint{
		{Name: "ran", Default: true, Config: Config{HTTPAuth: []HTTPAuth{HTTPAuthBasic, HTTPAuthDigest}}}, {Name: "plant"},
	}})
	device, _ := w.device("device-0001")
	// A connection's state that has its keys, for the channel binding: of a handshake that took place.
	connection := send(f, w.client(nil, nil, nil), w.request("GET", root+"/cacerts", nil)).TLS
	w.server.Close()
	w.gateway.renews = func([]byte, *big.Int) (*x509.Certificate, error) { return device, nil }
	w.gateway.crls = func(string) ([]gateway.CurrentCRL, error) { return nil, nil }
	w.gateway.query = func(*gateway.Request) (*gateway.Result, error) {
		return nil, &gateway.Error{Reason: gateway.NotAuthorized, Detail: "no"}
	}
	h, err := New(Options{
		Gateway: w.gateway, Endpoints: []Endpoint{{Name: "ran", Default: true, Config: Config{HTTPAuth: []HTTPAuth{HTTPAuthBasic, HTTPAuthDigest}}}, {Name: "plant"}},
		Secret: testSecret, Clock: func() time.Time { return testTime }, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		f.Fatal(err)
	}
	router := echo.New()
	h.Register(router, func(string) bool { return true })
	const basic = "Basic YW5uYTpnZWhlaW0="
	for _, body := range vectors(f, "bodies") {
		f.Add("POST", root+"/ran/simpleenroll", "application/pkcs10", basic, string(body), true)
	}
	f.Add("POST", root+"/simplereenroll", "application/pkcs10; charset=x", "", "MIIB", true)
	f.Add("POST", root+"/plant/serverkeygen", "application/pkcs10", "Basic x", "====", false)
	f.Add("POST", root+"/ran/simpleenroll", "", authorization("anna", "ran", "geheim", "bm9uY2U", "00000001", "POST", root+"/ran/simpleenroll"), "", false)
	f.Add("GET", root+"/ran/"+renewalInfo+"/AAEC.AAEC", "", "", "", true)
	f.Add("GET", root+"/cacerts", "", "", "", false)
	f.Add("GET", root+"/%2e%2e/crls", "", "Digest ", "", true)
	f.Add("PUT", root+"//csrattrs", "", "Bearer x", "x", false)
	f.Fuzz(func(t *testing.T, method, path, contentType, authorization, body string, certificate bool) {
		u, err := url.ParseRequestURI(path)
		if err != nil || !strings.HasPrefix(u.Path, root) || strings.ContainsAny(method, " \r\n") || method == "" {
			return
		}
		w.t, w.gateway.enrolled, w.gateway.rejected = t, nil, nil
		r := &http.Request{
			Method: method, URL: u, RequestURI: path, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Host: "localhost", RemoteAddr: "192.0.2.1:1",
			Header: http.Header{"Content-Type": {contentType}, "Authorization": {authorization}}, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)),
		}
		state := *connection
		state.PeerCertificates, state.VerifiedChains = nil, nil
		if certificate {
			state.PeerCertificates = []*x509.Certificate{device}
		}
		r.TLS = &state
		rec := httptest.NewRecorder()
		router.ServeHTTP(rec, r.WithContext(t.Context()))
		switch text := rec.Body.String(); {
		case rec.Code == http.StatusNotImplemented && strings.HasSuffix(u.Path, "/fullcmc"): // RFC 7030 section 4.3
		case rec.Code < 200 || rec.Code > 499:
			t.Fatalf("%d %q", rec.Code, text)
		case rec.Code >= 400 && (strings.Count(text, "\n") > 1 || len(text) > 2000):
			t.Errorf("%d %.3000q", rec.Code, text)
		}
		for _, q := range w.gateway.enrolled {
			if password, ok := q.Credential(gateway.CredentialPassword); ok && !strings.HasPrefix(strings.ToLower(authorization), "basic ") && !strings.HasPrefix(strings.ToLower(authorization), "digest ") {
				t.Errorf("%q is taken for %+v", authorization, password)
			}
			if _, ok := q.Credential(gateway.CredentialTLS); ok && !certificate {
				t.Error("a certificate that nobody showed")
			}
		}
	})
}
