package e2e

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	x509pkix "crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// attempt is one request, and all that authenticates it.
type attempt struct {
	protocol, endpoint string
	cn                 string
	leaf               *leaf // of the vendor, or of the gateway to renew
	renew              bool
	rsa                bool   // for an RSA key, in CMP and EST too
	user, password     string // EST
	challenge          string // SCEP
	ref, secret        string // CMP
}

// leaf is a certificate with its key.
type leaf struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// stageRow is a stage that stands in a pipeline, and what it allows and denies.
type stageRow struct {
	name      string
	protocols string
	yaml      string         // the stage, after what has to stand before it
	good      func(*attempt) // makes of an attempt with the vendor's certificate one that is allowed
	bad       func(*attempt) // makes of that one that is denied
	badYAML   string         // or: what stands there instead, and denies it
	mute      string         // what stands there instead, and cannot answer
	deaf      bool           // or: it cannot when the store does not answer
	renew     bool
}

// stageTable is a gateway with an endpoint for each row, and the certificates that its requesters have.
type stageTable struct {
	*instance
	t                 *testing.T
	dir               string
	vendor            *leaf // its CA
	listed, unlisted  *leaf // vendor's, of serial numbers in the inventory and not
	foreign           *leaf // of another CA
	rsaListed, rsaNot *leaf // the same for SCEP
	rsaForeign        *leaf
	n                 int
}

const allThree = "cmp est scep"

func (w *stageTable) rows() []stageRow {
	foreign := func(a *attempt) {
		a.leaf = w.foreign
		if a.protocol == "scep" {
			a.leaf = w.rsaForeign
		}
	}
	without := func(a *attempt) { a.leaf = nil }
	secret := func(ref string) func(*attempt) {
		return func(a *attempt) { a.leaf, a.ref, a.secret = nil, ref, "secret of "+ref+", which is long" }
	}
	wrongSecret := func(a *attempt) { a.secret = "another secret, as long as that" }
	return []stageRow{
		{name: "client-certificate", protocols: allThree, yaml: "client-certificate: {cas: [vendor.pem]}", bad: foreign,
			mute: "client-certificate: {cas: [vendor.pem], crls: [stale.crl]}"},
		{name: "vendor-ca", protocols: allThree, yaml: "vendor-ca: {cas: [vendor.pem], serial: subject.serialNumber}", bad: foreign,
			mute: "vendor-ca: {cas: [vendor.pem], crls: [stale.crl]}"},
		{name: "vendor-ca, list", protocols: allThree, yaml: "vendor-ca: {cas: [vendor.pem], serial: subject.serialNumber, list: vendor.csv, enrollments: unlimited}", bad: func(a *attempt) {
			a.leaf = w.unlisted
			if a.protocol == "scep" {
				a.leaf = w.rsaNot
			}
		}},
		{name: "inventory", protocols: allThree, yaml: "vendor-ca: {cas: [vendor.pem], serial: subject.serialNumber}\n      - inventory: {enrollments: unlimited}", bad: func(a *attempt) {
			a.leaf = w.unlisted
			if a.protocol == "scep" {
				a.leaf = w.rsaNot
			}
		}, deaf: true},
		{name: "own-certificate", protocols: allThree, renew: true, yaml: "own-certificate: {endpoints: [cmp-base, est-base, scep-base]}", bad: foreign, deaf: true},
		{name: "password", protocols: "est", yaml: `password: {users: {op: "{sha256}` + sha256Hex("a password of an operator") + `"}}`,
			good: func(a *attempt) { a.leaf, a.user, a.password = nil, "op", "a password of an operator" }, bad: func(a *attempt) { a.password = "wrong" }},
		{name: "device-password", protocols: "est scep", yaml: "device-password: {by: [subject.commonName], uses: unlimited}", good: func(a *attempt) {
			a.leaf, a.cn, a.user, a.password, a.challenge = nil, "pass-1", "pass-1", "the password of pass-1, long", "the password of pass-1, long"
		}, bad: func(a *attempt) { a.password, a.challenge = "wrong", "wrong" }, deaf: true},
		{name: "challenge", protocols: "scep", yaml: `challenge: {secrets: {factory: "{sha256}` + sha256Hex("a challenge of the factory") + `"}}`,
			good: func(a *attempt) { a.leaf, a.challenge = nil, "a challenge of the factory" }, bad: func(a *attempt) { a.challenge = "wrong" }},
		{name: "challenge, issued", protocols: "est scep", yaml: "challenge: {issued: true, basic: true}", good: func(a *attempt) {
			made := strings.TrimSpace(w.muster("challenge", "new", "--endpoint", a.endpoint))
			a.leaf, a.user, a.password, a.challenge = nil, "anybody", made, made
		}, bad: func(a *attempt) { a.password, a.challenge = "wrong", "wrong" }, deaf: true},
		{name: "shared-secret", protocols: "cmp", yaml: "shared-secret: {secrets: {fixed: {file: fixed.secret}}}", good: secret("fixed"), bad: wrongSecret},
		{name: "shared-secret, devices", protocols: "cmp", yaml: "shared-secret: {devices: true}", good: func(a *attempt) {
			w.muster("secret", "add", "--endpoint", a.endpoint, "--reference", "dev", "--secret-file", filepath.Join(w.dir, "dev.secret"), "--replace")
			secret("dev")(a)
		}, bad: wrongSecret, deaf: true},
		{name: "shared-secret, inventory", protocols: "cmp", yaml: "shared-secret: {inventory: true}", good: secret("mac-1"), bad: wrongSecret, deaf: true},
		{name: "keys", protocols: allThree, yaml: "client-certificate: {cas: [vendor.pem]}\n      - keys: {allowed: [P-256, RSA-2048]}",
			badYAML: "client-certificate: {cas: [vendor.pem]}\n      - keys: {allowed: [P-384, RSA-4096]}"},
		{name: "names", protocols: allThree, yaml: `client-certificate: {cas: [vendor.pem]}` + "\n      - names: {common-name: 'n[0-9]+', san: {dns: {}}}",
			bad: func(a *attempt) { a.cn = "victim" }},
		{name: "nobody", protocols: allThree, yaml: "client-certificate: {cas: [vendor.pem]}", bad: without},
	}
}

func sha256Hex(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// TestStages is the table of all stages, in each protocol that can reach them: allowed, denied, held, and when the stage
// cannot answer; what the client got, and what was issued.
func TestStages(t *testing.T) {
	t.Parallel()
	w := newStageTable(t)
	var text strings.Builder
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "stage\tprotocol\tallow\tdeny\thold\tcannot answer")
	for i, row := range w.rows() {
		for _, protocol := range strings.Fields(row.protocols) {
			try := func(variant string, change func(*attempt)) (string, bool) {
				t.Helper()
				a := w.attempt(protocol, fmt.Sprintf("%s-%d-%s", protocol, i, variant), row)
				if change != nil {
					change(a)
				}
				return w.ask(a)
			}
			cell := func(variant, want string, change func(*attempt)) string {
				t.Helper()
				got, issued := try(variant, change)
				if issued != (want == "allow") || !isOutcome(protocol, want, got) {
					t.Errorf("%s in %s, %s: %s, issued %t\n%s", row.name, protocol, want, got, issued, w.muster("explain", "--last"))
				}
				return got
			}
			denied := "ok"
			if row.badYAML != "" {
				denied = "bad"
			}
			allow, deny, hold, mute := cell("ok", "allow", nil), cell(denied, "deny", row.bad), cell("held", "hold", nil), "-"
			switch {
			case row.mute != "":
				mute = cell("mute", "cannot answer", nil)
			case row.deaf:
				a := w.attempt(protocol, fmt.Sprintf("%s-%d-ok", protocol, i), row)
				deaf := filepath.Join(w.dir, "deaf")
				if err := os.WriteFile(deaf, nil, 0o600); err != nil {
					t.Fatal(err)
				}
				got, issued := w.ask(a)
				os.Remove(deaf)
				if issued || !isOutcome(protocol, "cannot answer", got) {
					t.Errorf("%s in %s, cannot answer: %s, issued %t", row.name, protocol, got, issued)
				}
				mute = got
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", row.name, protocol, allow, deny, hold, mute)
		}
	}
	table.Flush()
	t.Logf("\n%s", text.String())
}

// isOutcome reports whether what a client got is what it has to be told.
func isOutcome(protocol, want, got string) bool {
	switch want {
	case "allow":
		return got == "certificate"
	case "hold":
		return got == map[string]string{"cmp": "waiting", "est": "202", "scep": "PENDING"}[protocol]
	case "cannot answer":
		return got == map[string]string{"cmp": "systemUnavail", "est": "503", "scep": "HTTP 503"}[protocol]
	}
	for _, refusal := range map[string][]string{
		"cmp": {"badMessageCheck", "signerNotTrusted", "notAuthorized", "badCertTemplate", "badAlg"}, "est": {"400", "401", "403"},
		"scep": {"FAILURE badRequest", "FAILURE badAlg"},
	}[protocol] {
		if got == refusal {
			return true
		}
	}
	return false
}

// attempt is one that the row allows: with the vendor's certificate of a listed serial number, or one of ours to renew.
func (w *stageTable) attempt(protocol, endpoint string, row stageRow) *attempt {
	w.t.Helper()
	w.n++
	a := &attempt{protocol: protocol, endpoint: endpoint, cn: fmt.Sprintf("n%d", w.n), leaf: w.listed, renew: row.renew}
	if protocol == "scep" {
		a.leaf = w.rsaListed
	}
	if row.renew {
		base := *a
		base.renew, base.endpoint = false, protocol+"-base"
		if got, _ := w.ask(&base); got != "certificate" {
			w.t.Fatalf("no certificate to renew in %s: %s", protocol, got)
		}
		a.leaf = base.leaf
	}
	if row.good != nil {
		row.good(a)
	}
	return a
}

// ask sends the request and says what came back, and whether the CA's ledger has a certificate more. With one, it is the
// attempt's leaf.
func (w *stageTable) ask(a *attempt) (got string, issued bool) {
	w.t.Helper()
	before := len(w.ledger(""))
	switch a.protocol {
	case "cmp":
		got = w.askCMP(a)
	case "est":
		got = w.askEST(a)
	case "scep":
		got = w.askSCEP(a)
	}
	return got, len(w.ledger("")) > before
}

func (w *stageTable) askEST(a *attempt) string {
	d := &device{}
	operation := "simpleenroll"
	if a.leaf != nil {
		d.cert, d.key = a.leaf.cert, a.leaf.key
	}
	key := w.newKey(a)
	names := &x509.CertificateRequest{Subject: x509pkix.Name{CommonName: a.cn}} // no subjectAltName: our SCEP client has none either
	if a.renew {
		operation = "simplereenroll"
		names = &x509.CertificateRequest{RawSubject: a.leaf.cert.RawSubject}
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, names, key)
	if err != nil {
		w.t.Fatal(err)
	}
	got, err := w.post(w.t.Context(), w.client(d), a.endpoint+"/"+operation, a.user, a.password, "application/pkcs10", []byte(toBase64(csr)))
	if err != nil {
		w.t.Fatal(err)
	}
	if got.cert != nil {
		a.leaf = &leaf{got.cert, key}
		return "certificate"
	}
	return fmt.Sprint(got.status)
}

func (w *stageTable) askCMP(a *attempt) string {
	d := w.cmpDevice(a.cn)
	d.at(w.instance, a.endpoint)
	d.ref, d.secret, d.key = a.ref, []byte(a.secret), w.newKey(a)
	if a.leaf != nil {
		d.signer, d.chain = a.leaf.key, [][]byte{a.leaf.cert.Raw}
	}
	kind := cmpmsg.TypeIR
	if a.renew {
		kind, d.subject = cmpmsg.TypeKUR, a.leaf.cert.RawSubject
	}
	m, err := d.exchange(d.request(kind))
	if err != nil {
		w.t.Fatal(err)
	}
	rep, ok := m.Body.(*cmpmsg.CertRepMessage)
	switch {
	case ok && len(rep.Responses) == 1 && rep.Responses[0].Status.Status == cmpmsg.StatusWaiting:
		return "waiting"
	case d.cert == nil:
		return failure(m)
	}
	if m, err = d.exchange(d.certConf()); err != nil || m.Body.Type() != cmpmsg.TypePKIConf {
		w.t.Fatalf("certConf: %v", err)
	}
	a.leaf = &leaf{d.cert, d.key}
	return "certificate"
}

func (w *stageTable) askSCEP(a *attempt) string {
	d := w.scepDevice()
	d.path = "/scep/" + a.endpoint
	wish := scepWish{name: a.cn, challenge: a.challenge}
	if a.leaf != nil {
		wish.signer, wish.signerKey = a.leaf.cert, a.leaf.key
	}
	if a.renew {
		wish.kind, wish.name = "17", a.leaf.cert.Subject.CommonName
	}
	got := d.ask(wish)
	switch {
	case got.http != http.StatusOK:
		return fmt.Sprintf("HTTP %d", got.http)
	case got.status == "3":
		return "PENDING"
	case got.status == "2":
		return "FAILURE " + map[string]string{"0": "badAlg", "1": "badMessageCheck", "2": "badRequest", "3": "badTime", "4": "badCertId"}[got.failInfo]
	case got.cert == nil:
		return "status " + got.status
	}
	a.leaf = &leaf{got.cert, d.key}
	return "certificate"
}

// newKey is one for the request.
func (w *stageTable) newKey(a *attempt) crypto.Signer {
	w.t.Helper()
	if a.rsa {
		return rsaTestKey(w.t)
	}
	return ecTestKey(w.t)
}

// newStageTable starts the gateway.
func newStageTable(t *testing.T) *stageTable {
	w := &stageTable{t: t, dir: t.TempDir()}
	vendor, foreign := vendorOf(t), vendorOf(t)
	w.vendor = vendor
	w.listed, w.unlisted, w.foreign = vendor.issue(t, "SN1", ecTestKey(t)), vendor.issue(t, "SN9", ecTestKey(t)), foreign.issue(t, "SN1", ecTestKey(t))
	w.rsaListed, w.rsaNot, w.rsaForeign = vendor.issue(t, "SN1", rsaTestKey(t)), vendor.issue(t, "SN9", rsaTestKey(t)), foreign.issue(t, "SN1", rsaTestKey(t))
	stale, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: time.Now().Add(-48 * time.Hour), NextUpdate: time.Now().Add(-24 * time.Hour),
	}, vendor.cert, vendor.key)
	if err != nil {
		t.Fatal(err)
	}
	ra := raPEM(t)
	w.instance = nil
	rows := w.rows()
	w.instance = configured(t, stageConfig(rows), "vendor.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: vendor.cert.Raw})),
		"stale.crl", string(stale), "vendor.csv", "serial\nSN0\nSN1\n", "fixed.secret", "secret of fixed, which is long",
		"ra.pem", string(ra), "scep-ra.pem", rsaRA(t))
	for name, content := range map[string]string{
		"dev.secret": "secret of dev, which is long",
		"devices.csv": "name,serial,password-hash,secret\none,SN1,,\npass-1,,{sha256}" + sha256Hex("the password of pass-1, long") + ",\n" +
			"mac-1,,,\"secret of mac-1, which is long\"\n",
	} {
		if err := os.WriteFile(filepath.Join(w.dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w.again("MUSTER_STAGES_DEAF=" + filepath.Join(w.dir, "deaf"))
	w.muster("device", "import", filepath.Join(w.dir, "devices.csv"))
	return w
}

// stageConfig has endpoints for each row: as it stands, with what denies, held, and with what cannot answer.
func stageConfig(rows []stageRow) string {
	var b bytes.Buffer
	b.WriteString(`version: 1
listeners:
  http: {address: 127.0.0.1:0}
  https: {address: 127.0.0.1:0, tls: {}}
store: sqlite:muster.db
backends:
  local: {plugin: local, config: {dir: ca, issuers: {rsa: {bits: 2048}}}}
server-certificate: {backend: local}
profiles:
  device: {backend: local, validity: 30d}
  rsa: {backend: local, issuer: rsa, validity: 30d}
endpoints:
`)
	endpoint := func(protocol, name, op, pipeline string, held, first bool) {
		profile, listener, more := "device", "http", ""
		switch protocol {
		case "cmp":
			more = "    ra: {cert: ra.pem, key: ra.pem}\n"
		case "est":
			listener = "https"
		case "scep":
			profile, more = "rsa", "    ra: {cert: scep-ra.pem, key: scep-ra.pem}\n"
		}
		fmt.Fprintf(&b, "  %s:\n    protocol: %s\n    listeners: [%s]\n    profile: %s\n    default: %t\n%s    %s:\n      - %s\n",
			name, protocol, listener, profile, first, more, op, pipeline)
		if op == "enroll" && !strings.Contains(pipeline, "names:") {
			b.WriteString("      - names: {san: {dns: {}}}\n")
		}
		if held {
			b.WriteString("      - approval: {}\n")
		}
	}
	for _, p := range strings.Fields(allThree) {
		endpoint(p, p+"-base", "enroll", "vendor-ca: {cas: [vendor.pem]}", false, true)
	}
	// For TestOneIdentity: in each protocol, enrolling once by the vendor's certificate, and renewing what any of them issued.
	for _, p := range strings.Fields(allThree) {
		endpoint(p, "one-"+p, "enroll", "vendor-ca: {cas: [vendor.pem], serial: subject.serialNumber}\n      - inventory: {}", false, false)
		b.WriteString("    renew:\n      - own-certificate: {endpoints: [one-cmp, one-est, one-scep]}\n      - inventory: {}\n")
	}
	for i, row := range rows {
		op := "enroll"
		if row.renew {
			op = "renew"
		}
		for _, p := range strings.Fields(row.protocols) {
			name := func(variant string) string { return fmt.Sprintf("%s-%d-%s", p, i, variant) }
			endpoint(p, name("ok"), op, row.yaml, false, false)
			endpoint(p, name("held"), op, row.yaml, true, false)
			if row.badYAML != "" {
				endpoint(p, name("bad"), op, row.badYAML, false, false)
			}
			if row.mute != "" {
				endpoint(p, name("mute"), op, row.mute, false, false)
			}
		}
	}
	return b.String()
}

// vendorOf makes a vendor's CA. All have the same name.
func vendorOf(t *testing.T) *leaf {
	t.Helper()
	key := ecTestKey(t)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: x509pkix.Name{CommonName: "Vendor"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-72 * time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: []byte{1},
	}
	return &leaf{selfMade(t, tmpl, tmpl, key.Public(), key), key}
}

func (ca *leaf) issue(t *testing.T, serial string, key crypto.Signer) *leaf {
	t.Helper()
	return &leaf{selfMade(t, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: x509pkix.Name{CommonName: "radio", SerialNumber: serial},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		SubjectKeyId: random(20),
	}, ca.cert, key.Public(), ca.key), key}
}

func selfMade(t *testing.T, tmpl, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func ecTestKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func rsaTestKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// rsaRA is a SCEP RA certificate with its key, PEM.
func rsaRA(t *testing.T) string {
	t.Helper()
	key := rsaTestKey(t)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: x509pkix.Name{CommonName: "SCEP RA"}, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	cert := selfMade(t, tmpl, tmpl, key.Public(), key)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})) + string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
}
