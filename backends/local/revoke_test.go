package local

import (
	"bytes"
	"crypto/x509"
	"math/big"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
	"google.golang.org/grpc/codes"
)

// crl gets the issuer's CRL and checks it: signature, profile (RFC 5280 section 5), and what openssl says.
func crl(t testing.TB, c *CA, issuer string) *x509.RevocationList {
	t.Helper()
	var b bytes.Buffer
	if err := c.CRL(t.Context(), issuer, &b); err != nil {
		t.Fatal(err)
	}
	list, err := x509.ParseRevocationList(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	ca := c.open.Load().issuer(issuer)
	if err := list.CheckSignatureFrom(ca.cert); err != nil {
		t.Error(err)
	}
	if !bytes.Equal(list.AuthorityKeyId, ca.cert.SubjectKeyId) || list.Number == nil || len(list.Extensions) != 2 {
		t.Errorf("AKI %x, number %v, %d extensions", list.AuthorityKeyId, list.Number, len(list.Extensions))
	}
	if text := openssl(t, "crl", "-noout", "-text", "-in", pemFile(t, "X509 CRL", b.Bytes()), "-CAfile", pemFile(t, "CERTIFICATE", ca.chain...)); !strings.Contains(text, "verify OK") || !strings.Contains(text, "Version 2 (0x1)") {
		t.Errorf("openssl says %s", text)
	}
	return list
}

func revoke(t testing.TB, c *CA, x *x509.Certificate, reason int, at time.Time) {
	t.Helper()
	if err := c.Revoke(t.Context(), &backend.RevokeRequest{Issuer: x.RawIssuer, Serial: x.SerialNumber.Bytes(), Reason: reason, At: at}); err != nil {
		t.Fatal(err)
	}
}

func TestRevoke(t *testing.T) {
	dir := standing(t)
	c := open(t, dir, Options{})
	var leaves []*x509.Certificate
	for _, id := range []string{"a", "b", "c"} {
		leaves = append(leaves, issue(t, c, request(t, id)))
	}
	empty := crl(t, c, "")
	if len(empty.RevokedCertificateEntries) != 0 || !empty.ThisUpdate.Equal(now) || !empty.NextUpdate.Equal(now.Add(7*day)) {
		t.Errorf("%d entries, from %s to %s", len(empty.RevokedCertificateEntries), empty.ThisUpdate, empty.NextUpdate)
	}
	if again := crl(t, c, IssuerEC); !bytes.Equal(again.Raw, empty.Raw) {
		t.Error("another CRL, though nothing happened")
	}
	revoke(t, c, leaves[1], 1, now.Add(-time.Minute))
	revoke(t, c, leaves[1], 4, now) // the first revocation stands
	revoke(t, c, leaves[2], 0, now.Add(time.Hour))
	list := crl(t, c, IssuerEC)
	if list.Number.Cmp(empty.Number) <= 0 {
		t.Errorf("number %s after %s", list.Number, empty.Number)
	}
	if len(list.RevokedCertificateEntries) != 2 {
		t.Fatalf("%d entries", len(list.RevokedCertificateEntries))
	}
	for i, wanted := range []struct {
		leaf       *x509.Certificate
		reason     int
		at         time.Time
		extensions int // RFC 5280 section 5.3.1: unspecified is left out
	}{{leaves[1], 1, now.Add(-time.Minute), 1}, {leaves[2], 0, now, 0}} {
		e := list.RevokedCertificateEntries[i]
		if e.SerialNumber.Cmp(wanted.leaf.SerialNumber) != 0 || e.ReasonCode != wanted.reason || !e.RevocationTime.Equal(wanted.at) || len(e.Extensions) != wanted.extensions {
			t.Errorf("entry %d: %s, reason %d, at %s", i, e.SerialNumber, e.ReasonCode, e.RevocationTime)
		}
	}
	entries := rows(t, dir)
	if !entries[0].RevokedAt.IsZero() || !entries[1].RevokedAt.Equal(now.Add(-time.Minute)) || entries[1].Reason != 1 || !entries[2].RevokedAt.Equal(now) {
		t.Errorf("rows %+v", entries)
	}
	if n := len(crl(t, c, IssuerRSA).RevokedCertificateEntries); n != 0 {
		t.Errorf("%d entries on the other issuer's CRL", n)
	}
	crlFile := pemFile(t, "X509 CRL", list.Raw)
	for i, says := range []string{": OK", "certificate revoked", "certificate revoked"} {
		args := []string{"verify", "-x509_strict", "-crl_check", "-attime", strconv.FormatInt(now.Add(time.Minute).Unix(), 10), "-CRLfile", crlFile,
			"-CAfile", filepath.Join(dir, rootsFile), "-untrusted", pemFile(t, "CERTIFICATE", c.open.Load().issuers[0].cert.Raw), pemFile(t, "CERTIFICATE", leaves[i].Raw)}
		if out := opensslFails(t, i > 0, args...); !strings.Contains(out, says) {
			t.Errorf("leaf %d: openssl says %s", i, out)
		}
	}
	// A revocation outlives the process that recorded it, and so does the CRL.
	shut(t, c)
	if again := crl(t, open(t, dir, Options{}), IssuerEC); !bytes.Equal(again.Raw, list.Raw) {
		t.Error("another CRL after a restart")
	}
}

func TestRevokeRefused(t *testing.T) {
	c := open(t, standing(t), Options{})
	leaf := issue(t, c, request(t, "a"))
	root := c.open.Load().issuers[0].root
	for what, x := range map[string]struct {
		q    backend.RevokeRequest
		code codes.Code
	}{
		"unknown serial":      {backend.RevokeRequest{Issuer: leaf.RawIssuer, Serial: []byte{1}}, codes.NotFound},
		"no serial":           {backend.RevokeRequest{Issuer: leaf.RawIssuer}, codes.NotFound},
		"the other issuer's":  {backend.RevokeRequest{Issuer: c.open.Load().issuers[1].cert.RawSubject, Serial: leaf.SerialNumber.Bytes()}, codes.NotFound},
		"unknown issuer":      {backend.RevokeRequest{Issuer: []byte{0x30, 0}, Serial: leaf.SerialNumber.Bytes()}, codes.NotFound},
		"the issuing CA":      {backend.RevokeRequest{Issuer: root.RawSubject, Serial: c.open.Load().issuers[0].cert.SerialNumber.Bytes()}, codes.NotFound},
		"reason 7":            {backend.RevokeRequest{Issuer: leaf.RawIssuer, Serial: leaf.SerialNumber.Bytes(), Reason: 7}, codes.InvalidArgument},
		"taken off the CRL":   {backend.RevokeRequest{Issuer: leaf.RawIssuer, Serial: leaf.SerialNumber.Bytes(), Reason: 8}, codes.InvalidArgument},
		"reason out of range": {backend.RevokeRequest{Issuer: leaf.RawIssuer, Serial: leaf.SerialNumber.Bytes(), Reason: -1}, codes.InvalidArgument},
	} {
		t.Run(what, func(t *testing.T) { want(t, c.Revoke(t.Context(), &x.q), x.code) })
	}
	if n := len(crl(t, c, "").RevokedCertificateEntries); n != 0 {
		t.Errorf("%d entries", n)
	}
	// A leading zero, as the content octets of a DER INTEGER may have, is no other number.
	if err := c.Revoke(t.Context(), &backend.RevokeRequest{Issuer: leaf.RawIssuer, Serial: append([]byte{0}, leaf.SerialNumber.Bytes()...)}); err != nil {
		t.Error(err)
	}
	if list := crl(t, c, ""); len(list.RevokedCertificateEntries) != 1 || !list.RevokedCertificateEntries[0].RevocationTime.Equal(now) {
		t.Errorf("entries %+v", list.RevokedCertificateEntries)
	}
	want(t, c.CRL(t.Context(), "dsa", &bytes.Buffer{}), codes.NotFound)
}

// TestCRLRenewal: a CRL is kept for half of its validity, and its number only grows, across restarts too.
func TestCRLRenewal(t *testing.T) {
	dir := standing(t)
	clock := now
	start := func() *CA {
		return open(t, dir, Options{Clock: func() time.Time { return clock }}, "crl-validity: 10h")
	}
	c := start()
	first := crl(t, c, "")
	if first.Number.Cmp(big.NewInt(1)) != 0 || !first.NextUpdate.Equal(now.Add(10*time.Hour)) {
		t.Errorf("number %s, next update %s", first.Number, first.NextUpdate)
	}
	clock = now.Add(5*time.Hour - time.Second)
	if again := crl(t, c, ""); again.Number.Cmp(first.Number) != 0 {
		t.Errorf("number %s within half of the validity", again.Number)
	}
	clock = now.Add(5 * time.Hour)
	second := crl(t, c, "")
	if second.Number.Cmp(big.NewInt(2)) != 0 || !second.ThisUpdate.Equal(clock) {
		t.Errorf("number %s of %s after half of the validity", second.Number, second.ThisUpdate)
	}
	shut(t, c)
	clock = clock.Add(-3 * time.Hour) // a clock that was set back: a CRL from the future is no use
	c = start()
	if third := crl(t, c, ""); third.Number.Cmp(big.NewInt(3)) != 0 || !third.ThisUpdate.Equal(clock) {
		t.Errorf("number %s of %s with the clock set back", third.Number, third.ThisUpdate)
	}
}

// TestExpiredLeaveTheCRL: an entry stays until it was on one CRL made after its certificate's end (RFC 5280 section 3.3).
func TestExpiredLeaveTheCRL(t *testing.T) {
	clock := now
	c := open(t, standing(t), Options{Clock: func() time.Time { return clock }})
	q := request(t, "short")
	q.Template.NotAfter = now.Add(time.Hour)
	short, long, late := issue(t, c, q), issue(t, c, request(t, "long")), request(t, "late")
	late.Template.NotAfter = now.Add(time.Hour)
	lateLeaf := issue(t, c, late)
	revoke(t, c, short, 4, now)
	revoke(t, c, long, 4, now)
	listed := func(n int) {
		t.Helper()
		if list := crl(t, c, ""); len(list.RevokedCertificateEntries) != n {
			t.Errorf("%s: %d entries, want %d", clock, len(list.RevokedCertificateEntries), n)
		}
	}
	listed(2)
	clock = now.Add(4 * day)
	listed(2) // the first one after the end: it appears once more
	clock = now.Add(8 * day)
	listed(1)
	// Revoked after its end, it still appears once.
	revoke(t, c, lateLeaf, 1, clock)
	listed(2)
	clock = now.Add(12 * day)
	listed(1)
}

// TestRevokeWhileMakingCRL: a revocation that comes while a CRL is made is on the next one, which is made at once.
func TestRevokeWhileMakingCRL(t *testing.T) {
	c := open(t, standing(t), Options{})
	r := c.open.Load()
	leaf := issue(t, c, request(t, "a"))
	s, err := r.ledger.crlState(t.Context(), "ec.1")
	if err != nil {
		t.Fatal(err)
	}
	revoke(t, c, leaf, 1, now) // between the look at the state and the CRL's record
	der, err := r.makeCRL(t.Context(), &crlScope{issuer: r.issuers[0], key: r.issuers[0].generation}, s, now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.makeCRL(t.Context(), &crlScope{issuer: r.issuers[0], key: r.issuers[0].generation}, s, now); err == nil {
		t.Error("two CRLs with one number")
	}
	if list, err := x509.ParseRevocationList(der); err != nil || len(list.RevokedCertificateEntries) != 1 {
		t.Errorf("the CRL: %v", err)
	}
	if list := crl(t, c, ""); list.Number.Int64() != 2 || len(list.RevokedCertificateEntries) != 1 {
		t.Errorf("number %s, %d entries", list.Number, len(list.RevokedCertificateEntries))
	}
}
