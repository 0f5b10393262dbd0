package local

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
)

func TestConfigRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	for says, config := range map[string]string{
		"dir: required":                "",
		"is not an absolute path":      "dir: ./ca",
		`unknown key "dirr"`:           "dirr: " + dir,
		`unknown key "url"`:            "dir: " + dir + "\nissuers: {ec: {url: x}}",
		"stands twice":                 "dir: " + dir + "\ndir: " + dir,
		"a second document":            "dir: " + dir + "\n---\ndir: " + dir,
		"at most 64 characters":        "dir: " + dir + "\norganization: " + strings.Repeat("ü", 65),
		"issuers.rsa.root-name":        "dir: " + dir + "\nissuers: {rsa: {root-name: \"a\\nb\"}}",
		`"Muster Root CA" is already`:  "dir: " + dir + "\nissuers: {ec: {name: Muster Root CA}}",
		"issuers.ec.crl":               "dir: " + dir + "\nissuers: {ec: {crl: [/crl]}}",
		"issuers.ec.ocsp":              "dir: " + dir + "\nissuers: {ec: {ocsp: [\"ftp://ca.test/\"]}}",
		"issuers.rsa.ca-issuers":       "dir: " + dir + "\nissuers: {rsa: {ca-issuers: [\"http://ü.test/\"]}}",
		"for longer than its root":     "dir: " + dir + "\nvalidity: {root: 10d, issuing: 11d}",
		"validity: 1d to 36525d":       "dir: " + dir + "\nvalidity: {root: 36526d}",
		"issuers.rsa.bits: 2048":       "dir: " + dir + "\nissuers: {rsa: {bits: 1024}}",
		"issuers.ec.bits":              "dir: " + dir + "\nissuers: {ec: {bits: 2048}}",
		"crl-validity: 1h to 366d":     "dir: " + dir + "\ncrl-validity: 30m",
		`issuers: "Factory" is not`:    "dir: " + dir + "\nissuers: {Factory: {}}",
		`issuers: "a.b" is not`:        "dir: " + dir + "\nissuers: {a.b: {}}",
		`issuers: "a-" is not`:         "dir: " + dir + "\nissuers: {a-: {}}",
		"issuers: more than 16":        "dir: " + dir + "\nissuers: {a: {}, b: {}, c: {}, d: {}, e: {}, f: {}, g: {}, h: {}, i: {}, j: {}, k: {}, l: {}, m: {}, n: {}, o: {}}",
		`issuers.f.key: "P256" is`:     "dir: " + dir + "\nissuers: {f: {key: P256}}",
		"did you mean":                 "dir: " + dir + "\nissuers: {f: {key: P256}}",
		`"P-521" is not one of`:        "dir: " + dir + "\nissuers: {f: {key: P-521}}",
		"issuers.rsa.key: this CA is":  "dir: " + dir + "\nissuers: {rsa: {key: P-256}}",
		"issuers.ec.key: this CA is":   "dir: " + dir + "\nissuers: {ec: {key: RSA-2048}}",
		"key says it already":          "dir: " + dir + "\nissuers: {rsa: {key: RSA-2048, bits: 2048}}",
		"issuers.f.bits: for rsa":      "dir: " + dir + "\nissuers: {f: {bits: 2048}}",
		"issuers.f.root-name":          "dir: " + dir + "\nissuers: {f: {root-name: Muster Issuing CA}}",
		"in which {name} may stand":    "dir: " + dir + "\nissuers: {f: {crl: [\"http://x/{nam}\"]}}",
		`issuers.f.ocsp: "http://x/{n`: "dir: " + dir + "\nissuers: {f: {ocsp: [\"http://x/{name}\"]}}",
		"issuers.f.import.cert: \"c":   "dir: " + dir + "\nissuers: {f: {import: {cert: c.pem, key: /k.pem}}}",
		"issuers.f.import.key: \"k":    "dir: " + dir + "\nissuers: {f: {import: {cert: /c.pem, key: k.pem}}}",
		"issuers.f.name: it is that":   "dir: " + dir + "\nissuers: {f: {name: F, import: {cert: /c.pem, key: /k.pem}}}",
		"issuers.f.key: it is that":    "dir: " + dir + "\nissuers: {f: {key: P-256, import: {cert: /c.pem, key: /k.pem}}}",
		"import.generation: 1 to":      "dir: " + dir + "\nissuers: {f: {import: {cert: /c.pem, key: /k.pem, generation: -1}}}",
		`"key"`:                        "dir: " + dir + "\nissuers: {f: {import: {cert: /c.pem}}}",
	} {
		t.Run(says, func(t *testing.T) {
			for what, err := range map[string]error{
				"Validate":  New(Options{}).Validate(t.Context(), []byte(config)),
				"Configure": New(Options{}).Configure(t.Context(), []byte(config)),
			} {
				want(t, err, codes.InvalidArgument)
				if err != nil && !strings.Contains(err.Error(), says) {
					t.Errorf("%s: %v, want it to say %q", what, err, says)
				}
			}
		})
	}
	if err := New(Options{}).Validate(t.Context(), []byte("dir: "+dir)); err != nil {
		t.Error(err)
	}
	if made, err := exists(dir); made || err != nil {
		t.Errorf("a directory was made: %v", err)
	}
}

func TestConfiguredNames(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	names := []string{
		"organization: Operätor",
		"validity: {root: 200d, issuing: 100d}",
		"issuers: {ec: {root-name: R1, name: I1}, rsa: {root-name: R2, name: I2}}",
	}
	shut(t, open(t, dir, Options{}, names...))
	for file, wanted := range map[string]struct {
		subject string
		days    int
	}{"ec-root": {"R1", 200}, "ec": {"I1", 100}, "rsa-root": {"R2", 200}, "rsa": {"I2", 100}} {
		data, err := os.ReadFile(filepath.Join(dir, authorityDir, file+".crt"))
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(data)
		x, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if x.Subject.String() != "CN="+wanted.subject+",O=Operätor" || !x.NotAfter.Equal(now.Add(time.Duration(wanted.days)*day-time.Second)) {
			t.Errorf("%s: %s until %s", file, x.Subject, x.NotAfter)
		}
	}
	// Left out, the names are whatever the CA has; given, they must be its own; a validity is for making only.
	shut(t, open(t, dir, Options{}))
	shut(t, open(t, dir, Options{}, names[0], names[2], "validity: {issuing: 1d}"))
	for says, config := range map[string]string{
		"organization: ":        "organization: Other",
		"issuers.ec.name: ":     "issuers: {ec: {name: Other}}",
		"issuers.ec.root-name":  "issuers: {ec: {root-name: Other}}",
		"issuers.rsa.name: ":    "issuers: {rsa: {name: Other}}",
		"issuers.rsa.root-name": "issuers: {rsa: {root-name: Other}}",
	} {
		err := New(Options{}).Configure(t.Context(), []byte("dir: "+dir+"\n"+config))
		want(t, err, codes.FailedPrecondition)
		if err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want it to say %q", err, says)
		}
	}
}

// The size of the RSA keys is one for issuing CA and root, and that of the making.
func TestConfiguredBits(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	shut(t, open(t, dir, Options{}, "issuers: {rsa: {bits: 2048}}"))
	for _, file := range []string{"rsa-root", "rsa"} {
		data, err := os.ReadFile(filepath.Join(dir, authorityDir, file+".crt"))
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(data)
		x, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if n := x.PublicKey.(*rsa.PublicKey).N.BitLen(); n != 2048 {
			t.Errorf("%s has %d bits", file, n)
		}
	}
	shut(t, open(t, dir, Options{}))
	shut(t, open(t, dir, Options{}, "issuers: {rsa: {bits: 2048}}"))
	err := New(Options{}).Configure(t.Context(), []byte("dir: "+dir+"\nissuers: {rsa: {bits: 3072}}"))
	want(t, err, codes.FailedPrecondition)
	if err != nil && !strings.Contains(err.Error(), "issuers.rsa.bits: the CA that stands has a key of 2048 bits") {
		t.Error(err)
	}
}

// TestFurtherIssuers: each is made when it is first configured, with a root of its own and keys of one kind; it signs the same
// twice, and stays when it is left out.
func TestFurtherIssuers(t *testing.T) {
	dir := standing(t)
	const three = "issuers: {p384: {key: P-384, organization-is-not-a-key: x}}"
	if err := New(Options{}).Validate(t.Context(), []byte("dir: "+dir+"\n"+three)); err == nil {
		t.Error("an unknown key is accepted")
	}
	kinds := map[string]string{"a-p256": "P-256", "b-p384": "P-384", "c-ed": "Ed25519", "d-rsa": "RSA-2048"}
	conf := "issuers: {d-rsa: {key: RSA-2048}, c-ed: {key: Ed25519}, b-p384: {key: P-384, root-name: R, name: I}, a-p256: {}}"
	standingOnes := state(t, filepath.Join(dir, authorityDir))
	c := open(t, dir, Options{}, conf)
	var names []string
	for _, i := range c.open.Load().issuers {
		names = append(names, i.name)
		kind, ok := kinds[i.name]
		if !ok {
			continue
		}
		if kindOf(i.cert.PublicKey) != kind || kindOf(i.root.PublicKey) != kind {
			t.Errorf("%s: keys of kind %s under %s", i.name, kindOf(i.cert.PublicKey), kindOf(i.root.PublicKey))
		}
		wanted := "CN=Muster " + i.name + " Issuing CA,O=Muster"
		if i.name == "b-p384" {
			wanted = "CN=I,O=Muster"
		}
		if i.cert.Subject.String() != wanted {
			t.Errorf("%s: %s", i.name, i.cert.Subject)
		}
	}
	if strings.Join(names, " ") != "ec rsa a-p256 b-p384 c-ed d-rsa" {
		t.Errorf("issuers %q", names)
	}
	if now := state(t, filepath.Join(dir, authorityDir)); !strings.Contains(now, standingOnes[strings.IndexByte(standingOnes, '\n')+1:strings.LastIndex(strings.TrimSpace(standingOnes), "\n")]) {
		t.Error("what stood has changed")
	}
	shut(t, c)
	twin := copied(t, dir)
	c = open(t, dir, Options{})
	other := open(t, twin, Options{}, conf)
	for name := range kinds {
		q := request(t, "x-"+name)
		q.Issuer = name
		leaf := issue(t, c, q)
		if again := issue(t, other, q); !bytes.Equal(leaf.Raw, again.Raw) {
			t.Errorf("%s: signed anew, another certificate", name)
		}
		i := c.open.Load().issuer(name)
		opensslVerifies(t, true, i.root, i.chain, leaf.Raw)
		revoke(t, c, leaf, 1, now)
		crl(t, c, name)
	}
	err := New(Options{}).Configure(t.Context(), []byte("dir: "+copied(t, madeDir)+"\nissuers: {ec: {key: P-384}}"))
	want(t, err, codes.FailedPrecondition)
	if err == nil || !strings.Contains(err.Error(), "issuers.ec.key: the CA that stands has a key of kind P-256") {
		t.Error(err)
	}
}

// TestFirstStartWithIssuers: what the first start makes, further issuers included, it makes at once.
func TestFirstStartWithIssuers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	c := open(t, dir, Options{}, "issuers: {rsa: {key: RSA-2048}, ec: {key: Ed25519}, f: {}}")
	for name, kind := range map[string]string{"ec": "Ed25519", "rsa": "RSA-2048", "f": "P-256"} {
		if got := kindOf(c.open.Load().issuer(name).cert.PublicKey); got != kind {
			t.Errorf("%s: a key of kind %s", name, got)
		}
	}
	shut(t, c)
	before := state(t, dir)
	shut(t, open(t, dir, Options{}, "issuers: {rsa: {bits: 2048}, ec: {key: Ed25519}}"))
	if before != state(t, dir) {
		t.Error("a later start changed the directory")
	}
	if err := os.RemoveAll(filepath.Join(dir, authorityDir, "f.1")); err != nil {
		t.Fatal(err)
	}
	for _, conf := range []string{"", "\nissuers: {f: {}}"} {
		err := New(Options{}).Configure(t.Context(), []byte("dir: "+dir+conf))
		want(t, err, codes.FailedPrecondition)
		if err != nil && !strings.Contains(err.Error(), "f.1 is gone: restore it") {
			t.Error(err)
		}
	}
}
