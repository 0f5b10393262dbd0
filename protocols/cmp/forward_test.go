package cmp

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	stdpkix "crypto/x509/pkix"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// judgement is what an answer was found to mean.
type judgement struct {
	out      *gateway.Forwarded
	err      error
	by       gateway.Forwarding
	exchange []byte // the record that it was held against
}

func (g *fakeGateway) ForwardsTo(string, gateway.Operation) string {
	if g.upstream == nil {
		return ""
	}
	return "central"
}

// passOn is called with the lock held.
func (g *fakeGateway) passOn(r *gateway.Request) (*gateway.Result, error) {
	var t *gateway.Transaction
	for _, id := range g.order {
		if g.byID[id].WireID == r.WireID {
			t = g.byID[id]
		}
	}
	if t == nil {
		t = &gateway.Transaction{ID: r.ID, WireID: r.WireID, Protocol: gateway.CMP, Endpoint: r.Endpoint, Operation: r.Operation, Exchange: r.Exchange, State: gateway.StateForwarded}
		g.byID[t.ID], g.order = t, append(g.order, t.ID)
	}
	if answer := r.Forwarding.Answered(t.Exchange); answer != nil {
		return &gateway.Result{Kind: gateway.ResultAnswer, Transaction: t.ID, Answer: answer}, nil
	}
	answer := g.upstream(r.Raw)
	out, err := r.Forwarding.Judge(t.Exchange, answer)
	g.judged = append(g.judged, judgement{out, err, r.Forwarding, t.Exchange})
	if err != nil {
		return nil, &gateway.Error{Reason: gateway.Internal, Transaction: t.ID, Err: err}
	}
	t.State, t.Exchange = out.State, out.Exchange
	return &gateway.Result{Kind: gateway.ResultAnswer, Transaction: t.ID, Answer: answer}, nil
}

func (g *fakeGateway) Forward(_ context.Context, id string, r *gateway.Request) (*gateway.Result, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.byID[id] == nil {
		return nil, errors.New("no such transaction")
	}
	return g.passOn(r)
}

// central is the authority that messages are passed on to: it answers each with what it is told to.
type central struct {
	w     *world
	key   crypto.Signer
	cert  *x509.Certificate
	asked [][]byte
	body  cmpmsg.Body
	edit  func(*cmpmsg.Outgoing) // before the protection
	bend  func([]byte) []byte    // after it
	mac   *client                // protects by its MAC; nil: signs
}

func newCentral(w *world) *central {
	c := &central{w: w, key: newP256()}
	c.cert = w.ca.issue(w.t, &x509.Certificate{
		Subject: stdpkix.Name{CommonName: "Central RA"}, KeyUsage: x509.KeyUsageDigitalSignature, SubjectKeyId: []byte("central"),
	}, c.key.Public())
	w.gateway.upstream = c.answer
	return c
}

func (c *central) answer(sent []byte) []byte {
	t := c.w.t
	c.asked = append(c.asked, sent)
	m, err := cmpmsg.Parse(sent)
	if err != nil {
		t.Fatal(err)
	}
	alg, err := pkix.SignatureAlgorithm(c.key)
	if err != nil {
		t.Fatal(err)
	}
	out := &cmpmsg.Outgoing{Body: c.body, ExtraCerts: [][]byte{c.cert.Raw, c.w.ca.issuer.Raw}, Header: cmpmsg.Header{
		PVNO: 2, Sender: cmpmsg.GeneralDirectoryName(c.cert.RawSubject), Recipient: m.Header.Sender, MessageTime: c.w.now, SenderKID: c.cert.SubjectKeyId,
		TransactionID: m.Header.TransactionID, SenderNonce: random(16), RecipNonce: m.Header.SenderNonce, ProtectionAlg: &cmpmsg.AlgorithmIdentifier{Raw: alg},
	}}
	protect := func(part []byte) ([]byte, error) {
		_, sig, err := pkix.Sign(c.key, part)
		return sig, err
	}
	if c.mac != nil {
		mac, err := c.mac.mac(random(16))
		if err != nil {
			t.Fatal(err)
		}
		alg := mac.Algorithm()
		out.Header.ProtectionAlg, out.Header.SenderKID, out.ExtraCerts = &alg, c.mac.reference, nil
		protect = func(part []byte) ([]byte, error) { return mac.Sum(c.mac.secret, part), nil }
	}
	if c.edit != nil {
		if c.edit(out); out.Header.ProtectionAlg == nil {
			protect = nil
		}
	}
	der, err := out.Protect(protect)
	if err != nil {
		t.Fatal(err)
	}
	if c.bend != nil {
		der = c.bend(der)
	}
	return der
}

// certified is ip with a certificate for a key.
func (c *central) certified(key crypto.PublicKey) *cmpmsg.CertRepMessage {
	cert := c.w.ca.issue(c.w.t, &x509.Certificate{Subject: stdpkix.Name{CommonName: "device-1"}, KeyUsage: x509.KeyUsageDigitalSignature}, key)
	return &cmpmsg.CertRepMessage{Kind: cmpmsg.TypeIP, Responses: []cmpmsg.CertResponse{{ReqID: big.NewInt(0), Certificate: cert.Raw}}}
}

// status is ip without a certificate.
func statusOnly(s cmpmsg.Status) *cmpmsg.CertRepMessage {
	return &cmpmsg.CertRepMessage{Kind: cmpmsg.TypeIP, Responses: []cmpmsg.CertResponse{{ReqID: big.NewInt(0), Status: cmpmsg.PKIStatusInfo{Status: s}}}}
}

func errorMsg(fail cmpmsg.FailInfo) *cmpmsg.ErrorMsg {
	return &cmpmsg.ErrorMsg{Status: cmpmsg.PKIStatusInfo{Status: cmpmsg.StatusRejection, FailInfo: fail}}
}

// last is what the last answer was found to mean.
func (w *world) lastJudged() judgement {
	w.t.Helper()
	if len(w.gateway.judged) == 0 {
		w.t.Fatal("nothing was judged")
	}
	return w.gateway.judged[len(w.gateway.judged)-1]
}

// A message goes on byte for byte, and its answer comes back so; the same message gets the same answer without that anybody is
// asked (RFC 9483 section 5.2.1: an RA that does not change the protection).
func TestForward(t *testing.T) {
	w := newWorld(t, worldOptions{})
	up := newCentral(w)
	key := newP256()
	up.body = up.certified(key.Public())
	c := w.vendorClient("device-1")
	sent := c.message(crmf{kind: cmpmsg.TypeIR, key: key}.body(t)) // without a name: that is for the central authority to say
	first := w.post(sent)
	if len(up.asked) != 1 || !bytes.Equal(up.asked[0], sent) || bytes.Equal(first, sent) {
		t.Fatal("the message was not passed on as it came")
	}
	out := w.lastJudged().out
	if out.State != gateway.StateForwarded || out.Certificate == nil || len(out.Chain) != 1 || !out.Chain[0].Equal(w.ca.issuer) {
		t.Errorf("%+v", out)
	}
	if !bytes.Equal(w.again().post(sent), first) || len(up.asked) != 1 {
		t.Error("the same message was passed on again, or got another answer")
	}
	m, err := cmpmsg.Parse(first)
	if err != nil {
		t.Fatal(err)
	}

	// Only who began it goes on with it.
	stranger := w.vendorClient("device-1")
	stranger.txid, stranger.peer = c.txid, m.Header.SenderNonce
	for _, body := range []cmpmsg.Body{confirmation(random(32), 0), &cmpmsg.PollReq{ReqIDs: []*big.Int{big.NewInt(0)}}, errorMsg(0)} {
		if fail, _, _ := failure(stranger.ask(body)); fail != cmpmsg.NotAuthorized || len(up.asked) != 1 {
			t.Errorf("a stranger's %s: %b, passed on %d", body.Type(), fail, len(up.asked))
		}
	}
	mixed := w.macClient("ref-1")
	mixed.txid, mixed.peer = c.txid, m.Header.SenderNonce
	if fail, _, _ := failure(mixed.ask(confirmation(random(32), 0))); fail != cmpmsg.WrongIntegrity || len(up.asked) != 1 {
		t.Errorf("another protection: %b", fail)
	}

	up.body = &cmpmsg.PKIConf{}
	c.peer = m.Header.SenderNonce
	conf := c.message(confirmation(random(32), 0))
	ended := w.post(conf)
	if len(up.asked) != 2 || !bytes.Equal(up.asked[1], conf) || w.lastJudged().out.State != gateway.StateIssued {
		t.Errorf("%+v", w.lastJudged())
	}
	if !bytes.Equal(w.again().post(conf), ended) || !bytes.Equal(w.post(sent), first) || len(up.asked) != 2 {
		t.Error("a repetition was passed on")
	}
	if fail, _, _ := failure(c.ask(confirmation(random(32), 0))); fail != cmpmsg.CertConfirmed || len(up.asked) != 2 {
		t.Errorf("another certConf: %b", fail)
	}
	late := w.now
	w.now = late.Add(1e12)
	if !bytes.Equal(w.post(conf), ended) {
		t.Error("a repetition is judged by its time")
	}
}

// Each way in which what comes back is not fit for the device: it is told systemFailure, by a message of ours, and nothing of what
// came; the transaction stays open.
func TestForwardUnfit(t *testing.T) {
	key, other := newP256(), newP256()
	one := func(change func(*cmpmsg.CertResponse)) func(*central) {
		return func(c *central) { change(&c.body.(*cmpmsg.CertRepMessage).Responses[0]) }
	}
	header := func(change func(*cmpmsg.Header)) func(*central) {
		return func(c *central) { c.edit = func(o *cmpmsg.Outgoing) { change(&o.Header) } }
	}
	for name, tt := range map[string]struct {
		change func(*central)
		mac    bool // the device's message has one
		want   string
	}{
		"no message":            {func(c *central) { c.bend = func([]byte) []byte { return []byte("hello") } }, false, "does not parse"},
		"more than a message":   {func(c *central) { c.bend = func(b []byte) []byte { return append(b, 0) } }, false, "does not parse"},
		"too large":             {func(c *central) { c.bend = func(b []byte) []byte { return append(b, make([]byte, maxMaxBody)...) } }, false, "does not parse"},
		"a version of no time":  {header(func(h *cmpmsg.Header) { h.PVNO = 1 }), false, "version is 1"},
		"a version to come":     {header(func(h *cmpmsg.Header) { h.PVNO = 4 }), false, "version is 4"},
		"another transactionID": {header(func(h *cmpmsg.Header) { h.TransactionID = random(16) }), false, "transactionID"},
		"no transactionID":      {header(func(h *cmpmsg.Header) { h.TransactionID = nil }), false, "transactionID"},
		"another recipNonce":    {header(func(h *cmpmsg.Header) { h.RecipNonce = random(16) }), false, "recipNonce"},
		"no recipNonce":         {header(func(h *cmpmsg.Header) { h.RecipNonce = nil }), false, "recipNonce"},
		"a short senderNonce":   {header(func(h *cmpmsg.Header) { h.SenderNonce = random(15) }), false, "senderNonce"},
		"not protected":         {header(func(h *cmpmsg.Header) { h.ProtectionAlg = nil }), false, "not protected"},
		"a wrong signature": {func(c *central) {
			c.edit = func(o *cmpmsg.Outgoing) { o.Header.MessageTime = o.Header.MessageTime.Add(1e9); c.key = newP256() }
		}, false, "signature does not verify"},
		"signed by no name": {header(func(h *cmpmsg.Header) { h.Sender = []byte{0x82, 1, 'x'} }), false, "not a directoryName"},
		"a wrong MAC":       {func(c *central) { c.mac.secret = []byte("guessed") }, true, "MAC"},
		"cp for ir":         {func(c *central) { c.body.(*cmpmsg.CertRepMessage).Kind = cmpmsg.TypeCP }, false, "cp does not answer ir"},
		"pkiconf for ir":    {func(c *central) { c.body = &cmpmsg.PKIConf{} }, false, "pkiconf does not answer ir"},
		"rp for ir":         {func(c *central) { c.body = &cmpmsg.RevRep{Statuses: []cmpmsg.PKIStatusInfo{{}}} }, false, "rp does not answer ir"},
		"pollRep for ir":    {func(c *central) { c.body = &cmpmsg.PollRep{} }, false, "does not answer ir"},
		"no response":       {func(c *central) { c.body.(*cmpmsg.CertRepMessage).Responses = nil }, false, "the one request"},
		"two responses": {func(c *central) {
			b := c.body.(*cmpmsg.CertRepMessage)
			b.Responses = append(b.Responses, b.Responses[0])
		}, false, "the one request"},
		"another certReqId":        {one(func(r *cmpmsg.CertResponse) { r.ReqID = big.NewInt(-1) }), false, "certReqId"},
		"accepted and nothing":     {one(func(r *cmpmsg.CertResponse) { r.Certificate = nil }), false, "has none"},
		"rejected with all of it":  {one(func(r *cmpmsg.CertResponse) { r.Status.Status = cmpmsg.StatusRejection }), false, "does not grant it"},
		"waiting with all of it":   {one(func(r *cmpmsg.CertResponse) { r.Status.Status = cmpmsg.StatusWaiting }), false, "does not grant it"},
		"a status of another kind": {one(func(r *cmpmsg.CertResponse) { r.Status.Status = cmpmsg.StatusKeyUpdateWarning }), false, "status is 6"},
		"no certificate in it":     {one(func(r *cmpmsg.CertResponse) { r.Certificate = []byte{0x30, 0} }), false, "does not parse"},
		"a private key":            {one(func(r *cmpmsg.CertResponse) { r.PrivateKey = []byte{0xa0, 0} }), false, "private key"},
		"an encrypted certificate": {one(func(r *cmpmsg.CertResponse) { r.Certificate, r.EncrCert = nil, []byte{0xa0, 0} }), false, "encrypted certificate"},
		"another key":              {func(c *central) { c.body = c.certified(other.Public()) }, false, "another public key"},
		"an expired certificate":   {func(c *central) { c.body = expired(c, key.Public()) }, false, "expired"},
		"a CA's certificate":       {one(func(r *cmpmsg.CertResponse) { r.Certificate = caFor(t, key).Raw }), false, "is a CA's"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, worldOptions{})
			up := newCentral(w)
			up.body = up.certified(key.Public())
			c := w.vendorClient("device-1")
			if tt.mac {
				c = w.macClient("ref-1")
				up.mac = w.macClient("ref-1")
			}
			tt.change(up)
			sent := c.message(crmf{kind: cmpmsg.TypeIR, key: key, subject: "device-1"}.body(t))
			m := c.send(sent) // ours, by its protection
			if fail, _, _ := failure(m); fail != cmpmsg.SystemFailure {
				t.Errorf("failInfo %b", fail)
			}
			j := w.lastJudged()
			if j.err == nil || !strings.Contains(j.err.Error(), tt.want) {
				t.Errorf("%v, want %s", j.err, tt.want)
			}
			// What has to be revoked is told.
			if bad := strings.Contains(tt.want, "another public key") || strings.Contains(tt.want, "is a CA's"); bad != (j.out != nil && j.out.Certificate != nil) {
				t.Errorf("%+v", j.out)
			}
			if w.gateway.tx(t).State != gateway.StateForwarded {
				t.Errorf("the transaction is %s", w.gateway.tx(t).State)
			}
		})
	}
}

func expired(c *central, key crypto.PublicKey) *cmpmsg.CertRepMessage {
	b := c.certified(key)
	b.Responses[0].Certificate = c.w.ca.issue(c.w.t, &x509.Certificate{
		Subject: stdpkix.Name{CommonName: "device-1"}, NotBefore: testTime.Add(-2 * time.Hour), NotAfter: testTime.Add(-time.Hour),
	}, key).Raw
	return b
}

func caFor(t *testing.T, key crypto.Signer) *x509.Certificate {
	return signCertificate(t, &x509.Certificate{Subject: stdpkix.Name{CommonName: "CA"}, IsCA: true, BasicConstraintsValid: true}, nil, key.Public(), key)
}

// What an answer that is fit means (RFC 9810 sections 5.1.1, 5.3.18, 5.3.22).
func TestForwardMeans(t *testing.T) {
	key := newP256()
	type step struct {
		send cmpmsg.Body // nil: the ir
		body func(*central) cmpmsg.Body
		edit func(*cmpmsg.Outgoing)
		want gateway.State // "": it must not come back
	}
	is := func(b cmpmsg.Body) func(*central) cmpmsg.Body { return func(*central) cmpmsg.Body { return b } }
	granted := func(c *central) cmpmsg.Body { return c.certified(key.Public()) }
	poll := &cmpmsg.PollReq{ReqIDs: []*big.Int{big.NewInt(0)}}
	pollRep := func(id int64) *cmpmsg.PollRep {
		return &cmpmsg.PollRep{Responses: []cmpmsg.PollResponse{{ReqID: big.NewInt(id), CheckAfter: 5}}}
	}
	conf := confirmation(random(32), 0)
	rejects := &cmpmsg.CertConf{Statuses: []cmpmsg.CertStatus{{CertHash: random(32), ReqID: big.NewInt(0), Status: &cmpmsg.PKIStatusInfo{Status: cmpmsg.StatusRejection}}}}
	implicit := func(o *cmpmsg.Outgoing) { o.Header.GeneralInfo = []cmpmsg.InfoTypeAndValue{implicitConfirm()} }
	var first []byte // senderNonce of the ir
	firstNonce := func(o *cmpmsg.Outgoing) { o.Header.RecipNonce = first }
	for name, steps := range map[string][]step{
		"implicit confirmation":     {{body: granted, edit: implicit, want: gateway.StateIssued}},
		"signed by who is not told": {{body: granted, edit: func(o *cmpmsg.Outgoing) { o.ExtraCerts = nil }, want: gateway.StateForwarded}},
		"refused":                   {{body: is(statusOnly(cmpmsg.StatusRejection)), want: gateway.StateFailed}},
		"refused by an error":       {{body: is(errorMsg(cmpmsg.BadPOP)), want: gateway.StateFailed}},
		"an error that waits":       {{body: is(&cmpmsg.ErrorMsg{Status: cmpmsg.PKIStatusInfo{Status: cmpmsg.StatusWaiting}}), want: gateway.StateForwarded}},
		"waits, then granted": {
			{body: is(statusOnly(cmpmsg.StatusWaiting)), want: gateway.StateForwarded},
			{send: poll, body: is(pollRep(0)), want: gateway.StateForwarded},
			{send: poll, body: is(pollRep(-1)), want: gateway.StateForwarded},
			{send: poll, body: is(pollRep(3))},
			{send: poll, body: is(&cmpmsg.PollRep{})},
			{send: poll, body: is(errorMsg(cmpmsg.BadTime)), want: gateway.StateForwarded},
			{send: poll, body: is(&cmpmsg.PKIConf{})},
			{send: conf, body: is(&cmpmsg.PKIConf{})}, // of what?
			{send: poll, body: granted, want: gateway.StateForwarded},
			{send: conf, body: is(&cmpmsg.PKIConf{}), want: gateway.StateIssued},
		},
		"waits, then refused": {
			{body: is(statusOnly(cmpmsg.StatusWaiting)), want: gateway.StateForwarded},
			{send: poll, body: is(statusOnly(cmpmsg.StatusRejection)), want: gateway.StateFailed},
		},
		"waits, and is given up": {
			{body: is(statusOnly(cmpmsg.StatusWaiting)), want: gateway.StateForwarded},
			{send: errorMsg(0), body: is(&cmpmsg.PKIConf{}), want: gateway.StateFailed},
		},
		// The answer in the end of polling is that to the ir, and may have its nonce; nothing else may.
		"waits, then granted under the first nonce": {
			{body: is(statusOnly(cmpmsg.StatusWaiting)), want: gateway.StateForwarded},
			{send: poll, body: is(pollRep(0)), edit: firstNonce},
			{send: poll, body: granted, edit: firstNonce, want: gateway.StateForwarded},
			{send: conf, body: is(&cmpmsg.PKIConf{}), edit: firstNonce},
		},
		"rejected":           {{body: granted, want: gateway.StateForwarded}, {send: rejects, body: is(&cmpmsg.PKIConf{}), want: gateway.StateRejected}},
		"rejected: empty":    {{body: granted, want: gateway.StateForwarded}, {send: &cmpmsg.CertConf{}, body: is(&cmpmsg.PKIConf{}), want: gateway.StateRejected}},
		"given up":           {{body: granted, want: gateway.StateForwarded}, {send: errorMsg(0), body: is(&cmpmsg.PKIConf{}), want: gateway.StateRejected}},
		"a wrong hash":       {{body: granted, want: gateway.StateForwarded}, {send: conf, body: is(errorMsg(cmpmsg.BadCertID)), want: gateway.StateRejected}},
		"too late":           {{body: granted, want: gateway.StateForwarded}, {send: conf, body: is(errorMsg(cmpmsg.CertRevoked)), want: gateway.StateRejected}},
		"confirmed before":   {{body: granted, want: gateway.StateForwarded}, {send: conf, body: is(errorMsg(cmpmsg.CertConfirmed)), want: gateway.StateIssued}},
		"a nonce":            {{body: granted, want: gateway.StateForwarded}, {send: conf, body: is(errorMsg(cmpmsg.BadRecipientNonce)), want: gateway.StateForwarded}},
		"ip for certConf":    {{body: granted, want: gateway.StateForwarded}, {send: conf, body: granted}},
		"pollRep for an end": {{body: granted, want: gateway.StateForwarded}, {send: errorMsg(0), body: is(pollRep(0))}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, worldOptions{})
			up := newCentral(w)
			c := w.macClient("ref-1")
			for i, s := range steps {
				up.body, up.edit = s.body(up), s.edit
				if s.send == nil {
					s.send = crmf{kind: cmpmsg.TypeIR, key: key, subject: "device-1"}.body(t)
				}
				sent := c.message(s.send)
				if q, err := cmpmsg.Parse(sent); i == 0 && err == nil {
					first = q.Header.SenderNonce
				}
				m, err := cmpmsg.Parse(w.post(sent))
				if err != nil {
					t.Fatal(err)
				}
				c.peer = m.Header.SenderNonce
				j := w.lastJudged()
				if len(up.asked) != i+1 || (j.err == nil) != (s.want != "") || j.err == nil && j.out.State != s.want {
					t.Fatalf("step %d, passed on %d: %+v, %v; want %q", i+1, len(up.asked), j.out, j.err, s.want)
				}
			}
		})
	}
}

// A MAC under the secret that the device has shown is verified; one under another secret is the device's to verify.
func TestForwardMAC(t *testing.T) {
	w := newWorld(t, worldOptions{})
	up := newCentral(w)
	key := newP256()
	for _, reference := range []string{"ref-1", "ref-2"} {
		up.mac = w.macClient(reference)
		up.body = up.certified(key.Public())
		c := w.macClient("ref-1")
		w.post(c.message(crmf{kind: cmpmsg.TypeIR, key: key, subject: "device-1"}.body(t)))
		if j := w.lastJudged(); j.err != nil {
			t.Errorf("%s: %v", reference, j.err)
		}
	}
}

// p10cr is answered under -1, and by some under 0.
func TestForwardP10CR(t *testing.T) {
	w := newWorld(t, worldOptions{})
	up := newCentral(w)
	key := newP256()
	csr, err := x509.CreateCertificateRequest(nil, &x509.CertificateRequest{Subject: stdpkix.Name{CommonName: "device-1"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	for id, good := range map[int64]bool{-1: true, 0: true, 1: false} {
		b := up.certified(key.Public())
		b.Kind, b.Responses[0].ReqID = cmpmsg.TypeCP, big.NewInt(id)
		up.body = b
		w.post(w.macClient("ref-1").message(&cmpmsg.PKCS10{CSR: csr}))
		if j := w.lastJudged(); (j.err == nil) != good {
			t.Errorf("certReqId %d: %v", id, j.err)
		}
	}
}

// rr goes the same way; rp has to be about the certificate that was named.
func TestForwardRevocation(t *testing.T) {
	accepted := []cmpmsg.PKIStatusInfo{{Status: cmpmsg.StatusAccepted}}
	for name, tt := range map[string]struct {
		body func(*x509.Certificate) cmpmsg.Body
		want gateway.State
	}{
		"accepted": {func(*x509.Certificate) cmpmsg.Body { return &cmpmsg.RevRep{Statuses: accepted} }, gateway.StateRevoked},
		"accepted, named": {func(c *x509.Certificate) cmpmsg.Body {
			return &cmpmsg.RevRep{Statuses: accepted, CertIDs: []cmpmsg.CertID{{Issuer: cmpmsg.GeneralDirectoryName(c.RawIssuer), Serial: c.SerialNumber}}}
		}, gateway.StateRevoked},
		"of another": {func(c *x509.Certificate) cmpmsg.Body {
			return &cmpmsg.RevRep{Statuses: accepted, CertIDs: []cmpmsg.CertID{{Issuer: cmpmsg.GeneralDirectoryName(c.RawIssuer), Serial: big.NewInt(7)}}}
		}, ""},
		"of another CA's": {func(c *x509.Certificate) cmpmsg.Body {
			return &cmpmsg.RevRep{Statuses: accepted, CertIDs: []cmpmsg.CertID{{Issuer: cmpmsg.GeneralDirectoryName(c.RawSubject), Serial: c.SerialNumber}}}
		}, ""},
		"two": {func(*x509.Certificate) cmpmsg.Body { return &cmpmsg.RevRep{Statuses: append(accepted, accepted...)} }, ""},
		"rejected": {func(*x509.Certificate) cmpmsg.Body {
			return &cmpmsg.RevRep{Statuses: []cmpmsg.PKIStatusInfo{{Status: cmpmsg.StatusRejection}}}
		}, gateway.StateFailed},
		"waiting": {func(*x509.Certificate) cmpmsg.Body {
			return &cmpmsg.RevRep{Statuses: []cmpmsg.PKIStatusInfo{{Status: cmpmsg.StatusWaiting}}}
		}, gateway.StateForwarded},
		"a key's": {func(*x509.Certificate) cmpmsg.Body {
			return &cmpmsg.RevRep{Statuses: []cmpmsg.PKIStatusInfo{{Status: cmpmsg.StatusKeyUpdateWarning}}}
		}, ""},
		"an error": {func(*x509.Certificate) cmpmsg.Body { return errorMsg(cmpmsg.BadTime) }, gateway.StateFailed},
		"ip":       {func(*x509.Certificate) cmpmsg.Body { return statusOnly(cmpmsg.StatusAccepted) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, worldOptions{})
			up := newCentral(w)
			c := w.vendorClient("device-1")
			up.body = tt.body(c.cert)
			sent := c.message(rr(t, c.cert, reasonCode(1)))
			w.post(sent)
			j := w.lastJudged()
			if (j.err == nil) != (tt.want != "") || j.err == nil && j.out.State != tt.want {
				t.Fatalf("%+v, %v; want %q", j.out, j.err, tt.want)
			}
			if tt.want == gateway.StateRevoked {
				if r := j.out.Revokes; r == nil || r.Serial.Cmp(c.cert.SerialNumber) != 0 || !bytes.Equal(r.Issuer, c.cert.RawIssuer) || r.Reason != 1 {
					t.Errorf("%+v", r)
				}
			}
			if !bytes.Equal(up.asked[0], sent) {
				t.Error("it was not passed on as it came")
			}
		})
	}
}

// A transactionID that only this server made of the message means nothing to anybody behind it.
func TestForwardNamelessTransaction(t *testing.T) {
	w := newWorld(t, worldOptions{})
	up := newCentral(w)
	c := w.vendorClient("device-1")
	for _, body := range []cmpmsg.Body{crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}.body(t), rr(t, c.cert)} {
		c.txid, c.peer = nil, nil
		if fail, _, _ := failure(c.ask(body)); fail != cmpmsg.BadDataFormat || len(up.asked) != 0 {
			t.Errorf("%s: %b, passed on %d", body.Type(), fail, len(up.asked))
		}
	}
}

// What an RA has put into a nested message is passed on, and nothing around it.
func TestForwardNested(t *testing.T) {
	w := newWorld(t, worldOptions{})
	up := newCentral(w)
	key := newP256()
	up.body = up.certified(key.Public())
	ra := w.vendorClient("ra")
	w.gateway.ras = map[string]bool{gateway.Fingerprint(ra.cert): false}
	c := w.vendorClient("device-1")
	inner := c.message(crmf{kind: cmpmsg.TypeIR, key: key, subject: "device-1"}.body(t))
	w.post(ra.nest(inner, nil))
	if len(up.asked) != 1 || !bytes.Equal(up.asked[0], inner) {
		t.Error("it was not the device's message that was passed on")
	}
}
