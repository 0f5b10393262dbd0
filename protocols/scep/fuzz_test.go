package scep

import (
	"bytes"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/cms"
)

// FuzzPKIOperation: whatever is posted, the answer is a plain 4xx that was noted, a signed CertRep, or a certificate for
// a complete request; never a 5xx, and never a word of one in the log.
func FuzzPKIOperation(f *testing.F) {
	w := newWorld(f, worldOptions{quiet: true, config: Config{Legacy: []Legacy{LegacyDES, LegacyTripleDES, LegacySHA1}}})
	signer := selfSigned(deviceKey())
	f.Add(w.message(wish{signer: signer}))
	f.Add(w.message(wish{signer: signer, kind: "20"}))
	w.gateway.query = unknownCert
	f.Add(w.message(wish{signer: signer, kind: "21", csr: issuerAndSerial(w.ca.issuer.RawSubject, w.ca.ra.SerialNumber)}))
	f.Add(w.message(wish{kind: "22", signer: w.device(deviceKey()), csr: issuerAndSerial(w.ca.issuer.RawSubject, w.ca.ra.SerialNumber)}))
	f.Add(w.message(wish{kind: "17", signer: w.device(deviceKey()), challenge: "-"}))
	f.Add(w.message(wish{signer: foreign(deviceKey().Public())}))
	for _, e := range oracleKinds(w, makeCSR(deviceKey(), "device-0001", testChallenge, 0)) {
		f.Add(w.message(wish{signer: signer, envelope: func([]byte) []byte { return e }}))
	}
	f.Add(must(cms.CertsOnly(w.ca.ra.Raw)))
	f.Add([]byte("0\x80"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, body []byte) {
		noted, asked, polled := w.gateway.rejections(), len(w.gateway.allEnrolled()), w.gateway.polls()
		rec := httptest.NewRecorder()
		w.router.ServeHTTP(rec, httptest.NewRequest("POST", "/scep", bytes.NewReader(body)))
		all := w.gateway.allEnrolled()
		if made := len(all) - asked + w.gateway.polls() - polled; w.gateway.rejections()-noted+made != 1 {
			t.Fatalf("%d refusals, %d requests", w.gateway.rejections()-noted, made)
		}
		switch {
		case rec.Code == 200:
			s, err := cms.ParseSigned(rec.Body.Bytes(), cms.Limits{})
			if err != nil || s.Signer == nil || !bytes.Equal(s.Signer.Raw, w.ca.ra.Raw) {
				t.Fatalf("%v: %x", err, rec.Body.Bytes())
			}
		case rec.Code < 400 || rec.Code > 499 || strings.Count(rec.Body.String(), "\n") != 1:
			t.Fatalf("%d %q", rec.Code, rec.Body)
		}
		if len(all) == asked {
			return
		}
		r := all[len(all)-1]
		csr, err := pkix.ParseCSR(r.CSR)
		if err != nil || csr.CheckSignature(pkix.AllowSHA1()) != nil || r.POP != gateway.POPSignature || len(r.Content) == 0 || r.WireID == "" {
			t.Fatalf("%+v: %v", r, err)
		}
	})
}

// FuzzIssuerAndSerial: what GetCert and GetCRL take for a name of a certificate is DER, and the same when it is written anew.
func FuzzIssuerAndSerial(f *testing.F) {
	f.Add(issuerAndSerial(newTestCA().issuer.RawSubject, newTestCA().ra.SerialNumber))
	f.Add(issuerAndSubject)
	f.Add([]byte{0x30, 0x80, 0x30, 0, 2, 1, 1, 0, 0})
	f.Add([]byte{0x30, 5, 0x30, 0, 2, 1, 1})
	f.Fuzz(func(t *testing.T, der []byte) {
		id, err := readIssuerAndSerial(der)
		if err != nil {
			return
		}
		if id.Serial.Sign() <= 0 || id.Serial.BitLen() > 160 || !bytes.Equal(issuerAndSerial(id.Issuer, id.Serial), der) {
			t.Fatalf("%x: %+v", der, id)
		}
	})
}

// FuzzMessageParameter: what decodes is bounded, and the same in any of its forms.
func FuzzMessageParameter(f *testing.F) {
	for _, s := range []string{"MIIB", "MII%42", "M+/_-%20==", "%", "%4", "%zz", "====", "TQ%3D%3D%0A", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		der, err := decodeMessage(value, 100)
		if err != nil {
			if der != nil {
				t.Fatalf("bytes with the error %v", err)
			}
			return
		}
		if len(der) == 0 || len(der) > 100 {
			t.Fatalf("%d bytes", len(der))
		}
		if again, err := decodeMessage(strings.ReplaceAll(value, "+", "%20"), 400); err != nil || !bytes.Equal(again, der) {
			t.Fatalf("%q: %x, %v; want %x", value, again, err, der)
		}
	})
}

// FuzzParameter: a query never panics, and a value is a part of it.
func FuzzParameter(f *testing.F) {
	for _, s := range []string{"operation=PKIOperation", "&&=&operation", "OPERATION=x&operation=y", "operation=a=b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, query string) {
		if v, ok := parameter(query, "operation"); strings.Contains(v, "&") || (!ok && v != "") || !strings.Contains(query, v) {
			t.Fatalf("%q: %q, %v", query, v, ok)
		}
	})
}
