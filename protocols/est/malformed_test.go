package est

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/wire"
)

// What is not a good request, and what its sender is told. Every refusal is reported to the gateway.
func TestMalformedRequests(t *testing.T) {
	w := newWorld(t, worldOptions{endpoints: []Endpoint{{Name: "ran", Default: true, Config: Config{Limits: wire.Limits{MaxBody: 16 << 10}}}, {Name: "elsewhere"}}})
	key := newP256()
	csr := makeCSR(t, csrOptions{key: key})
	good := b64(csr)
	rsa1024 := must(rsa.GenerateKey(rand.Reader, 1024))
	asPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})
	withAttributes := func(attributes ...[]byte) []byte {
		return b64(makeCSR(t, csrOptions{key: key, attributes: attributes}))
	}
	header := func(name string, values ...string) func(*http.Request) {
		return func(r *http.Request) { r.Header[name] = values }
	}
	chunked := func(r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.ContentLength, r.Body = -1, io.NopCloser(bytes.NewReader(body))
	}
	const enroll = "POST /simpleenroll"
	cases := []struct {
		name    string
		line    string // method and path below root
		body    []byte
		modify  func(*http.Request)
		status  int
		message string // contained in the body
	}{
		// RFC 8951 section 3: base64 of DER, nothing else.
		{"no body", enroll, nil, header("Authorization", "Basic Zjpw"), 400, "no body"},
		{"no body and no credentials", enroll, nil, nil, 401, "no credentials and no request"},
		{"white space only", enroll, []byte(" \r\n\t"), header("Authorization", "Basic Zjpw"), 400, "no body"},
		{"PEM", enroll, asPEM, nil, 400, "the body is PEM"},
		{"PEM after text", enroll, append([]byte("Certificate Request:\n"), asPEM...), nil, 400, "the body is PEM"},
		{"DER", enroll, csr, nil, 400, "the body is binary DER"},
		{"not base64", enroll, []byte("{\"csr\": \"...\"}"), nil, 400, "not base64"},
		{"URL-safe base64", enroll, []byte("MIIB-_-_"), nil, 400, "not base64"},
		{"base64 cut short", enroll, good[:len(good)-3], nil, 400, "not base64"},
		{"base64 of PEM", enroll, b64(asPEM), nil, 400, "does not hold a PKCS#10 request"},
		{"base64 twice", enroll, b64(good), nil, 400, "does not hold a PKCS#10 request"},
		{"request cut short", enroll, b64(csr[:len(csr)-5]), nil, 400, "does not hold a PKCS#10 request"},
		{"bytes after the request", enroll, b64(append(bytes.Clone(csr), 0)), nil, 400, "does not hold a PKCS#10 request"},
		{"a certificate", enroll, b64(w.ca.root.Raw), nil, 400, "does not hold a PKCS#10 request"},
		{"nested without end", enroll, b64(bytes.Repeat([]byte{0x30, 0x80}, 5000)), nil, 400, "does not hold a PKCS#10 request"},
		{"length of 4 GB", enroll, b64([]byte{0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 0x02}), nil, 400, "does not hold a PKCS#10 request"},
		// RFC 7030 section 4.2.1: the signature is the proof of possession.
		{"wrong signature", enroll, b64(makeCSR(t, csrOptions{key: key, breakSig: true})), nil, 400, "signature does not verify"},
		{"RSA key of 1024 bits", enroll, b64(makeCSR(t, csrOptions{key: rsa1024})), nil, 400, "key or algorithm is not accepted"},
		// RFC 7030 section 3.5: what is there is verified.
		{"challengePassword of another connection", enroll, withAttributes(attribute(oidChallengePassword, printable("c29tZXRoaW5n"))), nil, 400, "not the channel binding"},
		{"challengePassword of two values", enroll, withAttributes(attribute(oidChallengePassword, printable("a"), printable("b"))), nil, 400, "challengePassword has 2 values"},
		{"challengePassword that is no text", enroll, withAttributes(attribute(oidChallengePassword, []byte{2, 1, 5})), nil, 400, "challengePassword is not a PrintableString"},
		{"challengePassword twice", enroll, withAttributes(attribute(oidChallengePassword, printable("a")), attribute(oidChallengePassword, printable("b"))), nil, 400, "occurs twice"},
		{"otpChallenge", enroll, withAttributes(attribute(oidOTPChallenge, printable("123456"))), nil, 400, "otpChallenge"},
		{"empty ChangeSubjectName", enroll, withAttributes(attribute(oidChangeSubjectName, []byte{0x30, 0})), nil, 400, "ChangeSubjectName does not parse"},
		{"subjectAltName of garbage", enroll, withAttributes(attribute(oidExtensionRequest, must(asn1.Marshal([]struct {
			ID    asn1.ObjectIdentifier
			Value []byte
		}{{oidSubjectAltName, []byte{1, 2, 3}}})))), nil, 400, "subjectAltName does not parse"},
		// RFC 7030 section 3.2.4: the media type.
		{"no Content-Type", enroll, good, func(r *http.Request) { delete(r.Header, "Content-Type") }, 415, "Content-Type"},
		{"curl's default type", enroll, good, header("Content-Type", "application/x-www-form-urlencoded"), 415, "application/pkcs10"},
		{"the type of an answer", enroll, good, header("Content-Type", "application/pkcs7-mime"), 415, "application/pkcs10"},
		{"two types", enroll, good, header("Content-Type", "application/pkcs10", "text/plain"), 415, "one Content-Type"},
		{"type of garbage", enroll, good, header("Content-Type", ";;;"), 415, "application/pkcs10"},
		{"two types in one header", enroll, good, header("Content-Type", "application/pkcs10, text/plain"), 415, "application/pkcs10"},
		{"compressed", enroll, good, header("Content-Encoding", "gzip"), 415, "Content-Encoding"},
		{"compressed, in a second header", enroll, good, header("Content-Encoding", "identity", "gzip"), 415, "Content-Encoding"},
		// The cap, announced and not.
		{"too large", enroll, bytes.Repeat([]byte("A"), 17<<10), nil, 413, "larger than 16384 bytes"},
		{"too large, chunked", enroll, bytes.Repeat([]byte("A"), 1<<20), chunked, 413, "larger than 16384 bytes"},
		// Authentication that does not parse (RFC 7617 section 2).
		{"Basic of garbage", enroll, good, header("Authorization", "Basic !!!"), 400, "not that of HTTP Basic"},
		{"Basic without a colon", enroll, good, header("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("factory"))), 400, "not that of HTTP Basic"},
		{"two Authorization headers", enroll, good, header("Authorization", "Basic Zjpw", "Basic Zjpx"), 400, "more than one Authorization"},
		{"control character in the user name", enroll, good, header("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("a\nb:c"))), 400, "characters"},
		{"endless password", enroll, good, header("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("a:"+strings.Repeat("x", 2000)))), 400, "too long"},
		// RFC 7030 section 4.2.2.
		{"re-enroll with nothing", "POST /simplereenroll", good, nil, 401, "TLS client authentication"},
		{"re-enroll with a password", "POST /simplereenroll", good, header("Authorization", "Basic Zjpw"), 403, "a password alone does not suffice here"},
		// RFC 7030 sections 3.2.2, 4.3.2 and 4.4.
		{"unknown operation", "POST /enroll", good, nil, 404, "no such EST operation"},
		{"unknown operation of a label", "GET /ran/capability", nil, nil, 404, "no such EST operation"},
		{"unknown label", "POST /nowhere/simpleenroll", good, nil, 404, "no EST endpoint has this label"},
		{"a label of another listener", "GET /elsewhere/cacerts", nil, nil, 404, "no EST endpoint has this label"},
		{"a path too long", "POST /ran/simpleenroll/now", good, nil, 404, "no such EST operation"},
		{"slash at the end", "POST /simpleenroll/", good, nil, 404, "no such EST operation"},
		{"the root", "GET ", nil, nil, 404, "no such EST operation"},
		{"fullcmc", "POST /ran/fullcmc", good, nil, 501, "Full CMC is not implemented"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			method, path, _ := strings.Cut(c.line, " ")
			before := len(w.gateway.rejected)
			r := w.enrollment(root+path, c.body)
			r.Method = method
			if c.modify != nil {
				c.modify(r)
			}
			got := send(t, w.client(nil, nil, nil), r)
			if got.StatusCode != c.status || !strings.Contains(got.body, c.message) {
				t.Errorf("%d %q, want %d %q", got.StatusCode, got.body, c.status, c.message)
			}
			if strings.Count(got.body, "\n") != 1 || !strings.HasSuffix(got.body, " (reference "+testReference+")\n") {
				t.Errorf("body %q", got.body)
			}
			if got.Header.Get("Content-Type") != "text/plain; charset=utf-8" || got.ContentLength != int64(len(got.body)) {
				t.Errorf("type %q, length %d", got.Header.Get("Content-Type"), got.ContentLength)
			}
			if (got.Header.Get("WWW-Authenticate") != "") != (c.status == 401) {
				t.Errorf("WWW-Authenticate %q with %d", got.Header.Get("WWW-Authenticate"), got.StatusCode)
			}
			if len(w.gateway.rejected) != before+1 {
				t.Errorf("%d reports to the gateway", len(w.gateway.rejected)-before)
			} else if noted := w.gateway.lastRejected(t); noted.request.Protocol != gateway.EST || !gateway.ValidID(noted.request.ID) || !noted.request.Source.IsLoopback() {
				t.Errorf("noted %+v", noted.request)
			}
		})
	}
	if len(w.gateway.enrolled) != 0 {
		t.Errorf("%d of them were enrolled", len(w.gateway.enrolled))
	}
}

// RFC 9110 section 15.5.6: 405 names the methods that there are.
func TestMethods(t *testing.T) {
	w := newWorld(t, worldOptions{})
	for op, allow := range map[string]string{
		"cacerts": "GET, HEAD", "csrattrs": "GET, HEAD", "renewal-info": "GET, HEAD", "simpleenroll": "POST", "simplereenroll": "POST", "serverkeygen": "POST", "fullcmc": "POST",
	} {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"} {
			if strings.Contains(allow, method) {
				continue
			}
			for _, label := range []string{"", "/plant"} {
				got := send(t, w.client(nil, nil, nil), w.request(method, root+label+"/"+op, nil))
				if got.StatusCode != 405 || got.Header.Get("Allow") != allow {
					t.Errorf("%s %s: %d, Allow %q", method, op, got.StatusCode, got.Header.Get("Allow"))
				}
				if method != "HEAD" && !strings.HasPrefix(got.body, "/"+op+" takes ") {
					t.Errorf("%s %s: %q", method, op, got.body)
				}
			}
		}
	}
}

// Without a default endpoint the path needs a label.
func TestNoDefault(t *testing.T) {
	w := newWorld(t, worldOptions{endpoints: []Endpoint{{Name: "ran"}}})
	got := send(t, w.client(nil, nil, nil), w.request("GET", root+"/cacerts", nil))
	if got.StatusCode != 404 || !strings.Contains(got.body, "/LABEL/cacerts") {
		t.Errorf("%d %q", got.StatusCode, got.body)
	}
	if got := send(t, w.client(nil, nil, nil), w.request("GET", root+"/ran/cacerts", nil)); got.StatusCode != 200 {
		t.Errorf("with a label: %d", got.StatusCode)
	}
}

// A body that never ends costs no more than the cap: the answer comes while the sender still sends.
func TestCapIsStreaming(t *testing.T) {
	w := newWorld(t, worldOptions{endpoints: []Endpoint{{Name: "ran", Default: true, Config: Config{Limits: wire.Limits{MaxBody: 4 << 10}}}}})
	r := w.request("POST", root+"/simpleenroll", nil)
	r.Header.Set("Content-Type", "application/pkcs10")
	endless := &endlessBody{}
	r.Body, r.ContentLength = endless, -1
	resp, err := w.client(nil, nil, nil).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 413 {
		t.Errorf("%d", resp.StatusCode)
	}
}

type endlessBody struct{}

func (*endlessBody) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'A'
	}
	return len(p), nil
}
func (*endlessBody) Close() error { return nil }
