package cms

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// workshop is a folder with keys, certificates and content, where openssl runs.
type workshop struct {
	dir     string
	rsa, ec pair
}

func newWorkshop(t *testing.T) *workshop {
	t.Helper()
	w := &workshop{t.TempDir(), rsaPair(t), ecPair()}
	for name, p := range map[string]pair{"rsa": w.rsa, "ec": w.ec, "other": otherRSA()} {
		key, err := x509.MarshalPKCS8PrivateKey(p.key)
		if err != nil {
			t.Fatal(err)
		}
		w.write(t, name+".key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
		w.write(t, name+".pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.cert.Raw}))
	}
	w.write(t, "content", content)
	return w
}

func (w *workshop) write(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, name), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// openssl runs it with the words of args and returns the file out, or what is written to standard output. An openssl that
// is not installed fails the test.
func (w *workshop) openssl(t *testing.T, args string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "openssl", strings.Fields(args)...)
	cmd.Dir = w.dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("openssl %s: %v\n%s", args, err, stderr.Bytes())
	}
	return out
}

const legacy = " -provider legacy -provider default"

// What openssl signs.
func TestOpenSSLSigns(t *testing.T) {
	w := newWorkshop(t)
	const sign = "-sign -in content -binary -outform DER "
	rsa, ec := sign+"-signer rsa.pem -inkey rsa.key ", sign+"-signer ec.pem -inkey ec.key "
	for _, tt := range []struct {
		name, args string
		digest     crypto.Hash
		verify     error
		detached   bool
	}{
		{"cms", "cms -nodetach -md sha256 " + rsa, crypto.SHA256, nil, false},
		{"smime", "smime -nodetach -md sha256 " + rsa, crypto.SHA256, nil, false},
		{"SHA-1", "smime -nodetach -md sha1 " + rsa, crypto.SHA1, nil, false},
		{"SHA-224", "cms -nodetach -md sha224 " + rsa, crypto.SHA224, nil, false},
		{"SHA-384", "cms -nodetach -md sha384 " + rsa, crypto.SHA384, nil, false},
		{"SHA-512", "smime -nodetach -md sha512 " + rsa, crypto.SHA512, nil, false},
		{"MD5", "smime -nodetach -md md5 " + rsa, crypto.MD5, ErrAlgorithm, false},
		{"SHA3", "cms -nodetach -md sha3-256 " + rsa, 0, ErrAlgorithm, false},
		{"PSS", "cms -nodetach -md sha256 " + rsa + "-keyopt rsa_padding_mode:pss", crypto.SHA256, ErrAlgorithm, false},
		{"ECDSA", "cms -nodetach -md sha256 " + ec, crypto.SHA256, nil, false},
		{"ECDSA, SHA-1", "cms -nodetach -md sha1 " + ec, crypto.SHA1, nil, false},
		{"ECDSA, SHA-512", "cms -nodetach -md sha512 " + ec, crypto.SHA512, nil, false},
		{"SKI", "cms -nodetach -md sha256 -keyid " + rsa, crypto.SHA256, nil, false},
		{"SKI, ECDSA", "cms -nodetach -md sha256 -keyid " + ec, crypto.SHA256, nil, false},
		{"no attributes", "cms -nodetach -md sha256 -noattr " + rsa, crypto.SHA256, nil, false},
		{"no certificates", "cms -nodetach -md sha256 -nocerts " + rsa, crypto.SHA256, ErrSignature, false},
		{"more certificates", "cms -nodetach -md sha256 -certfile other.pem " + rsa, crypto.SHA256, nil, false},
		{"stream", "cms -nodetach -md sha256 -stream " + rsa, crypto.SHA256, nil, false},
		{"indefinite", "smime -nodetach -md sha256 -indef " + rsa, crypto.SHA256, nil, false},
		{"two signers", "cms -nodetach -md sha256 " + rsa + "-signer ec.pem -inkey ec.key ", 0, ErrSyntax, false},
		{"detached", "cms -md sha256 " + rsa, crypto.SHA256, ErrSignature, true},
		{"detached, no attributes", "cms -md sha256 -noattr " + rsa, crypto.SHA256, ErrSignature, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := ParseSigned(w.openssl(t, tt.args), Limits{})
			if errors.Is(tt.verify, ErrSyntax) {
				if !errors.Is(err, ErrSyntax) {
					t.Error(err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if s.Digest != tt.digest {
				t.Errorf("digest %v (%v)", s.Digest, s.DigestOID)
			}
			if err := s.Verify(all); !errors.Is(err, tt.verify) || (err == nil) != (tt.verify == nil) {
				t.Errorf("%v, want %v", err, tt.verify)
			}
			if tt.detached {
				if err := s.VerifyDetached(content, all); err != nil || s.Content != nil {
					t.Errorf("detached: %v, content of %d octets", err, len(s.Content))
				}
			} else if !bytes.Equal(s.Content, content) {
				t.Errorf("content of %d octets", len(s.Content))
			}
		})
	}
}

// What openssl verifies.
func TestOpenSSLVerifies(t *testing.T) {
	w := newWorkshop(t)
	for name, o := range map[string]SignOptions{
		"RSA":             {Digest: crypto.SHA256, Key: w.rsa.key, Certificate: w.rsa.cert},
		"plain RSA":       {Digest: crypto.SHA256, Key: w.rsa.key, Certificate: w.rsa.cert, PlainRSA: true},
		"plain RSA, SHA1": {Digest: crypto.SHA1, Key: w.rsa.key, Certificate: w.rsa.cert, PlainRSA: true},
		"RSA, SHA-1":      {Digest: crypto.SHA1, Key: w.rsa.key, Certificate: w.rsa.cert},
		"RSA, SHA-224":    {Digest: crypto.SHA224, Key: w.rsa.key, Certificate: w.rsa.cert},
		"RSA, SHA-384":    {Digest: crypto.SHA384, Key: w.rsa.key, Certificate: w.rsa.cert},
		"RSA, SHA-512":    {Digest: crypto.SHA512, Key: w.rsa.key, Certificate: w.rsa.cert},
		"ECDSA":           {Digest: crypto.SHA256, Key: w.ec.key, Certificate: w.ec.cert},
		"ECDSA, SHA-1":    {Digest: crypto.SHA1, Key: w.ec.key, Certificate: w.ec.cert},
		"ECDSA, SHA-384":  {Digest: crypto.SHA384, Key: w.ec.key, Certificate: w.ec.cert},
	} {
		t.Run(name, func(t *testing.T) {
			o.Content = content
			o.Attributes = []Attribute{
				AttributePrintable(transactionID, "1234"), AttributeOctets(asn1.ObjectIdentifier{2, 16, 840, 1, 113733, 1, 9, 5}, []byte("nonce")),
				AttributeUTF8(asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 24, 1}, "why"),
			}
			for _, certs := range [][]*x509.Certificate{nil, {o.Certificate}} {
				o.Certificates = certs
				der, err := Sign(o)
				if err != nil {
					t.Fatal(err)
				}
				w.write(t, "signed.der", der)
				signer := "rsa.pem"
				if o.Certificate == w.ec.cert {
					signer = "ec.pem"
				}
				extra := ""
				if certs == nil {
					extra = " -certfile " + signer
				}
				for _, tool := range []string{"cms", "smime"} {
					// -noverify is about the chain; the signature is verified.
					if got := w.openssl(t, tool+" -verify -noverify -binary -inform DER -in signed.der"+extra); !bytes.Equal(got, content) {
						t.Errorf("%s: %d octets", tool, len(got))
					}
				}
			}
		})
	}
}

// What openssl encrypts.
func TestOpenSSLEncrypts(t *testing.T) {
	w := newWorkshop(t)
	const encrypt = "-encrypt -in content -binary -outform DER "
	for _, tt := range []struct {
		name, args string
		cipher     Cipher
		fails      bool
	}{
		{"DES", "smime -des rsa.pem", DES, false},
		{"3DES", "smime -des3 rsa.pem", TripleDES, false},
		{"AES-128", "smime -aes128 rsa.pem", AES128, false},
		{"AES-192", "cms -aes192 rsa.pem", AES192, false},
		{"AES-256", "cms -aes256 rsa.pem", AES256, false},
		{"Blowfish", "smime -bf-cbc rsa.pem", CipherUnknown, true},
		{"RC2", "smime -rc2 rsa.pem", CipherUnknown, true},
		{"SKI", "cms -aes128 -keyid rsa.pem", AES128, false},
		{"stream", "cms -aes256 -stream rsa.pem", AES256, false},
		{"indefinite", "smime -des3 -indef rsa.pem", TripleDES, false},
		{"two recipients", "cms -aes128 other.pem rsa.pem", AES128, false},
		{"another recipient", "cms -aes128 other.pem", AES128, true},
		{"EC recipient too", "cms -aes128 -recip ec.pem -recip rsa.pem", AES128, false},
		{"OAEP", "cms -aes128 -recip rsa.pem -keyopt rsa_padding_mode:oaep", AES128, false},
		{"OAEP, SHA-256", "cms -aes128 -recip rsa.pem -keyopt rsa_padding_mode:oaep -keyopt rsa_oaep_md:sha256", AES128, false},
		{"OAEP, SHA-256, MGF1 with SHA-1", "cms -aes128 -recip rsa.pem -keyopt rsa_padding_mode:oaep -keyopt rsa_oaep_md:sha256 -keyopt rsa_mgf1_md:sha1", AES128, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tool, rest, _ := strings.Cut(tt.args, " ")
			e, err := ParseEnveloped(w.openssl(t, tool+legacy+" "+encrypt+rest), Limits{})
			if err != nil {
				t.Fatal(err)
			}
			if e.Cipher != tt.cipher || e.For(w.rsa.cert) != (tt.name != "another recipient") {
				t.Errorf("%v (%v), For: %v", e.Cipher, e.CipherOID, e.For(w.rsa.cert))
			}
			got, err := e.Decrypt(w.rsa.rsa(), w.rsa.cert)
			if tt.fails != errors.Is(err, ErrDecrypt) || (err == nil) != bytes.Equal(got, content) {
				t.Errorf("%d octets, %v", len(got), err)
			}
		})
	}
}

// What openssl decrypts.
func TestOpenSSLDecrypts(t *testing.T) {
	w := newWorkshop(t)
	for _, c := range known {
		der, err := Encrypt(content, w.rsa.cert, c)
		if err != nil {
			t.Fatal(err)
		}
		w.write(t, "enveloped.der", der)
		for _, tool := range []string{"cms", "smime"} {
			got := w.openssl(t, tool+legacy+" -decrypt -binary -inform DER -in enveloped.der -recip rsa.pem -inkey rsa.key")
			if !bytes.Equal(got, content) {
				t.Errorf("%v, %s: %d octets", c, tool, len(got))
			}
		}
	}
}
