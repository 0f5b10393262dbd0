package cmp

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptrace"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
	"github.com/muster-pki/muster/protocols/wire"
)

func (w *world) request(method, path, contentType string, body io.Reader) (*http.Response, string) {
	w.t.Helper()
	r, err := http.NewRequest(method, w.server.URL+path, body)
	if err != nil {
		w.t.Fatal(err)
	}
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	resp, err := w.http.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp, string(b)
}

// POST alone, one type, 200 for all that is a PKIMessage (RFC 9811 sections 3.1 to 3.4).
func TestHTTP(t *testing.T) {
	w := newWorld(t, worldOptions{config: Config{Limits: wire.Limits{MaxBody: 8192}}})
	message := func() []byte {
		return w.macClient("ref-1").message(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "x"}.body(t))
	}
	const cmp = "application/pkixcmp"
	for name, tt := range map[string]struct {
		method, path, contentType string
		body                      []byte
		status                    int
		text                      string
	}{
		"well-known":            {"POST", "/.well-known/cmp", cmp, message(), 200, ""},
		"with an operation":     {"POST", "/.well-known/cmp/initialization", cmp, message(), 200, ""},
		"endpoint":              {"POST", "/.well-known/cmp/p/plant", cmp, message(), 200, ""},
		"endpoint, operation":   {"POST", "/.well-known/cmp/p/plant/keyupdate", cmp, message(), 200, ""},
		"short":                 {"POST", "/cmp", cmp, message(), 200, ""},
		"short, slash":          {"POST", "/cmp/", cmp, message(), 200, ""},
		"short, endpoint":       {"POST", "/cmp/plant", cmp, message(), 200, ""},
		"short, operation":      {"POST", "/cmp/pkcs10", cmp, message(), 200, ""},
		"type with parameters":  {"POST", "/cmp", "Application/PKIXCMP; charset=utf-8", message(), 200, ""},
		"rubbish":               {"POST", "/cmp", cmp, []byte("rubbish"), 200, ""},
		"nothing":               {"POST", "/cmp", cmp, nil, 200, ""},
		"no such endpoint":      {"POST", "/cmp/nowhere", cmp, message(), 404, "no CMP endpoint has this name"},
		"not on this listener":  {"POST", "/cmp/elsewhere", cmp, message(), 404, "no CMP endpoint has this name"},
		"no p":                  {"POST", "/.well-known/cmp/plant", cmp, message(), 404, "no CMP server at this path"},
		"too deep":              {"POST", "/cmp/plant/keyupdate/x", cmp, message(), 404, "no CMP server at this path"},
		"GET":                   {"GET", "/cmp", "", nil, 405, "POST"},
		"HEAD":                  {"HEAD", "/cmp", "", nil, 405, ""},
		"another type":          {"POST", "/cmp", "application/pkcs10", message(), 415, "application/pkixcmp"},
		"no type":               {"POST", "/cmp", "", message(), 415, "application/pkixcmp"},
		"a type that begins so": {"POST", "/cmp", "application/pkixcmp-poll", message(), 415, "application/pkixcmp"},
		"too large":             {"POST", "/cmp", cmp, make([]byte, 8193), 413, "8192 bytes"},
	} {
		resp, body := w.request(tt.method, tt.path, tt.contentType, bytes.NewReader(tt.body))
		if resp.StatusCode != tt.status || !strings.Contains(body, tt.text) {
			t.Errorf("%s: %s %q", name, resp.Status, body)
		}
		want := "text/plain; charset=utf-8"
		if tt.status == 200 {
			want = cmp
		}
		if got := resp.Header.Get("Content-Type"); got != want {
			t.Errorf("%s: type %q", name, got)
		}
		if allow := resp.Header.Get("Allow"); (allow == "POST") != (tt.status == 405) {
			t.Errorf("%s: Allow %q", name, allow)
		}
		if resp.Close != (tt.status == 413) {
			t.Errorf("%s: the connection is closed: %v", name, resp.Close)
		}
	}
	// A length that is not told.
	resp, _ := w.request("POST", "/cmp", cmp, io.MultiReader(bytes.NewReader(make([]byte, 9000))))
	if resp.StatusCode != 413 {
		t.Errorf("chunked: %s", resp.Status)
	}
}

// The operations at the end of a path are not looked at (RFC 9811 section 3.4), nor is Accept, and a body may come in chunks.
func TestPaths(t *testing.T) {
	w := newWorld(t, worldOptions{})
	for _, root := range []string{"/.well-known/cmp", "/.well-known/cmp/p/plant", "/cmp", "/cmp/plant"} {
		for _, operation := range []string{
			"initialization", "certification", "keyupdate", "pkcs10", "revocation", "getcacerts", "getrootupdate", "getcertreqtemplate", "getcrls", "nested",
		} {
			der := w.macClient("ref-1").message(genm(cmpmsg.OIDCACerts))
			r, err := http.NewRequest("POST", w.server.URL+root+"/"+operation, io.MultiReader(bytes.NewReader(der)))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", typePKIXCMP)
			r.Header.Set("Accept", "text/html")
			resp, err := w.http.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			m, _ := cmpmsg.Parse(body)
			if err != nil || resp.StatusCode != 200 || resp.Header.Get("Content-Type") != typePKIXCMP || m == nil || m.Body.Type() != cmpmsg.TypeGenP || r.ContentLength > 0 {
				t.Errorf("%s/%s: %s %q, %v", root, operation, resp.Status, body, err)
			}
		}
	}
}

// One connection carries a whole transaction (RFC 9811 section 3.1).
func TestKeepAlive(t *testing.T) {
	w := newWorld(t, worldOptions{})
	var reused []bool
	trace := &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = append(reused, i.Reused) }}
	transport := w.http.Transport
	w.http = &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		return transport.RoundTrip(r.WithContext(httptrace.WithClientTrace(r.Context(), trace)))
	})}
	c, cert := enrolled(t, w, w.macClient("ref-1"))
	c.ask(confirmation(certHash(cert), 0))
	if len(reused) != 2 || reused[0] || !reused[1] {
		t.Errorf("%v", reused)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestPanics(t *testing.T) {
	w := newWorld(t, worldOptions{})
	ir := crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "x"}.body(t)
	w.gateway.panics = "Enroll"
	m := w.macClient("ref-1").ask(ir)
	if fail, text, _ := failure(m); fail != cmpmsg.SystemFailure || strings.Contains(text, "enroll failed") {
		t.Errorf("%b, %q", fail, text)
	}
	w.gateway.panics = "Reject"
	c := w.macClient("ref-1")
	c.secret = []byte("wrong")
	resp, body := w.request("POST", "/cmp", "application/pkixcmp", bytes.NewReader(c.message(ir)))
	if resp.StatusCode != 500 || !strings.HasPrefix(body, "internal server error (reference ") {
		t.Errorf("%s, %q", resp.Status, body)
	}
	for _, want := range []string{"enroll failed", "reject failed", "stack="} {
		if !strings.Contains(w.log.String(), want) {
			t.Errorf("the log does not say %q", want)
		}
	}
	if log := w.log.String(); strings.Contains(log, "correct horse") {
		t.Error("a secret is in the log")
	}
}

// Without an identity nothing is answered, and nothing is issued.
func TestNoIdentity(t *testing.T) {
	w := newWorld(t, worldOptions{})
	identity := w.identity
	der := w.macClient("ref-1").message(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "x"}.body(t))
	for _, id := range []*gateway.Identity{nil, {}, {Key: identity.Key}, {Certificate: identity.Certificate}} {
		w.identity = id
		resp, body := w.request("POST", "/cmp", "application/pkixcmp", bytes.NewReader(der))
		if resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "30" || w.gateway.issued != 0 {
			t.Errorf("%s, %q", resp.Status, body)
		}
	}
}

func TestStoreFails(t *testing.T) {
	w := newWorld(t, worldOptions{})
	c := w.macClient("ref-1")
	w.gateway.fails = errStore
	if fail, text, _ := failure(c.ask(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "x"}.body(t))); fail != cmpmsg.SystemUnavail || strings.Contains(text, "disk") {
		t.Errorf("%b, %q", fail, text)
	}
}

type dry struct{}

func (dry) Read([]byte) (int, error) { return 0, errors.New("no entropy") }

// Without randomness there is no answer with a constant nonce.
func TestNoRandomness(t *testing.T) {
	w := newWorld(t, worldOptions{})
	w.handler.rand = dry{}
	der := w.macClient("ref-1").message(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "x"}.body(t))
	if resp, body := w.request("POST", "/cmp", "application/pkixcmp", bytes.NewReader(der)); resp.StatusCode != 500 || w.gateway.issued != 0 {
		t.Errorf("%s, %q", resp.Status, body)
	}
}

// protection: signature signs every answer (RFC 9810 sections 5.1, 5.3.2, 5.3.21); caPubs is then for those who configure it.
func TestProtectionAndCAPubs(t *testing.T) {
	for _, tt := range []struct {
		config Config
		signed bool // the request
		kind   cmpmsg.BodyType
		mac    bool // the answer
		caPubs bool
	}{
		{Config{}, false, cmpmsg.TypeIR, true, true},
		{Config{}, false, cmpmsg.TypeCR, true, false},
		{Config{}, true, cmpmsg.TypeIR, false, false},
		{Config{CAPubs: true}, true, cmpmsg.TypeIR, false, true},
		{Config{CAPubs: true}, false, cmpmsg.TypeCR, true, true},
		{Config{Protection: ProtectSignature}, false, cmpmsg.TypeIR, false, false},
		{Config{Protection: ProtectSignature, CAPubs: true}, false, cmpmsg.TypeIR, false, true},
	} {
		w := newWorld(t, worldOptions{config: tt.config})
		c := w.macClient("ref-1")
		if tt.signed {
			c = w.vendorClient("x")
		}
		m := c.ask(crmf{kind: tt.kind, key: newP256(), subject: "x"}.body(t))
		certificate(t, m, answerTo(tt.kind))
		pubs := m.Body.(*cmpmsg.CertRepMessage).CAPubs
		if m.Header.ProtectionAlg.IsMAC() != tt.mac || (len(pubs) == 1 && bytes.Equal(pubs[0], w.ca.root.Raw)) != tt.caPubs || len(pubs) > 1 {
			t.Errorf("%+v: MAC %v, %d caPubs", tt, m.Header.ProtectionAlg.IsMAC(), len(pubs))
		}
		// The chain of the certificate is in extraCerts, whatever protects the answer; each certificate once.
		want := [][]byte{w.identity.Certificate.Raw, w.ca.issuer.Raw, w.ca.root.Raw}
		if tt.mac {
			want = want[1:]
		}
		if !bytes.Equal(bytes.Join(m.ExtraCerts, nil), bytes.Join(want, nil)) {
			t.Errorf("%+v: %d extraCerts", tt, len(m.ExtraCerts))
		}
	}
}

func TestPBMAC1(t *testing.T) {
	w := newWorld(t, worldOptions{})
	c := w.macClient("ref-1")
	c.mac = func(salt []byte) (*cmpmsg.MAC, error) { return cmpmsg.NewPBMAC1(5, 5, 1000, salt) }
	m := c.ask(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "x"}.body(t))
	certificate(t, m, cmpmsg.TypeIP)
	if !m.Header.ProtectionAlg.OID.Equal(cmpmsg.OIDPBMAC1) {
		t.Errorf("%v", m.Header.ProtectionAlg.OID)
	}
}

func TestConfig(t *testing.T) {
	type file struct {
		CMP Config `yaml:"cmp"`
	}
	var f file
	text := "cmp:\n  confirm: explicit\n  confirm-wait: 2d\n  unconfirmed: keep\n  clock-skew: any\n  protection: signature\n  ca-pubs: true\n  max-body: 8192\n  retry-after: 2m\n  legacy: [sha1]\n"
	if err := strictyaml.Decode("muster.yaml", []byte(text), &f); err != nil {
		t.Fatal(err)
	}
	c := f.CMP
	if c.Confirm != ConfirmExplicit || time.Duration(c.ConfirmWait) != 48*time.Hour || c.Unconfirmed != UnconfirmedKeep || !c.ClockSkew.Any ||
		c.Protection != ProtectSignature || !c.CAPubs || c.MaxBody != 8192 || time.Duration(c.RetryAfter) != 2*time.Minute || !c.allowSHA1() {
		t.Errorf("%+v", c)
	}
	d := Config{}.WithDefaults()
	if d.Confirm != ConfirmOnRequest || time.Duration(d.ConfirmWait) != 5*time.Minute || d.Unconfirmed != UnconfirmedRevoke || d.ClockSkew != (Skew{Window: 300 * time.Second}) ||
		d.Protection != ProtectAsRequest || d.CAPubs || d.MaxBody != 256<<10 || time.Duration(d.RetryAfter) != 30*time.Second || d.allowSHA1() {
		t.Errorf("defaults %+v", d)
	}
	f = file{}
	if err := strictyaml.Decode("muster.yaml", []byte("cmp:\n  clock-skew: 14d\n"), &f); err != nil || f.CMP.ClockSkew != (Skew{Window: 14 * 24 * time.Hour}) {
		t.Errorf("%v, %+v", err, f.CMP)
	}
	for text, want := range map[string]string{
		"confirm: never":      "confirm: not one of on-request, explicit",
		"confirm-wait: 1ms":   "confirm-wait: not from 1s to 90d",
		"confirm-wait: 91d":   "confirm-wait",
		"unconfirmed: forget": "unconfirmed: not one of revoke, keep",
		"clock-skew: some":    "clock-skew wants a period such as 300s, or any",
		"clock-skew: 91d":     "clock-skew: not from 1s to 90d, nor any",
		"clock-skew: [any]":   "clock-skew",
		"protection: none":    "protection: not one of as-request, signature",
		"max-body: 1":         "max-body: not from 4096 to 262144",
		"max-body: 262145":    "max-body",
		"retry-after: 10ms":   "retry-after: not from 1s to 24h",
		"legacy: [md5]":       "legacy: not a list of sha1",
		"ca-pubs: perhaps":    "ca-pubs",
		"confirm-wiat: 1m":    `did you mean "confirm-wait"`,
	} {
		var f file
		if err := strictyaml.Decode("muster.yaml", []byte("cmp:\n  "+text), &f); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestNewChecksEndpoints(t *testing.T) {
	identity := func(string) *gateway.Identity { return nil }
	log := slog.New(slog.DiscardHandler)
	options := func(endpoints ...Endpoint) Options {
		return Options{Gateway: &fakeGateway{}, Identity: identity, Clock: time.Now, Log: log, Endpoints: endpoints}
	}
	for name, o := range map[string]Options{
		"no gateway":          {Identity: identity, Clock: time.Now, Log: log},
		"no identity":         {Gateway: &fakeGateway{}, Clock: time.Now, Log: log},
		"no clock":            {Gateway: &fakeGateway{}, Identity: identity, Log: log},
		"no log":              {Gateway: &fakeGateway{}, Identity: identity, Clock: time.Now},
		"no name":             options(Endpoint{}),
		"a slash":             options(Endpoint{Name: "a/b"}),
		"p":                   options(Endpoint{Name: "p"}),
		"an operation":        options(Endpoint{Name: "keyupdate"}),
		"twice":               options(Endpoint{Name: "a"}, Endpoint{Name: "a"}),
		"two defaults":        options(Endpoint{Name: "a", Default: true}, Endpoint{Name: "b", Default: true}),
		"a bad configuration": options(Endpoint{Name: "a", Config: Config{Confirm: "no"}}),
	} {
		if _, err := New(o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	h, err := New(options(Endpoint{Name: "ran", Default: true}, Endpoint{Name: "pp_1.2~x-y"}))
	if err != nil || len(h.endpoints) != 2 || h.fallback.Name != "ran" || h.rand == nil {
		t.Errorf("%v, %+v", err, h)
	}
}

func TestEveryReasonHasAFailInfo(t *testing.T) {
	for _, reason := range gateway.Reasons {
		fail, known := failInfoOf(reason)
		if !known {
			t.Errorf("%s falls to the default", reason)
		}
		if s := statusInfo(&gateway.Error{Reason: reason}, 0); s.Status != cmpmsg.StatusRejection || s.FailInfo != fail || len(s.Text) != 1 || s.Text[0] == "" || s.Text[0] == "failed" {
			t.Errorf("%s: %+v", reason, s)
		}
	}
	if _, known := failInfoOf("no-such-reason"); known {
		t.Error("an unknown reason counts as known: this test could not fail")
	}
	want := map[gateway.Reason]cmpmsg.FailInfo{
		gateway.Malformed: cmpmsg.BadDataFormat, gateway.Undecryptable: cmpmsg.BadMessageCheck, gateway.BadIntegrity: cmpmsg.BadMessageCheck,
		gateway.WrongProtection: cmpmsg.WrongIntegrity, gateway.Untrusted: cmpmsg.SignerNotTrusted, gateway.Unauthenticated: cmpmsg.BadMessageCheck,
		gateway.BadAlgorithm: cmpmsg.BadAlg, gateway.BadTime: cmpmsg.BadTime, gateway.BadPOP: cmpmsg.BadPOP, gateway.BadTemplate: cmpmsg.BadCertTemplate,
		gateway.UnknownCert: cmpmsg.BadCertID, gateway.Revoked: cmpmsg.CertRevoked, gateway.NotAuthorized: cmpmsg.NotAuthorized,
		gateway.DuplicateCert: cmpmsg.DuplicateCertReq, gateway.Unsupported: cmpmsg.BadRequest, gateway.Busy: cmpmsg.SystemUnavail,
		gateway.Unavailable: cmpmsg.SystemUnavail, gateway.Internal: cmpmsg.SystemFailure,
	}
	for reason, fail := range want {
		if got, _ := failInfoOf(reason); got != fail {
			t.Errorf("%s: %b", reason, got)
		}
	}
}

func TestRecord(t *testing.T) {
	w := newWorld(t, worldOptions{})
	enrolled(t, w, w.macClient("ref-1"))
	good := w.gateway.tx(t).Exchange
	rec, err := decodeRecord(good)
	if err != nil {
		t.Fatal(err)
	}
	again, err := rec.encode()
	if err != nil || !bytes.Equal(again, good) {
		t.Errorf("%v\n%s\n%s", err, good, again)
	}
	for name, change := range map[string]func(*record){
		"another version": func(r *record) { r.Version = 2 },
		"no nonce":        func(r *record) { r.Answer.Nonce = nil },
		"no salt":         func(r *record) { r.Answer.Salt = nil },
		"no key":          func(r *record) { r.Key = nil },
		"no hash":         func(r *record) { r.Message = nil },
		"MAC and signer":  func(r *record) { r.Signer = []byte{1} },
		"neither":         func(r *record) { r.MAC = false },
		"half confirmed":  func(r *record) { r.Confirmed = &confirmed{} },
	} {
		r := *rec
		change(&r)
		b, err := r.encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeRecord(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for _, b := range [][]byte{nil, []byte("{}"), []byte("[]"), []byte("\x00")} {
		if _, err := decodeRecord(b); err == nil {
			t.Errorf("%q: accepted", b)
		}
	}
	// The record of another version, in an open transaction: nothing is guessed.
	w.gateway.tx(t).Exchange = []byte(`{"v":99}`)
	c := w.macClient("ref-1")
	c.txid, c.peer = mustHex(t, w.gateway.tx(t).WireID), random(16)
	if fail, _, _ := failure(c.ask(confirmation(random(32), 0))); fail != cmpmsg.SystemFailure {
		t.Errorf("%b", fail)
	}
}
