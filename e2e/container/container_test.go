//go:build container

package container

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// gateway is a container of the image with a volume, as `docker run -p 8080:8080 -p 8443:8443 -v VOLUME:/data muster`, healthy.
func (h *host) gateway(img *image, volume string) (*container, func()) {
	h.t.Helper()
	c := h.prepare(img, map[string]string{"/data": volume})
	end8080, end8443 := c.publish(8080, 8080), c.publish(8443, 8443)
	c.start()
	h.t.Logf("healthy after %.2f s", c.healthy().Seconds())
	c.prints("msg=ready") // after the screen
	return c, func() { end8080(); end8443() }
}

var table = regexp.MustCompile(`^  (CMP|EST|SCEP|HTTP|CA|config) `)

// printed are the commands of a screen, as somebody copies them.
func printed(screen string) string {
	var script []string
	for line := range strings.SplitSeq(screen, "\n") {
		if strings.HasPrefix(line, "  ") && !table.MatchString(line) {
			script = append(script, strings.TrimPrefix(line, "  "))
		}
	}
	return strings.Join(script, "\n")
}

// A container that is told nothing is a gateway; what it prints works on its host, as printed; the next container on the volume, and one of
// the next release, go on where it was.
func TestRun(t *testing.T) {
	h := newHost(t)
	volume := t.TempDir()
	first, end := h.gateway(build(t, "v0.0.1", "amd64"), volume)
	dir := t.TempDir()

	screen := first.log.String()
	commands := printed(screen)
	t.Logf("the screen:\n%s", screen)
	for _, secret := range []string{"est-password", "cmp-secret", "scep-challenge"} {
		text, err := os.ReadFile(filepath.Join(volume, "secrets", secret))
		if err != nil || strings.Contains(screen, strings.TrimSpace(string(text))) {
			t.Errorf("%s stands in the log: %v", secret, err)
		}
	}
	// ID is any that ls showed.
	commands = strings.Replace(commands, "explain ID", `explain "$(docker exec `+first.spec.Hostname+` muster ls --data /data | grep -o '[0-9a-hjkmnp-tv-z]\{26\}' | head -n 1)"`, 1)
	began := time.Now()
	out := h.sh(dir, commands)
	t.Logf("the screen's commands, in %.2f s, printed\n%s", time.Since(began).Seconds(), out)
	for _, want := range []string{"CN = device-0001", "CN = device-0002", "device.crt: OK", "received PKICONF", "Enrolled      1 of 1 device ", "Transaction", "is in force"} {
		if !strings.Contains(out, want) {
			t.Errorf("the commands did not print %q", want)
		}
	}

	t.Run("SCEP by another client", func(t *testing.T) {
		bin := t.TempDir()
		if err := os.Setenv("GOBIN", bin); err != nil {
			t.Fatal(err)
		}
		defer os.Unsetenv("GOBIN") //nolint:errcheck // nothing else is built by it
		goCommand(t, bin, "install", "github.com/micromdm/scep/v2/cmd/scepclient@v2.3.0")
		out := h.sh(dir, `. ./quickstart.env
`+bin+`/scepclient -server-url "$MUSTER_HTTP/scep" -private-key scep.key -certificate scep.crt -cn device-0003 -challenge "$MUSTER_SCEP_CHALLENGE"
openssl x509 -in scep.crt -noout -subject`)
		if !strings.Contains(out, "CN = device-0003") {
			t.Error(out)
		}
	})
	t.Run("from other machines", func(t *testing.T) { // by the container's name and address
		out := h.sh(dir, `. ./quickstart.env
curl -sS --fail --cacert roots.pem --connect-to `+first.spec.Hostname+`:8443:`+first.there+`:8443 https://`+first.spec.Hostname+`:8443/.well-known/est/cacerts -o /dev/null -w '%{http_code}\n'
curl -sS --fail --cacert roots.pem https://localhost:8443/.well-known/est/cacerts -o /dev/null -w '%{http_code}\n'
curl -sS --fail http://`+first.there+`:8080/readyz -o /dev/null -w '%{http_code}\n'
curl -sS --fail http://127.0.0.1:8080/metrics | grep -c '^muster_'`)
		if !regexp.MustCompile(`^200\n200\n200\n[1-9][0-9]+\n$`).MatchString(out) {
			t.Error(out)
		}
	})
	t.Run("as its user, on a root that cannot be written", func(t *testing.T) {
		status, err := os.ReadFile("/proc/" + pid(first) + "/status")
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"Uid:\t65532\t65532\t65532\t65532", "Gid:\t65532\t65532\t65532\t65532", "CapBnd:\t0000000000000000", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"} {
			if !strings.Contains(string(status), want+"\n") {
				t.Errorf("want %s in\n%s", want, status)
			}
		}
		if code, out := first.exec("muster", "simulate", "enroll", "--data", "/data", "--devices", "1", "--state", "/state"); code == 0 || !strings.Contains(out, "read-only file system") {
			t.Errorf("/ can be written: %s", out)
		}
	})
	if text := first.log.String(); strings.Contains(text, "level=ERROR") || strings.Contains(text, "level=WARN") {
		t.Error(text)
	}
	before := h.certificates(first)
	end()
	t.Logf("stopped in %.2f s", first.stop().Seconds())
	if code, _ := first.health(); code == 0 {
		t.Error("a container that has stopped is healthy")
	}

	// Another container, with a host name of its own; then one of the next release.
	for _, version := range []string{"v0.0.1", "v0.0.2"} {
		next, end := h.gateway(build(t, version, "amd64"), volume)
		if out := next.muster("version"); out != "muster "+version+"\n" {
			t.Errorf("version: %s", out)
		}
		if out := next.muster("status", "--data", "/data"); !strings.Contains(out, "ready: instance muster, version "+version) {
			t.Errorf("status: %s", out)
		}
		// The device trusts what it has trusted, and renews; what was known is known.
		out := h.sh(dir, `. ./quickstart.env
openssl req -new -key device.key -subj /CN=device-0001 -outform DER | openssl base64 -A > again.csr
curl -sS --fail-with-body --cacert roots.pem --cert renewed.crt --key device.key -H 'Content-Type: application/pkcs10' \
  --data-binary @again.csr "$MUSTER_HTTPS/.well-known/est/simplereenroll" | openssl base64 -d -A | openssl pkcs7 -inform DER -print_certs -out again.crt
openssl verify -partial_chain -CAfile roots.pem -untrusted issuing.crt again.crt
docker cp `+next.spec.Hostname+`:/data/roots.pem roots.now
cmp roots.pem roots.now`)
		if !strings.Contains(out, "again.crt: OK") {
			t.Error(out)
		}
		after := h.certificates(next)
		for _, serial := range before {
			if !slices.Contains(after, serial) {
				t.Errorf("%s has forgotten the certificate %s", version, serial)
			}
		}
		if text := next.log.String(); strings.Contains(text, "level=ERROR") || strings.Contains(text, "level=WARN") {
			t.Error(text)
		}
		before = after
		end()
		t.Logf("%s: stopped in %.2f s", version, next.stop().Seconds())
	}
}

var serial = regexp.MustCompile(`[0-9a-f]{40}`)

// certificates are the serial numbers that a gateway knows.
func (h *host) certificates(c *container) []string {
	h.t.Helper()
	all := serial.FindAllString(c.muster("ls", "certificates", "--data", "/data", "--limit", "1000"), -1)
	if len(all) < 5 {
		h.t.Errorf("certificates: %q", all)
	}
	return all
}
