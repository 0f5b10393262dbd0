package cmp

import (
	"bytes"
	"net/http/httptest"
	"testing"

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
