package e2e

import (
	"crypto/x509"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/muster-pki/muster/protocols/cms"
)

const scepReplicaConfig = `version: 1
listeners:
  http: {address: 127.0.0.1:0}
store: %s
backends:
  third: {plugin: %s, sha256: %s, config: {dir: %s}}
profiles:
  mobile: {backend: third, validity: 30d, key-usage: [digitalSignature, keyEncipherment], ext-key-usage: [clientAuth]}
endpoints:
  scep:
    protocol: scep
    listeners: [http]
    default: true
    profile: mobile
    enroll:
      - challenge: {file: %s}
      - names: {}
      - approval: {approvers: 1}
    query:
      - own-certificate: {}
`

// PENDING and CertPoll (RFC 8894 sections 3.3.2.3, 3.3.3 and 4.4) on two replicas with a third party's CA that takes PKCS#10 alone, and
// from which the RA certificates are: what one replica holds the other answers for, over restarts of both, until it is approved or denied. Each replica
// has an RA key of its own, so that a client goes on with the certificate of whoever it asks.
func TestSCEPReplicas(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	shared, challenges := filepath.Join(dir, "ca"), filepath.Join(dir, "challenges")
	if err := os.Mkdir(shared, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(challenges, []byte(heldSecret(t, "held-challenge")), 0o600); err != nil {
		t.Fatal(err)
	}
	replicas, _ := startReplicasOn(t, "rsaca", dir, func(dsn, plugin, sum, _ string) string {
		return fmt.Sprintf(scepReplicaConfig, dsn, plugin, sum, shared, challenges)
	}, func(g *instance) map[string]string {
		return map[string]string{"MUSTER_HTTP": "http://" + g.listening("http")}
	})
	a, b := replicas[0], replicas[1]

	// The RA's certificate is the third party's (sections 2.1.2 and 4.2.1.2), of the kind that SCEP needs.
	root, err := os.ReadFile(filepath.Join(shared, "root.crt"))
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := x509.ParseCertificate(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range replicas {
		ra, err := g.scepRA()
		if err != nil {
			t.Fatal(err)
		}
		if err := ra.CheckSignatureFrom(issuer); err != nil || ra.KeyUsage != x509.KeyUsageDigitalSignature|x509.KeyUsageKeyEncipherment {
			t.Errorf("the RA certificate: key usage %b, %v", ra.KeyUsage, err)
		}
	}

	again := func(g *instance) {
		t.Helper()
		g.stop()
		g.start(exec.Command(binary, "serve", "--config", filepath.Join(g.dir, "gateway.yaml"), "--data", g.dir, "--instance", filepath.Base(g.dir)))
		g.env = map[string]string{"MUSTER_HTTP": "http://" + g.listening("http")}
	}
	// at is the device as it talks to a replica: with that one's RA.
	at := func(d *scepDevice, g *instance) *scepDevice {
		t.Helper()
		ra, err := g.scepRA()
		if err != nil {
			t.Fatal(err)
		}
		there := *d
		there.g, there.ra = g, ra
		return &there
	}
	poll := func(d *scepDevice, g *instance, tid string) *scepAnswer {
		t.Helper()
		there := at(d, g)
		// IssuerAndSubject (section 3.3.3).
		envelope, err := cms.Encrypt([]byte{0x30, 4, 0x30, 0, 0x30, 0}, there.ra, cms.AES128)
		if err != nil {
			t.Fatal(err)
		}
		return there.ask(scepWish{kind: "20", tid: tid, envelope: envelope})
	}

	d, stranger, denied := a.scepDevice(), a.scepDevice(), a.scepDevice()
	if got := d.ask(scepWish{name: "polls", challenge: "held-challenge", tid: "77"}); got.status != "3" {
		t.Fatalf("%v", got)
	}
	if got := denied.ask(scepWish{name: "in-vain", challenge: "held-challenge", tid: "78"}); got.status != "3" {
		t.Fatalf("%v", got)
	}
	id, vain := a.held("CN=polls"), a.held("CN=in-vain")
	for what, g := range map[string]*instance{"where it asked": a, "at the other replica": b} {
		if got := poll(d, g, "77"); got.status != "3" {
			t.Errorf("%s: %v", what, got)
		}
	}
	again(a)
	again(b)
	for what, g := range map[string]*instance{"where it asked": a, "at the other replica": b} {
		if got := poll(d, g, "77"); got.status != "3" {
			t.Errorf("%s, after a restart: %v", what, got)
		}
	}
	b.muster("approve", id, "--reason", "it is on the list")
	a.muster("deny", vain, "--reason", "nobody knows it")

	// Another key learns nothing, before and after: badCertId in the words for a transactionID that nobody used.
	var words []string
	for _, tid := range []string{"77", "78", "never-used"} {
		got := poll(stranger, b, tid)
		if got.status != "2" || got.failInfo != "4" {
			t.Errorf("a stranger polls %s: %v", tid, got)
		}
		words = append(words, referenceText.ReplaceAllString(got.text, ""))
	}
	if words[0] != words[2] || words[1] != words[2] {
		t.Errorf("a stranger is told %q", words)
	}
	again(b)
	var certs []*x509.Certificate
	for what, g := range map[string]*instance{"where it asked": a, "at the other replica": b} {
		got := poll(d, g, "77")
		if got.cert == nil || !d.key.PublicKey.Equal(got.cert.PublicKey) || got.cert.CheckSignatureFrom(issuer) != nil {
			t.Fatalf("%s, approved: %v", what, got)
		}
		certs = append(certs, got.cert)
		if got := poll(denied, g, "78"); got.status != "2" || got.failInfo != "2" || got.cert != nil || strings.Contains(got.text, "nobody knows it") {
			t.Errorf("%s, denied: %v", what, got)
		}
	}
	if !certs[0].Equal(certs[1]) {
		t.Error("two replicas gave two certificates")
	}

	// GetCert (section 4.5) at either: what one had issued the other tells of.
	get := func(g *instance) *scepAnswer {
		t.Helper()
		there := at(d, g)
		return there.ask(scepWish{kind: "21", signer: certs[0], envelope: there.issuerAndSerial(certs[0].RawIssuer, certs[0].SerialNumber)})
	}
	for what, g := range map[string]*instance{"at one": a, "at the other": b} {
		if got := get(g); got.cert == nil || !got.cert.Equal(certs[0]) {
			t.Errorf("GetCert %s: %v", what, got)
		}
	}
}
