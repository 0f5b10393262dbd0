package mdm

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway"
)

var checkIn = stating("MessageType", "Authenticate", "UDID", "u7", "SerialNumber", "S7", "SERIAL", "S8")

func header(der []byte) string { return base64.StdEncoding.EncodeToString(der) }

func (w *world) mdmSignature(body []byte) string {
	return header(detached(w.own.signs(body, crypto.SHA256)))
}

// Apple, MDM: "SignMessage": the body is signed in the header Mdm-Signature. RFC 9440 section 2.2: Client-Cert.
func TestCheck(t *testing.T) {
	for _, method := range []string{"POST", "PUT"} {
		w := newWorld(t)
		w.gateway.who.Device = "téléphone 7%"
		rec := w.send(method, "/ota/ota/check", checkIn, "Mdm-Signature", w.mdmSignature(checkIn))
		if rec.Code != http.StatusOK || rec.Header().Get("Client-Cert") != ":"+header(w.own.cert.Raw)+":" || rec.Header().Get("Muster-Device") != "t%C3%A9l%C3%A9phone%207%25" || rec.Body.Len() != 0 {
			t.Errorf("%d %v %s", rec.Code, rec.Header(), rec.Body)
		}
		r := w.gateway.asked[0]
		if len(r.Identifiers) != 1 || r.Identifiers[0] != (gateway.DeviceID{Kind: "udid", Value: "u7"}) || r.Credentials[0].Kind != gateway.CredentialSigner || r.Operation != gateway.Query {
			t.Errorf("%+v", r)
		}
		if len(w.gateway.challenges) != 0 {
			t.Error("a check makes challenges")
		}
	}
}

// What a device reports may be long, and deep.
func TestCheckOfAReport(t *testing.T) {
	body := []byte(`<plist><dict><key>Status</key><string>Acknowledged</string><key>Apps</key><array>` + strings.Repeat("<dict><key>Name</key><string>x</string></dict>", 2000) +
		`</array><key>UDID</key><string>u7</string></dict></plist>`)
	w := newWorld(t)
	if rec := w.send("PUT", "/ota/ota/check", body, "Mdm-Signature", w.mdmSignature(body)); rec.Code != http.StatusOK || w.gateway.asked[0].Identifiers[0].Value != "u7" {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
}

// nginx's auth_request: no body; the certificate is the TLS client's, as a trusted proxy says.
func TestCheckOfATLSClient(t *testing.T) {
	w := newWorld(t)
	ask := func(method string, body string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, "/ota/ota/check", strings.NewReader(body))
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{w.own.cert}}
		rec := httptest.NewRecorder()
		w.router.ServeHTTP(rec, r)
		return rec
	}
	if rec := ask("GET", ""); rec.Code != http.StatusOK || rec.Header().Get("Muster-Device") != "phone-7" || len(w.gateway.asked[0].Identifiers) != 0 || w.gateway.asked[0].Credentials[0].Kind != gateway.CredentialTLS {
		t.Errorf("%d %+v", rec.Code, w.gateway.asked)
	}
	if rec := ask("PUT", string(checkIn)); rec.Code != http.StatusOK || w.gateway.asked[1].Identifiers[0].Value != "u7" {
		t.Errorf("with a body: %d %+v", rec.Code, w.gateway.asked)
	}
	if rec := ask("PUT", ""); rec.Code != http.StatusForbidden {
		t.Errorf("with an empty body: %d", rec.Code)
	}
}

func TestCheckRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		change  func(*world)
		method  string // PUT
		body    []byte // checkIn
		headers func(*world) []string
		code    int // 403
		asked   bool
		why     string
	}{
		"nothing shown": {headers: func(*world) []string { return nil }},
		"not base64":    {headers: func(*world) []string { return []string{"Mdm-Signature", "!"} }},
		"not CMS":       {headers: func(*world) []string { return []string{"Mdm-Signature", "AAEC"} }},
		"too large":     {headers: func(*world) []string { return []string{"Mdm-Signature", strings.Repeat("A", 32<<10+4)} }, why: "larger than"},
		"two signatures": {headers: func(w *world) []string {
			s := w.mdmSignature(checkIn)
			return []string{"Mdm-Signature", s, "Mdm-Signature", s}
		}, why: "more than one"},
		"over another body": {headers: func(w *world) []string { return []string{"Mdm-Signature", w.mdmSignature(stating("UDID", "u8"))} }},
		"with its own":      {headers: func(w *world) []string { return []string{"Mdm-Signature", header(w.own.signs(checkIn, crypto.SHA256))} }},
		"SHA-1": {headers: func(w *world) []string {
			return []string{"Mdm-Signature", header(detached(w.own.signs(checkIn, crypto.SHA1)))}
		}},
		"by GET":             {method: "GET", why: "send it along"},
		"no MDM message":     {body: stating("UDID", "u7")},
		"no UDID":            {body: stating("MessageType", "x")},
		"no property list":   {body: []byte("x")},
		"too large a body":   {body: make([]byte, 256<<10+1)},
		"issued by nobody":   {change: func(w *world) { w.own.cert = certify("x", nil, ownKey().Public(), ownKey()) }},
		"a maker's":          {change: func(w *world) { w.own = w.device }}, // says that it is an iPhone, and of no enrollment
		"the pipeline":       {change: func(w *world) { w.gateway.refuses = &gateway.Error{Reason: gateway.UnknownCert} }, asked: true},
		"another's cert":     {change: func(w *world) { w.gateway.who.Certificate = &gateway.Certificate{DER: w.device.cert.Raw} }, asked: true},
		"not by a cert":      {change: func(w *world) { w.gateway.who.Certificate = nil }, asked: true},
		"another UDID":       {body: stating("MessageType", "Authenticate", "UDID", "u8"), asked: true, why: "UDID"},
		"UDID not entered":   {change: func(w *world) { w.gateway.who.Inventory.Identifiers = w.gateway.who.Inventory.Identifiers[:1] }, asked: true, why: "UDID"},
		"UDID not compared":  {change: func(w *world) { w.gateway.who.Inventory = nil }, asked: true},
		"cannot be answered": {change: func(w *world) { w.gateway.refuses = &gateway.Error{Reason: gateway.Unavailable} }, code: 503, asked: true},
	} {
		w := newWorld(t)
		if tt.change != nil {
			tt.change(w)
		}
		if tt.body == nil {
			tt.body = checkIn
		}
		headers := []string{"Mdm-Signature", w.mdmSignature(tt.body)}
		if tt.headers != nil {
			headers = tt.headers(w)
		}
		if tt.method == "" {
			tt.method = "PUT"
		}
		if tt.code == 0 {
			tt.code = http.StatusForbidden
		}
		rec := w.send(tt.method, "/ota/ota/check", tt.body, headers...)
		if rec.Code != tt.code || rec.Header().Get("Client-Cert") != "" || rec.Header().Get("Muster-Device") != "" || (len(w.gateway.asked) > 0) != tt.asked || !strings.Contains(rec.Body.String(), tt.why) {
			t.Errorf("%s: %d %v %s", name, rec.Code, rec.Header(), rec.Body)
		}
	}
}
