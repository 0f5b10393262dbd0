package est

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/cms"
)

// openssl runs it in a folder with the files.
func openssl(t *testing.T, files map[string][]byte, args string) []byte {
	t.Helper()
	dir := t.TempDir()
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "openssl", strings.Fields(args)...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("openssl %s: %v\n%s", args, err, stderr.Bytes())
	}
	return out
}

func (w *world) certPEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

// unpacked verifies the SignedData that was decrypted, and returns the key in it.
func (w *world) unpacked(bare []byte) any {
	t := w.t.(*testing.T)
	t.Helper()
	info := must(cms.ContentInfo(cms.OIDSignedData, bare))
	content := openssl(t, map[string][]byte{"signed": info, "root.pem": w.certPEM(w.ca.root)}, "cms -verify -inform DER -in signed -binary -CAfile root.pem -purpose any")
	signed := must(cms.ParseSigned(info, cms.Limits{}))
	if !signed.ContentType.Equal(cms.OIDAsymmetricKeys) {
		t.Errorf("content of type %v", signed.ContentType)
	}
	var list []asn1.RawValue
	if rest, err := asn1.Unmarshal(content, &list); err != nil || len(rest) > 0 || len(list) != 1 {
		t.Fatalf("%d keys, %v", len(list), err)
	}
	return must(x509.ParsePKCS8PrivateKey(list[0].FullBytes))
}

// Section 4.4.1.1: encrypted with a shared key that the client names.
func TestServerKeyGenSymmetric(t *testing.T) {
	key := newP256()
	w := keyWorld(t, key)
	kek := bytes.Repeat([]byte{9}, 32)
	w.gateway.keks = map[string][]byte{"kek-1": kek}
	r := w.keyRequest(csrOptions{attributes: [][]byte{attribute(oidDecryptKeyID, octets("kek-1")), capabilities(oidAES128, oid3DES)}})
	types, contents := parts(t, send(t, w.client(nil, nil, nil), r), false)
	if len(types) != 2 || types[0] != "application/pkcs7-mime; smime-type=server-generated-key" {
		t.Fatalf("%q", types)
	}
	if got := string(openssl(t, map[string][]byte{"env": contents[0]}, "cms -cmsout -print -noout -inform DER -in env")); !strings.Contains(got, "d.kekri") || !strings.Contains(got, "aes-128-cbc") {
		t.Error(got)
	}
	bare := openssl(t, map[string][]byte{"env": contents[0]}, "cms -decrypt -inform DER -binary -in env -secretkey "+hex.EncodeToString(kek)+" -secretkeyid "+hex.EncodeToString([]byte("kek-1")))
	if got := w.unpacked(bare); !got.(*ecdsa.PrivateKey).Equal(key) {
		t.Error("another key")
	}
	asked := w.gateway.lastEnrolled(t)
	if k := asked.KeyGen; k.Wrap != gateway.WrapSymmetric || string(k.KeyID) != "kek-1" || !bytes.Equal(k.WrapKey, kek) {
		t.Errorf("%+v", k)
	}
	// A key that is not there: the request goes to the pipeline all the same, which says so once it knows who asks.
	r = w.keyRequest(csrOptions{attributes: [][]byte{attribute(oidDecryptKeyID, octets("kek-2"))}})
	send(t, w.client(nil, nil, nil), r)
	if k := w.gateway.lastEnrolled(t).KeyGen; len(k.WrapKey) != 0 || string(k.KeyID) != "kek-2" {
		t.Errorf("%+v", k)
	}
	// What the shared key cannot be used with, the client is told: behind the pipeline, too.
	wrap256 := asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 5}
	r = w.keyRequest(csrOptions{attributes: [][]byte{attribute(oidDecryptKeyID, octets("kek-1")), capabilities(wrap256)}})
	if got := send(t, w.client(nil, nil, nil), r); got.StatusCode != 400 || !strings.Contains(got.body, "AES key wrap") {
		t.Errorf("%s: %s", got.Status, got.body)
	}
	// An endpoint without a key generation authority.
	r = w.enrollment(root+"/plant/serverkeygen", b64(makeCSR(t, csrOptions{key: newP256(), attributes: [][]byte{attribute(oidDecryptKeyID, octets("kek-1"))}})))
	r.SetBasicAuth("factory", "secret")
	if got := send(t, w.client(nil, nil, nil), r); got.StatusCode != 500 {
		t.Errorf("%s: %s", got.Status, got.body)
	}
}

// Section 4.4.1.2: encrypted for the key of the TLS client's certificate, which has to be one to encrypt for.
func TestServerKeyGenAsymmetric(t *testing.T) {
	key := newP256()
	w := keyWorld(t, key)
	rsaKey := must(rsa.GenerateKey(rand.Reader, 2048))
	ecKey := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	_, edKey, _ := ed25519.GenerateKey(rand.Reader)
	skid := []byte{1, 2, 3, 4}
	for name, tt := range map[string]struct {
		key   crypto.Signer
		usage x509.KeyUsage
		keyID []byte // of the certificate; nil: none
		can   []asn1.ObjectIdentifier
		names []byte // what the request names; nil: the right one
		want  string // refused with; "" for none
	}{
		"RSA":                    {key: rsaKey, usage: x509.KeyUsageKeyEncipherment, keyID: skid},
		"RSA, any usage":         {key: rsaKey, keyID: skid},
		"RSA without identifier": {key: rsaKey},
		"EC":                     {key: ecKey, usage: x509.KeyUsageKeyAgreement | x509.KeyUsageDigitalSignature, keyID: skid, can: []asn1.ObjectIdentifier{oidAES128}},
		"EC without identifier":  {key: ecKey},
		"RSA that signs":         {key: rsaKey, usage: x509.KeyUsageDigitalSignature, want: "does not have the key usage keyEncipherment"},
		"EC that signs":          {key: ecKey, usage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment, want: "does not have the key usage keyAgreement"},
		"Ed25519":                {key: edKey, want: "key of type Ed25519: it has to be RSA or EC"},
		"another identifier":     {key: rsaKey, keyID: skid, names: []byte{1, 2, 3}, want: "there is no public key under the identifier in AsymmetricDecryptKeyIdentifier"},
		"3DES":                   {key: rsaKey, can: []asn1.ObjectIdentifier{oid3DES}, want: "SMIMECapabilities do not have what is needed: AES-256-CBC, AES-192-CBC or AES-128-CBC"},
	} {
		cert := w.ca.issue(t, &x509.Certificate{Subject: pkix.Name{CommonName: "device-0001"}, KeyUsage: tt.usage, SubjectKeyId: tt.keyID}, tt.key.Public())
		names := tt.keyID
		if names == nil {
			var spki struct {
				Algorithm asn1.RawValue
				Bits      asn1.BitString
			}
			asn1.Unmarshal(cert.RawSubjectPublicKeyInfo, &spki)
			sum := sha1.Sum(spki.Bits.Bytes)
			names = sum[:]
		}
		if tt.names != nil {
			names = tt.names
		}
		attributes := [][]byte{attribute(oidAsymmDecryptKey, octets(string(names)))}
		if tt.can != nil {
			attributes = append(attributes, capabilities(tt.can...))
		}
		before := len(w.gateway.allEnrolled())
		r := w.enrollment(root+"/serverkeygen", b64(makeCSR(t, csrOptions{key: newP256(), attributes: attributes})))
		got := send(t, w.client(cert, tt.key, nil), r)
		if tt.want != "" {
			if got.StatusCode != 400 || !strings.Contains(got.body, tt.want) || len(w.gateway.allEnrolled()) != before {
				t.Errorf("%s: %s: %s", name, got.Status, got.body)
			}
			continue
		}
		_, contents := parts(t, got, false)
		der := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(tt.key))})
		bare := openssl(t, map[string][]byte{"env": contents[0], "key": der, "cert": w.certPEM(cert)}, "cms -decrypt -inform DER -binary -in env -inkey key -recip cert")
		if !w.unpacked(bare).(*ecdsa.PrivateKey).Equal(key) {
			t.Errorf("%s: another key", name)
		}
		if k := w.gateway.lastEnrolled(t).KeyGen; k.Wrap != gateway.WrapAsymmetric || k.WrapKey != nil {
			t.Errorf("%s: %+v", name, k)
		}
	}
}
