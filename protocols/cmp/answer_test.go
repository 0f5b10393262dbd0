package cmp

import (
	"bytes"
	"crypto/x509"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
	"github.com/muster-pki/muster/protocols/wire"
)

// confirmWaitTime is told to who asks (RFC 9810 section 5.1.1.2).
func TestConfirmWaitTime(t *testing.T) {
	w := newWorld(t, worldOptions{config: Config{ConfirmWait: 7 * 60e9}})
	c := w.macClient("ref-1")
	q := crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}
	if m := c.ask(q.body(t)); len(m.Header.GeneralInfo) != 0 {
		t.Errorf("not asked for: %+v", m.Header.GeneralInfo)
	}
	c = w.macClient("ref-1")
	c.info = []cmpmsg.InfoTypeAndValue{{Type: cmpmsg.OIDConfirmWaitTime}}
	value, ok := c.ask(q.body(t)).Header.Info(cmpmsg.OIDConfirmWaitTime)
	var until time.Time
	in := cryptobyte.String(value)
	if !ok || !in.ReadASN1GeneralizedTime(&until) || !until.Equal(testTime.Add(7*time.Minute)) {
		t.Errorf("%x: %s", value, until)
	}
}

// confirmUntil is the confirmWaitTime in an answer.
func confirmUntil(t testing.TB, m *cmpmsg.Message) (until time.Time) {
	t.Helper()
	value, ok := m.Header.Info(cmpmsg.OIDConfirmWaitTime)
	if in := cryptobyte.String(value); !ok || !in.ReadASN1GeneralizedTime(&until) {
		t.Fatalf("confirmWaitTime: %x", value)
	}
	return until
}

// The time to confirm counts from when the certificate was there (RFC 9810 section 5.1.1.2): who takes it over in a new
// transaction has what is left of it, by file too, and the answer stays the same when it is repeated, confirmed by then or not.
func TestConfirmWaitTimeOfWhatIsTakenOver(t *testing.T) {
	w := newWorld(t, worldOptions{config: Config{ConfirmWait: 7 * 60e9}})
	q := crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}
	asking := func() *client {
		c := w.macClient("ref-1")
		c.info = []cmpmsg.InfoTypeAndValue{{Type: cmpmsg.OIDConfirmWaitTime}}
		return c
	}
	asking().ask(q.body(t))
	w.now = testTime.Add(3 * time.Minute)
	for name, ask := range map[string]func(c *client) *cmpmsg.Message{
		"over HTTP": func(c *client) *cmpmsg.Message { return c.ask(q.body(t)) },
		"by file":   func(c *client) *cmpmsg.Message { return c.carry(q.body(t)) },
	} {
		if until := confirmUntil(t, ask(asking())); !until.Equal(testTime.Add(7 * time.Minute)) {
			t.Errorf("%s: until %s", name, until)
		}
	}
	c := asking()
	der := c.message(q.body(t))
	first := w.post(der)
	w.now = w.now.Add(time.Minute)
	c.ask(confirmation(certHash(certificate(t, c.accept(der, first), cmpmsg.TypeIP)), 0))
	if w.gateway.tx(t).State != gateway.StateIssued {
		t.Fatal(w.gateway.tx(t).State)
	}
	if again := w.post(der); !bytes.Equal(again, first) {
		t.Error("confirmed: another answer")
	}
}

// Approved days later, and asked again by the same message: the time counts from then, too.
func TestConfirmWaitTimeOfWhatWasHeld(t *testing.T) {
	w := newWorld(t, worldOptions{config: Config{ConfirmWait: 7 * 60e9}})
	w.gateway.decide = func(*gateway.Request) (*gateway.Error, gateway.State) { return nil, gateway.StateHeld }
	c := w.macClient("ref-1")
	c.info = []cmpmsg.InfoTypeAndValue{{Type: cmpmsg.OIDConfirmWaitTime}}
	der := c.message(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}.body(t))
	w.post(der)
	tx := w.gateway.tx(t)
	w.gateway.settle(tx, w.gateway.last(t))
	tx.Updated = testTime.Add(2 * 24 * time.Hour)
	w.now = tx.Updated.Add(time.Minute)
	if until := confirmUntil(t, c.send(der)); !until.Equal(tx.Updated.Add(7 * time.Minute)) {
		t.Errorf("until %s", until)
	}
}

// RFC 9810 section 5.1.1.2: what is told to who polls is when the certificate will be revoked, not when it could have been asked for.
func TestConfirmWaitTimeAfterPolls(t *testing.T) {
	w := newWorld(t, worldOptions{config: Config{ConfirmWait: 7 * 60e9}})
	w.gateway.decide = func(*gateway.Request) (*gateway.Error, gateway.State) { return nil, gateway.StateHeld }
	c := w.macClient("ref-1")
	c.info = []cmpmsg.InfoTypeAndValue{{Type: cmpmsg.OIDConfirmWaitTime}}
	c.ask(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}.body(t))
	tx := w.gateway.tx(t)
	w.gateway.settle(tx, w.gateway.last(t))
	tx.Updated = testTime.Add(time.Minute)
	w.now = testTime.Add(3 * time.Minute)
	poll := &cmpmsg.PollReq{ReqIDs: []*big.Int{big.NewInt(0)}}
	m := c.ask(poll)
	want := tx.Updated.Add(tx.ConfirmWait)
	if until := confirmUntil(t, m); !until.Equal(want) {
		t.Errorf("%s, want %s", until, want)
	}
	c.ask(confirmation(certHash(certificate(t, m, cmpmsg.TypeIP)), 0))
	if until := confirmUntil(t, c.ask(poll)); !until.Equal(want) || w.gateway.tx(t).State != gateway.StateIssued {
		t.Errorf("confirmed: %s, want %s", until, want)
	}
}

// certProfile names the profile; an empty name is none (RFC 9810 section 5.1.1.4).
func TestProfileName(t *testing.T) {
	w := newWorld(t, worldOptions{})
	for name, want := range map[string]string{"base-station": "base-station", "": ""} {
		c := w.macClient("ref-1")
		c.info = profiles(name)
		certificate(t, c.ask(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "x"}.body(t)), cmpmsg.TypeIP)
		if got := w.gateway.last(t).Profile; got != want {
			t.Errorf("%q: %q", name, got)
		}
	}
	for _, bad := range [][]byte{{5, 0}, element(0x30), element(0x30, element(0x13, []byte("x"))), element(0x30, element(0x0c, []byte("a\nb"))), element(0x30, element(0x0c, bytes.Repeat([]byte("x"), 256)))} {
		c := w.macClient("ref-1")
		c.info = []cmpmsg.InfoTypeAndValue{{Type: cmpmsg.OIDCertProfile, Value: bad}}
		if fail, _, _ := failure(c.ask(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "x"}.body(t))); fail != cmpmsg.BadDataFormat {
			t.Errorf("%x: %b", bad, fail)
		}
	}
	c := w.macClient("ref-1")
	c.info = append(profiles("a"), profiles("a")...)
	if fail, _, _ := failure(c.ask(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "x"}.body(t))); fail != cmpmsg.BadDataFormat {
		t.Errorf("twice: %b", fail)
	}
}

// pollReq until the certificate is there, then certConf (RFC 9810 section 5.3.22).
func TestPoll(t *testing.T) {
	w := newWorld(t, worldOptions{config: Config{Limits: wire.Limits{RetryAfter: 1500e6}}})
	w.gateway.decide = func(*gateway.Request) (*gateway.Error, gateway.State) { return nil, gateway.StateHeld }
	c := w.macClient("ref-1")
	m := c.ask(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1", dns: []string{"a.example"}}.body(t))
	if r := response(t, m, cmpmsg.TypeIP); r.Status.Status != cmpmsg.StatusWaiting || r.Certificate != nil || r.Status.FailInfo != 0 {
		t.Fatalf("%+v", r)
	}
	poll := func(id int64) *cmpmsg.PollReq { return &cmpmsg.PollReq{ReqIDs: []*big.Int{big.NewInt(id)}} }
	nonces := map[string]bool{string(c.peer): true}
	for _, id := range []int64{0, -1, 0} {
		m = c.ask(poll(id))
		rep, ok := m.Body.(*cmpmsg.PollRep)
		if !ok || len(rep.Responses) != 1 || rep.Responses[0].ReqID.Int64() != id || rep.Responses[0].CheckAfter != 2 {
			t.Fatalf("%+v", m.Body)
		}
		if nonces[string(c.peer)] {
			t.Error("a nonce twice")
		}
		nonces[string(c.peer)] = true
	}
	good := c.peer
	for name, tt := range map[string]struct {
		change func(*client)
		body   cmpmsg.Body
		want   cmpmsg.FailInfo
	}{
		"another device":  {func(c *client) { c.reference, c.secret = []byte("ref-2"), w.gateway.secrets["ref-2"] }, poll(0), cmpmsg.NotAuthorized},
		"signed":          {func(c *client) { v := w.vendorClient("x"); c.key, c.cert, c.extra = v.key, v.cert, v.extra }, poll(0), cmpmsg.WrongIntegrity},
		"no nonce":        {func(c *client) { c.peer = nil }, poll(0), cmpmsg.BadRecipientNonce},
		"forged nonce":    {func(c *client) { c.peer = random(32) }, poll(0), cmpmsg.BadRecipientNonce},
		"half a nonce":    {func(c *client) { c.peer = good[:16] }, poll(0), cmpmsg.BadRecipientNonce},
		"another request": {func(*client) {}, poll(1), cmpmsg.BadRequest},
	} {
		d := *c
		tt.change(&d)
		if fail, text, _ := failure(d.ask(tt.body)); fail != tt.want {
			t.Errorf("%s: %b, %s", name, fail, text)
		}
	}

	w.gateway.settle(w.gateway.tx(t), w.gateway.last(t))
	c.peer = good
	m = c.ask(poll(0))
	cert := certificate(t, m, cmpmsg.TypeIP)
	if s := response(t, m, cmpmsg.TypeIP).Status.Status; s != cmpmsg.StatusAccepted {
		t.Errorf("status %d", s)
	}
	if m := c.ask(confirmation(certHash(cert), 0)); m.Body.Type() != cmpmsg.TypePKIConf || w.gateway.tx(t).State != gateway.StateIssued {
		t.Errorf("%+v", m.Body)
	}

	// Revoked by now: it is not handed out any more.
	c = w.macClient("ref-1")
	c.ask(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}.body(t))
	w.gateway.settle(w.gateway.tx(t), w.gateway.last(t))
	w.gateway.tx(t).Certificate.RevokedAt = testTime
	if fail, _, rejection := failure(c.ask(poll(0))); fail != cmpmsg.CertRevoked || !rejection {
		t.Errorf("revoked: %b", fail)
	}

	// What else may have become of it.
	for state, want := range map[gateway.State]cmpmsg.FailInfo{gateway.StateFailed: cmpmsg.SystemFailure, gateway.StateRefused: cmpmsg.NotAuthorized, gateway.StateDenied: cmpmsg.NotAuthorized, gateway.StateRejected: cmpmsg.CertRevoked} {
		c := w.macClient("ref-1")
		c.ask(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}.body(t))
		tx := w.gateway.tx(t)
		tx.State = state
		tx.Reason = map[gateway.State]gateway.Reason{gateway.StateFailed: gateway.Internal, gateway.StateRefused: gateway.NotAuthorized}[state]
		m := c.ask(poll(0))
		if fail, text, rejection := failure(m); fail != want || !rejection || !strings.Contains(text, tx.ID) {
			t.Errorf("%s: %b, %s", state, fail, text)
		}
		if note := tx.ID + " poll " + string(state); !slices.Contains(w.gateway.heard, note) {
			t.Errorf("nobody took note of %q, but of %q", note, w.gateway.heard)
		}
	}
}

// RFC 9810 section 5.2.3: what was granted otherwise than asked for is grantedWithMods.
func TestGrantedWithMods(t *testing.T) {
	key := newP256()
	q := crmf{kind: cmpmsg.TypeIR, key: key, subject: "device-1", dns: []string{"a.example"}, notAfter: testTime.Add(time.Hour)}
	for name, tt := range map[string]struct {
		grant func(*gateway.Request, *x509.Certificate)
		want  string
	}{
		"as asked":       {nil, ""},
		"subject":        {func(_ *gateway.Request, c *x509.Certificate) { c.RawSubject = cn("device-2") }, "subject"},
		"subjectAltName": {func(_ *gateway.Request, c *x509.Certificate) { c.ExtraExtensions = nil }, "subjectAltName"},
		"validity":       {func(_ *gateway.Request, c *x509.Certificate) { c.NotAfter = c.NotAfter.Add(-time.Minute) }, "validity"},
		"validity, subject": {func(_ *gateway.Request, c *x509.Certificate) {
			c.NotBefore, c.RawSubject = c.NotBefore.Add(time.Minute), cn("x")
		}, "subject, validity"},
	} {
		w := newWorld(t, worldOptions{})
		w.gateway.grant = tt.grant
		s := response(t, w.macClient("ref-1").ask(q.body(t)), cmpmsg.TypeIP).Status
		switch {
		case tt.want == "" && (s.Status != cmpmsg.StatusAccepted || len(s.Text) != 0):
			t.Errorf("%s: %+v", name, s)
		case tt.want != "" && (s.Status != cmpmsg.StatusGrantedWithMods || len(s.Text) != 1 || !strings.HasSuffix(s.Text[0], ": "+tt.want)):
			t.Errorf("%s: %+v", name, s)
		}
	}
	// What was not asked for cannot be granted otherwise.
	w := newWorld(t, worldOptions{})
	w.gateway.grant = func(_ *gateway.Request, c *x509.Certificate) { c.RawSubject = cn("device-0815") }
	if s := response(t, w.macClient("ref-1").ask(crmf{kind: cmpmsg.TypeIR, key: key, rawSubject: nullDN[:]}.body(t)), cmpmsg.TypeIP).Status; s.Status != cmpmsg.StatusAccepted {
		t.Errorf("%+v", s)
	}
	if w.gateway.last(t).Subject != nil {
		t.Error("a NULL-DN counts as a subject")
	}
}
