package authz

import (
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzWrappingKey: what is read is an AES key.
func FuzzWrappingKey(f *testing.F) {
	f.Add([]byte(strings.Repeat("0f", 16) + "\r\n"))
	f.Add([]byte(strings.Repeat("A", 43) + "="))
	f.Add([]byte("a passphrase of 32 bytes, printed"))
	f.Add([]byte(strings.Repeat("\x80", 24)))
	f.Fuzz(func(t *testing.T, data []byte) {
		key, err := parseWrappingKey(data)
		switch n := len(key); {
		case err != nil && key != nil, err == nil && n != 16 && n != 24 && n != 32:
			t.Errorf("%d bytes, %v", n, err)
		case err != nil && len(data) > 4 && strings.Contains(err.Error(), string(data)):
			t.Errorf("the error repeats what may be a secret: %v", err)
		}
	})
}

// FuzzTrustFiles: a file of CA certificates or revocation lists is read whole, or refused with its name.
func FuzzTrustFiles(f *testing.F) {
	for _, name := range []string{"ed25519.der", "p256.der"} {
		der, err := os.ReadFile(filepath.Join("..", "testdata", "pkix", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(der)
	}
	ca, err := os.ReadFile(filepath.Join("..", "testdata", "cmp", "ca.der"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(ca)
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca}))
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: ca}))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n-----BEGIN "))
	f.Fuzz(func(t *testing.T, data []byte) {
		all, err := parseCAs("ca.pem", data)
		if err != nil && (all != nil || !strings.HasPrefix(err.Error(), "ca.pem: ")) || err == nil && len(all) == 0 {
			t.Errorf("%d certificates, %v", len(all), err)
		}
		for _, c := range all {
			if c.Version == 3 && !c.IsCA {
				t.Errorf("%s is no CA", c.Subject)
			}
		}
		lists, err := parseCRLs("ca.crl", data)
		if err != nil && (lists != nil || !strings.HasPrefix(err.Error(), "ca.crl: ")) || err == nil && len(lists) == 0 {
			t.Errorf("%d lists, %v", len(lists), err)
		}
		for _, l := range lists {
			if l.NextUpdate.IsZero() {
				t.Error("a list without an end")
			}
			lists.signedBy(all)
		}
	})
}

// FuzzAllowedNames: names that a service allows are of a kind that there is, and each is itself.
func FuzzAllowedNames(f *testing.F) {
	for _, s := range []string{"dns:a.example\nip:192.0.2.1\nip:2001:db8::1%eth0\nemail:a@b\nuri:urn:x", "dns:", "ip:1", "x:y", "dns:\u202e", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		all, err := parseAllowed(strings.Split(text, "\n"))
		if err != nil && all != nil || len(all) > maxNames {
			t.Fatalf("%d names, %v", len(all), err)
		}
		for _, n := range all {
			if n.text == "" || !n.same(n) || n.kind == sanIP && !n.ip.IsValid() || strings.ContainsAny(n.text, "\r\x1b") {
				t.Errorf("%+v", n)
			}
		}
	})
}

// FuzzField: a place that is read is one of a subject or of a subjectAltName.
func FuzzField(f *testing.F) {
	for _, s := range []string{"subject.serialNumber", "san.uri", "subject.2.5.4.5", "san.", "subject", "x.y"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := parseField(s); err == nil && ((p.oid == "") == (p.san == "") || p.name != s) {
			t.Errorf("%q: %+v", s, p)
		}
	})
}
