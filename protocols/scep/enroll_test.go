package scep

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	xpkix "crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/cms"
)

// A first enrollment: what the gateway is asked, and what the client gets.
// RFC 8894 sections 2.3, 3.2, 3.2.1, 3.3.1 and 4.3, and of the answer 3.2.1.5, 3.2.2, 3.3.2, 3.3.2.1 and 4.3.1.
func TestEnroll(t *testing.T) {
	w := newWorld(t, worldOptions{})
	message := w.message(wish{})
	signer := must(cms.ParseSigned(message, cms.Limits{})).Signer
	a := w.read(t, w.post("/scep/phones/pkiclient.exe", message), deviceKey(), signer)
	if a.status != "0" || len(a.certs) != 1 || !a.certs[0].PublicKey.(interface{ Equal(crypto.PublicKey) bool }).Equal(deviceKey().Public()) {
		t.Fatalf("%+v", a)
	}
	r := w.gateway.lastEnrolled(t)
	if !gateway.ValidID(r.ID) || r.WireID != "1234567890+/= 77" || r.Protocol != gateway.SCEP || r.Endpoint != "phones" || r.Operation != gateway.Enroll ||
		r.POP != gateway.POPSignature || r.OldCert != nil || !r.Received.Equal(testTime) || !r.Source.IsValid() || !bytes.Equal(r.Raw, message) {
		t.Errorf("%+v", r)
	}
	csr := must(pkix.ParseCSR(r.CSR))
	if !bytes.Equal(r.Subject, csr.Subject) || !bytes.Equal(r.PublicKey, csr.PublicKey) || len(r.Extensions) != 1 {
		t.Errorf("%+v", r)
	}
	// Beside the challenge there is the key, as that by which the sender is known again: the self-signed certificate is worth nothing.
	if len(r.Credentials) != 2 || r.Credentials[0].Kind != gateway.CredentialKey || r.Credentials[0].ID != gateway.KeyFingerprint(signer) || r.Credentials[0].Chain != nil ||
		r.Credentials[1].Kind != gateway.CredentialChallenge || string(r.Credentials[1].Secret) != testChallenge || r.Credentials[1].ID != "" {
		t.Errorf("credentials %v", r.Credentials)
	}
	if strings.Contains(w.log.String(), testChallenge) {
		t.Error("the challenge is in the log")
	}
	if bytes.Contains(w.post("/scep", message).body, a.certs[0].RawSubject) {
		t.Error("the subject is to be seen outside the envelope")
	}
}

// The table of message types, challenges and certificates: what was issued, and what was not.
// RFC 8894 sections 2.3, 2.4, 2.5 and 3.2.1.2.
func TestTypesChallengesCertificates(t *testing.T) {
	w := newWorld(t, worldOptions{})
	own, others := w.device(deviceKey()), foreign(deviceKey().Public())
	issued := map[string]string{ // operation by "type, challenge, certificate"; all that does not stand here is refused
		"19 right none":    "enroll",
		"19 right foreign": "enroll",
		"19 none own":      "renew",
		"19 wrong own":     "renew",
		"19 right own":     "renew",
		"17 none own":      "renew",
		"17 wrong own":     "renew",
		"17 right own":     "renew",
	}
	for _, kind := range []string{"17", "18", "19", "99", "21", "22", "3", "0", " ", "019", "19 ", "-19"} { // 20 asks for nothing new: TestPoll
		for challenge, secret := range map[string]string{"none": "-", "wrong": "guess", "right": testChallenge} {
			for certificate, signer := range map[string]*x509.Certificate{"none": nil, "foreign": others, "own": own} {
				name := kind + " " + challenge + " " + certificate
				asked := len(w.gateway.allEnrolled())
				a := w.ask(t, wish{kind: kind, challenge: secret, signer: signer})
				if kind != "17" && kind != "19" {
					if a.status != "2" || a.failInfo != "2" || len(w.gateway.allEnrolled()) != asked {
						t.Errorf("%s: status %s, failInfo %s, %q", name, a.status, a.failInfo, a.text)
					}
					continue
				}
				want := issued[name]
				if (a.status == "0") != (want != "") {
					t.Errorf("%s: status %s %q, want %q", name, a.status, a.text, want)
				}
				if want != "" && string(w.gateway.lastEnrolled(t).Operation) != want {
					t.Errorf("%s: %s", name, w.gateway.lastEnrolled(t).Operation)
				}
				if want == "" && a.failInfo != "2" {
					t.Errorf("%s: failInfo %s", name, a.failInfo)
				}
			}
		}
	}
}

// A message type that is none of the requests is told so in words (RFC 8894 sections 3.2.1.2 and 3.2.1.4.4).
func TestUnsupportedTypesSayWhy(t *testing.T) {
	w := newWorld(t, worldOptions{})
	for kind, want := range map[string]string{"18": `messageType "18" is no request`, "3": `"3"`, "23": `"23"`} {
		a := w.ask(t, wish{kind: kind})
		if !strings.Contains(a.text, want) || !strings.HasSuffix(a.text, "(reference "+testReference+")") {
			t.Errorf("%s: %q", kind, a.text)
		}
		if r := w.gateway.lastRejected(t); r.err.Reason != gateway.Unsupported || r.request.WireID == "" {
			t.Errorf("%s: %+v", kind, r)
		}
	}
	a := w.ask(t, wish{attributes: func(list []cms.Attribute) []cms.Attribute { return list[1:] }})
	if a.failInfo != "2" || !strings.Contains(a.text, "messageType") {
		t.Errorf("without a type: %+v", a)
	}
}

// What a renewal is made of, by either type.
// RFC 8894 sections 2.4 and 2.5.
func TestRenewal(t *testing.T) {
	w := newWorld(t, worldOptions{})
	own := w.device(deviceKey())
	for _, kind := range []string{"17", "19"} {
		a := w.ask(t, wish{kind: kind, signer: own, challenge: "spent long ago", chain: []*x509.Certificate{w.ca.issuer}})
		r := w.gateway.lastEnrolled(t)
		if a.status != "0" || r.Operation != gateway.Renew || !bytes.Equal(r.OldCert.Raw, own.Raw) {
			t.Fatalf("%s: %+v, %+v", kind, a, r)
		}
		if len(r.Credentials) != 1 {
			t.Fatalf("%s: credentials %v", kind, r.Credentials)
		}
		c := r.Credentials[0]
		if c.Kind != gateway.CredentialSigner || c.ID != gateway.Fingerprint(own) || len(c.Chain) != 2 || !bytes.Equal(c.Chain[0].Raw, own.Raw) {
			t.Errorf("%s: %+v", kind, c)
		}
		if len(r.Notes) != 2 || !strings.Contains(r.Notes[0], "signed with SHA-256 by CN=device-0001") || !strings.Contains(r.Notes[1], "challenge was not looked at") || !strings.Contains(r.Notes[1], "renewal") {
			t.Errorf("%s: notes %q", kind, r.Notes)
		}
		if strings.Contains(w.log.String()+strings.Join(r.Notes, " "), "spent long ago") {
			t.Errorf("%s: the challenge is told: %q, log %s", kind, r.Notes, w.log)
		}
		// Another key: signed with the old one, and the answer is encrypted to the old one.
		a = w.ask(t, wish{kind: kind, signer: own, signerKey: deviceKey(), key: otherKey(), challenge: "-"})
		if r := w.gateway.lastEnrolled(t); a.status != "0" || r.Operation != gateway.Rekey || len(r.Notes) != 1 || !otherKey().PublicKey.Equal(a.certs[0].PublicKey) {
			t.Errorf("%s: %+v, %s", kind, a, r.Operation)
		}
	}
	w.gateway.issuedErr = &gateway.Error{Reason: gateway.Unavailable, RetryAfter: time.Minute}
	got := w.post("/scep", w.message(wish{signer: own}))
	if got.StatusCode != 503 || got.Header.Get("Retry-After") != "60" {
		t.Errorf("certificates cannot be looked up: %d, %q", got.StatusCode, got.Header)
	}
}

// A self-signed certificate has to be of the key that is certified. With another CA's certificate it may differ, but
// then no challenge counts: the envelope could be somebody else's.
// RFC 8894 section 2.3.
func TestSignerAndKey(t *testing.T) {
	w := newWorld(t, worldOptions{})
	a := w.ask(t, wish{key: otherKey(), signerKey: deviceKey()})
	if a.status != "2" || a.failInfo != "2" || w.gateway.lastRejected(t).err.Reason != gateway.BadPOP || len(w.gateway.allEnrolled()) != 0 {
		t.Errorf("a self-signed certificate of another key: %+v", a)
	}
	a = w.ask(t, wish{key: otherKey(), signerKey: foreignKey(), signer: foreign(foreignKey().Public())})
	r := w.gateway.lastEnrolled(t)
	if a.status != "2" || len(r.Credentials) != 1 || r.Credentials[0].Kind != gateway.CredentialSigner || r.Operation != gateway.Enroll ||
		len(r.Notes) != 2 || !strings.Contains(r.Notes[1], "another key") {
		t.Errorf("a foreign certificate of another key: %+v, %v", a, r.Credentials)
	}
	a = w.ask(t, wish{signer: foreign(deviceKey().Public())})
	r = w.gateway.lastEnrolled(t)
	if a.status != "0" || len(r.Notes) != 1 || len(r.Credentials) != 2 || r.Credentials[0].Kind != gateway.CredentialSigner || r.Credentials[1].Kind != gateway.CredentialChallenge {
		t.Errorf("a foreign certificate of the key: %+v, %v", a, r.Credentials)
	}
}

// What makes a repeat: the same transactionID, type, signer and key, whatever else is new.
func TestRepeatContent(t *testing.T) {
	w := newWorld(t, worldOptions{})
	own, self := w.device(deviceKey()), selfSigned(deviceKey())
	key := func(r wish) string {
		w.ask(t, r)
		e := w.gateway.lastEnrolled(t)
		who := ""
		for _, c := range e.Credentials {
			if c.Kind != gateway.CredentialChallenge {
				who += c.String()
			}
		}
		if len(e.Content) == 0 || len(e.Credentials) == 0 {
			t.Errorf("%+v has no repeat", e)
		}
		return strings.Join([]string{string(e.Operation), e.WireID, who, string(e.Content)}, "|")
	}
	first, renewal := key(wish{signer: self}), key(wish{kind: "17", signer: own})
	for name, r := range map[string]wish{
		"again":               {signer: self},
		"another challenge":   {signer: self, challenge: "guess"},
		"another cipher":      {signer: self, cipher: cms.AES256},
		"another digest":      {signer: self, digest: crypto.SHA512},
		"another certificate": {},
		"another transaction": {signer: self, wireID: "0"},
		"another key":         {key: otherKey()},
		"type 19":             {signer: own, challenge: "-"},
	} {
		same := name == "again" || name == "another challenge" || name == "another cipher" || name == "another digest"
		if (key(r) == first) != same {
			t.Errorf("%s: the same is %v", name, !same)
		}
	}
	if key(wish{kind: "17", signer: own}) != renewal || key(wish{kind: "17", signer: own, challenge: "-"}) != renewal {
		t.Error("a renewal is not its own repeat")
	}
	if key(wish{kind: "17", signer: own, signerKey: deviceKey(), key: otherKey()}) == key(wish{kind: "17", signer: own, signerKey: deviceKey(), key: foreignKey()}) {
		t.Error("a rekey with another key passes for the same")
	}
	if key(wish{kind: "17", signer: w.device(deviceKey())}) == renewal || key(wish{kind: "19", signer: own}) == renewal ||
		key(wish{kind: "17", signer: own, key: otherKey(), signerKey: deviceKey()}) == renewal {
		t.Error("another renewal passes for the same")
	}
}

// Only RSA, and within bounds; it is said before anything is issued.
// RFC 8894 section 3.1: answers are encrypted to the key.
func TestKeys(t *testing.T) {
	w := newWorld(t, worldOptions{})
	own := w.device(deviceKey())
	ec := newP256()
	a := w.ask(t, wish{kind: "17", signer: own, signerKey: deviceKey(), key: ec})
	if a.status != "2" || a.failInfo != "0" || !strings.Contains(a.text, "P-256") || !strings.Contains(a.text, "RSA") {
		t.Errorf("a request for an EC key: %+v", a)
	}
	r := wish{signerKey: ec, signer: selfSigned(ec), key: ec}.complete()
	a = w.read(t, w.post("/scep", w.message(r)), deviceKey(), nil)
	if a.status != "2" || a.failInfo != "0" || !strings.Contains(a.text, "P-256") {
		t.Errorf("a message signed with an EC key: %+v", a)
	}
	weak := must(rsa.GenerateKey(rand.Reader, 1024))
	a = w.ask(t, wish{key: weak})
	if a.status != "2" || a.failInfo != "0" || !strings.Contains(a.text, "1024 bits") {
		t.Errorf("a message signed with a weak key: %+v", a)
	}
	if len(w.gateway.allEnrolled()) != 0 {
		t.Error("the gateway was asked")
	}
}

// The request's own signature, its attributes and names.
func TestRequestContents(t *testing.T) {
	w := newWorld(t, worldOptions{})
	plain := makeCSR(deviceKey(), "device-0001", "-", 0)
	challengeOID := asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 7}
	for name, r := range map[string]wish{
		"challenge that is no string": {csr: withAttribute(deviceKey(), plain, challengeOID, cbasn1.INTEGER, "\x01")},
		"challenge too long":          {csr: withAttribute(deviceKey(), plain, challengeOID, cbasn1.UTF8String, strings.Repeat("x", 1025))},
	} {
		if a := w.ask(t, r); a.status != "2" || a.failInfo != "2" || !strings.Contains(a.text, "challengePassword") || len(w.gateway.allEnrolled()) != 0 {
			t.Errorf("%s: %+v", name, a)
		}
	}
	for name, csr := range map[string][]byte{
		"UTF8String": withAttribute(deviceKey(), plain, challengeOID, cbasn1.UTF8String, testChallenge),
		"IA5String":  withAttribute(deviceKey(), plain, challengeOID, cbasn1.IA5String, testChallenge),
	} {
		if a := w.ask(t, wish{csr: csr}); a.status != "0" {
			t.Errorf("challenge as %s: %+v", name, a)
		}
	}
	san := must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		ExtraExtensions: []xpkix.Extension{{Id: oidSubjectAltName, Value: []byte("no GeneralNames")}}}, deviceKey()))
	if a := w.ask(t, wish{csr: san}); a.status != "2" || !strings.Contains(a.text, "subjectAltName") {
		t.Errorf("subjectAltName: %+v", a)
	}
	w.ask(t, wish{csr: withAttribute(deviceKey(), plain, challengeOID, cbasn1.UTF8String, "")})
	if r := w.gateway.lastEnrolled(t); len(r.Credentials) != 1 {
		t.Errorf("an empty challenge is a credential: %v", r.Credentials)
	}
}

// What the gateway answers becomes a CertRep; what it refuses, a FAILURE that says why.
// RFC 8894 sections 3.2.1.3, 3.3.2.2 and 3.3.2.3.
func TestResults(t *testing.T) {
	w := newWorld(t, worldOptions{})
	w.gateway.enroll = func(r *gateway.Request) (*gateway.Result, error) {
		return &gateway.Result{Kind: gateway.ResultPending, Transaction: r.ID, RetryAfter: time.Minute}, nil
	}
	if a := w.ask(t, wish{}); a.status != "3" || a.failInfo != "" || a.text != "" {
		t.Errorf("pending: %+v", a)
	}
	for name, result := range map[string]*gateway.Result{
		"nothing": nil, "no certificate": {Kind: gateway.ResultIssued}, "revoked": {Kind: gateway.ResultRevoked}, "another": {Kind: "?"},
	} {
		w.gateway.enroll = func(*gateway.Request) (*gateway.Result, error) { return result, nil }
		before := w.gateway.rejections()
		if got := w.post("/scep", w.message(wish{})); got.StatusCode != 500 || w.gateway.rejections() != before+1 {
			t.Errorf("%s: %d %s", name, got.StatusCode, got.body)
		}
	}
	w.gateway.enroll = func(*gateway.Request) (*gateway.Result, error) { return nil, errors.New("no *gateway.Error") }
	if got := w.post("/scep", w.message(wish{})); got.StatusCode != 500 || bytes.Contains(got.body, []byte("gateway")) {
		t.Errorf("%d %s", got.StatusCode, got.body)
	}
}

// Which certificates an answer holds (RFC 8894 section 3.3.2.1), by configuration.
func TestChain(t *testing.T) {
	no := false
	for _, tt := range []struct {
		config Config
		want   string
	}{
		{Config{}, "leaf"},
		{Config{Chain: ChainLeaf}, "leaf"},
		{Config{Chain: ChainFull}, "leaf SCEP Test Issuing CA SCEP Test Root"},
		{Config{Chain: ChainFull, Root: &no}, "leaf SCEP Test Issuing CA"},
	} {
		w := newWorld(t, worldOptions{config: tt.config})
		got := "leaf"
		a := w.ask(t, wish{})
		for _, c := range a.certs[1:] {
			got += " " + c.Subject.CommonName
		}
		if got != tt.want || a.certs[0].IsCA {
			t.Errorf("%+v: %s", tt.config, got)
		}
	}
}

// RFC 8894 sections 2.9 and 3.5.2, as sscep tries them, 6 ciphers by 6 digests: digest and cipher of the answer are the request's, in all
// pairs of the endpoint; every other pair is badAlg, signed, over HTTP 200. GetCACaps says which these are.
func TestAlgorithms(t *testing.T) {
	ciphers := []cms.Cipher{cms.DES, cms.TripleDES, blowfish, cms.AES128, cms.AES192, cms.AES256}
	digests := []crypto.Hash{crypto.MD5, crypto.SHA1, crypto.SHA224, crypto.SHA256, crypto.SHA384, crypto.SHA512}
	for _, legacy := range [][]Legacy{nil, {LegacyDES, LegacySHA1}, {LegacyTripleDES}, {LegacyDES, LegacyTripleDES, LegacySHA1}} {
		w := newWorld(t, worldOptions{config: Config{Legacy: legacy}})
		okDigest := map[crypto.Hash]bool{crypto.SHA256: true, crypto.SHA384: true, crypto.SHA512: true, crypto.SHA1: slices.Contains(legacy, LegacySHA1)}
		okCipher := map[cms.Cipher]bool{
			cms.AES128: true, cms.AES192: true, cms.AES256: true,
			cms.DES: slices.Contains(legacy, LegacyDES), cms.TripleDES: slices.Contains(legacy, LegacyTripleDES),
		}
		caps := strings.Split(string(w.get("/scep?operation=GetCACaps").body), "\n")
		for keyword, want := range map[string]bool{
			"SHA-1": okDigest[crypto.SHA1], "SHA-256": true, "SHA-384": true, "SHA-512": true, "AES": true, "DES3": okCipher[cms.TripleDES],
			"MD5": false, "SHA-224": false, "DES": false,
		} {
			if slices.Contains(caps, keyword) != want {
				t.Errorf("%v: GetCACaps %q: %s is there: %v", legacy, caps, keyword, !want)
			}
		}
		issued := 0
		for _, digest := range digests {
			for _, cipher := range ciphers {
				name := fmt.Sprintf("%v: %v with %v", legacy, cipher, digest)
				self := selfSigned(deviceKey())
				a := w.read(t, w.post("/scep", w.messageIn(wish{signer: self}, digest, cipher)), deviceKey(), self)
				if !okDigest[digest] || !okCipher[cipher] {
					wantDigest := digest
					if !okDigest[digest] {
						wantDigest = crypto.SHA256
					}
					if a.status != "2" || a.failInfo != "0" || a.digest != wantDigest {
						t.Errorf("%s: status %s, failInfo %s, %v", name, a.status, a.failInfo, a.digest)
					}
					continue
				}
				issued++
				if a.status != "0" || a.digest != digest || a.cipher != cipher {
					t.Errorf("%s: status %s (%s), answered %v with %v", name, a.status, a.text, a.cipher, a.digest)
				}
			}
		}
		if n := len(w.gateway.allEnrolled()); n != issued {
			t.Errorf("%v: the gateway was asked %d times, for %d pairs", legacy, n, issued)
		}
	}
}

// Algorithms that this package cannot name, each where a client names it.
func TestUnknownAlgorithms(t *testing.T) {
	w := newWorld(t, worldOptions{config: Config{Legacy: []Legacy{LegacyDES, LegacyTripleDES, LegacySHA1}}})
	replace := func(message []byte, old, with asn1.ObjectIdentifier) []byte {
		o, n := must(asn1.Marshal(old)), must(asn1.Marshal(with))
		if len(o) != len(n) || !bytes.Contains(message, o) {
			t.Fatalf("%v for %v", with, old)
		}
		return bytes.ReplaceAll(message, o, n)
	}
	sha256, sha3 := asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}, asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 8}
	a := w.read(t, w.post("/scep", replace(w.message(wish{plainRSA: true}), sha256, sha3)), deviceKey(), nil)
	if a.status != "2" || a.failInfo != "0" || a.digest != crypto.SHA256 || !strings.Contains(a.text, sha3.String()) {
		t.Errorf("digest: %+v", a)
	}
	aes, gcm := asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 2}, asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 6}
	a = w.ask(t, wish{envelope: func(e []byte) []byte { return replace(e, aes, gcm) }})
	if a.status != "2" || a.failInfo != "0" || !strings.Contains(a.text, gcm.String()) {
		t.Errorf("cipher: %+v", a)
	}
	// PSS, whose parameters say the rest.
	rsaOID, pss := asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}, asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 10}
	a = w.read(t, w.post("/scep", replaceLast(w.message(wish{}), must(asn1.Marshal(rsaOID)), must(asn1.Marshal(pss)))), deviceKey(), nil)
	if a.status != "2" || a.failInfo != "0" {
		t.Errorf("signature: %+v", a)
	}
	if len(w.gateway.allEnrolled()) != 0 {
		t.Error("the gateway was asked")
	}
}

func replaceLast(message, old, with []byte) []byte {
	i := bytes.LastIndex(message, old)
	return append(append(bytes.Clone(message[:i]), with...), message[i+len(old):]...)
}

// The request inside is judged by the same list.
func TestLegacyRequest(t *testing.T) {
	for _, legacy := range [][]Legacy{nil, {LegacySHA1}} {
		w := newWorld(t, worldOptions{config: Config{Legacy: legacy}})
		a := w.ask(t, wish{csr: must(sha1CSR()), challenge: "-"})
		if want := legacy != nil; (len(w.gateway.allEnrolled()) == 1) != want {
			t.Errorf("%v: a request signed with SHA-1: %+v", legacy, a)
		}
	}
}
