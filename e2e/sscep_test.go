//go:build sscep

package e2e

import (
	"os/exec"
	"strings"
	"testing"
)

// sscep is in no Debian package, so that this runs by a tag only: protocols/scep/sscep_test.go says how to build it.

// All that sscep has, against the gateway: PENDING, CertPoll and SUCCESS, a renewal without a challenge, GetCert, GetCRL, GetNextCACert.
func TestSscep(t *testing.T) {
	g := configured(t, heldClientsConfig, "users", heldSecret(t, "held-password"), "challenges", heldSecret(t, "held-challenge"))
	dir := t.TempDir()
	g.sh(dir, `printf '[req]\ndistinguished_name=d\nattributes=a\nprompt=no\n[d]\nCN=sscep-held\n[a]\nchallengePassword=held-challenge\n' > req.cnf
		openssl req -new -newkey rsa:2048 -nodes -keyout key.pem -config req.cnf -out csr.pem
		sscep getca -u "$MUSTER_HTTP/scep" -c ca.pem`)
	out := &capture{}
	cmd := exec.Command("sscep", "enroll", "-u", g.env["MUSTER_HTTP"]+"/scep", "-k", "key.pem", "-r", "csr.pem", "-c", "ca.pem-0",
		"-E", "aes", "-S", "sha256", "-l", "cert.pem", "-t", "1", "-n", "30")
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	id := g.held("sscep-held")
	g.await(id, "poll")
	g.muster("approve", id, "--reason", "it is on the list")
	if err := cmd.Wait(); err != nil || !strings.Contains(out.String(), "PENDING") {
		t.Fatalf("%v\n%s", err, out)
	}
	g.sh(dir, `openssl verify -CAfile "$MUSTER_CA" -untrusted ca.pem-1 cert.pem
		openssl req -new -newkey rsa:2048 -nodes -keyout next.key -subj /CN=sscep-held -out next.csr
		sscep enroll -u "$MUSTER_HTTP/scep" -k next.key -r next.csr -K key.pem -O cert.pem -c ca.pem-0 -E aes -S sha256 -l next.pem
		openssl verify -CAfile "$MUSTER_CA" -untrusted ca.pem-1 next.pem`)
	if n := len(g.ledger("sscep-held")); n != 2 {
		t.Errorf("%d in the ledger", n)
	}
	g.sh(dir, `number=$(openssl x509 -in cert.pem -noout -serial | cut -d= -f2)
		number=$(python3 -c "print(int('$number', 16))")
		sscep getcert -u "$MUSTER_HTTP/scep" -k key.pem -l cert.pem -c ca.pem-0 -O ca.pem-1 -s "$number" -w got.pem -E aes -S sha256
		cmp got.pem cert.pem
		sscep getcrl -u "$MUSTER_HTTP/scep" -k key.pem -l cert.pem -c ca.pem-0 -O cert.pem -w crl.pem -E aes -S sha256
		openssl crl -in crl.pem -noout -CAfile ca.pem-1`)
	g.muster("ca", "rekey", "local/rsa", "--root", "--announce", "--yes")
	g.sh(dir, `sscep getnextca -u "$MUSTER_HTTP/scep" -c announced.pem -C ca.pem-2
		openssl verify -CAfile "$MUSTER_CA" -untrusted announced.pem-0 -untrusted announced.pem-1 announced.pem-0 announced.pem-1`)
}
