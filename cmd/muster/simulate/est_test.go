package simulate

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/muster-pki/muster/protocols/cms"
)

// server serves over TLS, and is a target.
func server(t *testing.T, h http.HandlerFunc) (*httptest.Server, Target) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s, Target{URL: s.URL + "/.well-known/est", Roots: rootsOf(s), Timeout: 10 * time.Second}
}

func rootsOf(s *httptest.Server) *x509.CertPool {
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return roots
}

func estOf(t *testing.T, target Target) *EST {
	t.Helper()
	e, err := NewEST(target, "factory", "secret")
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// one is a device, and the fleet that it is of.
func one(t *testing.T, kind string) Device {
	t.Helper()
	f, err := NewFleet(1, kind, "CN=one")
	if err != nil {
		t.Fatal(err)
	}
	d, err := f.at(0, Enroll)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// certsOnly answers as an EST server does, in lines.
func certsOnly(w http.ResponseWriter, cert []byte) {
	der, err := cms.CertsOnly(cert)
	if err != nil {
		panic(err)
	}
	w.Header().Set("Content-Type", "application/pkcs7-mime; smime-type=certs-only")
	text := base64.StdEncoding.EncodeToString(der)
	io.WriteString(w, text[:64]+"\r\n"+text[64:]+"\r\n") //nolint:errcheck // the client says what it got
}

func TestEST(t *testing.T) {
	d := one(t, P256)
	var connections atomic.Int32
	s, target := server(t, func(w http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		der, err := base64.StdEncoding.DecodeString(string(text))
		csr, err2 := x509.ParseCertificateRequest(der)
		if err != nil || err2 != nil || csr.CheckSignature() != nil || !bytes.Equal(csr.RawSubject, d.Subject) || r.Header.Get("Content-Type") != "application/pkcs10" || r.Header.Get("Content-Transfer-Encoding") != "base64" {
			t.Errorf("the request: %v %v", err, err2)
		}
		user, password, basic := r.BasicAuth()
		switch r.URL.Path {
		case "/.well-known/est/simpleenroll":
			if user != "factory" || password != "secret" || len(r.TLS.PeerCertificates) != 0 {
				t.Errorf("enrols as %q with %d certificates", user, len(r.TLS.PeerCertificates))
			}
		case "/.well-known/est/simplereenroll":
			if basic || len(r.TLS.PeerCertificates) != 1 || !bytes.Equal(r.TLS.PeerCertificates[0].Raw, d.Cert) {
				t.Errorf("renews with Basic %v, %d certificates", basic, len(r.TLS.PeerCertificates))
			}
		default:
			t.Errorf("asked for %s", r.URL.Path)
		}
		if r.ProtoMajor != 1 {
			t.Errorf("%s", r.Proto)
		}
		certsOnly(w, certificate(d))
	})
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	e := estOf(t, target)
	a := e.Ask(t.Context(), d)
	if !certifies(a.Cert, d.Key) {
		t.Fatalf("%+v", a)
	}
	d.Cert = a.Cert
	if a = e.Ask(t.Context(), d); !certifies(a.Cert, d.Key) {
		t.Fatalf("%+v", a)
	}
	if n := connections.Load(); n != 2 {
		t.Errorf("%d connections: each device has its own", n)
	}
}

func TestESTAnswers(t *testing.T) {
	d := one(t, P256)
	in := time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)
	for name, c := range map[string]struct {
		status     int
		retryAfter string
		body       string
		want       Answer
	}{
		"busy":                {503, "7", "busy\n", Answer{Away: "503", After: 7 * time.Second}},
		"busy for ever":       {503, "99999999", "", Answer{Away: "503", After: maxTold * time.Second}},
		"busy, a minus":       {503, "-7", "", Answer{Away: "503"}},
		"busy, no time":       {503, "", "", Answer{Away: "503"}},
		"busy, nonsense":      {503, "soon", "", Answer{Away: "503"}},
		"busy until":          {503, in, "", Answer{Away: "503", After: time.Hour}},
		"too many":            {429, "3", "", Answer{Away: "429", After: 3 * time.Second}},
		"held":                {202, "60", "", Answer{Away: "202", After: time.Minute}},
		"wrong password":      {401, "", "wrong (reference 06abc)\nmore", Answer{Refused: "HTTP 401: wrong"}},
		"redirect":            {302, "", "", Answer{Refused: "HTTP 302: "}},
		"broken inside":       {500, "", "internal", Answer{Broken: "HTTP 500: internal"}},
		"not there":           {501, "", "no", Answer{Refused: "HTTP 501: no"}},
		"garbage":             {200, "", "!!", Answer{Refused: "the answer is not base64"}},
		"not certs-only":      {200, "", "AAAA", Answer{Refused: "the answer is no certs-only message: "}},
		"more than an answer": {200, "", strings.Repeat("A", maxBody+1), Answer{Broken: "an answer of more than 1048576 bytes"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, target := server(t, func(w http.ResponseWriter, _ *http.Request) {
				if c.retryAfter != "" {
					w.Header().Set("Retry-After", c.retryAfter)
				}
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(c.status)
				io.WriteString(w, c.body) //nolint:errcheck // it may be too long for the client
			})
			got := estOf(t, target).Ask(t.Context(), d)
			if got.After > 59*time.Minute && got.After <= time.Hour {
				got.After = time.Hour
			}
			if strings.HasPrefix(got.Refused, c.want.Refused) && c.want.Refused != "" {
				got.Refused = c.want.Refused
			}
			if got.Cert != nil || got.Away != c.want.Away || got.After != c.want.After || got.Refused != c.want.Refused || got.Broken != c.want.Broken {
				t.Errorf("%+v, want %+v", got, c.want)
			}
		})
	}
}

// TLS is always verified, and what it says is final.
func TestTLSIsVerified(t *testing.T) {
	_, target := server(t, func(http.ResponseWriter, *http.Request) { t.Error("reached") })
	target.Roots = x509.NewCertPool()
	if a := estOf(t, target).Ask(t.Context(), one(t, P256)); !strings.Contains(a.Refused, "the gateway's TLS certificate") {
		t.Errorf("%+v", a)
	}
}

// Nothing but this machine is loaded, unless it is said: neither by address nor by what a name resolves to.
func TestOnlyThisMachine(t *testing.T) {
	for _, url := range []string{"https://192.0.2.1/.well-known/est", "https://ra.example/.well-known/est", "https://[2001:db8::1]:8443/x", "https://0.0.0.0/x"} {
		if _, err := newLink(Target{URL: url}); err == nil || !strings.Contains(err.Error(), "--yes-i-own-it") {
			t.Errorf("%s: %v", url, err)
		}
		l, err := newLink(Target{URL: url, Elsewhere: true})
		if err != nil || l.dialer.Control != nil {
			t.Errorf("%s, mine: %v", url, err)
		}
	}
	l, err := newLink(Target{URL: "https://localhost:1/x"})
	if err != nil {
		t.Fatal(err)
	}
	for address, mine := range map[string]bool{"127.0.0.1:1": true, "[::1]:1": true, "192.0.2.1:1": false, "[2001:db8::1]:1": false} {
		if err := l.dialer.Control("tcp", address, nil); (err == nil) != mine {
			t.Errorf("%s: %v", address, err)
		}
	}
	if a := broken(errElsewhere); a.Refused == "" {
		t.Error("tried again")
	}
	for _, url := range []string{"ftp://127.0.0.1/", "127.0.0.1", "https://u:p@127.0.0.1/", "https://127.0.0.1/?a", "https:///x", "%"} {
		if _, err := newLink(Target{URL: url}); err == nil {
			t.Errorf("%q is taken", url)
		}
	}
	if _, err := NewEST(Target{URL: "http://127.0.0.1/.well-known/est"}, "", ""); err != errPlainEST {
		t.Errorf("EST without TLS: %v", err)
	}
}

func TestNobodyListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	if a := estOf(t, Target{URL: "https://" + address, Timeout: time.Minute}).Ask(t.Context(), one(t, P256)); a.Broken != "connection refused" {
		t.Errorf("%+v", a)
	}
}

func TestState(t *testing.T) {
	for _, kind := range []string{P256, RSA2048} {
		f, err := NewFleet(3, kind, "CN=kept-{{n}}")
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir() + "/new"
		if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), ErrNoState.Error()) {
			t.Errorf("nothing there: %v", err)
		}
		d, err := f.at(1, Enroll)
		if err != nil {
			t.Fatal(err)
		}
		f.devices[1].cert = certificate(d)
		for range 2 { // in the place of what is there
			if err := f.Save(dir); err != nil {
				t.Fatal(err)
			}
		}
		got, err := Load(dir)
		if err != nil {
			t.Fatal(err)
		}
		again, err := got.at(1, Renew)
		if err != nil || got.Devices() != 3 || got.Certified() != 1 || got.Keys() != kind || !certifies(again.Cert, again.Key) || !bytes.Equal(again.Subject, d.Subject) {
			t.Errorf("%s: %v, %d devices, %d certified", kind, err, got.Devices(), got.Certified())
		}
	}
}

func TestStatesThatAreNone(t *testing.T) {
	for text, why := range map[string]string{
		"": "ends too early",
		`{"muster_simulate":2,"devices":1}` + "\n{}":                                                          "of this version",
		`{"muster_simulate":1,"devices":1000001}` + "\n":                                                      "of this version",
		`{"muster_simulate":1,"devices":1}` + "\n{}":                                                          "device 1 has no key",
		`{"muster_simulate":1,"devices":2}` + "\n" + `{"key":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}`: "device 2: it ends too early",
		`{"muster_simulate":1,"devices":1,"pool":["AAAA"]}` + "\n{}":                                          "asn1",
		"nonsense": "invalid character",
	} {
		if _, err := readState(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %v, want %q", text, err, why)
		}
	}
}
