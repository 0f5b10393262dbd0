package e2e

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/backends/local"
	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/cms"
)

// given is an answer of /serverkeygen: with 200, a key under TLS alone and its certificate.
type given struct {
	status int
	text   string
	key    crypto.Signer
	cert   *x509.Certificate
}

// keyAgain asks for a key that is not kept, with a throw-away key each time: with a user's password, or, where that is "", with the
// certificate of d. The error is that of a connection that was lost.
func (g *instance) keyAgain(endpoint, user, name string, d *device) (*given, error) {
	g.t.Helper()
	req, err := http.NewRequestWithContext(g.t.Context(), http.MethodPost, g.env["MUSTER_HTTPS"]+"/.well-known/est/"+endpoint+"serverkeygen",
		strings.NewReader(toBase64(newDevice(g.t, name).csr)))
	if err != nil {
		g.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/pkcs10")
	if user != "" {
		req.SetBasicAuth(user, user+"-secret")
	}
	res, err := g.client(d).Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	a := &given{status: res.StatusCode}
	if a.status != http.StatusOK {
		a.text = string(body)
		return a, nil
	}
	_, params, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if err != nil {
		g.t.Fatal(err)
	}
	in := multipart.NewReader(bytes.NewReader(body), params["boundary"])
	part := func() []byte {
		g.t.Helper()
		p, err := in.NextRawPart()
		if err != nil {
			g.t.Fatal(err)
		}
		der, err := io.ReadAll(base64.NewDecoder(base64.StdEncoding, p))
		if err != nil {
			g.t.Fatal(err)
		}
		return der
	}
	key, err := x509.ParsePKCS8PrivateKey(part())
	if err != nil {
		g.t.Fatal(err)
	}
	certs, err := cms.ParseCertsOnly(part(), cms.Limits{})
	if err != nil || len(certs) != 1 {
		g.t.Fatalf("%d certificates, %v", len(certs), err)
	}
	a.key = key.(crypto.Signer)
	if a.cert, err = x509.ParseCertificate(certs[0]); err != nil {
		g.t.Fatal(err)
	}
	return a, nil
}

// bareKeys runs a gateway that makes keys, and names devices in their subjectAltName.
func bareKeys(t *testing.T) *instance {
	t.Helper()
	users := `{alice: "{sha256}` + sha256Hex("alice-secret") + `"}`
	config := strings.NewReplacer("          - client-certificate: {cas: [devices.pem], device: subject.commonName}\n", "", "names: {}", "names: {san: {dns: {}}}").
		Replace(keyMakingConfig(users))
	return configured(t, config, "kek.hex", fmt.Sprintf("%064d", 7))
}

// TestServerKeyGenCrashPoints kills the gateway or the CA's process at each named point of a delivery of a key that is not kept: the
// first one, another one in its place, and that of a request which was approved. In the end the device has the key of the one
// certificate that is valid, at the gateway and at the CA, and the audit trail tells of every certificate what became of it, once.
func TestServerKeyGenCrashPoints(t *testing.T) {
	t.Parallel()
	g := bareKeys(t)
	last := map[string]*given{} // by name
	for i, point := range append(append([]string(nil), gateway.CrashPoints...), local.CrashPoints...) {
		for d, delivery := range []string{"first", "another", "approved"} {
			if !long && (i+d)%3 != 0 { // each point, and each delivery, at least
				continue
			}
			t.Run(point+" "+delivery, func(t *testing.T) {
				g.t = t
				defer func() { g.again() }()
				endpoint, name := "", fmt.Sprintf("%s-%d", delivery, i)
				if delivery == "approved" {
					endpoint = "held/"
				}
				ask := func(want int) *given {
					t.Helper()
					a, err := g.keyAgain(endpoint, "alice", name, nil)
					if err != nil || a.status != want {
						t.Fatalf("%+v, %v", a, err)
					}
					return a
				}
				switch delivery {
				case "another":
					ask(http.StatusOK)
				case "approved":
					ask(http.StatusAccepted)
					g.muster("approve", g.held(name))
				}
				once := filepath.Join(t.TempDir(), "once")
				g.again("MUSTER_CRASH_AT="+point, "MUSTER_CRASH_ONCE="+once)
				a, err := g.keyAgain(endpoint, "alice", name, nil)
				if _, err := os.Stat(once); err != nil {
					t.Fatalf("the crash point was never passed: %v", err)
				}
				if strings.HasPrefix(point, "gateway.") {
					if err == nil {
						t.Errorf("a gateway that was killed at %s answered %+v", point, a)
					}
					<-g.exited
					g.again()
				} else if err != nil || a.status != http.StatusOK && a.status != http.StatusAccepted {
					t.Errorf("a CA process that was killed at %s cost the client its answer: %+v, %v", point, a, err)
				}
				g.settled()
				last[name] = ask(http.StatusOK)
			})
		}
	}
	if t.Failed() {
		return
	}
	g.t = t
	valid := func() (n int) {
		for name := range last {
			n += len(slices.DeleteFunc(g.ledger(name), func(e local.Entry) bool { return !e.RevokedAt.IsZero() }))
		}
		return n
	}
	for range 600 { // the CA is told of what was superseded a moment later
		if valid() == len(last) {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	revokedIn := map[string]bool{} // by transaction, of all names
	for name, got := range last {
		if key, ok := got.key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !key.Equal(got.cert.PublicKey) {
			t.Errorf("%s: the key is not the certificate's", name)
		}
		g.keyKeptNowhere(name, got.key)
		serial, valid := fmt.Sprintf("%x", got.cert.SerialNumber), 0
		revoked := map[string]bool{} // by transaction, as the CA has it
		for _, e := range g.ledger(name) {
			revoked[e.ID] = !e.RevokedAt.IsZero()
			if !revoked[e.ID] {
				valid++
			} else if e.Reason != 4 {
				t.Errorf("%s: revoked for reason %d", name, e.Reason)
			}
			if revoked[e.ID] == (e.Serial == serial) {
				t.Errorf("%s: %s at the CA, where the device has %s: revoked %t", name, e.Serial, serial, revoked[e.ID])
			}
		}
		if valid != 1 {
			t.Errorf("%s: %d certificates are valid at the CA", name, valid)
		}
		rows := g.transactions(name)
		for _, row := range rows {
			at, issued := revoked[row.ID]
			if row.State != "issued" || !issued || row.Certificate == nil || (row.Certificate.RevokedAt != nil) != at {
				t.Errorf("%s: %+v, at the CA issued %t, revoked %t", name, row, issued, at)
			}
			revokedIn[row.ID] = at
		}
		if len(rows) != len(revoked) {
			t.Errorf("%s: %d transactions, %d certificates", name, len(rows), len(revoked))
		}
	}
	g.stop()
	told := g.auditTrail()
	for id, revoked := range revokedIn {
		want := map[string]int{"issued": 1}
		if revoked {
			want["revocation-ordered"], want["revoked"] = 1, 1
		}
		for _, kind := range []string{"issued", "revocation-ordered", "revoked", "failed", "stuck"} {
			if told[id][kind] != want[kind] {
				t.Errorf("%s: %q %d times in the audit trail, want %d", id, kind, told[id][kind], want[kind])
			}
		}
	}
}

// Who may not ask any more gets no other key, and nobody's certificate revoked: the certificate that a device renewed with was
// revoked, the password is another one. Nor does a stranger, whoever saw the request.
func TestServerKeyGenAgainByWhoMayNot(t *testing.T) {
	g := bareKeys(t)
	ask := func(user string, d *device, want int) *given {
		t.Helper()
		a, err := g.keyAgain("", user, "station", d)
		if err != nil || a.status != want {
			t.Fatalf("%+v, %v", a, err)
		}
		return a
	}
	valid := func(of *given, want bool) {
		t.Helper()
		for _, e := range g.transactions("station") {
			if c := e.Certificate; c != nil && c.Serial == fmt.Sprintf("%x", of.cert.SerialNumber) && (c.RevokedAt == nil) != want {
				t.Errorf("%s: valid %t", c.Serial, !want)
			}
		}
	}
	first := ask("alice", nil, http.StatusOK)
	own := &device{key: first.key, cert: first.cert}
	renewed := ask("", own, http.StatusOK)
	again := ask("", own, http.StatusOK)
	valid(renewed, false)
	valid(again, true)
	// The new one has another requester: it does not take the place of the one that it renews, nor that of its own.
	newer := ask("", &device{key: again.key, cert: again.cert}, http.StatusOK)
	valid(again, true)
	g.muster("revoke", fmt.Sprintf("%x", own.cert.SerialNumber), "--reason", "keyCompromise")
	ask("", own, http.StatusForbidden)
	ask("mallory", nil, http.StatusUnauthorized)
	ask("", nil, http.StatusUnauthorized)
	valid(again, true)
	valid(newer, true)
}
