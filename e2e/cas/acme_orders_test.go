//go:build cas

package cas

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/backends/acme"
	"github.com/muster-pki/muster/e2e/running"
	"github.com/muster-pki/muster/plugins/backend"
)

// backend is the backend itself, in this process, before pebble. Those of one test have the same account.
func (p *pebble) backend(files *running.Gateway, proves string) *acme.CA {
	files.T.Helper()
	ca := acme.New(acme.Options{})
	config := fmt.Sprintf("url: https://%s/dir\nca: %q\nchain: %q\naccount-key: %q\nterms-agreed: true\nexternal-account: {kid: kid-1, key: %q}\n%s\n",
		p.directory, files.File("ops-ca.pem"), files.File("chain.pem"), files.File("account.pem"), files.File("eab.key"), proves)
	if err := ca.Configure(files.T.Context(), []byte(config)); err != nil {
		files.T.Fatal(err)
	}
	return ca
}

// serverRequest is a CSR of a key of its own, and what is granted for it.
func serverRequest(t *testing.T, names []string, addresses ...net.IP) *backend.IssueRequest {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: names, IPAddresses: addresses}, key)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	return &backend.IssueRequest{ID: strings.Join(names, ","), CSR: der, Template: backend.Template{
		Subject: csr.RawSubject, PublicKey: csr.RawSubjectPublicKeyInfo, SubjectAltName: csr.Extensions[0].Value,
		NotBefore: time.Now(), NotAfter: time.Now().Add(90 * 24 * time.Hour),
	}}
}

// polled polls until stop, or there is a certificate. 30 % of pebble's nonces are bad.
func polled(t *testing.T, ca *acme.CA, r *backend.IssueRequest, ticket string, stop func(ticket string) bool) *backend.Issuance {
	t.Helper()
	a := &backend.Issuance{Ticket: ticket}
	for range 300 {
		if a.Certificate != nil || stop != nil && stop(a.Ticket) {
			return a
		}
		next, err := ca.Poll(t.Context(), r, a.Ticket)
		switch code := status.Code(err); {
		case err == nil:
			a = next
		case code != codes.Unavailable && code != codes.ResourceExhausted:
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("%s: no end", r.ID)
	return nil
}

// Pebble: names proven in the DNS, wildcards, addresses, several names in one order, two finalizations at once, and an order that it does not have.
func TestACMEPebbleOrders(t *testing.T) {
	files := &running.Gateway{T: t, Dir: t.TempDir()}
	files.Sh(raFiles)
	p := startPebble(t, files)
	files.Write("eab.key", "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W\n")
	files.Sh("chmod 600 eab.key; mkdir txt")
	byHTTP := p.backend(files, fmt.Sprintf("http-01: {dir: %q}", p.answers))
	// A name and its wildcard have one record, and two values (RFC 8555 section 8.4).
	byDNS := p.backend(files, fmt.Sprintf(`env: {TXT: %q}
dns-01:
  present: [/bin/sh, -c, 'mkdir -p "$TXT/$ACME_RECORD" && : > "$TXT/$ACME_RECORD/$ACME_VALUE"']
  cleanup: [/bin/sh, -c, 'rm -f "$TXT/$ACME_RECORD/$ACME_VALUE"']`, p.txt))

	for what, test := range map[string]struct {
		ca        *acme.CA
		names     []string
		addresses []net.IP
	}{
		"a wildcard, and its domain (RFC 8555 section 7.1.3)":  {byDNS, []string{"*.wild.example.test", "wild.example.test"}, nil},
		"several names, by dns-01":                             {byDNS, []string{"one.example.test", "two.example.test", "three.example.test"}, nil},
		"an address (RFC 8738 section 3)":                      {byHTTP, nil, []net.IP{{127, 0, 0, 1}}},
		"names and an address in one order (RFC 8738, 4 to 7)": {byHTTP, []string{"one.example.test", "two.example.test"}, []net.IP{{127, 0, 0, 1}}},
	} {
		before := len(p.issued(""))
		r := serverRequest(t, test.names, test.addresses...)
		a, err := test.ca.Issue(t.Context(), r)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		leaf, err := x509.ParseCertificate(polled(t, test.ca, r, a.Ticket, nil).Certificate)
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(leaf.DNSNames)
		slices.Sort(test.names)
		if !slices.Equal(leaf.DNSNames, test.names) || !slices.EqualFunc(leaf.IPAddresses, test.addresses, net.IP.Equal) || len(p.issued("")) != before+1 {
			t.Errorf("%s: %v %v; %d certificates", what, leaf.DNSNames, leaf.IPAddresses, len(p.issued(""))-before)
		}
	}
	for _, left := range []string{filepath.Join(p.txt, "*", "*"), filepath.Join(p.answers, "*")} {
		if files, err := filepath.Glob(left); err != nil || len(files) > 0 {
			t.Errorf("answers to challenges stay: %v, %v", files, err)
		}
	}
	if made, err := os.ReadDir(p.txt); err != nil || len(made) != 4 {
		t.Errorf("%d records were made, %v", len(made), err)
	}
	// Refused before the CA is asked: no way to prove them is configured.
	if _, err := byHTTP.Issue(t.Context(), serverRequest(t, []string{"*.wild.example.test"})); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a wildcard by http-01 (RFC 8555 section 8.3): %v", err)
	}
	if _, err := byDNS.Issue(t.Context(), serverRequest(t, nil, net.IP{127, 0, 0, 1})); status.Code(err) != codes.InvalidArgument {
		t.Errorf("an address by dns-01 (RFC 8738 section 7): %v", err)
	}

	// Two replicas that finalize at once, and again and again: one certificate (RFC 8555 section 7.4, orderNotReady).
	replicas := []*acme.CA{byHTTP, p.backend(files, fmt.Sprintf("http-01: {dir: %q}", p.answers))}
	r, before := serverRequest(t, []string{"twice.example.test"}), len(p.issued(""))
	a, err := byHTTP.Issue(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	order := a.Ticket
	a = polled(t, byHTTP, r, a.Ticket, func(ticket string) bool { return ticket != order })
	if len(p.issued("")) != before {
		t.Error("it was finalized under a ticket that does not say so")
	}
	var all sync.WaitGroup
	got := make([][]byte, 8)
	for i := range got {
		all.Go(func() { got[i] = polled(t, replicas[i%2], r, a.Ticket, nil).Certificate })
	}
	all.Wait()
	for _, leaf := range got {
		if leaf == nil || !bytes.Equal(leaf, got[0]) {
			t.Error("another certificate, or none")
		}
	}
	if n := len(p.issued("")) - before; n != 1 {
		t.Errorf("%d certificates of one order", n)
	}

	// An order that pebble has not, or has not any more.
	if _, err := byHTTP.Poll(t.Context(), r, order+"-swept"); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "nothing was issued") {
		t.Errorf("never finalized: %v", err)
	}
	if _, err := byHTTP.Poll(t.Context(), r, strings.Replace(a.Ticket, order, order+"-swept", 1)); status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "muster settle") {
		t.Errorf("perhaps finalized: %v", err)
	}
}
