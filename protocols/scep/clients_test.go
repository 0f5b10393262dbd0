package scep

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/smallstep/pkcs7"
	smallscep "github.com/smallstep/scep"

	"github.com/muster-pki/muster/gateway"
)

// The clients come from Debian's packages curl, openssl, strongswan-pki with libstrongswan-extra-plugins, certmonger and
// dbus-daemon; a test whose client is missing fails. scepclient is built here. sscep is in no package: see sscep_test.go.

// tools is a folder for what is built.
var tools string

func TestMain(m *testing.M) {
	flag.Parse()
	tools = must(os.MkdirTemp("", "muster-scep-"))
	code := m.Run()
	os.RemoveAll(tools)
	os.Exit(code)
}

// scepclient is micromdm's client, built from its release.
var scepclient = sync.OnceValues(func() (string, error) {
	cmd := exec.Command("go", "install", "github.com/micromdm/scep/v2/cmd/scepclient@v2.3.0")
	cmd.Env = append(os.Environ(), "GOBIN="+tools, "GOFLAGS=")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building scepclient: %w\n%s", err, out)
	}
	return filepath.Join(tools, "scepclient"), nil
})

// bench is a folder where real clients run against a world.
type bench struct {
	*world
	dir string
}

func newBench(t *testing.T, config Config) *bench {
	t.Helper()
	b := &bench{newWorld(t, worldOptions{config: config}), t.TempDir()}
	b.write(t, "root.pem", b.ca.root)
	return b
}

func (b *bench) write(t *testing.T, name string, cert *x509.Certificate) {
	t.Helper()
	data := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
	if err := os.WriteFile(filepath.Join(b.dir, name), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// run runs a script of a recipe, in a session of its own for those that need one.
func (b *bench) run(t *testing.T, script string) (output string, ok bool) {
	t.Helper()
	client, err := scepclient()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", script)
	cmd.Dir = b.dir
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(client)+":"+os.Getenv("PATH"), "HOME="+b.dir, "XDG_CONFIG_HOME="+b.dir,
		"MUSTER_HTTP="+b.server.URL, "MUSTER_CA="+filepath.Join(b.dir, "root.pem"), "MUSTER_SCEP_CHALLENGE="+testChallenge)
	out, err := cmd.CombinedOutput()
	if _, exited := err.(*exec.ExitError); err != nil && !exited {
		t.Fatal(err)
	}
	return string(out), err == nil
}

func (b *bench) must(t *testing.T, script string) string {
	t.Helper()
	out, ok := b.run(t, script)
	if !ok {
		t.Fatalf("%s\n%s\n%s", script, out, b.log)
	}
	return out
}

// asked is what the gateway was asked since, as "operation kind...".
func (b *bench) asked() string {
	var list []string
	for _, r := range b.gateway.allEnrolled() {
		one := string(r.Operation)
		for _, c := range r.Credentials {
			one += " " + string(c.Kind)
		}
		list = append(list, one)
	}
	b.gateway.mu.Lock()
	b.gateway.enrolled = nil
	b.gateway.mu.Unlock()
	return strings.Join(list, ", ")
}

// recipes are the commands of a section of docs/scep.md, in order.
func recipes(t *testing.T, section string) []string {
	t.Helper()
	text := string(must(os.ReadFile(filepath.Join("..", "..", "docs", "scep.md"))))
	_, text, ok := strings.Cut(text, "\n### "+section)
	if !ok {
		t.Fatalf("docs/scep.md has no section %q", section)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	text, _, _ = strings.Cut(text, "\n### ")
	var list []string
	for i, part := range strings.Split(text, "\n```") {
		if script, ok := strings.CutPrefix(part, "sh\n"); ok && i%2 == 1 {
			list = append(list, script)
		}
	}
	if len(list) == 0 {
		t.Fatalf("section %q has no commands", section)
	}
	return list
}

// The recipes of docs/scep.md work as they stand there, each client against the endpoint that it needs.
func TestRecipes(t *testing.T) {
	for _, tt := range []struct {
		section string
		legacy  []Legacy
		want    string
	}{
		{"curl", nil, ""},
		{"micromdm", []Legacy{LegacyDES, LegacySHA1}, "enroll message-key challenge, renew message-signer"},
		{"strongSwan", nil, "enroll message-key challenge, rekey message-signer"},
	} {
		t.Run(tt.section, func(t *testing.T) {
			b := newBench(t, Config{Legacy: tt.legacy})
			for _, script := range recipes(t, tt.section) {
				b.must(t, script)
			}
			if got := b.asked(); got != tt.want {
				t.Errorf("the gateway was asked for %s; want %s", got, tt.want)
			}
		})
	}
}

// certmonger, as a daemon that a session bus starts, with its state below the test's folder: the recipe's commands with -s.
func TestCertmonger(t *testing.T) {
	b := newBench(t, Config{})
	script := ""
	for _, v := range []string{"CONFIG_DIR", "REQUESTS_DIR", "CAS_DIR", "LOCAL_CA_DIR", "TMPDIR"} {
		script += "mkdir -p state/" + v + "; export CERTMONGER_" + v + "=$PWD/state/" + v + "\n"
	}
	script += "export CERTMONGER_SYSTEM_LOCK_FILE=$PWD/state/lock\ndbus-run-session -- bash -eu <<'END'\n"
	for _, r := range recipes(t, "certmonger") {
		script += strings.NewReplacer("sudo ", "", "/etc/ssl/private", b.dir, "/etc/ssl/certs", b.dir).
			Replace(regexp.MustCompile(`getcert (\S+)`).ReplaceAllString(r, "getcert $1 -s")) + "\n"
	}
	out := b.must(t, script+"END\n")
	if got := b.asked(); got != "enroll message-key challenge, renew message-signer" {
		t.Errorf("the gateway was asked for %s\n%s", got, out)
	}
}

// scepclient where it has to fail, and where it renews twice with one key.
func TestScepclient(t *testing.T) {
	b := newBench(t, Config{Legacy: []Legacy{LegacyDES, LegacySHA1}})
	const enroll = `scepclient -server-url "$MUSTER_HTTP/scep" -private-key d/key.pem -certificate d/cert.pem -cn device-0001 `
	out, ok := b.run(t, "mkdir d; "+enroll+"-challenge guess")
	if ok || !strings.Contains(out, "failInfo: badRequest (2)") || b.asked() != "enroll message-key challenge" {
		t.Errorf("a wrong challenge: %s", out)
	}
	b.must(t, "rm d/csr.pem; "+enroll+`-challenge "$MUSTER_SCEP_CHALLENGE" && cp d/cert.pem 1.pem; `+enroll+"; cp d/cert.pem 2.pem; "+enroll+
		"; ! cmp 1.pem 2.pem && ! cmp 2.pem d/cert.pem")
	if got := b.asked(); got != "enroll message-key challenge, renew message-signer, renew message-signer" {
		t.Errorf("%s", got)
	}
	plain := newBench(t, Config{})
	if out, ok := plain.run(t, "mkdir d; "+enroll+`-challenge "$MUSTER_SCEP_CHALLENGE"`); ok || !strings.Contains(out, "failInfo: badAlg (0)") {
		t.Errorf("without the legacy list: %s", out)
	}
	full := newBench(t, Config{Legacy: []Legacy{LegacyDES, LegacySHA1}, Chain: ChainFull})
	full.must(t, "mkdir d; "+enroll+`-challenge "$MUSTER_SCEP_CHALLENGE"; openssl x509 -in d/cert.pem -noout -subject | grep device-0001`)
}

// strongSwan: its ciphers and digests, a wrong challenge, and the chain in the answer.
func TestStrongSwan(t *testing.T) {
	for _, chain := range []Chain{ChainLeaf, ChainFull} {
		b := newBench(t, Config{Legacy: []Legacy{LegacyTripleDES, LegacySHA1}, Chain: chain})
		b.must(t, `pki --scepca --url "$MUSTER_HTTP/scep" --caout ca.pem --raout ra.pem --outform pem; pki --gen --type rsa --size 2048 --outform pem > k`)
		const enroll = `pki --scep --url "$MUSTER_HTTP/scep" --in k --dn CN=device-0002 --cacert-enc ra.pem --cacert-sig ra.pem --cacert ca.pem --cacert ca-1.pem --outform pem `
		for _, o := range []string{"", "--digest sha384", "--digest sha512", "--digest sha1", "--cipher des3"} {
			b.must(t, enroll+`--password "$MUSTER_SCEP_CHALLENGE" `+o+` > c.pem; openssl verify -CAfile "$MUSTER_CA" -untrusted ca-1.pem c.pem`)
		}
		for o, want := range map[string]string{"--password guess": "badRequest", `--password "$MUSTER_SCEP_CHALLENGE" --digest sha224`: "badAlg", "--rsa-padding pss": "badAlg"} {
			if out, ok := b.run(t, enroll+o); ok || !strings.Contains(out, want) {
				t.Errorf("%s: %s", o, out)
			}
		}
	}
}

// The client side of smallstep/scep, in process.
func TestSmallstep(t *testing.T) {
	w := newWorld(t, worldOptions{config: Config{Legacy: []Legacy{LegacyDES, LegacySHA1}}})
	certs := must(smallscep.CACerts(w.get("/scep?operation=GetCACert").body))
	if len(certs) != 3 || !bytes.Equal(certs[0].Raw, w.ca.ra.Raw) {
		t.Fatalf("%d certificates", len(certs))
	}
	if pkcs7.ContentEncryptionAlgorithm != pkcs7.EncryptionAlgorithmDESCBC {
		t.Error("the library no longer sends DES: the legacy list of the quickstart can be shorter")
	}
	ask := func(challenge string) *smallscep.PKIMessage {
		csr := must(x509.ParseCertificateRequest(makeCSR(deviceKey(), "device-0001", challenge, 0)))
		signer := selfSigned(deviceKey())
		msg := must(smallscep.NewCSRRequest(csr, &smallscep.PKIMessage{
			MessageType: smallscep.PKCSReq, Recipients: certs, SignerKey: deviceKey(), SignerCert: signer,
		}))
		got := w.post("/scep", msg.Raw)
		reply, err := smallscep.ParsePKIMessage(got.body, smallscep.WithCACerts(certs))
		if err != nil {
			t.Fatalf("%v: %d %s", err, got.StatusCode, got.body)
		}
		if reply.TransactionID != msg.TransactionID || !bytes.Equal(reply.RecipientNonce, msg.SenderNonce) || reply.MessageType != smallscep.CertRep {
			t.Errorf("%+v", reply)
		}
		if reply.PKIStatus == smallscep.SUCCESS {
			if err := reply.DecryptPKIEnvelope(signer, deviceKey()); err != nil {
				t.Fatal(err)
			}
		}
		return reply
	}
	if got := ask(testChallenge); got.PKIStatus != smallscep.SUCCESS || !deviceKey().PublicKey.Equal(got.CertRepMessage.Certificate.PublicKey) {
		t.Errorf("%+v", got)
	}
	if got := ask("guess"); got.PKIStatus != smallscep.FAILURE || got.FailInfo != smallscep.BadRequest {
		t.Errorf("%+v", got)
	}
	w.gateway.enroll = func(*gateway.Request) (*gateway.Result, error) {
		return &gateway.Result{Kind: gateway.ResultPending}, nil
	}
	if got := ask(testChallenge); got.PKIStatus != smallscep.PENDING {
		t.Errorf("%+v", got)
	}
}

// OpenSSL verifies the answers and takes a SUCCESS apart.
func TestOpenSSL(t *testing.T) {
	b := newBench(t, Config{})
	signer := selfSigned(deviceKey())
	b.write(t, "device.pem", signer)
	if err := os.WriteFile(filepath.Join(b.dir, "success.der"), b.post("/scep", b.message(wish{signer: signer})).body, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.dir, "failure.der"), b.post("/scep", b.message(wish{challenge: "guess"})).body, 0o600); err != nil {
		t.Fatal(err)
	}
	b.write(t, "issuer.pem", b.ca.issuer)
	key := filepath.Join(must(filepath.Abs(filepath.Join("..", "..", "testdata", "scep"))), "device.key")
	out := b.must(t, `cat root.pem issuer.pem > cas.pem
		openssl cms -verify -inform DER -in success.der -CAfile cas.pem -purpose any -binary -out envelope.der
		openssl cms -decrypt -inform DER -in envelope.der -recip device.pem -inkey `+key+` -binary -out certs.der
		openssl pkcs7 -inform DER -in certs.der -print_certs
		openssl cms -verify -inform DER -in failure.der -CAfile cas.pem -purpose any -binary -out nothing; ! test -s nothing
		openssl cms -cmsout -print -noout -inform DER -in failure.der`)
	for _, want := range []string{"subject=CN = device-0001", "the challenge is missing or wrong"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
}
