package e2e

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const bundleConfig = onLocalCA + `profiles:
  device: {backend: local, validity: 30d}
endpoints:
  est:
    protocol: est
    listeners: [https]
    default: true
    profile: device
    enroll:
      - password: {file: users}
      - names: {}
`

// officeKey makes an OpenPGP key in a keyring of its own, as office.asc and office.pub of a folder.
const officeKey = `export GNUPGHOME="$PWD/gnupg"; mkdir -m 700 gnupg; umask 077
gpg --batch --quiet --pinentry-mode loopback --passphrase '' --quick-generate-key office@example.com ed25519 sign 1d 2>/dev/null
gpg --batch --pinentry-mode loopback --passphrase '' --armor --export-secret-keys office@example.com > office.asc
gpg --batch --armor --export office@example.com > office.pub
gpgconf --kill all`

// contents are the hashes of all files of a site that a bundle may change.
func contents(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(dir, path)
		if d != nil && d.IsDir() && (rel == "ca" || rel == "plugins" || rel == "run") {
			return filepath.SkipDir
		}
		if err != nil || !d.Type().IsRegular() || strings.HasPrefix(rel, "muster.db") || rel == "audit.head" {
			return err
		}
		data, err := os.ReadFile(path)
		fmt.Fprintf(&all, "%s %x\n", rel, sha256.Sum256(data))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// An office signs a bundle, gpg verifies it, and a site puts it into force while it runs, or nothing of it.
func TestEdgeBundle(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("gpg"); err != nil {
		t.Fatal(err)
	}
	g := configured(t, bundleConfig, "users", heldSecret(t, "held-password"))
	office, err := os.MkdirTemp("", "office") // short: there is a socket in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(office) })
	g.sh(office, officeKey+`
		mkdir site; openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out site/vendor.key 2>/dev/null
		openssl req -x509 -new -key site/vendor.key -subj "/CN=Vendor" -days 30 -out site/vendor.pem`)
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(office, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	next := strings.Replace(bundleConfig, "endpoints:\n", `endpoints:
  birth:
    protocol: est
    listeners: [https]
    profile: device
    enroll:
      - vendor-ca: {cas: [vendor.pem]}
      - names: {}
`, 1)
	write("site/gateway.yaml", next)
	write("site/users", "held:$argon2id$nothing")
	write("devices.csv", "name,serial\npump-1,NW-1\npump-2,NW-2\n")
	export := func(args ...string) string {
		return g.sh(office, `"$MUSTER" bundle export site.bundle --config site/gateway.yaml --devices devices.csv --site pump-house --sign office.asc `+strings.Join(args, " "))
	}
	told := export("--sequence", "5")
	if !strings.Contains(told, "carries vendor.pem") || !strings.Contains(told, "leaves  users") || strings.Contains(told, "vendor.key") {
		t.Errorf("export:\n%s", told)
	}
	g.sh(office, `export GNUPGHOME="$PWD/gnupg"; gpg --batch --verify site.bundle 2>&1 | grep 'Good signature'
		gpg --batch --output list.tar --decrypt site.bundle 2>/dev/null; tar tf list.tar > list; ! grep -q key list; grep -qx vendor.pem list; gpgconf --kill all`)

	data, err := os.ReadFile(filepath.Join(office, "site.bundle"))
	if err != nil {
		t.Fatal(err)
	}
	imported := func(file string, args ...string) (string, int) {
		return g.run(office, binary, append([]string{"bundle", "import", file, "--config", filepath.Join(g.dir, "gateway.yaml"), "--trust", "office.pub", "--data", g.dir}, args...)...)
	}
	before := contents(t, g.dir)
	refused := func(what, says, file string, args ...string) {
		t.Helper()
		out, code := imported(file, args...)
		if code == 0 || !strings.Contains(out, says) || !strings.Contains(out, "nothing has changed") {
			t.Errorf("%s: exit %d:\n%s", what, code, out)
		}
		if now := contents(t, g.dir); now != before {
			t.Errorf("%s: the site is\n%swas\n%s", what, now, before)
		}
	}
	forHere := []string{"--site", "pump-house"}
	data[len(data)/2] ^= 1
	write("changed.bundle", string(data))
	refused("a changed byte", "", "changed.bundle", forHere...)
	data[len(data)/2] ^= 1
	write("cut.bundle", string(data[:len(data)-40]))
	refused("cut", "", "cut.bundle", forHere...)
	g.sh(office, `mkdir other; cp office.pub other/real.pub; cd other; `+officeKey)
	refused("another's key", "is not among the keys of --trust", "site.bundle", append(forHere, "--trust", "other/office.pub")...)
	refused("another site's", `is for the site "pump-house"`, "site.bundle", "--site", "ship")
	if err := os.Symlink("users", filepath.Join(g.dir, "vendor.pem")); err != nil {
		t.Fatal(err)
	}
	refused("a link in its place", "vendor.pem is a link", "site.bundle", forHere...)
	os.Remove(filepath.Join(g.dir, "vendor.pem"))
	write("site/gateway.yaml", strings.Replace(next, "validity: 30d", "validty: 30d", 1))
	if out, code := g.run(office, binary, "bundle", "export", "bad.bundle", "--config", "site/gateway.yaml", "--sign", "office.asc"); code == 0 || !strings.Contains(out, "validity") {
		t.Errorf("a configuration that is wrong: exit %d:\n%s", code, out)
	}
	write("site/gateway.yaml", strings.Replace(next, "file: users", "file: others", 1))
	g.sh(office, `touch site/others; "$MUSTER" bundle export others.bundle --config site/gateway.yaml --sign office.asc`)
	refused("it names what the site has not", "others", "others.bundle")
	write("site/gateway.yaml", strings.Replace(next, "127.0.0.1:0", "203.0.113.1:1", 1))
	g.sh(office, `"$MUSTER" bundle export elsewhere.bundle --config site/gateway.yaml --sign office.asc`)
	refused("the gateway cannot put it into force", "does not take it", "elsewhere.bundle")
	write("site/gateway.yaml", next)
	write("secret.csv", "name,serial,secret\npump-1,NW-1,k7Jr2vTq9wXz4mBnL5cYtd\n")
	if out, code := g.run(office, binary, "bundle", "export", "x.bundle", "--config", "site/gateway.yaml", "--devices", "secret.csv", "--sign", "office.asc"); code == 0 || !strings.Contains(out, "no bundle carries") {
		t.Errorf("secrets: exit %d:\n%s", code, out)
	}

	out, code := imported("site.bundle", append(forHere, "--check")...)
	if code != 0 || !strings.Contains(out, "new        vendor.pem") || !strings.Contains(out, "changed    gateway.yaml") || !strings.Contains(out, "2 devices") || contents(t, g.dir) != before {
		t.Errorf("--check: exit %d:\n%s", code, out)
	}
	if out, code := imported("site.bundle", forHere...); code != 0 || !strings.Contains(out, "in force") {
		t.Fatalf("exit %d:\n%s", code, out)
	}
	if config, err := os.ReadFile(filepath.Join(g.dir, "gateway.yaml")); err != nil || string(config) != next {
		t.Errorf("%v\n%s", err, config)
	}
	if listed := g.muster("device", "ls"); !strings.Contains(listed, "pump-2") {
		t.Errorf("devices:\n%s", listed)
	}
	if rows := g.events("reloaded"); len(rows) != 1 || !strings.Contains(rows[0].Note, fmt.Sprintf("%x of bundle 5, signed by ", sha256.Sum256([]byte(next)))) {
		t.Errorf("audit trail: %+v", rows)
	}
	before = contents(t, g.dir)
	refused("the same again", "has imported number 5", "site.bundle", forHere...)

	// One that gpg signs, with a detached signature.
	write("site/gateway.yaml", strings.Replace(next, "validity: 30d", "validity: 20d", 1))
	g.sh(office, `"$MUSTER" bundle export site.tar --config site/gateway.yaml --unsigned --sequence 6
		export GNUPGHOME="$PWD/gnupg"; gpg --batch --pinentry-mode loopback --passphrase '' --detach-sign site.tar; gpgconf --kill all`)
	refused("not signed", "is not signed", "site.tar", forHere...)
	if out, code := imported("site.tar", "--signature", "site.tar.sig"); code != 0 || !strings.Contains(out, "1 lines more, 1 less") {
		t.Errorf("exit %d:\n%s", code, out)
	}
}
