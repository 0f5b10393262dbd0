package local

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
	"google.golang.org/grpc/codes"
)

// operator is a hierarchy made elsewhere.
type operator struct {
	certs []*x509.Certificate // the root first
	keys  []crypto.Signer
}

// add makes a CA below the last one, or a root.
func (o *operator) add(t testing.TB, kind, name string, change func(c *x509.Certificate)) *operator {
	t.Helper()
	key, err := keyKinds[kind]()
	if err != nil {
		t.Fatal(err)
	}
	return o.addKey(t, key, name, change)
}

func (o *operator) addKey(t testing.TB, key crypto.Signer, name string, change func(c *x509.Certificate)) *operator {
	t.Helper()
	c := rootTemplate(now.Add(-10*day), now.Add(1000*day))
	c.MaxPathLen = -1
	c.Subject = pkix.Name{CommonName: name, Organization: []string{"Operator"}}
	parent, signer := c, key
	if n := len(o.certs); n > 0 {
		parent, signer = o.certs[n-1], o.keys[n-1]
	}
	if change != nil {
		change(c)
	}
	made, err := certifyCA(c, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	return &operator{append(slices.Clone(o.certs), made), append(slices.Clone(o.keys), key)}
}

// files writes the chain, the issuing certificate first, and its key.
func (o *operator) files(t testing.TB) (cert, key string) {
	t.Helper()
	dir := t.TempDir()
	chain := slices.Clone(o.certs)
	slices.Reverse(chain)
	text, err := keyPEM(o.keys[len(o.keys)-1])
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "chain.pem"), filepath.Join(dir, "key.pem")
	for file, data := range map[string][]byte{cert: certificatePEM(chain...), key: text} {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

func importing(cert, key, more string) string {
	return fmt.Sprintf("issuers: {factory: {import: {cert: %q, key: %q%s}}}", cert, key, more)
}

func TestImport(t *testing.T) {
	three := new(operator).add(t, "P-384", "Root", nil).add(t, "P-256", "Policy", nil).add(t, "Ed25519", "Factory", nil)
	for what, o := range map[string]*operator{
		"chain of three": three,
		"chain of two":   new(operator).add(t, "RSA-2048", "Root", nil).add(t, "RSA-2048", "Factory", func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 0, true }),
		"a root":         new(operator).add(t, "P-256", "Root", nil),
	} {
		t.Run(what, func(t *testing.T) {
			cert, key := o.files(t)
			for start, dir := range map[string]string{"first start": filepath.Join(t.TempDir(), "ca"), "later": standing(t)} {
				bits := ""
				if start == "first start" {
					bits = "\n  rsa: {bits: 2048}"
				}
				conf := "issuers:\n  " + strings.TrimSuffix(strings.TrimPrefix(importing(cert, key, ""), "issuers: {"), "}") + bits
				c := open(t, dir, Options{}, conf)
				cas, err := c.CACertificates(t.Context())
				if err != nil || len(cas) != 3 || cas[2].Name != "factory" || len(cas[2].Chain) != len(o.certs) {
					t.Fatalf("%s: %d CAs, %v", start, len(cas), err)
				}
				for i, der := range cas[2].Chain {
					if !bytes.Equal(der, o.certs[len(o.certs)-1-i].Raw) {
						t.Errorf("%s: another certificate %d", start, i)
					}
				}
				q := request(t, "x")
				q.Issuer = "factory"
				leaf := issue(t, c, q)
				opensslVerifies(t, true, o.certs[0], cas[2].Chain, leaf.Raw)
				revoke(t, c, leaf, 1, now)
				if l := crlOf(t, c, "factory"); len(l.RevokedCertificateEntries) != 1 || l.CheckSignatureFrom(o.certs[len(o.certs)-1]) != nil {
					t.Errorf("%s: the CRL has %d entries", start, len(l.RevokedCertificateEntries))
				}
				if roots, err := os.ReadFile(filepath.Join(dir, rootsFile)); err != nil || !bytes.Contains(roots, certificatePEM(o.certs[0])) {
					t.Errorf("%s: roots.pem lacks the root: %v", start, err)
				}
				for _, kind := range []backend.RolloverKind{backend.RolloverRenew, backend.RolloverRekey} {
					_, err = c.Rollover(t.Context(), &backend.RolloverRequest{ID: string(kind), Issuer: "factory", Kind: kind})
					want(t, err, codes.FailedPrecondition)
					if err != nil && !strings.Contains(err.Error(), "issuers.factory.import, with generation: 2") {
						t.Error(err)
					}
				}
				shut(t, c)
				before := state(t, dir)
				shut(t, open(t, dir, Options{}, conf))
				shut(t, open(t, dir, Options{})) // it stays when it is left out
				if after := state(t, dir); before != after {
					t.Errorf("%s: a later start changed the directory", start)
				}
			}
		})
	}
}

// TestImportNext: other files are refused, until generation says that they are the next.
func TestImportNext(t *testing.T) {
	root := new(operator).add(t, "P-256", "Root", nil)
	one := root.add(t, "P-256", "Factory", nil)
	renewed := root.addKey(t, one.keys[1], "Factory", nil)
	two := root.add(t, "P-384", "Factory", nil)
	other := new(operator).add(t, "P-256", "Other Root", nil).add(t, "P-256", "Factory 2", nil)
	dir := standing(t)
	refused := func(says string, o *operator, more string) {
		t.Helper()
		cert, key := o.files(t)
		before := state(t, dir)
		err := New(Options{Clock: func() time.Time { return now }}).Configure(t.Context(), []byte("dir: "+dir+"\n"+importing(cert, key, more)))
		want(t, err, codes.FailedPrecondition)
		if err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want it to say %q", err, says)
		}
		if before != state(t, dir) {
			t.Error("a refused import changed the directory")
		}
	}
	start := func(o *operator, more string) *CA {
		t.Helper()
		cert, key := o.files(t)
		return open(t, dir, Options{}, importing(cert, key, more))
	}
	c := start(one, "")
	q := request(t, "one")
	q.Issuer = "factory"
	first := issue(t, c, q)
	shut(t, c)
	refused("to roll over to it, add `generation: 2`", two, "")
	refused("generation: 3, but the CA stands at generation 1", two, ", generation: 3")
	shut(t, start(renewed, ", generation: 2"))
	refused("generation: 1, but the CA stands at generation 2", one, "")
	shut(t, start(renewed, ", generation: 2"))
	shut(t, start(two, ", generation: 3"))
	refused("has the key of generation 1, which was given up since", renewed, ", generation: 4")
	c = start(other, ", generation: 4")
	ca := c.open.Load().describe(c.open.Load().issuer("factory"), now)
	if !slices.Equal(ca.CRLs, []string{"factory", "factory.4", "factory.1"}) { // under 3 nothing was issued
		t.Errorf("CRLs %q", ca.CRLs)
	}
	if len(ca.Rollover) != 2 || !bytes.Equal(ca.Rollover[0], root.certs[0].Raw) || !bytes.Equal(ca.Rollover[1], one.certs[1].Raw) {
		t.Errorf("%d rollover certificates", len(ca.Rollover))
	}
	if again := issue(t, c, q); !bytes.Equal(first.Raw, again.Raw) {
		t.Error("another certificate for an ID from before")
	}
	want(t, c.Revoke(t.Context(), &backend.RevokeRequest{Issuer: other.certs[1].RawSubject, Serial: first.SerialNumber.Bytes()}), codes.NotFound)
	revoke(t, c, first, 1, now)
	if l := crlOf(t, c, "factory.1"); len(l.RevokedCertificateEntries) != 1 || l.CheckSignatureFrom(one.certs[1]) != nil {
		t.Errorf("%d entries", len(l.RevokedCertificateEntries))
	}
	if l := crlOf(t, c, "factory"); len(l.RevokedCertificateEntries) != 0 { // another name: another CA
		t.Errorf("%d entries", len(l.RevokedCertificateEntries))
	}
}

func TestImportRefused(t *testing.T) {
	root := new(operator).add(t, "P-256", "Root", nil)
	good := root.add(t, "P-256", "Factory", nil)
	with := func(change func(c *x509.Certificate)) *operator { return root.add(t, "P-256", "Factory", change) }
	swapped := &operator{good.certs, []crypto.Signer{good.keys[1], good.keys[0]}}
	short := &operator{good.certs[1:], good.keys[1:]}
	for what, x := range map[string]struct {
		o    *operator
		says string
	}{
		"another key":    {swapped, "import.key: "},
		"no root":        {short, "is not self-signed"},
		"not a CA":       {with(func(c *x509.Certificate) { c.IsCA = false }), "is not a CA's certificate"},
		"no keyCertSign": {with(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }), "lacks keyCertSign"},
		"no cRLSign":     {with(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCertSign }), "signs certificates and CRLs"},
		"path length": {new(operator).add(t, "P-256", "Root", func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 0, true }).add(t, "P-256", "Factory", nil),
			"path length"},
		"expired":       {with(func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) }), "which is not now"},
		"not yet":       {with(func(c *x509.Certificate) { c.NotBefore = now.Add(time.Second) }), "which is not now"},
		"another chain": {&operator{[]*x509.Certificate{new(operator).add(t, "P-256", "Root", nil).certs[0], good.certs[1]}, good.keys}, "was not issued by its root"},
		"another name":  {&operator{[]*x509.Certificate{new(operator).addKey(t, root.keys[0], "Root 2", nil).certs[0], good.certs[1]}, good.keys}, "its issuer is named"},
		"critical extension": {with(func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: []int{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}}
		}), "critical extension 1.2.3.4"},
		"the name of another CA": {new(operator).add(t, "P-256", "Root", nil).add(t, "P-256", "x", func(c *x509.Certificate) {
			c.Subject = pkix.Name{CommonName: "Muster Issuing CA", Organization: []string{"Muster"}}
		}), "have one name"},
	} {
		t.Run(what, func(t *testing.T) {
			cert, key := x.o.files(t)
			err := New(Options{Clock: func() time.Time { return now }}).Configure(t.Context(), []byte("dir: "+standing(t)+"\n"+importing(cert, key, "")))
			want(t, err, codes.FailedPrecondition)
			if err != nil && !strings.Contains(err.Error(), x.says) {
				t.Errorf("%v, want it to say %q", err, x.says)
			}
		})
	}
	cert, key := good.files(t)
	for says, conf := range map[string]string{
		"the CA that stands was made here": strings.Replace(importing(cert, key, ""), "factory", "ec", 1),
		"no such file":                     importing(cert+"x", key, ""),
		"no private key in PEM":            importing(cert, write(t, "key.pem", []byte("nothing")), ""),
		"openssl pkey -in":                 importing(cert, write(t, "key.pem", pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte{1}})), ""),
		"is not a private key in plain":    importing(cert, write(t, "key.pem", pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: []byte{1}})), ""),
		"others can read it":               importing(cert, opened(t, key), ""),
	} {
		err := New(Options{Clock: func() time.Time { return now }}).Configure(t.Context(), []byte("dir: "+standing(t)+"\n"+conf))
		want(t, err, codes.FailedPrecondition)
		if err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want it to say %q", err, says)
		}
	}
}

// TestImportKeyForms: what openssl writes is read: PKCS#8, SEC 1 behind its parameters, PKCS#1.
func TestImportKeyForms(t *testing.T) {
	for form, args := range map[string][]string{
		"sec1":  {"ecparam", "-genkey", "-name", "prime256v1"},
		"pkcs8": {"genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"},
		"pkcs1": {"genrsa", "-traditional", "2048"},
	} {
		t.Run(form, func(t *testing.T) {
			dir := t.TempDir()
			key, cert := filepath.Join(dir, "key.pem"), filepath.Join(dir, "cert.pem")
			if form == "pkcs1" {
				openssl(t, "genrsa", "-traditional", "-out", key, "2048")
			} else {
				openssl(t, append(args, "-out", key)...)
			}
			if err := os.Chmod(key, 0o600); err != nil {
				t.Fatal(err)
			}
			openssl(t, "req", "-x509", "-key", key, "-out", cert, "-subj", "/CN=Own Root", "-days", "3650",
				"-addext", "keyUsage=critical,keyCertSign,cRLSign")
			c := open(t, standing(t), Options{Clock: time.Now}, importing(cert, key, ""))
			if n := len(c.open.Load().issuer("factory").chain); n != 1 {
				t.Errorf("a chain of %d", n)
			}
		})
	}
}

func write(t testing.TB, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// opened returns a copy that others can read.
func opened(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	path = write(t, "open.pem", data)
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}
