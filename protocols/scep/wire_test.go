package scep

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/cms"
	"github.com/muster-pki/muster/protocols/wire"
)

// RFC 8894 sections 3.5, 3.5.1 and 3.5.2: GetCACaps, a line each, LF, what the endpoint accepts and nothing else.
func TestCACaps(t *testing.T) {
	for _, tt := range []struct {
		legacy []Legacy
		want   string
	}{
		{nil, "AES POSTPKIOperation Renewal SHA-256 SHA-384 SHA-512 SCEPStandard"},
		{[]Legacy{LegacyDES, LegacySHA1}, "AES POSTPKIOperation Renewal SHA-1 SHA-256 SHA-384 SHA-512 SCEPStandard"},
		{[]Legacy{LegacyTripleDES}, "AES DES3 POSTPKIOperation Renewal SHA-256 SHA-384 SHA-512 SCEPStandard"},
	} {
		w := newWorld(t, worldOptions{config: Config{Legacy: tt.legacy}})
		got := w.get("/scep/phones?operation=GetCACaps&message=whatever")
		if got.StatusCode != 200 || got.Header.Get("Content-Type") != "text/plain" || string(got.body) != strings.ReplaceAll(tt.want, " ", "\n")+"\n" {
			t.Errorf("%v: %d %v %q", tt.legacy, got.StatusCode, got.Header, got.body)
		}
	}
}

// RFC 8894 sections 4.2, 4.2.1 and 4.2.1.2: GetCACert is a list, the RA first.
func TestCACert(t *testing.T) {
	no, yes := false, true
	for _, tt := range []struct {
		root *bool
		want string
	}{{nil, "SCEP Test RA, SCEP Test Issuing CA, SCEP Test Root"}, {&yes, "SCEP Test RA, SCEP Test Issuing CA, SCEP Test Root"}, {&no, "SCEP Test RA, SCEP Test Issuing CA"}} {
		w := newWorld(t, worldOptions{config: Config{Root: tt.root}})
		got := w.get("/scep?operation=GetCACert&message=CAIdentifier")
		if got.StatusCode != 200 || got.Header.Get("Content-Type") != "application/x-x509-ca-ra-cert" || got.ContentLength != int64(len(got.body)) {
			t.Fatalf("%d %v", got.StatusCode, got.Header)
		}
		var names []string
		for _, der := range must(cms.ParseCertsOnly(got.body, cms.Limits{})) {
			names = append(names, must(x509.ParseCertificate(der)).Subject.CommonName)
		}
		if strings.Join(names, ", ") != tt.want {
			t.Errorf("%v", names)
		}
	}
	// A root that issues itself is always there: nothing else would be.
	w := newWorld(t, worldOptions{config: Config{Root: &no}})
	w.gateway.caCerts = func() ([]*x509.Certificate, error) { return []*x509.Certificate{w.ca.root}, nil }
	if got := w.get("/scep?operation=GetCACert"); len(must(cms.ParseCertsOnly(got.body, cms.Limits{}))) != 2 {
		t.Errorf("%x", got.body)
	}
	for name, tt := range map[string]struct {
		certs  []*x509.Certificate
		err    error
		status int
	}{
		"an EC issuing CA": {[]*x509.Certificate{selfSigned(newP256())}, nil, 500},
		"an EC root":       {[]*x509.Certificate{w.ca.issuer, selfSigned(newP256())}, nil, 500},
		"none":             {nil, nil, 500},
		"unreachable":      {nil, &gateway.Error{Reason: gateway.Unavailable}, 503},
		"broken":           {nil, errors.New("?"), 500},
	} {
		w.gateway.caCerts = func() ([]*x509.Certificate, error) { return tt.certs, tt.err }
		got := w.get("/scep?operation=GetCACert")
		if got.StatusCode != tt.status || (got.Header.Get("Retry-After") != "") != (tt.status == 503) {
			t.Errorf("%s: %d %v %s", name, got.StatusCode, got.Header, got.body)
		}
		if strings.HasPrefix(name, "an EC") && !strings.Contains(w.gateway.lastRejected(t).err.Err.Error(), "RSA") {
			t.Errorf("%s: %v", name, w.gateway.lastRejected(t).err)
		}
	}
}

// The RA's identity: refused when it cannot work, 503 while it is not there.
// RFC 8894 section 2.1.2: a key of its own, for signatures and for encryption.
func TestIdentity(t *testing.T) {
	good := newTestCA()
	sign := &x509.Certificate{Subject: pkix.Name{CommonName: "half"}, KeyUsage: x509.KeyUsageDigitalSignature}
	ec := newP256()
	bad := map[string]*gateway.Identity{
		"EC key":         {Key: ec, Certificate: selfSigned(ec)},
		"no key":         {Certificate: good.ra},
		"no certificate": {Key: raKey()},
		"another's key":  {Key: otherKey(), Certificate: good.ra},
		"signs only":     {Key: raKey(), Certificate: good.issue(sign, raKey().Public())},
	}
	for name, id := range bad {
		_, err := New(options(func(o *Options) { o.Identity = func(string) *gateway.Identity { return id } }))
		if err == nil || !strings.Contains(err.Error(), `endpoint "a"`) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var now *gateway.Identity
	w := newWorld(t, worldOptions{identity: func(*world) *gateway.Identity { return now }})
	for _, target := range []string{"/scep?operation=GetCACert", "/scep?operation=PKIOperation&message=MAMCAQE="} {
		if got := w.get(target); got.StatusCode != 503 || got.Header.Get("Retry-After") != "30" {
			t.Errorf("without an identity: %s: %d %v", target, got.StatusCode, got.Header)
		}
	}
	now = bad["EC key"]
	if got := w.get("/scep?operation=GetCACert"); got.StatusCode != 500 {
		t.Errorf("%d", got.StatusCode)
	}
	now = &gateway.Identity{Key: raKey(), Certificate: w.ca.ra}
	if got := w.get("/scep?operation=GetCACert"); got.StatusCode != 200 {
		t.Errorf("%d", got.StatusCode)
	}
}

// RFC 8894 section 4.1: SCEPPATH, with every suffix that clients are built with.
func TestPaths(t *testing.T) {
	w := newWorld(t, worldOptions{})
	for path, want := range map[string]string{
		"/scep": "phones", "/scep/": "phones", "/scep//": "phones",
		"/scep/pkiclient.exe": "phones", "/scep//pkiclient.exe": "phones", "/scep/cgi-bin/pkiclient.exe": "phones", "/scep/CGI-BIN/pkiclient.exe": "phones",
		"/scep/mscep.dll/pkiclient.exe": "phones", "/scep/PKIClient.EXE/": "phones", "/scep/pkiclient.exe/plant": "phones",
		"/scep/phones": "phones", "/scep/plant": "plant", "/scep/plant/": "plant", "/scep//plant": "plant", "/scep/plant/pkiclient.exe": "plant",
		"/scep/plant/cgi-bin/pkiclient.exe/": "plant", "/scep/plant/phones": "plant", "/scep/plant/whatever/else": "plant",
		// A name that is none, or not this listener's, is not the default's.
		"/scep/Plant": "", "/scep/plnt": "", "/scep/plant%20": "", "/scep/x/plant": "", "/scep/x/pkiclient.exe": "", "/scep/cgi-bins": "",
		"/scep/elsewhere": "", "/scep/elsewhere/pkiclient.exe": "", "/scep/else.where": "",
	} {
		before, refused := len(w.gateway.allEnrolled()), w.gateway.rejections()
		got := w.post(path, w.message(wish{}))
		all := w.gateway.allEnrolled()
		if want == "" {
			if got.StatusCode != 404 || len(all) != before || w.gateway.rejections() != refused+1 || w.gateway.lastRejected(t).request.Endpoint != "" {
				t.Errorf("%s: %d %s", path, got.StatusCode, got.body)
			}
		} else if len(all) != before+1 || all[before].Endpoint != want {
			t.Errorf("%s: want %s: %d %s", path, want, got.StatusCode, got.body)
		}
	}
	rejected := w.gateway.rejections()
	w.handler.fallback = nil
	if got := w.get("/scep/pkiclient.exe?operation=GetCACaps"); got.StatusCode != 404 || w.gateway.lastRejected(t).request.Endpoint != "" {
		t.Errorf("no default: %d %s", got.StatusCode, got.body)
	}
	if got := w.get("/scep/plant?operation=GetCACaps"); got.StatusCode != 200 {
		t.Errorf("no default: %d %s", got.StatusCode, got.body)
	}
	if got := w.get("/scepter?operation=GetCACaps"); got.StatusCode != 404 || w.gateway.rejections() != rejected+1 {
		t.Errorf("another path: %d, %d refusals", got.StatusCode, w.gateway.rejections())
	}
}

// RFC 8894 section 4.1: methods and operations; parameter names and operations in any case.
func TestMethodsAndOperations(t *testing.T) {
	w := newWorld(t, worldOptions{})
	for _, tt := range []struct {
		method, query string
		status        int
	}{
		{"GET", "operation=GetCACaps", 200},
		{"HEAD", "operation=GetCACaps", 200},
		{"GET", "operation=getcacaps", 200},
		{"GET", "OPERATION=GETCACAPS", 200},
		{"GET", "message=x&operation=GetCACert", 200},
		{"GET", "operation=GetCACaps&operation=nonsense", 200},
		{"POST", "operation=GetCACaps", 405},
		{"PUT", "operation=PKIOperation", 405},
		{"HEAD", "operation=PKIOperation&message=MAMCAQE=", 405},
		{"DELETE", "operation=GetCACert", 405},
		{"OPTIONS", "operation=PKIOperation", 405},
		{"GET", "", 400},
		{"GET", "operation=", 400},
		{"GET", "operation", 400},
		{"GET", "operation=Nonsense", 400},
		{"GET", "operation=GetCACaps%00", 400},
		{"POST", "operation=Nonsense", 400},
		{"PATCH", "", 400},
		{"GET", "operation=GetNextCACert", 501},
		{"GET", "operation=PKIOperation", 400},
		{"GET", "operation=PKIOperation&message=", 400},
		{"GET", "operation=PKIOperation&message=%", 400},
		{"GET", "operation=PKIOperation&message=%4", 400},
		{"GET", "operation=PKIOperation&message=%zz", 400},
		{"GET", "operation=PKIOperation&message=MII!", 400},
		{"GET", "operation=PKIOperation&message=====", 400},
		{"POST", "operation=PKIOperation", 400}, // an empty body
		{"POST", "", 400},
	} {
		r := httptest.NewRequest(tt.method, "/scep", nil)
		r.URL.RawQuery = tt.query
		before := w.gateway.rejections()
		got := w.send(r)
		if got.StatusCode != tt.status {
			t.Errorf("%s %s: %d, want %d: %s", tt.method, tt.query, got.StatusCode, tt.status, got.body)
		}
		if noted := w.gateway.rejections() - before; (tt.status != 200) != (noted == 1) {
			t.Errorf("%s %s: %d refusals", tt.method, tt.query, noted)
		}
		if (tt.status == 405) != (got.Header.Get("Allow") != "") {
			t.Errorf("%s %s: Allow %q", tt.method, tt.query, got.Header.Get("Allow"))
		}
		if tt.status != 200 && got.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
			t.Errorf("%s %s: %v", tt.method, tt.query, got.Header)
		}
		if got.Header.Get("Cache-Control") != "no-store" || (tt.method == "HEAD" && len(got.body) != 0) {
			t.Errorf("%s %s: %v, %q", tt.method, tt.query, got.Header, got.body)
		}
	}
}

// Every way in which a client is known to put the message into a query.
// RFC 8894 section 4.1: base64, `+` as a space, `+` and `/` not escaped, %0A, the URL-safe alphabet, without padding.
func TestGet(t *testing.T) {
	w := newWorld(t, worldOptions{})
	wrapped := func(s, end string) string {
		var lines []string
		for len(s) > 64 {
			lines, s = append(lines, s[:64]), s[64:]
		}
		return strings.Join(append(lines, s), end) + end
	}
	std := base64.StdEncoding.EncodeToString
	escapes := func(s string) string {
		var b strings.Builder
		for _, c := range []byte(s) {
			fmt.Fprintf(&b, "%%%s", hex.EncodeToString([]byte{c}))
		}
		return b.String()
	}
	forms := map[string]func([]byte) string{
		"escaped":                 func(m []byte) string { return url.QueryEscape(std(m)) },
		"escaped in lower case":   func(m []byte) string { return escapes(std(m)) },
		"not escaped":             std, // macOS
		"plus became space":       func(m []byte) string { return strings.ReplaceAll(url.QueryEscape(std(m)), "%2B", "%20") },
		"plus is a bare plus":     func(m []byte) string { return strings.ReplaceAll(url.QueryEscape(std(m)), "%2B", "+") },
		"line feeds, escaped":     func(m []byte) string { return url.QueryEscape(wrapped(std(m), "\n")) }, // Cisco
		"CR LF, escaped":          func(m []byte) string { return url.QueryEscape(wrapped(std(m), "\r\n")) },
		"line feeds, rest not":    func(m []byte) string { return wrapped(std(m), "%0A") },
		"URL-safe":                base64.URLEncoding.EncodeToString,
		"URL-safe, no padding":    base64.RawURLEncoding.EncodeToString,
		"no padding":              func(m []byte) string { return url.QueryEscape(base64.RawStdEncoding.EncodeToString(m)) },
		"and another parameter":   func(m []byte) string { return url.QueryEscape(std(m)) + "&x=%zz;&=&&" },
		"and the parameter twice": func(m []byte) string { return url.QueryEscape(std(m)) + "&message=nonsense" },
	}
	for name, form := range forms {
		for i := range 3 { // lengths, for the padding
			message := w.message(wish{wireID: "77" + strings.Repeat("7", i)})
			signer := must(cms.ParseSigned(message, cms.Limits{})).Signer
			a := w.read(t, w.get("/scep/pkiclient.exe?operation=PKIOperation&message="+form(message)), deviceKey(), signer)
			if a.status != "0" {
				t.Errorf("%s: %+v", name, a)
			}
		}
	}
}

// POST: the body counts, whatever stands in the query or in its type.
// RFC 8894 section 4.3: POST, whatever else is in the query, a message included.
func TestPost(t *testing.T) {
	w := newWorld(t, worldOptions{})
	for name, change := range map[string]func(*http.Request, []byte){
		"no type":            func(r *http.Request, _ []byte) { r.Header.Del("Content-Type") },
		"octet-stream":       func(r *http.Request, _ []byte) { r.Header.Set("Content-Type", "application/octet-stream") },
		"a form's type":      func(r *http.Request, _ []byte) { r.Header.Set("Content-Type", "application/x-www-form-urlencoded") },
		"no operation":       func(r *http.Request, _ []byte) { r.URL.RawQuery = "" },
		"message repeated":   func(r *http.Request, m []byte) { r.URL.RawQuery += "&message=" + string(m) }, // mdmb
		"message of another": func(r *http.Request, _ []byte) { r.URL.RawQuery += "&message=nonsense" },
		"chunked":            func(r *http.Request, _ []byte) { r.ContentLength = -1 },
		"identity":           func(r *http.Request, _ []byte) { r.Header.Set("Content-Encoding", "identity") },
	} {
		message := w.message(wish{})
		signer := must(cms.ParseSigned(message, cms.Limits{})).Signer
		r := httptest.NewRequest(http.MethodPost, "/scep?operation=PKIOperation", bytes.NewReader(message))
		r.Header.Set("Content-Type", "application/x-pki-message")
		change(r, message)
		if a := w.read(t, w.send(r), deviceKey(), signer); a.status != "0" {
			t.Errorf("%s: %+v", name, a)
		}
	}
	r := httptest.NewRequest(http.MethodPost, "/scep?operation=PKIOperation", strings.NewReader("x"))
	r.Header.Set("Content-Encoding", "gzip")
	if got := w.send(r); got.StatusCode != 415 {
		t.Errorf("gzip: %d", got.StatusCode)
	}
}

// Limits of a message by POST and GET (RFC 8894 section 4.3).
func TestSize(t *testing.T) {
	w := newWorld(t, worldOptions{config: Config{Limits: wire.Limits{MaxBody: 4096}}})
	large := bytes.Repeat([]byte{0x30}, 4097)
	for _, length := range []int64{4097, -1} {
		r := httptest.NewRequest(http.MethodPost, "/scep?operation=PKIOperation", bytes.NewReader(large))
		r.ContentLength = length
		if got := w.send(r); got.StatusCode != 413 || got.Header.Get("Connection") != "close" {
			t.Errorf("length %d: %d %v", length, got.StatusCode, got.Header)
		}
	}
	for name, message := range map[string]string{
		"more than the limit": base64.RawURLEncoding.EncodeToString(large), "line breaks without end": strings.Repeat("%0A", 8000),
	} {
		got := w.get("/scep?operation=PKIOperation&message=" + message)
		if got.StatusCode != 414 {
			t.Errorf("%s: %d %s", name, got.StatusCode, got.body)
		}
	}
	if got := w.post("/scep", large[:4096]); got.StatusCode != 400 {
		t.Errorf("at the limit: %d", got.StatusCode)
	}
}

// What cannot be answered in CMS is 400 in plain text, and says where it broke.
// RFC 8894 sections 3.2.1.1 (transactionID) and 3.2.1.5 (nonces).
func TestMalformed(t *testing.T) {
	w := newWorld(t, worldOptions{})
	without := func(n int) func([]cms.Attribute) []cms.Attribute {
		return func(list []cms.Attribute) []cms.Attribute { return append(list[:n:n], list[n+1:]...) }
	}
	instead := func(n int, value []byte) func([]cms.Attribute) []cms.Attribute {
		return func(list []cms.Attribute) []cms.Attribute {
			list[n].Value = value
			return list
		}
	}
	for name, tt := range map[string]struct {
		body []byte
		want string
	}{
		"garbage":                  {[]byte("garbage"), "SignedData"},
		"certs-only":               {must(cms.CertsOnly(w.ca.ra.Raw)), "SignerInfo"},
		"an envelope":              {must(cms.Encrypt([]byte("x"), w.ca.ra, cms.AES128)), "SignedData"},
		"no transactionID":         {w.message(wish{attributes: without(1)}), "transactionID"},
		"empty transactionID":      {w.message(wish{attributes: instead(1, []byte{19, 0})}), "transactionID"},
		"long transactionID":       {w.message(wish{wireID: strings.Repeat("7", 256)}), "transactionID"},
		"transactionID a number":   {w.message(wish{attributes: instead(1, []byte{2, 1, 7})}), "transactionID"},
		"transactionID of nothing": {w.message(wish{wireID: "a\x00b"}), "transactionID"},
		"transactionID in Latin-1": {w.message(wish{wireID: "\xe9"}), "transactionID"},
		"no senderNonce":           {w.message(wish{attributes: without(2)}), "senderNonce"},
		"empty senderNonce":        {w.message(wish{attributes: instead(2, []byte{4, 0})}), "senderNonce"},
		"long senderNonce":         {w.message(wish{attributes: instead(2, append([]byte{4, 65}, make([]byte, 65)...))}), "senderNonce"},
		"senderNonce a string":     {w.message(wish{attributes: instead(2, []byte{19, 1, 'x'})}), "senderNonce"},
	} {
		got := w.post("/scep", tt.body)
		if got.StatusCode != 400 || !strings.Contains(string(got.body), tt.want) || strings.Count(string(got.body), "\n") != 1 {
			t.Errorf("%s: %d %q", name, got.StatusCode, got.body)
		}
		if r := w.gateway.lastRejected(t); r.err.Reason != gateway.Malformed {
			t.Errorf("%s: %+v", name, r.err)
		}
	}
	// At the bounds, and in the other string types.
	for _, id := range []string{strings.Repeat("7", 255), "0", "+/= \"'<>&", strings.Repeat("7", 77)} {
		if a := w.ask(t, wish{wireID: id}); a.status != "0" {
			t.Errorf("%q: %+v", id, a)
		}
	}
	utf8 := append([]byte{12, 3}, "abc"...)
	got := w.post("/scep", w.message(wish{attributes: instead(1, utf8)}))
	if s := must(cms.ParseSigned(got.body, cms.Limits{})); !bytes.Equal(first(s.Attribute(cms.SCEPTransactionID)), utf8) {
		t.Errorf("a transactionID as UTF8String is not echoed as it came")
	}
}

func first(b []byte, _ bool) []byte { return b }

// A signed FAILURE for what is wrong with a message whose sender can be answered.
// RFC 8894 sections 3.2 and 3.2.1.4.
func TestBadMessages(t *testing.T) {
	w := newWorld(t, worldOptions{})
	good := w.message(wish{})
	tampered := bytes.Clone(good)
	tampered[len(tampered)-1] ^= 1
	other := selfSigned(otherKey())
	for name, tt := range map[string]struct {
		body     []byte
		failInfo string
		reason   gateway.Reason
	}{
		"wrong signature":       {tampered, "1", gateway.BadIntegrity},
		"another's certificate": {bytes.Replace(good, must(cms.ParseSigned(good, cms.Limits{})).Signer.Raw, other.Raw, 1), "1", gateway.BadIntegrity},
		"content of no type":    {w.message(wish{contentType: []int{1, 2, 840, 113549, 1, 7, 3}}), "2", gateway.Malformed},
		"no envelope":           {w.message(wish{envelope: func([]byte) []byte { return nil }}), "2", gateway.Malformed},
		"an empty envelope":     {w.message(wish{envelope: func([]byte) []byte { return []byte{} }}), "2", gateway.Malformed},
		"no EnvelopedData":      {w.message(wish{envelope: func([]byte) []byte { return must(cms.CertsOnly(w.ca.ra.Raw)) }}), "2", gateway.Malformed},
	} {
		a := w.read(t, w.post("/scep", tt.body), nil, nil)
		if a.status != "2" || a.failInfo != tt.failInfo || w.gateway.lastRejected(t).err.Reason != tt.reason {
			t.Errorf("%s: %+v, %v", name, a, w.gateway.lastRejected(t).err)
		}
	}
	if len(w.gateway.allEnrolled()) != 0 {
		t.Error("the gateway was asked")
	}
}
