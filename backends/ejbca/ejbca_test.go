package ejbca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// The suite, in process and as a plugin process, with a user name and with an account binding ID for each request.
func TestConformance(t *testing.T) {
	for name, lines := range map[string]string{"username": "", "binding": `username: "{{device}}"`} {
		t.Run(name, func(t *testing.T) {
			backendtest.Run(t, backendtest.Subject{
				New: func() backend.Backend { return New(Options{}) },
				Config: func(t *testing.T) []byte {
					f := newFakeCA(t)
					f.override, f.instant = true, true
					return f.config(t, lines)
				},
				BadConfig: []byte("url: http://ca.example\nauthority: x"),
				Plugin:    "ejbca",
			})
		})
	}
}

func TestDescribe(t *testing.T) {
	f := newFakeCA(t)
	for lines, want := range map[string]string{
		"":                             "lookup [subject subjectAltName validity keyUsage extKeyUsage] [revoke crl]",
		"decides: [validity, subject]": "lookup [validity subject] [revoke crl]",
	} {
		d := must(f.configured(t, lines).Describe(t.Context()))
		if got := fmt.Sprintf("%s %v %v", d.Idempotency, d.Decides, d.Capabilities); got != want {
			t.Errorf("%q: %s, not %s", lines, got, want)
		}
	}
}

func TestConfigErrors(t *testing.T) {
	const names = "\nauthority: A\nend-entity-profile: E\ncertificate-profile: C\n"
	for text, want := range map[string]string{
		"url: https://h\ntoken: /t\nautority: A":                                   "autority",
		"url: https://h\ntoken: /t\nend-entity-profile: E\ncertificate-profile: C": "authority",
		"url: https://h\ntoken: /t\nauthority: A\ncertificate-profile: C":          "end-entity-profile",
		"url: https://h\ntoken: /t\nauthority: A\nend-entity-profile: E":           "certificate-profile",
		"url: http://h\ntoken: /t" + names:                                         "url: wants https",
		"url: https://h/ejbca/ejbca-rest-api\ntoken: /t" + names:                   "leave out /ejbca/ejbca-rest-api",
		"url: https://h" + names:                                                   "cert: EJBCA wants to know who asks",
		"url: https://h\ncert: /c" + names:                                         "cert and key go together",
		"url: https://h\ntoken: t" + names:                                         "token: not an absolute path",
		"url: https://h\ntoken: /t\nusername: device" + names:                      "username:",
		"url: https://h\ntoken: /t\nusername: 'a%{{id}}'" + names:                  "username:",
		"url: https://h\ntoken: /t\nusername: '{{id}}{{id}}'" + names:              "username:",
		"url: https://h\ntoken: /t\nusername: '{{name}}{{id}}'" + names:            "username:",
		"url: https://h\ntoken: /t\nsettle: 30s" + names:                           "settle:",
		"url: https://h\ntoken: /t\ntimeout: 5m\nsettle: 2m" + names:               "settle:",
		"url: https://h\ntoken: /t\ndecides: [subject]" + names:                    "validity has to be among them",
		"url: https://h\ntoken: /t" + strings.Replace(names, "A", `"a\nb"`, 1):     "authority: a name",
	} {
		err := New(Options{}).Validate(t.Context(), []byte(text))
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, which lacks %q", text, err, want)
		}
	}
}

// What an answer to pkcs10enroll proves when nothing was issued. The texts are EJBCA's.
func TestAnswers(t *testing.T) {
	for _, c := range []struct {
		status int
		text   string
		want   codes.Code
	}{
		{400, "User matches 'Subject DN' is not allowed", codes.InvalidArgument},
		{400, "The username can't be blank.", codes.InvalidArgument},
		{422, "Validity is not valid", codes.InvalidArgument},
		{400, "Single transaction enrollment request rejected since approvals are enabled for this CA (1) or Certificate Profile (2).", codes.FailedPrecondition},
		{400, "CA 'Devices CA' is offline", codes.ResourceExhausted},
		{400, "CA with name \"Devices CA\" doesn't exist", codes.Unavailable}, // an RA node that reaches no CA
		{400, "Transaction rolled back", codes.Unavailable},
		{400, "", codes.Unavailable},
		{401, "", codes.PermissionDenied},
		{403, "Not authorized", codes.PermissionDenied},
		{408, "", codes.Unavailable},
		{429, "", codes.ResourceExhausted},
		{500, "General failure.", codes.Unavailable},
		{503, "Device was unavailable.", codes.Unavailable},
		{202, "", codes.Unavailable},
		{200, "", codes.Unavailable},
		{307, "", codes.Unavailable},
	} {
		f := newFakeCA(t)
		f.before = func(w http.ResponseWriter, _ *http.Request) bool { refuse(w, c.status, c.text); return true }
		_, err := f.configured(t).Issue(t.Context(), request("one"))
		if status.Code(err) != c.want || backend.Definite(err) != (c.want != codes.Unavailable) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("HTTP %d %s: %v, not %s", c.status, c.text, err, c.want)
		}
	}
}

func TestUsername(t *testing.T) {
	for _, c := range []struct{ username, device, want, binding string }{
		{"", "press-4", "id-one", ""},
		{"muster-{{id}}", "", "muster-id-one", ""},
		{"{{device}}.{{id}}", "press_4", "press_4.id-one", ""},
		{"{{device}}", "press-4", "press-4", "id-one"},
		{"{{device}}", "press 4%", "press-4--", "id-one"}, // and a hash
	} {
		f := newFakeCA(t)
		r := request("one")
		r.Device = c.device
		must(f.configured(t, fmt.Sprintf("username: %q", c.username)).Issue(t.Context(), r))
		if i := f.ledger[0]; i.user != c.want && !(strings.HasSuffix(c.device, "%") && strings.HasPrefix(i.user, c.want) && len(i.user) == len(c.want)+32) || i.binding != c.binding {
			t.Errorf("%+v: %q %q", c, i.user, i.binding)
		}
	}
	f := newFakeCA(t)
	c := f.configured(t, `username: "{{device}}"`)
	r := request("one")
	r.Device = ""
	if _, err := c.Issue(t.Context(), r); status.Code(err) != codes.InvalidArgument || f.posts != 0 {
		t.Errorf("no device: %v", err)
	}
	must(c.Issue(t.Context(), request("press")))
	again := request("press")
	again.ID = "id-later"
	must(c.Issue(t.Context(), again)) // a renewal, under the same end entity
	if len(f.users) != 1 || f.ledger[0].password == f.ledger[1].password || len(f.ledger[0].password) < 20 {
		t.Errorf("%d end entities, passwords %v", len(f.users), f.ledger)
	}
	if a, b := safe("a b"), safe("a-b"); a == b || safe(strings.Repeat("x", 300)) == safe(strings.Repeat("x", 301)) || len(safe(strings.Repeat("x", 300))) > 64 {
		t.Errorf("%s %s", a, b)
	}
}

func TestEndTime(t *testing.T) {
	f := newFakeCA(t)
	r := request("one")
	got := must(f.configured(t, "end-time: true").Issue(t.Context(), r))
	if leaf := must(x509.ParseCertificate(got.Certificate)); !leaf.NotAfter.Equal(r.Template.NotAfter.Truncate(time.Minute)) {
		t.Errorf("until %s, and granted until %s", leaf.NotAfter, r.Template.NotAfter)
	}
}

// What EJBCA would certify otherwise than the template is refused before it is asked.
func TestTemplate(t *testing.T) {
	f := newFakeCA(t)
	c := f.configured(t, "decides: [validity, keyUsage, extKeyUsage]")
	other := request("other")
	for what, change := range map[string]func(*backend.IssueRequest){
		"subject": func(r *backend.IssueRequest) { r.Template.Subject = other.Template.Subject },
		"SAN":     func(r *backend.IssueRequest) { r.Template.SubjectAltName = nil },
		"key":     func(r *backend.IssueRequest) { r.Template.PublicKey = other.Template.PublicKey },
		"CSR":     func(r *backend.IssueRequest) { r.CSR = nil },
		"issuer":  func(r *backend.IssueRequest) { r.Issuer = "ec" },
	} {
		r := request("one")
		change(r)
		if _, err := c.Issue(t.Context(), r); status.Code(err) != codes.InvalidArgument {
			t.Errorf("another %s: %v", what, err)
		}
	}
	if _, posts := f.count(); posts != 0 {
		t.Errorf("EJBCA was asked %d times", posts)
	}
}

func TestWho(t *testing.T) {
	f := newFakeCA(t)
	f.token = "secret-word"
	c := f.configured(t)
	must(c.Issue(t.Context(), request("one")))
	f.token = "other"
	_, err := c.Issue(t.Context(), request("two"))
	if status.Code(err) != codes.PermissionDenied || strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
	for _, bad := range []string{"", "two words"} {
		f.token = bad + " "
		if err := New(Options{}).Configure(t.Context(), f.config(t)); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "bearer") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	// The RA's certificate that has expired is refused here.
	f = newFakeCA(t)
	f.ra = must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(9), NotAfter: time.Now().Add(time.Hour)}, f.ca, f.raKey.Public(), f.key))))
	c = f.configured(t)
	f.now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	if _, err := c.Issue(t.Context(), request("one")); status.Code(err) != codes.FailedPrecondition {
		t.Error(err)
	}
}

func TestRevoke(t *testing.T) {
	f := newFakeCA(t)
	c := f.configured(t)
	leaf := must(x509.ParseCertificate(must(c.Issue(t.Context(), request("one"))).Certificate))
	ask := &backend.RevokeRequest{Issuer: leaf.RawIssuer, Serial: leaf.SerialNumber.Bytes(), Reason: 1, At: time.Now()}
	f.approve = true
	if err := c.Revoke(t.Context(), ask); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "approval") {
		t.Errorf("with an approval: %v", err)
	}
	f.approve, f.dead = false, true
	if err := c.Revoke(t.Context(), ask); status.Code(err) != codes.Unavailable {
		t.Errorf("by an RA node that reaches no CA: %v", err)
	}
	f.dead = false
	for range 2 {
		if err := c.Revoke(t.Context(), ask); err != nil || !f.ledger[0].revoked {
			t.Errorf("%v", err)
		}
	}
	// One that was revoked was issued all the same.
	r := request("one")
	r.Template.PublicKey = leaf.RawSubjectPublicKeyInfo
	if o := must(c.Lookup(t.Context(), r)); o.State != backend.OutcomeIssued {
		t.Error(o.State)
	}
	for what, bad := range map[string]*backend.RevokeRequest{
		"another serial": {Issuer: leaf.RawIssuer, Serial: []byte{1}, Reason: 1},
		"no serial":      {Issuer: leaf.RawIssuer, Serial: []byte{0}, Reason: 1},
		"another issuer": {Issuer: f.root.RawSubject, Serial: ask.Serial, Reason: 1},
	} {
		if err := c.Revoke(t.Context(), bad); status.Code(err) != codes.NotFound {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, reason := range []int{7, 8, 11, -1} {
		if err := c.Revoke(t.Context(), &backend.RevokeRequest{Issuer: leaf.RawIssuer, Serial: ask.Serial, Reason: reason}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("reason %d: %v", reason, err)
		}
	}
}

func TestCRL(t *testing.T) {
	f := newFakeCA(t)
	c := f.configured(t)
	var w bytes.Buffer
	if err := c.CRL(t.Context(), "", &w); status.Code(err) != codes.NotFound {
		t.Errorf("none yet: %v", err)
	}
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour)}
	f.crl = must(x509.CreateRevocationList(rand.Reader, list, f.ca, f.key))
	if err := c.CRL(t.Context(), Issuer, &w); err != nil || !bytes.Equal(w.Bytes(), f.crl) {
		t.Errorf("%v, %d bytes", err, w.Len())
	}
	if err := c.CRL(t.Context(), "other", &w); status.Code(err) != codes.NotFound {
		t.Errorf("another CA's: %v", err)
	}
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	stranger := certify(key, nil, key, f.ca.Subject, 2)
	w.Reset()
	f.crl = must(x509.CreateRevocationList(rand.Reader, list, stranger, key))
	if err := c.CRL(t.Context(), "", &w); err == nil || w.Len() > 0 || !strings.Contains(err.Error(), "not signed by") {
		t.Errorf("a stranger's: %v", err)
	}
	f.ca, f.chain = stranger, []*x509.Certificate{stranger} // it has changed over
	if err := c.CRL(t.Context(), "", &w); err != nil {
		t.Error(err)
	}
}

func TestCACertificates(t *testing.T) {
	f := newFakeCA(t)
	c := f.configured(t)
	one := must(c.CACertificates(t.Context()))[0]
	if len(one.Chain) != 2 || !bytes.Equal(one.Chain[0], f.ca.Raw) || !bytes.Equal(one.Chain[1], f.root.Raw) {
		t.Errorf("%d certificates, or in another order", len(one.Chain))
	}
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	f.key, f.ca = key, certify(key, nil, key, pkix.Name{CommonName: "Devices"}, 5)
	f.chain = []*x509.Certificate{f.ca}
	got := must(c.Issue(t.Context(), request("one"))) // before anybody asked again
	if len(got.Chain) != 1 || !bytes.Equal(got.Chain[0], f.ca.Raw) {
		t.Errorf("a chain of %d", len(got.Chain))
	}
	f.chain = []*x509.Certificate{f.ra}
	if _, err := c.CACertificates(t.Context()); err == nil || !strings.Contains(err.Error(), "no root") {
		t.Errorf("without a root: %v", err)
	}
	f = newFakeCA(t)
	for from, want := range map[string]string{
		"authority: " + authorityName: `no CA "Nobody"; it shows: Root CA, Devices CA`,
		"end-entity-profile: " + eep:  "unknown end entity profile",
		"certificate-profile: " + cp:  "unknown certificate profile",
	} {
		key, _, _ := strings.Cut(from, ":")
		c := New(Options{})
		if err := c.Configure(t.Context(), bytes.Replace(f.config(t), []byte(from), []byte(key+": Nobody"), 1)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.CACertificates(t.Context()); err == nil || backend.Definite(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", key, err)
		}
		if key == "authority" {
			if _, err := c.Issue(t.Context(), request("one")); status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "not asked") {
				t.Errorf("Issue: %v", err)
			}
		}
	}
}

// EJBCA that is not there has issued nothing.
func TestUnreached(t *testing.T) {
	f := newFakeCA(t)
	c := f.configured(t)
	must(c.CACertificates(t.Context()))
	c.running.Load().client.HTTP().CloseIdleConnections()
	f.Close()
	if _, err := c.Issue(t.Context(), request("one")); status.Code(err) != codes.ResourceExhausted || !backend.Definite(err) {
		t.Error(err)
	}
	if o, err := c.Lookup(t.Context(), request("one")); err == nil || backend.Definite(err) {
		t.Errorf("%+v, %v", o, err)
	}
}
