package cmp

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	stdpkix "crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"os"
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// signedWith is a signature algorithm of a client's, made apart from gateway/pkix.
type signedWith struct {
	name      string
	algorithm []byte // DER AlgorithmIdentifier
	opts      crypto.SignerOpts
}

func (s *signedWith) sign(key crypto.Signer, data []byte) []byte {
	if h := s.opts.HashFunc(); h != 0 {
		sum := h.New()
		sum.Write(data)
		data = sum.Sum(nil)
	}
	sig, err := key.Sign(rand.Reader, data, s.opts)
	if err != nil {
		panic(err)
	}
	return sig
}

func oidDER(arcs ...int) []byte {
	der, err := asn1.Marshal(asn1.ObjectIdentifier(arcs))
	if err != nil {
		panic(err)
	}
	return der
}

func intDER(n int) []byte {
	der, err := asn1.Marshal(n)
	if err != nil {
		panic(err)
	}
	return der
}

var (
	derNull  = []byte{5, 0}
	sha2OIDs = map[crypto.Hash]int{crypto.SHA256: 1, crypto.SHA384: 2, crypto.SHA512: 3}
)

func hashDER(h crypto.Hash) []byte {
	if h == crypto.SHA1 {
		return element(0x30, oidDER(1, 3, 14, 3, 2, 26), derNull)
	}
	return element(0x30, oidDER(2, 16, 840, 1, 101, 3, 4, 2, sha2OIDs[h]), derNull)
}

func pkcs1(h crypto.Hash, last int) signedWith {
	return signedWith{fmt.Sprint("PKCS #1 ", h), element(0x30, oidDER(1, 2, 840, 113549, 1, 1, last), derNull), h}
}

// pss is RSASSA-PSS with the fields of its parameters (RFC 4055 section 3.1), made with a salt of that length.
func pss(name string, h crypto.Hash, salt int, fields ...[]byte) signedWith {
	params := [][]byte{element(0xa0, hashDER(h)), element(0xa1, element(0x30, oidDER(1, 2, 840, 113549, 1, 1, 8), hashDER(h))), element(0xa2, intDER(salt))}
	if fields != nil {
		params = fields
	}
	return signedWith{"PSS " + name, element(0x30, oidDER(1, 2, 840, 113549, 1, 1, 10), element(0x30, params...)), &rsa.PSSOptions{SaltLength: salt, Hash: h}}
}

func ecdsaWith(h crypto.Hash, arcs ...int) signedWith {
	return signedWith{fmt.Sprint("ECDSA ", h), element(0x30, oidDER(append([]int{1, 2, 840, 10045, 4}, arcs...)...)), h}
}

// Signatures of messages and proofs of possession (RFC 9810 section 5.1.3.3, RFC 9481 section 3): what is accepted, what only with
// `legacy: [sha1]`, and what never is.
func TestSignatureAlgorithms(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	curve := func(c elliptic.Curve) crypto.Signer {
		key, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	p256, p384, p521, ed := curve(elliptic.P256()), curve(elliptic.P384()), curve(elliptic.P521()), newEd25519()
	mgf := func(h crypto.Hash) []byte { return element(0x30, oidDER(1, 2, 840, 113549, 1, 1, 8), hashDER(h)) }
	const yes, legacy, never = 0, 1, 2
	sha256, sha384, sha512 := crypto.SHA256, crypto.SHA384, crypto.SHA512
	for _, tt := range []struct {
		key  crypto.Signer
		s    signedWith
		when int
	}{
		{rsaKey, pkcs1(sha256, 11), yes}, {rsaKey, pkcs1(sha384, 12), yes}, {rsaKey, pkcs1(sha512, 13), yes},
		{rsaKey, pkcs1(crypto.SHA1, 5), legacy}, {rsaKey, pkcs1(crypto.MD5, 4), never},
		{rsaKey, pss("SHA-256", sha256, 32), yes}, {rsaKey, pss("SHA-384", sha384, 48), yes}, {rsaKey, pss("SHA-512", sha512, 64), yes},
		{rsaKey, pss("another salt's length", sha256, 1), yes}, {rsaKey, pss("the longest salt", sha256, 222), yes},
		{rsaKey, pss("saltLength by default", sha256, 20, element(0xa0, hashDER(sha256)), element(0xa1, mgf(sha256))), yes},
		{rsaKey, pss("trailerField said", sha256, 32, element(0xa0, hashDER(sha256)), element(0xa1, mgf(sha256)), element(0xa2, intDER(32)), element(0xa3, intDER(1))), yes},
		{rsaKey, pss("another trailerField", sha256, 32, element(0xa0, hashDER(sha256)), element(0xa1, mgf(sha256)), element(0xa2, intDER(32)), element(0xa3, intDER(2))), never},
		{rsaKey, pss("another hash in the mask", sha256, 32, element(0xa0, hashDER(sha256)), element(0xa1, mgf(sha512)), element(0xa2, intDER(32))), never},
		{rsaKey, pss("SHA-1", crypto.SHA1, 20), never}, {rsaKey, pss("SHA-1 by default", crypto.SHA1, 20, []byte{}), never},
		{p256, ecdsaWith(sha256, 3, 2), yes}, {p256, ecdsaWith(sha512, 3, 4), yes},
		{p384, ecdsaWith(sha384, 3, 3), yes}, {p384, ecdsaWith(sha256, 3, 2), yes},
		{p521, ecdsaWith(sha512, 3, 4), yes}, {p521, ecdsaWith(sha256, 3, 2), yes},
		{p256, ecdsaWith(crypto.SHA1, 1), legacy}, {p256, ecdsaWith(crypto.SHA224, 3, 1), never},
		{ed, signedWith{"Ed25519", element(0x30, oidDER(1, 3, 101, 112)), crypto.Hash(0)}, yes},
	} {
		for _, config := range []Config{{}, {Legacy: []Legacy{LegacySHA1}}} {
			want := cmpmsg.FailInfo(0)
			if tt.when == never || tt.when == legacy && !config.allowSHA1() {
				want = cmpmsg.BadAlg
			}
			w := newWorld(t, worldOptions{config: config})
			cert := w.ca.issue(t, &x509.Certificate{Subject: stdpkix.Name{CommonName: "device-1"}, KeyUsage: x509.KeyUsageDigitalSignature}, tt.key.Public())
			// The message; then the proof of possession, in a message that is signed as usual.
			c := w.signer(cert, tt.key)
			c.sign = &tt.s
			if fail, text, _ := failure(c.ask(crmf{kind: cmpmsg.TypeIR, key: tt.key, subject: "device-1"}.body(t))); fail != want {
				t.Errorf("message, %T, %s, legacy %t: %v %s", tt.key, tt.s.name, config.allowSHA1(), fail, text)
			}
			c = w.signer(cert, tt.key)
			q := crmf{kind: cmpmsg.TypeCR, key: tt.key, subject: "device-1", change: func(m *cmpmsg.CertReqMsg) {
				request, err := m.Request()
				if err != nil {
					t.Fatal(err)
				}
				m.POP.Signing = &cmpmsg.POPOSigningKey{Algorithm: cmpmsg.AlgorithmIdentifier{Raw: tt.s.algorithm}, Signature: tt.s.sign(tt.key, request)}
			}}
			if fail, text, rejection := failure(c.ask(q.body(t))); fail != want || !rejection {
				t.Errorf("POP, %T, %s, legacy %t: %v %s", tt.key, tt.s.name, config.allowSHA1(), fail, text)
			}
		}
	}
}

// p10cr signed with SHA-1: by `legacy` alone.
func TestSHA1InPKCS10(t *testing.T) {
	csr, err := os.ReadFile("../../testdata/pkix/p256-sha1.der")
	if err != nil {
		t.Fatal(err)
	}
	for want, config := range map[cmpmsg.FailInfo]Config{cmpmsg.BadAlg: {}, 0: {Legacy: []Legacy{LegacySHA1}}} {
		w := newWorld(t, worldOptions{config: config})
		if fail, text, _ := failure(w.macClient("ref-1").ask(&cmpmsg.PKCS10{CSR: csr})); fail != want {
			t.Errorf("%v %s, want %v", fail, text, want)
		}
	}
}

// A key whose SubjectPublicKeyInfo says id-RSASSA-PSS (RFC 4055 section 1.2) is refused in words, for a signer and in a
// template: keys for one padding alone are not certified here.
func TestRSASSAPSSKeys(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	only := func(der []byte) []byte {
		out := bytes.Replace(der, oidDER(1, 2, 840, 113549, 1, 1, 1), oidDER(1, 2, 840, 113549, 1, 1, 10), 1)
		if bytes.Equal(out, der) {
			t.Fatal("no RSA key in it")
		}
		return out
	}
	w := newWorld(t, worldOptions{})
	cert, err := x509.ParseCertificate(only(w.ca.issue(t, &x509.Certificate{Subject: stdpkix.Name{CommonName: "device-1"}}, key.Public()).Raw))
	if err != nil {
		t.Fatal(err)
	}
	c := w.signer(cert, key)
	s := pss("SHA-256", crypto.SHA256, 32)
	c.sign = &s
	body := crmf{kind: cmpmsg.TypeIR, key: key, subject: "device-1"}
	if fail, text, _ := failure(c.ask(body.body(t))); fail != cmpmsg.BadAlg || !strings.Contains(text, "public key algorithm 1.2.840.113549.1.1.10") {
		t.Errorf("signer: %v %s", fail, text)
	}
	body.change = func(m *cmpmsg.CertReqMsg) { m.Template.PublicKey = only(m.Template.PublicKey) }
	if fail, text, rejection := failure(w.macClient("ref-1").ask(body.body(t))); fail != cmpmsg.BadAlg || !rejection || !strings.Contains(text, "1.2.840.113549.1.1.10") {
		t.Errorf("template: %v %s", fail, text)
	}
}

// Keys that are too short or too long are badCertTemplate, by CRMF and by PKCS #10 (RFC 9810 section 5.2.3, RFC 9481 section 7).
func TestKeySizes(t *testing.T) {
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	huge, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: new(big.Int).Add(new(big.Int).Lsh(big.NewInt(1), 8192), big.NewInt(1)), E: 65537})
	if err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string]cmpmsg.Body{
		"1024 bits":          crmf{kind: cmpmsg.TypeIR, key: weak, subject: "device-1"}.body(t),
		"1024 bits, PKCS#10": &cmpmsg.PKCS10{CSR: csr(t, weak, "device-1")},
		"8193 bits": crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1", change: func(m *cmpmsg.CertReqMsg) {
			m.Template.PublicKey = huge
		}}.body(t),
	} {
		w := newWorld(t, worldOptions{})
		if fail, text, rejection := failure(w.macClient("ref-1").ask(body)); fail != cmpmsg.BadCertTemplate || !rejection {
			t.Errorf("%s: %v %s", name, fail, text)
		}
	}
}

// Every MAC that is accepted (RFC 9810 section 5.1.3.1, RFC 9481 section 6.1), also where the HMAC's hash is wider than the
// one-way function. The answer has the same, with the same parameters and another salt.
func TestMACs(t *testing.T) {
	hashes := []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512}
	ask := func(w *world, name string, make func(salt []byte) (*cmpmsg.MAC, error)) cmpmsg.FailInfo {
		c := w.macClient("ref-1")
		c.mac = make
		m := c.ask(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}.body(t))
		fail, _, _ := failure(m)
		if fail != 0 {
			return fail
		}
		sent, err := cmpmsg.Parse(c.lastSent)
		if err != nil {
			t.Fatal(err)
		}
		asked, err1 := cmpmsg.ParseMAC(sent.Header.ProtectionAlg, cmpmsg.MACPolicy{AllowSHA1: true})
		got, err2 := cmpmsg.ParseMAC(m.Header.ProtectionAlg, cmpmsg.MACPolicy{AllowSHA1: true})
		if err1 != nil || err2 != nil || asked.String() != got.String() || bytes.Equal(sent.Header.ProtectionAlg.Parameters, m.Header.ProtectionAlg.Parameters) {
			t.Errorf("%s: answered with %v (%v, %v)", name, got, err1, err2)
		}
		return 0
	}
	w := newWorld(t, worldOptions{})
	for _, derive := range hashes {
		for _, mac := range append([]crypto.Hash{crypto.SHA1}, hashes...) {
			name := fmt.Sprintf("PBM %v, HMAC-%v", derive, mac)
			if fail := ask(w, name, func(salt []byte) (*cmpmsg.MAC, error) { return cmpmsg.NewPBM(derive, mac, 1000, salt) }); fail != 0 {
				t.Errorf("%s: %v", name, fail)
			}
			if mac == crypto.SHA1 {
				continue
			}
			name = fmt.Sprintf("PBMAC1 HMAC-%v, HMAC-%v", derive, mac)
			if fail := ask(w, name, func(salt []byte) (*cmpmsg.MAC, error) { return cmpmsg.NewPBMAC1(derive, mac, 1000, salt) }); fail != 0 {
				t.Errorf("%s: %v", name, fail)
			}
		}
	}
	// SHA-1 derives the key where `legacy` says so.
	old := newWorld(t, worldOptions{config: Config{Legacy: []Legacy{LegacySHA1}}})
	for want, w := range map[cmpmsg.FailInfo]*world{0: old, cmpmsg.BadAlg: w} {
		if fail := ask(w, "PBM SHA-1", func([]byte) (*cmpmsg.MAC, error) {
			return cmpmsg.ParseMAC(pbm("1.3.14.3.2.26", 500), cmpmsg.MACPolicy{AllowSHA1: true})
		}); fail != want {
			t.Errorf("PBM SHA-1: %v, want %v", fail, want)
		}
	}
}

// certHash is made with the hash of the certificate's signature algorithm (RFC 9810 section 5.3.18); for Ed25519 that is SHA-512
// (RFC 9481 section 3.3).
func TestConfirmHash(t *testing.T) {
	p384, err1 := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	p521, err2 := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	rsaKey, err3 := rsa.GenerateKey(rand.Reader, 2048)
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		ca   crypto.Signer
		hash crypto.Hash
	}{
		"RSA": {rsaKey, crypto.SHA256}, "P-256": {newP256(), crypto.SHA256}, "P-384": {p384, crypto.SHA384}, "P-521": {p521, crypto.SHA512},
		"Ed25519": {newEd25519(), crypto.SHA512},
	} {
		w := newWorld(t, worldOptions{caKey: tt.ca})
		for _, hash := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
			c, cert := enrolled(t, w, w.macClient("ref-1"))
			sum := hash.New()
			sum.Write(cert.Raw)
			want, state := cmpmsg.BadCertID, gateway.StateRejected
			if hash == tt.hash {
				want, state = 0, gateway.StateIssued
			}
			if fail, _, _ := failure(c.ask(confirmation(sum.Sum(nil), 0))); fail != want || w.gateway.tx(t).State != state {
				t.Errorf("%s, %v: %b, %s", name, hash, fail, w.gateway.tx(t).State)
			}
		}
	}
}
