package cmp

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// proofBy makes a request whose possession is to be proven by POPOPrivKey.
func proofBy(t testing.TB, kind cmpmsg.BodyType, key crypto.Signer, proof cmpmsg.POPKind, p cmpmsg.POPOPrivKey) *cmpmsg.CertReqMessages {
	t.Helper()
	return crmf{kind: kind, key: key, subject: "device-1", change: func(m *cmpmsg.CertReqMsg) {
		m.POP = &cmpmsg.ProofOfPossession{Kind: proof, PrivKey: &p}
	}}.body(t)
}

const oaep = "\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x07" // id-RSAES-OAEP

var byEncrCert = cmpmsg.POPOPrivKey{Method: 1}

// openValue decrypts an EncryptedValue (RFC 4211 appendix B), nil when that fails.
func openValue(t testing.TB, der []byte, key *rsa.PrivateKey) []byte {
	t.Helper()
	type algorithm struct {
		OID    asn1.ObjectIdentifier
		Params asn1.RawValue `asn1:"optional"`
	}
	var v struct {
		Symm   algorithm      `asn1:"tag:1"`
		Key    asn1.BitString `asn1:"tag:2"`
		KeyAlg algorithm      `asn1:"tag:3"`
		Value  asn1.BitString
	}
	if rest, err := asn1.Unmarshal(der, &v); err != nil || len(rest) > 0 {
		t.Fatalf("EncryptedValue: %v", err)
	}
	//lint:ignore SA1019 EncryptedValue has nothing else
	content, err := rsa.DecryptPKCS1v15(nil, key, v.Key.Bytes)
	if err != nil {
		return nil
	}
	block, err := aes.NewCipher(content)
	if err != nil {
		return nil
	}
	out := bytes.Clone(v.Value.Bytes)
	cipher.NewCBCDecrypter(block, v.Symm.Params.Bytes).CryptBlocks(out, out)
	return out[:len(out)-int(out[len(out)-1])]
}

// The certificate comes encrypted for its key, is nowhere in the answer in the clear, and what proves possession is the hash of it in
// certConf (RFC 9810 section 5.2.8.3.2). The same message gets the same answer, byte for byte, before and after.
func TestEncrCert(t *testing.T) {
	for name, tt := range map[string]struct {
		key   crypto.Signer
		proof cmpmsg.POPKind
		pvno  int
		kind  cmpmsg.BodyType
		keyID []byte
		late  bool
	}{
		"RSA, version 2":            {key: newRSA(), proof: cmpmsg.POPKeyEncipherment, pvno: 2, kind: cmpmsg.TypeIR},
		"RSA, version 3":            {key: newRSA(), proof: cmpmsg.POPKeyEncipherment, pvno: 3, kind: cmpmsg.TypeCR},
		"RSA, version 3, key ID":    {key: newRSA(), proof: cmpmsg.POPKeyEncipherment, pvno: 3, kind: cmpmsg.TypeIR, keyID: []byte("key id")},
		"EC":                        {key: newP256(), proof: cmpmsg.POPKeyAgreement, pvno: 3, kind: cmpmsg.TypeIR},
		"P-384, polled, key ID":     {key: p384(), proof: cmpmsg.POPKeyAgreement, pvno: 3, kind: cmpmsg.TypeIR, keyID: []byte("key id"), late: true},
		"RSA, version 2, polled":    {key: newRSA(), proof: cmpmsg.POPKeyEncipherment, pvno: 2, kind: cmpmsg.TypeIR, late: true},
		"RSA, version 3, kur, asks": {key: newRSA(), proof: cmpmsg.POPKeyEncipherment, pvno: 3, kind: cmpmsg.TypeKUR},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, worldOptions{})
			w.gateway.keyID = tt.keyID
			if tt.late {
				w.gateway.decide = func(*gateway.Request) (*gateway.Error, gateway.State) { return nil, gateway.StateHeld }
			}
			c := w.macClient("ref-1")
			if tt.kind == cmpmsg.TypeKUR {
				c = w.vendorClient("device-1")
			}
			c.pvno = tt.pvno
			c.info = []cmpmsg.InfoTypeAndValue{implicitConfirm()}
			der := c.message(proofBy(t, tt.kind, tt.key, tt.proof, byEncrCert))
			first := w.post(der)
			m := c.accept(der, first)
			if tt.late {
				w.gateway.settle(w.gateway.tx(t), w.gateway.last(t))
				poll := c.message(&cmpmsg.PollReq{ReqIDs: []*big.Int{new(big.Int)}})
				first = w.post(poll)
				m = c.accept(poll, first)
			}
			issued := w.gateway.tx(t).Certificate.DER
			if bytes.Contains(first, issued[len(issued)-64:]) || bytes.Contains(first, issued[:64]) {
				t.Error("the certificate is in the clear")
			}
			if r := w.gateway.last(t); r.POP != gateway.POPConfirm || !r.Confirm || r.PublicKey == nil || r.KeyGen != nil {
				t.Errorf("%+v", r)
			}
			if _, granted := m.Header.Info(cmpmsg.OIDImplicitConfirm); granted || w.gateway.tx(t).State != gateway.StateUnconfirmed {
				t.Error("implicitConfirm is granted")
			}
			r := response(t, m, answerTo(tt.kind))
			if r.Certificate != nil || r.PrivateKey != nil || r.Status.Status > cmpmsg.StatusGrantedWithMods {
				t.Fatalf("%+v", r)
			}
			if tt.keyID != nil && !bytes.Contains(r.EncrCert, tt.keyID) {
				t.Error("the recipient is not named by the key identifier")
			}
			if _, isRSA := tt.key.(*rsa.PrivateKey); bytes.Contains(r.EncrCert, []byte(oaep)) != (isRSA && tt.pvno == 3) {
				t.Error("RSAES-OAEP is for RSA under version 3")
			}
			var got []byte
			if tt.pvno == 2 {
				got = openValue(t, r.EncrCert, tt.key.(*rsa.PrivateKey))
			} else {
				holder := &client{w: w}
				holder.cert, _ = x509.ParseCertificate(issued) // openssl finds the recipient by it
				got = holder.decrypt(r.EncrCert, tt.key)
				other := otherRSA(t)
				if tt.proof == cmpmsg.POPKeyAgreement {
					other = newP256()
				}
				if bytes.Equal((&client{w: w}).decrypt(r.EncrCert, other), issued) {
					t.Error("another key decrypts it")
				}
			}
			if !bytes.Equal(got, issued) {
				t.Fatalf("decrypted: %d bytes, want %d", len(got), len(issued))
			}
			w.now = testTime.Add(time.Hour)
			if !tt.late && (!bytes.Equal(w.post(der), first) || !bytes.Equal(w.again().post(der), first)) {
				t.Error("another answer to the same message")
			}
			w.now = testTime
			cert, err := x509.ParseCertificate(got)
			if err != nil {
				t.Fatal(err)
			}
			if m := c.ask(confirmation(certHash(cert), 0)); m.Body.Type() != cmpmsg.TypePKIConf || !w.gateway.confirms[0].Accepted {
				t.Fatalf("%+v", m.Body)
			}
			if !tt.late && !bytes.Equal(w.post(der), first) {
				t.Error("another answer once it is confirmed")
			}
		})
	}
}

func otherRSA(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// Who cannot decrypt the certificate cannot confirm it: a wrong hash revokes it.
func TestEncrCertNotDecrypted(t *testing.T) {
	w := newWorld(t, worldOptions{})
	c := w.macClient("ref-1")
	c.ask(proofBy(t, cmpmsg.TypeIR, newRSA(), cmpmsg.POPKeyEncipherment, byEncrCert))
	if fail, _, _ := failure(c.ask(confirmation(random(32), 0))); fail != cmpmsg.BadCertID || w.gateway.confirms[0].Accepted {
		t.Errorf("%v, %+v", fail, w.gateway.confirms)
	}
}

// A request that proves possession by a signature does not take over one that did not yet, and the other way round.
func TestEncrCertResume(t *testing.T) {
	w := newWorld(t, worldOptions{})
	w.macClient("ref-1").ask(proofBy(t, cmpmsg.TypeIR, newRSA(), cmpmsg.POPKeyEncipherment, byEncrCert))
	certificate(t, w.macClient("ref-1").ask(crmf{kind: cmpmsg.TypeIR, key: newRSA(), subject: "device-1"}.body(t)), cmpmsg.TypeIP)
	if w.gateway.issued != 2 {
		t.Errorf("%d issued", w.gateway.issued)
	}
	again := w.macClient("ref-1")
	r := response(t, again.ask(proofBy(t, cmpmsg.TypeIR, newRSA(), cmpmsg.POPKeyEncipherment, byEncrCert)), cmpmsg.TypeIP)
	if w.gateway.issued != 2 || r.EncrCert == nil || r.Certificate != nil {
		t.Errorf("%d issued, %+v", w.gateway.issued, r)
	}
}

func TestEncrCertRefused(t *testing.T) {
	encipher, agree := cmpmsg.POPKeyEncipherment, cmpmsg.POPKeyAgreement
	for name, tt := range map[string]struct {
		key    crypto.Signer
		proof  cmpmsg.POPKind
		how    cmpmsg.POPOPrivKey
		pvno   int
		config Config
		text   string
	}{
		"thisMessage":                 {key: newRSA(), proof: encipher, how: cmpmsg.POPOPrivKey{Value: []byte{0x80, 2, 0, 1}}, pvno: 2, text: "only encrCert"},
		"challengeResp":               {key: newRSA(), proof: encipher, how: cmpmsg.POPOPrivKey{Method: 1, Subsequent: 1}, pvno: 3, text: "only encrCert"},
		"dhMAC":                       {key: newP256(), proof: agree, how: cmpmsg.POPOPrivKey{Method: 2, Value: []byte{0x82, 2, 0, 1}}, pvno: 2, text: "only encrCert"},
		"agreeMAC":                    {key: newP256(), proof: agree, how: cmpmsg.POPOPrivKey{Method: 3, Value: []byte("\xa3\x09\x30\x03\x06\x01\x2a\x03\x02\x00\x01")}, pvno: 3, text: "only encrCert"},
		"encryptedKey":                {key: newRSA(), proof: encipher, how: cmpmsg.POPOPrivKey{Method: 4, Value: []byte{0xa4, 0}}, pvno: 3, text: "only encrCert"},
		"RSA, keyAgreement":           {key: newRSA(), proof: agree, how: byEncrCert, pvno: 3, text: "is keyEncipherment"},
		"EC, keyEncipherment":         {key: newP256(), proof: encipher, how: byEncrCert, pvno: 3, text: "is keyAgreement"},
		"EC, version 2":               {key: newP256(), proof: agree, how: byEncrCert, pvno: 2, text: "version 3"},
		"RSA, wide exponent":          {key: newWideRSA(), proof: encipher, how: byEncrCert, pvno: 3, text: "exponent above"},
		"RSA, wide, version 2":        {key: newWideRSA(), proof: encipher, how: byEncrCert, pvno: 2, text: "exponent above"},
		"Ed25519":                     {key: newEd25519(), proof: agree, how: byEncrCert, pvno: 3, text: "of this kind"},
		"unconfirmed certs are kept":  {key: newRSA(), proof: encipher, how: byEncrCert, pvno: 3, config: Config{Unconfirmed: UnconfirmedKeep}, text: "sign the request"},
		"the gateway does not permit": {key: newRSA(), proof: encipher, how: byEncrCert, pvno: 3, text: "no stage"},
	} {
		w := newWorld(t, worldOptions{config: tt.config})
		if strings.HasPrefix(name, "the gateway") {
			w.gateway.decide = func(r *gateway.Request) (*gateway.Error, gateway.State) {
				if r.POP != gateway.POPConfirm {
					t.Errorf("%s", r.POP)
				}
				return gateway.Errorf(gateway.BadPOP, "no stage", "no stage"), ""
			}
		}
		c := w.macClient("ref-1")
		c.pvno = tt.pvno
		fail, text, reject := failure(c.ask(proofBy(t, cmpmsg.TypeIR, tt.key, tt.proof, tt.how)))
		if fail != cmpmsg.BadPOP || !reject || !strings.Contains(text, tt.text) || w.gateway.issued != 0 {
			t.Errorf("%s: %v, %q, want %q; %d issued", name, fail, text, tt.text, w.gateway.issued)
		}
	}
}

// openssl proves possession so with -popo 2, under version 2.
func TestOpenSSLEncrCert(t *testing.T) {
	w := newWorld(t, worldOptions{})
	o := newOpenSSL(t, w)
	o.key("device.key", newRSA())
	o.must("-cmd", "ir", "-ref", "ref-1", "-secret", "pass:correct horse battery staple", "-newkey", "device.key", "-subject", "/CN=device-1", "-popo", "2",
		"-certout", "device.pem", "-chainout", "chain.pem")
	o.verified("device.pem", "chain.pem")
	if w.gateway.last(t).POP != gateway.POPConfirm || w.gateway.tx(t).State != gateway.StateIssued {
		t.Errorf("%s, %s", w.gateway.last(t).POP, w.gateway.tx(t).State)
	}
}
