package cmp

import (
	"bytes"
	"encoding/hex"
	"math/big"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

func mustHex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// FuzzHandler: whatever is posted, the answer is a protected PKIMessage, and only what verifies is asked for.
func FuzzHandler(f *testing.F) {
	w := newWorld(f, worldOptions{})
	key := newP256()
	mac, vendor := w.macClient("ref-1"), w.vendorClient("device-1")
	for _, c := range []*client{mac, vendor} {
		for _, body := range []cmpmsg.Body{
			crmf{kind: cmpmsg.TypeIR, key: key, subject: "device-1", dns: []string{"a.example"}}.body(f),
			crmf{kind: cmpmsg.TypeKUR, key: key, subject: "device-1"}.body(f),
			&cmpmsg.PKCS10{CSR: csr(f, key, "device-1")}, confirmation(random(32), 0), &cmpmsg.PollReq{}, &cmpmsg.PKIConf{},
			&cmpmsg.ErrorMsg{Status: cmpmsg.PKIStatusInfo{Status: cmpmsg.StatusRejection}},
			generalSeed(f), rr(f, vendor.cert, reasonCode(1)),
		} {
			f.Add(c.message(body))
		}
	}
	f.Add([]byte{})
	f.Add([]byte{0x30, 0x80})
	f.Fuzz(func(t *testing.T, der []byte) {
		w.gateway.t = t
		r := httptest.NewRequest("POST", "/cmp", bytes.NewReader(der))
		r.Header.Set("Content-Type", typePKIXCMP)
		rec := httptest.NewRecorder()
		before := len(w.gateway.enrolled)
		w.handler.serve(rec, r, func(string) bool { return true })
		if rec.Code == 413 {
			return
		}
		m, err := cmpmsg.Parse(rec.Body.Bytes())
		if rec.Code != 200 || err != nil || m.Header.ProtectionAlg == nil || m.Protection == nil {
			t.Fatalf("%d, %v: %x", rec.Code, err, rec.Body.Bytes())
		}
		if fail, text, _ := failure(m); fail == cmpmsg.SystemFailure {
			t.Fatalf("%s\n%s", text, w.log)
		}
		for _, q := range w.gateway.enrolled[before:] {
			if len(q.Credentials) != 1 || !q.Credentials[0].Proven() || q.POP != gateway.POPSignature || len(q.Content) == 0 || len(q.Resume) == 0 || len(q.Exchange) == 0 {
				t.Fatalf("%+v", q)
			}
		}
	})
}

// FuzzRecord: what decodes is complete.
func FuzzRecord(f *testing.F) {
	w := newWorld(f, worldOptions{})
	enrolled(f, w, w.macClient("ref-1"))
	f.Add(w.gateway.tx(f).Exchange)
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRecord(b)
		if err != nil {
			return
		}
		if !r.Answer.complete() || len(r.nonceFor(r.Message)) < nonceSize || !r.gave(r.nonceFor(r.Message)) || r.gave(nil) {
			t.Fatalf("%+v", r)
		}
	})
}

// FuzzPath: a path never gives a name with a slash in it, nor panics.
func FuzzPath(f *testing.F) {
	for _, p := range []string{wellKnown, wellKnown + "/", wellKnown + "/p/x", wellKnown + "/p/x/pkcs10", short + "/x", "//", "", "/cmpx"} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, path string) {
		name, ok := splitPath(path)
		if strings.Contains(name, "/") || !ok && name != "" {
			t.Fatalf("%q: %q, %v", path, name, ok)
		}
	})
}

// FuzzBody: the same behind a MAC that is right, so that bodies are looked at.
func FuzzBody(f *testing.F) {
	w := newWorld(f, worldOptions{})
	key := newP256()
	c := w.macClient("ref-1")
	header := func(follows bool) []byte {
		c.txid, c.peer = random(16), nil
		if follows { // a transaction that waits for its certConf
			c, _ = enrolled(f, w, w.macClient("ref-1"))
		}
		m, err := cmpmsg.Parse(c.message(&cmpmsg.PKIConf{}))
		if err != nil {
			f.Fatal(err)
		}
		return m.RawHeader
	}
	first, second := header(false), header(true)
	for _, body := range []cmpmsg.Body{
		crmf{kind: cmpmsg.TypeIR, key: key, subject: "device-1", dns: []string{"a.example"}, notAfter: testTime}.body(f),
		crmf{kind: cmpmsg.TypeCR, key: key, rawSubject: nullDN[:]}.body(f), &cmpmsg.PKCS10{CSR: csr(f, key, "device-1")},
		confirmation(random(32), 0), &cmpmsg.CertConf{}, &cmpmsg.PollReq{ReqIDs: []*big.Int{big.NewInt(0)}}, &cmpmsg.PKIConf{},
		&cmpmsg.ErrorMsg{Status: cmpmsg.PKIStatusInfo{Status: cmpmsg.StatusRejection, Text: []string{"why"}}}, generalSeed(f), genm(),
		without(cmpmsg.TypeIR, nil), without(cmpmsg.TypeCR, algorithmOf(f, key.Public())),
		proofBy(f, cmpmsg.TypeIR, otherRSA(f), cmpmsg.POPKeyEncipherment, byEncrCert),
		proofBy(f, cmpmsg.TypeIR, key, cmpmsg.POPKeyAgreement, cmpmsg.POPOPrivKey{Method: 4, Value: element(0xa4, element(0x30))}),
		proofBy(f, cmpmsg.TypeIR, key, cmpmsg.POPRAVerified, cmpmsg.POPOPrivKey{}),
	} {
		m, err := cmpmsg.Parse(c.message(body))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(m.RawBody, true)
		f.Add(m.RawBody, false)
	}
	f.Fuzz(func(t *testing.T, body []byte, follows bool) {
		if len(body) > 60000 {
			return
		}
		w.gateway.t = t
		h := first
		if follows {
			h = second
		}
		m, err := cmpmsg.Parse(element(0x30, h, element(0xb3, element(0x05))))
		if err != nil {
			t.Fatal(err)
		}
		mac, err := cmpmsg.ParseMAC(m.Header.ProtectionAlg, cmpmsg.MACPolicy{})
		if err != nil {
			t.Fatal(err)
		}
		sum := mac.Sum(c.secret, element(0x30, h, body))
		r := httptest.NewRequest("POST", "/cmp", bytes.NewReader(element(0x30, h, body, element(0xa0, element(0x03, []byte{0}, sum)))))
		r.Header.Set("Content-Type", typePKIXCMP)
		rec := httptest.NewRecorder()
		w.handler.serve(rec, r, func(string) bool { return true })
		m, err = cmpmsg.Parse(rec.Body.Bytes())
		if rec.Code != 200 || err != nil || m.Protection == nil {
			t.Fatalf("%d, %v: %x", rec.Code, err, rec.Body.Bytes())
		}
		if fail, text, _ := failure(m); fail == cmpmsg.SystemFailure {
			t.Fatalf("%s\n%s", text, w.log)
		}
	})
}
