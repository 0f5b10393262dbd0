package est

import (
	"bytes"
	"crypto/x509"
	"testing"

	"github.com/muster-pki/muster/gateway"
)

// RFC 7030 section 4.2.2 by a password alone: the gateway says which certificate the user and the names mean. That there is
// none goes to the pipeline, which compares the password first.
func TestReenrollByPassword(t *testing.T) {
	w := newWorld(t, worldOptions{})
	cert, key := w.device("device-0001")
	var asked gateway.Names
	var who gateway.Credential
	held, renews, failure := cert, true, error(nil)
	w.gateway.held = func(c gateway.Credential, n gateway.Names) (*x509.Certificate, bool, error) {
		who, asked = c, n
		return held, renews, failure
	}
	post := func(o csrOptions, user string) reply {
		t.Helper()
		who, asked = gateway.Credential{}, gateway.Names{}
		r := w.enrollment(root+"/simplereenroll", b64(makeCSR(t, o)))
		if user != "" {
			r.SetBasicAuth(user, "secret")
		}
		return send(t, w.client(nil, nil, nil), r)
	}
	for _, c := range []struct {
		name string
		csr  csrOptions
		held *x509.Certificate
		want gateway.Operation
	}{
		{"same key", csrOptions{key: key}, cert, gateway.Renew},
		{"new key", csrOptions{key: newP256(), san: []string{"d.example"}}, cert, gateway.Rekey},
		{"nothing found", csrOptions{key: key}, nil, gateway.Renew},
	} {
		held = c.held
		if got := post(c.csr, "factory"); got.StatusCode != 200 {
			t.Fatalf("%s: %d %s", c.name, got.StatusCode, got.body)
		}
		r := w.gateway.lastEnrolled(t)
		if r.Operation != c.want || r.OldCert != c.held {
			t.Errorf("%s: %s of %v", c.name, r.Operation, r.OldCert)
		}
		san, _ := r.Extension(oidSubjectAltName)
		if who.Kind != gateway.CredentialPassword || who.ID != "factory" || !bytes.Equal(asked.Subject, r.Subject) || !bytes.Equal(asked.SubjectAltName, san) {
			t.Errorf("%s: asked for %v, %+v", c.name, who, asked)
		}
	}

	// With a certificate it is that one, and nothing is looked up; so it is at a first enrollment.
	held = nil
	who = gateway.Credential{}
	r := w.enrollment(root+"/simplereenroll", b64(makeCSR(t, csrOptions{key: key})))
	r.SetBasicAuth("factory", "secret")
	if got := send(t, w.client(cert, key, nil), r); got.StatusCode != 200 || who.Kind != "" || !w.gateway.lastEnrolled(t).OldCert.Equal(cert) {
		t.Errorf("with a certificate: %d, asked for %v", got.StatusCode, who)
	}
	r = w.enrollment(root+"/simpleenroll", b64(makeCSR(t, csrOptions{key: key})))
	r.SetBasicAuth("factory", "secret")
	if got := send(t, w.client(nil, nil, nil), r); got.StatusCode != 200 || who.Kind != "" || w.gateway.lastEnrolled(t).OldCert != nil {
		t.Errorf("first enrollment: %d, asked for %v", got.StatusCode, who)
	}

	if got := post(csrOptions{key: key}, ""); got.StatusCode != 401 || who.Kind != "" {
		t.Errorf("nobody: %d %s, asked for %v", got.StatusCode, got.body, who)
	}
	renews = false
	if got := post(csrOptions{key: key}, "factory"); got.StatusCode != 403 {
		t.Errorf("not here: %d %s", got.StatusCode, got.body)
	}
	renews, failure = true, gateway.Errorf(gateway.Unavailable, "the store cannot be read", "down")
	if got := post(csrOptions{key: key}, "factory"); got.StatusCode != 503 {
		t.Errorf("no answer: %d %s", got.StatusCode, got.body)
	}
}
