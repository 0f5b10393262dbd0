package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway/admin"
)

// scepclient is micromdm's SCEP client, built once from its release.
var scepclient = sync.OnceValues(func() (string, error) {
	dir := filepath.Dir(binary)
	cmd := exec.Command("go", "install", "github.com/micromdm/scep/v2/cmd/scepclient@v2.3.0")
	cmd.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=")
	out, err := cmd.CombinedOutput()
	if err != nil {
		os.Stderr.Write(out)
	}
	return filepath.Join(dir, "scepclient"), err
})

// client runs scepclient in dir; $1 of the arguments is its path.
func (g *instance) scepclient(dir, args string) (out string, code int) {
	g.t.Helper()
	path, err := scepclient()
	if err != nil {
		g.t.Fatalf("building scepclient: %v", err)
	}
	return g.run(dir, "sh", "-euc", `"`+path+`" -debug -server-url "$MUSTER_HTTP/scep" `+args)
}

func TestSCEPClient(t *testing.T) {
	g := startIn(t, filepath.Join(t.TempDir(), "data"))
	dir := t.TempDir()
	client := func(args string) string {
		out, code := g.scepclient(dir, args)
		if code != 0 {
			t.Fatalf("scepclient %s: exit %d:\n%s", args, code, out)
		}
		return out
	}
	verify := func() {
		t.Helper()
		out := g.sh(dir, `curl -sS --fail "$MUSTER_HTTP/scep?operation=GetCACert" | openssl pkcs7 -inform DER -print_certs -out cas.pem
			openssl verify -x509_strict -CAfile "$MUSTER_CA" -untrusted cas.pem client.pem; openssl x509 -noout -subject -in client.pem`)
		if !strings.Contains(out, "client.pem: OK") || !strings.Contains(out, "CN = ") {
			t.Error(out)
		}
	}
	client(`-challenge "$MUSTER_SCEP_CHALLENGE" -private-key client.key -certificate client.pem -cn phone-1`)
	verify()
	first := serial(g, dir, "client.pem")

	// A renewal has the same key and, being the hash of the key, the same transaction ID; each gives a new certificate.
	seen := map[string]bool{first: true}
	for range 2 {
		client(`-private-key client.key -certificate client.pem -cn phone-1`)
		verify()
		s := serial(g, dir, "client.pem")
		if seen[s] {
			t.Fatalf("the renewal gave %s again", s)
		}
		seen[s] = true
	}
	if n := len(g.ledger("phone-1")); n != 3 {
		t.Errorf("%d in the ledger", n)
	}

	for _, c := range []struct{ name, args string }{
		{"wrong challenge, new key", `-challenge wrong -private-key new.key -certificate new.pem -cn phone-2`},
		{"no challenge, new key", `-private-key new.key -certificate new.pem -cn phone-2`},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, code := g.scepclient(dir, c.args)
			// It reads the failure out of a reply whose signature it has verified.
			if code == 0 || !strings.Contains(out, "FAILURE") && !strings.Contains(out, "badRequest") {
				t.Errorf("exit %d:\n%s", code, out)
			}
			if n := len(g.ledger("phone-2")); n != 0 {
				t.Errorf("%d in the ledger", n)
			}
		})
	}
	if strings.Contains(g.stderr.String(), g.env["MUSTER_SCEP_CHALLENGE"]) {
		t.Error("the challenge is in the log")
	}
}

func TestStrongSwanSCEP(t *testing.T) {
	g := startIn(t, filepath.Join(t.TempDir(), "data"))
	dir := t.TempDir()
	g.sh(dir, `pki --scepca --url "$MUSTER_HTTP/scep" --caout ca.pem --outform pem 2>log || { cat log; exit 1; }; ls`)
	files, err := filepath.Glob(filepath.Join(dir, "*.pem"))
	if err != nil || len(files) < 3 {
		t.Fatalf("pki --scepca left %v (%v)", files, err)
	}
	enrol := func(args, out string) {
		t.Helper()
		g.sh(dir, `set --; for c in ca*.pem; do case $c in *ra*) ;; *) set -- "$@" --cacert "$c";; esac; done
			pki --scep --url "$MUSTER_HTTP/scep" --cacert-enc ca-ra.pem --cacert-sig ca-ra.pem "$@" `+args+` --outform pem > `+out+` 2>log || { cat log; ls; exit 1; }
			openssl verify -CAfile "$MUSTER_CA" -untrusted ca-1.pem -untrusted ca.pem `+out)
	}
	g.sh(dir, `pki --gen --type rsa --size 2048 --outform pem > device.key 2>/dev/null; pki --gen --type rsa --size 2048 --outform pem > next.key 2>/dev/null`)
	enrol(`--in device.key --dn "C=CH, CN=strongswan-1" --password "$MUSTER_SCEP_CHALLENGE"`, "device.crt")
	enrol(`--in device.key --dn "C=CH, CN=strongswan-2" --password "$MUSTER_SCEP_CHALLENGE" --digest sha512`, "other.crt")
	enrol(`--in next.key --dn "C=CH, CN=strongswan-1" --cert device.crt --key device.key`, "renewed.crt")
	if serial(g, dir, "device.crt") == serial(g, dir, "renewed.crt") {
		t.Error("not renewed")
	}
	out, code := g.run(dir, "sh", "-euc", `pki --scep --url "$MUSTER_HTTP/scep" --cacert-enc ca-ra.pem --cacert-sig ca-ra.pem --cacert ca.pem --in next.key --dn "CN=strongswan-3" --password wrong --outform pem > no.crt`)
	if code == 0 {
		t.Errorf("a wrong challenge was accepted: %s", out)
	}
}

// certmongerScript is a session of certmonger's: a CA, a request, a renewal of it with a new key.
const certmongerScript = `
getcert add-scep-ca -s -c muster -u "$MUSTER_HTTP/scep" -I "$PWD/cas.pem"
getcert request -s -c muster -k "$PWD/key.pem" -f "$PWD/cert.pem" -N CN=certmonger-1 -L "$MUSTER_SCEP_CHALLENGE" -I one -w -v || { getcert list -s; exit 1; }
openssl x509 -in cert.pem -noout -serial
getcert resubmit -s -i one -w -v || { getcert list -s; exit 1; }
openssl x509 -in cert.pem -noout -serial
`

// heldClientsConfig has people approve first enrollments, and takes what scepclient sends.
var heldClientsConfig = strings.Replace(holdESTSCEPConfig, "    profile: mobile\n", `    profile: mobile
    scep: {legacy: [des, sha1]}
    renew:
      - own-certificate: {}
    query:
      - own-certificate: {}
`, 1)

// PENDING (RFC 8894 section 3.3.2.3), approved, SUCCESS, and then a renewal that nobody approves. strongSwan's pki does so in TestHeldSCEP.
func TestSCEPClientsHeld(t *testing.T) {
	t.Parallel()
	g := configured(t, heldClientsConfig, "users", heldSecret(t, "held-password"), "challenges", heldSecret(t, "held-challenge"))
	g.env["MUSTER_SCEP_CHALLENGE"] = "held-challenge"
	issued := func(t *testing.T, name, id string) {
		t.Helper()
		rows := g.transactions(name)
		if len(rows) != 2 || len(g.ledger(name)) != 2 || !slices.ContainsFunc(rows, func(tx admin.Transaction) bool { return tx.ID == id && tx.State == "issued" }) {
			t.Errorf("%+v, %d in the ledger: want what was held, and a renewal", rows, len(g.ledger(name)))
		}
	}
	// It asks again after 30 s, with the very message; so it is ended, and makes the same message anew.
	t.Run("scepclient", func(t *testing.T) {
		dir := t.TempDir()
		path, err := scepclient()
		if err != nil {
			t.Fatal(err)
		}
		out := &capture{}
		cmd := exec.Command(path, "-server-url", g.env["MUSTER_HTTP"]+"/scep", "-private-key", "key.pem", "-certificate", "cert.pem",
			"-cn", "phone-held", "-challenge", "held-challenge")
		cmd.Dir, cmd.Stdout, cmd.Stderr = dir, out, out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		id := g.held("phone-held")
		for range 500 {
			if strings.Contains(out.String(), "pkiStatus=PENDING") {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		cmd.Process.Kill()
		cmd.Wait() //nolint:errcheck // it was killed
		if !strings.Contains(out.String(), "pkiStatus=PENDING") {
			t.Fatalf("scepclient was not told PENDING:\n%s", out)
		}
		g.muster("approve", id, "--reason", "it is on the list")
		const again = `-private-key key.pem -certificate cert.pem -cn phone-held`
		if out, code := g.scepclient(dir, again+` -challenge "$MUSTER_SCEP_CHALLENGE"`); code != 0 {
			t.Fatalf("exit %d:\n%s", code, out)
		}
		first := serial(g, dir, "cert.pem")
		if out, code := g.scepclient(dir, again); code != 0 || serial(g, dir, "cert.pem") == first {
			t.Fatalf("renewing: exit %d:\n%s", code, out)
		}
		issued(t, "phone-held", id)
	})
	// It reads an answer without an envelope only where the content is there and empty.
	t.Run("certmonger", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "run.sh"), []byte(`
getcert add-scep-ca -s -c muster -u "$MUSTER_HTTP/scep" -I "$PWD/cas.pem"
getcert request -s -c muster -k "$PWD/key.pem" -f "$PWD/cert.pem" -N CN=certmonger-held -L "$MUSTER_SCEP_CHALLENGE" -I one
state() { getcert list -s -i one | sed -n 's/.*status: //p'; }
await() { for _ in $(seq 200); do case $(state) in "$1"*) return;; esac; sleep 0.05; done; getcert list -s -i one; exit 1; }
await CA_WORKING
id=$("$MUSTER" ls --state held --json --data "$MUSTER_DATA" | sed -n 's/.*"id": *"\([^"]*\)".*/\1/p')
getcert refresh -s -i one # asks by the PKCSReq again, not by CertPoll
for _ in $(seq 200); do case $("$MUSTER" explain "$id" --data "$MUSTER_DATA") in *"repeat (pending)"*) break;; esac; sleep 0.05; done
"$MUSTER" explain "$id" --data "$MUSTER_DATA" | grep "repeat (pending)"
await CA_WORKING
"$MUSTER" approve "$id" --reason listed --data "$MUSTER_DATA"
echo "held=$id"
getcert refresh -s -i one
await MONITORING
openssl x509 -in cert.pem -noout -serial
getcert resubmit -s -i one -w -v || { getcert list -s; exit 1; }
openssl x509 -in cert.pem -noout -serial
`), 0o600); err != nil {
			t.Fatal(err)
		}
		out, code := g.run(dir, "sh", "-euc", certmongerSession)
		serials := regexp.MustCompile(`serial=(\w+)`).FindAllStringSubmatch(out, -1)
		id := regexp.MustCompile(`held=(\w+)`).FindStringSubmatch(out)
		if code != 0 || len(serials) != 2 || serials[0][1] == serials[1][1] || len(id) != 2 {
			t.Fatalf("certmonger did not wait, enrol and renew:\n%s", out)
		}
		issued(t, "certmonger-held", id[1])
	})
}

// certmongerSession runs run.sh with a certmonger of its own, on a session's bus; cas.pem is what GetCACert has.
const certmongerSession = `
	for v in $(env | sed -n 's/^\(CERTMONGER_[A-Z_]*\)=.*/\1/p'); do unset "$v"; done
	export HOME="$PWD" CERTMONGER_TMPDIR="$PWD" # its state is below HOME
	curl -sS --fail "$MUSTER_HTTP/scep?operation=GetCACert" | openssl pkcs7 -inform DER -print_certs -out cas.pem
	dbus-run-session -- sh -eu run.sh`

// certmonger runs as a session's service, which makes the requests by itself; getcert tells it to.
func TestCertmonger(t *testing.T) {
	g := startIn(t, filepath.Join(t.TempDir(), "data"))
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "run.sh"), []byte(certmongerScript), 0o600); err != nil {
		t.Fatal(err)
	}
	out := g.sh(dir, certmongerSession)
	serials := regexp.MustCompile(`serial=(\w+)`).FindAllStringSubmatch(out, -1)
	if len(serials) != 2 || serials[0][1] == serials[1][1] {
		t.Errorf("certmonger did not enrol and renew:\n%s", out)
	}
	if n := len(g.ledger("certmonger-1")); n != 2 {
		t.Errorf("%d in the ledger\n%s", n, out)
	}
}
