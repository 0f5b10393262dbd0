package est

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// publish makes a CRL of the test CA.
func (ca *testCA) publish(t testing.TB, number int64) gateway.CurrentCRL {
	t.Helper()
	issuer := *ca.issuer
	issuer.KeyUsage |= x509.KeyUsageCRLSign
	now := time.Now()
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(number), ThisUpdate: now, NextUpdate: now.Add(time.Hour)}, &issuer, ca.issuerKey)
	if err != nil {
		t.Fatal(err)
	}
	return gateway.CurrentCRL{DER: der, Info: gateway.CRLInfo{Tag: string(rune('a' + number))}}
}

// crlsOf reads a crls-only message as another implementation does.
func crlsOf(t testing.TB, body string) []*x509.RevocationList {
	t.Helper()
	der, err := base64.StdEncoding.DecodeString(body) // it skips line breaks
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("openssl", "pkcs7", "-inform", "DER", "-print_certs")
	cmd.Stdin = bytes.NewReader(der)
	out, err := cmd.CombinedOutput()
	if err != nil || bytes.Contains(out, []byte("BEGIN CERTIFICATE")) {
		t.Fatalf("openssl pkcs7: %v\n%s", err, out)
	}
	var list []*x509.RevocationList
	for {
		var block *pem.Block
		if block, out = pem.Decode(out); block == nil {
			return list
		}
		crl, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, crl)
	}
}

// RFC 8295 sections 4.1 and 4.2: a GET by anybody, the type of the table in section 1.5, base64, a crls-only message.
func TestCRLs(t *testing.T) {
	w := newWorld(t, worldOptions{})
	one, two, three := w.ca.publish(t, 1), w.ca.publish(t, 2), w.ca.publish(t, 3)
	asked := ""
	list := []gateway.CurrentCRL{one, two}
	w.gateway.crls = func(endpoint string) ([]gateway.CurrentCRL, error) { asked = endpoint; return list, nil }
	client := w.client(nil, nil, nil)
	for path, endpoint := range map[string]string{"/crls": "ran", "/plant/crls": "plant"} {
		got := send(t, client, w.request(http.MethodGet, root+path, nil))
		if got.StatusCode != 200 || got.Header.Get("Content-Type") != "application/pkcs7-mime" || got.Header.Get("Content-Transfer-Encoding") != "base64" ||
			got.ContentLength != int64(len(got.body)) || strings.ContainsAny(got.body, "\r\n") || asked != endpoint {
			t.Errorf("%s of %s: %d %v", path, asked, got.StatusCode, got.Header)
		}
		if crls := crlsOf(t, got.body); len(crls) != 2 || crls[0].Number.Int64() != 1 || crls[1].Number.Int64() != 2 {
			t.Errorf("%s: %v", path, crls)
		}
	}
	wrapped := w.request(http.MethodGet, root+"/crls", nil)
	wrapped.Header.Set("User-Agent", "libest 3.2.0")
	if got := send(t, client, wrapped); strings.Index(got.body, "\n") != lineLength || len(crlsOf(t, got.body)) != 2 {
		t.Errorf("for libest: %q", got.body)
	}
	list = []gateway.CurrentCRL{three, one}
	if crls := crlsOf(t, send(t, client, w.request(http.MethodGet, root+"/crls", nil)).body); len(crls) != 2 || crls[0].Number.Int64() != 3 {
		t.Errorf("after the CRL has changed: %v", crls)
	}

	for name, c := range map[string]struct {
		crls   func(string) ([]gateway.CurrentCRL, error)
		status int
		text   string
	}{
		"none": {func(string) ([]gateway.CurrentCRL, error) { return nil, nil }, 404, "publishes no CRL"},
		"the CA away": {func(string) ([]gateway.CurrentCRL, error) {
			return nil, &gateway.Error{Reason: gateway.Unavailable, Detail: "not at hand"}
		}, 503, "not at hand"},
		"too large": {func(string) ([]gateway.CurrentCRL, error) {
			return []gateway.CurrentCRL{one, {DER: make([]byte, maxCRLs)}}, nil
		}, 501, "larger than 16777216 bytes"},
		"no CRL": {func(string) ([]gateway.CurrentCRL, error) {
			return []gateway.CurrentCRL{{DER: append(bytes.Clone(one.DER), 0), Info: gateway.CRLInfo{Tag: "bad"}}}, nil
		}, 500, "internal"},
	} {
		w.gateway.crls = c.crls
		got := send(t, client, w.request(http.MethodGet, root+"/crls", nil))
		if got.StatusCode != c.status || !strings.Contains(got.body, c.text) || (c.status == 503) != (got.Header.Get("Retry-After") != "") {
			t.Errorf("%s: %d %q", name, got.StatusCode, got.body)
		}
		if r := w.gateway.lastRejected(t); r.request.Operation != gateway.Query || r.request.Endpoint != "ran" {
			t.Errorf("%s: noted as %+v", name, r.request)
		}
	}
}

// Strangers may ask for CRLs as often as they like: the message is made once.
func TestCRLsAreRenderedOnce(t *testing.T) {
	ca := newTestCA(t, newP256)
	list := []gateway.CurrentCRL{ca.publish(t, 1)}
	var r rendered
	first, err := r.render(list, false)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := r.render(list, false); err != nil || &again[0] != &first[0] {
		t.Errorf("made anew: %v", err)
	}
}

// RFC 8295 section 3, for the client's own certificates: what it authenticates with reaches the pipeline, and what the gateway
// says is all that it gets.
func TestEECerts(t *testing.T) {
	w := newWorld(t, worldOptions{})
	cert, key := w.device("device-0001")
	newer, _ := w.device("device-0001")
	var asked *gateway.Request
	w.gateway.query = func(r *gateway.Request) (*gateway.Result, error) {
		asked = r
		return &gateway.Result{Kind: gateway.ResultAnswer, Transaction: r.ID, Certificates: []*x509.Certificate{newer, cert}}, nil
	}
	client := w.client(cert, key, nil)
	for path, endpoint := range map[string]string{"/eecerts": "ran", "/plant/eecerts": "plant"} {
		r := w.request(http.MethodGet, root+path, nil)
		r.SetBasicAuth("factory", "pa55")
		got := send(t, client, r)
		certs := certificatesOf(t, got.body)
		if got.StatusCode != 200 || got.Header.Get("Content-Type") != "application/pkcs7-mime" || got.Header.Get("Cache-Control") != "no-store" ||
			len(certs) != 2 || !certs[0].Equal(newer) || !certs[1].Equal(cert) {
			t.Errorf("%s: %d %v, %d certificates", path, got.StatusCode, got.Header, len(certs))
		}
		shown, ok := asked.Credential(gateway.CredentialTLS)
		if asked.Operation != gateway.Query || asked.Endpoint != endpoint || !ok || !shown.Chain[0].Equal(cert) || len(asked.Notes) != 1 {
			t.Errorf("%s: asked %+v", path, asked)
		}
		if c, ok := asked.Credential(gateway.CredentialPassword); !ok || c.ID != "factory" {
			t.Errorf("%s: the password is not passed on", path)
		}
	}

	bad := w.request(http.MethodGet, root+"/eecerts", nil)
	bad.Header.Set("Authorization", "Basic ???")
	asked = nil
	if got := send(t, client, bad); got.StatusCode != 400 || asked != nil {
		t.Errorf("a malformed header: %d, asked %v", got.StatusCode, asked)
	}
	for name, c := range map[string]struct {
		result *gateway.Result
		err    error
		status int
	}{
		"nobody":      {nil, &gateway.Error{Reason: gateway.Unauthenticated, Detail: "no"}, 401},
		"not allowed": {nil, &gateway.Error{Reason: gateway.NotAuthorized, Detail: "no"}, 403},
		"revoked":     {nil, &gateway.Error{Reason: gateway.Revoked, Detail: "no"}, 403},
		"none":        {nil, &gateway.Error{Reason: gateway.UnknownCert, Detail: "no"}, 404},
		"no store":    {nil, &gateway.Error{Reason: gateway.Unavailable, Detail: "no"}, 503},
		"not one":     {nil, errors.New("secret"), 500},
		"no result":   {nil, nil, 500},
		"no answer":   {&gateway.Result{Kind: gateway.ResultPending, Certificates: []*x509.Certificate{cert}}, nil, 500},
		"empty":       {&gateway.Result{Kind: gateway.ResultAnswer}, nil, 500},
	} {
		w.gateway.query = func(*gateway.Request) (*gateway.Result, error) { return c.result, c.err }
		got := send(t, client, w.request(http.MethodGet, root+"/eecerts", nil))
		if got.StatusCode != c.status || strings.Contains(got.body, "secret") || (c.status == 401) != (got.Header.Get("WWW-Authenticate") != "") {
			t.Errorf("%s: %d %q", name, got.StatusCode, got.body)
		}
	}
}

// Both are read by GET alone, over TLS, at an endpoint that there is.
func TestPackagesAreReadByGET(t *testing.T) {
	w := newWorld(t, worldOptions{})
	w.gateway.crls = func(string) ([]gateway.CurrentCRL, error) { t.Error("asked for CRLs"); return nil, nil }
	w.gateway.query = func(*gateway.Request) (*gateway.Result, error) { t.Error("asked for certificates"); return nil, nil }
	client := w.client(nil, nil, nil)
	for _, path := range []string{"/crls", "/eecerts", "/plant/crls", "/plant/eecerts"} {
		for _, method := range []string{http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete} {
			if got := send(t, client, w.request(method, root+path, nil)); got.StatusCode != 405 || got.Header.Get("Allow") != "GET" {
				t.Errorf("%s %s: %d, Allow %q", method, path, got.StatusCode, got.Header.Get("Allow"))
			}
		}
	}
	for _, path := range []string{"/nowhere/crls", "/nowhere/eecerts", "/crls/1", "/eecerts/1", "/plant/eecerts/1"} {
		if got := send(t, client, w.request(http.MethodGet, root+path, nil)); got.StatusCode != 404 {
			t.Errorf("%s: %d", path, got.StatusCode)
		}
	}
}
