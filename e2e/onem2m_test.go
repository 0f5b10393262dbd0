package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// mefShell is what the scripts of these tests share: a vendor's CA, its devices, and a client of the M2M Enrolment Function that
// offers nothing but what oneM2M TS-0003 clause 10.2.3 asks of everybody.
const mefShell = `
	suite='--tls-max 1.2 --ciphers ECDHE-ECDSA-AES128-SHA256 --http1.1'
	fields='-sS --cacert root.pem'
	vendor() { # NAME SERIAL [EXTENSIONS]: a certificate of the vendor's
		` + ecKey + `$1.key
		openssl req -new -key $1.key -subj "/O=ACME/CN=modem/serialNumber=$2" -out tmp.csr
		printf "keyUsage=digitalSignature\n${3:-}\n" > device.ext
		openssl x509 -req -in tmp.csr -CA vendor.pem -CAkey vendor.key -CAcreateserial -days 3650 -extfile device.ext -out $1.pem 2>/dev/null
	}
	mef() { # NAME OF THE CERTIFICATE, OPERATION, more for curl
		cert=$1; op=$2; shift 2
		curl $fields $suite --cert $cert.pem --key $cert.key "$@" "$MUSTER_HTTPS/.well-known/est/mef/$op"
	}
	challenge() { mef $1 csrattrs | openssl base64 -d -A | openssl asn1parse -inform DER | grep -A2 challengePassword | sed -n 's/.*PRINTABLESTRING *://p'; }
	request() { # KEY SUBJECT SAN CHALLENGE: base64 of a request
		{ # -subj would leave the attributes out
			printf '[req]\nprompt=no\ndistinguished_name=dn\n'
			[ -z "$3" ] || printf 'req_extensions=ext\n'
			[ -z "$4" ] || printf 'attributes=at\n'
			printf '[dn]\n'; echo "${2#/}" | tr / '\n'
			printf '[ext]\nsubjectAltName=%s\n[at]\nchallengePassword=%s\n' "${3:-DNS:none}" "$4"
		} > req.cnf
		openssl req -new -key $1 -config req.cnf -outform DER | openssl base64 -A
	}
	enrol() { # NAME OF THE CERTIFICATE, KEY, SUBJECT, SAN, OPERATION, OUT: prints the status
		request "$2" "$3" "$4" "$(challenge $1)" > tmp.b64
		mef $1 $5 -H 'Content-Type: application/pkcs10' --data-binary @tmp.b64 -o $6.b64 -w '%{http_code}'
		head -c 3 $6.b64 | grep -q '^MI' && openssl base64 -d -A -in $6.b64 | openssl pkcs7 -inform DER -print_certs -out $6.pem || cat $6.b64
	}
`

// the inventory of these tests: an identifier of each type, and who has none, or is not registered at all (SN-0009).
const mefInventory = `name,serial,cse-id,ae-id,node-id,password
cse1,SN-0001,cse1.in-cse.m2m.example.com,,,
ae1,SN-0002,,//m2m.example.com/S98821,,
node1,SN-0003,,,urn:gsma:imei:90420156-025763-0,
ae2,SN-0004,,//m2m.example.com/S98822,,
bare,SN-0005,,,,
stray,SN-0006,cse6.in-cse.elsewhere.example,,,
ae7,SN-0007,,//m2m.example.com/S98827,,correct-horse-battery-staple-7
ae8,SN-0008,,//m2m.example.com/S98828,,correct-horse-battery-staple-8
strayed,SN-0010,,//elsewhere.example/S1,,
`

// enrolmentFunction starts configs/onem2m-mef.yaml as it stands, but for its addresses, the place of its data, and the changes given (old,
// new, ...), and imports the inventory.
func enrolmentFunction(t *testing.T, changes ...string) (g *instance, dir string) {
	t.Helper()
	data := filepath.Join(t.TempDir(), "data")
	dir = t.TempDir()
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join("..", "configs", "onem2m-mef.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.NewReplacer("127.0.0.1:8080", "127.0.0.1:0", "127.0.0.1:8081", "127.0.0.1:0", "127.0.0.1:8444", "127.0.0.1:0", "data/", "").Replace(string(text))
	for i := 0; i+1 < len(changes); i += 2 {
		if !strings.Contains(changed, changes[i]) {
			t.Fatalf("the configuration has no %q", changes[i])
		}
		changed = strings.Replace(changed, changes[i], changes[i+1], 1)
	}
	for name, content := range map[string]string{"gateway.yaml": changed, "onem2m.csv": mefInventory, "seal.key": digestSealKey} {
		if err := os.WriteFile(filepath.Join(data, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	g = &instance{t: t, dir: data, env: map[string]string{"MUSTER_DATA": data}}
	g.sh(dir, ecKey+`vendor.key
		openssl req -x509 -new -key vendor.key -subj "/O=ACME/CN=ACME Device Root" -days 7300 -out vendor.pem
		mkdir -p "$MUSTER_DATA/vendor-ca/onem2m"; cp vendor.pem "$MUSTER_DATA/vendor-ca/onem2m/"`)
	t.Cleanup(func() { g.stop() })
	cmd := exec.Command(binary, "serve", "--config", filepath.Join(data, "gateway.yaml"), "--data", data)
	cmd.Env = os.Environ()
	g.start(cmd)
	local := func(listener string) string {
		return strings.Replace(g.listening(listener), "127.0.0.1", "localhost", 1)
	}
	g.env = map[string]string{
		"MUSTER_HTTP": "http://" + local("scep"), "MUSTER_HTTPS": "https://" + local("mef"), "MUSTER_MEF": local("mef"),
		"MUSTER_CA": filepath.Join(data, "ca", "roots.pem"), "MUSTER_DATA": data, "MUSTER": binary, "VENDOR": dir,
	}
	if out := g.muster("device", "import", filepath.Join(data, "onem2m.csv")); !strings.Contains(out, "imported 9 devices") {
		t.Fatal(out)
	}
	g.sh(dir, `cp "$MUSTER_CA" root.pem`)
	return g, dir
}

// refused expects a script's answer to be a status and words, and `muster explain` to say why.
func (g *instance) refused(answer, status, says string, why ...string) {
	g.t.Helper()
	if !strings.HasPrefix(answer, status) || !strings.Contains(answer, says) {
		g.t.Errorf("%s, want %s %q", answer, status, says)
		return
	}
	_, reference, ok := strings.Cut(answer, "(reference ")
	reference, _, _ = strings.Cut(reference, ")")
	if !ok {
		g.t.Errorf("no reference in %s", answer)
		return
	}
	told := g.muster("explain", reference)
	for _, w := range why {
		if !strings.Contains(told, w) {
			g.t.Errorf("explain does not say %q:\n%s", w, told)
		}
	}
}

// The order of oneM2M TS-0003 clause 8.3.6.2, cacerts, csrattrs, simpleenroll, simplereenroll, by curl and openssl with the suite of clause
// 10.2.3 alone, for each type of identifier of clause 10.1.
func TestOneM2MEnrolment(t *testing.T) {
	g, dir := enrolmentFunction(t)
	// The suite, TLS 1.2, SNI, and HTTP/1.1 also for a client that offers HTTP/2.
	out := g.sh(dir, mefShell+`vendor dev0 SN-0000
		openssl s_client -connect "$MUSTER_MEF" -servername localhost -tls1_2 -cipher ECDHE-ECDSA-AES128-SHA256 -CAfile root.pem -verify_return_error -cert dev0.pem -key dev0.key </dev/null 2>&1 | grep -e 'Cipher is' -e 'Verify return'
		openssl s_client -connect "$MUSTER_MEF" -servername localhost -tls1_2 -cipher ECDHE-ECDSA-AES128-SHA256 -alpn h2,http/1.1 </dev/null 2>&1 | grep ALPN
		openssl s_client -connect "$MUSTER_MEF" -servername localhost -tls1_2 -cipher ECDHE-ECDSA-AES128-GCM-SHA256 </dev/null 2>&1 | grep 'Cipher is'`)
	for _, want := range []string{"TLSv1.2, Cipher is ECDHE-ECDSA-AES128-SHA256", "Verify return code: 0 (ok)", "ALPN protocol: http/1.1", "TLSv1.2, Cipher is ECDHE-ECDSA-AES128-GCM-SHA256"} {
		if !strings.Contains(out, want) {
			t.Errorf("s_client does not say %q:\n%s", want, out)
		}
	}
	for _, c := range []struct{ name, serial, san, shown string }{
		{"cse1", "SN-0001", "DNS:cse1.in-cse.m2m.example.com", "DNS:cse1.in-cse.m2m.example.com"},
		{"ae1", "SN-0002", "URI://m2m.example.com/S98821", "URI://m2m.example.com/S98821"},
		{"node1", "SN-0003", "URI:urn:gsma:imei:90420156-025763-0", "URI:urn:gsma:imei:90420156-025763-0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := *g
			g.t = t
			dir := t.TempDir()
			g.sh(dir, `cp "$MUSTER_CA" root.pem; cp "$VENDOR"/vendor.pem "$VENDOR"/vendor.key .`)
			out := g.sh(dir, mefShell+fmt.Sprintf(`vendor dev %s
				mef dev cacerts -o cacerts.b64 -w '%%{content_type} %%{http_version}\n'; openssl base64 -d -A -in cacerts.b64 | openssl pkcs7 -inform DER -print_certs -out cas.pem
				mef dev csrattrs | openssl base64 -d -A | openssl asn1parse -inform DER
				`+ecKey+`new.key; enrol dev new.key /CN=x %[2]s simpleenroll new
				`+ecKey+`next.key; enrol new next.key "/O=Example Operator/CN=%[3]s" %[2]s simplereenroll next
				enrol next next.key "/O=Example Operator/CN=%[3]s" %[2]s simplereenroll again
				for c in new next again; do openssl verify -x509_strict -CAfile root.pem -untrusted cas.pem $c.pem; done
				openssl x509 -in new.pem -noout -text -subject -nameopt RFC2253`, c.serial, c.san, c.name))
			for _, want := range []string{
				"application/pkcs7-mime 1.1", "challengePassword", "X509v3 Subject Alternative Name", "200\n", "new.pem: OK", "next.pem: OK", "again.pem: OK",
				"Signature Algorithm: ecdsa-with-SHA256", "ASN1 OID: prime256v1", "                    04:", "X509v3 Key Usage: critical\n                Digital Signature\n",
				"TLS Web Client Authentication", c.shown + "\n", "Issuer: CN=Muster m2m Issuing CA,O=Example Operator",
			} {
				if !strings.Contains(strings.ReplaceAll(out, "200200", "200\n200"), want) {
					t.Errorf("no %q in\n%s", want, out)
				}
			}
		})
	}
	// The CA's name constraints, and what they rule out: the registration is the operator's, and the CA refuses it all the same.
	out = g.sh(dir, mefShell+`vendor dev1 SN-0001; mef dev1 cacerts | openssl base64 -d -A | openssl pkcs7 -inform DER -print_certs | openssl x509 -noout -ext nameConstraints
		vendor dev6 SN-0006; `+ecKey+`n6.key; enrol dev6 n6.key /CN=x DNS:cse6.in-cse.elsewhere.example simpleenroll n6`)
	constraints, answer, _ := strings.Cut(out, "400")
	if !strings.Contains(constraints, "X509v3 Name Constraints: critical") || !strings.Contains(constraints, "DNS:m2m.example.com") {
		t.Error(out)
	}
	g.refused("400"+answer, "400", "", `dNSName "cse6.in-cse.elsewhere.example" is outside of the name constraints of "Muster m2m Issuing CA", which permit m2m.example.com`)
	// An AE-ID is held against them by the gateway (clause 10.1.1.5): relying parties read constraints of DNS names past URIs.
	g.refused(g.sh(dir, mefShell+`vendor dev10 SN-0010; `+ecKey+`n10.key; enrol dev10 n10.key /CN=x URI://elsewhere.example/S1 simpleenroll n10`), "403",
		"the identifier registered for this client is outside of what the CA may certify", `the service provider "elsewhere.example" is outside of the name constraints of CN=Muster m2m Issuing CA`)
}

// Who gets no certificate of another's identifier, or none at all; each refusal says why to the operator, and less to the client.
func TestOneM2MRefusals(t *testing.T) {
	g, dir := enrolmentFunction(t)
	ae1 := "URI://m2m.example.com/S98821"
	g.sh(dir, mefShell+`for n in 1 2 4 5 9; do vendor dev$n SN-000$n; done
		`+ecKey+`new.key; enrol dev2 new.key /CN=x `+ae1+` simpleenroll ae1; enrol dev4 new.key /CN=x URI://m2m.example.com/S98822 simpleenroll ae2
		`+ecKey+`foreign-ca.key; openssl req -x509 -new -key foreign-ca.key -subj "/O=ACME/CN=ACME Device Root" -days 30 -out foreign-ca.pem
		cp dev2.key foreign.key; openssl req -new -key foreign.key -subj "/O=ACME/CN=modem/serialNumber=SN-0002" -out tmp.csr
		openssl x509 -req -in tmp.csr -CA foreign-ca.pem -CAkey foreign-ca.key -CAcreateserial -days 30 -out foreign.pem 2>/dev/null
		cp new.key ae1.key; cp new.key ae2.key`)
	for _, c := range []struct {
		name, cert, subject, san, operation string
		status, says                        string
		why                                 []string
	}{
		{"another AE-ID", "dev1", "/CN=x", "URI://m2m.example.com/S98821", "simpleenroll", "400", "a name of another kind is asked for", []string{"registered is cse-id cse1.in-cse.m2m.example.com"}},
		{"another AE's AE-ID", "dev4", "/CN=x", ae1, "simpleenroll", "403", "the identifier asked for is not the one registered for this client", []string{"registration", `the request asks for "uri://m2m.example.com/S98821", registered is ae-id //m2m.example.com/S98822`}},
		{"an AE-ID nobody has", "dev4", "/CN=x", "URI://m2m.example.com/S1", "simpleenroll", "403", "is not the one registered for this client", []string{`"uri://m2m.example.com/S1", registered is ae-id //m2m.example.com/S98822`}},
		{"the right one and another", "dev4", "/CN=x", "URI://m2m.example.com/S98822,DNS:x.m2m.example.com", "simpleenroll", "400", "more than one name is asked for", nil},
		{"a wildcard", "dev1", "/CN=x", "DNS:*.in-cse.m2m.example.com", "simpleenroll", "403", "", []string{"cse1.in-cse.m2m.example.com"}},
		{"no identifier", "dev4", "/CN=x", "", "simpleenroll", "400", "no identifier is asked for", nil},
		{"a renewal to another's AE-ID", "ae2", "/O=Example Operator/CN=ae2", ae1, "simplereenroll", "403", "", []string{"//m2m.example.com/S98821"}},
		{"a renewal of another's certificate", "ae2", "/O=Example Operator/CN=ae1", ae1, "simplereenroll", "403", "", nil},
		{"a renewal by the vendor's certificate", "dev2", "/O=Example Operator/CN=ae1", ae1, "simplereenroll", "403", "", nil},
		{"a first certificate by the MEF's", "ae2", "/CN=x", "URI://m2m.example.com/S98822", "simpleenroll", "403", "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := *g
			g.t = t
			answer := g.sh(dir, mefShell+fmt.Sprintf(`enrol %s new.key %q %q %s out`, c.cert, c.subject, c.san, c.operation))
			g.refused(answer, c.status, c.says, c.why...)
		})
	}
	// Who is not registered does not get as far: csrattrs and cacerts are for known clients too.
	for _, c := range []struct{ name, cert, says, why string }{
		{"an unregistered device", "dev9", "", "SN-0009"},
		{"a device without an identifier", "dev5", "no identifier that could be certified here is registered for this client", `the entry of device "bare" has no identifier of the types cse-id, ae-id, node-id`},
		{"a certificate of another vendor", "foreign", "", ""},
	} {
		for _, operation := range []string{"csrattrs", "cacerts"} {
			answer := g.sh(dir, mefShell+`mef `+c.cert+` `+operation+` -o out -w '%{http_code}'; cat out`)
			if c.why == "" {
				g.refused(answer, "403", c.says)
			} else {
				g.refused(answer, "403", c.says, c.why)
			}
		}
		answer := g.sh(dir, mefShell+`request new.key /CN=x `+ae1+` `+"QUJD"+` > tmp.b64; mef `+c.cert+` simpleenroll -H 'Content-Type: application/pkcs10' --data-binary @tmp.b64 -o out -w '%{http_code}'; cat out`)
		if !strings.HasPrefix(answer, "40") {
			t.Errorf("%s: %s", c.name, answer)
		}
	}
	g.refused(g.sh(dir, mefShell+`curl $fields $suite "$MUSTER_HTTPS/.well-known/est/mef/cacerts" -o out -w '%{http_code}'; cat out`), "403", "clients authenticate here with a certificate in the TLS handshake")
	g.refused(g.sh(dir, mefShell+`curl $fields $suite -u ae7:correct-horse-battery-staple-7 "$MUSTER_HTTPS/.well-known/est/mef/csrattrs" -o out -w '%{http_code}'; cat out`), "403", "a password does not count")
}

// challengePassword by tls-unique, which takes a client that knows its connection (RFC 7030 section 3.5).
func TestOneM2MTLSUnique(t *testing.T) {
	g, dir := enrolmentFunction(t)
	g.sh(dir, mefShell+`vendor dev2 SN-0002`)
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "dev2.pem"), filepath.Join(dir, "dev2.key"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(fileOf(t, dir, "root.pem"))
	connect := func() (*http.Client, string) {
		client := &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{
			RootCAs: roots, Certificates: []tls.Certificate{pair}, MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256},
		}}}
		res, err := client.Get(g.env["MUSTER_HTTPS"] + "/.well-known/est/mef/cacerts")
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != http.StatusOK || res.ProtoMajor != 1 {
			t.Fatal(res.Status, res.Proto, err)
		}
		return client, base64.StdEncoding.EncodeToString(res.TLS.TLSUnique)
	}
	_, foreign := connect()
	client, own := connect()
	for _, c := range []struct {
		value  string
		status int
	}{{foreign, http.StatusBadRequest}, {"", http.StatusBadRequest}, {own, http.StatusOK}} {
		csr := g.sh(dir, mefShell+ecKey+`new.key; request new.key /CN=x URI://m2m.example.com/S98821 '`+c.value+`'`)
		a, err := g.post(t.Context(), client, "mef/simpleenroll", "", "", "application/pkcs10", []byte(csr))
		if err != nil || a.status != c.status {
			t.Fatalf("%q: %v, %+v", c.value, err, a)
		}
	}
}
