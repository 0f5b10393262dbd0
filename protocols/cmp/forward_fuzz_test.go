package cmp

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"math/big"
	"testing"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// FuzzForwarded: whatever an authority answers, as a whole or behind a header that is right, what is found fit to be given back
// is about the message, has no certificate but one for its key, and is found again in the record.
func FuzzForwarded(f *testing.F) {
	w := newWorld(f, worldOptions{})
	up := newCentral(w)
	up.mac = w.macClient("ref-2") // a secret that is not the device's: nobody here verifies it
	key := newP256()
	mac, signs := w.macClient("ref-1"), w.vendorClient("device-1")
	certified := func() cmpmsg.Body { return up.certified(key.Public()) }
	is := func(b cmpmsg.Body) func() cmpmsg.Body { return func() cmpmsg.Body { return b } }
	poll := &cmpmsg.PollReq{ReqIDs: []*big.Int{big.NewInt(0)}}
	wait := is(statusOnly(cmpmsg.StatusWaiting))

	var headers [][]byte // of the answers to each message
	for _, step := range []struct {
		by     *client
		send   cmpmsg.Body
		answer func() cmpmsg.Body
	}{
		{mac, crmf{kind: cmpmsg.TypeIR, key: key, subject: "device-1"}.body(f), wait},
		{mac, poll, is(&cmpmsg.PollRep{Responses: []cmpmsg.PollResponse{{ReqID: big.NewInt(0), CheckAfter: 5, Reason: []string{"why"}}}})},
		{mac, poll, certified},
		{mac, confirmation(random(32), 0), is(errorMsg(cmpmsg.BadRecipientNonce))},
		{mac, &cmpmsg.CertConf{}, is(errorMsg(cmpmsg.BadTime))},
		{mac, errorMsg(0), is(&cmpmsg.PKIConf{})},
		{w.macClient("ref-1"), &cmpmsg.PKCS10{CSR: csr(f, key, "device-1")}, is(&cmpmsg.CertRepMessage{Kind: cmpmsg.TypeCP, Responses: []cmpmsg.CertResponse{{ReqID: big.NewInt(-1), Status: cmpmsg.PKIStatusInfo{Status: cmpmsg.StatusWaiting}}}})},
		{signs, rr(f, signs.cert, reasonCode(1)), is(&cmpmsg.RevRep{
			Statuses: []cmpmsg.PKIStatusInfo{{Status: cmpmsg.StatusAccepted}},
			CertIDs:  []cmpmsg.CertID{{Issuer: cmpmsg.GeneralDirectoryName(signs.cert.RawIssuer), Serial: signs.cert.SerialNumber}},
		})},
	} {
		up.body = step.answer()
		m, err := cmpmsg.Parse(w.post(step.by.message(step.send)))
		if err != nil || w.lastJudged().err != nil {
			f.Fatalf("%s: %v, %v", step.send.Type(), err, w.lastJudged().err)
		}
		step.by.peer = m.Header.SenderNonce
		headers = append(headers, m.RawHeader)
		f.Add(uint8(len(headers)-1), false, m.RawBody)
		f.Add(uint8(len(headers)-1), true, element(0x30, m.RawHeader, m.RawBody))
	}
	cases := w.gateway.judged
	for _, body := range []cmpmsg.Body{certified(), statusOnly(cmpmsg.StatusRejection), &cmpmsg.ErrorMsg{Status: cmpmsg.PKIStatusInfo{Status: cmpmsg.StatusWaiting}}, generalSeed(f)} {
		m, err := cmpmsg.Parse(mac.message(body))
		if err != nil {
			f.Fatal(err)
		}
		for i := range headers {
			f.Add(uint8(i), false, m.RawBody)
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, whole bool, der []byte) {
		if len(der) > 60000 {
			return
		}
		i := int(which) % len(cases)
		if !whole {
			der = element(0x30, headers[i], der, element(0xa0, element(0x03, []byte{0, 1})))
		}
		c := cases[i]
		holdJudgement(t, c, der)
		// The keys of these devices are new in each process: as though this one had asked with the key that is answered.
		if m, err := cmpmsg.Parse(der); err == nil {
			if b, ok := m.Body.(*cmpmsg.CertRepMessage); ok && len(b.Responses) > 0 {
				cert, err := x509.ParseCertificate(b.Responses[0].Certificate)
				rec, broken := decodeRecord(c.exchange)
				if broken != nil {
					t.Fatal(broken)
				}
				if err == nil {
					sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
					rec.Forward.Key = sum[:]
					if c.exchange, err = rec.encode(); err != nil {
						t.Fatal(err)
					}
					holdJudgement(t, c, der)
				}
			}
		}
	})
}

// holdJudgement has an answer judged, and checks what must hold of whatever comes of it.
func holdJudgement(t *testing.T, c judgement, answer []byte) {
	t.Helper()
	out, err := c.by.Judge(c.exchange, answer)
	if err != nil {
		if out != nil && (out.Certificate == nil || out.Exchange != nil) {
			t.Fatalf("%+v, %v", out, err)
		}
		return
	}
	m, err := cmpmsg.Parse(answer)
	if err != nil || m.Protection == nil || m.Header.ProtectionAlg == nil {
		t.Fatalf("fit to be given back: %x", answer)
	}
	asked := c.by.(forwarding).x
	before, err := decodeRecord(c.exchange)
	if err != nil {
		t.Fatal(err)
	}
	after, err := decodeRecord(out.Exchange)
	if err != nil || !bytes.Equal(c.by.Answered(out.Exchange), answer) {
		t.Fatalf("not found again: %v", err)
	}
	_, polled := asked.message.Body.(*cmpmsg.PollReq)
	nonce := bytes.Equal(m.Header.RecipNonce, asked.message.Header.SenderNonce) || polled && bytes.Equal(m.Header.RecipNonce, before.ClientNonce)
	if !nonce || !bytes.Equal(m.Header.TransactionID, asked.transactionID) ||
		!bytes.Equal(after.Message, before.Message) || !bytes.Equal(after.Forward.Key, before.Forward.Key) {
		t.Fatalf("about another message: %+v", m.Header)
	}
	if cert := out.Certificate; cert != nil {
		if sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo); !bytes.Equal(sum[:], before.Forward.Key) || cert.IsCA || cert.NotAfter.Before(asked.Request.Received) || !after.Forward.Certified {
			t.Fatalf("the certificate %x", cert.Raw)
		}
	}
	switch out.State {
	case gateway.StateForwarded:
	case gateway.StateFailed:
		if out.Certificate != nil || out.Reason == "" {
			t.Fatalf("%+v", out)
		}
	case gateway.StateIssued, gateway.StateRejected:
		if !after.Forward.Certified {
			t.Fatalf("%s without a certificate", out.State)
		}
	case gateway.StateRevoked:
		if r := out.Revokes; r == nil || before.Body != cmpmsg.TypeRR || !bytes.Equal(r.Issuer, before.Forward.Issuer) || !bytes.Equal(r.Serial.Bytes(), before.Forward.Serial) {
			t.Fatalf("%+v", out.Revokes)
		}
	default:
		t.Fatalf("%+v", out)
	}
	if out.Note == "" {
		t.Fatal("the operator is told nothing")
	}
}
