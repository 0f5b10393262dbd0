package e2e

import (
	"strings"
	"testing"
)

// namedUnits gives names by a template, and knows units by their serial numbers.
const namedUnits = `version: 1
listeners:
  http: {address: 127.0.0.1:0}
  https: {address: 127.0.0.1:0, tls: {}}
server-certificate: {backend: local}
store: sqlite:muster.db
backends:
  local: {plugin: local, config: {dir: ca, organization: Operator, issuers: {rsa: {bits: 2048}}}}
profiles:
  unit:
    backend: local
    issuer: rsa
    key-usage: [digitalSignature, keyEncipherment]
    subject: "CN={{device.name}},OU=Plant 7,O=Operator"
    san: {dns: ["{{device.name}}.plant.example"]}
endpoints:
  line:
    protocol: scep
    listeners: [http]
    default: true
    profile: unit
    enroll:
      - challenge: {issued: true}
      - inventory: {kind: serial}
    renew:
      - own-certificate: {}
      - inventory: {kind: serial}
`

// strongSwan writes names as PrintableString where it can, templates as UTF8String: its renewal asks for the name that it has. A challenge and
// a certificate name the unit by its entry, which has the serial number that counts.
func TestSCEPRenewsTemplatedNames(t *testing.T) {
	t.Parallel()
	g, dir := configured(t, namedUnits), t.TempDir()
	g.muster("device", "add", "plc-1", "--id", "serial=NW-1")
	g.muster("device", "add", "plc-2", "--id", "imei=490154203237518")
	out := g.sh(dir, `pki --scepca --url "$MUSTER_HTTP/scep" --caout ca.pem --raout ra.pem --outform pem 2>log
		ask() { pki --scep --url "$MUSTER_HTTP/scep" --cacert-enc ra.pem --cacert-sig ra.pem --cacert ca.pem --cacert ca-1.pem --outform pem "$@" 2>log || { tail -n 2 log; exit 1; }; }
		pki --gen --type rsa --size 2048 --outform pem > key.pem 2>log
		pki --gen --type rsa --size 2048 --outform pem > next.key 2>log
		ask --in key.pem --dn CN=whatever --password `+strings.TrimSpace(g.muster("challenge", "new", "--endpoint", "line", "--device", "NW-1"))+` > cert.pem
		ask --in next.key --cert cert.pem --key key.pem --dn 'O=Operator, OU=Plant 7, CN=plc-1' --san plc-1.plant.example > next.pem
		openssl x509 -in next.pem -noout -subject -nameopt RFC2253,show_type -ext subjectAltName`)
	if !strings.Contains(out, "CN=UTF8STRING:plc-1,OU=UTF8STRING:Plant 7,O=UTF8STRING:Operator") || !strings.Contains(out, "DNS:plc-1.plant.example") {
		t.Error(out)
	}
	out, code := g.run(dir, "sh", "-euc", `pki --scep --url "$MUSTER_HTTP/scep" --cacert-enc ra.pem --cacert-sig ra.pem --cacert ca.pem --cacert ca-1.pem --in key.pem --dn CN=plc-2 --password `+
		strings.TrimSpace(g.muster("challenge", "new", "--endpoint", "line", "--device", "plc-2"))+` > no.pem`)
	if why := g.muster("explain", "--last", "--device", "plc-2"); code == 0 || !strings.Contains(why, `device "plc-2" has no serial`) {
		t.Errorf("%s\n%s", out, why)
	}
}
