package simulate

import (
	"bytes"
	"crypto"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// ra answers CMP messages with bodies that a test says, one after the other, protected by a MAC.
type ra struct {
	t      *testing.T
	bodies []cmpmsg.Body
	secret string
	edit   func(*cmpmsg.Outgoing)
	got    []*cmpmsg.Message
	header http.Header
}

func (s *ra) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	der, _ := io.ReadAll(r.Body)
	m, err := cmpmsg.Parse(der)
	if err != nil || len(s.bodies) == 0 || r.Header.Get("Content-Type") != "application/pkixcmp" {
		s.t.Errorf("message %d: %v", len(s.got)+1, err)
		return
	}
	s.got = append(s.got, m)
	mac, err := cmpmsg.NewPBM(crypto.SHA256, crypto.SHA256, 500, random(16))
	if err != nil {
		s.t.Error(err)
	}
	alg := mac.Algorithm()
	out := &cmpmsg.Outgoing{Header: cmpmsg.Header{
		PVNO: 2, Sender: cmpmsg.GeneralDirectoryName([]byte{0x30, 0}), Recipient: cmpmsg.GeneralDirectoryName([]byte{0x30, 0}), ProtectionAlg: &alg,
		MessageTime: time.Now(), TransactionID: m.Header.TransactionID, SenderNonce: random(16), RecipNonce: m.Header.SenderNonce,
	}, Body: s.bodies[0]}
	s.bodies = s.bodies[1:]
	if s.edit != nil {
		s.edit(out)
	}
	answer, err := out.Protect(func(part []byte) ([]byte, error) { return mac.Sum([]byte(s.secret), part), nil })
	if err != nil {
		s.t.Error(err)
	}
	for name, values := range s.header {
		w.Header()[name] = values
	}
	w.Write(answer) //nolint:errcheck // the client says what it got
}

func (s *ra) client() *CMP {
	s.t.Helper()
	server := httptest.NewServer(s)
	s.t.Cleanup(server.Close)
	c, err := NewCMP(Target{URL: server.URL + "/.well-known/cmp", Timeout: 10 * time.Second}, "factory", "secret")
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

func ip(status cmpmsg.PKIStatusInfo, cert []byte) cmpmsg.Body {
	return &cmpmsg.CertRepMessage{Kind: cmpmsg.TypeIP, Responses: []cmpmsg.CertResponse{{ReqID: big.NewInt(0), Status: status, Certificate: cert}}}
}

func pollRep(seconds int64) cmpmsg.Body {
	return &cmpmsg.PollRep{Responses: []cmpmsg.PollResponse{{ReqID: big.NewInt(0), CheckAfter: seconds}}}
}

var waitingStatus = cmpmsg.PKIStatusInfo{Status: cmpmsg.StatusWaiting}

// Told to wait, the device asks when to ask again, does so in the same transaction, and confirms.
func TestCMPWaits(t *testing.T) {
	d := one(t, P256)
	cert := certificate(d)
	s := &ra{t: t, secret: "secret", bodies: []cmpmsg.Body{ip(waitingStatus, nil), pollRep(30), pollRep(40), ip(cmpmsg.PKIStatusInfo{}, cert), &cmpmsg.PKIConf{}}}
	c := s.client()
	a := c.Ask(t.Context(), d)
	if a.Away != "pollRep" || a.After != 30*time.Second || a.Open == nil {
		t.Fatalf("%+v", a)
	}
	d.Open = a.Open
	if a = c.Ask(t.Context(), d); a.Away != "pollRep" || a.After != 40*time.Second || a.Open == nil {
		t.Fatalf("%+v", a)
	}
	d.Open = a.Open
	if a = c.Ask(t.Context(), d); !bytes.Equal(a.Cert, cert) {
		t.Fatalf("%+v", a)
	}
	for i, want := range []cmpmsg.BodyType{cmpmsg.TypeIR, cmpmsg.TypePollReq, cmpmsg.TypePollReq, cmpmsg.TypePollReq, cmpmsg.TypeCertConf} {
		if got := s.got[i]; got.Body.Type() != want || !bytes.Equal(got.Header.TransactionID, s.got[0].Header.TransactionID) {
			t.Errorf("message %d is %s of transaction %x", i, got.Body.Type(), got.Header.TransactionID)
		}
	}
}

func TestCMPAnswers(t *testing.T) {
	d := one(t, P256)
	cert := certificate(d)
	failure := func(f cmpmsg.FailInfo) cmpmsg.PKIStatusInfo {
		return cmpmsg.PKIStatusInfo{Status: cmpmsg.StatusRejection, FailInfo: f, Text: []string{"so it is (reference 06abc)"}}
	}
	for name, c := range map[string]struct {
		s    ra
		want Answer
	}{
		"unavailable": {ra{bodies: []cmpmsg.Body{&cmpmsg.ErrorMsg{Status: failure(cmpmsg.SystemUnavail)}}, header: http.Header{"Retry-After": {"9"}}},
			Answer{Away: "systemUnavail", After: 9 * time.Second}},
		"rejected":                 {ra{bodies: []cmpmsg.Body{ip(failure(cmpmsg.NotAuthorized), nil)}}, Answer{Refused: "notAuthorized: so it is"}},
		"failing":                  {ra{bodies: []cmpmsg.Body{&cmpmsg.ErrorMsg{Status: failure(cmpmsg.SystemFailure)}}}, Answer{Broken: "systemFailure: so it is"}},
		"another kind":             {ra{bodies: []cmpmsg.Body{&cmpmsg.PKIConf{}}}, Answer{Refused: "an answer of another kind: pkiconf"}},
		"not confirmed":            {ra{bodies: []cmpmsg.Body{ip(cmpmsg.PKIStatusInfo{}, cert), ip(cmpmsg.PKIStatusInfo{}, cert)}}, Answer{Refused: "certConf was answered by ip"}},
		"confirming, it was away":  {ra{bodies: []cmpmsg.Body{ip(cmpmsg.PKIStatusInfo{}, cert), &cmpmsg.ErrorMsg{Status: failure(cmpmsg.SystemUnavail)}}}, Answer{Away: "systemUnavail"}},
		"by another secret":        {ra{secret: "other", bodies: []cmpmsg.Body{ip(cmpmsg.PKIStatusInfo{}, cert)}}, Answer{Broken: errUnproved.Error()}},
		"of another transaction":   {ra{bodies: []cmpmsg.Body{ip(cmpmsg.PKIStatusInfo{}, cert)}, edit: func(o *cmpmsg.Outgoing) { o.Header.TransactionID = random(16) }}, Answer{Broken: errForeign.Error()}},
		"to another message of it": {ra{bodies: []cmpmsg.Body{ip(cmpmsg.PKIStatusInfo{}, cert)}, edit: func(o *cmpmsg.Outgoing) { o.Header.RecipNonce = random(16) }}, Answer{Broken: errForeign.Error()}},
	} {
		t.Run(name, func(t *testing.T) {
			if c.s.t = t; c.s.secret == "" {
				c.s.secret = "secret"
			}
			a := c.s.client().Ask(t.Context(), d)
			if a.Cert != nil || a.Away != c.want.Away || a.After != c.want.After || a.Refused != c.want.Refused || a.Broken != c.want.Broken {
				t.Errorf("%+v, want %+v", a, c.want)
			}
		})
	}
}

// A pollReq that is turned away is made again later; the transaction is not lost.
func TestCMPKeepsWhatWaits(t *testing.T) {
	d := one(t, P256)
	open := &waiting{tid: random(16), peer: random(16)}
	d.Open = open
	s := &ra{t: t, secret: "secret", bodies: []cmpmsg.Body{&cmpmsg.ErrorMsg{Status: cmpmsg.PKIStatusInfo{Status: cmpmsg.StatusRejection, FailInfo: cmpmsg.SystemUnavail}}}}
	if a := s.client().Ask(t.Context(), d); a.Away != "systemUnavail" || a.Open != open {
		t.Errorf("%+v", a)
	}
	if (&CMP{}).Fits(RSA2048) == nil || (&CMP{}).Fits(P256) != nil {
		t.Error("keys of a pool over CMP")
	}
}

// A device revokes its certificate by an rr that it signs and that names it; one that is revoked already is no failure.
func TestCMPRevokes(t *testing.T) {
	d := one(t, P256)
	d.Cert, d.Revoke = certificate(d), true
	status := func(s cmpmsg.PKIStatusInfo) cmpmsg.Body { return &cmpmsg.RevRep{Statuses: []cmpmsg.PKIStatusInfo{s}} }
	for name, c := range map[string]struct {
		answer  cmpmsg.Body
		revoked bool
		refused string
	}{
		"accepted":        {status(cmpmsg.PKIStatusInfo{}), true, ""},
		"already":         {status(cmpmsg.PKIStatusInfo{Status: cmpmsg.StatusRejection, FailInfo: cmpmsg.CertRevoked}), true, ""},
		"refused":         {status(cmpmsg.PKIStatusInfo{Status: cmpmsg.StatusRejection, FailInfo: cmpmsg.NotAuthorized, Text: []string{"no"}}), false, "notAuthorized: no"},
		"another message": {pollRep(1), false, "an answer of another kind: pollRep"},
	} {
		s := &ra{t: t, secret: "secret", bodies: []cmpmsg.Body{c.answer}}
		a := s.client().Ask(t.Context(), d)
		if (a.Cert != nil) != c.revoked || a.Refused != c.refused {
			t.Errorf("%s: %+v", name, a)
		}
		rr, ok := s.got[0].Body.(*cmpmsg.RevReq)
		if !ok || len(rr.Details) != 1 || rr.Details[0].Certificate.SerialNumber == nil || s.got[0].Header.ProtectionAlg.IsMAC() {
			t.Errorf("%s: %+v", name, s.got[0])
		}
	}
}
