package cmp

import (
	"bytes"
	"crypto/x509"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// Every body of RFC 9810 section 5.1.2 that is not served is answered with a protected error that names it (section 5.3.21), as
// the requester is protected: with a MAC for a MAC.
func TestUnsupportedBodies(t *testing.T) {
	w := newWorld(t, worldOptions{})
	rejected := cmpmsg.PKIStatusInfo{Status: cmpmsg.StatusRejection}
	answer := func(t cmpmsg.BodyType) cmpmsg.Body {
		return &cmpmsg.CertRepMessage{Kind: t, Responses: []cmpmsg.CertResponse{{ReqID: new(big.Int), Status: rejected}}}
	}
	id := cmpmsg.CertID{Issuer: cmpmsg.GeneralDirectoryName(cn("CA")), Serial: big.NewInt(1)}
	served := []cmpmsg.BodyType{
		cmpmsg.TypeIR, cmpmsg.TypeCR, cmpmsg.TypeP10CR, cmpmsg.TypeKUR, cmpmsg.TypeRR, cmpmsg.TypeGenM, cmpmsg.TypeError,
		cmpmsg.TypeCertConf, cmpmsg.TypePollReq, cmpmsg.TypeNested,
	}
	bodies := []cmpmsg.Body{
		answer(cmpmsg.TypeIP), answer(cmpmsg.TypeCP), answer(cmpmsg.TypeKUP), answer(cmpmsg.TypeCCP),
		&cmpmsg.Challenges{}, &cmpmsg.ChallengeResponses{Values: []*big.Int{big.NewInt(1)}},
		crmf{kind: cmpmsg.TypeKRR, key: newP256(), subject: "x"}.body(t), &cmpmsg.KeyRecRep{Status: rejected},
		&cmpmsg.RevRep{Statuses: []cmpmsg.PKIStatusInfo{rejected}}, crmf{kind: cmpmsg.TypeCCR, key: newP256(), subject: "x"}.body(t),
		&cmpmsg.CAKeyUpdate{NewWithNew: w.ca.root.Raw, NewWithOld: w.ca.root.Raw, OldWithNew: w.ca.root.Raw}, &cmpmsg.CertAnn{Certificate: w.ca.root.Raw},
		&cmpmsg.RevAnn{Status: cmpmsg.StatusRevocationWarning, Certificate: id, WillBeRevoked: testTime, BadSince: testTime}, &cmpmsg.CRLAnn{},
		&cmpmsg.PKIConf{}, &cmpmsg.General{Kind: cmpmsg.TypeGenP}, &cmpmsg.PollRep{Responses: []cmpmsg.PollResponse{{ReqID: new(big.Int), CheckAfter: 1}}},
	}
	seen := map[cmpmsg.BodyType]bool{}
	for _, s := range served {
		seen[s] = true
	}
	for _, body := range bodies {
		kind := body.Type()
		seen[kind] = true
		for _, c := range []*client{w.macClient("ref-1"), w.vendorClient("device-1")} {
			m := c.ask(body)
			fail, text, _ := failure(m)
			if _, ok := m.Body.(*cmpmsg.ErrorMsg); !ok || fail != cmpmsg.BadRequest || !strings.Contains(text, kind.String()) {
				t.Errorf("%s: %s, %v %s", kind, m.Body.Type(), fail, text)
			}
			if m.Header.ProtectionAlg.IsMAC() != (c.key == nil) {
				t.Errorf("%s: protected with %v", kind, m.Header.ProtectionAlg.OID)
			}
		}
	}
	for kind := cmpmsg.TypeIR; kind <= cmpmsg.TypePollRep; kind++ {
		if !seen[kind] {
			t.Errorf("no %s", kind)
		}
	}
	if w.gateway.issued != 0 {
		t.Errorf("%d issued", w.gateway.issued)
	}
}

// A body that does not parse is answered as its header asks: transactionID, nonces and protection are kept (RFC 9810 sections
// 5.1.1, 5.3.21).
func TestBodyThatDoesNotParse(t *testing.T) {
	w := newWorld(t, worldOptions{})
	c := w.macClient("ref-1")
	m := c.send(badBody(c, c.message(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}.body(t)))) // which looks at the header
	if fail, text, _ := failure(m); fail != cmpmsg.BadDataFormat || !strings.Contains(text, "at byte") || !m.Header.ProtectionAlg.IsMAC() {
		t.Errorf("%v %s, protected with %v", fail, text, m.Header.ProtectionAlg.OID)
	}
	// Who has not shown the secret is answered with a signature.
	c = w.macClient("ref-1")
	c.secret = []byte("wrong")
	m = c.send(badBody(c, c.message(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}.body(t))))
	if fail, _, _ := failure(m); fail != cmpmsg.BadMessageCheck || m.Header.ProtectionAlg.IsMAC() {
		t.Errorf("%v, protected with %v", fail, m.Header.ProtectionAlg.OID)
	}
}

// messageTime counts in what goes on with a transaction, too (RFC 9810 section 5.1.1).
func TestLateFollowUps(t *testing.T) {
	late := func(c *client) {
		c.change = func(o *cmpmsg.Outgoing) { o.Header.MessageTime = testTime.Add(-time.Hour) }
	}
	poll := &cmpmsg.PollReq{ReqIDs: []*big.Int{new(big.Int)}}
	abort := &cmpmsg.ErrorMsg{Status: cmpmsg.PKIStatusInfo{Status: cmpmsg.StatusRejection}}
	for name, body := range map[string]func(*x509.Certificate) cmpmsg.Body{
		"certConf": func(cert *x509.Certificate) cmpmsg.Body { return confirmation(certHash(cert), 0) },
		"pollReq":  func(*x509.Certificate) cmpmsg.Body { return poll },
		"error":    func(*x509.Certificate) cmpmsg.Body { return abort },
	} {
		w := newWorld(t, worldOptions{})
		c, cert := enrolled(t, w, w.macClient("ref-1"))
		before := w.gateway.tx(t).State
		late(c)
		if fail, text, _ := failure(c.ask(body(cert))); fail != cmpmsg.BadTime || w.gateway.tx(t).State != before {
			t.Errorf("%s: %v %s, %s", name, fail, text, w.gateway.tx(t).State)
		}
	}
	w := newWorld(t, worldOptions{})
	c := w.macClient("ref-1")
	late(c)
	if fail, text, _ := failure(c.ask(abort)); fail != cmpmsg.BadTime {
		t.Errorf("error without a transaction: %v %s", fail, text)
	}
	// Kept, and late.
	c, cert := enrolled(t, w, w.macClient("ref-1"))
	w.gateway.tx(t).State = "issued"
	late(c)
	if fail, text, _ := failure(c.ask(confirmation(certHash(cert), 0))); fail != cmpmsg.BadTime {
		t.Errorf("certConf of what was kept: %v %s", fail, text)
	}
}

// So is a header that does not parse, as far as it can be: clients drop an answer of another transaction, and the reason with it.
func TestHeaderThatDoesNotParse(t *testing.T) {
	w := newWorld(t, worldOptions{})
	for name, tt := range map[string]struct {
		id      []byte
		nonce   int
		id2, n2 bool // given back
	}{
		"offset in messageTime": {random(16), 16, true, true},
		"transactionID is long": {random(maxTransactionID + 1), 16, false, true},
		"senderNonce is long":   {random(16), maxNonce + 1, true, false},
	} {
		c := w.macClient("ref-1")
		nonce := random(tt.nonce)
		c.txid, c.change = tt.id, func(o *cmpmsg.Outgoing) { o.Header.SenderNonce = nonce }
		der := c.message(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}.body(t))
		at := bytes.Index(der, []byte(testTime.UTC().Format("20060102150405Z"))) // the first stands in the header
		der[at+14] = '+'
		m, err := cmpmsg.Parse(w.post(der))
		if err != nil {
			t.Fatal(err)
		}
		if fail, text, _ := failure(m); fail != cmpmsg.BadDataFormat || !strings.Contains(text, "messageTime") {
			t.Errorf("%s: %v %s", name, fail, text)
		}
		if bytes.Equal(m.Header.TransactionID, tt.id) != tt.id2 || bytes.Equal(m.Header.RecipNonce, nonce) != tt.n2 {
			t.Errorf("%s: transactionID %x, recipNonce %x", name, m.Header.TransactionID, m.Header.RecipNonce)
		}
	}
}
