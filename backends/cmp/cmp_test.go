package cmp

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	gatewaypkix "github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// configured is a backend before the fake, in a process of its own as far as it can tell.
func (f *fake) configured(t *testing.T, config string, now ...time.Time) *CA {
	t.Helper()
	o := Options{}
	if len(now) > 0 {
		o.Clock = func() time.Time { return now[0] }
	}
	ca := New(o)
	if err := ca.Configure(t.Context(), f.config(config)); err != nil {
		t.Fatal(err)
	}
	return ca
}

// wanted asks for a certificate under an ID.
func wanted(t *testing.T, id string) *backend.IssueRequest {
	t.Helper()
	key := p256()
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	subject, err := asn1.Marshal(pkix.Name{CommonName: id}.ToRDNSequence())
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{RawSubject: subject}, key)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC().Truncate(time.Second)
	return &backend.IssueRequest{ID: id, CSR: csr, Template: backend.Template{
		Subject: subject, PublicKey: spki, NotBefore: now, NotAfter: now.Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
	}}
}

func TestConfigurationIsRefused(t *testing.T) {
	for config, want := range map[string]string{
		"": "url",
		"url: https://ca.example\nsing: {cert: a, key: b}":                                          `did you mean "sign"`,
		"url: https://ca.example\n":                                                                 "nothing protects",
		"url: https://user@ca.example\nexchange: unchanged":                                         "url",
		"url: http://ca.example\nexchange: nested":                                                  "nested messages are signed",
		"url: http://ca.example\nexchange: changed":                                                 "wants one of",
		"url: http://ca.example\nsign: {cert: a, key: b}":                                           "trust",
		"url: http://ca.example\nsign: {cert: a, key: b}\ntrust: c\nmac: {reference: r, secret: s}": "one of them",
		"url: http://ca.example\nsign: {cert: a}\ntrust: c":                                         `lacks "key"`,
		"url: http://ca.example\nmac: {reference: r, secret: s, algorithm: hmac}":                   "mac.algorithm",
		"url: http://ca.example\nmac: {reference: r, secret: s}\nrequest: kur":                      "request",
		"url: http://ca.example\nmac: {reference: r, secret: s}\ndecides: [names]":                  "decides",
		"url: http://ca.example\nmac: {reference: r, secret: s}\nbackdate: 5m":                      "repeats",
		"url: http://ca.example\nmac: {reference: r, secret: s}\nrepeats: true\nbackdate: 2d":       "backdate",
		"url: http://ca.example\nmac: {reference: " + strings.Repeat("r", 256) + ", secret: s}":     "at most 255",
	} {
		if err := New(Options{}).Validate(t.Context(), []byte(config)); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n%v, want %q", config, err, want)
		}
	}
	f := newFake(t)
	f.write("backwards.pem", f.root, f.cert)
	f.write("no-root.pem", f.cert)
	f.file("empty", nil)
	for config, want := range map[string]string{
		strings.ReplaceAll(signed, "$/ra.key", "$/secret"):           "sign",
		strings.ReplaceAll(signed, "$/root.pem", "$/none.pem"):       "trust",
		strings.ReplaceAll(signed, "$/root.pem", "$/secret"):         "no PEM certificate",
		strings.ReplaceAll(signed, "$/chain.pem", "$/backwards.pem"): "the root last",
		strings.ReplaceAll(signed, "$/chain.pem", "$/no-root.pem"):   "does not end with a root",
		strings.ReplaceAll(signed, "$/chain.pem", "$/ra.pem"):        "no CA's",
		"mac: {reference: ref, secret: $/empty}":                     "is empty",
	} {
		if err := New(Options{}).Configure(t.Context(), f.config(config)); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n%v, want %q", config, err, want)
		}
	}
}

// With repeats the same request is the same message, byte for byte, from any process at any time; another one is not.
func TestSameRequestIsTheSameMessage(t *testing.T) {
	for _, protection := range []string{signed, "mac: {reference: ref, secret: $/secret}\nchain: $/chain.pem\n"} {
		f := newFake(t)
		r := wanted(t, "one")
		config := protection + "repeats: true\nbackdate: 5m\n"
		first, err := f.configured(t, config).Issue(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		second, err := f.configured(t, config, time.Now().Add(time.Hour)).Issue(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(f.heard[0], f.heard[1]) || !bytes.Equal(first.Certificate, second.Certificate) || f.issued(r.Template.PublicKey) != 1 {
			t.Errorf("the same request came as another message; %d certificates", f.issued(r.Template.PublicKey))
		}
		m, err := cmpmsg.Parse(f.heard[0])
		if err != nil || !m.Header.MessageTime.Equal(r.Template.NotBefore.Add(5*time.Minute)) {
			t.Errorf("messageTime %v, %v", m.Header.MessageTime, err)
		}
		if _, err := f.configured(t, config).Issue(t.Context(), wanted(t, "two")); err != nil {
			t.Fatal(err)
		}
		other, _ := cmpmsg.Parse(f.heard[2])
		if bytes.Equal(other.Header.TransactionID, m.Header.TransactionID) || bytes.Equal(other.Header.SenderNonce, m.Header.SenderNonce) {
			t.Error("two IDs have one transactionID or nonce")
		}
		// Without repeats it is the same transaction, at its own time: the CA sees that.
		if _, err := f.configured(t, protection, time.Now().Add(time.Minute)).Issue(t.Context(), r); status.Code(err) != codes.AlreadyExists || f.issued(r.Template.PublicKey) != 1 {
			t.Errorf("%v", err)
		}
	}
}

// Wherever a request or its answer is lost, one certificate comes of it; what was lost is no refusal.
func TestCrashPoints(t *testing.T) {
	for _, point := range []struct {
		name   string
		body   cmpmsg.BodyType
		before bool
		always bool // the CA stays away for the rest of the call
		ok     bool // the call succeeds all the same
	}{
		{"the request does not arrive", cmpmsg.TypeCR, true, true, false},
		{"the answer is lost", cmpmsg.TypeCR, false, true, false},
		{"certConf does not arrive", cmpmsg.TypeCertConf, true, true, false},
		{"pkiConf is lost", cmpmsg.TypeCertConf, false, true, false},
		{"certConf is lost once", cmpmsg.TypeCertConf, true, false, true},
		{"pkiConf is lost once", cmpmsg.TypeCertConf, false, false, true},
	} {
		for _, again := range []string{"issue", "lookup", "lookup in a new process"} {
			t.Run(point.name+", "+again, func(t *testing.T) {
				f := newFake(t)
				config := signed + "repeats: true\nconfirm: explicit\n"
				ca, r := f.configured(t, config), wanted(t, "one")
				cut := 0
				drop := func(b cmpmsg.BodyType) bool {
					if b != point.body || cut > 0 && !point.always {
						return false
					}
					cut++
					return true
				}
				if point.before {
					f.before = drop
				} else {
					f.after = drop
				}
				a, err := ca.Issue(t.Context(), r)
				if (err == nil) != point.ok || backend.Definite(err) || cut == 0 {
					t.Fatalf("%v after %d lost", err, cut)
				}
				f.before, f.after = nil, nil
				asked := *r
				switch again {
				case "issue":
					a, err = ca.Issue(t.Context(), r)
				case "lookup in a new process":
					asked.Asked = time.Now()
					ca = f.configured(t, config)
					fallthrough
				default:
					var o *backend.Outcome
					if o, err = ca.Lookup(t.Context(), &asked); err == nil {
						if a = o.Issuance; o.State != backend.OutcomeIssued {
							t.Fatalf("%+v", o)
						}
					}
				}
				if err != nil || a == nil || a.Certificate == nil || f.issued(r.Template.PublicKey) != 1 || f.confirmed != 1 {
					t.Errorf("%v; %d certificates, %d confirmed", err, f.issued(r.Template.PublicKey), f.confirmed)
				}
			})
		}
	}
}

// Nobody says never of what was asked for; and without repeats nothing can be looked up.
func TestLookup(t *testing.T) {
	f := newFake(t)
	r := wanted(t, "one")
	if _, err := f.configured(t, signed).Lookup(t.Context(), r); status.Code(err) != codes.Unimplemented {
		t.Errorf("%v", err)
	}
	f.refuses = cmpmsg.BadCertTemplate
	ca := f.configured(t, signed+"repeats: true\n")
	r.Asked = time.Now()
	if o, err := ca.Lookup(t.Context(), r); err == nil || backend.Definite(err) {
		t.Errorf("a refusal of what may have been issued before: %+v, %v", o, err)
	}
	f.refuses, f.waits = 0, 2
	if o, err := ca.Lookup(t.Context(), r); err != nil || o.State != backend.OutcomePending || o.Issuance.Ticket == "" {
		t.Errorf("%+v, %v", o, err)
	}
}

func TestRefusals(t *testing.T) {
	old := time.Now().Add(-time.Hour).UTC().Truncate(time.Second)
	for _, c := range []struct {
		fail     cmpmsg.FailInfo
		code     codes.Code
		definite bool
		old      bool
	}{
		{cmpmsg.BadCertTemplate, codes.InvalidArgument, true, false},
		{cmpmsg.UnacceptedPolicy, codes.InvalidArgument, true, false},
		{0, codes.InvalidArgument, true, false},
		{cmpmsg.NotAuthorized, codes.PermissionDenied, true, false},
		{cmpmsg.SignerNotTrusted, codes.PermissionDenied, true, false},
		{cmpmsg.BadTime, codes.PermissionDenied, true, false},
		{cmpmsg.BadTime, codes.Unavailable, false, true}, // it may have been answered when it was new
		{cmpmsg.SystemUnavail, codes.Unavailable, false, false},
		{cmpmsg.SystemFailure, codes.Unavailable, false, false},
		{cmpmsg.DuplicateCertReq, codes.Unavailable, false, false},
		{cmpmsg.SystemFailure | cmpmsg.BadRequest, codes.Unavailable, false, false},
		{cmpmsg.TransactionIDInUse, codes.AlreadyExists, false, false},
	} {
		f := newFake(t)
		f.instead = func(m *cmpmsg.Message) cmpmsg.Body { return failure(c.fail, "a\x1breason") }
		r := wanted(t, "one")
		if c.old {
			r.Template.NotBefore = old
		}
		ca := f.configured(t, signed+"repeats: true\n")
		_, err := ca.Issue(t.Context(), r)
		if status.Code(err) != c.code || backend.Definite(err) != c.definite || !strings.Contains(err.Error(), "a reason") {
			t.Errorf("%v: %v", c.fail, err)
		}
		// The same in a CertRepMessage.
		f.instead = func(m *cmpmsg.Message) cmpmsg.Body {
			return &cmpmsg.CertRepMessage{Kind: cmpmsg.TypeCP, Responses: []cmpmsg.CertResponse{{
				ReqID: m.Body.(*cmpmsg.CertReqMessages).Messages[0].ReqID, Status: cmpmsg.PKIStatusInfo{Status: cmpmsg.StatusRejection, FailInfo: c.fail},
			}}}
		}
		if _, err := ca.Issue(t.Context(), r); status.Code(err) != c.code || backend.Definite(err) != c.definite {
			t.Errorf("%v: %v", c.fail, err)
		}
		// An error that anybody could have written refuses nothing.
		f.instead, f.bare = func(m *cmpmsg.Message) cmpmsg.Body { return failure(c.fail, "a reason") }, true
		if _, err := ca.Issue(t.Context(), r); err == nil || backend.Definite(err) {
			t.Errorf("without protection: %v", err)
		}
	}
	f := newFake(t)
	for _, f.status = range []int{http.StatusNotFound, http.StatusForbidden, http.StatusInternalServerError} {
		_, err := f.configured(t, signed).Issue(t.Context(), wanted(t, fmt.Sprint(f.status)))
		if err == nil || backend.Definite(err) || strings.Contains(err.Error(), "secret words") {
			t.Errorf("HTTP %d over http: %v", f.status, err)
		}
	}
	away := f.configured(t, strings.Replace(signed, "chain", "timeout: 5s\nchain", 1))
	away.open.Load().URL = "http://127.0.0.1:1/"
	away.open.Load().client, _ = away.open.Load().Config.Config.New()
	if _, err := away.Issue(t.Context(), wanted(t, "away")); status.Code(err) != codes.ResourceExhausted || !backend.Definite(err) {
		t.Errorf("a CA that cannot be reached: %v", err)
	}
}

// An answer that is not one to the message, or not by whom the operator trusts, is none.
func TestForeignAnswers(t *testing.T) {
	for name, breaks := range map[string]func(f *fake){
		"another transactionID": func(f *fake) { f.change = func(o *cmpmsg.Outgoing) { o.Header.TransactionID = random() } },
		"another recipNonce":    func(f *fake) { f.change = func(o *cmpmsg.Outgoing) { o.Header.RecipNonce = random() } },
		"no recipNonce":         func(f *fake) { f.change = func(o *cmpmsg.Outgoing) { o.Header.RecipNonce = nil } },
		"another key":           func(f *fake) { f.answerKey = p256() },
		"a device's certificate": func(f *fake) {
			f.answerCert = certify(f.t, "device", f.answerKey.Public(), f.cert, f.key, false)
		},
		"another CA": func(f *fake) {
			key := p256()
			root := certify(f.t, "Root", key.Public(), nil, key, true)
			f.answerCert = certify(f.t, "CMP server", f.answerKey.Public(), root, key, false, oidCMCRA)
		},
		"an expired certificate": func(f *fake) {}, // by the clock, below
		"two responses": func(f *fake) {
			f.change = func(o *cmpmsg.Outgoing) {
				if b, ok := o.Body.(*cmpmsg.CertRepMessage); ok {
					b.Responses = append(b.Responses, b.Responses...)
				}
			}
		},
		"another certReqId": func(f *fake) {
			f.change = func(o *cmpmsg.Outgoing) {
				if b, ok := o.Body.(*cmpmsg.CertRepMessage); ok {
					b.Responses[0].ReqID.SetInt64(5)
				}
			}
		},
		"another body": func(f *fake) {
			f.change = func(o *cmpmsg.Outgoing) {
				if b, ok := o.Body.(*cmpmsg.CertRepMessage); ok {
					b.Kind = cmpmsg.TypeKUP
				}
			}
		},
		"a nonce without an end": func(f *fake) { f.change = func(o *cmpmsg.Outgoing) { o.Header.SenderNonce = make([]byte, maxNonce+1) } },
	} {
		f := newFake(t)
		breaks(f)
		ca := f.configured(t, signed)
		if name == "an expired certificate" {
			ca = f.configured(t, signed, time.Now().Add(2000*time.Hour))
		}
		if a, err := ca.Issue(t.Context(), wanted(t, "one")); err == nil || backend.Definite(err) {
			t.Errorf("%s: %+v, %v", name, a, err)
		}
	}
	// The very certificate in trust needs no purpose.
	f := newFake(t)
	f.answerCert = certify(t, "CMP server", f.answerKey.Public(), f.cert, f.key, false)
	f.write("root.pem", f.answerCert)
	if _, err := f.configured(t, signed).Issue(t.Context(), wanted(t, "one")); err != nil {
		t.Error(err)
	}
	// A MAC under another secret, and a signature where only a secret is shared.
	mac := "mac: {reference: ref, secret: $/secret}\nchain: $/chain.pem\n"
	g := newFake(t)
	g.file("secret", []byte("another secret"))
	if _, err := g.configured(t, mac).Issue(t.Context(), wanted(t, "one")); err == nil || backend.Definite(err) || strings.Contains(err.Error(), "another secret") {
		t.Errorf("%v", err)
	}
}

func TestPoll(t *testing.T) {
	f := newFake(t)
	f.waits, f.explicit = 3, true
	r := wanted(t, "one")
	a, err := f.configured(t, signed).Issue(t.Context(), r)
	if err != nil || a.Ticket == "" || len(a.Ticket) > backend.MaxTicket || a.Certificate != nil {
		t.Fatalf("%+v, %v", a, err)
	}
	ca := f.configured(t, signed) // of another process
	for range 2 {
		if a, err = ca.Poll(t.Context(), r, a.Ticket); err != nil || a.Ticket == "" || a.RetryAfter != 7*time.Second {
			t.Fatalf("%+v, %v", a, err)
		}
	}
	if _, err := ca.Poll(t.Context(), wanted(t, "two"), a.Ticket); err == nil || backend.Definite(err) {
		t.Errorf("another's ticket: %v", err)
	}
	f.instead = func(*cmpmsg.Message) cmpmsg.Body { return failure(cmpmsg.BadRequest, "no") }
	if _, err := ca.Poll(t.Context(), r, a.Ticket); err == nil || backend.Definite(err) {
		t.Errorf("an error about the pollReq: %v", err)
	}
	f.instead = nil
	last, err := ca.Poll(t.Context(), r, a.Ticket)
	if err != nil || last.Certificate == nil || len(last.Chain) != 2 || f.confirmed != 1 {
		t.Errorf("%+v, %v; %d confirmed", last, err, f.confirmed)
	}

	g := newFake(t)
	g.waits, g.refuses = 1, cmpmsg.NotAuthorized
	ca = g.configured(t, signed)
	if a, err = ca.Issue(t.Context(), r); err != nil || a.Ticket == "" {
		t.Fatalf("%+v, %v", a, err)
	}
	if _, err := ca.Poll(t.Context(), r, a.Ticket); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("refused after all: %v", err)
	}
}

// A certificate for another key is rejected, and given to the gateway to alarm about.
func TestConfirmation(t *testing.T) {
	f := newFake(t)
	f.explicit = true
	ca := f.configured(t, signed)
	if _, err := ca.Issue(t.Context(), wanted(t, "one")); err != nil || f.confirmed != 1 {
		t.Errorf("%v, %d confirmed", err, f.confirmed)
	}
	f.wrongKey = true
	if a, err := ca.Issue(t.Context(), wanted(t, "two")); err != nil || a.Certificate == nil || f.rejected != 1 || f.confirmed != 1 {
		t.Errorf("%+v, %v, %d rejected", a, err, f.rejected)
	}
	f.wrongKey, f.explicit = false, false
	if _, err := ca.Issue(t.Context(), wanted(t, "three")); err != nil || f.confirmed != 1 {
		t.Errorf("%v: a certConf though implicit confirmation was granted", err)
	}
	// What the CA revoked while it waited is not handed out.
	f.explicit = true
	f.instead = func(m *cmpmsg.Message) cmpmsg.Body {
		if m.Body.Type() == cmpmsg.TypeCertConf {
			return failure(cmpmsg.CertRevoked, "too late")
		}
		return nil
	}
	if a, err := ca.Issue(t.Context(), wanted(t, "four")); err == nil || backend.Definite(err) {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestExchange(t *testing.T) {
	f := newFake(t)
	device := &cmpmsg.Outgoing{Body: &cmpmsg.PKCS10{CSR: wanted(t, "device").CSR}, Header: cmpmsg.Header{
		PVNO: 2, Sender: cmpmsg.GeneralDirectoryName(f.ra.RawSubject), Recipient: cmpmsg.GeneralDirectoryName([]byte{0x30, 0}),
		TransactionID: random(), SenderNonce: random(), RecipNonce: random(), MessageTime: time.Now().UTC().Truncate(time.Second),
	}}
	mac, err := cmpmsg.NewPBM(crypto.SHA256, crypto.SHA256, 500, random())
	if err != nil {
		t.Fatal(err)
	}
	alg := mac.Algorithm()
	device.Header.ProtectionAlg, device.Header.SenderKID = &alg, []byte("ref")
	message, err := device.Protect(func(part []byte) ([]byte, error) { return mac.Sum([]byte("a shared secret"), part), nil })
	if err != nil {
		t.Fatal(err)
	}
	only := f.configured(t, "exchange: unchanged\n")
	if d, err := only.Describe(t.Context()); err != nil || len(d.Forms) != 1 || d.Forms[0] != backend.FormExchange || len(d.Capabilities) != 1 {
		t.Errorf("%+v, %v", d, err)
	}
	for call, err := range map[string]error{
		"Issue":          second(only.Issue(t.Context(), wanted(t, "one"))),
		"Lookup":         second(only.Lookup(t.Context(), wanted(t, "one"))),
		"CACertificates": second(only.CACertificates(t.Context())),
	} {
		if status.Code(err) != codes.Unimplemented {
			t.Errorf("%s: %v", call, err)
		}
	}
	if _, err := f.configured(t, signed).Exchange(t.Context(), "id", message); status.Code(err) != codes.Unimplemented {
		t.Errorf("%v", err)
	}
	if answer, err := only.Exchange(t.Context(), "id", message); err != nil || !bytes.Equal(f.heard[0], message) || len(answer) == 0 {
		t.Errorf("%v", err)
	}
	nested := f.configured(t, signed+"exchange: nested\n")
	answer, err := nested.Exchange(t.Context(), "id", message)
	if err != nil {
		t.Fatal(err)
	}
	if a, err := cmpmsg.Parse(answer); err != nil || !a.Header.ProtectionAlg.IsMAC() {
		t.Errorf("the answer is not the device's: %v", err)
	}
	m, err := cmpmsg.Parse(f.heard[1])
	if err != nil {
		t.Fatal(err)
	}
	n, ok := m.Body.(*cmpmsg.Nested)
	h := m.Header
	if !ok || !bytes.Equal(n.Messages[0], message) || !bytes.Equal(h.TransactionID, device.Header.TransactionID) || !bytes.Equal(h.SenderNonce, device.Header.SenderNonce) || !bytes.Equal(h.RecipNonce, device.Header.RecipNonce) {
		t.Errorf("%+v", h)
	}
	if err := gatewaypkix.VerifySignature(f.ra.PublicKey, h.ProtectionAlg.Raw, m.Protected(), m.Protection); err != nil {
		t.Error(err)
	}
	// An answer that is nested likewise is taken out, once its signature is the CA's.
	f.instead = func(m *cmpmsg.Message) cmpmsg.Body { return &cmpmsg.Nested{Messages: [][]byte{message}} }
	if answer, err := nested.Exchange(t.Context(), "id", message); err != nil || !bytes.Equal(answer, message) {
		t.Errorf("%v", err)
	}
	if _, err := only.Exchange(t.Context(), "id", message); err == nil {
		t.Error("a nested answer to what was not nested")
	}
	f.answerKey = p256()
	if _, err := nested.Exchange(t.Context(), "id", message); err == nil {
		t.Error("a nested answer that another signed")
	}
	f.instead, f.status = nil, http.StatusBadGateway
	if _, err := only.Exchange(t.Context(), "id", message); status.Code(err) != codes.Unavailable {
		t.Errorf("%v", err)
	}
	if _, err := nested.Exchange(t.Context(), "id", []byte{0x30, 0}); err == nil {
		t.Error("no message")
	}
}

func second[T any](_ T, err error) error { return err }

// No error and no %v shows the secret.
func TestNoSecretIsShown(t *testing.T) {
	f := newFake(t)
	ca := f.configured(t, "mac: {reference: ref, secret: $/secret}\n")
	id, err := ca.open.Load().identity()
	if err != nil {
		t.Fatal(err)
	}
	if text := fmt.Sprintf("%v %+v %#v", id, id, id); strings.Contains(text, "shared secret") || strings.Contains(text, fmt.Sprint(id.secret)) {
		t.Error(text)
	}
}

// An RA whose key cannot be read asks nothing.
func TestKeyIsReadEachTime(t *testing.T) {
	f := newFake(t)
	ca := f.configured(t, signed)
	f.file("ra.key", nil)
	if _, err := ca.Issue(t.Context(), wanted(t, "one")); status.Code(err) != codes.ResourceExhausted || !backend.Definite(err) || len(f.heard) != 0 {
		t.Errorf("%v", err)
	}
}

// caCerts come in any order; where they leave the issuing CA open the operator has to name it.
func TestCACerts(t *testing.T) {
	f := newFake(t)
	config := strings.Replace(signed, "chain: $/chain.pem\n", "", 1)
	ca := f.configured(t, config)
	cas, err := ca.CACertificates(t.Context())
	if err != nil || len(cas) != 1 || cas[0].Name != "cmp" || len(cas[0].Chain) != 2 || !bytes.Equal(cas[0].Chain[0], f.cert.Raw) || !bytes.Equal(cas[0].Chain[1], f.root.Raw) {
		t.Errorf("%+v, %v", cas, err)
	}
	key := p256()
	other := certify(t, "Other", key.Public(), f.cert, f.key, true)
	second := certify(t, "Second", key.Public(), f.cert, f.key, true)
	told, err := cmpmsg.MarshalSequences(other.Raw, f.cert.Raw, second.Raw, f.root.Raw)
	if err != nil {
		t.Fatal(err)
	}
	f.instead = func(*cmpmsg.Message) cmpmsg.Body {
		return &cmpmsg.General{Kind: cmpmsg.TypeGenP, Info: []cmpmsg.InfoTypeAndValue{{Type: cmpmsg.OIDCACerts, Value: told}}}
	}
	if _, err := ca.CACertificates(t.Context()); err == nil || !strings.Contains(err.Error(), "not clear") {
		t.Errorf("%v", err)
	}
	told = nil
	if _, err := ca.CACertificates(t.Context()); err == nil || !strings.Contains(err.Error(), "in chain") {
		t.Errorf("%v", err)
	}
}

// Certificates that issue each other in all ways are not tried all.
func TestTooManyCACerts(t *testing.T) {
	f := newFake(t)
	if _, err := newTold(slices.Repeat([]*x509.Certificate{f.cert}, maxTold+1), nil, time.Now()); err == nil || !strings.Contains(err.Error(), "at most 64") {
		t.Errorf("%v", err)
	}
}

// A CA that nobody can ask what became of a request is asked over a connection of its own: none that waits, and may be closed meanwhile.
func TestConnectionOfItsOwn(t *testing.T) {
	for more, own := range map[string]bool{"": true, "repeats: true\n": false, "exchange: unchanged\n": true} {
		f := newFake(t)
		if _, err := f.configured(t, signed+more).Issue(t.Context(), wanted(t, "one")); err != nil || f.closes != own {
			t.Errorf("%q: %v, its own %t", more, err, f.closes)
		}
	}
}

// A validity beyond the CA's is refused here, unless the CA cuts it.
func TestValidityBeyondTheCA(t *testing.T) {
	f := newFake(t)
	r := wanted(t, "one")
	r.Template.NotAfter = f.cert.NotAfter.Add(time.Hour)
	if _, err := f.configured(t, signed).Issue(t.Context(), r); status.Code(err) != codes.InvalidArgument || len(f.heard) != 0 {
		t.Errorf("%v", err)
	}
	if _, err := f.configured(t, signed+"decides: [validity]\n").Issue(t.Context(), r); err != nil {
		t.Error(err)
	}
}
