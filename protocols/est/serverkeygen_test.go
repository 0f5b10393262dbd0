package est

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/cms"
)

// keyWorld makes keys of one kind, and signs them as a key generation authority.
func keyWorld(t *testing.T, key crypto.Signer) *world {
	t.Helper()
	maker := &keyMaker{}
	w := newWorld(t, worldOptions{identity: maker.identity, enroll: func(w *world, r *gateway.Request) (*gateway.Result, error) { return w.withKey(r, key) }})
	maker.certify(w)
	return w
}

// keyMaker is the key generation authority of the endpoint ran.
type keyMaker struct{ id *gateway.Identity }

func (m *keyMaker) identity(endpoint string) *gateway.Identity {
	if endpoint != "ran" {
		return nil
	}
	return m.id
}

func (m *keyMaker) certify(w *world) {
	key := newP256()
	cert := w.ca.issue(w.t, &x509.Certificate{Subject: pkix.Name{CommonName: "KGA"}, UnknownExtKeyUsage: []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 32}}}, key.Public())
	m.id = &gateway.Identity{Key: key, Certificate: cert, Chain: []*x509.Certificate{w.ca.issuer, w.ca.root}}
}

// withKey is sign, for requests for a key too, which get this one.
func (w *world) withKey(r *gateway.Request, key crypto.Signer) (*gateway.Result, error) {
	if r.KeyGen == nil {
		return w.sign(r)
	}
	sealed, err := r.KeyGen.Seal(key)
	if err != nil {
		return nil, gateway.AsError(err)
	}
	cert := w.ca.issue(w.t, &x509.Certificate{RawSubject: r.Subject}, key.Public())
	return &gateway.Result{Kind: gateway.ResultIssued, Transaction: r.ID, Certificate: cert, Key: sealed}, nil
}

// parts reads a multipart/mixed answer, and its form: CR LF throughout, a closing boundary, base64.
func parts(t *testing.T, r reply, wrapped bool) (types []string, contents [][]byte) {
	t.Helper()
	mediaType, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if r.StatusCode != http.StatusOK || err != nil || mediaType != "multipart/mixed" || params["boundary"] == "" {
		t.Fatalf("%s, %q (%v): %s", r.Status, r.Header.Get("Content-Type"), err, r.body)
	}
	if r.ContentLength != int64(len(r.body)) || r.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("Content-Length %d of %d, Cache-Control %q", r.ContentLength, len(r.body), r.Header.Get("Cache-Control"))
	}
	if strings.Count(r.body, "\n") != strings.Count(r.body, "\r\n") || strings.Count(r.body, "\r") != strings.Count(r.body, "\r\n") {
		t.Errorf("line ends that are not CR LF: %q", r.body)
	}
	if !strings.HasPrefix(r.body, "--"+params["boundary"]+"\r\n") || !strings.HasSuffix(r.body, "\r\n--"+params["boundary"]+"--\r\n") {
		t.Errorf("boundaries: %q", r.body)
	}
	in := multipart.NewReader(strings.NewReader(r.body), params["boundary"])
	for {
		p, err := in.NextRawPart()
		if errors.Is(err, io.EOF) {
			return types, contents
		}
		if err != nil {
			t.Fatal(err)
		}
		if p.Header.Get("Content-Transfer-Encoding") != "base64" {
			t.Errorf("Content-Transfer-Encoding %q", p.Header.Get("Content-Transfer-Encoding"))
		}
		text, err := io.ReadAll(p)
		if err != nil {
			t.Fatal(err)
		}
		if got := bytes.Contains(text, []byte("\r\n")); got != wrapped {
			t.Errorf("line breaks: %v", got)
		}
		der, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(string(text), "\r\n", ""))
		if err != nil {
			t.Fatal(err)
		}
		types, contents = append(types, p.Header.Get("Content-Type")), append(contents, der)
	}
}

func octets(b string) []byte { return must(asn1.Marshal([]byte(b))) }

// capabilities is an attribute SMIMECapabilities of OIDs.
func capabilities(oids ...asn1.ObjectIdentifier) []byte {
	var list []struct{ OID asn1.ObjectIdentifier }
	for _, oid := range oids {
		list = append(list, struct{ OID asn1.ObjectIdentifier }{oid})
	}
	return attribute(cms.OIDCapabilities, must(asn1.Marshal(list)))
}

var (
	oidAES128 = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 2}
	oid3DES   = asn1.ObjectIdentifier{1, 2, 840, 113549, 3, 7}
)

func (w *world) keyRequest(o csrOptions) *http.Request {
	if o.key == nil {
		o.key = newP256()
	}
	r := w.enrollment(root+"/serverkeygen", b64(makeCSR(w.t, o)))
	r.SetBasicAuth("factory", "secret")
	return r
}

// RFC 7030 section 4.4.2: PKCS #8 in the clear, and the certificate as /simpleenroll has it.
func TestServerKeyGenPlain(t *testing.T) {
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []crypto.Signer{newP256(), edKey} {
		w := keyWorld(t, key)
		for agent, wrapped := range map[string]bool{"": false, "libest 3.2": true} {
			r := w.keyRequest(csrOptions{breakSig: true}) // section 4.4.1: the signature is ignored
			r.Header.Set("User-Agent", agent)
			types, contents := parts(t, send(t, w.client(nil, nil, nil), r), wrapped)
			if len(types) != 2 || types[0] != "application/pkcs8" || types[1] != "application/pkcs7-mime; smime-type=certs-only" {
				t.Fatalf("%q", types)
			}
			got, err := x509.ParsePKCS8PrivateKey(contents[0])
			if err != nil || !got.(interface{ Equal(crypto.PrivateKey) bool }).Equal(key) {
				t.Errorf("%T, %v", got, err)
			}
			list := must(cms.ParseCertsOnly(contents[1], cms.Limits{}))
			if len(list) != 1 || !must(x509.ParseCertificate(list[0])).PublicKey.(interface{ Equal(crypto.PublicKey) bool }).Equal(key.Public()) {
				t.Errorf("%d certificates", len(list))
			}
		}
		asked := w.gateway.lastEnrolled(t)
		if asked.PublicKey != nil || asked.CSR != nil || asked.POP != gateway.POPNone || asked.KeyGen.Wrap != gateway.WrapNone || asked.KeyGen.Prefer != "P-256" ||
			asked.KeyGen.Algorithm != "" || asked.Operation != gateway.Enroll || len(asked.Content) == 0 || string(asked.Subject) != string(nameDER("device-0001")) {
			t.Errorf("%+v, %+v", asked, asked.KeyGen)
		}
		if pkcs8 := must(x509.MarshalPKCS8PrivateKey(key)); strings.Contains(w.log.String(), base64.StdEncoding.EncodeToString(pkcs8)) {
			t.Error("the key is in the log")
		}
	}
}

// Section 4.4.1: "the server MUST ignore the public key values and signature in the CSR", whatever they are.
func TestServerKeyGenIgnoresTheKey(t *testing.T) {
	w := keyWorld(t, newP256())
	good := makeCSR(t, csrOptions{key: newP256()})
	foreign := bytes.Replace(good, []byte{0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7}, []byte{0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 6}, 1) // another curve
	r := w.enrollment(root+"/serverkeygen", b64(foreign))
	r.SetBasicAuth("factory", "secret")
	parts(t, send(t, w.client(nil, nil, nil), r), false)
	if k := w.gateway.lastEnrolled(t).KeyGen; k.Prefer != "" {
		t.Errorf("%+v", k)
	}
	r = w.enrollment(root+"/simpleenroll", b64(foreign))
	r.SetBasicAuth("factory", "secret")
	if got := send(t, w.client(nil, nil, nil), r); got.StatusCode != 400 {
		t.Errorf("/simpleenroll takes the key: %s", got.Status)
	}
}

func TestServerKeyGenRefuses(t *testing.T) {
	w := keyWorld(t, newP256())
	symmetric, asymmetric := attribute(oidDecryptKeyID, octets("k")), attribute(oidAsymmDecryptKey, octets("k"))
	for name, tt := range map[string]struct {
		attributes [][]byte
		want       string
	}{
		"both identifiers":              {[][]byte{symmetric, asymmetric}, "both DecryptKeyIdentifier and AsymmetricDecryptKeyIdentifier"},
		"two values":                    {[][]byte{attribute(oidDecryptKeyID, octets("a"), octets("b"))}, "DecryptKeyIdentifier has 2 values"},
		"not octets":                    {[][]byte{attribute(oidDecryptKeyID, printable("a"))}, "DecryptKeyIdentifier is not an OCTET STRING of 1 to 128 bytes"},
		"empty":                         {[][]byte{attribute(oidAsymmDecryptKey, octets(""))}, "AsymmetricDecryptKeyIdentifier is not an OCTET STRING"},
		"long":                          {[][]byte{attribute(oidDecryptKeyID, octets(strings.Repeat("x", 129)))}, "DecryptKeyIdentifier is not an OCTET STRING"},
		"capabilities that do not pars": {[][]byte{attribute(cms.OIDCapabilities, octets("a"))}, "SMIMECapabilities does not parse"},
		"without a client certificate":  {[][]byte{asymmetric}, "this client shows none"},
		"another connection's binding":  {[][]byte{attribute(oidChallengePassword, printable("bm90IGl0"))}, "challengePassword is not the channel binding"},
		"an otpChallenge":               {[][]byte{attribute(oidOTPChallenge, printable("a"))}, "otpChallenge"},
	} {
		before := len(w.gateway.allEnrolled())
		got := send(t, w.client(nil, nil, nil), w.keyRequest(csrOptions{attributes: tt.attributes}))
		if got.StatusCode != 400 || !strings.Contains(got.body, tt.want) || len(w.gateway.allEnrolled()) != before {
			t.Errorf("%s: %s: %s", name, got.Status, got.body)
		}
	}
	// Section 4.4: "The EST server MUST authenticate the client".
	r := w.enrollment(root+"/serverkeygen", b64(makeCSR(t, csrOptions{key: newP256()})))
	if got := send(t, w.client(nil, nil, nil), r); got.StatusCode != 401 || len(w.gateway.allEnrolled()) != 0 {
		t.Errorf("%s: %s", got.Status, got.body)
	}
	if got := send(t, w.client(nil, nil, nil), w.request(http.MethodGet, root+"/serverkeygen", nil)); got.StatusCode != 405 {
		t.Errorf("GET: %s", got.Status)
	}
	// Held, as everywhere.
	w.gateway.enroll = func(r *gateway.Request) (*gateway.Result, error) {
		return &gateway.Result{Kind: gateway.ResultPending, Transaction: r.ID, RetryAfter: time.Minute}, nil
	}
	if got := send(t, w.client(nil, nil, nil), w.keyRequest(csrOptions{})); got.StatusCode != 202 || got.Header.Get("Retry-After") != "60" {
		t.Errorf("%s", got.Status)
	}
	w.gateway.enroll = func(r *gateway.Request) (*gateway.Result, error) {
		return &gateway.Result{Kind: gateway.ResultIssued, Certificate: w.ca.root}, nil
	}
	if got := send(t, w.client(nil, nil, nil), w.keyRequest(csrOptions{})); got.StatusCode != 500 {
		t.Errorf("without a key: %s", got.Status)
	}
}

// A retry has another throw-away key, and is the same request; other names, another way to encrypt and /simpleenroll are others.
func TestServerKeyGenRepeats(t *testing.T) {
	w := keyWorld(t, newP256())
	content := func(o csrOptions) string {
		send(t, w.client(nil, nil, nil), w.keyRequest(o))
		return string(w.gateway.lastEnrolled(t).Content)
	}
	symmetric := func(id string) [][]byte { return [][]byte{attribute(oidDecryptKeyID, octets(id))} }
	key := newP256()
	first := content(csrOptions{key: key})
	if content(csrOptions{}) != first || content(csrOptions{breakSig: true}) != first {
		t.Error("a retry is another request")
	}
	seen := map[string]string{first: "the first"}
	for name, o := range map[string]csrOptions{
		"another subject": {subject: "device-0002"}, "a name more": {san: []string{"a.example"}}, "encrypted": {attributes: symmetric("a")}, "with another key": {attributes: symmetric("b")},
		"for a certificate": {attributes: [][]byte{attribute(oidAsymmDecryptKey, octets("a"))}}, "another kind": {key: must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))},
		"capabilities": {attributes: append(symmetric("a"), capabilities(oidAES128))},
	} {
		got := content(o)
		if name == "for a certificate" { // refused here: there is none
			continue
		}
		if other, ok := seen[got]; ok {
			t.Errorf("%s is %s", name, other)
		}
		seen[got] = name
	}
	r := w.enrollment(root+"/simpleenroll", b64(makeCSR(t, csrOptions{key: key})))
	r.SetBasicAuth("factory", "secret")
	send(t, w.client(nil, nil, nil), r)
	if string(w.gateway.lastEnrolled(t).Content) == first {
		t.Error("/simpleenroll is the same request")
	}
}

// Section 4.4.1: a re-enrollment where the client has a certificate of ours with these names; an enrollment for anything else.
func TestServerKeyGenRekeys(t *testing.T) {
	w := keyWorld(t, newP256())
	w.gateway.issued = func(c *x509.Certificate) (bool, error) { return c.Issuer.String() == w.ca.issuer.Subject.String(), nil }
	cert, key := w.device("device-0001")
	ask := func(o csrOptions) *gateway.Request {
		o.key = newP256()
		send(t, w.client(cert, key, nil), w.enrollment(root+"/serverkeygen", b64(makeCSR(t, o))))
		return w.gateway.lastEnrolled(t)
	}
	if r := ask(csrOptions{}); r.Operation != gateway.Rekey || !r.OldCert.Equal(cert) {
		t.Errorf("%s", r.Operation)
	}
	if r := ask(csrOptions{subject: "device-0002"}); r.Operation != gateway.Enroll || r.OldCert != nil {
		t.Errorf("another subject: %s", r.Operation)
	}
	if r := ask(csrOptions{san: []string{"a.example"}}); r.Operation != gateway.Enroll || r.OldCert != nil {
		t.Errorf("another subjectAltName: %s", r.Operation)
	}
	w.gateway.issued = nil
	if r := ask(csrOptions{}); r.Operation != gateway.Enroll || r.OldCert != nil {
		t.Errorf("a certificate of others: %s", r.Operation)
	}
	w.gateway.issued = func(*x509.Certificate) (bool, error) {
		return false, &gateway.Error{Reason: gateway.Unavailable, Err: errors.New("down")}
	}
	got := send(t, w.client(cert, key, nil), w.enrollment(root+"/serverkeygen", b64(makeCSR(t, csrOptions{key: newP256()}))))
	if got.StatusCode != 503 {
		t.Errorf("%s", got.Status)
	}
}

// What a request says of how to encrypt is a stranger's.
func FuzzKeyWish(f *testing.F) {
	f.Add(makeCSR(f, csrOptions{key: newP256(), attributes: [][]byte{attribute(oidDecryptKeyID, octets("kek")), capabilities(oidAES128)}}))
	f.Add(makeCSR(f, csrOptions{key: newP256(), attributes: [][]byte{attribute(oidAsymmDecryptKey, octets("\x01\x02"))}}))
	f.Fuzz(func(t *testing.T, der []byte) {
		c, ref := parseKeyless(der)
		if ref != nil {
			return
		}
		wish, err := parseKeyWish(c.Attributes)
		if err == nil && (wish.wrap == gateway.WrapNone) != (len(wish.id) == 0) {
			t.Errorf("%+v", wish)
		}
		if _, err := c.keyContent(); err != nil {
			t.Error(err)
		}
	})
}

// Behind a proxy that ends TLS nobody knows who reads along: keys go there encrypted, or not at all.
func TestServerKeyGenBehindAProxy(t *testing.T) {
	w := keyWorld(t, newP256())
	w.gateway.keks = map[string][]byte{"kek": bytes.Repeat([]byte{1}, 16)}
	for name, tt := range map[string]struct {
		version    uint16
		attributes [][]byte
		want       int
	}{
		"in clear":           {0, nil, 403},
		"encrypted":          {0, [][]byte{attribute(oidDecryptKeyID, octets("kek"))}, 200},
		"in clear, directly": {tls.VersionTLS13, nil, 200},
	} {
		r := w.keyRequest(csrOptions{attributes: tt.attributes})
		r.TLS = &tls.ConnectionState{Version: tt.version}
		out := httptest.NewRecorder()
		w.handler.serve(out, r, func(string) bool { return true })
		if out.Code != tt.want {
			t.Errorf("%s: %d %s", name, out.Code, out.Body)
		}
	}
}
