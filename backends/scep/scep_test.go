package scep

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
	"github.com/muster-pki/muster/plugins/backend/upstream"
	"github.com/muster-pki/muster/protocols/cms"
)

// The suite, in process and as a plugin process, which is killed: for a CA that promises nothing, and for one whose CertPoll tells.
func TestConformance(t *testing.T) {
	for name, lines := range map[string]string{"none": "", "certpoll": "lookup: certpoll\ncrl: getcrl"} {
		t.Run(name, func(t *testing.T) {
			backendtest.Run(t, backendtest.Subject{
				New:       func() backend.Backend { return New(Options{}) },
				Config:    func(t *testing.T) []byte { return newFakeCA(t).config(t, lines) },
				BadConfig: []byte("url: http://ca.example\nra: {cert: /c, key: /k}"),
				Plugin:    "scep",
			})
		})
	}
}

func TestDescribe(t *testing.T) {
	f := newFakeCA(t)
	for lines, want := range map[string]string{
		"":                             "none [validity keyUsage extKeyUsage] [poll]",
		"lookup: certpoll\nsettle: 5s": "lookup [validity keyUsage extKeyUsage] [poll]",
		"crl: getcrl":                  "none [validity keyUsage extKeyUsage] [poll crl]",
		"decides: [validity, subject]": "none [validity subject] [poll]",
	} {
		d := must(f.configured(t, lines).Describe(t.Context()))
		if got := fmt.Sprintf("%s %v %v", d.Idempotency, d.Decides, d.Capabilities); got != want {
			t.Errorf("%q: %s, not %s", lines, got, want)
		}
	}
}

func TestConfigErrors(t *testing.T) {
	const good = "url: http://h/scep\nroots: /r\nra: {cert: /c, key: /k}\n"
	if err := New(Options{}).Validate(t.Context(), []byte(good)); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"url: http://h/scep\nra: {cert: /c, key: /k}":             "roots: required with http",
		"url: http://h/scep\nroots: /r":                           "ra",
		"url: http://h/scep\nroots: /r\nra: {cert: c, key: /k}":   "ra.cert: not an absolute path",
		"url: http://h/s?x=y\nroots: /r\nra: {cert: /c, key: /k}": "no query",
		good + "lookup: poll":                                     "lookup: wants certpoll",
		good + "settle: 5s":                                       "settle: goes with",
		good + "poll: 2h":                                         "poll: 1s to 1h",
		good + "legacy: [md5]":                                    "legacy:",
		good + "crl: ftp://x":                                     "crl:",
		good + "decides: [serial]":                                "decides:",
		good + "root: /r":                                         "roots",
		good + "lookup: certpoll\nsettle: 2h":                     "settle: 1s to 1h",
	} {
		err := New(Options{}).Validate(t.Context(), []byte(text))
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, which lacks %q", text, err, want)
		}
	}
}

// What a FAILURE proves, of a PKCSReq and of a CertPoll.
func TestFailures(t *testing.T) {
	for info, want := range map[string]codes.Code{
		badAlg: codes.InvalidArgument, badRequest: codes.InvalidArgument, badCertID: codes.InvalidArgument, badMessageCheck: codes.FailedPrecondition, badTime: codes.FailedPrecondition,
		"17": codes.InvalidArgument,
	} {
		f := newFakeCA(t)
		f.fail, f.failing = info, info
		c := f.configured(t, "lookup: certpoll")
		r := request("one")
		_, err := c.Issue(t.Context(), r)
		if status.Code(err) != want || !backend.Definite(err) || !strings.Contains(err.Error(), "the CA's own words") {
			t.Errorf("PKCSReq, failInfo %s: %v", info, err)
		}
		if _, err := c.Poll(t.Context(), r, transactionID(r.ID)); err == nil || backend.Definite(err) != (info == badRequest) {
			t.Errorf("CertPoll, failInfo %s: %v", info, err)
		}
		r.Asked = time.Now()
		o, state := must(c.Lookup(t.Context(), r)), backend.OutcomeUnknown
		if info == badRequest {
			state = backend.OutcomePending // for Poll to refuse
		}
		if o.State != state {
			t.Errorf("Lookup, failInfo %s: %s", info, o.State)
		}
	}
}

// PENDING, and CertPoll with the same transactionID until it is over.
func TestPoll(t *testing.T) {
	f := newFakeCA(t)
	f.hold = true
	c := f.configured(t)
	r := request("one")
	a := must(c.Issue(t.Context(), r))
	if a.Certificate != nil || a.Ticket != transactionID(r.ID) || a.RetryAfter != defaultPoll {
		t.Fatalf("%+v", a)
	}
	if a = must(c.Poll(t.Context(), r, a.Ticket)); a.Certificate != nil {
		t.Fatal("a certificate of what is held")
	}
	f.approve(r)
	got := must(f.configured(t).Poll(t.Context(), r, a.Ticket)) // another process
	if n, _ := f.count(); n != 1 || !bytes.Equal(got.Certificate, f.ledger[0].der) {
		t.Errorf("%d certificates", n)
	}
	if _, err := c.Poll(t.Context(), request("two"), a.Ticket); err == nil || backend.Definite(err) {
		t.Errorf("another request's ticket: %v", err)
	}
}

func TestDenied(t *testing.T) {
	f := newFakeCA(t)
	f.hold = true
	c := f.configured(t)
	r := request("one")
	a := must(c.Issue(t.Context(), r))
	f.refused[a.Ticket] = true
	if _, err := c.Poll(t.Context(), r, a.Ticket); status.Code(err) != codes.InvalidArgument {
		t.Error(err)
	}
}

// What was sent and has no answer of the CA's is not known, and what CertPoll finds is the one certificate.
func TestLookup(t *testing.T) {
	wrong := func(change func(o *cms.SignOptions)) func(*fakeCA) { return func(f *fakeCA) { f.change = change } }
	replace := func(o *cms.SignOptions, a cms.Attribute) {
		for i := range o.Attributes {
			if o.Attributes[i].Type.Equal(a.Type) {
				o.Attributes[i] = a
			}
		}
	}
	stranger := must(rsa.GenerateKey(rand.Reader, 2048))
	for name, fault := range map[string]func(*fakeCA){
		"dropped":  func(f *fakeCA) { f.after = func(http.ResponseWriter) bool { panic(http.ErrAbortHandler) } },
		"garbage":  func(f *fakeCA) { f.after = func(w http.ResponseWriter) bool { w.Write([]byte("0\x01")); return true } },
		"HTTP 500": func(f *fakeCA) { f.after = func(w http.ResponseWriter) bool { w.WriteHeader(500); return true } },
		"HTTP 400": func(f *fakeCA) { f.after = func(w http.ResponseWriter) bool { w.WriteHeader(400); return true } },
		"large": func(f *fakeCA) {
			f.after = func(w http.ResponseWriter) bool { w.Write(make([]byte, maxAnswer+1)); return true }
		},
		"nonce": wrong(func(o *cms.SignOptions) {
			replace(o, cms.AttributeOctets(cms.SCEPRecipientNonce, []byte("other nonce")))
		}),
		"ID":      wrong(func(o *cms.SignOptions) { replace(o, cms.AttributePrintable(cms.SCEPTransactionID, "other")) }),
		"type":    wrong(func(o *cms.SignOptions) { replace(o, cms.AttributePrintable(cms.SCEPMessageType, typePKCSReq)) }),
		"status":  wrong(func(o *cms.SignOptions) { replace(o, cms.AttributePrintable(cms.SCEPPKIStatus, "9")) }),
		"content": wrong(func(o *cms.SignOptions) { o.Content = []byte("0\x00") }),
		"SHA-1":   wrong(func(o *cms.SignOptions) { o.Digest = crypto.SHA1 }),
		"refusal by a stranger": wrong(func(o *cms.SignOptions) {
			replace(o, cms.AttributePrintable(cms.SCEPPKIStatus, statusFailure))
			o.Key, o.Certificate = stranger, certify(stranger, nil, "Server RA", 2, false)
			o.Certificates = []*x509.Certificate{o.Certificate}
		}),
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeCA(t)
			c := f.configured(t, "lookup: certpoll")
			r := request("one")
			fault(f)
			if a, err := c.Issue(t.Context(), r); err == nil || backend.Definite(err) {
				t.Fatalf("%+v, %v: a certificate exists", a, err)
			}
			f.after, f.change = nil, nil
			r.Asked = time.Now()
			o := must(c.Lookup(t.Context(), r))
			if n, _ := f.count(); n != 1 || o.State != backend.OutcomeIssued || !bytes.Equal(o.Issuance.Certificate, f.ledger[0].der) {
				t.Errorf("%d certificates, %s", n, o.State)
			}
		})
	}
}

// Over TLS an HTTP status is the server's; without, anybody's. Nobody asked is nobody asked.
func TestNotAsked(t *testing.T) {
	f := newFakeCA(t)
	c := f.configured(t)
	f.Close()
	if _, err := c.Issue(t.Context(), request("one")); status.Code(err) != codes.ResourceExhausted || !backend.Definite(err) {
		t.Error(err)
	}
	if _, err := c.CACertificates(t.Context()); err == nil {
		t.Error("certificates of a CA that does not answer")
	}
}

// When the CA that knows nothing of a request will not come to know of it.
func TestNever(t *testing.T) {
	f := newFakeCA(t)
	now := time.Now()
	c := New(Options{Clock: func() time.Time { return now }})
	if err := c.Configure(t.Context(), f.config(t, "lookup: certpoll", "settle: 1m")); err != nil {
		t.Fatal(err)
	}
	r := request("one")
	look := func(want backend.OutcomeState) {
		t.Helper()
		if o := must(c.Lookup(t.Context(), r)); o.State != want {
			t.Errorf("%s, not %s", o.State, want)
		}
	}
	look(backend.OutcomeNever)
	r.Asked = now
	look(backend.OutcomeUnknown)
	now = now.Add(time.Minute + 3*upstream.DefaultTimeout) // it may have been sent that late
	look(backend.OutcomeUnknown)
	now = now.Add(time.Second)
	look(backend.OutcomeNever)
	// Asked with another certificate of the RA's: it would be told nothing of what that was given.
	r.Template.NotBefore = r.Template.NotBefore.Add(-2 * time.Hour)
	look(backend.OutcomeUnknown)
}

// Messages: the device's request as it is, signed by the RA, with AES and SHA-256, or what config lets in; by GET where there is no POST.
func TestMessages(t *testing.T) {
	for _, o := range []struct {
		caps, legacy string
		refused      string
	}{
		{"SCEPStandard\r\n", "", ""},
		{"AES\nSHA-256\nPOSTPKIOperation", "", ""},
		{"AES\nSHA-256", "", ""}, // by GET
		{"SHA-256\nDES3", "", "legacy: [3des]"},
		{"SHA-256\nDES3", "legacy: [3des]", ""},
		{"AES\nSHA-1", "", "legacy: [sha1]"},
		{"AES", "legacy: [sha1]", ""},
	} {
		f := newFakeCA(t)
		f.caps = o.caps
		c := f.configured(t, o.legacy)
		r := request("one")
		_, err := c.Issue(t.Context(), r)
		if o.refused != "" {
			if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), o.refused) {
				t.Errorf("%q: %v", o.caps, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", o.caps, err)
			continue
		}
		m := f.seen[0]
		content, _ := must(cms.ParseEnveloped(m.Content, cms.Limits{})).Decrypt(f.own())
		if !bytes.Equal(content, r.CSR) || !m.Signer.PublicKey.(*rsa.PublicKey).Equal(ourRA().Public()) || text(m, cms.SCEPTransactionID) != transactionID(r.ID) {
			t.Errorf("%q: another request, signer or transactionID", o.caps)
		}
		if weak := strings.Contains(o.legacy, "sha1"); (m.Digest == crypto.SHA1) != weak {
			t.Errorf("%q: %v", o.caps, m.Digest)
		}
		if cipher, weak := must(cms.ParseEnveloped(m.Content, cms.Limits{})).Cipher, strings.Contains(o.legacy, "3des"); (cipher == cms.TripleDES) != weak {
			t.Errorf("%q: %v", o.caps, cipher)
		}
	}
}

// A CA that nobody can ask what became of a request is asked over a connection of its own: none that waits, and may be closed meanwhile.
func TestConnectionOfItsOwn(t *testing.T) {
	for lines, own := range map[string]bool{"": true, "lookup: certpoll": false} {
		for _, caps := range []string{"SCEPStandard", "AES\nSHA-256"} { // by POST, by GET
			f := newFakeCA(t)
			f.caps = caps
			if _, err := f.configured(t, lines).Issue(t.Context(), request("one")); err != nil || f.closes != own {
				t.Errorf("%q: %v, its own %t", lines, err, f.closes)
			}
		}
	}
}

// A server that cannot say for a moment what it can do is asked again, and is no weak one until then.
func TestCapsUnknown(t *testing.T) {
	f := newFakeCA(t)
	c := f.configured(t)
	for _, code := range []int{500, 503, 429} {
		f.capsStatus = code
		if _, err := c.Issue(t.Context(), request("one")); status.Code(err) != codes.ResourceExhausted || !backend.Definite(err) {
			t.Errorf("HTTP %d to GetCACaps: %v", code, err)
		}
	}
	f.capsStatus = 0
	if _, err := c.Issue(t.Context(), request("one")); err != nil {
		t.Error(err)
	}
}

// A server without an RA: the CA itself decrypts and signs, by algorithms of old.
func TestCAWithoutRA(t *testing.T) {
	f := newFakeCA(t)
	f.ra, f.digest, f.cipher = nil, crypto.SHA1, cms.DES
	for _, lines := range []string{"", "legacy: [sha1]", "legacy: [des]"} {
		if _, err := f.configured(t, lines).Issue(t.Context(), request("weak")); err == nil || backend.Definite(err) || !strings.Contains(err.Error(), "legacy") {
			t.Errorf("%q: %v", lines, err)
		}
	}
	c := f.configured(t, "legacy: [sha1, des]")
	if got := must(c.Issue(t.Context(), request("one"))); len(got.Chain) != 1 {
		t.Errorf("a chain of %d", len(got.Chain))
	}
}

// The server's RA certificate was replaced between two messages.
func TestNewServerRA(t *testing.T) {
	f := newFakeCA(t)
	c := f.configured(t)
	if _, err := c.Issue(t.Context(), request("one")); err != nil {
		t.Fatal(err)
	}
	f.ra = certify(serverRA(), f.root, "Server RA", 77, false)
	f.change = func(o *cms.SignOptions) {}
	if _, err := c.CACertificates(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Issue(t.Context(), request("two")); err != nil {
		t.Error(err)
	}
}

// Certificates that do not lead to the roots are somebody else's: nothing is sent to them.
func TestRoots(t *testing.T) {
	f := newFakeCA(t)
	config := f.config(t)
	other := must(rsa.GenerateKey(rand.Reader, 2048))
	self := &x509.Certificate{SerialNumber: f.root.SerialNumber, Subject: f.root.Subject, NotBefore: f.root.NotBefore, NotAfter: f.root.NotAfter, IsCA: true, BasicConstraintsValid: true, KeyUsage: f.root.KeyUsage}
	f.root, f.ra = must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, self, self, other.Public(), other)))), nil
	c := New(Options{})
	if err := c.Configure(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	_, err := c.Issue(t.Context(), request("one"))
	if _, posts := f.count(); !backend.Definite(err) || !strings.Contains(err.Error(), "another CA") || posts != 0 {
		t.Errorf("%v, %d messages", err, posts)
	}
}

func TestCRL(t *testing.T) {
	f := newFakeCA(t)
	c := f.configured(t, "crl: getcrl")
	var w bytes.Buffer
	if err := c.CRL(t.Context(), "", &w); err != nil {
		t.Fatal(err)
	}
	if must(x509.ParseRevocationList(w.Bytes())).CheckSignatureFrom(f.root) != nil {
		t.Error("not the CA's")
	}
	if err := c.CRL(t.Context(), "x", &w); status.Code(err) != codes.NotFound {
		t.Error(err)
	}
	for name, content := range map[string][]byte{"certificates": must(cms.CertsOnly(f.root.Raw)), "nothing": {0x30, 0}, "": nil} {
		if _, err := parseCRL(content); err == nil {
			t.Errorf("a CRL of %s", name)
		}
	}
}

func TestTemplate(t *testing.T) {
	f := newFakeCA(t)
	c := f.configured(t)
	r := request("one")
	r.Template.Subject = request("two").Template.Subject
	if _, err := c.Issue(t.Context(), r); status.Code(err) != codes.InvalidArgument {
		t.Error(err)
	}
	if _, posts := f.count(); posts != 0 {
		t.Error("the CA was asked")
	}
}

// The RA's certificate that has expired is refused here; for a poll it refuses nothing.
func TestExpiredRA(t *testing.T) {
	f := newFakeCA(t)
	now := time.Now()
	c := New(Options{Clock: func() time.Time { return now }})
	if err := c.Configure(t.Context(), f.config(t)); err != nil {
		t.Fatal(err)
	}
	now = now.Add(2000 * time.Hour)
	r := request("one")
	if _, err := c.Issue(t.Context(), r); status.Code(err) != codes.FailedPrecondition {
		t.Error(err)
	}
	if _, err := c.Poll(t.Context(), r, transactionID(r.ID)); err == nil || backend.Definite(err) {
		t.Error(err)
	}
}

// A context that ends while the CA signs refuses nothing.
func TestLate(t *testing.T) {
	f := newFakeCA(t)
	c := f.configured(t)
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan struct{})
	f.after = func(http.ResponseWriter) bool { cancel(); <-over; return true }
	_, err := c.Issue(ctx, request("one"))
	close(over)
	if err == nil || backend.Definite(err) {
		t.Error(err)
	}
}
