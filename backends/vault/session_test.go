package vault

import (
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
)

// logsIn is a configuration with a login by what the file holds.
func (f *fake) logsIn(auth string) string {
	return fmt.Sprintf("url: %s\nissuers: [devices]\nnamespace: team/devices\nauth: {%s}\n", f.URL, auth)
}

// TestLogin: by AppRole and by Kubernetes; the namespace goes with every call.
func TestLogin(t *testing.T) {
	for _, auth := range []string{"approle: {role-id: muster, secret-id: %q}", "kubernetes: {mount: k8s, role: muster, jwt: %q}"} {
		f := newFake(t)
		ca := started(t, f.logsIn(fmt.Sprintf(auth, file(t, "secret-1\n"))), new(clock))
		r, _ := asked(t, "one", x509.CertificateRequest{})
		if _, err := ca.Issue(t.Context(), r); err != nil {
			t.Error(err)
		}
		if f.logins != 1 {
			t.Errorf("%d logins", f.logins)
		}
		for _, h := range f.seen {
			if h.Get("X-Vault-Namespace") != "team/devices" || h.Get("X-Vault-Request") != "true" {
				t.Errorf("a call without namespace: %v", h)
			}
		}
	}
}

// TestTokenEnds: a token that is not taken is replaced, once, and the request is sent again; what a new token may not do is refused.
func TestTokenEnds(t *testing.T) {
	f, c := newFake(t), new(clock)
	ca := started(t, f.logsIn(fmt.Sprintf("approle: {role-id: muster, secret-id: %q}", file(t, "secret-1"))), c)
	c.forward(time.Minute)
	f.tokens = map[string]int{} // a restart with another storage, a revocation
	r, _ := asked(t, "one", x509.CertificateRequest{})
	if _, err := ca.Issue(t.Context(), r); err != nil || f.logins != 2 || f.signed != 1 {
		t.Errorf("%v after %d logins, %d certificates", err, f.logins, f.signed)
	}
	f.denies = "pki/issuer/devices/sign-verbatim"
	for range 5 {
		if _, err := ca.Issue(t.Context(), r); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%v, not PERMISSION_DENIED", err)
		}
	}
	if f.logins != 2 {
		t.Errorf("%d logins over what a policy forbids", f.logins-2)
	}
	c.forward(time.Minute)
	if _, err := ca.Issue(t.Context(), r); status.Code(err) != codes.PermissionDenied || f.logins != 3 {
		t.Errorf("%v after %d logins", err, f.logins)
	}
}

// TestRenewal: after two thirds of its time a token is renewed; when that is not to be had there is another login, and until that works the old one does.
func TestRenewal(t *testing.T) {
	f, c := newFake(t), new(clock)
	secret := file(t, "secret-1")
	ca := started(t, f.logsIn(fmt.Sprintf("approle: {role-id: muster, secret-id: %q}", secret)), c)
	keep := func() {
		t.Helper()
		if _, err := ca.CACertificates(t.Context()); err != nil {
			t.Error(err)
		}
	}
	c.forward(39 * time.Minute)
	if keep(); f.renewed != 0 {
		t.Error("renewed too early")
	}
	c.forward(2 * time.Minute)
	if keep(); f.renewed != 1 || f.logins != 1 {
		t.Errorf("%d renewals, %d logins", f.renewed, f.logins)
	}
	f.denies, f.secret = "auth/token/renew-self", "secret-2"
	c.forward(41 * time.Minute)
	if keep(); f.logins != 2 {
		t.Errorf("%d logins", f.logins)
	}
	if keep(); f.logins != 2 {
		t.Errorf("%d logins: one failed a moment ago", f.logins)
	}
	c.forward(20 * time.Minute) // the old token is over
	r, _ := asked(t, "one", x509.CertificateRequest{})
	r.Template.NotBefore = c.now().UTC().Truncate(time.Second)
	if _, err := ca.Issue(t.Context(), r); status.Code(err) != codes.ResourceExhausted || !backend.Definite(err) || !strings.Contains(err.Error(), "login") {
		t.Errorf("%v, not a refusal for now", err)
	}
	if err := os.WriteFile(secret, []byte("secret-2"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.forward(pause)
	r.Template.NotBefore = c.now().UTC().Truncate(time.Second)
	if _, err := ca.Issue(t.Context(), r); err != nil {
		t.Error(err)
	}
}

// TestTokenFile: the file is read for each call, its token renewed, and one that others may read is not used.
func TestTokenFile(t *testing.T) {
	f, c := newFake(t), new(clock)
	token := file(t, "first")
	f.tokens = map[string]int{"first": -1, "second": -1}
	ca := started(t, f.logsIn(fmt.Sprintf("token: %q", token)), c)
	c.forward(41 * time.Minute)
	if _, err := ca.CACertificates(t.Context()); err != nil || f.renewed != 1 {
		t.Errorf("%v after %d renewals", err, f.renewed)
	}
	f.tokens["first"] = 0
	r, _ := asked(t, "one", x509.CertificateRequest{})
	if _, err := ca.Issue(t.Context(), r); status.Code(err) != codes.PermissionDenied {
		t.Errorf("%v, not PERMISSION_DENIED", err)
	}
	if err := os.WriteFile(token, []byte("second\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ca.Issue(t.Context(), r); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(token, []byte("two words"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ca.Issue(t.Context(), r); !backend.Definite(err) || strings.Contains(err.Error(), "words") {
		t.Errorf("a file without a token: %v", err)
	}
	if err := os.Chmod(token, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ca.Issue(t.Context(), r); !backend.Definite(err) || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a token that others may read: %v", err)
	}
}

// TestErrors: what an answer means for a request.
func TestErrors(t *testing.T) {
	for _, test := range []struct {
		status int
		body   string
		code   codes.Code
		want   string
	}{
		{400, `{"errors":["role requires keys of type rsa"]}`, codes.InvalidArgument, "role requires keys of type rsa"},
		{400, `{"errors":["a\nb\u0007"]}`, codes.InvalidArgument, "a b"},
		{400, `{"errors":["` + strings.Repeat("x", 4000) + `"]}`, codes.InvalidArgument, "xxx..."},
		{404, `{"errors":["no handler for route \"pki/x\""]}`, codes.FailedPrecondition, "`mount`"},
		{405, `{"errors":["unsupported operation"]}`, codes.InvalidArgument, "unsupported operation"},
		{429, `{"errors":["request path \"pki/\": rate limit quota exceeded"]}`, codes.ResourceExhausted, "rate limit"},
		{408, ``, codes.Unavailable, "HTTP 408"},
		{502, `<html>`, codes.Unavailable, "HTTP 502"},
		{503, `{"errors":["Vault is sealed"]}`, codes.ResourceExhausted, "not asked"},
		{503, `{"errors":["Vault is sealed","and more"]}`, codes.Unavailable, "HTTP 503"},
		{500, `{"errors":["Vault is sealed"]}`, codes.Unavailable, "HTTP 500"},
	} {
		f := newFake(t)
		ca := started(t, f.config(t, ""), new(clock))
		f.fault = func(w http.ResponseWriter, _ func() map[string]any) bool {
			w.WriteHeader(test.status)
			_, _ = w.Write([]byte(test.body))
			return true
		}
		r, _ := asked(t, "one", x509.CertificateRequest{})
		_, err := ca.Issue(t.Context(), r)
		if status.Code(err) != test.code || !strings.Contains(err.Error(), test.want) || len(err.Error()) > 1000 {
			t.Errorf("HTTP %d %.60s: %v, not %s with %q", test.status, test.body, err, test.code, test.want)
		}
		if backend.Definite(err) == (test.code == codes.Unavailable) {
			t.Errorf("HTTP %d %.60s: definite is %t", test.status, test.body, backend.Definite(err))
		}
	}
}

// TestConfig: what is wrong is said by its key.
func TestConfig(t *testing.T) {
	const good = "url: https://vault.example.org:8200\n"
	for config, want := range map[string]string{
		good:                      "auth",
		good + "auth: {}\n":       "auth: wants one of",
		good + "auth: {tokn: /t}": "token",
		"auth: {token: /t}\n":     "url",
		"url: http://vault.example.org\nauth: {token: /t}":                       "wants https",
		good + "auth: {token: /t, approle: {role-id: x}}":                        "auth: wants one of",
		good + "auth: {approle: {secret-id: /s}}":                                "role-id",
		good + "auth: {approle: {role-id: x, mount: ../x}}":                      "auth.approle.mount",
		good + "auth: {kubernetes: {role: x, mount: 'a?b'}}":                     "auth.kubernetes.mount",
		good + "auth: {token: /t}\nmount: v1/../sys":                             "mount: wants",
		good + "auth: {token: /t}\nnamespace: a#b":                               "namespace: wants",
		good + "auth: {token: /t}\nissuers: [a/b]":                               "entry 1",
		good + "auth: {token: /t}\nissuers: [a, a]":                              "a stands twice",
		good + "auth: {token: /t}\nissuers: [a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q]": "at most 16",
		good + "auth: {token: /t}\nsign: role":                                   "role: `sign: role` wants",
		good + "auth: {token: /t}\nsign: verbose":                                "sign: wants",
		good + "auth: {token: /t}\nrole: a/b":                                    "role: wants",
		good + "auth: {token: /t}\nlookup: maybe":                                "lookup: wants",
		good + "auth: {token: /t}\nlookup-limit: 1000001":                        "lookup-limit: 1 to",
		good + "auth: {token: /t}\nsettle: 1m":                                   "settle: 2m0s to",
		good + "auth: {token: /t}\nsettle: 2m\ntimeout: 1m":                      "settle: longer than timeout",
	} {
		err := New(Options{}).Validate(t.Context(), []byte(config))
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, not INVALID_ARGUMENT with %q", config, err, want)
		}
	}
	for _, config := range []string{good + "auth: {token: /t}", "url: http://127.0.0.1:8100\nauth: {kubernetes: {role: muster}}\nmount: /team/pki/\nnamespace: a/b"} {
		if err := New(Options{}).Validate(t.Context(), []byte(config)); err != nil {
			t.Errorf("%q: %v", config, err)
		}
	}
}

// TestNoSecrets: no credential stands in an error.
func TestNoSecrets(t *testing.T) {
	f := newFake(t)
	f.secret = "another"
	ca := New(Options{})
	if err := ca.Configure(t.Context(), []byte(f.logsIn(fmt.Sprintf("approle: {role-id: muster, secret-id: %q}", file(t, "hush-hush"))))); err != nil {
		t.Fatal(err)
	}
	r, _ := asked(t, "one", x509.CertificateRequest{})
	_, err := ca.Issue(t.Context(), r)
	if err == nil || strings.Contains(err.Error(), "hush") || !backend.Definite(err) {
		t.Errorf("%v", err)
	}
	// Nor one that the server repeats, in any of the places where its words are.
	f.secret, f.repeats = "yet another", true
	ca = New(Options{})
	if err := ca.Configure(t.Context(), []byte(f.logsIn(fmt.Sprintf("approle: {role-id: muster, secret-id: %q}", file(t, "hush-hush"))))); err != nil {
		t.Fatal(err)
	}
	if _, err := ca.Issue(t.Context(), r); err == nil || strings.Contains(err.Error(), "hush") || !strings.Contains(err.Error(), "[hidden]") {
		t.Errorf("%v", err)
	}
	f.fault = func(w http.ResponseWriter, _ func() map[string]any) bool {
		f.fail(w, http.StatusBadRequest, "what is "+f.seen[len(f.seen)-1].Get("X-Vault-Token"))
		return true
	}
	_, err = started(t, f.config(t, ""), new(clock)).Issue(t.Context(), r)
	if err == nil || strings.Contains(err.Error(), "root") || !strings.Contains(err.Error(), "what is [hidden]") {
		t.Errorf("%v", err)
	}
}

// TestConnectionOfItsOwn: where nobody asks the server what became of a request, it is asked over a connection that has not waited, and
// may not be closed meanwhile.
func TestConnectionOfItsOwn(t *testing.T) {
	for more, own := range map[string]bool{"": false, "lookup: none\n": true} {
		f := newFake(t)
		ca := started(t, f.config(t, more), new(clock))
		r, _ := asked(t, "one", x509.CertificateRequest{})
		_, err := ca.Issue(t.Context(), r)
		if closes := f.seen[len(f.seen)-1].Get("Connection") == "close"; err != nil || closes != own {
			t.Errorf("%q: %v, its own %t", more, err, closes)
		}
	}
}
