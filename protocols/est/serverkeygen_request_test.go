package est

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway"
)

// What a request for a key asks for besides is passed on as that of /simpleenroll: the pipeline judges it, and explain tells how the
// key is to travel.
func TestServerKeyGenPassesOn(t *testing.T) {
	w := keyWorld(t, newP256())
	client := w.client(nil, nil, func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS13, tls.VersionTLS13 })
	own := channelBinding(send(t, client, w.request(http.MethodGet, root+"/cacerts", nil)).TLS)
	change := changeSubject(nameDER("device-0002"), nil, false)
	send(t, client, w.keyRequest(csrOptions{san: []string{"a.example"}, attributes: [][]byte{attribute(oidChangeSubjectName, change), attribute(oidChallengePassword, printable(own))}}))
	r := w.gateway.lastEnrolled(t)
	if _, ok := r.Extension(oidSubjectAltName); !ok || r.NewNames == nil || string(r.NewNames.Subject) != string(nameDER("device-0002")) {
		t.Errorf("extensions %v, new names %+v", r.Extensions, r.NewNames)
	}
	notes := strings.Join(r.Notes, "\n")
	for _, want := range []string{"/serverkeygen", "a key is to be made, and to travel under TLS alone", "the request is bound to the connection"} {
		if !strings.Contains(notes, want) {
			t.Errorf("no %q in %q", want, notes)
		}
	}
	if r.POP != gateway.POPNone {
		t.Errorf("possession by %s of a key that is not there yet", r.POP)
	}
}

// What an RA passes on is an enrollment, whatever its own certificate is.
func TestServerKeyGenByRA(t *testing.T) {
	w := keyWorld(t, newP256())
	w.gateway.issued = func(*x509.Certificate) (bool, error) { return true, nil }
	cert, key := w.device("device-0001")
	w.gateway.ra = func(string, gateway.Credential, bool) *gateway.Error { return nil }
	foreign := channelBinding(send(t, w.client(nil, nil, nil), w.request(http.MethodGet, root+"/cacerts", nil)).TLS)
	for relayed, o := range map[bool]csrOptions{false: {}, true: {attributes: [][]byte{attribute(oidChallengePassword, printable(foreign))}}} {
		o.key = newP256()
		send(t, w.client(cert, key, nil), w.enrollment(root+"/serverkeygen", b64(makeCSR(t, o))))
		r := w.gateway.lastEnrolled(t)
		if r.Relayed != relayed || (r.Operation == gateway.Enroll) != relayed || (r.OldCert == nil) != relayed {
			t.Errorf("relayed %t: %s, relayed %t", relayed, r.Operation, r.Relayed)
		}
		if noted := strings.Contains(strings.Join(r.Notes, "\n"), "as an RA passes it on"); noted != relayed {
			t.Errorf("relayed %t: %q", relayed, r.Notes)
		}
	}
}

// A key in the clear is erased once it is sent.
func TestServerKeyGenWipes(t *testing.T) {
	w := keyWorld(t, newP256())
	var given []byte
	made := w.gateway.enroll
	w.gateway.enroll = func(r *gateway.Request) (*gateway.Result, error) {
		res, err := made(r)
		if err == nil {
			given = res.Key
		}
		return res, err
	}
	r := w.keyRequest(csrOptions{})
	r.TLS = &tls.ConnectionState{Version: tls.VersionTLS13}
	out := httptest.NewRecorder()
	w.handler.serve(out, r, func(string) bool { return true })
	if out.Code != http.StatusOK || len(given) == 0 || !bytes.Equal(given, make([]byte, len(given))) {
		t.Errorf("%d: %d bytes of the key stay", out.Code, len(given))
	}
}
