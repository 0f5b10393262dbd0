package local

import (
	"bytes"
	"crypto/x509"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
	"google.golang.org/grpc/codes"
)

// manyKinds configures an issuer of each kind of key, RSA-2048 for all RSA: larger ones take their time.
const manyKinds = "issuers: {rsa: {bits: 2048}, p384: {key: P-384}, ed: {key: Ed25519}}"

func roll(t testing.TB, c *CA, q backend.RolloverRequest) *backend.CA {
	t.Helper()
	ca, err := c.Rollover(t.Context(), &q)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func parsed(t testing.TB, der []byte) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// opensslVerifies runs openssl verify at the time of the tests, at its strictest.
func opensslVerifies(t testing.TB, ok bool, root *x509.Certificate, untrusted [][]byte, leaf []byte, more ...string) string {
	t.Helper()
	args := []string{"verify", "-x509_strict", "-check_ss_sig", "-attime", strconv.FormatInt(now.Unix(), 10), "-CAfile", pemFile(t, "CERTIFICATE", root.Raw)}
	for _, der := range untrusted {
		args = append(args, "-untrusted", pemFile(t, "CERTIFICATE", der))
	}
	return opensslFails(t, !ok, append(append(args, more...), pemFile(t, "CERTIFICATE", leaf))...)
}

// goVerifies is the same by crypto/x509, which counts a link between roots in path lengths.
func goVerifies(t testing.TB, root *x509.Certificate, untrusted [][]byte, leaf []byte) {
	t.Helper()
	o := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	o.Roots.AddCert(root)
	for _, der := range untrusted {
		o.Intermediates.AddCert(parsed(t, der))
	}
	if _, err := parsed(t, leaf).Verify(o); err != nil {
		t.Error(err)
	}
}

// link finds a cross certificate of the root with the subject's key under the issuer's.
func link(t testing.TB, ca *backend.CA, subject, by *x509.Certificate) *x509.Certificate {
	t.Helper()
	for _, der := range ca.Rollover {
		if c := parsed(t, der); sameKeyIn(c, subject) && !sameKeyIn(subject, by) && c.CheckSignatureFrom(by) == nil && bytes.Equal(c.AuthorityKeyId, by.SubjectKeyId) {
			return c
		}
	}
	t.Fatalf("no certificate of %x under %x", subject.SubjectKeyId, by.SubjectKeyId)
	return nil
}

// TestRekeyRoot: after a new root key, certificates of both generations verify from either root, by openssl and by Go.
func TestRekeyRoot(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	c := open(t, dir, Options{}, manyKinds)
	for _, name := range []string{IssuerEC, IssuerRSA, "ed", "p384"} {
		t.Run(name, func(t *testing.T) {
			i := c.open.Load().issuer(name)
			oldRoot, oldIssuing := i.root, i.cert
			q := request(t, "before-"+name)
			q.Issuer = name
			before := issue(t, c, q)
			ca := roll(t, c, backend.RolloverRequest{ID: "roll-" + name, Issuer: name, Kind: backend.RolloverRekey, Root: true})
			q = request(t, "after-"+name)
			q.Issuer = name
			after := issue(t, c, q)

			newIssuing, newRoot := parsed(t, ca.Chain[0]), parsed(t, ca.Chain[1])
			if sameKeyIn(newIssuing, oldIssuing) || sameKeyIn(newRoot, oldRoot) || !bytes.Equal(newIssuing.RawSubject, oldIssuing.RawSubject) || !bytes.Equal(newRoot.RawSubject, oldRoot.RawSubject) {
				t.Error("not new keys under the same names")
			}
			if kindOf(newRoot.PublicKey) != kindOf(oldRoot.PublicKey) || kindOf(newIssuing.PublicKey) != kindOf(oldIssuing.PublicKey) {
				t.Error("keys of another kind")
			}
			if len(ca.Rollover) != 4 || !slices.ContainsFunc(ca.Rollover, func(der []byte) bool { return bytes.Equal(der, oldRoot.Raw) }) ||
				!bytes.Equal(ca.Rollover[3], oldIssuing.Raw) {
				t.Errorf("%d rollover certificates", len(ca.Rollover))
			}
			oldWithNew, newWithOld := link(t, ca, oldRoot, newRoot), link(t, ca, newRoot, oldRoot)
			// RFC 9810 section 4.4.1.
			if !oldWithNew.NotBefore.Equal(oldRoot.NotBefore) || !oldWithNew.NotAfter.Equal(oldRoot.NotAfter) ||
				!newWithOld.NotBefore.Equal(newRoot.NotBefore) || !newWithOld.NotAfter.Equal(oldRoot.NotAfter) {
				t.Errorf("OldWithNew %s to %s, NewWithOld %s to %s", oldWithNew.NotBefore, oldWithNew.NotAfter, newWithOld.NotBefore, newWithOld.NotAfter)
			}
			opensslVerifies(t, true, newRoot, nil, oldWithNew.Raw)
			opensslVerifies(t, true, oldRoot, nil, newWithOld.Raw)
			opensslVerifies(t, true, oldRoot, [][]byte{oldIssuing.Raw}, before.Raw)
			opensslVerifies(t, true, newRoot, [][]byte{newIssuing.Raw}, after.Raw)
			opensslVerifies(t, true, newRoot, [][]byte{oldIssuing.Raw, oldWithNew.Raw}, before.Raw)
			opensslVerifies(t, true, oldRoot, [][]byte{newIssuing.Raw, newWithOld.Raw}, after.Raw)
			opensslVerifies(t, false, newRoot, [][]byte{oldIssuing.Raw}, before.Raw) // it is the link that does it
			opensslVerifies(t, false, oldRoot, [][]byte{newIssuing.Raw}, after.Raw)
			goVerifies(t, newRoot, [][]byte{oldIssuing.Raw, oldWithNew.Raw}, before.Raw)
			goVerifies(t, oldRoot, [][]byte{newIssuing.Raw, newWithOld.Raw}, after.Raw)
			roots, err := os.ReadFile(filepath.Join(dir, rootsFile))
			if err != nil || !bytes.Contains(roots, certificatePEM(oldRoot)) || !bytes.Contains(roots, certificatePEM(newRoot)) {
				t.Errorf("roots.pem lacks a root: %v", err)
			}
		})
	}
	before, err := c.CACertificates(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	shut(t, c)
	after, err := open(t, dir, Options{}, manyKinds).CACertificates(t.Context())
	if err != nil || len(after) != len(before) {
		t.Fatal(err)
	}
	for i := range after {
		if !sameCA(&after[i], &before[i]) {
			t.Errorf("%s: another CA after a restart", after[i].Name)
		}
	}
}

func sameCA(a, b *backend.CA) bool {
	return a.Name == b.Name && slices.EqualFunc(a.Chain, b.Chain, bytes.Equal) && slices.EqualFunc(a.Rollover, b.Rollover, bytes.Equal) && slices.Equal(a.CRLs, b.CRLs)
}

// TestRenew: a new certificate for the same key verifies what the old one issued, and the other way round.
func TestRenew(t *testing.T) {
	for _, root := range []bool{false, true} {
		t.Run("root "+strconv.FormatBool(root), func(t *testing.T) {
			clock := now
			c := open(t, standing(t), Options{Clock: func() time.Time { return clock }})
			old := c.open.Load().issuers[0].generation
			before := issue(t, c, request(t, "before"))
			clock = now.Add(time.Hour)
			ca := roll(t, c, backend.RolloverRequest{ID: "roll", Kind: backend.RolloverRenew, Root: root})
			issuing, newRoot := parsed(t, ca.Chain[0]), parsed(t, ca.Chain[1])
			if !sameKeyIn(issuing, old.cert) || issuing.Equal(old.cert) || !issuing.NotAfter.Equal(old.cert.NotAfter.Add(time.Hour)) {
				t.Errorf("the issuing CA until %s", issuing.NotAfter)
			}
			if newRoot.Equal(old.root) == root || !sameKeyIn(newRoot, old.root) {
				t.Error("the root")
			}
			after := issue(t, c, request(t, "after"))
			for _, r := range []*x509.Certificate{old.root, newRoot} {
				for _, x := range []*x509.Certificate{old.cert, issuing} {
					for _, leaf := range []*x509.Certificate{before, after} {
						opensslVerifies(t, true, r, [][]byte{x.Raw}, leaf.Raw)
					}
				}
			}
			if want := map[bool]int{false: 1, true: 2}[root]; len(ca.Rollover) != want || !bytes.Equal(ca.Rollover[want-1], old.cert.Raw) {
				t.Errorf("%d rollover certificates", len(ca.Rollover))
			}
			if !slices.Equal(ca.CRLs, []string{"ec", "ec.1"}) {
				t.Errorf("CRLs %q: the key is the same", ca.CRLs)
			}
		})
	}
}

// TestRekeyIssuing: the root stays; what was issued stays what it was, byte for byte, and what was not is issued anew.
func TestRekeyIssuing(t *testing.T) {
	dir := standing(t)
	c := open(t, dir, Options{})
	old := c.open.Load().issuers[0].generation
	first, err := c.Issue(t.Context(), request(t, "before"))
	if err != nil {
		t.Fatal(err)
	}
	ca := roll(t, c, backend.RolloverRequest{ID: "roll", Issuer: IssuerEC, Kind: backend.RolloverRekey})
	if len(ca.Rollover) != 1 || !bytes.Equal(ca.Rollover[0], old.cert.Raw) || !bytes.Equal(ca.Chain[1], old.root.Raw) || bytes.Equal(ca.Chain[0], old.cert.Raw) {
		t.Fatalf("%d rollover certificates", len(ca.Rollover))
	}
	issuing := parsed(t, ca.Chain[0])
	if !issuing.NotBefore.Equal(old.cert.NotBefore) { // less than 31 days old
		t.Errorf("valid from %s", issuing.NotBefore)
	}
	same := func(c *CA) {
		t.Helper()
		again, err := c.Issue(t.Context(), request(t, "before"))
		if err != nil || !bytes.Equal(again.Certificate, first.Certificate) || !slices.EqualFunc(again.Chain, first.Chain, bytes.Equal) {
			t.Errorf("another certificate or chain for an ID from before: %v", err)
		}
		o, err := c.Lookup(t.Context(), &backend.IssueRequest{ID: "before"})
		if err != nil || o.State != backend.OutcomeIssued || !bytes.Equal(o.Issuance.Certificate, first.Certificate) || !bytes.Equal(o.Issuance.Chain[0], old.cert.Raw) {
			t.Errorf("Lookup: %+v, %v", o, err)
		}
	}
	same(c)
	// An intent of the time before that was not issued: its dates may begin before the new key's making.
	q := request(t, "intent")
	q.Template.NotBefore = old.cert.NotBefore
	leaf := issue(t, c, q)
	if err := leaf.CheckSignatureFrom(issuing); err != nil || !bytes.Equal(leaf.AuthorityKeyId, issuing.SubjectKeyId) {
		t.Errorf("not issued by the new key: %v", err)
	}
	opensslVerifies(t, true, old.root, [][]byte{ca.Chain[0], old.cert.Raw}, leaf.Raw)
	opensslVerifies(t, true, old.root, [][]byte{ca.Chain[0], old.cert.Raw}, first.Certificate)
	shut(t, c)
	c = open(t, dir, Options{})
	same(c)
	if e := rows(t, dir); len(e) != 2 || e[0].Generation != 1 || e[1].Generation != 2 {
		t.Errorf("rows %+v", e)
	}
	// Names and keys of every generation stay the CA's own.
	for what, change := range map[string]func(x *backend.Template){
		"key":  func(x *backend.Template) { x.PublicKey = old.cert.RawSubjectPublicKeyInfo },
		"name": func(x *backend.Template) { x.Subject = old.cert.RawSubject },
	} {
		q := request(t, "own-"+what)
		change(&q.Template)
		_, err := c.Issue(t.Context(), q)
		want(t, err, codes.InvalidArgument)
	}
}

func TestRolloverOnce(t *testing.T) {
	dir := standing(t)
	c := open(t, dir, Options{})
	q := backend.RolloverRequest{ID: "roll", Issuer: IssuerEC, Kind: backend.RolloverRekey}
	first := roll(t, c, q)
	for range 2 {
		if again := roll(t, c, q); !sameCA(first, again) {
			t.Error("the same ID made another generation")
		}
	}
	byDefault := q
	byDefault.Issuer = ""
	if again := roll(t, c, byDefault); !sameCA(first, again) {
		t.Error("the default by its name is another rollover")
	}
	shut(t, c)
	c = open(t, dir, Options{})
	if again := roll(t, c, q); !sameCA(first, again) {
		t.Error("the same ID made another generation after a restart")
	}
	for what, x := range map[string]struct {
		q    backend.RolloverRequest
		code codes.Code
	}{
		"another kind":   {backend.RolloverRequest{ID: "roll", Issuer: IssuerEC, Kind: backend.RolloverRenew}, codes.AlreadyExists},
		"the root too":   {backend.RolloverRequest{ID: "roll", Issuer: IssuerEC, Kind: backend.RolloverRekey, Root: true}, codes.AlreadyExists},
		"another issuer": {backend.RolloverRequest{ID: "roll", Issuer: IssuerRSA, Kind: backend.RolloverRekey}, codes.AlreadyExists},
		"unknown issuer": {backend.RolloverRequest{ID: "x", Issuer: "dsa", Kind: backend.RolloverRekey}, codes.InvalidArgument},
		"unknown kind":   {backend.RolloverRequest{ID: "x", Issuer: IssuerEC, Kind: "retire"}, codes.InvalidArgument},
		"no ID":          {backend.RolloverRequest{Issuer: IssuerEC, Kind: backend.RolloverRekey}, codes.InvalidArgument},
		"control in ID":  {backend.RolloverRequest{ID: "a\nb", Issuer: IssuerEC, Kind: backend.RolloverRekey}, codes.InvalidArgument},
	} {
		t.Run(what, func(t *testing.T) {
			_, err := c.Rollover(t.Context(), &x.q)
			want(t, err, x.code)
		})
	}
	if n := c.open.Load().issuers[0].number; n != 2 {
		t.Errorf("generation %d", n)
	}
	shut(t, c)
	_, err := c.Rollover(t.Context(), &q)
	want(t, err, codes.Unavailable)
}

// TestRolloverNeedsTheRootKey: a root's key that was taken away is asked for by its file, also when it is not the first.
func TestRolloverNeedsTheRootKey(t *testing.T) {
	dir := standing(t)
	c := open(t, dir, Options{})
	away := func(file string) (back func()) {
		path := filepath.Join(dir, authorityDir, file)
		data, err := os.ReadFile(path)
		if err == nil {
			err = os.Remove(path)
		}
		if err != nil {
			t.Fatal(err)
		}
		return func() {
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	n := 0
	refused := func(says string, root bool) {
		t.Helper()
		for _, kind := range []backend.RolloverKind{backend.RolloverRenew, backend.RolloverRekey} {
			_, err := c.Rollover(t.Context(), &backend.RolloverRequest{ID: "roll-" + strconv.Itoa(n), Kind: kind, Root: root})
			want(t, err, codes.FailedPrecondition)
			if err != nil && !strings.Contains(err.Error(), says) {
				t.Errorf("%v, want it to say %q", err, says)
			}
		}
		n++
	}
	back := away("ec-root.key")
	refused("ec-root.key is not there", false)
	refused("ec-root.key is not there", true)
	back()
	roll(t, c, backend.RolloverRequest{ID: "one", Kind: backend.RolloverRekey, Root: true})
	away("ec-root.key") // for good: the new root has its own
	roll(t, c, backend.RolloverRequest{ID: "two", Kind: backend.RolloverRekey})
	away(filepath.Join("ec.2", rootKeyFile))
	refused(filepath.Join("ec.2", rootKeyFile)+" is not there", false)
	shut(t, c)
	c = open(t, dir, Options{}) // none of them is needed to open
	issue(t, c, request(t, "x"))
	if i := c.open.Load().issuers[0]; i.number != 3 || i.keyFirst != 3 {
		t.Errorf("generation %d, key of %d", i.number, i.keyFirst)
	}
}

// TestRolloverTooLate: what would give nothing, or nothing that anyone believes, is refused with the way out.
func TestRolloverTooLate(t *testing.T) {
	clock := now
	c := open(t, filepath.Join(t.TempDir(), "ca"), Options{Clock: func() time.Time { return clock }}, "validity: {root: 100d, issuing: 90d}", "issuers: {rsa: {bits: 2048}}")
	refused := func(says string, q backend.RolloverRequest) {
		t.Helper()
		_, err := c.Rollover(t.Context(), &q)
		want(t, err, codes.FailedPrecondition)
		if err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want it to say %q", err, says)
		}
	}
	clock = now.Add(20 * day)
	ca := roll(t, c, backend.RolloverRequest{ID: "cut", Kind: backend.RolloverRenew})
	issuing, root := parsed(t, ca.Chain[0]), parsed(t, ca.Chain[1])
	if !issuing.NotAfter.Equal(root.NotAfter) {
		t.Errorf("the issuing CA until %s, its root until %s", issuing.NotAfter, root.NotAfter)
	}
	refused("roll over the root", backend.RolloverRequest{ID: "a", Kind: backend.RolloverRenew})
	clock = root.NotAfter.Add(-day + 2*time.Second)
	refused("its root ends at", backend.RolloverRequest{ID: "b", Kind: backend.RolloverRekey})
	clock = root.NotAfter.Add(time.Second)
	refused("its root has expired", backend.RolloverRequest{ID: "c", Kind: backend.RolloverRekey, Root: true})
}

// TestIssueWhileRollingOver: nobody is refused, and nothing is issued by a generation after its end was settled.
func TestIssueWhileRollingOver(t *testing.T) {
	dir := standing(t)
	var c *CA
	c = open(t, dir, Options{Crash: func(at string) {
		if at == CrashAfterSign && c.issuing.TryLock() {
			t.Error("a rollover would not wait for a certificate that is signed and not recorded")
			c.issuing.Unlock()
		}
	}})
	var wg sync.WaitGroup
	for n := range 48 {
		wg.Go(func() {
			q := request(t, "tx-"+strconv.Itoa(n))
			q.Template.NotAfter = now.Add(time.Duration(n+1) * day)
			if _, err := c.Issue(t.Context(), q); err != nil {
				t.Error(err)
			}
		})
		if n%16 == 8 {
			wg.Go(func() {
				if _, err := c.Rollover(t.Context(), &backend.RolloverRequest{ID: "roll-" + strconv.Itoa(n), Kind: backend.RolloverRekey}); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	r := c.open.Load()
	if r.issuers[0].number != 4 {
		t.Fatalf("generation %d", r.issuers[0].number)
	}
	for _, e := range rows(t, dir) {
		g := r.generation(e.Issuer, e.Generation)
		if err := parsed(t, e.Certificate).CheckSignatureFrom(g.cert); err != nil {
			t.Errorf("%s: not by generation %d: %v", e.ID, e.Generation, err)
		}
		if end, over := r.ends[g.id()]; over && e.NotAfter.After(end) {
			t.Errorf("%s ends at %s, its generation at %s", e.ID, e.NotAfter, end)
		}
	}
}
