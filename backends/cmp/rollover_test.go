package cmp

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	stdpkix "crypto/x509/pkix"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// asking is the configuration of one that asks for its CA's certificates.
var asking = strings.Replace(signed, "chain: $/chain.pem\n", "", 1)

func ders(certs []*x509.Certificate) (list [][]byte) {
	for _, c := range certs {
		list = append(list, c.Raw)
	}
	return list
}

// changed makes a CA certificate for a key by another CA, nil for itself, which is changed before it is signed.
func changed(t testing.TB, cn string, key *ecdsa.PrivateKey, by *x509.Certificate, byKey *ecdsa.PrivateKey, change func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	serials++
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(serials), Subject: stdpkix.Name{CommonName: cn}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(2000 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	if change != nil {
		change(tmpl)
	}
	if by == nil {
		by, byKey = tmpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, by, key.Public(), byKey)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// generation is a root, the issuing CA below it, and the links with the root before it.
type generation struct {
	rootKey, key           *ecdsa.PrivateKey
	root, cert             *x509.Certificate
	newWithOld, oldWithNew *x509.Certificate
}

// first is the generation that the fake begins with.
func (f *fake) first() *generation {
	return &generation{rootKey: f.rootKey, key: f.key, root: f.root, cert: f.cert}
}

func (g *generation) next(t testing.TB) *generation {
	n := &generation{rootKey: p256(), key: p256()}
	n.root = changed(t, "Root", n.rootKey, nil, nil, nil)
	n.cert = changed(t, "Issuing", n.key, n.root, n.rootKey, nil)
	n.newWithOld = changed(t, "Root", n.rootKey, g.root, g.rootKey, nil)
	n.oldWithNew = changed(t, "Root", g.rootKey, n.root, n.rootKey, nil)
	return n
}

// changesOver has the fake certify by a generation, and tell these certificates.
func (f *fake) changesOver(g *generation, told ...*x509.Certificate) {
	f.key, f.cert, f.told = g.key, g.cert, told
	f.answerCert = certify(f.t, "CMP server", f.answerKey.Public(), f.cert, f.key, false, oidCMCRA)
	f.change = func(o *cmpmsg.Outgoing) {
		if o.ExtraCerts != nil {
			o.ExtraCerts = [][]byte{f.answerCert.Raw, g.cert.Raw, g.newWithOld.Raw}
		}
	}
}

// updates answers rootCaCert.
func updates(u *cmpmsg.CAKeyUpdate) *cmpmsg.General {
	v := cmpmsg.InfoTypeAndValue{Type: cmpmsg.OIDRootCAKeyUpdate}
	if u != nil {
		var err error
		if v.Value, err = u.MarshalRootUpdate(); err != nil {
			panic(err)
		}
	}
	return &cmpmsg.General{Kind: cmpmsg.TypeGenP, Info: []cmpmsg.InfoTypeAndValue{v}}
}

func is(t *testing.T, ca *CA, chain, rollover []*x509.Certificate) {
	t.Helper()
	cas, err := ca.CACertificates(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.EqualFunc(cas[0].Chain, ders(chain), bytes.Equal) {
		t.Errorf("a chain of %d that is another", len(cas[0].Chain))
	}
	want := ders(rollover)
	for _, der := range cas[0].Rollover {
		at := slices.IndexFunc(want, func(w []byte) bool { return bytes.Equal(w, der) })
		if at < 0 {
			c, _ := x509.ParseCertificate(der)
			t.Fatalf("%s by %s does not belong to the rollover", c.Subject, c.Issuer)
		}
		want = slices.Delete(want, at, at+1)
	}
	if len(want) > 0 {
		t.Errorf("%d certificates of the rollover are missing", len(want))
	}
}

// The CA gets a new root: whatever the order in which it tells its certificates, an RA that was started before or after has the new chain,
// and what leads there from the old root.
func TestRootRollover(t *testing.T) {
	f := newFake(t)
	before := f.configured(t, asking)
	is(t, before, []*x509.Certificate{f.cert, f.root}, nil)
	old := f.first()
	g := old.next(t)
	told := []*x509.Certificate{g.cert, g.root, old.root, g.oldWithNew, g.newWithOld, old.cert}
	f.changesOver(g, told...)
	for range told {
		f.told = append(f.told[1:], f.told[0])
		for _, ca := range []*CA{before, f.configured(t, asking)} {
			is(t, ca, []*x509.Certificate{g.cert, g.root}, []*x509.Certificate{old.root, g.oldWithNew, g.newWithOld, old.cert})
		}
	}
	if f.asked != 0 {
		t.Errorf("rootCaCert was asked %d times though all was told", f.asked)
	}
	a, err := before.Issue(t.Context(), wanted(t, "one"))
	if err != nil || !slices.EqualFunc(a.Chain, ders([]*x509.Certificate{g.cert, g.root}), bytes.Equal) {
		t.Errorf("%v", err)
	}
}

// A CA that tells no more than its chain is asked what follows the root in trust, over several changes.
func TestRootUpdateIsAskedFor(t *testing.T) {
	f := newFake(t)
	old := f.first()
	second := old.next(t)
	third := second.next(t)
	f.changesOver(third, third.cert, third.root)
	f.change = func(o *cmpmsg.Outgoing) {
		if o.ExtraCerts != nil {
			o.ExtraCerts = [][]byte{f.answerCert.Raw, third.cert.Raw, third.newWithOld.Raw, second.newWithOld.Raw}
		}
	}
	f.update = func(root []byte) *cmpmsg.General {
		switch {
		case bytes.Equal(root, old.root.Raw):
			return updates(&cmpmsg.CAKeyUpdate{NewWithNew: second.root.Raw, NewWithOld: second.newWithOld.Raw, OldWithNew: second.oldWithNew.Raw})
		case bytes.Equal(root, second.root.Raw):
			return updates(&cmpmsg.CAKeyUpdate{NewWithNew: third.root.Raw, NewWithOld: third.newWithOld.Raw})
		}
		return updates(nil)
	}
	is(t, f.configured(t, asking), []*x509.Certificate{third.cert, third.root},
		[]*x509.Certificate{second.root, second.newWithOld, second.oldWithNew, third.newWithOld, old.root})
	if f.asked != 2 {
		t.Errorf("rootCaCert was asked %d times", f.asked)
	}
	// It tells its issuing certificate alone.
	f.told = f.told[:1]
	is(t, f.configured(t, asking), []*x509.Certificate{third.cert, third.root},
		[]*x509.Certificate{second.root, second.newWithOld, second.oldWithNew, third.newWithOld, old.root})
}

// A CA that does not know rootCaCert is judged by what it tells: its chain is what leads to the root in trust, and where nothing does, there is none.
func TestRootCACertIsNotKnown(t *testing.T) {
	for name, update := range map[string]func([]byte) *cmpmsg.General{
		"an error": nil,
		"its question comes back": func(root []byte) *cmpmsg.General { // openssl cmp -port 3.0
			return &cmpmsg.General{Kind: cmpmsg.TypeGenP, Info: []cmpmsg.InfoTypeAndValue{{Type: cmpmsg.OIDRootCACert, Value: root}}}
		},
		"no update": func([]byte) *cmpmsg.General { return updates(nil) },
		"nothing":   func([]byte) *cmpmsg.General { return &cmpmsg.General{Kind: cmpmsg.TypeGenP} },
		"garbage": func([]byte) *cmpmsg.General {
			return &cmpmsg.General{Kind: cmpmsg.TypeGenP, Info: []cmpmsg.InfoTypeAndValue{{Type: cmpmsg.OIDRootCAKeyUpdate, Value: []byte{0x30, 0}}}}
		},
	} {
		f := newFake(t)
		f.update = update
		is(t, f.configured(t, asking), []*x509.Certificate{f.cert, f.root}, nil)
		g := f.first().next(t)
		f.told = []*x509.Certificate{g.cert, g.root} // and its answers are signed as before
		_, err := f.configured(t, asking).CACertificates(t.Context())
		if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "none of its 2 certificates leads to a root in trust") || f.asked == 0 {
			t.Errorf("%s: %v", name, err)
		}
		if (name == "an error" || name == "garbage") != strings.Contains(err.Error(), "asked what follows") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What is no link from the root in trust makes no root, in caCerts or as an update.
func TestForgedLinks(t *testing.T) {
	day := 24 * time.Hour
	for name, forge := range map[string]func(f *fake, g *generation){
		"none":        func(f *fake, g *generation) { g.newWithOld = g.root },
		"another key": func(f *fake, g *generation) { g.newWithOld = changed(f.t, "Root", p256(), f.root, f.rootKey, nil) },
		"signed by another key": func(f *fake, g *generation) {
			key := p256()
			g.newWithOld = changed(f.t, "Root", g.rootKey, changed(f.t, "Root", key, nil, nil, nil), key, nil)
		},
		"expired": func(f *fake, g *generation) {
			g.newWithOld = changed(f.t, "Root", g.rootKey, f.root, f.rootKey, func(c *x509.Certificate) { c.NotBefore, c.NotAfter = time.Now().Add(-2*day), time.Now().Add(-day) })
		},
		"not valid yet": func(f *fake, g *generation) {
			g.newWithOld = changed(f.t, "Root", g.rootKey, f.root, f.rootKey, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(day) })
		},
		"an expired root": func(f *fake, g *generation) {
			g.root = changed(f.t, "Root", g.rootKey, nil, nil, func(c *x509.Certificate) { c.NotBefore, c.NotAfter = time.Now().Add(-2*day), time.Now().Add(-day) })
		},
		"another name": func(f *fake, g *generation) { g.newWithOld = changed(f.t, "Other", g.rootKey, f.root, f.rootKey, nil) },
		"a root of another name": func(f *fake, g *generation) {
			g.root = changed(f.t, "Other", g.rootKey, nil, nil, nil)
			g.newWithOld = changed(f.t, "Root", g.rootKey, f.root, f.rootKey, nil)
			g.cert = changed(f.t, "Issuing", g.key, g.root, g.rootKey, nil)
		},
		"by a name that is not the root's": func(f *fake, g *generation) {
			as := changed(f.t, "Other", f.rootKey, nil, nil, nil)
			g.newWithOld = changed(f.t, "Root", g.rootKey, as, f.rootKey, nil)
		},
		"not a CA's": func(f *fake, g *generation) {
			g.newWithOld = changed(f.t, "Root", g.rootKey, f.root, f.rootKey, func(c *x509.Certificate) { c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature })
		},
		"signs no certificates": func(f *fake, g *generation) {
			g.newWithOld = changed(f.t, "Root", g.rootKey, f.root, f.rootKey, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign })
		},
		"by the issuing CA": func(f *fake, g *generation) {
			g.newWithOld = changed(f.t, "Root", g.rootKey, f.cert, f.key, nil)
		},
		"a loop": func(f *fake, g *generation) { // that the root is no part of
			other := p256()
			by := changed(f.t, "Root", other, nil, nil, nil)
			g.newWithOld = changed(f.t, "Root", g.rootKey, by, other, nil)
			g.oldWithNew = changed(f.t, "Root", other, g.root, g.rootKey, nil)
		},
	} {
		f := newFake(t)
		g := f.first().next(t)
		forge(f, g)
		f.told = []*x509.Certificate{g.cert, g.root, f.root, g.newWithOld, g.oldWithNew, f.cert}
		f.update = func([]byte) *cmpmsg.General {
			return updates(&cmpmsg.CAKeyUpdate{NewWithNew: g.root.Raw, NewWithOld: g.newWithOld.Raw, OldWithNew: g.oldWithNew.Raw})
		}
		// In these two the new issuing CA has a way to the root in trust, by certificates that are good: that makes no root either.
		reaches := name == "by the issuing CA" || name == "an expired root"
		cas, err := f.configured(t, asking).CACertificates(t.Context())
		if (err != nil) != (name == "another name") { // it may be an issuing CA's
			t.Errorf("%s: %v", name, err)
		}
		for _, ca := range cas {
			if last := len(ca.Chain) - 1; !bytes.Equal(ca.Chain[last], f.root.Raw) || !reaches && !bytes.Equal(ca.Chain[0], f.cert.Raw) {
				t.Errorf("%s: another chain", name)
			}
			for _, der := range slices.Concat(ca.Chain, ca.Rollover) {
				if bytes.Equal(der, g.root.Raw) || !reaches && bytes.Equal(der, g.cert.Raw) {
					t.Errorf("%s: the new root, or what is below it, is told to devices", name)
				}
			}
		}
		if f.asked == 0 && !reaches && name != "a root of another name" {
			t.Errorf("%s: no update was asked for", name)
		}
		// Alone there is no chain at all.
		f.told = []*x509.Certificate{g.cert, g.root}
		if cas, err := f.configured(t, asking).CACertificates(t.Context()); err == nil && !reaches {
			t.Errorf("%s: %+v", name, cas)
		}
	}
}

// A root that is renewed with its key needs no link; a root of the old key does, when the root in trust has expired.
func TestRootIsRenewed(t *testing.T) {
	f := newFake(t)
	root := changed(t, "Root", f.rootKey, nil, nil, nil) // it lasts longer
	cert := changed(t, "Issuing", f.key, root, f.rootKey, nil)
	f.told = []*x509.Certificate{f.cert, f.root, root, cert}
	is(t, f.configured(t, asking), []*x509.Certificate{cert, root}, []*x509.Certificate{f.cert, f.root})
	r := &roots{now: f.root.NotAfter.Add(time.Second), list: []*x509.Certificate{f.root}}
	if r.follow(f.told); len(r.list) != 1 {
		t.Error("a root that has expired makes another one")
	}
}

// Where trust has no root, one root is taken from the answer by its protection, and several are not.
func TestNoRootInTrust(t *testing.T) {
	f := newFake(t)
	config := "mac: {reference: ref, secret: $/secret}\n"
	is(t, f.configured(t, config), []*x509.Certificate{f.cert, f.root}, nil)
	old := f.first()
	g := old.next(t)
	f.told = []*x509.Certificate{g.cert, g.root, old.root, g.newWithOld, old.cert}
	if _, err := f.configured(t, config).CACertificates(t.Context()); err == nil || !strings.Contains(err.Error(), "put that of the CA into trust") {
		t.Errorf("%v", err)
	}
	is(t, f.configured(t, config+"trust: $/root.pem\n"), []*x509.Certificate{g.cert, g.root}, []*x509.Certificate{old.root, g.newWithOld, old.cert})
	// The one in trust is another authority's, such as that of the RA which answers.
	f.told = nil
	key := p256()
	f.write("other.pem", certify(t, "Other", key.Public(), nil, key, true))
	if _, err := f.configured(t, config+"trust: $/other.pem\n").CACertificates(t.Context()); err == nil || !strings.Contains(err.Error(), "leads to a root in trust") {
		t.Errorf("%v", err)
	}
	// It is told to no device.
	f.write("both.pem", f.root, certify(t, "Other", key.Public(), nil, key, true))
	is(t, f.configured(t, config+"trust: $/both.pem\n"), []*x509.Certificate{f.cert, f.root}, nil)
}

// What the CA's last certificate is signed by is the issuing CA, until it tells newer ones.
func TestLastCertificateSaysWhoIssues(t *testing.T) {
	f := newFake(t)
	now := time.Now()
	ca := New(Options{Clock: func() time.Time { return now }})
	if err := ca.Configure(t.Context(), f.config(asking)); err != nil {
		t.Fatal(err)
	}
	key := p256()
	ahead := changed(t, "Issuing", key, f.root, f.rootKey, nil) // newer by its dates, and not in use
	other := changed(t, "Other", key, f.root, f.rootKey, nil)
	f.told = []*x509.Certificate{ahead, f.cert, f.root}
	is(t, ca, []*x509.Certificate{ahead, f.root}, []*x509.Certificate{f.cert})
	issues := func(id string) {
		t.Helper()
		now = now.Add(time.Second)
		if _, err := ca.Issue(t.Context(), wanted(t, id)); err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Second)
	}
	issues("one")
	is(t, ca, []*x509.Certificate{f.cert, f.root}, []*x509.Certificate{ahead})
	next := changed(t, "Issuing", p256(), f.root, f.rootKey, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(-time.Minute) })
	f.told = []*x509.Certificate{f.cert, ahead, next, f.root}
	is(t, ca, []*x509.Certificate{next, f.root}, []*x509.Certificate{f.cert, ahead})
	issues("two")
	is(t, ca, []*x509.Certificate{f.cert, f.root}, []*x509.Certificate{ahead, next})
	// Of CAs of different names nothing else says which it is.
	f.told = []*x509.Certificate{f.cert, other, f.root}
	if _, err := ca.CACertificates(t.Context()); err == nil || !strings.Contains(err.Error(), "not clear") {
		t.Errorf("%v", err)
	}
	issues("three")
	is(t, ca, []*x509.Certificate{f.cert, f.root}, []*x509.Certificate{other})
}

// The chain of a certificate of another generation leads to a root, and in no circles.
func TestChainOfAnotherGeneration(t *testing.T) {
	f := newFake(t)
	old := f.first()
	g := old.next(t)
	f.changesOver(g, g.cert, g.root, old.root, g.oldWithNew, g.newWithOld, old.cert)
	ca := f.configured(t, asking)
	is(t, ca, []*x509.Certificate{g.cert, g.root}, []*x509.Certificate{old.root, g.oldWithNew, g.newWithOld, old.cert})
	f.key, f.cert = old.key, old.cert
	a, err := ca.Issue(t.Context(), wanted(t, "one"))
	if err != nil || len(a.Chain) != 2 || !bytes.Equal(a.Chain[0], old.cert.Raw) || !bytes.Equal(a.Chain[1], old.root.Raw) {
		t.Errorf("%d certificates, %v", len(a.Chain), err)
	}
	var _ backend.Backend = ca
}
