package est

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway"
)

// RFC 7030 section 3.2.3: HTTP Basic, over TLS.
func TestBasic(t *testing.T) {
	w := newWorld(t, worldOptions{})
	body := b64(makeCSR(t, csrOptions{key: newP256()}))
	for _, c := range []struct{ header, user, password string }{
		{"Basic " + base64.StdEncoding.EncodeToString([]byte("factory:pass:word")), "factory", "pass:word"},
		{"bAsIc " + base64.StdEncoding.EncodeToString([]byte(":only a password")), "", "only a password"}, // RFC 7030 section 3.2.3
		{"Basic " + base64.StdEncoding.EncodeToString([]byte("wärter:schlüssel")), "wärter", "schlüssel"}, // charset="UTF-8"
	} {
		r := w.enrollment(root+"/simpleenroll", body)
		r.Header.Set("Authorization", c.header)
		if got := send(t, w.client(nil, nil, nil), r); got.StatusCode != 200 {
			t.Fatalf("%d %s", got.StatusCode, got.body)
		}
		creds := w.gateway.lastEnrolled(t).Credentials
		if len(creds) != 1 || creds[0].Kind != gateway.CredentialPassword || creds[0].ID != c.user || string(creds[0].Secret) != c.password {
			t.Errorf("%s: %v", c.header, creds)
		}
		if printed := fmt.Sprintf("%v %+v %#v", creds, creds, creds[0].Secret); strings.Contains(printed, c.password) {
			t.Errorf("the password is printed: %s", printed)
		}
	}
	if strings.Contains(w.log.String(), "word") {
		t.Error("a password is in the log")
	}
}

// RFC 7030 section 3.3.2: the TLS client certificate, with the chain as it was sent and trusted by nobody yet.
func TestTLSClientCertificate(t *testing.T) {
	w := newWorld(t, worldOptions{})
	cert, key := w.device("device-0001")
	client := w.client(cert, key, func(c *tls.Config) {
		c.Certificates[0].Certificate = append(c.Certificates[0].Certificate, w.ca.issuer.Raw)
	})
	r := w.enrollment(root+"/simpleenroll", b64(makeCSR(t, csrOptions{key: newP256()})))
	r.SetBasicAuth("factory", "password")
	if got := send(t, client, r); got.StatusCode != 200 {
		t.Fatalf("%d %s", got.StatusCode, got.body)
	}
	asked := w.gateway.lastEnrolled(t)
	cred, ok := asked.Credential(gateway.CredentialTLS)
	if !ok || cred.ID != gateway.Fingerprint(cert) || len(cred.Chain) != 2 || !cred.Chain[0].Equal(cert) || !cred.Chain[1].Equal(w.ca.issuer) {
		t.Errorf("credential %+v", cred)
	}
	if _, ok := asked.Credential(gateway.CredentialPassword); !ok {
		t.Error("the password beside the certificate is lost")
	}
	if asked.OldCert != nil || asked.Operation != gateway.Enroll {
		t.Errorf("a first enrollment became %s", asked.Operation)
	}

	long := w.client(cert, key, func(c *tls.Config) {
		for range maxPeerCertificates {
			c.Certificates[0].Certificate = append(c.Certificates[0].Certificate, w.ca.issuer.Raw)
		}
	})
	got := send(t, long, w.enrollment(root+"/simpleenroll", b64(makeCSR(t, csrOptions{key: newP256()}))))
	if got.StatusCode != 400 || !strings.Contains(got.body, "more than 16 certificates") {
		t.Errorf("17 certificates: %d %q", got.StatusCode, got.body)
	}
}

// RFC 7030 section 4.2.2: the client certificate's own key renews, another rekeys.
func TestSimpleReenroll(t *testing.T) {
	w := newWorld(t, worldOptions{})
	cert, key := w.device("device-0001")
	client := w.client(cert, key, nil)
	other := newP256()
	for _, c := range []struct {
		name string
		csr  csrOptions
		want gateway.Operation
	}{{"same key", csrOptions{key: key}, gateway.Renew}, {"new key", csrOptions{key: other}, gateway.Rekey}} {
		got := send(t, client, w.enrollment(root+"/plant/simplereenroll", b64(makeCSR(t, c.csr))))
		if got.StatusCode != 200 || got.Header.Get("Content-Type") != typeEnrolled {
			t.Fatalf("%s: %d %s", c.name, got.StatusCode, got.body)
		}
		asked := w.gateway.lastEnrolled(t)
		if asked.Operation != c.want || asked.OldCert == nil || !asked.OldCert.Equal(cert) || asked.Endpoint != "plant" {
			t.Errorf("%s: %s of %v at %s", c.name, asked.Operation, asked.OldCert, asked.Endpoint)
		}
	}
}

// RFC 7030 section 3.5 with tls-unique up to TLS 1.2, RFC 9266 with tls-exporter from TLS 1.3 on.
func TestChannelBinding(t *testing.T) {
	w := newWorld(t, worldOptions{})
	key := newP256()
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		// The value is known after the handshake: one connection for both requests.
		var states []tls.ConnectionState
		client := w.client(nil, nil, func(c *tls.Config) {
			c.MinVersion, c.MaxVersion = version, version
			c.VerifyConnection = func(cs tls.ConnectionState) error { states = append(states, cs); return nil }
		})
		first := send(t, client, w.request(http.MethodGet, root+"/cacerts", nil))
		own := channelBinding(first.TLS)
		foreign := channelBinding(send(t, w.client(nil, nil, func(c *tls.Config) { c.MinVersion, c.MaxVersion = version, version }),
			w.request(http.MethodGet, root+"/cacerts", nil)).TLS)
		if raw, err := base64.StdEncoding.DecodeString(own); err != nil || own == foreign || (version == tls.VersionTLS12 && len(raw) != 12) || (version == tls.VersionTLS13 && len(raw) != 32) {
			t.Fatalf("TLS %x: binding %q, other connection %q", version, own, foreign)
		}
		for _, c := range []struct {
			name       string
			attributes [][]byte
			status     int
			pop        gateway.POP
		}{
			{"none", nil, 200, gateway.POPSignature},
			{"challengePassword", [][]byte{attribute(oidChallengePassword, printable(own))}, 200, gateway.POPLinked},
			{"challengePassword, UTF8String", [][]byte{attribute(oidChallengePassword, append([]byte{12, byte(len(own))}, own...))}, 200, gateway.POPLinked},
			{"estIdentityLinking (RFC 7894)", [][]byte{attribute(oidIdentityLinking, printable(own))}, 200, gateway.POPLinked},
			{"both", [][]byte{attribute(oidChallengePassword, printable(own)), attribute(oidIdentityLinking, printable(own))}, 200, gateway.POPLinked},
			{"revocationChallenge is none", [][]byte{attribute(oidRevocationChallenge, printable("later"))}, 200, gateway.POPSignature},
			{"another connection's", [][]byte{attribute(oidChallengePassword, printable(foreign))}, 400, ""},
			{"empty", [][]byte{attribute(oidChallengePassword, printable(""))}, 400, ""},
			{"cut short", [][]byte{attribute(oidChallengePassword, printable(own[:len(own)-1]))}, 400, ""},
			{"one right, one wrong", [][]byte{attribute(oidChallengePassword, printable(own)), attribute(oidIdentityLinking, printable(foreign))}, 400, ""},
		} {
			got := send(t, client, w.enrollment(root+"/simpleenroll", b64(makeCSR(t, csrOptions{key: key, attributes: c.attributes}))))
			if got.StatusCode != c.status {
				t.Errorf("TLS %x, %s: %d %q", version, c.name, got.StatusCode, got.body)
				continue
			}
			if c.status == 200 {
				if pop := w.gateway.lastEnrolled(t).POP; pop != c.pop {
					t.Errorf("TLS %x, %s: POP %s", version, c.name, pop)
				}
			} else if e := w.gateway.lastRejected(t).err; e.Reason != gateway.BadPOP {
				t.Errorf("TLS %x, %s: %s", version, c.name, e.Reason)
			}
		}
		if len(states) != 1 {
			t.Errorf("TLS %x: %d connections, the test needs one", version, len(states))
		}
	}
}

// A repeat is equal whatever its challenges, its signature and the order of its parts (RFC 7030 section 4.2.3).
func TestContent(t *testing.T) {
	key := newP256()
	content := func(o csrOptions) string {
		t.Helper()
		if o.key == nil {
			o.key = key
		}
		c, ref := parseCertification(makeCSR(t, o))
		if ref != nil {
			t.Fatal(ref.Err)
		}
		return string(must(c.content()))
	}
	profile := attribute([]int{1, 2, 3, 4, 5}, printable("a"))
	want := content(csrOptions{san: []string{"a.example"}, attributes: [][]byte{profile}})
	for name, o := range map[string]csrOptions{
		"signed again":       {san: []string{"a.example"}, attributes: [][]byte{profile}},
		"with challenges":    {san: []string{"a.example"}, attributes: [][]byte{attribute(oidChallengePassword, printable("x")), profile, attribute(oidRevocationChallenge, printable("y"))}},
		"another challenge":  {san: []string{"a.example"}, attributes: [][]byte{attribute(oidIdentityLinking, printable("z")), profile}},
		"attributes shifted": {attributes: [][]byte{attribute(oidExtensionRequest, extensionsOf("a.example")), profile}},
	} {
		if content(o) != want {
			t.Errorf("%s: another content", name)
		}
	}
	for name, o := range map[string]csrOptions{
		"another key":             {key: newP256(), san: []string{"a.example"}, attributes: [][]byte{profile}},
		"another subject":         {subject: "victim", san: []string{"a.example"}, attributes: [][]byte{profile}},
		"another subjectAltName":  {san: []string{"b.example"}, attributes: [][]byte{profile}},
		"no subjectAltName":       {attributes: [][]byte{profile}},
		"another attribute":       {san: []string{"a.example"}, attributes: [][]byte{attribute([]int{1, 2, 3, 4, 5}, printable("b"))}},
		"an attribute more":       {san: []string{"a.example"}, attributes: [][]byte{profile, attribute([]int{1, 2, 3, 4, 6}, printable("a"))}},
		"with ChangeSubjectName":  {san: []string{"a.example"}, attributes: [][]byte{profile, attribute(oidChangeSubjectName, changeSubject(nameDER("n"), nil, false))}},
		"no attributes but those": {san: []string{"a.example"}},
	} {
		if content(o) == want {
			t.Errorf("%s: the same content", name)
		}
	}
}

// A peer's key of a kind that cannot be compared is not the request's key.
func TestPeerWithUnusualKey(t *testing.T) {
	c := &certification{}
	r := &gateway.Request{Credentials: []gateway.Credential{{Kind: gateway.CredentialTLS, Chain: []*x509.Certificate{{PublicKey: nil}}}}}
	if ref := c.succeed(r); ref != nil || r.Operation != gateway.Rekey {
		t.Errorf("%v, %s", ref, r.Operation)
	}
}
