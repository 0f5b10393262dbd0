package main

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"github.com/muster-pki/muster/cmd/muster/bundle"
)

const siteConfig = `version: 1
listeners:
  https: {address: 127.0.0.1:0, tls: {}}
store: sqlite:muster.db
backends:
  local: {plugin: local, config: {dir: ca}}
server-certificate: {backend: local}
profiles:
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

const anchorPEM = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"

// bundles are an office's key and a site, which has its configuration and its data.
type bundles struct {
	*testing.T
	dir, site string
	key       *openpgp.Entity
}

func newBundles(t *testing.T) *bundles {
	t.Helper()
	b := &bundles{T: t, dir: t.TempDir()}
	b.site = filepath.Join(b.dir, "etc", "site")
	var err error
	if b.key, err = openpgp.NewEntity("office", "", "office@example.com", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA}); err != nil {
		t.Fatal(err)
	}
	var public bytes.Buffer
	if err := b.key.Serialize(&public); err != nil {
		t.Fatal(err)
	}
	b.write("office.pub", public.String())
	b.write("etc/site/edge.yaml", siteConfig)
	b.write("etc/site/users", "held:{sha256}"+strings.Repeat("ab", 32))
	if err := os.MkdirAll(filepath.Join(b.dir, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bundles) write(name, text string) {
	b.Helper()
	path := filepath.Join(b.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
		b.Fatal(err)
	}
}

// bundle is a signed one, as a file.
func (b *bundles) bundle(sequence uint64, config string, trust ...string) string {
	b.Helper()
	files := []bundle.File{{Entry: bundle.Entry{Path: "gateway.yaml", Kind: bundle.Configuration}, Data: []byte(config)}}
	for _, path := range trust {
		files = append(files, bundle.File{Entry: bundle.Entry{Path: path, Kind: bundle.Trust}, Data: []byte(anchorPEM)})
	}
	content, err := bundle.Pack(bundle.Manifest{Sequence: sequence, Created: time.Now(), Version: "test"}, files)
	if err != nil {
		b.Fatal(err)
	}
	signed, err := bundle.Sign(content, bundle.Keys{b.key}, nil, time.Now().Add(time.Second))
	if err != nil {
		b.Fatal(err)
	}
	b.write("site.bundle", string(signed))
	return filepath.Join(b.dir, "site.bundle")
}

func (b *bundles) imports(file string) (string, error) {
	b.Helper()
	f := &bundleImportFlags{
		config: filepath.Join(b.site, "edge.yaml"), trust: filepath.Join(b.dir, "office.pub"), stopped: true,
		now: func() time.Time { return time.Now().Add(time.Minute) },
	}
	f.data = filepath.Join(b.dir, "data")
	var out bytes.Buffer
	err := f.run(b.Context(), &out, file)
	return out.String(), err
}

func (b *bundles) info(name string) fs.FileInfo {
	b.Helper()
	info, err := os.Stat(filepath.Join(b.dir, name))
	if err != nil {
		b.Fatal(err)
	}
	return info
}

// What an import writes belongs to whom the site's files do, whoever imports: the gateway has to read it.
func TestBundleOwner(t *testing.T) {
	b := newBundles(t)
	uid, gid := os.Getuid(), os.Getgid()
	if uid == 0 { // anybody else can give nothing away
		uid, gid = 12345, 12346
		for _, name := range []string{"etc/site/edge.yaml", "data"} {
			if err := os.Chown(filepath.Join(b.dir, name), uid, gid); err != nil {
				t.Fatal(err)
			}
		}
	}
	if out, err := b.imports(b.bundle(5, siteConfig+"# new\n", "trust/roots.pem")); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for name, mode := range map[string]fs.FileMode{"etc/site/edge.yaml": 0o640, "etc/site/trust/roots.pem": 0o644, "data/bundle.json": 0o600} {
		info := b.info(name)
		if s := info.Sys().(*syscall.Stat_t); int(s.Uid) != uid || int(s.Gid) != gid || info.Mode().Perm() != mode {
			t.Errorf("%s: of %d:%d, %v", name, s.Uid, s.Gid, info.Mode())
		}
	}
}

// A configuration may name what stands beside its folder, and is checked with that, not with what happens to stand beside the staged one.
func TestBundleBeside(t *testing.T) {
	b := newBundles(t)
	b.write("etc/shared/users", "held:{sha256}"+strings.Repeat("ab", 32))
	if out, err := b.imports(b.bundle(5, strings.Replace(siteConfig, "file: users", "file: ../shared/users", 1))); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	_, err := b.imports(b.bundle(6, strings.Replace(siteConfig, "file: users", "file: ../shared/others", 1)))
	if err == nil || !strings.Contains(err.Error(), "../shared/others") && !strings.Contains(err.Error(), filepath.Join(b.dir, "etc/shared/others")) {
		t.Errorf("%v", err)
	}
}

// An import in whose middle the machine went down can be made again, and nothing older; one that has ended cannot.
func TestBundleAgain(t *testing.T) {
	b := newBundles(t)
	next := siteConfig + "# new\n"
	f := &bundleImportFlags{}
	f.data = filepath.Join(b.dir, "data")
	five := b.bundle(5, next)
	if _, err := b.imports(five); err != nil {
		t.Fatal(err)
	}
	mark, err := f.lastMark()
	if err != nil || mark.Imported.IsZero() {
		t.Fatalf("%+v, %v", mark, err)
	}
	if _, err := b.imports(five); err == nil {
		t.Error("the same again: taken")
	}
	b.write("etc/site/edge.yaml", siteConfig)
	if _, err := b.imports(b.bundle(5, next+"# another of that number\n")); err == nil {
		t.Error("another one of its number: taken")
	}
	mark.Imported = time.Time{} // the files are there, the devices are not
	if err := f.setMark(mark); err != nil {
		t.Fatal(err)
	}
	b.write("etc/site/edge.yaml", next)
	if _, err := b.imports(b.bundle(4, next)); err == nil {
		t.Error("an older one: taken")
	}
	if _, err := b.imports(b.bundle(5, next)); err != nil {
		t.Errorf("the same, of which the machine went down: %v", err)
	}
}

// What is put back leaves nothing behind, folders neither.
func TestBundleRestored(t *testing.T) {
	b := newBundles(t)
	s := &siteFiles{dir: b.site, config: "edge.yaml", files: []siteFile{
		{path: "a/b/roots.pem", after: []byte(anchorPEM), as: ownershipOf(b.info("office.pub"))},
		{path: "edge.yaml", before: []byte("another"), after: []byte("x")},
	}}
	if err := s.replace(); err == nil || !strings.Contains(err.Error(), "by somebody else") {
		t.Fatalf("%v", err)
	}
	if _, err := os.Stat(filepath.Join(b.site, "a/b/roots.pem")); err != nil {
		t.Fatal(err)
	}
	if err := s.restore(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(b.site, "a")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// An office gives away no password that stands in a configuration, no private key, and no certificate whose key is the site's.
func TestBundleExportSecrets(t *testing.T) {
	b := newBundles(t)
	export := func(config string) (*bundleExportFlags, error) {
		b.write("office/edge.yaml", config)
		f := &bundleExportFlags{config: filepath.Join(b.dir, "office/edge.yaml"), unsigned: true, now: time.Now}
		_, err := f.make()
		return f, err
	}
	b.write("office/tls.pem", anchorPEM)
	b.write("office/tls.key", "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n")
	f, err := export(strings.Replace(siteConfig, "tls: {}", "tls: {cert: tls.pem, key: tls.key}", 1))
	if err != nil || len(f.configuration) != 1 || len(f.left) != 2 {
		t.Errorf("%v: carries %q, leaves %q", err, f.configuration, f.left)
	}
	for what, store := range map[string]string{
		"in the query":        "postgres://db.example.com/muster?sslmode=verify-full&password=hunter2",
		"its key's, likewise": "postgres://db.example.com/muster?sslpassword=hunter2",
		"before the host":     "postgres://muster:hunter2@db.example.com/muster",
	} {
		if _, err := export(strings.Replace(siteConfig, "sqlite:muster.db", store, 1)); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := export(strings.Replace(siteConfig, "{dir: ca}", "{dir: ca, ledger: 'postgres://muster:hunter2@db.example.com/muster'}", 1)); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("of the ledger: %v", err)
	}
	if _, err := export(siteConfig + "# -----BEGIN EC PRIVATE KEY-----\n"); err == nil {
		t.Error("a private key in a comment")
	}
}
