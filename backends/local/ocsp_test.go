package local

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	_ "crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
	"golang.org/x/crypto/ocsp"
	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/plugins/backend"
)

// question is an OCSP request about a certificate.
func question(t testing.TB, leaf, ca *x509.Certificate, hash crypto.Hash) []byte {
	t.Helper()
	der, err := ocsp.CreateRequest(leaf, ca, &ocsp.RequestOptions{Hash: hash})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// ask has a CA answer, and Go's client judge the answer.
func ask(t testing.TB, c *CA, name string, leaf, ca *x509.Certificate, hash crypto.Hash) *ocsp.Response {
	t.Helper()
	der, err := c.OCSP(t.Context(), name, question(t, leaf, ca, hash))
	if err != nil {
		t.Fatal(err)
	}
	got, err := ocsp.ParseResponseForCert(der, leaf, ca)
	if err != nil {
		t.Fatal(err)
	}
	if got.SerialNumber.Cmp(leaf.SerialNumber) != 0 || got.IssuerHash != hash {
		t.Errorf("an answer about %x by %v", got.SerialNumber, got.IssuerHash)
	}
	return got
}

// refuses wants an unsigned answer with the status, without anything having been signed.
func refuses(t testing.TB, c *CA, what, name string, request []byte, status ocsp.ResponseStatus) {
	t.Helper()
	before := c.open.Load().ocsp.signed.Load()
	der, err := c.OCSP(t.Context(), name, request)
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	if _, err := ocsp.ParseResponse(der, nil); err != (ocsp.ResponseError{Status: status}) {
		t.Errorf("%s: %v", what, err)
	}
	if after := c.open.Load().ocsp.signed.Load(); after != before {
		t.Errorf("%s: %d signatures", what, after-before)
	}
}

func TestOCSP(t *testing.T) {
	clock := now
	c := open(t, standing(t), Options{Clock: func() time.Time { return clock }})
	signed := func() int64 { return c.open.Load().ocsp.signed.Load() }
	for _, name := range []string{IssuerEC, IssuerRSA} {
		q := request(t, "ocsp-"+name)
		q.Issuer = name
		leaf, ca := issue(t, c, q), c.open.Load().issuer(name).cert
		got := ask(t, c, name, leaf, ca, crypto.SHA1)
		if got.Status != ocsp.Good || !got.ThisUpdate.Equal(clock) || !got.NextUpdate.Equal(clock.Add(day)) || !got.ProducedAt.Equal(clock) {
			t.Errorf("%s: %+v", name, got)
		}
		// RFC 6960 section 4.2.2.2: delegated by the key itself, and not to be asked about.
		by := got.Certificate
		if by == nil || by.CheckSignatureFrom(ca) != nil || !slices.Equal(by.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}) || by.IsCA ||
			by.KeyUsage != x509.KeyUsageDigitalSignature || by.NotAfter.Sub(clock) != responderLife ||
			!slices.ContainsFunc(by.Extensions, func(e pkix.Extension) bool {
				return e.Id.Equal(oidOCSPNoCheck) && !e.Critical && bytes.Equal(e.Value, []byte{5, 0})
			}) {
			t.Errorf("%s: the responder's certificate: %+v", name, by)
		}
		_, isRSA := by.PublicKey.(*rsa.PublicKey)
		if isRSA != (name == IssuerRSA) {
			t.Errorf("%s: a responder's key of type %T", name, by.PublicKey)
		}
		was := signed()
		if again := ask(t, c, name, leaf, ca, crypto.SHA1); !bytes.Equal(again.Signature, got.Signature) || signed() != was {
			t.Errorf("%s: it was signed again", name)
		}
		if other := ask(t, c, name+".1", leaf, ca, crypto.SHA256); other.Status != ocsp.Good || signed() != was+1 {
			t.Errorf("%s: by SHA-256: %v, %d signatures", name, other.Status, signed()-was)
		}
		revoke(t, c, leaf, 1, now)
		for _, hash := range []crypto.Hash{crypto.SHA1, crypto.SHA256} {
			if got := ask(t, c, name, leaf, ca, hash); got.Status != ocsp.Revoked || got.RevocationReason != 1 || !got.RevokedAt.Equal(now) {
				t.Errorf("%s: revoked: %+v", name, got)
			}
		}
	}
}

// TestOCSPRefuses: what gets an answer without a signature (RFC 5019 sections 2.1.1, 2.2.3).
func TestOCSPRefuses(t *testing.T) {
	clock := now
	c := open(t, standing(t), Options{Clock: func() time.Time { return clock }})
	leaf, ec, rsaCA := issue(t, c, request(t, "a")), c.open.Load().issuer(IssuerEC).cert, c.open.Load().issuer(IssuerRSA).cert
	good := question(t, leaf, ec, crypto.SHA1)
	stranger := *leaf
	stranger.SerialNumber = big.NewInt(12345)
	for what, request := range map[string][]byte{
		"a serial number of nobody's": question(t, &stranger, ec, crypto.SHA1),
		"another CA's":                question(t, leaf, rsaCA, crypto.SHA1),
		"a root's":                    question(t, ec, c.open.Load().issuer(IssuerEC).root, crypto.SHA1),
		"a hash that is not taken":    question(t, leaf, ec, crypto.SHA512),
		"two certificates":            twice(t, good),
		"a critical extension":        withExtension(t, good, "1.2.3.4", true, []byte{5, 0}),
	} {
		refuses(t, c, what, IssuerEC, request, ocsp.Unauthorized)
	}
	refuses(t, c, "the other CA's path", IssuerRSA, good, ocsp.Unauthorized)
	for what, request := range map[string][]byte{
		"nothing": nil, "garbage": []byte("GET /"), "cut": good[:len(good)-1], "more behind": append(slices.Clone(good), 0),
		"no certificate":  {0x30, 4, 0x30, 2, 0x30, 0},
		"a nonce of none": withExtension(t, good, "1.3.6.1.5.5.7.48.1.2", false, []byte{4, 0}),
		"a long nonce":    withExtension(t, good, "1.3.6.1.5.5.7.48.1.2", false, append([]byte{4, 0x81, 129}, make([]byte, 129)...)),
	} {
		refuses(t, c, what, IssuerEC, request, ocsp.Malformed)
	}
	_, err := c.OCSP(t.Context(), "none", good)
	want(t, err, codes.NotFound)
	if got := ask(t, c, "", leaf, ec, crypto.SHA1); got.Status != ocsp.Good {
		t.Errorf("the default CA's: %+v", got)
	}
	clock = leaf.NotAfter
	if got := ask(t, c, "", leaf, ec, crypto.SHA1); got.Status != ocsp.Good {
		t.Errorf("in its last second: %+v", got)
	}
	// Kept for half a validity more, all the same not given for a certificate that has expired.
	clock = clock.Add(12 * time.Hour)
	refuses(t, c, "expired", IssuerEC, good, ocsp.Unauthorized)
	shut(t, c)
	_, err = c.OCSP(t.Context(), "", good)
	want(t, err, codes.Unavailable)
}

// TestOCSPTimes: an answer stands for half of its validity, the responder's certificate for as long as answers fit into it.
func TestOCSPTimes(t *testing.T) {
	clock := now
	c := open(t, standing(t), Options{Clock: func() time.Time { return clock }}, "ocsp: {validity: 2d}")
	q := request(t, "a")
	leaf, ca := issue(t, c, q), c.open.Load().issuer(IssuerEC).cert
	first := ask(t, c, "ec", leaf, ca, crypto.SHA1)
	for _, step := range []struct {
		at             time.Duration
		again, another bool // a new answer; of another responder
	}{
		{day - time.Second, false, false}, {day, true, false}, {4*day - time.Second, true, false},
		{-time.Hour, true, false}, // the clock was wrong
		{5 * day, true, true},
	} {
		clock = now.Add(step.at)
		got := ask(t, c, "ec", leaf, ca, crypto.SHA1)
		if again := !bytes.Equal(got.Signature, first.Signature); again != step.again {
			t.Errorf("after %s: signed again: %t", step.at, again)
		}
		if another := !got.Certificate.Equal(first.Certificate); another != step.another {
			t.Errorf("after %s: another responder: %t", step.at, another)
		}
		if step.again && (!got.ThisUpdate.Equal(clock) || !got.NextUpdate.Equal(clock.Add(2*day))) || got.NextUpdate.After(got.Certificate.NotAfter) {
			t.Errorf("after %s: %s to %s", step.at, got.ThisUpdate, got.NextUpdate)
		}
	}
	// At the CA's own end nothing lasts longer than the CA, and nothing is made again and again.
	clock = ca.NotAfter.Add(-time.Hour)
	q = request(t, "last")
	q.Template.NotBefore, q.Template.NotAfter = clock.Add(-time.Minute), ca.NotAfter
	leaf = issue(t, c, q)
	last := ask(t, c, "ec", leaf, ca, crypto.SHA1)
	clock = clock.Add(45 * time.Minute)
	got := ask(t, c, "ec", leaf, ca, crypto.SHA1)
	if !got.NextUpdate.Equal(ca.NotAfter) || !got.Certificate.Equal(last.Certificate) || got.ThisUpdate.Equal(last.ThisUpdate) {
		t.Errorf("%+v", got)
	}
	clock = ca.NotAfter
	refuses(t, c, "the CA has ended", IssuerEC, question(t, leaf, ca, crypto.SHA1), ocsp.Unauthorized)
}

// TestOCSPRevocationsOfOthers: another certificate's revocation costs a look, and no signature.
func TestOCSPRevocationsOfOthers(t *testing.T) {
	c := open(t, standing(t), Options{})
	ca := c.open.Load().issuer(IssuerEC).cert
	a, b := issue(t, c, request(t, "a")), issue(t, c, request(t, "b"))
	first := ask(t, c, "ec", a, ca, crypto.SHA1)
	ask(t, c, "ec", b, ca, crypto.SHA1)
	revoke(t, c, b, 4, now)
	if got := ask(t, c, "ec", a, ca, crypto.SHA1); !bytes.Equal(got.Signature, first.Signature) {
		t.Error("signed again")
	}
	if got := ask(t, c, "ec", b, ca, crypto.SHA1); got.Status != ocsp.Revoked {
		t.Errorf("%+v", got)
	}
	if n := c.open.Load().ocsp.signed.Load(); n != 3 {
		t.Errorf("%d signatures, not 3", n)
	}
}

// TestOCSPGenerations: after a rollover the answer is by the key that issued.
func TestOCSPGenerations(t *testing.T) {
	c := open(t, standing(t), Options{})
	old := issue(t, c, request(t, "old"))
	oldCA := c.open.Load().issuer(IssuerEC).cert
	ask(t, c, "ec", old, oldCA, crypto.SHA1)
	roll(t, c, backend.RolloverRequest{ID: "renew", Kind: backend.RolloverRenew})
	if got := ask(t, c, "ec", old, oldCA, crypto.SHA1); got.Status != ocsp.Good || c.open.Load().ocsp.signed.Load() != 1 {
		t.Errorf("after a new certificate for the key: %+v", got)
	}
	roll(t, c, backend.RolloverRequest{ID: "rekey", Kind: backend.RolloverRekey, Root: true})
	fresh, newCA := issue(t, c, request(t, "new")), c.open.Load().issuer(IssuerEC).cert
	for _, x := range []struct{ leaf, ca *x509.Certificate }{{old, oldCA}, {fresh, newCA}} {
		got := ask(t, c, "ec", x.leaf, x.ca, crypto.SHA1)
		if got.Status != ocsp.Good || got.Certificate.CheckSignatureFrom(x.ca) != nil {
			t.Errorf("%s: %+v", x.leaf.Subject, got)
		}
	}
	// A serial number of one key's, asked for under the other's.
	refuses(t, c, "the other key", "ec", question(t, old, newCA, crypto.SHA1), ocsp.Unauthorized)
	refuses(t, c, "the other key", "ec", question(t, fresh, oldCA, crypto.SHA1), ocsp.Unauthorized)
	revoke(t, c, old, 1, now)
	if got := ask(t, c, "ec.1", old, oldCA, crypto.SHA1); got.Status != ocsp.Revoked {
		t.Errorf("%+v", got)
	}
}

// TestOCSPKeeps: no more answers are kept than configured; what is asked for stays.
func TestOCSPKeeps(t *testing.T) {
	o := newAnswers(&OCSP{Keep: 3})
	put := func(s string) { o.keep(&answer{at: answerKey{serial: s}}) }
	for _, s := range []string{"a", "b", "c"} {
		put(s)
	}
	o.find(answerKey{serial: "a"})
	put("c")
	put("d")
	for s, there := range map[string]bool{"a": true, "b": false, "c": true, "d": true} {
		if o.find(answerKey{serial: s}) != nil != there {
			t.Errorf("%s is there: %t", s, !there)
		}
	}
	if len(o.kept) != 3 || o.used.Len() != 3 {
		t.Errorf("%d and %d kept", len(o.kept), o.used.Len())
	}
}

// TestOCSPOnce: callers who ask at once for the first time cost one signature.
func TestOCSPOnce(t *testing.T) {
	c := open(t, standing(t), Options{})
	leaf, ca := issue(t, c, request(t, "a")), c.open.Load().issuer(IssuerEC).cert
	q := question(t, leaf, ca, crypto.SHA1)
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			if _, err := c.OCSP(t.Context(), "", q); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := c.open.Load().ocsp.signed.Load(); n != 1 {
		t.Errorf("%d signatures", n)
	}
}

// TestOCSPLedgerGone: while the ledger does not answer, an answer that is known to be right stands for its validity, and no other one.
func TestOCSPLedgerGone(t *testing.T) {
	clock := now
	c := open(t, standing(t), Options{Clock: func() time.Time { return clock }})
	ca := c.open.Load().issuer(IssuerEC).cert
	a, b := issue(t, c, request(t, "a")), issue(t, c, request(t, "b"))
	ask(t, c, "ec", a, ca, crypto.SHA1)
	r := c.open.Load()
	if err := r.ledger.read.Close(); err != nil {
		t.Fatal(err)
	}
	clock = now.Add(day - time.Second)
	if got := ask(t, c, "ec", a, ca, crypto.SHA1); !got.ThisUpdate.Equal(now) {
		t.Errorf("%+v", got)
	}
	_, err := c.OCSP(t.Context(), "ec", question(t, b, ca, crypto.SHA1))
	want(t, err, codes.Unavailable)
	r.ocsp.changes.Add(1) // something was revoked: what is not known is not said
	_, err = c.OCSP(t.Context(), "ec", question(t, a, ca, crypto.SHA1))
	want(t, err, codes.Unavailable)
	clock = now.Add(day)
	_, err = c.OCSP(t.Context(), "ec", question(t, a, ca, crypto.SHA1))
	want(t, err, codes.Unavailable)
}

// TestOCSPNonce: it is ignored, or part of an answer that is signed for it and not kept (RFC 9654).
func TestOCSPNonce(t *testing.T) {
	for _, on := range []bool{false, true} {
		c := open(t, standing(t), Options{}, fmt.Sprintf("ocsp: {nonce: %t}", on))
		leaf, ca := issue(t, c, request(t, "a")), c.open.Load().issuer(IssuerEC).cert
		nonce := []byte("\x04\x10sixteen octets!!")
		q := withExtension(t, question(t, leaf, ca, crypto.SHA1), "1.3.6.1.5.5.7.48.1.2", false, nonce)
		for n := range 2 {
			der, err := c.OCSP(t.Context(), "ec", q)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := ocsp.ParseResponseForCert(der, leaf, ca); err != nil || got.Status != ocsp.Good || bytes.Contains(der, nonce) != on {
				t.Errorf("nonce: %t: %+v, %v", on, got, err)
			}
			if signed, want := c.open.Load().ocsp.signed.Load(), map[bool]int64{false: 1, true: int64(n) + 1}[on]; signed != want {
				t.Errorf("nonce: %t: %d signatures, not %d", on, signed, want)
			}
		}
	}
}

// TestOCSPAhead: unexpired certificates have an answer before anybody asks, the newest first, as many as are kept.
func TestOCSPAhead(t *testing.T) {
	clock := now
	c := open(t, standing(t), Options{Clock: func() time.Time { return clock }})
	ca := c.open.Load().issuer(IssuerEC).cert
	q := request(t, "over")
	q.Template.NotAfter = now.Add(time.Hour)
	issue(t, c, q)
	var leaves []*x509.Certificate
	for n := range 5 {
		leaves = append(leaves, issue(t, c, request(t, fmt.Sprint(n))))
	}
	clock = now.Add(2 * time.Hour)
	signed := func() int64 { return c.open.Load().ocsp.signed.Load() }
	ahead := func(want int64) {
		t.Helper()
		if err := c.signAll(t.Context(), func(time.Duration) {}); err != nil {
			t.Error(err)
		}
		if n := signed(); n != want {
			t.Errorf("%d signatures, not %d", n, want)
		}
	}
	c.open.Load().ocsp.most = 3
	ahead(3)
	ask(t, c, "", leaves[2], ca, crypto.SHA1)
	if signed() != 3 {
		t.Error("it was not signed in advance")
	}
	c.open.Load().ocsp.most = 100
	ahead(5)
	ahead(5)
	revoke(t, c, leaves[0], 4, now)
	ahead(6)
	clock = clock.Add(13 * time.Hour)
	ahead(11)
	// It runs by itself where it is configured, and ends with the CA.
	dir := filepath.Dir(c.open.Load().authorityDir())
	shut(t, c)
	made := make(chan struct{})
	c = open(t, dir, Options{Clock: func() time.Time { return clock }, Log: tell("OCSP responder", made)}, "ocsp: {presign: true}")
	<-made
	shut(t, c)
}

// TestOCSPWithOpenSSL: the other client, over all that a responder is checked for.
func TestOCSPWithOpenSSL(t *testing.T) {
	c := open(t, standing(t), Options{Clock: time.Now}, "issuers: {ed: {key: Ed25519}, big: {key: P-384}}")
	for _, name := range []string{IssuerEC, IssuerRSA, "ed", "big"} {
		q := request(t, name)
		q.Issuer = name
		q.Template.NotBefore, q.Template.NotAfter = time.Now().Truncate(time.Second), time.Now().Truncate(time.Second).Add(day)
		leaf, i := issue(t, c, q), c.open.Load().issuer(name)
		ca, root, certFile := pemFile(t, pemCertificate, i.cert.Raw), pemFile(t, pemCertificate, i.root.Raw), pemFile(t, pemCertificate, leaf.Raw)
		dir := t.TempDir()
		req, resp := filepath.Join(dir, "req"), filepath.Join(dir, "resp")
		for _, hash := range []string{"-sha1", "-sha256"} {
			for _, status := range []string{"good", "revoked"} {
				if status == "revoked" {
					revoke(t, c, leaf, 1, time.Now())
				}
				openssl(t, "ocsp", hash, "-issuer", ca, "-cert", certFile, "-reqout", req)
				asked, err := os.ReadFile(req)
				if err != nil {
					t.Fatal(err)
				}
				der, err := c.OCSP(t.Context(), name, asked)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(resp, der, 0o600); err != nil {
					t.Fatal(err)
				}
				out := openssl(t, "ocsp", hash, "-issuer", ca, "-cert", certFile, "-CAfile", root, "-respin", resp, "-no_nonce")
				if hash == "-sha256" {
					status = "revoked"
				}
				if !strings.Contains(out, "Response verify OK") || !strings.Contains(out, certFile+": "+status) {
					t.Errorf("%s: %s", name, out)
				}
			}
		}
	}
}

func TestOCSPConfig(t *testing.T) {
	for text, says := range map[string]string{
		"validity: 59m": "ocsp.validity", "validity: 31d": "ocsp.validity", "keep: 999": "ocsp.keep", "keep: 10000001": "ocsp.keep", "presing: true": "presign",
	} {
		if _, _, err := parseConfig([]byte("dir: /ca\nocsp: {" + text + "}")); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// requestList is what stands in that of a request.
func requestList(t testing.TB, der []byte) []byte {
	t.Helper()
	in := cryptobyte.String(der)
	var outer, tbs, list cryptobyte.String
	if !in.ReadASN1(&outer, cbasn1.SEQUENCE) || !outer.ReadASN1(&tbs, cbasn1.SEQUENCE) || !tbs.ReadASN1(&list, cbasn1.SEQUENCE) {
		t.Fatal("not a request")
	}
	return list
}

// withList makes a request of a requestList, and what follows on it.
func withList(list []byte, more func(b *cryptobyte.Builder)) []byte {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(list) })
			more(b)
		})
	})
	return b.BytesOrPanic()
}

// twice asks about the same certificate two times.
func twice(t testing.TB, der []byte) []byte {
	list := requestList(t, der)
	return withList(slices.Concat(list, list), func(*cryptobyte.Builder) {})
}

func withExtension(t testing.TB, der []byte, oid string, critical bool, value []byte) []byte {
	id, err := x509.ParseOID(oid)
	if err != nil {
		t.Fatal(err)
	}
	text, err := id.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	return withList(requestList(t, der), func(b *cryptobyte.Builder) {
		b.AddASN1(choice(2).Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1(cbasn1.OBJECT_IDENTIFIER, func(b *cryptobyte.Builder) { b.AddBytes(text) })
					if critical {
						b.AddASN1Boolean(true)
					}
					b.AddASN1OctetString(value)
				})
			})
		})
	})
}
