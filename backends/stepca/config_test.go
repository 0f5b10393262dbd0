package stepca

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
)

func TestConfigErrors(t *testing.T) {
	const good = "url: https://ca.example:9000\nroot: /r.pem\nprovisioner: muster\njwk: {key: /k.jwk}\n"
	if err := New(Options{}).Validate(t.Context(), []byte(good)); err != nil {
		t.Fatal(err)
	}
	for what, tc := range map[string]struct{ old, new, want string }{
		"http":            {"https:", "http:", "wants https"},
		"no root":         {"root: /r.pem\n", "", "root: name the file"},
		"two roots":       {"root: /r.pem", "root: /r.pem\nfingerprint: " + strings.Repeat("ab", 32), "leave one out"},
		"fingerprint":     {"root: /r.pem", "fingerprint: ab", "64 hexadecimal digits"},
		"no provisioner":  {"provisioner: muster\n", "", "provisioner"},
		"no key":          {"jwk: {key: /k.jwk}\n", "", "jwk or x5c"},
		"two keys":        {"jwk:", "x5c: {cert: /c, key: /k}\njwk:", "is one of them"},
		"template":        {"jwk:", "template: mine\njwk:", "wants muster or default"},
		"unknown key":     {"provisioner:", "provisoner:", "provisioner"},
		"x5c without key": {"jwk: {key: /k.jwk}", "x5c: {cert: /c}", "key"},
		"timeout":         {"jwk:", "timeout: 11m\njwk:", "at most 10m"},
	} {
		err := New(Options{}).Validate(t.Context(), []byte(strings.Replace(good, tc.old, tc.new, 1)))
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// Keys: plain, encrypted, wrong; and no error holds anything of them.
func TestJWK(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	key := jose.JSONWebKey{Key: ecKey(t), KeyID: "k"}
	plain, err := json.Marshal(key)
	if err != nil {
		t.Fatal(err)
	}
	public, err := json.Marshal(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	enc, err := jose.NewEncrypter(jose.A256GCM, jose.Recipient{Algorithm: jose.PBES2_HS256_A128KW, Key: []byte("pass word"), PBES2Count: 1000}, nil)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := enc.Encrypt(plain)
	if err != nil {
		t.Fatal(err)
	}
	compact, err := sealed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	password, wrong := write("password", "pass word\n", 0o600), write("wrong", "another\n", 0o600)
	for what, tc := range map[string]struct {
		jwk  JWK
		want string // "" for a key
	}{
		"plain":             {JWK{Key: write("plain", string(plain), 0o600)}, ""},
		"encrypted":         {JWK{Key: write("compact", compact, 0o600), Password: password}, ""},
		"encrypted, JSON":   {JWK{Key: write("full", sealed.FullSerialize(), 0o600), Password: password}, ""},
		"no password":       {JWK{Key: filepath.Join(dir, "compact")}, "name the file of its password"},
		"wrong password":    {JWK{Key: filepath.Join(dir, "compact"), Password: wrong}, "cannot be decrypted"},
		"password to plain": {JWK{Key: filepath.Join(dir, "plain"), Password: password}, "leave `password` out"},
		"public":            {JWK{Key: write("public", string(public), 0o600)}, "no private key"},
		"garbage":           {JWK{Key: write("garbage", `{"kty":"EC","d":"`+compact[:20]+`"`, 0o600)}, "no JSON Web Key"},
		"open to others":    {JWK{Key: write("open", string(plain), 0o644)}, "chmod 600"},
		"missing":           {JWK{Key: filepath.Join(dir, "none")}, "no such file"},
	} {
		got, err := tc.jwk.read()
		if tc.want == "" {
			if err != nil || !got.Key.(*ecdsa.PrivateKey).Equal(key.Key) {
				t.Errorf("%s: %v", what, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", what, err)
		}
		if err != nil && (strings.Contains(err.Error(), compact[:20]) || strings.Contains(err.Error(), "pass word")) {
			t.Errorf("%s: a secret in %v", what, err)
		}
	}
}

// An X5C provisioner takes a token that a certificate signed; the root is fetched by its fingerprint.
func TestX5CAndFingerprint(t *testing.T) {
	f := newFake(t, rsaKey(2))
	key, caKey := ecKey(t), ecKey(t)
	f.x5cRoot = f.certificate(&x509.Certificate{Subject: pkix.Name{CommonName: "RA Root"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil, caKey.Public(), caKey)
	ra := f.certificate(&x509.Certificate{Subject: pkix.Name{CommonName: "RA"}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, f.x5cRoot, key.Public(), caKey)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	f.ok(err)
	cert := f.write("ra.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ra.Raw}))
	private := f.write("ra.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	config := func(sum string) []byte {
		return fmt.Appendf(nil, "url: %s\nfingerprint: %s\nprovisioner: muster\nx5c: {cert: %q, key: %q}\n", f.server.URL, sum, cert, private)
	}
	c := New(Options{})
	f.ok(c.Configure(t.Context(), config(fmt.Sprintf("%X", sha256.Sum256(f.chain[1].Raw)))))
	leaf := issued(t, c, ask(t, "0190-x5c", "device-1"))
	f.ok(c.Revoke(t.Context(), &backend.RevokeRequest{Issuer: leaf.RawIssuer, Serial: leaf.SerialNumber.Bytes(), Reason: 1}))
	if len(f.revoked) != 1 {
		t.Error("it is not revoked")
	}
	if err := New(Options{}).Configure(t.Context(), config(strings.Repeat("ab", 32))); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "fingerprint") {
		t.Errorf("another fingerprint: %v", err)
	}
}

// A server that the pinned root did not certify is never told a token.
func TestAnotherRoot(t *testing.T) {
	f, other := newFake(t, rsaKey(2)), newFake(t, rsaKey(3))
	f.write("root.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: other.certificate(&x509.Certificate{Subject: pkix.Name{CommonName: "R"}, IsCA: true, BasicConstraintsValid: true}, nil, rsaKey(3).Public(), rsaKey(3)).Raw}))
	if err := New(Options{}).Configure(t.Context(), f.config()); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("%v", err)
	}
}

// Without CRLs at the CA there is none here.
func TestNoCRL(t *testing.T) {
	f := newFake(t, rsaKey(2), func(f *fake) { f.crl = false })
	c := configured(t, f)
	d, err := c.Describe(t.Context())
	f.ok(err)
	if len(d.Capabilities) != 1 || d.Capabilities[0] != backend.CapRevoke {
		t.Errorf("%v", d.Capabilities)
	}
	if err := c.CRL(t.Context(), "", nil); status.Code(err) != codes.Unimplemented {
		t.Errorf("%v", err)
	}
}
