package authz

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-pki/muster/authz/webhook"
	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

const asked4 = "challenge-of-the-service"

// decider is an operator's service that says whatever it is told to.
type decider struct {
	*httptest.Server
	mu        sync.Mutex
	status    int
	says      string
	questions []map[string]any
	keys      []string
}

func newDecider(t *testing.T) *decider {
	t.Helper()
	d := &decider{status: 200, says: `{"allow":true}`}
	d.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var q map[string]any
		if err := json.Unmarshal(body, &q); err != nil {
			t.Error(err)
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		d.questions, d.keys = append(d.questions, q), append(d.keys, r.Header.Get("Idempotency-Key"))
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(d.status)
		fmt.Fprint(w, d.says)
	}))
	t.Cleanup(d.Close)
	return d
}

func (d *decider) config() ChallengeConfig {
	none := 0
	return ChallengeConfig{Webhook: &webhook.Config{URL: d.URL, Retries: &none}}
}

// deviceOne is CN=device-1.
var deviceOne = []byte("\x30\x13\x31\x11\x30\x0f\x06\x03\x55\x04\x03\x0c\x08device-1")

// enrolling is a request by SCEP.
func enrolling(secret string) *gateway.Request {
	r := challenged(secret)
	r.ID, r.WireID, r.Endpoint, r.Protocol, r.Profile = "request-1", "77", "phones", gateway.SCEP, "phone"
	r.Subject, r.PublicKey, r.CSR = deviceOne, []byte("a key"), []byte("a request")
	r.Credentials = append([]gateway.Credential{{Kind: gateway.CredentialKey, ID: "of the key"}}, r.Credentials...)
	return r
}

// The service is asked with all that the documentation says (RFC 8894 section 2.4).
func TestChallengeWebhookQuestion(t *testing.T) {
	d := newDecider(t)
	s := newChallenge(t, d.config(), "")
	g := &gateway.Grant{Device: "device-1"}
	r := enrolling(asked4)
	r.Extensions = sanExtension(sans(t, 2, "device-1.example"))
	expect(t, s.Decide(context.Background(), r, g), gateway.Allow, "", "the webhook 127.0.0.1 allows it")
	if g.Requester != "challenge:webhook:127.0.0.1" {
		t.Errorf("requester %s", g.Requester)
	}
	sum := sha256.Sum256(r.PublicKey)
	want := map[string]any{
		"id": "request-1", "time": noon.UTC().Format(time.RFC3339), "endpoint": "phones", "protocol": "scep", "operation": "enroll", "transaction": "77",
		"challenge": asked4, "csr": base64.StdEncoding.EncodeToString(r.CSR), "key": hex.EncodeToString(sum[:]), "subject": "CN=device-1",
		"sans": []any{"dns:device-1.example"}, "profile": "phone", "device": "device-1", "source": "192.0.2.7",
	}
	if got, want := fmt.Sprint(d.questions[0]), fmt.Sprint(want); got != want {
		t.Errorf("asked\n%s, want\n%s", got, want)
	}
	endedDenies(t, s, r)
}

// What an answer comes to (RFC 8894 section 2.4).
func TestChallengeWebhookAnswers(t *testing.T) {
	for name, tt := range map[string]struct {
		status   int
		says     string
		decision gateway.Decision
		reason   gateway.Reason
		note     string
	}{
		"allowed":             {200, `{"allow":true,"reason":"known since Monday"}`, gateway.Allow, "", `allows it: "known since Monday"`},
		"denied":              {200, `{"allow":false,"reason":"lost"}`, gateway.Deny, gateway.Unauthenticated, `does not allow it: "lost"`},
		"denied, with more":   {200, `{"allow":false,"device":"device-2","profile":"none"}`, gateway.Deny, gateway.Unauthenticated, "does not allow it"},
		"echo":                {200, `{"allow":false,"reason":"` + asked4 + ` is wrong"}`, gateway.Deny, gateway.Unauthenticated, `"[secret] is wrong"`},
		"echo when allowed":   {200, `{"allow":true,"reason":"it is ` + asked4 + `"}`, gateway.Allow, "", `"it is [secret]"`},
		"long reason":         {200, `{"allow":false,"reason":"` + strings.Repeat("x", 5000) + `"}`, gateway.Deny, gateway.Unauthenticated, "xxx"},
		"control characters":  {200, `{"allow":false,"reason":"a\nb"}`, gateway.Deny, gateway.Unauthenticated, `"a\nb"`},
		"no decision":         {200, `{"reason":"hm"}`, gateway.CannotAnswer, gateway.Unavailable, "no `allow`"},
		"null":                {200, `{"allow":null}`, gateway.CannotAnswer, gateway.Unavailable, "no `allow`"},
		"unknown name":        {200, `{"allow":true,"hold":true}`, gateway.CannotAnswer, gateway.Unavailable, "not documented"},
		"other case":          {200, `{"Allow":true}`, gateway.CannotAnswer, gateway.Unavailable, "not documented"},
		"garbage":             {200, `allow`, gateway.CannotAnswer, gateway.Unavailable, "not one JSON object"},
		"down":                {500, `{"allow":true}`, gateway.CannotAnswer, gateway.Unavailable, "answered 500"},
		"forbidden":           {403, `{"allow":true}`, gateway.CannotAnswer, gateway.Unavailable, "answered 403"},
		"redirected":          {302, `{"allow":true}`, gateway.CannotAnswer, gateway.Unavailable, "redirections are not followed"},
		"device":              {200, `{"allow":true,"device":"device-1"}`, gateway.Allow, "", "allows it"},
		"device of controls":  {200, `{"allow":true,"device":"a\u0000"}`, gateway.CannotAnswer, gateway.Unavailable, "no `device`"},
		"device too long":     {200, `{"allow":true,"device":"` + strings.Repeat("x", 256) + `"}`, gateway.CannotAnswer, gateway.Unavailable, "no `device`"},
		"another device":      {200, `{"allow":true,"device":"device-2"}`, gateway.Deny, gateway.NotAuthorized, `this stage found device "device-2", an earlier one "device-1"`},
		"subject":             {200, `{"allow":true,"subject":"CN=device-1"}`, gateway.Allow, "", "for CN=device-1"},
		"another subject":     {200, `{"allow":true,"subject":"CN=device-2"}`, gateway.Deny, gateway.NotAuthorized, "it is for subject CN=device-2, the request asks for CN=device-1"},
		"no subject":          {200, `{"allow":true,"subject":"device"}`, gateway.CannotAnswer, gateway.Unavailable, "no `subject`"},
		"profile":             {200, `{"allow":true,"profile":"phone"}`, gateway.Allow, "", "profile phone"},
		"another profile":     {200, `{"allow":true,"profile":"router"}`, gateway.Deny, gateway.NotAuthorized, `not "phone"`},
		"profile of controls": {200, `{"allow":true,"profile":"\u0007"}`, gateway.CannotAnswer, gateway.Unavailable, "no `profile`"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDecider(t)
			d.status, d.says = tt.status, tt.says
			s := newChallenge(t, d.config(), "")
			r := enrolling(asked4)
			g := gateway.NewGrant(r, &gateway.Endpoint{Profile: &gateway.Profile{Name: "phone", Validity: time.Hour}}, noon)
			g.Device = "device-1"
			v := s.Decide(context.Background(), r, g)
			expect(t, v, tt.decision, tt.reason, tt.note)
			if strings.Contains(fmt.Sprintf("%+v", v), asked4) {
				t.Errorf("the challenge is told: %+v", v)
			}
			if v.Reason == gateway.Unauthenticated && (v.Detail != detailChallenge || g.Requester != "") {
				t.Errorf("the client is told %q; requester %s", v.Detail, g.Requester)
			}
			if len(v.Claims) != 0 {
				t.Errorf("claims %+v", v.Claims)
			}
		})
	}
}

// A device that the service names is the device; a profile that it gives is one of the endpoint's.
func TestChallengeWebhookNames(t *testing.T) {
	d := newDecider(t)
	s := newChallenge(t, d.config(), "")
	r := enrolling(asked4)
	r.Profile = ""
	phone, router := &gateway.Profile{Name: "phone", Validity: time.Hour}, &gateway.Profile{Name: "router", Validity: 2 * time.Hour}
	e := &gateway.Endpoint{Profile: phone, Profiles: map[string]*gateway.Profile{"phone": phone, "router": router}}
	for _, tt := range []struct {
		says, device, profile string
		decision              gateway.Decision
	}{
		{`{"allow":true,"device":"IMEI 1","profile":"router"}`, "IMEI 1", "router", gateway.Allow},
		{`{"allow":true,"profile":"phone"}`, "", "phone", gateway.Allow},
		{`{"allow":true}`, "", "phone", gateway.Allow},
		{`{"allow":true,"profile":"switch"}`, "", "phone", gateway.Deny},
	} {
		d.says = tt.says
		g := gateway.NewGrant(r, e, noon)
		expect(t, s.Decide(context.Background(), r, g), tt.decision, map[gateway.Decision]gateway.Reason{gateway.Deny: gateway.NotAuthorized}[tt.decision])
		if g.Device != tt.device || g.Profile != tt.profile {
			t.Errorf("%s: device %q, profile %q", tt.says, g.Device, g.Profile)
		}
	}
}

// The service is asked about what nobody else knows, and only then.
func TestChallengeWebhookLast(t *testing.T) {
	d := newDecider(t)
	c := d.config()
	c.Secrets, c.Issued = map[string]string{"ios": HashSecret([]byte(secret))}, true
	store := &desk{}
	store.issue("one that is over", gateway.IssuedChallenge{Endpoint: "phones", NotAfter: noon.Add(-time.Second)})
	store.issue("one of elsewhere", gateway.IssuedChallenge{Endpoint: "routers"})
	store.issue("one that is good", gateway.IssuedChallenge{Endpoint: "phones"})
	s, err := NewChallenge(c, "", NewHashing(1), store, atNoon)
	if err != nil {
		t.Fatal(err)
	}
	for challenge, want := range map[string]struct {
		decision gateway.Decision
		asked    int
	}{
		secret: {gateway.Allow, 0}, "one that is good": {gateway.Allow, 0}, "one that is over": {gateway.Deny, 0}, "one of elsewhere": {gateway.Deny, 0},
		"": {gateway.Deny, 0}, strings.Repeat("x", maxPassword+1): {gateway.Deny, 0}, "not UTF-8 \xff": {gateway.Deny, 0},
		"another": {gateway.Allow, 1}, strings.Repeat("x", maxPassword): {gateway.Allow, 1},
	} {
		d.questions = nil
		if v := s.Decide(context.Background(), enrolling(challenge), &gateway.Grant{}); v.Decision != want.decision || len(d.questions) != want.asked {
			t.Errorf("%.20q: %+v, asked %d times", challenge, v, len(d.questions))
		}
	}
	// Nobody is asked about a request without a challenge (a renewal has none, whatever the client sends: RFC 8894 section 2.4).
	d.questions = nil
	r := enrolling("x")
	r.Credentials = r.Credentials[:1]
	expect(t, s.Decide(context.Background(), r, &gateway.Grant{}), gateway.Deny, gateway.Unauthenticated, "no challenge")
	if len(d.questions) != 0 {
		t.Error("the service was asked")
	}
	// A name that does not parse cannot be judged by anybody.
	r = enrolling("another")
	r.Extensions = sanExtension([]byte("x"))
	expect(t, s.Decide(context.Background(), r, &gateway.Grant{}), gateway.Deny, gateway.BadTemplate)
	if len(d.questions) != 0 {
		t.Error("the service was asked")
	}
}

// A repeat is known by the key that signed it: the service, which may count the challenge as spent, is not asked again. Without such
// a key nobody is known.
func TestChallengeWebhookRepeat(t *testing.T) {
	d := newDecider(t)
	s := newChallenge(t, d.config(), "")
	r := enrolling(asked4)
	v, proves := s.Identify(context.Background(), r, &gateway.Grant{})
	expect(t, v, gateway.Allow, "", "not asked again")
	if !proves {
		t.Error("the signer of the message is nobody")
	}
	r.Credentials = r.Credentials[1:]
	if v, proves = s.Identify(context.Background(), r, &gateway.Grant{}); v.Decision != gateway.Allow || proves {
		t.Errorf("a challenge alone proves: %+v", v)
	}
	r.Credentials = nil
	if v, _ = s.Identify(context.Background(), r, &gateway.Grant{}); v.Decision != gateway.Deny {
		t.Errorf("without a challenge: %+v", v)
	}
	if len(d.questions) != 0 {
		t.Error("the service was asked")
	}
}

// Questions about the same have one key, by which the service knows them: also where the request is another. What it may decide
// by is in the key: it answers a key as it did before, and a challenge is good for one subject (RFC 8894 section 2.4).
func TestChallengeWebhookIdempotency(t *testing.T) {
	d := newDecider(t)
	s := newChallenge(t, d.config(), "")
	decide := func(change func(*gateway.Request)) {
		r := enrolling(asked4)
		change(r)
		expect(t, s.Decide(context.Background(), r, &gateway.Grant{}), gateway.Allow, "")
	}
	for _, same := range []func(*gateway.Request){
		func(*gateway.Request) {}, func(r *gateway.Request) { r.ID = "request-2" }, func(r *gateway.Request) { r.Received = noon.Add(time.Minute) },
		func(r *gateway.Request) { r.CSR = []byte("signed anew") },
	} {
		decide(same)
	}
	if len(slices.Compact(slices.Clone(d.keys))) != 1 || len(d.keys[0]) != 64 || strings.Contains(d.keys[0], asked4) {
		t.Errorf("%q", d.keys)
	}
	for name, other := range map[string]func(*gateway.Request){
		"challenge": func(r *gateway.Request) { r.Credentials[1].Secret = gateway.Secret("another") }, "signer": func(r *gateway.Request) { r.Credentials[0].ID = "x" },
		"key": func(r *gateway.Request) { r.PublicKey = []byte("x") }, "transaction": func(r *gateway.Request) { r.WireID = "x" },
		"endpoint": func(r *gateway.Request) { r.Endpoint = "x" }, "operation": func(r *gateway.Request) { r.Operation = gateway.Rekey },
		"subject": func(r *gateway.Request) {
			r.Subject = bytes.Replace(deviceOne, []byte("device-1"), []byte("device-2"), 1)
		}, "profile": func(r *gateway.Request) { r.Profile = "x" },
		"subjectAltName": func(r *gateway.Request) {
			r.Extensions = []pkix.Extension{{Id: oidSubjectAltName, Value: []byte("\x30\x03\x82\x01a")}}
		},
		"subjectAltName of another name": func(r *gateway.Request) {
			r.Extensions = []pkix.Extension{{Id: oidSubjectAltName, Value: []byte("\x30\x03\x82\x01b")}}
		},
		"subjectAltName, critical": func(r *gateway.Request) {
			r.Extensions = []pkix.Extension{{Id: oidSubjectAltName, Critical: true, Value: []byte("\x30\x03\x82\x01a")}}
		},
	} {
		decide(other)
		if last := len(d.keys) - 1; slices.Contains(d.keys[:last], d.keys[last]) {
			t.Errorf("another %s has the same key", name)
		}
	}
	g := &gateway.Grant{}
	g.NameDevice("device-1")
	expect(t, s.Decide(context.Background(), enrolling(asked4), g), gateway.Allow, "")
	if last := len(d.keys) - 1; slices.Contains(d.keys[:last], d.keys[last]) {
		t.Error("another device has the same key")
	}
}

// Many guesses at once get no further than one after the other, but for those that are asked at once.
func TestChallengeWebhookLimitAtOnce(t *testing.T) {
	d := newDecider(t)
	d.says = `{"allow":false}`
	c := d.config()
	c.Webhook.Concurrency, c.Webhook.Timeout = 1, strictyaml.Duration(30*time.Second)
	c.Limit = PasswordLimit{Burst: 2, Every: strictyaml.Duration(10 * time.Second)}
	s := newChallenge(t, c, "")
	d.mu.Lock() // it is asked, and says nothing yet
	verdicts, reached := make(chan gateway.Verdict, 20), make(chan struct{})
	s.now = func() time.Time { reached <- struct{}{}; return noon } // as each makes its question
	for range cap(verdicts) {
		go func() { verdicts <- s.Decide(context.Background(), enrolling(asked4), &gateway.Grant{}) }()
	}
	for range cap(verdicts) {
		<-reached
	}
	d.mu.Unlock()
	busy := 0
	for range cap(verdicts) {
		if v := <-verdicts; v.Reason == gateway.Busy {
			busy++
		}
	}
	if n := len(d.questions); n < 2 || n > 2+2*c.Webhook.Concurrency || busy != cap(verdicts)-n {
		t.Errorf("%d were asked, %d were told to wait", len(d.questions), busy)
	}
}

// Guesses are bounded; right ones, and a service that is down, count for nothing.
func TestChallengeWebhookLimit(t *testing.T) {
	d := newDecider(t)
	c := d.config()
	c.Limit = PasswordLimit{Burst: 2, Every: strictyaml.Duration(10 * time.Second)}
	s := newChallenge(t, c, "")
	ask := func(status int, says string) gateway.Verdict {
		d.status, d.says = status, says
		return s.Decide(context.Background(), enrolling(asked4), &gateway.Grant{})
	}
	for range 5 {
		expect(t, ask(200, `{"allow":true}`), gateway.Allow, "")
		expect(t, ask(500, ``), gateway.CannotAnswer, gateway.Unavailable)
	}
	for range 2 {
		expect(t, ask(200, `{"allow":false}`), gateway.Deny, gateway.Unauthenticated)
	}
	before := len(d.questions)
	v := ask(200, `{"allow":true}`)
	expect(t, v, gateway.Deny, gateway.Busy, "192.0.2.7/32", "10s")
	if v.RetryAfter != 10*time.Second || len(d.questions) != before {
		t.Errorf("%v, asked %d more times", v.RetryAfter, len(d.questions)-before)
	}
}

func TestChallengeWebhookConfigErrors(t *testing.T) {
	for want, c := range map[string]ChallengeConfig{
		"webhook: url: where the service is":          {Webhook: &webhook.Config{}},
		"webhook does not go with argon2id entries":   {Webhook: &webhook.Config{URL: "https://example.com"}, Secrets: map[string]string{"typed": anna()}},
		"give secrets or file, issued: true, or webh": {},
	} {
		s, err := NewChallenge(c, "", NewHashing(1), nil, atNoon)
		if wantError(t, err, want); s != nil {
			t.Errorf("%s: made", want)
		}
	}
}
