package e2e

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/gateway/pkix/pkixtest"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
	"github.com/muster-pki/muster/protocols/cms"
)

// chainWire is a protocol by which a device shows a vendor's certificate.
type chainWire struct {
	name     string
	protocol string
	listener string
	profile  string
	stage    string // that judges it
	// present asks for a certificate for the name with the chain of the case, and says what it was refused with.
	present func(g *instance, endpoint string, c pkixtest.Case, name string) (issued *x509.Certificate, refusal string)
}

var chainWires = []chainWire{
	{"cmp", "cmp", "http", "device", "vendor-ca", presentCMP},
	{"est", "est", "https", "device", "client-certificate", presentEST(tls.VersionTLS13)},
	{"est-12", "est", "https", "device", "client-certificate", presentEST(tls.VersionTLS12)},
	{"est-proxied", "est", "proxied", "device", "client-certificate", presentProxied},
}

// Every chain that no endpoint may accept, shown to real ones: each endpoint trusts the root of its case and nothing else.
func TestBadChains(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	edited(t, dir, "\nlisteners:\n", "\nlisteners:\n  proxied: {address: 127.0.0.1:0, proxies: [{name: edge, addresses: [127.0.0.1], client-certificate: rfc9440}]}\n")
	cases := pkixtest.BadChains(t, time.Now())
	config, err := os.OpenFile(filepath.Join(dir, "muster.yaml"), os.O_APPEND|os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(config.Name()); err != nil || bytes.LastIndex(text, []byte("\nendpoints:")) < bytes.LastIndex(text, []byte("\nprofiles:")) {
		t.Fatalf("the quickstart's configuration does not end with its endpoints: %v", err)
	}
	for i, c := range cases {
		files := chainFiles(t, filepath.Join(dir, "chains", fmt.Sprint(i)), c)
		for _, w := range chainWires {
			fmt.Fprintf(config, "\n  %s:\n    protocol: %s\n    listeners: [%s]\n    profile: %s\n    enroll:\n      - %s: {%s, purposes: [clientAuth]}\n      - names: {san: {dns: {}}}\n",
				chainEndpoint(w, i), w.protocol, w.listener, w.profile, w.stage, files)
		}
	}
	if err := config.Close(); err != nil {
		t.Fatal(err)
	}
	g := startIn(t, dir)
	explained := map[string]bool{}
	logged := map[string]*regexp.Regexp{} // by reference
	for i, c := range cases {
		for _, w := range chainWires {
			t.Run(c.Name+"/"+w.name, func(t *testing.T) {
				name := chainEndpoint(w, i) + "-device"
				issued, refusal := w.present(g, chainEndpoint(w, i), c, name)
				entries := g.ledger(name)
				if c.WantErr == nil {
					if issued == nil || refusal != "" || len(entries) != 1 {
						t.Fatalf("a sound chain got %q, %d in the ledger", refusal, len(entries))
					}
					return
				}
				if issued != nil || refusal == "" || len(entries) != 0 {
					t.Errorf("a chain that is %v: refused with %q, %d in the ledger", c.WantErr, refusal, len(entries))
				}
				t.Log(refusal)
				if chainOver(c) || c.Name == "P-224" || w.name == "cmp" && beforeTheStage(c) {
					return // there was no request, or none that a stage could look at
				}
				story := w.name + c.WantErr.Error()
				reference := chainTold(t, c, refusal)
				logged[reference] = chainFound(w.stage, c)
				if explained[story] {
					return
				}
				explained[story] = true
				if told := g.muster("explain", reference); !logged[reference].MatchString(told) {
					t.Errorf("explain does not say %v:\n%s", logged[reference], told)
				}
			})
		}
	}
	chainLogged(g, logged)
}

// chainOver reports whether the chain is beyond what any protocol reads.
func chainOver(c pkixtest.Case) bool { return errors.Is(c.WantErr, pkix.ErrMalformed) }

// chainTells is all that a device learns of a chain that is refused, by any protocol: nothing about which certificate, or what is
// configured.
var chainTells = map[error]string{
	pkix.ErrUsage: "the certificate is not for this use", pkix.ErrUntrusted: "the certificate is not trusted here",
	pkix.ErrWeak: "the certificate's key or algorithm is not accepted", pkix.ErrAlgorithm: "the certificate's key or algorithm is not accepted",
	pkix.ErrExpired: "the certificate, or one above it, is not valid now", pkix.ErrRevoked: "the certificate is revoked",
	pkix.ErrRevocationUnknown: "the request cannot be checked now",
}

// chainTold checks what a refusal says to the device, and returns its reference.
func chainTold(t *testing.T, c pkixtest.Case, refusal string) string {
	t.Helper()
	told, reference, _ := strings.Cut(refusal, " (reference ")
	if _, text, _ := strings.Cut(told, " "); text != chainTells[c.WantErr] || reference == "" {
		t.Fatalf("told %q, want %q", refusal, chainTells[c.WantErr])
	}
	return strings.TrimSuffix(reference, ")")
}

// chainFound is what the operator reads: the stage, and why.
func chainFound(stage string, c pkixtest.Case) *regexp.Regexp {
	return regexp.MustCompile(stage + ".*" + regexp.QuoteMeta(c.WantErr.Error()))
}

// chainLogged stops the gateway and checks that its log has all that was found.
func chainLogged(g *instance, logged map[string]*regexp.Regexp) {
	g.t.Helper()
	g.stop()
	log := g.stderr.String()
	for reference, found := range logged {
		if !slices.ContainsFunc(strings.Split(log, "\n"), func(line string) bool { return strings.Contains(line, reference) && found.MatchString(line) }) {
			g.t.Errorf("the log does not say of %s: %v", reference, found)
		}
	}
}

func chainEndpoint(w chainWire, i int) string { return fmt.Sprintf("chain-%s-%03d", w.name, i) }

// chainFiles writes what a stage has to know about a case, and returns its settings. An endpoint that trusts nobody has an
// unrelated root, since a stage without any does not start.
func chainFiles(t *testing.T, dir string, c pkixtest.Case) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, ders ...[]byte) string {
		var b bytes.Buffer
		for _, der := range ders {
			if err := pem.Encode(&b, &pem.Block{Type: kind, Bytes: der}); err != nil {
				t.Fatal(err)
			}
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	roots := c.Roots
	if len(roots) == 0 {
		roots = pkixtest.BadChains(t, time.Now())[0].Roots
	}
	var ders [][]byte
	for _, root := range roots {
		ders = append(ders, root.Raw)
	}
	settings := "cas: [" + write("roots.pem", "CERTIFICATE", ders...) + "]"
	if c.CRLs != nil {
		// A list counts when a CA at hand signed it.
		settings += ", crls: [" + write("crls.pem", "X509 CRL", c.CRLs...) + "], intermediates: [" + write("issuing.pem", "CERTIFICATE", c.Chain[1].Raw) + "]"
	}
	return settings
}

// presentCMP is an ir that the key of the chain signs.
func presentCMP(g *instance, endpoint string, c pkixtest.Case, name string) (*x509.Certificate, string) {
	g.t.Helper()
	d := g.cmpDevice(name)
	d.url += "/p/" + endpoint
	d.nonce = random(16)
	out := &cmpmsg.Outgoing{
		Header: cmpmsg.Header{
			PVNO: 2, Sender: cmpmsg.GeneralDirectoryName(c.Chain[0].RawSubject), Recipient: cmpmsg.GeneralDirectoryName([]byte{0x30, 0}),
			MessageTime: time.Now().UTC().Truncate(time.Second), TransactionID: d.tid, SenderNonce: d.nonce,
			ProtectionAlg: &cmpmsg.AlgorithmIdentifier{Raw: chainAlgorithm(c.Key)},
		},
		Body: d.request(cmpmsg.TypeIR),
	}
	for _, cert := range c.Chain {
		out.ExtraCerts = append(out.ExtraCerts, cert.Raw)
	}
	der, err := out.Protect(func(part []byte) ([]byte, error) {
		if sum := sha256.Sum256(part); chainByHand(c.Key) {
			return c.Key.Sign(rand.Reader, sum[:], crypto.SHA256)
		}
		_, signature, err := pkix.Sign(c.Key, part)
		return signature, err
	})
	if err != nil {
		g.t.Fatal(err)
	}
	answer, err := d.post(der)
	if err != nil {
		g.t.Fatal(err)
	}
	m, err := d.take(answer)
	if err != nil {
		g.t.Fatal(err)
	}
	return d.cert, cmpRefusal(m)
}

// cmpRefusal is all that an answer says of why there is no certificate, "" where there is one.
func cmpRefusal(m *cmpmsg.Message) string {
	fail := failure(m)
	if fail == "" {
		return ""
	}
	var s cmpmsg.PKIStatusInfo
	switch b := m.Body.(type) {
	case *cmpmsg.ErrorMsg:
		s = b.Status
	case *cmpmsg.CertRepMessage:
		s = b.Responses[0].Status
	}
	return fail + ": " + strings.Join(s.Text, " ")
}

// chainByHand reports whether the key is one that gateway/pkix would not sign with: weak ones, which the gateway has to find out.
func chainByHand(key crypto.Signer) bool {
	_, err := pkix.SignatureAlgorithm(key)
	return err != nil
}

func chainAlgorithm(key crypto.Signer) []byte {
	alg, err := pkix.SignatureAlgorithm(key)
	switch key.Public().(type) {
	case *ecdsa.PublicKey:
		if err != nil {
			alg = []byte("\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02") // ecdsa-with-SHA256
		}
	case *rsa.PublicKey:
		if err != nil {
			alg = []byte("\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b\x05\x00") // sha256WithRSAEncryption
		}
	}
	return alg
}

// presentEST is a simpleenroll over TLS of a version with the chain. A key or a chain that TLS itself does not take is refused as well: then
// the handshake says so, or the request that follows it.
func presentEST(version uint16) func(*instance, string, pkixtest.Case, string) (*x509.Certificate, string) {
	return func(g *instance, endpoint string, c pkixtest.Case, name string) (*x509.Certificate, string) {
		g.t.Helper()
		client := g.client(nil)
		shown := tls.Certificate{PrivateKey: c.Key, Leaf: c.Chain[0]}
		for _, cert := range c.Chain {
			shown.Certificate = append(shown.Certificate, cert.Raw)
		}
		conf := client.Transport.(*http.Transport).TLSClientConfig
		conf.MinVersion, conf.MaxVersion = version, version
		if _, standard := c.Key.(*rsa.PrivateKey); !standard {
			if _, isRSA := c.Key.Public().(*rsa.PublicKey); isRSA {
				// It signs with PKCS #1 v1.5 only, which TLS 1.3 has no more.
				conf.MinVersion, conf.MaxVersion, shown.SupportedSignatureAlgorithms = tls.VersionTLS12, tls.VersionTLS12, []tls.SignatureScheme{tls.PKCS1WithSHA256}
			}
		}
		// Whatever CAs the server names.
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &shown, nil }
		defer client.CloseIdleConnections()
		d := newDevice(g.t, name)
		return enrolled(g.post(g.t.Context(), client, endpoint+"/simpleenroll", "", "", "application/pkcs10", []byte(toBase64(d.csr))))
	}
}

// presentProxied is a simpleenroll by a proxy, which passes the chain on as RFC 9440 has it: there is no handshake that could refuse it.
func presentProxied(g *instance, endpoint string, c pkixtest.Case, name string) (*x509.Certificate, string) {
	g.t.Helper()
	req, err := http.NewRequestWithContext(g.t.Context(), http.MethodPost, "http://"+g.listening("proxied")+"/.well-known/est/"+endpoint+"/simpleenroll",
		strings.NewReader(toBase64(newDevice(g.t, name).csr)))
	if err != nil {
		g.t.Fatal(err)
	}
	var chain []string
	for _, cert := range c.Chain {
		chain = append(chain, ":"+toBase64(cert.Raw)+":")
	}
	req.Header.Set("Content-Type", "application/pkcs10")
	req.Header.Set("X-Forwarded-For", "192.0.2.1")
	req.Header.Set("X-Forwarded-Proto", "https")
	req.Header.Set("Client-Cert", chain[0])
	if len(chain) > 1 {
		req.Header.Set("Client-Cert-Chain", strings.Join(chain[1:], ", "))
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		g.t.Fatal(err)
	}
	defer res.Body.Close()
	a := &answer{status: res.StatusCode}
	body, err := io.ReadAll(res.Body)
	if err == nil && a.status == http.StatusOK {
		a.cert, err = certificateIn(body)
	}
	a.body = string(body)
	return enrolled(a, err)
}

func enrolled(a *answer, err error) (*x509.Certificate, string) {
	if err != nil {
		return nil, "TLS: " + err.Error()
	}
	if a.status != http.StatusOK {
		return a.cert, fmt.Sprint(a.status, " ", strings.TrimSpace(a.body))
	}
	return a.cert, ""
}

// certificateIn is the one in an EST server's answer.
func certificateIn(body []byte) (*x509.Certificate, error) {
	der, err := base64.StdEncoding.DecodeString(strings.Map(dropSpace, string(body)))
	if err != nil {
		return nil, err
	}
	certs, err := cms.ParseCertsOnly(der, cms.Limits{})
	if err != nil || len(certs) != 1 {
		return nil, fmt.Errorf("%d certificates, %w", len(certs), err)
	}
	return x509.ParseCertificate(certs[0])
}
