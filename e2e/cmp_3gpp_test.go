package e2e

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // what is refused
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// vendorFactory makes a vendor's root, two CAs below it and devices with certificates of the lowest, and another vendor whose
// CAs have the same names. sha1-* have SHA-1 in them: the device's own certificate, or its CA's.
const vendorFactory = `
	printf 'basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n' > ca.ext
	printf 'basicConstraints=CA:FALSE\nkeyUsage=digitalSignature\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n' > device.ext
	certify() { # NAME KEY SUBJECT ISSUER KIND DIGEST
		openssl req -new -key "$2.key" -subj "$3" -out tmp.csr
		openssl x509 -req -in tmp.csr -CA "$4.pem" -CAkey "${4#sha1-}.key" -CAcreateserial -days 3650 -extfile "$5.ext" "-$6" -out "$1.pem" 2>/dev/null
	}
	for v in acme foreign; do
		for ca in root ca1 ca2; do ` + ecKey + `$v-$ca.key; done
		openssl req -x509 -new -key $v-root.key -subj "/O=ACME/CN=ACME Device Root" -days 7300 -out $v-root.pem
		certify $v-ca1 $v-ca1 "/O=ACME/CN=ACME Policy CA" $v-root ca sha256
		certify $v-ca2 $v-ca2 "/O=ACME/CN=ACME Factory CA" $v-ca1 ca sha384
	done
	for n in 1 2 3 4 9; do ` + ecKey + `bs$n.key; certify bs$n bs$n "/O=ACME/CN=gNB/serialNumber=ACME-00000$n" acme-ca2 device sha256; done
	certify foreign bs2 "/O=ACME/CN=gNB/serialNumber=ACME-000002" foreign-ca2 device sha256
	certify sha1-bs2 bs2 "/O=ACME/CN=gNB/serialNumber=ACME-000002" acme-ca2 device sha1
	certify sha1-acme-ca2 acme-ca2 "/O=ACME/CN=ACME Factory CA" acme-ca1 ca sha1
	cp bs2.pem below-sha1.pem
	cat acme-ca1.pem acme-ca2.pem > chain.pem                     # the lower one last
	cat foreign-ca1.pem foreign-ca2.pem > foreign-chain.pem
	cat acme-ca1.pem sha1-acme-ca2.pem > sha1-chain.pem
	mkdir -p "$MUSTER_DATA/vendor-ca/acme"; cp acme-root.pem "$MUSTER_DATA/vendor-ca/acme/root.pem"
`

// baseStation is openssl as a base station of the vendor's: bs FILE of its certificate, KEY, FILE of its CAs, and what it asks
// for. It gives itself no name.
const baseStation = `bs() { cert=$1.pem key=$2.key chain=$3.pem; shift 3; openssl cmp -config '' -batch -server "$MUSTER_HTTP" -path .well-known/cmp/p/ran/initialization -trusted root.pem \
	-cert $cert -key $key -extracerts $chain -subject / "$@" 2>>cmp.log || { cat cmp.log; return 1; }; }
	rm -f cmp.log
`

// baseStations starts the gateway on configs/3gpp.yaml as it stands, but for its addresses and the place of its data.
func baseStations(t *testing.T) (g *instance, dir string) {
	t.Helper()
	data := filepath.Join(t.TempDir(), "data")
	dir = t.TempDir()
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]*strings.Replacer{
		"3gpp.yaml":    strings.NewReplacer("127.0.0.1:8080", "127.0.0.1:0", "127.0.0.1:8081", "127.0.0.1:0", "127.0.0.1:8443", "127.0.0.1:0", "data/", ""),
		"3gpp.serials": strings.NewReplacer("ACME-000001;", "ACME-000001;gNB;here\nACME-000003;gNB;here\nACME-000004;"),
	} {
		text, err := os.ReadFile(filepath.Join("..", "configs", name))
		if err != nil {
			t.Fatal(err)
		}
		to := strings.Replace(name, "3gpp.yaml", "gateway.yaml", 1)
		if err := os.WriteFile(filepath.Join(data, to), []byte(change.Replace(string(text))), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	g = &instance{t: t, dir: data, env: map[string]string{"MUSTER_DATA": data}}
	g.sh(dir, vendorFactory)
	t.Cleanup(func() { g.stop() })
	g.again()
	g.sh(dir, `cp "$MUSTER_CA" root.pem`)
	return g, dir
}

func fileOf(t testing.TB, dir, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func messageIn(t testing.TB, dir, name string) *cmpmsg.Message {
	t.Helper()
	m, err := cmpmsg.Parse(fileOf(t, dir, name))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return m
}

// signedBy reports whether the certificate's key made the message's protection, and the header names it.
func signedBy(m *cmpmsg.Message, c *x509.Certificate) bool {
	name, ok := cmpmsg.DirectoryName(m.Header.Sender)
	return ok && pkix.SameName(name, c.RawSubject) && bytes.Equal(m.Header.SenderKID, c.SubjectKeyId) && m.Header.ProtectionAlg != nil &&
		pkix.VerifySignature(c.PublicKey, m.Header.ProtectionAlg.Raw, m.Protected(), m.Protection) == nil
}

// The workflow of 3GPP TS 33.310 clause 9 in 15 steps, with openssl as the base station; then renewal.
func TestCMP3GPP(t *testing.T) {
	g, dir := baseStations(t)
	g.sh(dir, ecKey+`op.key; `+baseStation+`bs bs1 bs1 chain -cmd ir -newkey op.key -implicit_confirm -certout op.pem -extracertsout ip.chain -cacertsout pubs.pem \
		-reqout ir.der,certConf.der -rspout ip.der,pkiconf.der`)
	ir, ip, certConf, pkiconf := messageIn(t, dir, "ir.der"), messageIn(t, dir, "ip.der"), messageIn(t, dir, "certConf.der"), messageIn(t, dir, "pkiconf.der")
	root, vendor, op := certificates(t, filepath.Join(dir, "root.pem"))[0], certificates(t, filepath.Join(dir, "bs1.pem"))[0], certificates(t, filepath.Join(dir, "op.pem"))[0]
	var asked cmpmsg.CertReqMsg
	if b, ok := ir.Body.(*cmpmsg.CertReqMessages); ok && b.Kind == cmpmsg.TypeIR && len(b.Messages) == 1 {
		asked = b.Messages[0]
	} else {
		t.Fatalf("ir: %+v", ir.Body)
	}
	rep, ok := ip.Body.(*cmpmsg.CertRepMessage)
	if !ok || len(rep.Responses) != 1 {
		t.Fatalf("ip: %+v", ip.Body)
	}
	ra, err := x509.ParseCertificate(ip.ExtraCerts[0])
	if err != nil {
		t.Fatal(err)
	}
	told := g.muster("explain", "--last", "--device", "ACME-000001")
	says := func(words ...string) bool {
		for _, w := range words {
			if !strings.Contains(told, w) {
				t.Logf("explain does not say %q:\n%s", w, told)
				return false
			}
		}
		return true
	}

	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\twho\tstep\tchecked")
	for i, step := range []struct {
		who, what, checked string
		check              func() bool
	}{
		{"device", "finds the RA/CA's address", "the URL takes POST alone; another one is 404", func() bool {
			return strings.HasPrefix(g.sh(dir, `curl -s -o /dev/null -w '%{http_code} ' "$MUSTER_HTTP/.well-known/cmp/p/ran/initialization" "$MUSTER_HTTP/.well-known/cmp/p/other" -o /dev/null`), "405 404")
		}},
		{"device", "makes a key pair", "the ir's public key is the new one, not the vendor's", func() bool {
			pub, err := x509.ParsePKIXPublicKey(asked.Template.PublicKey)
			return err == nil && op.PublicKey.(*ecdsa.PublicKey).Equal(pub) && !vendor.PublicKey.(*ecdsa.PublicKey).Equal(pub)
		}},
		{"device", "writes the ir", "one request, certReqId 0, publicKey, no subject, POPOSigningKey that verifies", func() bool {
			s := asked.POP.Signing
			return asked.ReqID.Sign() == 0 && asked.Template.Subject == nil && s != nil &&
				pkix.VerifySignature(op.PublicKey, s.Algorithm.Raw, asked.RawRequest, s.Signature) == nil
		}},
		{"device", "signs it with the vendor's key", "signature, sender and senderKID are the vendor certificate's", func() bool { return signedBy(ir, vendor) }},
		{"device", "puts its chain into extraCerts", "vendor certificate, both CAs in odd order, no root", func() bool {
			want := [][]byte{vendor.Raw}
			for _, c := range certificates(t, filepath.Join(dir, "chain.pem")) {
				want = append(want, c.Raw)
			}
			return bytes.Equal(bytes.Join(ir.ExtraCerts, nil), bytes.Join(want, nil))
		}},
		{"device", "sends the ir", "one PKIMessage in one HTTP exchange; the same again has the same answer, byte for byte", func() bool {
			return strings.Contains(g.sh(dir, `curl -sS --fail -H 'Content-Type: application/pkixcmp' --data-binary @ir.der "$MUSTER_HTTP/.well-known/cmp/p/ran" -o again.der -w '%{content_type}'; cmp again.der ip.der`), "application/pkixcmp")
		}},
		{"RA", "verifies protection and possession", "explain: signed with ECDSA-SHA256, possession by signature", func() bool { return says("signed with ECDSA", "possession shown by signature") }},
		{"RA", "verifies the vendor's chain and its list", "explain: vendor-ca allows: chain to the vendor's root, on the vendor's list", func() bool { return says("vendor-ca", `vendor "ACME"`, "on the vendor's list") }},
		{"RA", "derives the name", "subject and SAN are made of the vendor's serial number", func() bool {
			return op.Subject.String() == "CN=ACME-000001,O=Example Operator" && len(op.DNSNames) == 1 && op.DNSNames[0] == "acme-000001.enb.mnc001.mcc262.example"
		}},
		{"CA", "issues the certificate", "one in the CA's ledger, with the key asked for", func() bool { return len(g.ledger("ACME-000001")) == 1 }},
		{"RA", "writes the ip", "certReqId 0, the certificate, caPubs the root; extraCerts RA, issuing CA, root; no implicitConfirm", func() bool {
			r := rep.Responses[0]
			_, implicit := ip.Header.Info(cmpmsg.OIDImplicitConfirm)
			return rep.Kind == cmpmsg.TypeIP && r.ReqID.Sign() == 0 && r.Status.Status == cmpmsg.StatusGrantedWithMods && bytes.Equal(r.Certificate, op.Raw) &&
				len(rep.CAPubs) == 1 && bytes.Equal(rep.CAPubs[0], root.Raw) && len(ip.ExtraCerts) == 3 && bytes.Equal(ip.ExtraCerts[2], root.Raw) && !implicit
		}},
		{"RA", "signs it", "signature, sender and senderKID are the RA certificate's; transactionID and nonce are the ir's", func() bool {
			return signedBy(ip, ra) && bytes.Equal(ip.Header.TransactionID, ir.Header.TransactionID) && bytes.Equal(ip.Header.RecipNonce, ir.Header.SenderNonce)
		}},
		{"device", "verifies the ip with the operator's root", "it took the certificate; it could have taken the root from extraCerts or caPubs", func() bool {
			g.sh(dir, `openssl verify -x509_strict -CAfile pubs.pem -untrusted ip.chain op.pem`)
			return len(certificates(t, filepath.Join(dir, "pubs.pem"))) == 1
		}},
		{"device", "confirms; the RA checks and answers pkiConf", "certHash by SHA-256, signed as the ir; pkiConf signed by the RA; explain: confirmed", func() bool {
			c, ok := certConf.Body.(*cmpmsg.CertConf)
			sum := sha256.Sum256(op.Raw)
			_, conf := pkiconf.Body.(*cmpmsg.PKIConf)
			return ok && conf && bytes.Equal(c.Statuses[0].CertHash, sum[:]) && signedBy(certConf, vendor) && signedBy(pkiconf, ra) && says("confirmed") && g.state("ACME-000001") == "issued"
		}},
		{"device", "uses the certificate", "it verifies under the root, for IKE, with the CA's CRL", func() bool {
			g.env["MUSTER_OPS"] = "http://" + g.listening("ops")
			g.sh(dir, `curl -sS --fail "$MUSTER_OPS/crl/local/ec.crl" | openssl crl -inform DER -out ec.crl
				openssl verify -x509_strict -crl_check -CRLfile ec.crl -CAfile root.pem -untrusted ip.chain op.pem; openssl x509 -in op.pem -noout -ext extendedKeyUsage | grep -q 'ipsec Internet Key Exchange'`)
			return true
		}},
	} {
		if !step.check() {
			t.Errorf("step %d, %s %s: not so: %s", i+1, step.who, step.what, step.checked)
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\n", i+1, step.who, step.what, step.checked)
	}
	w.Flush()
	t.Logf("\n%s", table.String())

	// kur, signed with the operator's certificate. What the device never takes is revoked, and the old one goes on; and so it
	// does until the new one is confirmed.
	kur := baseStation + `kur() { openssl cmp -config '' -batch -cmd kur -server "$MUSTER_HTTP" -path .well-known/cmp/p/ran -trusted root.pem "$@" 2>>cmp.log || { cat cmp.log; return 1; }; }
	`
	if out, code := g.run(dir, "sh", "-euc", kur+ecKey+`op2.key; kur -cert op.pem -key op.key -newkey op2.key -out_trusted foreign-root.pem -certout not.pem`); code == 0 {
		t.Errorf("a certificate that the device does not trust was taken: %s", out)
	}
	revoked := func() (n int) {
		for range 250 {
			n = 0
			for _, e := range g.ledger("ACME-000001") {
				if !e.RevokedAt.IsZero() {
					n++
				}
			}
			if n > 0 {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		return n
	}
	if n, all := revoked(), g.ledger("ACME-000001"); n != 1 || len(all) != 2 {
		t.Errorf("%d of %d revoked", n, len(all))
	}
	g.sh(dir, kur+`kur -cert op.pem -key op.key -newkey op2.key -disable_confirm -certout unconfirmed.pem`)
	if out, code := g.run(dir, "sh", "-euc", kur+ecKey+`op3.key; kur -cert unconfirmed.pem -key op2.key -newkey op3.key -certout not.pem`); code == 0 || !strings.Contains(out, "not confirmed yet") {
		t.Errorf("an unconfirmed certificate renews: %s", out)
	}
	g.sh(dir, kur+`kur -cert op.pem -key op.key -newkey op2.key -certout op2.pem -chainout chain2.pem
		openssl verify -x509_strict -CAfile root.pem -untrusted ip.chain op2.pem; cmp op2.pem unconfirmed.pem
		kur -cert op2.pem -key op2.key -newkey op2.key -certout op3.pem`)
	if next := certificates(t, filepath.Join(dir, "op2.pem"))[0]; next.Subject.String() != op.Subject.String() || next.DNSNames[0] != op.DNSNames[0] {
		t.Errorf("renewed as %s", next.Subject)
	}
}

// Who gets no certificate from configs/3gpp.yaml.
func TestCMP3GPPRefuses(t *testing.T) {
	g, dir := baseStations(t)
	g.sh(dir, ecKey+`new.key; `+ecKey+`op1.key; `+ecKey+`op3.key; `+baseStation+`
		bs bs1 bs1 chain -cmd ir -newkey op1.key -certout op1.pem
		bs bs3 bs3 chain -cmd ir -newkey op3.key -digest sha384 -certout op3.pem
		openssl req -new -sha1 -key new.key -subj / -out sha1.csr`)
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "request\tfailInfo\texplain")
	for _, tt := range []struct{ name, script, failInfo, explain string }{
		{"a serial number that is not on the list", `bs bs9 bs9 chain -cmd ir -newkey new.key`, "notAuthorized", `"ACME-000009" is not among the 4 in`},
		{"another vendor's CA of the same name", `bs foreign bs2 foreign-chain -cmd ir -newkey new.key`, "signerNotTrusted", "vendor-ca"},
		{"intermediates left out", `bs bs2 bs2 acme-root -cmd ir -newkey new.key`, "signerNotTrusted", "vendor-ca"},
		{"a second enrollment", `bs bs1 bs1 chain -cmd ir -newkey new.key`, "notAuthorized", `"ACME-000001" may enrol once, and has`},
		{"the operator's certificate in an ir", `bs op1 op1 chain -cmd ir -newkey new.key`, "signerNotTrusted", "vendor-ca"},
		{"the vendor's certificate in a kur", `bs bs1 bs1 chain -cmd kur -oldcert bs1.pem -newkey new.key`, "signerNotTrusted", "not among those issued here"},
		{"the vendor's certificate in a kur, for the operator's", `bs bs1 bs1 chain -cmd kur -oldcert op1.pem -newkey new.key`, "badCertId", "the signer"},
		{"another device's operator certificate in a kur", `bs op3 op3 chain -cmd kur -oldcert op1.pem -newkey new.key`, "badCertId", "the signer"},
		{"another device's name in a kur", `bs op3 op3 chain -cmd kur -subject '/O=Example Operator/CN=ACME-000001' -newkey new.key`, "notAuthorized", "own-certificate"},
		{"the vendor's certificate in an rr", `bs bs1 bs1 chain -cmd rr -oldcert op1.pem`, "signerNotTrusted", "own-certificate"},
		{"SHA-1: the device's certificate", `bs sha1-bs2 bs2 chain -cmd ir -newkey new.key`, "signerNotTrusted", "SHA1"},
		{"SHA-1: a CA's certificate in its chain", `bs below-sha1 bs2 sha1-chain -cmd ir -newkey new.key`, "signerNotTrusted", "SHA1"},
		{"SHA-1: protection and proof of possession", `bs bs2 bs2 chain -cmd ir -digest sha1 -newkey new.key`, "badAlg", "SHA1"},
		{"SHA-1: the proof of possession", `bs bs2 bs2 chain -cmd p10cr -csr sha1.csr`, "badAlg", "SHA1"},
		{"a MAC", `openssl cmp -config '' -batch -cmd ir -server "$MUSTER_HTTP" -path .well-known/cmp/p/ran -trusted root.pem -ref 3gpp -secret pass:secret -subject /CN=x -newkey new.key 2>&1`, "wrongIntegrity", "signed messages only"},
	} {
		out, code := g.run(dir, "sh", "-euc", baseStation+tt.script+` -rspout answer.der`+map[bool]string{false: " -certout not.pem"}[strings.Contains(tt.script, "-cmd rr")])
		if code == 0 || !strings.Contains(out, tt.failInfo) {
			t.Errorf("%s: exit %d\n%s", tt.name, code, out)
			continue
		}
		told := g.muster("explain", reference(out))
		if !strings.Contains(told, tt.explain) {
			t.Errorf("%s: explain does not say %q:\n%s", tt.name, tt.explain, told)
		}
		if m := messageIn(t, dir, "answer.der"); m.Header.ProtectionAlg == nil || m.Header.ProtectionAlg.IsMAC() {
			t.Errorf("%s: the answer is not signed", tt.name)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", tt.name, tt.failInfo, tt.explain)
	}
	w.Flush()
	t.Logf("\n%s", table.String())
	if _, err := os.Stat(filepath.Join(dir, "not.pem")); err == nil || len(g.ledger("ACME-000002")) != 0 || len(g.ledger("ACME-000009")) != 0 || len(g.ledger("ACME-000001")) != 1 {
		t.Error("a certificate was issued")
	}

	// What openssl does not send: SHA-1 in a CRMF proof of possession alone; no messageTime, or one of 2001, which is no obstacle.
	d := g.baseStation(dir, "bs4")
	if m, err := d.exchange(popWithSHA1(t, d)); err != nil || failure(m) != "badAlg" {
		t.Errorf("SHA-1 in the proof of possession: %v, %v", m, err)
	}
	for name, at := range map[string]time.Time{"no clock": {}, "a clock that has just started": time.Unix(1000000000, 0)} {
		d := g.baseStation(dir, map[bool]string{true: "bs2", false: "bs4"}[at.IsZero()])
		d.edit = func(o *cmpmsg.Outgoing) { o.Header.MessageTime = at.UTC() }
		if err := d.enroll(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// baseStation is a device of our own with a certificate of the vendor's, which names itself in a way that does not matter.
func (g *instance) baseStation(dir, name string) *cmpDevice {
	g.t.Helper()
	d := g.cmpDevice("gNB")
	d.url += "/p/ran"
	key, _ := pem.Decode(fileOf(g.t, dir, name+".key"))
	parsed, err := x509.ParsePKCS8PrivateKey(key.Bytes)
	if err != nil {
		g.t.Fatal(err)
	}
	d.signer = parsed.(crypto.Signer)
	for _, c := range append(certificates(g.t, filepath.Join(dir, "chain.pem")), certificates(g.t, filepath.Join(dir, name+".pem"))...) {
		d.chain = append([][]byte{c.Raw}, d.chain...)
	}
	return d
}

// popWithSHA1 is an ir whose proof of possession is signed with ecdsa-with-SHA1.
func popWithSHA1(t *testing.T, d *cmpDevice) *cmpmsg.CertReqMessages {
	t.Helper()
	b := d.request(cmpmsg.TypeIR)
	request, err := b.Messages[0].Request()
	if err != nil {
		t.Fatal(err)
	}
	sum := sha1.Sum(request) //nolint:gosec // as above
	signature, err := ecdsa.SignASN1(rand.Reader, d.key.(*ecdsa.PrivateKey), sum[:])
	if err != nil {
		t.Fatal(err)
	}
	b.Messages[0].POP.Signing = &cmpmsg.POPOSigningKey{Algorithm: cmpmsg.AlgorithmIdentifier{OID: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 1}}, Signature: signature}
	return b
}
