package bundle

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const pemText = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"

func sample() []File {
	return []File{
		{Entry: Entry{Path: "edge.yaml", Kind: Configuration}, Data: []byte("version: 1\n")},
		{Entry: Entry{Path: "trust/roots.pem", Kind: Trust}, Data: []byte(pemText)},
	}
}

func manifest() Manifest {
	return Manifest{Sequence: 7, Created: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), Version: "test", Site: "pump-house"}
}

func packed(t testing.TB) []byte {
	t.Helper()
	content, err := Pack(manifest(), sample())
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func TestPack(t *testing.T) {
	b, err := Unpack(packed(t))
	if err != nil || b.Sequence != 7 || b.Site != "pump-house" || len(b.Of(Trust)) != 1 || string(b.Of(Configuration)[0].Data) != "version: 1\n" {
		t.Errorf("%+v, %v", b, err)
	}
	for want, change := range map[string]func(*Manifest, *[]File){
		"sequence": func(m *Manifest, _ *[]File) { m.Sequence = 0 },
		"created":  func(m *Manifest, _ *[]File) { m.Created = time.Time{} },
		"site":     func(m *Manifest, _ *[]File) { m.Site = "../x" },
		"EC PRIVATE KEY": func(_ *Manifest, f *[]File) {
			(*f)[1].Data = []byte(pemText + "-----BEGIN EC PRIVATE KEY-----\nMAA=\n-----END EC PRIVATE KEY-----\n")
		},
		"a private key": func(_ *Manifest, f *[]File) {
			(*f)[0].Data = []byte("# -----BEGIN EC PRIVATE KEY-----\n")
		},
		"holds no PEM":  func(_ *Manifest, f *[]File) { (*f)[1].Data = []byte("secret") },
		"configuration": func(_ *Manifest, f *[]File) { *f = (*f)[1:] },
		"a second file": func(_ *Manifest, f *[]File) { *f = append(*f, File{Entry: Entry{Path: "x.yaml", Kind: Configuration}}) },
		"there twice": func(_ *Manifest, f *[]File) {
			*f = append(*f, File{Entry: Entry{Path: "TRUST/roots.pem", Kind: Trust}, Data: []byte(pemText)})
		},
		"unknown kind": func(_ *Manifest, f *[]File) { (*f)[1].Kind = "program" },
		"stands in no": func(_ *Manifest, f *[]File) {
			*f = append(*f, File{Entry: Entry{Path: "a/devices.csv", Kind: Inventory}})
		},
		"is no path":     func(_ *Manifest, f *[]File) { (*f)[1].Path = "../roots.pem" },
		"hidden files":   func(_ *Manifest, f *[]File) { (*f)[1].Path = ".ssh/roots.pem" },
		"\"/roots.pem\"": func(_ *Manifest, f *[]File) { (*f)[1].Path = "/roots.pem" },
		"at most": func(_ *Manifest, f *[]File) {
			*f = append(*f, File{Entry: Entry{Path: "devices.csv", Kind: Inventory}, Data: make([]byte, maxContent)})
		},
	} {
		m, files := manifest(), sample()
		change(&m, &files)
		if _, err := Pack(m, files); err == nil || !strings.Contains(err.Error(), want) && !strings.Contains(err.Error(), "larger than") {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// A tar that somebody else has made is taken only as its manifest says, whoever signed it.
func TestUnpackHostile(t *testing.T) {
	good, err := Unpack(packed(t))
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(good.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	file := func(name string, data []byte) (*tar.Header, []byte) {
		return &tar.Header{Name: name, Mode: 0o644, Size: int64(len(data)), Typeflag: tar.TypeReg}, data
	}
	type entry struct {
		h    *tar.Header
		data []byte
	}
	made := func(change func(all []entry) []entry) []byte {
		var all []entry
		for _, f := range append([]File{{Entry: Entry{Path: manifestName}, Data: text}}, good.Contents...) {
			h, data := file(f.Path, f.Data)
			all = append(all, entry{h, data})
		}
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		for _, e := range change(all) {
			if err := w.WriteHeader(e.h); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(e.data); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return buf.Bytes()
	}
	if _, err := Unpack(made(func(all []entry) []entry { return all })); err != nil {
		t.Fatal(err)
	}
	evil := func(old, now string) func([]entry) []entry {
		return func(all []entry) []entry {
			changed := strings.Replace(string(text), old, now, 1)
			if changed == string(text) {
				t.Fatalf("no %q in %s", old, text)
			}
			all[0].data = []byte(changed)
			all[0].h.Size = int64(len(changed))
			return all
		}
	}
	for name, change := range map[string]func([]entry) []entry{
		"no manifest":     func(all []entry) []entry { return all[1:] },
		"a file missing":  func(all []entry) []entry { return all[:2] },
		"another order":   func(all []entry) []entry { return []entry{all[0], all[2], all[1]} },
		"one more":        func(all []entry) []entry { h, d := file("more", nil); return append(all, entry{h, d}) },
		"another content": func(all []entry) []entry { all[1].data = []byte("version: 2\n"); return all },
		"a link": func(all []entry) []entry {
			all[2] = entry{&tar.Header{Name: "trust/roots.pem", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}, nil}
			return all
		},
		"a folder": func(all []entry) []entry {
			all[2] = entry{&tar.Header{Name: "trust/roots.pem", Typeflag: tar.TypeDir}, nil}
			return all
		},
		"traversal":    evil("trust/roots.pem", "trust/../../x"),
		"unknown key":  evil(`"format"`, `"x":1,"format"`),
		"format":       evil(`"format":1`, `"format":2`),
		"huge":         evil(`"size":11`, `"size":99999999999`),
		"negative":     evil(`"size":11`, `"size":-1`),
		"more of JSON": func(all []entry) []entry { all[0].data = append(all[0].data, "{}"...); all[0].h.Size += 2; return all },
	} {
		if b, err := Unpack(made(change)); err == nil {
			t.Errorf("%s: taken: %+v", name, b.Manifest)
		}
	}
	for i := 0; i < len(packed(t)); i += 300 { // cut anywhere before its end
		if _, err := Unpack(packed(t)[:i]); err == nil && i < 2048 {
			t.Errorf("cut to %d bytes: taken", i)
		}
	}
}

// gpg runs GnuPG with a keyring of the test's own.
type gpg struct {
	t   *testing.T
	dir string
}

func newGPG(t *testing.T) *gpg {
	t.Helper()
	dir, err := os.MkdirTemp("", "gpg") // short: there is a socket in it
	if err != nil {
		t.Fatal(err)
	}
	g := &gpg{t, dir}
	t.Cleanup(func() {
		exec.Command("gpgconf", "--homedir", dir, "--kill", "all").Run() //nolint:errcheck // it ends by itself too
		os.RemoveAll(dir)
	})
	return g
}

func (g *gpg) run(args ...string) (string, error) {
	out, err := exec.Command("gpg", append([]string{"--homedir", g.dir, "--batch", "--yes", "--pinentry-mode", "loopback", "--passphrase", ""}, args...)...).CombinedOutput()
	return string(out), err
}

func (g *gpg) must(args ...string) string {
	g.t.Helper()
	out, err := g.run(args...)
	if err != nil {
		g.t.Fatalf("gpg %v: %v\n%s", args, err, out)
	}
	return out
}

// key makes one, and returns it as a secret and as a public key.
func (g *gpg) key(name, algorithm string, more ...string) (secret, public Keys) {
	g.t.Helper()
	g.must(append(more, "--quick-generate-key", name, algorithm, "sign", "1d")...)
	read := func(how string) Keys {
		data, err := exec.Command("gpg", "--homedir", g.dir, "--batch", "--pinentry-mode", "loopback", "--passphrase", "", "--armor", how, name).Output()
		if err != nil {
			g.t.Fatal(err)
		}
		k, err := ReadKeys(data)
		if err != nil {
			g.t.Fatal(err)
		}
		return k
	}
	return read("--export-secret-keys"), read("--export")
}

func (g *gpg) file(name string, data []byte) string {
	g.t.Helper()
	path := filepath.Join(g.dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		g.t.Fatal(err)
	}
	return path
}

func (g *gpg) read(path string) []byte {
	g.t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		g.t.Fatal(err)
	}
	return data
}

// What we sign GnuPG verifies, and what it signs is taken: inline and detached, armored and not, Ed25519 and RSA. Anything else is refused.
func TestGnuPG(t *testing.T) {
	g := newGPG(t)
	content, now := packed(t), time.Now().Add(time.Minute) // keys are made in between
	_, stranger := g.key("stranger@example.com", "ed25519")
	_, old := g.key("old@example.com", "ed25519", "--faked-system-time", "20240101T000000")
	oldSigned := g.file("old.tar", content)
	g.must("--faked-system-time", "20240101T010000", "--local-user", "old@example.com", "--output", oldSigned+".gpg", "--sign", oldSigned)
	g.must("--faked-system-time", "20240101T010000", "--local-user", "old@example.com", "--output", oldSigned+".sig", "--detach-sign", oldSigned)
	for _, signature := range []string{"", ".sig"} {
		data, sig := g.read(oldSigned+".gpg"), []byte(nil)
		if signature != "" {
			data, sig = content, g.read(oldSigned+".sig")
		}
		if _, _, err := Verify(data, sig, old, now); err == nil || !strings.Contains(err.Error(), "expired") {
			t.Errorf("an expired key: %v", err)
		}
	}
	for _, algorithm := range []string{"ed25519", "rsa2048"} {
		name := algorithm + "@example.com"
		secret, public := g.key(name, algorithm)

		ours, err := Sign(content, secret, nil, now)
		if err != nil {
			t.Fatal(err)
		}
		path := g.file("ours.bundle", ours)
		if out := g.must("--verify", path); !strings.Contains(out, "Good signature") {
			t.Errorf("gpg --verify:\n%s", out)
		}
		g.must("--output", path+".tar", "--decrypt", path)
		if !bytes.Equal(g.read(path+".tar"), content) {
			t.Error("gpg --decrypt gives another tar")
		}
		tarball := g.file("theirs.tar", content)
		g.must("--local-user", name, "--output", tarball+".gpg", "--sign", tarball)
		g.must("--local-user", name, "--output", tarball+".sig", "--detach-sign", tarball)
		g.must("--local-user", name, "--output", tarball+".asc", "--armor", "--detach-sign", tarball)
		for what, c := range map[string]struct{ file, signature []byte }{
			"ours": {ours, nil}, "gpg --sign": {g.read(tarball + ".gpg"), nil},
			"gpg --detach-sign": {content, g.read(tarball + ".sig")}, "gpg --armor --detach-sign": {content, g.read(tarball + ".asc")},
		} {
			got, signer, err := Verify(c.file, c.signature, public, now)
			if err != nil || !bytes.Equal(got, content) || signer != fingerprint(public[0]) {
				t.Errorf("%s, %s: %v", algorithm, what, err)
			}
			if _, _, err := Verify(c.file, c.signature, append(append(Keys{}, stranger...), public...), now); err != nil {
				t.Errorf("%s, %s: one of two keys: %v", algorithm, what, err)
			}
			if _, _, err := Verify(c.file, c.signature, stranger, now); err == nil {
				t.Errorf("%s, %s: another's key", algorithm, what)
			}
			if _, _, err := Verify(c.file, c.signature, public, now.Add(48*time.Hour)); err == nil {
				t.Errorf("%s, %s: the key has expired", algorithm, what)
			}
			for _, at := range []int{len(c.file) / 3, len(c.file) / 2, len(c.file) - 30} {
				bad := bytes.Clone(c.file)
				bad[at] ^= 1
				if got, _, err := Verify(bad, c.signature, public, now); err == nil {
					t.Errorf("%s, %s: byte %d changed: taken, %t", algorithm, what, at, bytes.Equal(got, content))
				}
				if _, _, err := Verify(c.file[:at], c.signature, public, now); err == nil {
					t.Errorf("%s, %s: cut to %d bytes: taken", algorithm, what, at)
				}
			}
		}
		if _, _, err := Verify(content, nil, public, now); err == nil {
			t.Errorf("%s: not signed at all: taken", algorithm)
		}
		if _, err := Sign(content, public, nil, now); err == nil {
			t.Errorf("%s: signed with a public key", algorithm)
		}
	}
	if _, _, err := Verify(bytes.Repeat([]byte{0}, 100), nil, stranger, now); err == nil {
		t.Error("nothing: taken")
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(packed(f))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		if b, err := Unpack(data); err == nil && len(b.Of(Configuration)) != 1 {
			t.Errorf("%+v", b.Manifest)
		}
	})
}
