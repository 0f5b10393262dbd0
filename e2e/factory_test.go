package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway/admin"
)

// factoryConfig: base stations come from the factory with a vendor's certificate, stand in a list with their serial numbers,
// enrol once over CMP, and renew over CMP or EST.
const factoryConfig = `version: 1
listeners:
  http: {address: 127.0.0.1:0}
  https: {address: 127.0.0.1:0, tls: {}}
store: sqlite:muster.db
backends:
  local: {plugin: local, config: {dir: ca, organization: Operator}}
server-certificate: {backend: local}
profiles:
  base-station:
    backend: local
    subject: "CN={{device.name}},serialNumber={{device.serial}},O=Operator"
    san: {dns: ["{{device.name}}.{{device.attributes.site}}.ran.example.com"]}
    keys: [P-256]
    validity: 397d
    ext-key-usage: [clientAuth, ipsecIKE]
endpoints:
  ran:
    protocol: cmp
    listeners: [http]
    default: true
    profile: base-station
    enroll:
      - vendor-ca: {dir: vendor-ca, serial: subject.serialNumber, vendor: acme}
      - inventory: {enrollments: 1}
    renew:
      - own-certificate: {}
      - inventory: {}
  field:
    protocol: est
    listeners: [https]
    default: true
    profile: base-station
    renew:
      - own-certificate: {endpoints: [ran, field]}
      - inventory: {}
`

// factory starts the gateway with a thousand devices imported, and a vendor's CA that has made certificates for the serial
// numbers. Scripts begin with cmpCommand.
func factory(t *testing.T, serials ...string) (g *instance, dir string) {
	g = configured(t, factoryConfig)
	dir = t.TempDir()
	if err := os.MkdirAll(filepath.Join(g.dir, "vendor-ca"), 0o700); err != nil {
		t.Fatal(err)
	}
	g.sh(dir, ecKey+`vendor-ca.key
		openssl req -x509 -new -key vendor-ca.key -subj "/O=Acme/CN=Acme Device Root" -days 3650 -out vendor-ca.pem
		printf 'basicConstraints=CA:FALSE\nkeyUsage=digitalSignature\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n' > vendor.ext
		cp vendor-ca.pem "$MUSTER_DATA/vendor-ca/acme.pem"`)
	for _, s := range serials {
		g.sh(dir, ecKey+s+`.key
			openssl req -new -key `+s+`.key -subj "/O=Acme/CN=radio/serialNumber=`+s+`" -out `+s+`.csr
			openssl x509 -req -in `+s+`.csr -CA vendor-ca.pem -CAkey vendor-ca.key -CAcreateserial -days 3650 -extfile vendor.ext -out `+s+`.pem 2>/dev/null`)
	}
	var csv strings.Builder
	csv.WriteString("name,serial,vendor,attr:site\n")
	for i := 1; i <= 1000; i++ {
		fmt.Fprintf(&csv, "bts-%04d,SN%04d,acme,north\n", i, i)
	}
	if err := os.WriteFile(filepath.Join(dir, "devices.csv"), []byte(csv.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := g.muster("device", "import", filepath.Join(dir, "devices.csv")); !strings.Contains(out, "imported 1000 devices") {
		t.Fatal(out)
	}
	g.again() // the vendor's CA is there from the start
	return g, dir
}

// TestFactory is the life of a base station: from the vendor's certificate to the operator's, and on.
func TestFactory(t *testing.T) {
	g, dir := factory(t, "SN0017", "SN0018", "SN0019", "SN9999")
	ir := func(serial, more string) string {
		return cmpCommand + ecKey + `new-` + serial + `.key; cmp -cmd ir -cert ` + serial + `.pem -key ` + serial + `.key -newkey new-` + serial + `.key -certout op-` + serial + `.pem -extracertsout chain.pem ` + more
	}

	// A listed device, which knows no name of its own: the profile gives it.
	out := g.sh(dir, ir("SN0017", "")+`
		openssl verify -x509_strict -CAfile "$MUSTER_CA" -untrusted chain.pem op-SN0017.pem
		openssl x509 -in op-SN0017.pem -noout -subject -ext subjectAltName`)
	for _, want := range []string{"op-SN0017.pem: OK", "CN = bts-0017", "serialNumber = SN0017", "DNS:bts-0017.north.ran.example.com"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if told := g.muster("explain", "--last", "--device", "SN0017"); !strings.Contains(told, "Device bts-0017 was issued a certificate") ||
		!strings.Contains(told, "vendor-ca") || !strings.Contains(told, "inventory") || !strings.Contains(told, "Changed    subject: asked for") || !strings.Contains(told, "confirmed") {
		t.Errorf("explain:\n%s", told)
	}

	// One that is not listed, and a listed one for the second time.
	out, code := g.run(dir, "sh", "-euc", ir("SN9999", ""))
	if code == 0 || !strings.Contains(out, "notAuthorized") {
		t.Errorf("an unlisted device: exit %d\n%s", code, out)
	}
	if told := g.muster("explain", "--last", "--device", "SN9999"); !strings.Contains(told, "SN9999") || !strings.Contains(told, "was refused by the stage inventory") {
		t.Errorf("explain:\n%s", told)
	}
	out, code = g.run(dir, "sh", "-euc", strings.NewReplacer("op-SN0017", "second", "new-SN0017", "second").Replace(ir("SN0017", "")))
	if code == 0 || !strings.Contains(out, "notAuthorized") && !strings.Contains(out, "duplicateCertReq") {
		t.Errorf("a second time: exit %d\n%s", code, out)
	}
	if told := g.muster("explain", "--last", "--device", "bts-0017"); !strings.Contains(told, "was refused") || !strings.Contains(told, "may enrol once, and has") {
		t.Errorf("explain:\n%s", told)
	}

	// The ip is lost on its way. The device begins anew, with another transactionID, and gets what was made for it.
	g.sh(dir, ir("SN0018", "-disable_confirm")+`; cp op-SN0018.pem lost.pem
		cmp -cmd ir -cert SN0018.pem -key SN0018.key -newkey new-SN0018.key -certout op-SN0018.pem
		diff lost.pem op-SN0018.pem`)
	if rows := g.transactions("bts-0018"); len(rows) != 1 || rows[0].State != "issued" {
		t.Errorf("after a lost ip: %+v", rows)
	}

	// Renewed over EST, as the same device; its enrollments are not counted for that.
	est(t, g, dir, "op-SN0017.pem", "new-SN0017.key", "renewed.pem")
	for _, want := range []string{"bts-0017", "SN0017", "Enrolled     1", "ran (cmp)", "field (est)", "may enrol once"} {
		if shown := g.muster("device", "show", "SN0017"); !strings.Contains(shown, want) {
			t.Errorf("no %q in\n%s", want, shown)
		}
	}
	if certs := listing[admin.Certificate](g, "certificates", "--device", "bts-0017"); len(certs) != 2 || certs[0].Device != certs[1].Device || certs[0].Endpoint != "field" || certs[1].Endpoint != "ran" {
		t.Errorf("%+v", certs)
	}

	// Disabled, it does not renew any more.
	g.muster("device", "disable", "SN0017")
	out, code = g.run(dir, "sh", "-euc", cmpCommand+`cmp -cmd kur -cert op-SN0017.pem -key new-SN0017.key -newkey new-SN0017.key -certout after.pem`)
	if code == 0 || !strings.Contains(out, "notAuthorized") {
		t.Errorf("disabled: exit %d\n%s", code, out)
	}
	if told := g.muster("explain", "--last", "--device", "bts-0017"); !strings.Contains(told, "disabled") {
		t.Errorf("explain:\n%s", told)
	}
}

// est renews a certificate over EST with the names that it has and the same key.
func est(t *testing.T, g *instance, dir, cert, key, out string) {
	t.Helper()
	g.sh(dir, `openssl x509 -in `+cert+` -signkey `+key+` -x509toreq -copy_extensions copyall -out est.csr 2>est.log || { cat est.log; exit 1; }
		openssl req -in est.csr -outform DER | openssl base64 -A > est.b64
		curl -sS --fail-with-body --cacert "$MUSTER_CA" --cert `+cert+` --key `+key+` --data-binary @est.b64 -H 'Content-Type: application/pkcs10' \
			"$MUSTER_HTTPS/.well-known/est/simplereenroll" -o est.p7 || { cat est.p7; exit 1; }
		openssl base64 -d -A -in est.p7 | openssl pkcs7 -inform DER -print_certs -out `+out)
}
