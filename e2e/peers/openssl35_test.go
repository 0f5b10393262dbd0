//go:build peers

package peers

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/e2e/running"
)

const opensslConfig = `distribution: {listeners: [http]}
profiles:
  device: {backend: local, validity: 90d}
  short: {backend: local, validity: 7d}
endpoints:
  enroll:
    protocol: cmp
    listeners: [http]
    default: true
    profile: device
    profiles: [short]
    enroll:
      - anyOf:
          - shared-secret: {secrets: {factory: {file: factory.secret}}}
          - vendor-ca: {dir: vendor-ca}
      - names: {}
    renew: [own-certificate: {}]
    revoke: [own-certificate: {}]
  held:
    protocol: cmp
    listeners: [http]
    profile: device
    enroll:
      - anyOf:
          - shared-secret: {secrets: {factory: {file: factory.secret}}}
          - vendor-ca: {dir: vendor-ca}
      - names: {}
      - approval: {approvers: 1}
    renew: [own-certificate: {}, approval: {approvers: 1}]
    cmp: {retry-after: 1s}
`

// cmp is what the command lines of `openssl cmp` begin with; $NEW is OpenSSL 3.5, $URL the gateway. What is printed matters when it fails.
const cmp = `with() { tool=$1 endpoint=$2; shift 2; "$tool" cmp -config '' -batch -server "${URL#http://}" -path .well-known/cmp/p/$endpoint "$@" 2>cmp.log >>cmp.log || { cat cmp.log; return 1; }; }
new() { with "$NEW" "$@"; }
key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out $1; }
good() { openssl verify -x509_strict -CAfile ca/roots.pem -untrusted extra.pem $1 >/dev/null; }
mac='-ref factory -secret file:factory.secret'
trusted='-trusted ca/roots.pem'
vendor="-cert P-256.pem -key P-256.key $trusted"
`

// ir, cr, p10cr with a secret and with each kind of signature, under profiles by name; kur and rr afterwards.
func TestOpenSSL35(t *testing.T) {
	g := start(t, opensslConfig, vendor)
	for _, protection := range []string{"$mac", "$mac -mac hmacWithSHA512 -digest sha512", "$vendor", "-cert rsa.pem -key rsa.key $trusted", "-cert P-384.pem -key P-384.key $trusted -digest sha384"} {
		for _, body := range []string{"ir", "cr", "p10cr"} {
			request := `-newkey new.key -subject /CN=device`
			if body == "p10cr" {
				request = `-csr new.csr`
			}
			g.Sh(cmp + `key new.key; openssl req -new -key new.key -subj /CN=device -out new.csr
				new enroll -cmd ` + body + " " + protection + " " + request + ` -certout new.pem -extracertsout extra.pem
				good new.pem`)
		}
		if got := g.State("CN=device"); got != "issued" {
			t.Errorf("%s: the transaction is %s", protection, got)
		}
	}

	// certProfile (RFC 9810 section 5.1.1.4) selects the profile; one that the endpoint does not offer is refused.
	out := g.Sh(cmp + `key short.key; new enroll -cmd ir $mac -profile short -newkey short.key -subject /CN=short -certout short.pem -extracertsout extra.pem; good short.pem
		openssl x509 -in short.pem -noout -checkend 700000 || echo it ends soon
		openssl x509 -in short.pem -noout -checkend 500000 && echo not today`)
	if !strings.Contains(out, "it ends soon") || !strings.Contains(out, "not today") {
		t.Error(out)
	}
	if out, ok := g.Run("sh", "-euc", cmp+`new enroll -cmd ir $mac -profile other -newkey short.key -subject /CN=short -certout other.pem`); ok || !strings.Contains(out, "badCertTemplate") {
		t.Error(out)
	}

	// The certificate renews and then revokes itself; afterwards it renews nothing.
	g.Sh(cmp + `key first.key; new enroll -cmd ir $vendor -newkey first.key -subject /CN=life -certout first.pem
		key second.key; new enroll -cmd kur -cert first.pem -key first.key $trusted -newkey second.key -certout second.pem -extracertsout extra.pem; good second.pem
		new enroll -cmd rr -cert second.pem -key second.key $trusted -oldcert second.pem -revreason 1`)
	if out, ok := g.Run("sh", "-euc", cmp+`new enroll -cmd kur -cert second.pem -key second.key $trusted -newkey first.key -certout third.pem`); ok || !strings.Contains(out, "certRevoked") {
		t.Error(out)
	}
	if got := g.State("CN=life"); got != "revoked" {
		t.Errorf("the transaction is %s", got)
	}
}

// What OpenSSL 3.5 can ask for and read: CA certificates, the root's successor, CRLs, the template.
func TestOpenSSL35GeneralMessages(t *testing.T) {
	g := start(t, opensslConfig, vendor)
	g.Sh(cmp + `cp ca/roots.pem old-roots.pem; openssl x509 -in ca/roots.pem -out old-root.pem
		key device.key; new enroll -cmd ir $mac -newkey device.key -subject /CN=device -certout device.pem`)
	for _, protection := range []string{"$mac", "-cert device.pem -key device.key -trusted old-roots.pem"} {
		g.Sh(cmp + `asks() { new enroll -cmd genm -infotype "$@" ` + protection + `; }
			asks caCerts -cacertsout cacerts.pem
			openssl verify -CAfile old-root.pem -untrusted cacerts.pem device.pem
			asks certReqTemplate -template template.der -keyspec keyspec.der
			openssl asn1parse -inform DER -in template.der | grep -q commonName
			openssl asn1parse -inform DER -in keyspec.der | grep -q prime256v1
			asks crlStatusList -crlcert device.pem -crlout first.crl
			openssl crl -inform DER -in first.crl -noout -CAfile cacerts.pem 2>&1 | grep "verify OK"
			rm -f same.crl; asks crlStatusList -oldcrl first.crl -crlout same.crl || grep -i "no CRL" cmp.log
			test ! -s same.crl
			rm -f none.pem; asks rootCaCert -oldwithold old-root.pem -newwithnew none.pem
			test ! -s none.pem`)
	}
	g.Muster("ca", "rekey", "local/ec", "--root", "--yes")
	for range 1500 {
		if strings.Contains(g.Log.String(), "own certificates have followed the CA") {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	for _, protection := range []string{"$mac", "-cert device.pem -key device.key -trusted old-roots.pem"} {
		g.Sh(cmp + `rm -f nwn.pem nwo.pem own.pem
			new enroll -cmd genm -infotype rootCaCert -oldwithold old-root.pem -newwithnew nwn.pem -newwithold nwo.pem -oldwithnew own.pem ` + protection + `
			openssl verify -x509_strict -CAfile nwn.pem own.pem
			openssl verify -x509_strict -CAfile old-root.pem nwo.pem
			openssl verify -x509_strict -CAfile ca/roots.pem nwn.pem`)
	}
}

// A request is held until somebody approves it; the client polls. Delivery that is delayed is for every kind of request.
func TestDelayedDelivery(t *testing.T) {
	g := start(t, opensslConfig, vendor)
	held := func(exited <-chan struct{}) string {
		for range 1000 {
			for _, tx := range g.Transactions("") {
				if tx.State == "held" {
					return tx.ID
				}
			}
			select {
			case <-exited:
				return ""
			case <-time.After(20 * time.Millisecond):
			}
		}
		return ""
	}
	for _, c := range []struct{ name, tool, request string }{
		{"ir-3.5", `"$NEW"`, `-cmd ir $mac -newkey $1.key -subject /CN=$1`},
		{"ir-3.0", `openssl`, `-cmd ir $mac -newkey $1.key -subject /CN=$1`},
		{"signed-ir-3.5", `"$NEW"`, `-cmd ir $vendor -newkey $1.key -subject /CN=$1`},
		{"cr-3.5", `"$NEW"`, `-cmd cr $vendor -newkey $1.key -subject /CN=$1`},
		{"p10cr-3.5", `"$NEW"`, `-cmd p10cr $mac -csr $1.csr`},
		{"kur-3.5", `"$NEW"`, `-cmd kur -cert cr-3.5.pem -key cr-3.5.key $trusted -newkey $1.key -subject /CN=cr-3.5`},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := exec.Command("sh", "-euc", `set -- `+c.name+`
				`+cmp+`key $1.key; openssl req -new -key $1.key -subj /CN=$1 -out $1.csr
				with `+c.tool+` held `+c.request+` -total_timeout 60 -certout $1.pem -extracertsout extra.pem; good $1.pem`)
			cmd.Dir, cmd.Env = g.Dir, append(os.Environ(), "URL="+g.URL, "NEW="+tools+"/openssl")
			out := &running.Output{}
			cmd.Stdout, cmd.Stderr = out, out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			exited := make(chan struct{})
			var failed error
			go func() { failed = cmd.Wait(); close(exited) }()
			id := held(exited)
			if id == "" {
				cmd.Process.Kill() //nolint:errcheck // it may have ended
				<-exited
				t.Fatalf("nothing is held: %s", out)
			}
			g.Muster("approve", id, "--reason", "it is on the list")
			if <-exited; failed != nil {
				t.Fatalf("%v\n%s", failed, out)
			}
			if told := g.Muster("explain", id); !strings.Contains(told, "issued") || !strings.Contains(told, "confirmed by the client") {
				t.Error(told)
			}
		})
	}
}
