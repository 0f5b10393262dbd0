package est

import (
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/passhash"
)

// TestDigestVector is the example of RFC 7616 section 3.9.1, with SHA-256.
func TestDigestVector(t *testing.T) {
	a, err := parseDigest(`username="Mufasa", realm="http-auth@example.org", uri="/dir/index.html", algorithm=SHA-256, ` +
		`nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", nc=00000001, cnonce="f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ", qop=auth, ` +
		`response="753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"`)
	if err != nil {
		t.Fatal(err)
	}
	if a.user != "Mufasa" {
		t.Errorf("user %q", a.user)
	}
	if got, want := hex.EncodeToString(a.expected(passhash.HA1(a.user, a.realm, []byte("Circle of Life")), "GET")), hex.EncodeToString(a.response); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := a.expected(passhash.HA1(a.user, a.realm, []byte("Circle of Life")), "POST"); hex.EncodeToString(got) == hex.EncodeToString(a.response) {
		t.Error("the method is no part of it")
	}
}

// digestWorld is a server whose endpoint ran offers both and whose endpoint plant offers Digest alone; its clock can be moved.
func digestWorld(t *testing.T) (*world, *atomic.Int64) {
	t.Helper()
	w := newWorld(t, worldOptions{endpoints: []Endpoint{
		{Name: "ran", Default: true, Config: Config{HTTPAuth: []HTTPAuth{HTTPAuthBasic, HTTPAuthDigest}}},
		{Name: "plant", Config: Config{HTTPAuth: []HTTPAuth{HTTPAuthDigest}}}, {Name: "basic"}, {Name: "elsewhere"},
	}})
	var later atomic.Int64
	w.handler.now = func() time.Time { return testTime.Add(time.Duration(later.Load())) }
	w.gateway.enroll = func(r *gateway.Request) (*gateway.Result, error) { return w.signByDigest(r) }
	return w, &later
}

// signByDigest is a gateway in which anna has the password geheim.
func (w *world) signByDigest(r *gateway.Request) (*gateway.Result, error) {
	c, ok := r.Credential(gateway.CredentialPassword)
	if !ok || c.Digest == nil || len(c.Secret) > 0 || c.String() != "password:anna" || !c.Digest.Matches(passhash.HA1("anna", c.Digest.Realm, []byte("geheim"))) {
		return nil, gateway.Errorf(gateway.Unauthenticated, "user name or password is wrong", "")
	}
	if !c.Digest.Matches(passhash.HA1("anna", c.Digest.Realm, []byte("geheim"))) {
		return nil, gateway.Errorf(gateway.Internal, "another stage may not compare it", "")
	}
	return w.sign(r)
}

// challenged returns the Digest challenge in an answer: a nonce, and the rest.
func challenged(t *testing.T, r reply) (nonce, rest string) {
	t.Helper()
	c := r.Header.Values("WWW-Authenticate")
	if r.StatusCode != 401 || len(c) == 0 || !strings.HasPrefix(c[0], "Digest ") {
		t.Fatalf("%d %v %s", r.StatusCode, c, r.body)
	}
	before, after, _ := strings.Cut(c[0], `nonce="`)
	nonce, after, _ = strings.Cut(after, `"`)
	return nonce, before + after
}

// authorization is the answer of a client that knows the password.
func authorization(user, realm, password, nonce, nc, method, uri string) string {
	a := &digestAnswer{nonce: nonce, nc: nc, cnonce: "0a4f113b", uri: uri}
	return fmt.Sprintf(`Digest username="%s", realm="%s", nonce="%s", uri="%s", cnonce="0a4f113b", nc=%s, qop=auth, response="%x", algorithm=SHA-256`,
		user, realm, nonce, uri, nc, a.expected(passhash.HA1(user, realm, []byte(password)), method))
}

// RFC 7030 section 3.2.3 with RFC 7616 sections 3.3 and 3.4: what is challenged, and which answers are taken.
func TestDigest(t *testing.T) {
	w, _ := digestWorld(t)
	client := w.client(nil, nil, nil)
	body := b64(makeCSR(t, csrOptions{key: newP256()}))
	post := func(path, auth string) reply {
		t.Helper()
		r := w.enrollment(path, body)
		if auth != "" {
			r.Header.Set("Authorization", auth)
		}
		return send(t, client, r)
	}
	const ran, plant = root + "/simpleenroll", root + "/plant/simpleenroll"

	// What is offered, and in which order.
	first := post(ran, "")
	nonce, rest := challenged(t, first)
	if rest != `Digest realm="ran", qop="auth", algorithm=SHA-256, ` { // RFC 7616 section 3.3 on what is quoted
		t.Errorf("challenge %q", rest)
	}
	bc := w.enrollment(ran, body)
	bc.Header.Set("User-Agent", "") // net/http sends none then
	if _, rest := challenged(t, send(t, client, bc)); rest != `Digest realm="ran", qop="auth", algorithm="SHA-256", ` {
		t.Errorf("BouncyCastle's challenge %q", rest)
	}
	if c := first.Header.Values("WWW-Authenticate"); len(c) != 2 || c[1] != `Basic realm="ran", charset="UTF-8"` {
		t.Errorf("beside it %q", c)
	}
	alone := post(plant, "")
	plantNonce, _ := challenged(t, alone)
	if c := alone.Header.Values("WWW-Authenticate"); len(c) != 1 {
		t.Errorf("Digest alone: %q", c)
	}
	libest := w.enrollment(ran, body)
	libest.Header.Set("User-Agent", "libest 1.0")
	if c := send(t, client, libest).Header.Values("WWW-Authenticate"); len(c) != 2 || !strings.HasPrefix(c[0], "Basic") || !strings.HasPrefix(c[1], "Digest") {
		t.Errorf("libest is offered %q", c)
	}
	if again, _ := challenged(t, post(ran, "")); again == nonce {
		t.Error("the same nonce twice")
	}

	changed := func(s string, at int) string { // in one character of base64
		other := "A"
		if s[at] == 'A' {
			other = "B"
		}
		return s[:at] + other + s[at+1:]
	}
	good := authorization("anna", "ran", "geheim", nonce, "00000001", "POST", ran)
	for _, c := range []struct {
		name, path, auth string
		status           int
		says             string
	}{
		{"wrong password", ran, authorization("anna", "ran", "falsch", nonce, "00000001", "POST", ran), 401, "user name or password"},
		{"unknown user", ran, authorization("otto", "ran", "geheim", nonce, "00000001", "POST", ran), 401, "user name or password"},
		{"another method", ran, authorization("anna", "ran", "geheim", nonce, "00000001", "GET", ran), 401, "user name or password"},
		{"changed cnonce", ran, strings.Replace(good, "0a4f113b", "0a4f113c", 1), 401, "user name or password"},
		{"changed nc", ran, strings.Replace(good, "nc=00000001", "nc=00000002", 1), 401, "user name or password"},
		{"another path", ran, authorization("anna", "ran", "geheim", nonce, "00000001", "POST", root+"/simplereenroll"), 400, "uri"},
		{"a query that is not there", ran, authorization("anna", "ran", "geheim", nonce, "00000001", "POST", ran+"?x"), 400, "uri"},
		{"another realm", ran, authorization("anna", "plant", "geheim", nonce, "00000001", "POST", ran), 401, "realm"},
		{"another endpoint's nonce", ran, authorization("anna", "ran", "geheim", plantNonce, "00000001", "POST", ran), 401, "nonce"},
		{"a nonce of another time", ran, authorization("anna", "ran", "geheim", changed(nonce, 9), "00000001", "POST", ran), 401, "nonce"},
		{"a nonce with another tag", ran, authorization("anna", "ran", "geheim", changed(nonce, 40), "00000001", "POST", ran), 401, "nonce"},
		{"a longer nonce", ran, authorization("anna", "ran", "geheim", nonce+"AAAA", "00000001", "POST", ran), 401, "nonce"},
		{"MD5", ran, strings.Replace(good, "SHA-256", "MD5", 1), 401, "SHA-256"},
		{"no algorithm, which is MD5", ran, strings.Replace(good, ", algorithm=SHA-256", "", 1), 401, "SHA-256"},
		{"a session", ran, strings.Replace(good, "SHA-256", "SHA-256-sess", 1), 401, "SHA-256"},
		{"malformed", ran, `Digest username="anna`, 400, "RFC 7616"},
		{"twice", ran, good + `, realm="ran"`, 400, "twice"},
		{"control characters in the name", ran, authorization("an\u0085na", "ran", "geheim", nonce, "00000001", "POST", ran), 400, "user name"},
		{"a long name", ran, authorization(strings.Repeat("a", maxUserName+1), "ran", "geheim", nonce, "00000001", "POST", ran), 400, "user name"},
		{"not offered", root + "/basic/simpleenroll", good, 401, ""},
		{"Basic where it is not offered", plant, "Basic YW5uYTpnZWhlaW0=", 401, ""},
		{"right", ran, good, 200, ""},
		{"the same again", ran, good, 401, "answered already"},
		{"counted up", ran, authorization("anna", "ran", "geheim", nonce, "00000002", "POST", ran), 200, ""},
		{"Digest alone", plant, authorization("anna", "plant", "geheim", plantNonce, "0000000a", "POST", plant), 200, ""},
		{"in quotes, as BouncyCastle does", plant, strings.NewReplacer("nc=0000000b", `nc="0000000b"`, "qop=auth", `qop="auth"`, "SHA-256", `"SHA-256"`).
			Replace(authorization("anna", "plant", "geheim", plantNonce, "0000000b", "POST", plant)) + `,opaque="0011"`, 200, ""},
	} {
		got := post(c.path, c.auth)
		if got.StatusCode != c.status || !strings.Contains(got.body, c.says) && c.status != 200 {
			t.Errorf("%s: %d %q", c.name, got.StatusCode, got.body)
		}
		stale := strings.Contains(strings.Join(got.Header.Values("WWW-Authenticate"), " "), "stale=true")
		if stale != (c.name == "the same again") {
			t.Errorf("%s: stale %v", c.name, stale)
		}
		if strings.HasPrefix(c.path, root+"/basic") {
			if offered := got.Header.Values("WWW-Authenticate"); len(offered) != 1 || !strings.HasPrefix(offered[0], "Basic ") {
				t.Errorf("%s: offered %q", c.name, offered)
			}
		}
	}
	for _, hidden := range []string{"geheim", nonce, hex.EncodeToString(passhash.HA1("anna", "ran", []byte("geheim")))} {
		if strings.Contains(w.log.String(), hidden) {
			t.Errorf("%s is in the log", hidden)
		}
	}
	// The operator reads which header it is that is wrong, and that one came whose scheme is not offered, but not what stands in that.
	if r := w.gateway.rejected; !slices.ContainsFunc(r, func(r rejection) bool {
		return r.err.Err == nil && strings.Contains(r.err.Detail, "HTTP Digest (RFC 7616 section 3.4): a quote is not closed")
	}) {
		t.Errorf("%+v", r)
	}
	post(ran, "geheimnis")
	if notes := strings.Join(w.gateway.lastEnrolled(t).Notes, "\n"); !strings.Contains(notes, "whose scheme the endpoint does not offer") || strings.Contains(notes, "geheimnis") {
		t.Errorf("noted: %q", notes)
	}
	// An answer that is right by itself, but that nobody compares, does not use up the nonce.
	if len(w.handler.answered.now) != 4 {
		t.Errorf("%d answers are remembered, want 4", len(w.handler.answered.now))
	}
}

// A nonce is good for some minutes, at every replica that has the secret; stale says that it was (RFC 7616 section 3.3).
func TestNonceAge(t *testing.T) {
	w, later := digestWorld(t)
	client := w.client(nil, nil, nil)
	const path = root + "/simpleenroll"
	post := func(nonce, nc string) reply {
		t.Helper()
		r := w.enrollment(path, b64(makeCSR(t, csrOptions{key: newP256()})))
		r.Header.Set("Authorization", authorization("anna", "ran", "geheim", nonce, nc, "POST", path))
		return send(t, client, r)
	}
	nonce, _ := challenged(t, send(t, client, w.enrollment(path, nil)))
	later.Store(int64(nonceLife))
	if got := post(nonce, "00000001"); got.StatusCode != 200 {
		t.Fatalf("%d %s", got.StatusCode, got.body)
	}
	later.Store(int64(nonceLife + time.Second))
	got := post(nonce, "00000002")
	fresh, rest := challenged(t, got)
	if !strings.HasSuffix(rest, ", stale=true") || !strings.Contains(got.body, "too old") {
		t.Errorf("an old nonce: %q %s", rest, got.body)
	}
	if got := post(fresh, "00000001"); got.StatusCode != 200 {
		t.Errorf("the nonce that came with stale: %d %s", got.StatusCode, got.body)
	}

	replica, stranger := &Handler{secret: testSecret}, &Handler{secret: make([]byte, 32)}
	now := w.handler.now()
	for name, c := range map[string]struct {
		nonce  string
		status int
	}{
		"another replica's":               {replica.makeNonce("ran", now), 200},
		"a replica's whose clock is fast": {replica.makeNonce("ran", now.Add(nonceAhead)), 200},
		"of the future":                   {replica.makeNonce("ran", now.Add(nonceAhead+2*time.Second)), 401},
		"of another key":                  {stranger.makeNonce("ran", now), 401},
	} {
		got := post(c.nonce, "00000001")
		if got.StatusCode != c.status || strings.Contains(strings.Join(got.Header.Values("WWW-Authenticate"), " "), "stale") {
			t.Errorf("%s: %d %s %v", name, got.StatusCode, got.body, got.Header)
		}
	}
}

// What was answered before a start nobody knows: those nonces are stale.
func TestNonceFromBefore(t *testing.T) {
	w, _ := digestWorld(t)
	w.handler.answered.From = w.handler.now().Add(-time.Millisecond)
	for name, c := range map[string]struct {
		ago    time.Duration
		status int
	}{"from before": {time.Millisecond + 1, 401}, "at the start": {time.Millisecond, 200}} {
		r := w.enrollment(root+"/simpleenroll", b64(makeCSR(t, csrOptions{key: newP256()})))
		nonce := w.handler.makeNonce("ran", w.handler.now().Add(-c.ago))
		r.Header.Set("Authorization", authorization("anna", "ran", "geheim", nonce, "00000001", "POST", root+"/simpleenroll"))
		got := send(t, w.client(nil, nil, nil), r)
		if got.StatusCode != c.status || strings.Contains(strings.Join(got.Header.Values("WWW-Authenticate"), " "), "stale=true") != (c.status == 401) {
			t.Errorf("%s: %d %s %v", name, got.StatusCode, got.body, got.Header)
		}
	}
}

// An answer counts once (RFC 7616 section 3.4, nc).
func TestAnswers(t *testing.T) {
	a, at := &Answers{}, testTime
	if a.has("x") || !a.take("x", "1", at) || !a.take("x", "1", at) || a.take("x", "2", at) || !a.has("x") {
		t.Error("an answer is for one request")
	}
	at = at.Add(nonceLife + nonceAhead) // as old as the nonce of an answer can be
	a.take("y", "2", at)
	if !a.has("x") {
		t.Error("forgotten too early")
	}
	for i := range 3 {
		at = at.Add(nonceLife + nonceAhead + time.Second)
		a.take(fmt.Sprint(i), "3", at)
	}
	if a.has("x") || a.has("y") {
		t.Error("remembered for ever")
	}
	for i := range 5 * maxAnswers / 2 {
		a.take(fmt.Sprint("many ", i), "4", at)
	}
	if n := len(a.now) + len(a.before); n > 2*maxAnswers || !a.has(fmt.Sprint("many ", 5*maxAnswers/2-maxAnswers)) {
		t.Errorf("%d are remembered", n)
	}
}

// Of two requests with one answer, which run at once, one has it.
func TestAnswerAtOnce(t *testing.T) {
	w, _ := digestWorld(t)
	client := w.client(nil, nil, nil)
	const path = root + "/simpleenroll"
	body := b64(makeCSR(t, csrOptions{key: newP256()}))
	nonce, _ := challenged(t, send(t, client, w.enrollment(path, body)))
	post := func() int {
		r := w.enrollment(path, body)
		r.Header.Set("Authorization", authorization("anna", "ran", "geheim", nonce, "00000001", "POST", path))
		return send(t, client, r).StatusCode
	}
	var inner atomic.Int64
	w.gateway.enroll = func(r *gateway.Request) (*gateway.Result, error) {
		if inner.CompareAndSwap(0, 1) { // the other comes in between
			inner.Store(int64(post()))
		}
		return w.signByDigest(r)
	}
	if outer := post(); outer != 401 || inner.Load() != 200 {
		t.Errorf("%d, and in between %d", outer, inner.Load())
	}
}

// RFC 7030 section 3.2.1 asks for TLS; nothing is offered in clear.
func TestNoDigestInClear(t *testing.T) {
	w, _ := digestWorld(t)
	r := httptest.NewRequest(http.MethodPost, root+"/simpleenroll", nil)
	r.Header.Set("Authorization", authorization("anna", "ran", "geheim", w.handler.makeNonce("ran", testTime), "00000001", "POST", root+"/simpleenroll"))
	rec := httptest.NewRecorder()
	w.router.ServeHTTP(rec, r)
	if rec.Code != 403 || rec.Header().Get("WWW-Authenticate") != "" {
		t.Errorf("%d %v", rec.Code, rec.Header())
	}
}

// A client with a certificate asks without a body how else to authenticate, too: curl --digest --cert.
func TestAskingWithCertificate(t *testing.T) {
	w, _ := digestWorld(t)
	cert, key := w.device("device-1")
	r := w.enrollment(root+"/simplereenroll", nil)
	got := send(t, w.client(cert, key, nil), r)
	challenged(t, got)
	if !strings.HasPrefix(got.body, "no password and no request were sent") {
		t.Errorf("%q", got.body)
	}
	w.gateway.accepts = false
	if got := send(t, w.client(cert, key, nil), w.enrollment(root+"/simplereenroll", nil)); got.StatusCode != 400 {
		t.Errorf("where no password counts: %d %s", got.StatusCode, got.body)
	}
}

// RFC 7616 section 3.4, RFC 9110 section 11.2.
func TestParseDigest(t *testing.T) {
	const response = "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"
	const good = `username="a\"\\b", realm="r", nonce="n", uri="/u", response="` + response + `", algorithm=SHA-256, cnonce="c", nc=0000001f, qop=auth`
	for text, user := range map[string]string{
		good: `a"\b`,
		"  ,\t, " + strings.ReplaceAll(good, ", ", " ,,\t") + " , ":                       `a"\b`,
		strings.ReplaceAll(strings.ReplaceAll(good, "=", " =\t"), "username", "UserName"): `a"\b`,
		good + `, userhash=false, opaque="o", charset=UTF-8, x-new=1`:                     `a"\b`,
		strings.Replace(good, `username="a\"\\b"`, `username*=UTF-8''J%C3%A4s`, 1):        "Jäs", // as in RFC 7616 section 3.9.2
		strings.Replace(good, `username="a\"\\b"`, `username*=utf-8'en'x`, 1):             "x",
		strings.Replace(good, `username="a\"\\b"`, `username=""`, 1):                      "",
	} {
		a, err := parseDigest(text)
		if err != nil || a.user != user || a.nc != "0000001f" || a.uri != "/u" || hex.EncodeToString(a.response) != response {
			t.Errorf("%s: %+v, %v", text, a, err)
		}
	}
	for _, bad := range []string{
		"", "anna", `username="a"`, good + " x", good + `, x`, good + `, x=`, good + `, ="x"`, good + `, x="`, good + `, x="\`, good + ", x=\"\x00\"", good + ", x=\"\\\x7f\"",
		good + `, realm=r`, good + `, REALM=r`, good + `, userhash=true`, good + `, username*=UTF-8''b`,
		strings.Replace(good, "nonce=", "nonc=", 1), strings.Replace(good, "qop=auth", "qop=auth-int", 1), strings.Replace(good, ", qop=auth", "", 1),
		strings.Replace(good, `uri="/u"`, `uri=""`, 1), strings.Replace(good, `cnonce="c"`, `cnonce=""`, 1), strings.Replace(good, `"c"`, `"`+strings.Repeat("c", maxCNonce+1)+`"`, 1),
		strings.Replace(good, "0000001f", "1f", 1), strings.Replace(good, "0000001f", "0000001g", 1), strings.Replace(good, response, response[2:], 1),
		strings.Replace(good, response, strings.Repeat("x", 64), 1), strings.Replace(good, `username="a\"\\b", `, "", 1),
		strings.Replace(good, `username="a\"\\b"`, `username*=ISO-8859-1''x`, 1), strings.Replace(good, `username="a\"\\b"`, `username*=UTF-8''%C`, 1),
		strings.Replace(good, `username="a\"\\b"`, `username*=x`, 1), good + `, x="` + strings.Repeat("x", maxDigestHeader) + `"`, `a=1 b=2`, `a==`,
	} {
		if a, err := parseDigest(bad); err == nil {
			t.Errorf("%s: %+v", bad, a)
		}
	}
	many := good
	for i := range maxDigestParams {
		many += fmt.Sprintf(", x%d=1", i)
	}
	if _, err := parseDigest(many); err == nil || !strings.Contains(err.Error(), "too many") {
		t.Errorf("%d parameters: %v", maxDigestParams+9, err)
	}
}

// FuzzDigest: what parses, parses to the same when it is written again, and is bounded.
func FuzzDigest(f *testing.F) {
	f.Add(strings.TrimPrefix(authorization("anna", "ran", "geheim", "bm9uY2U", "00000001", "POST", "/x"), "Digest "))
	f.Add(`username*=UTF-8''J%C3%A4s, realm="\"", nonce=n,, uri="/", response="", algorithm=MD5, cnonce=c, nc=0000000f, qop=auth`)
	f.Fuzz(func(t *testing.T, s string) {
		a, err := parseDigest(s)
		if err != nil {
			if a != nil {
				t.Fatalf("an answer with the error %v", err)
			}
			return
		}
		if len(s) > maxDigestHeader || len(a.nc) != 8 || a.realm == "" || a.nonce == "" || a.uri == "" || a.cnonce == "" {
			t.Fatalf("%q: %+v", s, a)
		}
		quote := func(s string) string { return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"` }
		if strings.ContainsFunc(a.user, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return // from username*, which is judged by checkUser
		}
		again := fmt.Sprintf(`username=%s,realm=%s,nonce=%s,uri=%s,cnonce=%s,nc=%s,qop=auth,response="%x"`, quote(a.user), quote(a.realm), quote(a.nonce), quote(a.uri), quote(a.cnonce), a.nc, a.response)
		if a.algorithm != "" {
			again += ",algorithm=" + quote(a.algorithm)
		}
		if a.response == nil {
			again = strings.Replace(again, `response=""`, "response=x", 1)
		}
		if len(again) > maxDigestHeader {
			return
		}
		b, err := parseDigest(again)
		if err != nil || fmt.Sprint(*a) != fmt.Sprint(*b) {
			t.Fatalf("%q: %+v, then %+v, %v", again, a, b, err)
		}
	})
}

// Handlers that come one after the other share what was answered: an answer that one has taken is none for the next.
func TestAnswersOutliveAHandler(t *testing.T) {
	w, _ := digestWorld(t)
	o := Options{Gateway: w.gateway, Secret: testSecret, Clock: w.handler.now, Log: slog.New(slog.DiscardHandler), Answered: &Answers{}}
	first, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	second, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	first.answered.take("x", "1", testTime)
	if !second.answered.has("x") {
		t.Error("the answer counts again")
	}
}
