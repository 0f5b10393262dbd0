package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/muster-pki/muster/protocols/cms"
)

// The endpoint for names and passwords over TLS that authenticates the server alone; renewals are by the certificate.
func TestOneM2MPassword(t *testing.T) {
	g, dir := enrolmentFunction(t)
	const login = `login() { user=$1; op=$2; shift 2; curl $fields $suite ${user:+-u $user} "$@" "$MUSTER_HTTPS/.well-known/est/mef-password/$op" -o out -w '%{http_code}'; [ ! -s out ] || cat out; rm -f out; }
		asked() { openssl base64 -d -A | openssl asn1parse -inform DER; }
		ae7=ae7:correct-horse-battery-staple-7 ae8=ae8:correct-horse-battery-staple-8
	`
	// csrattrs: the identifier of who has logged in; the others are asked to.
	out := g.sh(dir, mefShell+login+`login $ae7 csrattrs | cut -c4- | asked`)
	if !strings.Contains(out, "30028600") || !strings.Contains(out, "prime256v1") {
		t.Error(out)
	}
	g.refused(g.sh(dir, mefShell+login+`login '' csrattrs`), "401", "/csrattrs names the identifier that is registered for the client")
	g.refused(g.sh(dir, mefShell+login+`login ae7:wrong csrattrs`), "401", "user name or password is wrong", `wrong password for device "ae7"`)
	post := `-H 'Content-Type: application/pkcs10' --data-binary @tmp.b64`
	for _, c := range []struct{ name, login, san, status, says, why string }{
		{"wrong password", "ae7:wrong", "URI://m2m.example.com/S98827", "401", "user name or password is wrong", `wrong password for device "ae7"`},
		{"no password", "", "URI://m2m.example.com/S98827", "401", "", ""},
		{"another's AE-ID", "$ae8", "URI://m2m.example.com/S98827", "403", "the identifier asked for is not the one registered for this client", "registered is ae-id //m2m.example.com/S98828"},
	} {
		answer := g.sh(dir, mefShell+login+ecKey+`new.key; request new.key /CN=x `+c.san+` '' > tmp.b64; login "`+c.login+`" simpleenroll `+post)
		if c.why == "" {
			g.refused(answer, c.status, c.says)
		} else {
			g.refused(answer, c.status, c.says, c.why)
		}
	}
	out = g.sh(dir, mefShell+login+ecKey+`ae7.key; request ae7.key /CN=x URI://m2m.example.com/S98827 '' > tmp.b64
		login $ae7 simpleenroll `+post+` | cut -c4- | openssl base64 -d -A | openssl pkcs7 -inform DER -print_certs -out ae7.pem
		login '' cacerts | cut -c4- | openssl base64 -d -A | openssl pkcs7 -inform DER -print_certs -out cas.pem
		openssl verify -x509_strict -CAfile root.pem -untrusted cas.pem ae7.pem; openssl x509 -in ae7.pem -noout -ext subjectAltName
		`+ecKey+`next.key; request next.key "/O=Example Operator/CN=ae7" URI://m2m.example.com/S98827 '' > tmp.b64
		login '' simplereenroll `+post+` --cert ae7.pem --key ae7.key | cut -c4- | openssl base64 -d -A | openssl pkcs7 -inform DER -print_certs -out next.pem
		openssl verify -x509_strict -CAfile root.pem -untrusted cas.pem next.pem`)
	for _, want := range []string{"ae7.pem: OK", "URI://m2m.example.com/S98827", "next.pem: OK"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	// The password is spent; a renewal takes the certificate.
	g.refused(g.sh(dir, mefShell+login+ecKey+`other.key; request other.key /CN=x URI://m2m.example.com/S98827 '' > tmp.b64; login $ae7 simpleenroll `+post), "40", "")
	g.refused(g.sh(dir, mefShell+login+`request next.key "/O=Example Operator/CN=ae7" URI://m2m.example.com/S98827 '' > tmp.b64; login $ae7 simplereenroll `+post), "40", "")
}

// SCEP (oneM2M TS-0003 clause 8.3.6.3): by the vendor's certificate, or by a challenge that is one device's and good once.
func TestOneM2MSCEP(t *testing.T) {
	g, dir := enrolmentFunction(t)
	d := g.scepDevice()
	d.path = "/scep/mef-scep"
	request := func(key, subject, san, challenge string) []byte {
		t.Helper()
		der, err := base64.StdEncoding.DecodeString(g.sh(dir, mefShell+`request `+key+` `+subject+` `+san+` '`+challenge+`'`))
		if err != nil {
			t.Fatal(err)
		}
		envelope, err := cms.Encrypt(der, d.ra, cms.AES128)
		if err != nil {
			t.Fatal(err)
		}
		return envelope
	}
	send := func(w scepWish) *scepAnswer {
		t.Helper()
		a, err := d.send(d.message(w))
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	fails := func(what string, a *scepAnswer, says string) {
		t.Helper()
		if a.status != "2" || !strings.Contains(a.text, says) {
			t.Errorf("%s: %s, want %q", what, a, says)
		}
	}
	keyPEM, err := x509.MarshalPKCS8PrivateKey(d.key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "rsa.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyPEM}), 0o600); err != nil {
		t.Fatal(err)
	}
	// The vendor's certificate has the same key.
	g.sh(dir, mefShell+`openssl req -new -key rsa.key -subj "/O=ACME/CN=modem/serialNumber=SN-0002" -out tmp.csr
		printf 'keyUsage=digitalSignature\n' > device.ext
		openssl x509 -req -in tmp.csr -CA vendor.pem -CAkey vendor.key -CAcreateserial -days 3650 -extfile device.ext -out rsa.pem 2>/dev/null`)
	vendor := certificates(t, filepath.Join(dir, "rsa.pem"))[0]
	fails("another's AE-ID", send(scepWish{signer: vendor, envelope: request("rsa.key", "/CN=x", "URI://m2m.example.com/S98822", "")}), "the identifier asked for is not the one registered for this client")
	got := send(scepWish{signer: vendor, envelope: request("rsa.key", "/CN=x", "URI://m2m.example.com/S98821", "")})
	if got.cert == nil || len(got.cert.URIs) != 1 || got.cert.URIs[0].String() != "//m2m.example.com/S98821" || got.cert.Subject.CommonName != "ae1" {
		t.Fatalf("%s: %+v", got, got.cert)
	}
	// A key of P-256 could not read the answer.
	fails("an EC key", send(scepWish{signer: vendor, envelope: request("vendor.key", "/CN=x", "URI://m2m.example.com/S98821", "")}), "SCEP here certifies RSA keys only")
	// By a challenge: of this device alone, once; none, or one of another's, is nothing.
	challenge := func(more ...string) string {
		t.Helper()
		return strings.TrimSpace(g.muster(append([]string{"challenge", "new", "--endpoint", "mef-scep"}, more...)...))
	}
	fails("no challenge", send(scepWish{envelope: request("rsa.key", "/CN=x", "URI://m2m.example.com/S98822", "")}), "")
	fails("a challenge that is nobody's", send(scepWish{envelope: request("rsa.key", "/CN=x", "URI://m2m.example.com/S98822", challenge())}), "")
	secret := challenge("--device", "ae2")
	fails("another's AE-ID, by a challenge", send(scepWish{envelope: request("rsa.key", "/CN=x", "URI://m2m.example.com/S98827", secret)}), "")
	other := g.scepDevice()
	d.key, d.self = other.key, other.self
	if keyPEM, err = x509.MarshalPKCS8PrivateKey(d.key); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "rsa2.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyPEM}), 0o600); err != nil {
		t.Fatal(err)
	}
	mine := send(scepWish{envelope: request("rsa2.key", "/CN=x", "URI://m2m.example.com/S98822", secret)})
	if mine.cert == nil || len(mine.cert.URIs) != 1 || mine.cert.URIs[0].String() != "//m2m.example.com/S98822" {
		t.Fatal(mine)
	}
	// A renewal is by the certificate, and to no other identifier.
	fails("a renewal to another's", send(scepWish{kind: "17", signer: mine.cert, envelope: request("rsa2.key", "'/O=Example Operator/CN=ae2'", "URI://m2m.example.com/S98821", "")}), "")
	if next := send(scepWish{kind: "17", signer: mine.cert, envelope: request("rsa2.key", "'/O=Example Operator/CN=ae2'", "URI://m2m.example.com/S98822", "")}); next.cert == nil {
		t.Error(next)
	}
}

// The extended key usage of the certificate that renews itself counts (oneM2M TS-0003 clause 8.3.6.2.3). One without clientAuth comes
// from an endpoint beside the MEF, whose certificates it renews too.
func TestOneM2MRenewalPurpose(t *testing.T) {
	side := func(name string) string {
		return fmt.Sprintf(`  %s:
    protocol: est
    listeners: [mef]
    profile: %s
    enroll:
      - vendor-ca: {dir: vendor-ca/onem2m, serial: subject.serialNumber}
      - inventory: {kind: serial, enrollments: 2}
      - registration: {}
`, name, name)
	}
	profile := func(name, purposes string) string {
		return `  ` + name + `:
    backend: local
    issuer: m2m
    keys: [P-256]
    subject: "CN={{device.name}},O=Example Operator"
    ext-key-usage: [` + purposes + `]
    lint: {ignore: [e_ext_san_uri_relative, e_ext_san_uri_format_invalid]}
`
	}
	own, more := "own-certificate: {purposes: [clientAuth]}", "own-certificate: {purposes: [clientAuth], endpoints: [mef, servers, clients]}"
	g, dir := enrolmentFunction(t, "profiles:\n", "profiles:\n"+profile("servers", "serverAuth")+profile("clients", "clientAuth"),
		"endpoints:\n", "endpoints:\n"+side("servers")+side("clients"), own, more, own, more)
	for endpoint, want := range map[string]string{"clients": "200", "servers": "403"} {
		answer := g.sh(dir, mefShell+fmt.Sprintf(`vendor dev SN-0002; `+ecKey+`%[1]s.key; request %[1]s.key /CN=x URI://m2m.example.com/S98821 '' > tmp.b64
			curl $fields $suite --cert dev.pem --key dev.key "$MUSTER_HTTPS/.well-known/est/%[1]s/simpleenroll" -H 'Content-Type: application/pkcs10' --data-binary @tmp.b64 \
				| openssl base64 -d -A | openssl pkcs7 -inform DER -print_certs -out %[1]s.pem
			mef %[1]s csrattrs -o attrs -w '%%{http_code}'`, endpoint))
		if answer != want {
			t.Errorf("%s: csrattrs %s, want %s", endpoint, answer, want)
		}
	}
	if answer := g.sh(dir, mefShell+`enrol clients clients.key '/O=Example Operator/CN=ae1' URI://m2m.example.com/S98821 simplereenroll next`); answer != "200" {
		t.Error(answer)
	}
	// csrattrs has told the other nothing; with the channel binding, which it knows without, it fares no better.
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "servers.pem"), filepath.Join(dir, "servers.key"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(fileOf(t, dir, "root.pem"))
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{
		RootCAs: roots, Certificates: []tls.Certificate{pair}, MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256},
	}}}
	res, err := client.Get(g.env["MUSTER_HTTPS"] + "/.well-known/est/mef/cacerts")
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, res.Body) //nolint:errcheck // the next request goes over another connection then, and fails
	res.Body.Close()
	csr := g.sh(dir, mefShell+`request servers.key '/O=Example Operator/CN=ae1' URI://m2m.example.com/S98821 '`+base64.StdEncoding.EncodeToString(res.TLS.TLSUnique)+`'`)
	a, err := g.post(t.Context(), client, "mef/simplereenroll", "", "", "application/pkcs10", []byte(csr))
	if err != nil {
		t.Fatal(err)
	}
	g.refused(fmt.Sprint(a.status, a.body), "403", "", "is serverAuth; one of clientAuth is wanted")
}

// A key that the MEF makes (oneM2M TS-0003 clause 8.3.6.2.1), for the identifier that is registered.
func TestOneM2MServerKeyGen(t *testing.T) {
	g, dir := enrolmentFunction(t)
	out := g.sh(dir, mefShell+`vendor dev SN-0002; vendor dev4 SN-0004; `+ecKey+`any.key
		request any.key /CN=x URI://m2m.example.com/S98821 "$(challenge dev)" > tmp.b64
		mef dev serverkeygen -H 'Content-Type: application/pkcs10' --data-binary @tmp.b64 -o made -w '%{http_code} %{content_type}\n'; cat made`)
	if !strings.HasPrefix(out, "200 multipart/mixed") || strings.Count(out, "application/pkcs8") != 1 || !strings.Contains(out, "certs-only") {
		t.Fatal(out)
	}
	g.sh(dir, `tr -d '\r' < made | awk 'BEGIN{RS="\n\n"} /^MI/{n++; sub(/\n--.*/, ""); print > ("part" n ".b64")}'
		openssl base64 -d -A -in part1.b64 -out key.der; openssl base64 -d -A -in part2.b64 | openssl pkcs7 -inform DER -print_certs -out made.pem
		openssl pkey -inform DER -in key.der -pubout -out a.pub; openssl x509 -in made.pem -noout -pubkey > b.pub; cmp a.pub b.pub
		openssl x509 -in made.pem -noout -ext subjectAltName | grep -q 'URI://m2m.example.com/S98821'`)
	answer := g.sh(dir, mefShell+`request any.key /CN=x URI://m2m.example.com/S98821 "$(challenge dev4)" > tmp.b64
		mef dev4 serverkeygen -H 'Content-Type: application/pkcs10' --data-binary @tmp.b64 -o made -w '%{http_code}'; cat made`)
	g.refused(answer, "403", "the identifier asked for is not the one registered for this client")
}

// The recipe of docs/onem2m.md, as it stands there.
func TestOneM2MRecipe(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "docs", "onem2m.md"))
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(page), "```sh\n")[1:]
	script := ""
	for _, b := range blocks {
		b, _, _ = strings.Cut(b, "```")
		script += b
	}
	g, dir := enrolmentFunction(t)
	for _, name := range []string{"cse1", "ae1", "node1"} {
		g.muster("device", "rm", name)
	}
	g.sh(dir, mefShell+`vendor dev SN-0002; mkdir bin; ln -s "$MUSTER" bin/muster`)
	script = strings.NewReplacer("https://localhost:8444", g.env["MUSTER_HTTPS"], "--data data", "--data "+g.dir).Replace(script)
	out := g.sh(dir, `PATH="$PWD/bin:$PATH"`+"\n"+script)
	for _, want := range []string{"imported 3 devices", "ae1.pem: OK", "next.pem: OK"} {
		if len(blocks) != 3 || !strings.Contains(out, want) {
			t.Errorf("%d blocks, no %q in\n%s", len(blocks), want, out)
		}
	}
}

// The same by HTTP Digest, for users whom the inventory knows by their name: enrollment, and csrattrs for the user.
func TestOneM2MPasswordDigest(t *testing.T) {
	g, dir := enrolmentFunction(t, "- device-password: {}                 # that of the device's entry, good once", "- password: {users: {ae2: \""+digestForm(t, "ae2", "mef-password", "secret")+"\"}}",
		"est: {type: onem2m-mef-password}", "est: {type: onem2m-mef-password, http-auth: [digest]}")
	g.refused(g.sh(dir, mefShell+`curl $fields $suite -u ae2:secret "$MUSTER_HTTPS/.well-known/est/mef-password/csrattrs" -o out -w '%{http_code}'; cat out`), "401", "")
	out := g.sh(dir, mefShell+`login() { op=$1; shift; curl $fields $suite --digest -u ae2:secret "$@" "$MUSTER_HTTPS/.well-known/est/mef-password/$op"; }
		login csrattrs | openssl base64 -d -A | openssl asn1parse -inform DER
		`+ecKey+`new.key; request new.key /CN=x URI://m2m.example.com/S98822 '' > tmp.b64
		login simpleenroll -H 'Content-Type: application/pkcs10' --data-binary @tmp.b64 | openssl base64 -d -A | openssl pkcs7 -inform DER -print_certs | openssl x509 -noout -ext subjectAltName`)
	if !strings.Contains(out, "30028600") || !strings.Contains(out, "URI://m2m.example.com/S98822") {
		t.Error(out)
	}
}
