package cmp

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	stdpkix "crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
	"github.com/muster-pki/muster/protocols/wire"
)

// Every refusal with its failInfo; nothing is issued. Header and protection: RFC 9810 sections 5.1.1, 5.1.3; body: sections 5.3.1
// to 5.3.6; proof of possession: section 5.2.8 and RFC 4211 section 4.1; certProfile: section 5.1.1.4.
func TestRefusals(t *testing.T) {
	key, other := newP256(), newP256()
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	ir := crmf{kind: cmpmsg.TypeIR, key: key, subject: "device-1"}
	with := func(change func(*crmf)) crmf { q := ir; change(&q); return q }
	popInput := func(sender []byte, mac func(spki []byte) *cmpmsg.PKMACValue, pub func(spki []byte) []byte) func(*crmf, []byte) *cmpmsg.POPOSigningKey {
		return func(_ *crmf, spki []byte) *cmpmsg.POPOSigningKey {
			s := &cmpmsg.POPOSigningKey{Sender: sender, PublicKey: spki}
			if mac != nil {
				s.KeyMAC = mac(spki)
			}
			if pub != nil {
				s.PublicKey = pub(spki)
			}
			s.RawInput = popInputDER(t, s)
			return s
		}
	}
	keyMAC := func(secret string) func([]byte) *cmpmsg.PKMACValue {
		return func(spki []byte) *cmpmsg.PKMACValue {
			mac, err := cmpmsg.NewPBM(crypto.SHA256, crypto.SHA256, 500, random(16))
			if err != nil {
				t.Fatal(err)
			}
			return &cmpmsg.PKMACValue{Algorithm: mac.Algorithm(), Value: mac.Sum([]byte(secret), spki)}
		}
	}
	header := func(f func(*cmpmsg.Header)) func(*client) {
		return func(c *client) { c.change = func(o *cmpmsg.Outgoing) { f(&o.Header) } }
	}
	otherName := cmpmsg.GeneralDirectoryName(cn("somebody else"))

	for _, tt := range []struct {
		name   string
		signed bool
		prep   func(*client)
		body   cmpmsg.Body
		send   func(c *client, der []byte) []byte // what is sent instead
		config Config
		want   cmpmsg.FailInfo // 0: accepted
		reject bool            // in ip, cp or kup
		text   string
	}{
		{name: "good MAC", body: ir.body(t)},
		{name: "good signature", signed: true, body: ir.body(t)},

		{name: "version 4", prep: func(c *client) { c.pvno = 4 }, body: ir.body(t), want: cmpmsg.UnsupportedVersion},
		{name: "version 1", prep: func(c *client) { c.pvno = 1 }, body: ir.body(t), want: cmpmsg.UnsupportedVersion},
		{name: "no senderNonce", prep: header(func(h *cmpmsg.Header) { h.SenderNonce = nil }), body: ir.body(t), want: cmpmsg.BadSenderNonce},
		{name: "short senderNonce", prep: header(func(h *cmpmsg.Header) { h.SenderNonce = random(15) }), body: ir.body(t), want: cmpmsg.BadSenderNonce},
		{name: "huge senderNonce", prep: header(func(h *cmpmsg.Header) { h.SenderNonce = random(129) }), body: ir.body(t), want: cmpmsg.BadSenderNonce},
		{name: "recipNonce in a first message", prep: func(c *client) { c.peer = random(16) }, body: ir.body(t), want: cmpmsg.BadRecipientNonce},
		{name: "recipNonce in a p10cr", prep: func(c *client) { c.peer = random(16) }, body: &cmpmsg.PKCS10{CSR: csr(t, key, "device-1")}, want: cmpmsg.BadRecipientNonce},
		{name: "long transactionID", prep: func(c *client) { c.txid = random(129) }, body: ir.body(t), want: cmpmsg.BadDataFormat},
		{name: "empty transactionID", prep: func(c *client) { c.txid = []byte{} }, body: ir.body(t), want: cmpmsg.BadDataFormat},
		{name: "longest transactionID", prep: func(c *client) { c.txid = random(128) }, body: ir.body(t)},
		{name: "no transactionID", prep: func(c *client) { c.txid = nil }, body: ir.body(t)},
		{name: "late", prep: header(func(h *cmpmsg.Header) { h.MessageTime = testTime.Add(-301 * time.Second) }), body: ir.body(t), want: cmpmsg.BadTime},
		{name: "early", prep: header(func(h *cmpmsg.Header) { h.MessageTime = testTime.Add(301 * time.Second) }), body: ir.body(t), want: cmpmsg.BadTime},
		{name: "just in time", prep: header(func(h *cmpmsg.Header) { h.MessageTime = testTime.Add(-300 * time.Second) }), body: ir.body(t)},
		{name: "no time", prep: header(func(h *cmpmsg.Header) { h.MessageTime = time.Time{} }), body: ir.body(t), want: cmpmsg.BadTime, text: "no messageTime"},
		{name: "no time, clock-skew any", config: Config{ClockSkew: Skew{Any: true}}, prep: header(func(h *cmpmsg.Header) { h.MessageTime = time.Time{} }), body: ir.body(t)},
		{name: "long ago, clock-skew any", config: Config{ClockSkew: Skew{Any: true}}, prep: header(func(h *cmpmsg.Header) { h.MessageTime = time.Unix(0, 0) }), body: ir.body(t)},

		{name: "unprotected", prep: header(func(h *cmpmsg.Header) { h.ProtectionAlg = nil }), body: ir.body(t), want: cmpmsg.BadMessageCheck, text: "not protected"},
		{name: "protection without its algorithm", body: ir.body(t), send: func(c *client, der []byte) []byte {
			return splice(t, c, func(m *cmpmsg.Message) []byte {
				c.change = func(o *cmpmsg.Outgoing) { o.Header.ProtectionAlg = nil }
				bare, _ := cmpmsg.Parse(c.message(ir.body(t)))
				return element(0x30, bare.RawHeader, bare.RawBody, element(0xa0, element(0x03, append([]byte{0}, m.Protection...))))
			}, der)
		}, want: cmpmsg.BadMessageCheck, text: "come together"},
		{name: "algorithm without protection", body: ir.body(t), send: func(c *client, der []byte) []byte {
			return splice(t, c, func(m *cmpmsg.Message) []byte { return element(0x30, m.RawHeader, m.RawBody) }, der)
		}, want: cmpmsg.BadMessageCheck, text: "come together"},
		{name: "wrong secret", prep: func(c *client) { c.secret = []byte("wrong") }, body: ir.body(t), want: cmpmsg.BadMessageCheck},
		{name: "unknown reference", prep: func(c *client) { c.reference = []byte("nobody") }, body: ir.body(t), want: cmpmsg.BadMessageCheck},
		{name: "no reference", prep: func(c *client) { c.reference = nil }, body: ir.body(t), want: cmpmsg.BadMessageCheck},
		{name: "the dummy's secret", prep: func(c *client) { c.reference, c.secret = []byte("nobody"), noSuchSecret[:] }, body: ir.body(t), want: cmpmsg.BadMessageCheck},
		{name: "tampered body, MAC", body: ir.body(t), send: tamper, want: cmpmsg.BadMessageCheck},
		{name: "tampered body, signature", signed: true, body: ir.body(t), send: tamper, want: cmpmsg.BadMessageCheck},
		{name: "HMAC without derivation", prep: header(func(h *cmpmsg.Header) {
			h.ProtectionAlg = &cmpmsg.AlgorithmIdentifier{OID: asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 9}}
		}), body: ir.body(t), want: cmpmsg.BadAlg},
		{name: "SHA-1 derives the key", prep: header(func(h *cmpmsg.Header) { h.ProtectionAlg = pbm("1.3.14.3.2.26", 500) }), body: ir.body(t), want: cmpmsg.BadAlg},
		{name: "too many iterations", prep: header(func(h *cmpmsg.Header) { h.ProtectionAlg = pbm("2.16.840.1.101.3.4.2.1", 100_001) }), body: ir.body(t), want: cmpmsg.BadAlg},
		{name: "SHA-1 signature", signed: true, prep: header(func(h *cmpmsg.Header) {
			h.ProtectionAlg = &cmpmsg.AlgorithmIdentifier{OID: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 1}}
		}), body: ir.body(t), want: cmpmsg.BadAlg},
		{name: "SHA-1 signature, legacy: it does not verify", signed: true, config: Config{Legacy: []Legacy{LegacySHA1}}, prep: header(func(h *cmpmsg.Header) {
			h.ProtectionAlg = &cmpmsg.AlgorithmIdentifier{OID: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 1}}
		}), body: ir.body(t), want: cmpmsg.BadMessageCheck},
		{name: "another sender's name", signed: true, prep: func(c *client) { c.sender = cn("somebody else") }, body: ir.body(t), want: cmpmsg.BadMessageCheck},
		{name: "another senderKID", signed: true, prep: header(func(h *cmpmsg.Header) { h.SenderKID = []byte("another key") }), body: ir.body(t), want: cmpmsg.BadMessageCheck},
		{name: "no senderKID", signed: true, prep: header(func(h *cmpmsg.Header) { h.SenderKID = nil }), body: ir.body(t)},
		{name: "no extraCerts", signed: true, prep: func(c *client) { c.extra = nil }, body: ir.body(t), want: cmpmsg.BadMessageCheck},
		{name: "rubbish beside the signer", signed: true, prep: func(c *client) { c.extra = append([][]byte{{0x30, 0x00}}, c.extra...) }, body: ir.body(t)},
		{name: "the same name, another key, first", signed: true, prep: func(c *client) {
			twin := c.w.ca.issue(t, &x509.Certificate{Subject: stdpkix.Name{CommonName: "device-1"}}, other.Public())
			c.extra = append([][]byte{twin.Raw}, c.extra...)
		}, body: ir.body(t)},
		{name: "17 extraCerts", signed: true, prep: func(c *client) {
			for range 15 {
				c.extra = append(c.extra, c.extra[0])
			}
		}, body: ir.body(t), want: cmpmsg.BadDataFormat, text: "more than 16 extraCerts"},
		{name: "16 extraCerts", signed: true, prep: func(c *client) {
			for range 14 {
				c.extra = append(c.extra, c.extra[0])
			}
		}, body: ir.body(t)},
		{name: "key of 1024 bits", signed: true, prep: func(c *client) {
			cert := c.w.ca.issue(t, &x509.Certificate{Subject: stdpkix.Name{CommonName: "device-1"}}, weak.Public())
			c.cert, c.extra, c.key = cert, [][]byte{cert.Raw}, weak
		}, body: ir.body(t), want: cmpmsg.BadAlg},

		{name: "rubbish", body: ir.body(t), send: func(*client, []byte) []byte { return []byte("hello") }, want: cmpmsg.BadDataFormat},
		{name: "trailing byte", body: ir.body(t), send: func(_ *client, der []byte) []byte { return append(bytes.Clone(der), 0) }, want: cmpmsg.BadDataFormat},
		{name: "body that does not parse", body: ir.body(t), send: badBody, want: cmpmsg.BadDataFormat, text: "at byte"},
		{name: "two requests", body: with(func(q *crmf) { q.count = 2 }).body(t), want: cmpmsg.BadRequest, text: "ask for one"},
		{name: "certReqId 1", body: with(func(q *crmf) { q.reqID = 1 }).body(t), want: cmpmsg.BadRequest},
		{name: "certReqId -1", body: with(func(q *crmf) { q.reqID = -1 }).body(t), want: cmpmsg.BadRequest},
		{name: "kur, two requests", signed: true, body: with(func(q *crmf) { q.kind, q.count = cmpmsg.TypeKUR, 2 }).body(t), want: cmpmsg.BadRequest, text: "ask for one"},
		{name: "kur, certReqId 1", signed: true, body: with(func(q *crmf) { q.kind, q.reqID = cmpmsg.TypeKUR, 1 }).body(t), want: cmpmsg.BadRequest},
		{name: "p10cr, two profiles", prep: func(c *client) { c.info = profiles("a", "b") }, body: &cmpmsg.PKCS10{CSR: csr(t, key, "device-1")}, want: cmpmsg.BadRequest, text: "more profiles"},
		{name: "two profiles", prep: func(c *client) { c.info = profiles("a", "b") }, body: ir.body(t), want: cmpmsg.BadRequest},
		{name: "rr with a MAC", body: &cmpmsg.RevReq{Details: []cmpmsg.RevDetails{{Certificate: cmpmsg.CertTemplate{SerialNumber: big.NewInt(1)}}}}, want: cmpmsg.WrongIntegrity, text: "signed"},
		{name: "genp", body: &cmpmsg.General{Kind: cmpmsg.TypeGenP}, want: cmpmsg.BadRequest, text: "does not answer genp (body type 22)"},
		{name: "pkiConf", body: &cmpmsg.PKIConf{}, want: cmpmsg.BadRequest, text: "send certConf"},
		{name: "krr", body: with(func(q *crmf) { q.kind = cmpmsg.TypeKRR }).body(t), want: cmpmsg.BadRequest},
		{name: "an answer", body: &cmpmsg.CertRepMessage{Kind: cmpmsg.TypeIP, Responses: []cmpmsg.CertResponse{{ReqID: big.NewInt(0)}}}, want: cmpmsg.BadRequest},
		{name: "certConf out of nothing", prep: func(c *client) { c.peer = random(16) }, body: confirmation(random(32), 0), want: cmpmsg.BadRequest},
		{name: "pollReq out of nothing", prep: func(c *client) { c.peer = random(16) }, body: &cmpmsg.PollReq{ReqIDs: []*big.Int{big.NewInt(0)}}, want: cmpmsg.BadRequest},
		{name: "kur with a MAC", body: with(func(q *crmf) { q.kind = cmpmsg.TypeKUR }).body(t), want: cmpmsg.WrongIntegrity},

		{name: "a certificate in another format (RFC 9810 section 5.2.1)", body: with(func(q *crmf) {
			q.controls = []cmpmsg.AttributeTypeAndValue{{Type: cmpmsg.OIDAltCertTemplate, Value: element(0x30, []byte{6, 1, 42}, []byte{5, 0})}}
		}).body(t), want: cmpmsg.BadCertTemplate, reject: true, text: "altCertTemplate"},
		{name: "POP by another key", body: with(func(q *crmf) { q.popKey = other }).body(t), want: cmpmsg.BadPOP, reject: true},
		{name: "no POP", body: with(func(q *crmf) { q.change = func(m *cmpmsg.CertReqMsg) { m.POP = nil } }).body(t), want: cmpmsg.BadPOP, reject: true},
		{name: "raVerified", body: with(func(q *crmf) {
			q.change = func(m *cmpmsg.CertReqMsg) { m.POP = &cmpmsg.ProofOfPossession{Kind: cmpmsg.POPRAVerified} }
		}).body(t), want: cmpmsg.NotAuthorized, reject: true},
		{name: "keyEncipherment", body: with(func(q *crmf) {
			q.change = func(m *cmpmsg.CertReqMsg) {
				m.POP = &cmpmsg.ProofOfPossession{Kind: cmpmsg.POPKeyEncipherment, PrivKey: &cmpmsg.POPOPrivKey{Method: 1}}
			}
		}).body(t), want: cmpmsg.BadPOP, reject: true, text: "version 3 of the protocol only"},
		{name: "POP over another subject", body: with(func(q *crmf) {
			q.change = func(m *cmpmsg.CertReqMsg) { m.Template.Subject = cn("victim") }
		}).body(t), want: cmpmsg.BadPOP, reject: true},
		{name: "no subject and no poposkInput", body: with(func(q *crmf) { q.subject = "" }).body(t)}, // as openssl makes it
		{name: "no subject, publicKeyMAC", body: with(func(q *crmf) {
			q.subject, q.input = "", popInput(nil, keyMAC("correct horse battery staple"), nil)
		}).body(t)},
		{name: "publicKeyMAC of another secret", body: with(func(q *crmf) { q.subject, q.input = "", popInput(nil, keyMAC("wrong"), nil) }).body(t), want: cmpmsg.BadPOP, reject: true},
		{name: "publicKeyMAC in a signed message", signed: true, body: with(func(q *crmf) {
			q.subject, q.input = "", popInput(nil, keyMAC("correct horse battery staple"), nil)
		}).body(t), want: cmpmsg.BadPOP, reject: true},
		{name: "publicKeyMAC of no secret in a signed message", signed: true, body: with(func(q *crmf) { q.subject, q.input = "", popInput(nil, keyMAC(""), nil) }).body(t), want: cmpmsg.BadPOP, reject: true},
		{name: "poposkInput sender", signed: true, body: with(func(q *crmf) {
			q.subject, q.input = "", popInput(cmpmsg.GeneralDirectoryName(cn("device-1")), nil, nil)
		}).body(t)},
		{name: "poposkInput of another sender", signed: true, body: with(func(q *crmf) { q.subject, q.input = "", popInput(otherName, nil, nil) }).body(t), want: cmpmsg.BadPOP, reject: true},
		{name: "poposkInput sender with a MAC", body: with(func(q *crmf) {
			q.subject, q.input = "", popInput(cmpmsg.GeneralDirectoryName(nullDN[:]), nil, nil)
		}).body(t), want: cmpmsg.BadPOP, reject: true},
		{name: "poposkInput with another key", signed: true, body: with(func(q *crmf) {
			q.subject, q.input = "", popInput(cmpmsg.GeneralDirectoryName(cn("device-1")), nil, func([]byte) []byte { return spkiOf(t, other) })
		}).body(t), want: cmpmsg.BadPOP, reject: true},
		{name: "poposkInput beside subject and key", signed: true, body: with(func(q *crmf) {
			q.input = popInput(cmpmsg.GeneralDirectoryName(cn("device-1")), nil, nil)
		}).body(t)},
		{name: "poposkInput, and the CertRequest is signed", signed: true, body: with(func(q *crmf) {
			q.input = popInput(cmpmsg.GeneralDirectoryName(cn("device-1")), nil, nil)
			q.change = func(m *cmpmsg.CertReqMsg) {
				request, err := m.Request()
				if err == nil {
					_, m.POP.Signing.Signature, err = pkix.Sign(key, request)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
		}).body(t), want: cmpmsg.BadPOP, reject: true},
		{name: "publicKeyMAC by SHA-1", body: with(func(q *crmf) {
			q.subject, q.input = "", popInput(nil, func([]byte) *cmpmsg.PKMACValue {
				old := pbm("1.3.14.3.2.26", 500)
				mac, err := cmpmsg.ParseMAC(old, cmpmsg.MACPolicy{AllowSHA1: true})
				if err != nil {
					t.Fatal(err)
				}
				return &cmpmsg.PKMACValue{Algorithm: mac.Again(random(16)).Algorithm(), Value: []byte{1}}
			}, nil)
		}).body(t), want: cmpmsg.BadAlg, reject: true, text: "publicKeyMAC"},
		{name: "no public key", body: with(func(q *crmf) { q.noKey = true }).body(t), want: cmpmsg.BadPOP, reject: true, text: "leave the proof out"},
		{name: "weak key", body: with(func(q *crmf) { q.key = weak }).body(t), want: cmpmsg.BadCertTemplate, reject: true},
		{name: "p10cr signed by another key", body: &cmpmsg.PKCS10{CSR: flip(csr(t, key, "device-1"))}, want: cmpmsg.BadPOP, reject: true},
		{name: "p10cr that does not parse", body: &cmpmsg.PKCS10{CSR: []byte{0x30, 0x00}}, want: cmpmsg.BadDataFormat, reject: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, worldOptions{config: tt.config})
			c := w.macClient("ref-1")
			if tt.signed {
				c = w.vendorClient("device-1")
			}
			if tt.prep != nil {
				tt.prep(c)
			}
			der := c.message(tt.body)
			if tt.send != nil {
				der = tt.send(c, der)
			}
			m := c.send(der)
			fail, text, rejection := failure(m)
			if fail != tt.want || rejection != (tt.reject || tt.want == 0) || !strings.Contains(text, tt.text) {
				t.Fatalf("failInfo %b, want %b; in the request's answer %v; %q", fail, tt.want, rejection, text)
			}
			if tt.want == 0 {
				if w.gateway.issued != 1 {
					t.Errorf("%d issued", w.gateway.issued)
				}
				return
			}
			if w.gateway.issued != 0 || len(w.gateway.enrolled) != 0 || len(w.gateway.rejected) != 1 {
				t.Errorf("%d issued, %d asked for, %d noted", w.gateway.issued, len(w.gateway.enrolled), len(w.gateway.rejected))
			}
			if !strings.HasSuffix(text, "(reference "+testReference+")") || len(text) > wire.MaxDetail+100 {
				t.Errorf("%q", text)
			}
			// Whoever has shown the secret gets a MAC; whoever has not, a signature.
			shown := rejection || fail&(cmpmsg.BadPOP|cmpmsg.NotAuthorized|cmpmsg.BadCertTemplate|cmpmsg.BadRequest|cmpmsg.BadTime|cmpmsg.WrongIntegrity) != 0
			if fail != cmpmsg.BadDataFormat && m.Header.ProtectionAlg.IsMAC() != (shown && !tt.signed) {
				t.Errorf("protected by a MAC: %v", m.Header.ProtectionAlg.IsMAC())
			}
		})
	}
}

// RFC 9810 section 7: what is above version 3 is refused under 3, what is below 2 under 2.
func TestVersionOfRefusal(t *testing.T) {
	w := newWorld(t, worldOptions{})
	for sent, want := range map[int]int{-1: 2, 0: 2, 1: 2, 4: 3, 1000: 3} {
		c := w.macClient("ref-1")
		c.pvno = sent
		if m := c.ask(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "x"}.body(t)); m.Header.PVNO != want {
			t.Errorf("%d: %d, want %d", sent, m.Header.PVNO, want)
		}
	}
}

// kur: what is no proof for an update (RFC 9810 section 5.3.5).
func TestUpdateRefusals(t *testing.T) {
	w := newWorld(t, worldOptions{})
	c := w.vendorClient("device-1")
	other := w.ca.issue(t, &x509.Certificate{Subject: stdpkix.Name{CommonName: "device-2"}}, newP256().Public())
	for name, id := range map[string]cmpmsg.CertID{
		"another serial": {Issuer: cmpmsg.GeneralDirectoryName(c.cert.RawIssuer), Serial: other.SerialNumber},
		"another issuer": {Issuer: cmpmsg.GeneralDirectoryName(other.RawIssuer), Serial: c.cert.SerialNumber},
	} {
		der, err := id.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		q := crmf{kind: cmpmsg.TypeKUR, key: newP256(), subject: "device-1", controls: []cmpmsg.AttributeTypeAndValue{{Type: cmpmsg.OIDOldCertID, Value: der}}}
		m := c.ask(q.body(t))
		if fail, text, _ := failure(m); fail != cmpmsg.BadCertID || response(t, m, cmpmsg.TypeKUP).ReqID.Sign() != 0 {
			t.Errorf("%s: %b, %s", name, fail, text)
		}
		c.peer, c.txid = nil, random(16)
	}
	q := crmf{kind: cmpmsg.TypeKUR, key: newP256(), subject: "device-1", controls: []cmpmsg.AttributeTypeAndValue{{Type: cmpmsg.OIDOldCertID, Value: []byte{5, 0}}}}
	if fail, _, _ := failure(c.ask(q.body(t))); fail != cmpmsg.BadDataFormat {
		t.Errorf("oldCertId that does not parse: %b", fail)
	}
	if len(w.gateway.enrolled) != 0 {
		t.Error("enrolled")
	}
}

// An unknown reference and a wrong MAC: the same answer but for what is random, after the same work (RFC 9810 section 5.1.3.1).
func TestStrangersLearnNothing(t *testing.T) {
	w := newWorld(t, worldOptions{})
	body := crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}.body(t)
	strip := func(m *cmpmsg.Message) []byte {
		h := m.RawHeader
		for _, random := range [][]byte{m.Header.SenderNonce, m.Header.RecipNonce, m.Header.TransactionID} {
			h = bytes.ReplaceAll(h, random, bytes.Repeat([]byte{0}, len(random)))
		}
		return append(append(bytes.Clone(h), m.RawBody...), bytes.Join(m.ExtraCerts, nil)...)
	}
	var answers [][]byte
	for _, c := range []*client{w.macClient("ref-1"), w.macClient("ref-1")} {
		if len(answers) == 0 {
			c.secret = []byte("wrong")
		} else {
			c.reference = []byte("nobody")
		}
		answers = append(answers, strip(c.ask(body)))
	}
	if !bytes.Equal(answers[0], answers[1]) {
		t.Errorf("wrong MAC:\n%x\nunknown reference:\n%x", answers[0], answers[1])
	}
	// That the work is the same shows in what is counted: one look-up, one MAC. An unknown reference must not be faster.
	if len(w.gateway.references) != 2 {
		t.Errorf("%d look-ups", len(w.gateway.references))
	}
	if w.gateway.rejected[0].Err.Error() == w.gateway.rejected[1].Err.Error() {
		t.Error("the operator cannot tell the two apart")
	}
}

// The time of an unknown reference is that of a wrong MAC (RFC 9810 section 5.1.3.1): with as many iterations as are allowed, either
// takes far longer than one that stops before the MAC. It is the processor's time of this thread, whatever else the machine does.
func TestUnknownReferenceTakesItsTime(t *testing.T) {
	w := newWorld(t, worldOptions{})
	body := crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}.body(t)
	kinds := []struct {
		reference  string
		iterations int
		der        []byte
		c          *client
		best       time.Duration
	}{{reference: "nobody", iterations: 100}, {reference: "ref-1", iterations: 50_000}, {reference: "nobody", iterations: 50_000}}
	for i := range kinds {
		k := &kinds[i]
		k.c, k.best = w.macClient("ref-1"), time.Hour
		k.c.reference, k.c.secret = []byte(k.reference), []byte("wrong")
		k.c.mac = func(salt []byte) (*cmpmsg.MAC, error) {
			return cmpmsg.NewPBM(crypto.SHA512, crypto.SHA512, k.iterations, salt)
		}
		k.der = k.c.message(body)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	used := func() time.Duration {
		var t unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
			w.t.Fatal(err)
		}
		return time.Duration(t.Nano())
	}
	for range 4 {
		for i := range kinds {
			k := &kinds[i]
			r := httptest.NewRequest("POST", "/cmp", bytes.NewReader(k.der))
			r.Header.Set("Content-Type", typePKIXCMP)
			rec := httptest.NewRecorder()
			start := used()
			w.handler.serve(rec, r, func(string) bool { return true })
			k.best = min(k.best, used()-start)
			if fail, text, _ := failure(k.c.accept(k.der, rec.Body.Bytes())); fail != cmpmsg.BadMessageCheck {
				t.Fatalf("%v %s", fail, text)
			}
		}
	}
	cheap, wrong, unknown := kinds[0].best, kinds[1].best, kinds[2].best
	if unknown < cheap*2 || unknown < wrong/2 || wrong < unknown/2 {
		t.Errorf("unknown reference %s, wrong MAC %s; with few iterations %s", unknown, wrong, cheap)
	}
}

// What the pipeline refuses is an answer to the request, under each reason's failInfo.
func TestPipelineRefusals(t *testing.T) {
	w := newWorld(t, worldOptions{})
	key := newP256()
	for _, reason := range gateway.Reasons {
		w.gateway.decide = func(*gateway.Request) (*gateway.Error, gateway.State) {
			return &gateway.Error{Reason: reason, Detail: "this is why\x00\n", Err: errStore}, ""
		}
		want, _ := failInfoOf(reason)
		m := w.macClient("ref-1").ask(&cmpmsg.PKCS10{CSR: csr(t, key, "device-1")})
		r := response(t, m, cmpmsg.TypeCP)
		if r.Status.Status != cmpmsg.StatusRejection || r.Status.FailInfo != want || r.ReqID.Int64() != -1 || r.Certificate != nil {
			t.Errorf("%s: %+v", reason, r)
		}
		if len(r.Status.Text) != 1 || !strings.HasPrefix(r.Status.Text[0], "this is why   (reference ") {
			t.Errorf("%s: %q", reason, r.Status.Text)
		}
		if !m.Header.ProtectionAlg.IsMAC() {
			t.Errorf("%s: not protected as the request was", reason)
		}
	}
	if len(w.gateway.rejected) != 0 {
		t.Error("what Enroll refused was reported once more")
	}
}

// The operator learns why a signer's certificate was not found.
func TestSignerNotFound(t *testing.T) {
	w := newWorld(t, worldOptions{})
	c := w.vendorClient("device-1")
	c.extra = [][]byte{{0x30, 0x00}, c.extra[1]}
	if fail, text, _ := failure(c.ask(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}.body(t))); fail != cmpmsg.BadMessageCheck || strings.Contains(text, "malformed") {
		t.Errorf("%b %s", fail, text)
	}
	if note := w.gateway.rejected[0].Err.Error(); !strings.Contains(note, "2 extraCerts, of which 1 parse: x509: malformed") {
		t.Error(note)
	}
}
