package local

import (
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
		"dir: required":               "",
		"is not an absolute path":     "dir: ./ca",
		`unknown key "dirr"`:          "dirr: " + dir,
		`unknown key "url"`:           "dir: " + dir + "\nissuers: {ec: {url: x}}",
		"stands twice":                "dir: " + dir + "\ndir: " + dir,
		"a second document":           "dir: " + dir + "\n---\ndir: " + dir,
		"at most 64 characters":       "dir: " + dir + "\norganization: " + strings.Repeat("ü", 65),
		"issuers.rsa.root-name":       "dir: " + dir + "\nissuers: {rsa: {root-name: \"a\\nb\"}}",
		`"Muster Root CA" is already`: "dir: " + dir + "\nissuers: {ec: {name: Muster Root CA}}",
		"issuers.ec.crl":              "dir: " + dir + "\nissuers: {ec: {crl: [/crl]}}",
		"issuers.ec.ocsp":             "dir: " + dir + "\nissuers: {ec: {ocsp: [\"ftp://ca.test/\"]}}",
		"issuers.rsa.ca-issuers":      "dir: " + dir + "\nissuers: {rsa: {ca-issuers: [\"http://ü.test/\"]}}",
		"for longer than its root":    "dir: " + dir + "\nvalidity: {root: 10d, issuing: 11d}",
		"validity: 1d to 36525d":      "dir: " + dir + "\nvalidity: {root: 36526d}",
		"issuers.rsa.bits: 2048":      "dir: " + dir + "\nissuers: {rsa: {bits: 1024}}",
		"issuers.ec.bits":             "dir: " + dir + "\nissuers: {ec: {bits: 2048}}",
		"crl-validity: 1h to 366d":    "dir: " + dir + "\ncrl-validity: 30m",
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
