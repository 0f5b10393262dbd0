package est

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
)

func newRSA() crypto.Signer { return must(rsa.GenerateKey(rand.Reader, 3072)) }

// bench is a folder where real clients run against a world.
type bench struct {
	*world
	dir string
}

// newBench makes one. The gateway wants a password for a first enrollment.
func newBench(t *testing.T, o worldOptions) *bench {
	t.Helper()
	issue := o.enroll
	if issue == nil {
		issue = (*world).sign
	}
	o.enroll = func(w *world, r *gateway.Request) (*gateway.Result, error) {
		password, _ := r.Credential(gateway.CredentialPassword)
		if r.Operation == gateway.Enroll && (password.ID != "factory" || string(password.Secret) != "pass word") {
			return nil, &gateway.Error{Reason: gateway.Unauthenticated, Detail: "user name or password wrong", Transaction: testReference}
		}
		return issue(w, r)
	}
	b := &bench{newWorld(t, o), t.TempDir()}
	data := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b.ca.root.Raw})
	if err := os.WriteFile(filepath.Join(b.dir, "root.pem"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	return b
}

// run runs a script of a recipe. A client that is not installed fails it.
func (b *bench) run(t *testing.T, script string) (output string, ok bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", script)
	cmd.Dir = b.dir
	cmd.Env = append(os.Environ(), "MUSTER_HTTPS="+b.server.URL, "MUSTER_CA="+filepath.Join(b.dir, "root.pem"),
		"MUSTER_EST_USER=factory", "MUSTER_EST_PASSWORD=pass word")
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
		t.Fatalf("%s\n%s", script, out)
	}
	return out
}

// recipes are the commands of docs/est.md, in order.
func recipes(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "est.md"))
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for i, part := range strings.Split(string(text), "\n```") {
		if script, ok := strings.CutPrefix(part, "sh\n"); ok && i%2 == 1 {
			list = append(list, script)
		}
	}
	return list
}

// The recipes of docs/est.md work as they stand there, with curl, openssl and strongSwan, one after the other
// against one endpoint, whatever the CA's keys.
func TestRecipes(t *testing.T) {
	scripts := recipes(t)
	if len(scripts) != 10 {
		t.Fatalf("%d recipes in docs/est.md", len(scripts))
	}
	for name, newKey := range map[string]func() crypto.Signer{"P-256": newP256, "RSA-3072": newRSA} {
		t.Run(name, func(t *testing.T) {
			made, maker := newP256(), &keyMaker{}
			b := newBench(t, worldOptions{newKey: newKey, identity: maker.identity, enroll: func(w *world, r *gateway.Request) (*gateway.Result, error) {
				return w.withKey(r, made)
			}})
			maker.certify(b.world)
			b.gateway.profile = &gateway.Profile{Keys: []string{"P-256"}}
			b.gateway.keks = map[string][]byte{"kek-0001": bytes.Repeat([]byte{0xab}, 32)}
			b.must(t, "printf %s "+strings.Repeat("ab", 32)+" > kek.hex")
			for i, script := range scripts {
				b.must(t, script)
				if strings.Contains(script, "-out device.key") && strings.Contains(script, "openssl pkey") {
					if block, _ := pem.Decode([]byte(b.must(t, "cat device.key"))); !made.(*ecdsa.PrivateKey).Equal(must(x509.ParsePKCS8PrivateKey(block.Bytes))) {
						t.Errorf("recipe %d leads to another key", i)
					}
				}
			}
			var asked []string
			for _, r := range b.gateway.allEnrolled() {
				kinds := []string{string(r.Operation)}
				for _, c := range r.Credentials {
					kinds = append(kinds, string(c.Kind))
				}
				asked = append(asked, strings.Join(kinds, " "))
			}
			want := "enroll password, rekey tls-certificate, enroll password, rekey tls-certificate, enroll password, enroll password"
			if got := strings.Join(asked, ", "); got != want {
				t.Errorf("the gateway was asked for %s; want %s", got, want)
			}
		})
	}
}

// strongSwan with RSA keys: its answer is larger than a segment.
func TestStrongSwanRSA(t *testing.T) {
	b := newBench(t, worldOptions{newKey: newRSA})
	b.must(t, `
		pki --estca --url "$MUSTER_HTTPS" --cacert "$MUSTER_CA" --caout ca.pem --outform pem
		pki --gen --type rsa --size 3072 --outform pem > rsa.key
		pki --req --in rsa.key --type priv --dn CN=device-0002 --outform pem > rsa.req`)
	const enroll = `pki --est --url "$MUSTER_HTTPS" --cacert ca.pem --cacert ca-1.pem --in rsa.req --outform pem `
	b.must(t, enroll+`--userpass "$MUSTER_EST_USER:$MUSTER_EST_PASSWORD" > rsa.pem`)
	b.must(t, enroll+`--cert rsa.pem --key rsa.key > rsa2.pem; openssl verify -CAfile "$MUSTER_CA" -untrusted ca-1.pem rsa.pem rsa2.pem`)
	if r := b.gateway.lastEnrolled(t); r.Operation != gateway.Renew {
		t.Errorf("the same key: %s", r.Operation)
	}
	if out, ok := b.run(t, enroll+`--userpass factory:guess`); ok || !strings.Contains(out, "HTTP 401") {
		t.Errorf("a wrong password: %s", out)
	}
	out, ok := b.run(t, `pki --req --in rsa.key --type priv --dn CN=device-0002 --password challenge --outform pem > rsa.req; `+
		enroll+`--userpass "$MUSTER_EST_USER:$MUSTER_EST_PASSWORD"`)
	if ok || !strings.Contains(out, "HTTP 400") || b.gateway.lastRejected(t).err.Reason != gateway.BadPOP {
		t.Errorf("a challengePassword: %s", out)
	}
}

// What people do with curl, and what it says to them.
func TestCurl(t *testing.T) {
	b := newBench(t, worldOptions{http2: true})
	b.must(t, `openssl ecparam -name prime256v1 -genkey -noout -out k
		openssl req -new -key k -subj /CN=device-0001 -outform DER -out r.der
		openssl req -new -key k -subj /CN=device-0001 -out r.pem
		openssl base64 -in r.der -out r.b64; openssl base64 -A -in r.der -out r.line`)
	const curl = `curl -sS --cacert "$MUSTER_CA" -o out -w '%{http_code} ' "$MUSTER_HTTPS/.well-known/est/simpleenroll" `
	const typed = `-H "Content-Type: application/pkcs10" `
	const user = `-u "$MUSTER_EST_USER:$MUSTER_EST_PASSWORD" `
	for _, c := range []struct{ args, want string }{
		{typed + user + "--data-binary @r.b64", "200 MII"},
		{typed + user + "--data @r.b64", "200 MII"}, // without line ends
		{typed + user + "--data-binary @r.line", "200 MII"},
		{typed + user + "--data-binary @r.b64 -H 'Content-Transfer-Encoding: base64'", "200 MII"},
		{typed + user + "--data-binary @r.b64 -H 'Transfer-Encoding: chunked' --http1.1", "200 MII"},
		{typed + user + "--data-binary @r.b64 -H 'Expect: 100-continue' --http1.1", "200 MII"},
		{typed + user + "--data-binary @r.b64 --basic --http1.1 --tlsv1.2 --tls-max 1.2", "200 MII"},
		{typed + user + "--data-binary @r.b64 --anyauth", "200 MII"},
		{typed + user + "--data-binary @r.b64 --anyauth --http1.1", "200 MII"},
		{typed + "--data-binary @r.b64", "401 user name or password wrong (reference "},
		{typed + "-u factory:guess --data-binary @r.b64", "401 user name or password wrong (reference "},
		{user + "--data-binary @r.b64", "415 the Content-Type of a request is application/pkcs10"},
		{typed + user + "--data-binary @r.der", "400 the body is binary DER"},
		{typed + user + "--data-binary @r.pem", "400 the body is PEM"},
		{typed + user + "--data @r.pem", "400 the body is PEM"},
		{typed + user + "-T r.b64", "405 /simpleenroll takes POST"},
		{typed + user + "-X GET --data-binary @r.b64", "405 /simpleenroll takes POST"},
	} {
		if got := b.must(t, curl+c.args+"; cat out"); !strings.HasPrefix(got, c.want) {
			t.Errorf("%s\n  gave %.200s\n  want %s", c.args, got, c.want)
		}
	}
}

// libest is not at hand: its decoder is, which wants line breaks and which openssl's command shares (OpenSSL's BIO_f_base64).
func TestAsLibest(t *testing.T) {
	b := newBench(t, worldOptions{})
	const get = `curl -sS --fail-with-body --cacert "$MUSTER_CA" "$MUSTER_HTTPS/.well-known/est/cacerts" `
	const read = `| openssl base64 -d | openssl pkcs7 -inform DER -print_certs`
	if out := b.must(t, get+`-A 'libest 3.2.0' `+read); strings.Count(out, "BEGIN CERTIFICATE") != 2 {
		t.Errorf("%s", out)
	}
	if out, ok := b.run(t, get+read); ok {
		t.Errorf("that decoder reads unwrapped answers, the rule has no reason: %s", out)
	}
	if out, ok := b.run(t, get+`-A 'libest 3.2.0' -o - | tr -d '\n' | openssl base64 -d -A | openssl pkcs7 -inform DER -print_certs`); !ok || !bytes.Contains([]byte(out), []byte("EST Test Root")) {
		t.Errorf("unwrapped again: %s", out)
	}
}
