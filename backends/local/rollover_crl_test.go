package local

import (
	"bytes"
	"crypto/x509"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
	"google.golang.org/grpc/codes"
)

// TestRolloverEnds: what is left of a generation goes a CRL's validity after its last certificate has expired.
func TestRolloverEnds(t *testing.T) {
	clock := now
	dir := standing(t)
	start := func() *CA { return open(t, dir, Options{Clock: func() time.Time { return clock }}) }
	c := start()
	q := request(t, "short")
	q.Template.NotAfter = now.Add(30 * day)
	short := issue(t, c, q)
	roll(t, c, backend.RolloverRequest{ID: "roll", Kind: backend.RolloverRekey, Root: true})
	look := func(rollover int, crls ...string) {
		t.Helper()
		for range 2 {
			cas, err := c.CACertificates(t.Context())
			if err != nil || len(cas[0].Rollover) != rollover || !slices.Equal(cas[0].CRLs, crls) {
				t.Errorf("%s: %d rollover certificates, CRLs %q, %v", clock, len(cas[0].Rollover), cas[0].CRLs, err)
			}
			shut(t, c)
			c = start()
		}
	}
	look(4, "ec", "ec.2", "ec.1")
	revoke(t, c, short, 1, now)
	clock = now.Add(30 * day) // the last second
	look(4, "ec", "ec.2", "ec.1")
	clock = clock.Add(7 * day) // and a CRL's validity, for which the CRL has to be verified
	look(4, "ec", "ec.2", "ec.1")
	// A revoked certificate appears once after its end: on its own key's CRL, and on the new one's as long as that is made.
	// The new one's does not take it off before that.
	for _, name := range []string{"ec", "ec.1"} {
		if l := crlOf(t, c, name); len(l.RevokedCertificateEntries) != 1 {
			t.Errorf("CRL %s: %d entries", name, len(l.RevokedCertificateEntries))
		}
	}
	clock = clock.Add(time.Second)
	look(0, "ec", "ec.2")
	if roots, err := os.ReadFile(filepath.Join(dir, rootsFile)); err != nil || bytes.Count(roots, []byte("BEGIN")) != 2 {
		t.Errorf("roots.pem holds %d roots, %v", bytes.Count(roots, []byte("BEGIN")), err)
	}
	err := c.CRL(t.Context(), "ec.1", &bytes.Buffer{})
	want(t, err, codes.NotFound)
	want(t, c.CRL(t.Context(), "ec.3", &bytes.Buffer{}), codes.NotFound)
}

// crlOf gets a CRL by its name.
func crlOf(t testing.TB, c *CA, name string) *x509.RevocationList {
	t.Helper()
	var b bytes.Buffer
	if err := c.CRL(t.Context(), name, &b); err != nil {
		t.Fatal(err)
	}
	l, err := x509.ParseRevocationList(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestRevokeAcrossGenerations: both keys' CRLs list what was revoked under either, signed by their own.
func TestRevokeAcrossGenerations(t *testing.T) {
	dir := standing(t)
	c := open(t, dir, Options{}, `issuers: {ec: {crl: ["http://pki.test/crl/local/{name}.crl"]}}`)
	old := c.open.Load().issuers[0].generation
	good, bad := issue(t, c, request(t, "good")), issue(t, c, request(t, "bad"))
	revoke(t, c, bad, 1, now)
	if n := len(crlOf(t, c, "ec.1").RevokedCertificateEntries); n != 1 {
		t.Fatalf("%d entries", n)
	}
	ca := roll(t, c, backend.RolloverRequest{ID: "roll", Kind: backend.RolloverRekey})
	issuing := parsed(t, ca.Chain[0])
	next, worse := issue(t, c, request(t, "next")), issue(t, c, request(t, "worse"))
	lists := func(entries int) (files map[string]string) {
		t.Helper()
		files = map[string]string{}
		for name, by := range map[string]*x509.Certificate{"ec.1": old.cert, "ec.2": issuing, "ec": issuing, "": issuing} {
			l := crlOf(t, c, name)
			if err := l.CheckSignatureFrom(by); err != nil || !bytes.Equal(l.AuthorityKeyId, by.SubjectKeyId) || len(l.RevokedCertificateEntries) != entries {
				t.Errorf("CRL %q: %d entries, %v", name, len(l.RevokedCertificateEntries), err)
			}
			files[name] = pemFile(t, "X509 CRL", l.Raw)
		}
		return files
	}
	lists(1)
	revoke(t, c, worse, 1, now)
	lists(2)
	late := issue(t, c, request(t, "late"))
	shut(t, c)
	c = open(t, dir, Options{}, `issuers: {ec: {crl: ["http://pki.test/crl/local/{name}.crl"]}}`)
	revoke(t, c, good, 4, now) // of generation 1, after the rollover: issuer and serial alone lead to it
	files := lists(3)
	for _, x := range []struct {
		leaf      *x509.Certificate
		by        *x509.Certificate
		name, url string
		ok        bool
	}{
		{bad, old.cert, "ec.1", "http://pki.test/crl/local/ec.1.crl", false}, {good, old.cert, "ec.1", "http://pki.test/crl/local/ec.1.crl", false},
		{next, issuing, "ec.2", "http://pki.test/crl/local/ec.2.crl", true}, {worse, issuing, "ec.2", "http://pki.test/crl/local/ec.2.crl", false},
		{late, issuing, "ec.2", "http://pki.test/crl/local/ec.2.crl", true},
	} {
		if !slices.Equal(x.leaf.CRLDistributionPoints, []string{x.url}) {
			t.Errorf("%s: CRL at %q", x.leaf.Subject, x.leaf.CRLDistributionPoints)
		}
		out := opensslVerifies(t, x.ok, old.root, [][]byte{old.cert.Raw, issuing.Raw}, x.leaf.Raw, "-crl_check", "-CRLfile", files["ec.1"], "-CRLfile", files["ec.2"])
		if !x.ok && !strings.Contains(out, "certificate revoked") {
			t.Errorf("openssl says %s", out)
		}
	}
	if n := len(rows(t, dir)); n != 5 {
		t.Errorf("%d rows", n)
	}
}
