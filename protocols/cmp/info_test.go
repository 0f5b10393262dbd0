package cmp

import (
	"bytes"
	"net/http/httptest"
	"testing"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
	"github.com/muster-pki/muster/protocols/cms"
)

// The value of implicitConfirm is NULL, that of confirmWaitTime a GeneralizedTime, where there is one at all (RFC 9810 sections
// 5.1.1.1, 5.1.1.2): what a client means by another value is not guessed.
func TestInfoValues(t *testing.T) {
	utcTime := element(0x17, []byte("261121120000Z"))
	for _, body := range []cmpmsg.Body{
		crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}.body(t), &cmpmsg.PKCS10{CSR: csr(t, newP256(), "device-1")},
	} {
		for name, tt := range map[string]struct {
			info cmpmsg.InfoTypeAndValue
			want cmpmsg.FailInfo
		}{
			"NULL":                {implicitConfirm(), 0},
			"implicitConfirm":     {itav(cmpmsg.OIDImplicitConfirm, nil), 0},
			"TRUE":                {itav(cmpmsg.OIDImplicitConfirm, []byte{1, 1, 0xff}), cmpmsg.BadRequest},
			"a NULL and more":     {itav(cmpmsg.OIDImplicitConfirm, element(0x30, []byte{5, 0})), cmpmsg.BadRequest},
			"a time":              {confirmWaitTime(testTime), 0},
			"confirmWaitTime":     {itav(cmpmsg.OIDConfirmWaitTime, nil), 0},
			"UTCTime":             {itav(cmpmsg.OIDConfirmWaitTime, utcTime), cmpmsg.BadDataFormat},
			"NULL for a time":     {itav(cmpmsg.OIDConfirmWaitTime, []byte{5, 0}), cmpmsg.BadDataFormat},
			"a type of no matter": {itav(cmpmsg.OIDSuppLangTags, utcTime), 0},
		} {
			w := newWorld(t, worldOptions{})
			c := w.macClient("ref-1")
			c.info = []cmpmsg.InfoTypeAndValue{tt.info}
			m := c.ask(body)
			if fail, text, rejection := failure(m); fail != tt.want || (fail != 0) == rejection || (w.gateway.issued == 1) != (fail == 0) {
				t.Errorf("%s, %s: %v %s, %d issued", body.Type(), name, fail, text, w.gateway.issued)
			}
		}
	}
}

// FuzzInfo: values of generalInfo behind a MAC that is right.
func FuzzInfo(f *testing.F) {
	w := newWorld(f, worldOptions{})
	c := w.macClient("ref-1")
	for _, value := range [][]byte{{5, 0}, texts(""), texts("base-station"), texts("a", "b"), confirmWaitTime(testTime).Value, element(0x17, []byte("261121120000Z"))} {
		f.Add(value)
	}
	body := crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}.body(f)
	f.Fuzz(func(t *testing.T, value []byte) {
		if len(value) > 60000 || cms.Check(value, cms.Limits{Depth: 20}) != nil {
			return // not one element: no message can be made of it
		}
		w.t, w.gateway.t = t, t
		for _, oid := range []cmpmsg.InfoTypeAndValue{{Type: cmpmsg.OIDCertProfile}, {Type: cmpmsg.OIDImplicitConfirm}, {Type: cmpmsg.OIDConfirmWaitTime}, {Type: cmpmsg.OIDOrigPKIMessage}} {
			for _, asked := range []cmpmsg.Body{body, genm(cmpmsg.OIDCACerts)} {
				c.txid, c.peer, c.info = random(16), nil, []cmpmsg.InfoTypeAndValue{itav(oid.Type, value)}
				r := httptest.NewRequest("POST", "/cmp", bytes.NewReader(c.message(asked)))
				r.Header.Set("Content-Type", typePKIXCMP)
				rec := httptest.NewRecorder()
				w.handler.serve(rec, r, func(string) bool { return true })
				m, err := cmpmsg.Parse(rec.Body.Bytes())
				if rec.Code != 200 || err != nil || m.Protection == nil {
					t.Fatalf("%d, %v: %x", rec.Code, err, rec.Body.Bytes())
				}
				if fail, text, _ := failure(m); fail == cmpmsg.SystemFailure {
					t.Fatalf("%s\n%s", text, w.log)
				}
			}
		}
	})
}

// FuzzForward: whatever the authority behind answers, under a right header: what is taken for a certificate has the key that was
// asked for, and every answer that the device gets is a protected message.
func FuzzForward(f *testing.F) {
	w := newWorld(f, worldOptions{})
	up, key := newCentral(w), newP256()
	for _, body := range []cmpmsg.Body{
		up.certified(key.Public()), up.certified(newP256().Public()), statusOnly(cmpmsg.StatusWaiting), statusOnly(cmpmsg.StatusRejection),
		errorMsg(cmpmsg.BadPOP), &cmpmsg.PollRep{}, &cmpmsg.PKIConf{}, &cmpmsg.RevRep{Statuses: []cmpmsg.PKIStatusInfo{{}}},
	} {
		o := &cmpmsg.Outgoing{Header: cmpmsg.Header{PVNO: 2, Sender: cmpmsg.GeneralDirectoryName(nullDN[:]), Recipient: cmpmsg.GeneralDirectoryName(nullDN[:])}, Body: body}
		der, err := o.Protect(nil)
		if err != nil {
			f.Fatal(err)
		}
		m, err := cmpmsg.Parse(der)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(m.RawBody)
	}
	ir := crmf{kind: cmpmsg.TypeIR, key: key, subject: "device-1"}.body(f)
	want := spkiOf(f, key)
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) > 60000 {
			return
		}
		w.t, w.gateway.t = t, t
		up.body = &cmpmsg.PKIConf{}
		up.bend = func(der []byte) []byte {
			m, err := cmpmsg.Parse(der)
			if err != nil {
				t.Fatal(err)
			}
			return element(0x30, m.RawHeader, body, element(0xa0, element(0x03, []byte{0}, m.Protection)))
		}
		c := w.vendorClient("device-1")
		m, err := cmpmsg.Parse(w.post(c.message(ir)))
		if err != nil || m.Protection == nil {
			t.Fatalf("%v", err)
		}
		j := w.lastJudged()
		if j.err != nil {
			return
		}
		if cert := j.out.Certificate; cert != nil && (!bytes.Equal(cert.RawSubjectPublicKeyInfo, want) || cert.IsCA) || cert == nil && j.out.State == gateway.StateIssued {
			t.Fatalf("%+v", j.out)
		}
	})
}
