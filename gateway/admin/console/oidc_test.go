package console

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/muster-pki/muster/gateway/admin"
)

func (w *world) emptyJar() http.CookieJar {
	jar, err := cookiejar.New(nil)
	if err != nil {
		w.Fatal(err)
	}
	return jar
}

// idp is an identity provider.
type idp struct {
	t    *testing.T
	url  string
	ca   []byte
	key  *ecdsa.PrivateKey
	mu   sync.Mutex
	down bool
	out  string // end_session_endpoint
	// change makes the claims of the next tokens others; sign, the token itself.
	change func(claims map[string]any)
	sign   func(claims map[string]any) string
	asked  map[string]url.Values // what browsers brought, by code
	now    func() time.Time
}

func newIDP(t *testing.T, now func() time.Time) *idp {
	t.Helper()
	p := &idp{t: t, key: key(t), asked: map[string]url.Values{}, now: now}
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, v any) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v)
	}
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.down {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		answer(w, map[string]any{"issuer": p.url, "authorization_endpoint": p.url + "/authorize", "token_endpoint": p.url + "/token", "jwks_uri": p.url + "/keys", "end_session_endpoint": p.out,
			"id_token_signing_alg_values_supported": []string{"ES256", "HS256", "none"}})
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: p.key.Public(), KeyID: "1", Algorithm: "ES256", Use: "sig"}}})
	})
	mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		id, secret, basic := r.BasicAuth()
		asked, ok := p.asked[r.PostFormValue("code")]
		delete(p.asked, r.PostFormValue("code"))
		sum := sha256.Sum256([]byte(r.PostFormValue("code_verifier")))
		if !ok || !basic || id != "muster" || secret != "s3cret" || asked.Get("code_challenge_method") != "S256" || asked.Get("code_challenge") != base64.RawURLEncoding.EncodeToString(sum[:]) ||
			r.PostFormValue("redirect_uri") != asked.Get("redirect_uri") {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadRequest)
			_ = json.NewEncoder(w).Encode(map[string]string{"error": "invalid_grant", "error_description": "a secret s3cret"})
			return
		}
		claims := map[string]any{
			"iss": p.url, "aud": "muster", "sub": "17", "exp": p.now().Add(time.Minute).Unix(), "iat": p.now().Unix(), "nonce": asked.Get("nonce"),
			"preferred_username": "carol", "realm": map[string]any{"groups": []string{"staff", "pki-approvers"}},
		}
		if p.change != nil {
			p.change(claims)
		}
		token := p.signed(claims)
		if p.sign != nil {
			token = p.sign(claims)
		}
		out := map[string]any{"access_token": "a", "token_type": "Bearer", "expires_in": 60}
		if token != "" {
			out["id_token"] = token
		}
		answer(w, out)
	})
	srv := httptest.NewTLSServer(mux)
	t.Cleanup(srv.Close)
	p.url, p.ca = srv.URL, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	return p
}

func (p *idp) signed(claims map[string]any) string { return p.by(jose.ES256, p.key, claims) }

func (p *idp) by(alg jose.SignatureAlgorithm, key any, claims map[string]any) string {
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", "1"))
	if err != nil {
		p.t.Error(err)
		return ""
	}
	token, err := jwt.Signed(s).Claims(claims).Serialize()
	if err != nil {
		p.t.Error(err)
	}
	return token
}

// withIDP is a world whose people sign in at a provider.
func withIDP(t *testing.T) (*world, *idp) {
	t.Helper()
	w := newWorld(t, nil)
	p := newIDP(t, w.now)
	w.put("idp.pem", p.ca)
	w.put("secret", []byte("s3cret\n"))
	w.configure(p.settings(nil))
	return w, p
}

func (p *idp) settings(change func(*admin.OIDCConfig)) func(*admin.RemoteConfig) {
	return func(c *admin.RemoteConfig) {
		c.Console.OIDC = &admin.OIDCConfig{
			Issuer: p.url, ClientID: "muster", ClientSecretFile: "secret", URL: "https://muster.example:9443", CA: "idp.pem", RolesClaim: "realm.groups",
			Roles: map[string]string{"pki-approvers": "approver", "pki-viewers": "viewer"},
		}
		if change != nil {
			change(c.Console.OIDC)
		}
	}
}

// leaves goes to the provider, and returns the address of the callback with which it sends the browser back.
func (p *person) leaves(at *idp, to string) string {
	p.Helper()
	g := p.get("oidc?to=" + url.QueryEscape(to))
	u, err := url.Parse(g.to)
	if err != nil || g.status != http.StatusSeeOther || !strings.HasPrefix(g.to, at.url+"/authorize?") {
		p.Fatalf("%d %s %s", g.status, g.to, g.body)
	}
	q := u.Query()
	if q.Get("redirect_uri") != "https://muster.example:9443/console/oidc/callback" || q.Get("scope") != "openid profile" || q.Get("response_type") != "code" || q.Get("nonce") == "" {
		p.Errorf("%v", q)
	}
	at.mu.Lock()
	defer at.mu.Unlock()
	code := "code" + q.Get("state")[:8]
	at.asked[code] = q
	return "oidc/callback?" + url.Values{"code": {code}, "state": {q.Get("state")}}.Encode()
}

// Who signs in at the provider comes in by name, with the role of the highest group.
func TestOIDC(t *testing.T) {
	w, at := withIDP(t)
	p := w.person("")
	p.wants(p.get("signin"), http.StatusOK, "Sign in at 127.0.0.1:")
	p.leadsTo(p.get(p.leaves(at, "/console/devices")), "/console/devices")
	g := p.get("pending")
	p.wants(g, http.StatusOK, "oidc:carol")
	p.wants(g, http.StatusOK, ">approver<")
	p.withToken()
	// The role is that of the configuration that runs.
	w.configure(at.settings(func(c *admin.OIDCConfig) { c.Roles = map[string]string{"staff": "admin"} }))
	p.wants(p.get("pending"), http.StatusOK, ">admin<")
	w.configure(at.settings(func(c *admin.OIDCConfig) { c.Roles = map[string]string{"nobody": "admin"} }))
	p.leadsTo(p.get("pending"), "/console/signin?to=%2Fconsole%2Fpending")
	w.configure(at.settings(func(c *admin.OIDCConfig) { c.ClientID = "another" }))
	p.leadsTo(p.get("pending"), "/console/signin?to=%2Fconsole%2Fpending")
	w.configure(nil)
	p.leadsTo(p.get("pending"), "/console/signin?to=%2Fconsole%2Fpending")
	if strings.Contains(w.log.String(), "s3cret") {
		t.Error("the secret is in the log")
	}
}

// A token for several parties counts where it was made for this one.
func TestOIDCParties(t *testing.T) {
	w, at := withIDP(t)
	at.change = func(c map[string]any) { c["aud"], c["azp"] = []any{"another", "muster"}, "muster" }
	p := w.person("")
	p.leadsTo(p.get(p.leaves(at, "/console/devices")), "/console/devices")
}

// A group that has a role counts, however many others there are; those are not kept without bound.
func TestOIDCManyGroups(t *testing.T) {
	w, at := withIDP(t)
	var groups []any
	for i := range 20 * maxGroups {
		groups = append(groups, fmt.Sprint("group", i))
	}
	groups = append(groups, strings.Repeat("x", maxGroup+1), "pki-approvers", "pki-approvers")
	at.change = func(c map[string]any) { c["realm"] = map[string]any{"groups": groups} }
	p := w.person("")
	p.leadsTo(p.get(p.leaves(at, "/console/devices")), "/console/devices")
	p.wants(p.get("pending"), http.StatusOK, ">approver<")
	for _, s := range w.sessions.by {
		if len(s.oidc.groups) != maxGroups+1 {
			t.Errorf("%d groups are kept", len(s.oidc.groups))
		}
	}
}

// What the name or the groups are read from is part of a session: after a change of it people sign in again. A sign-in that was begun at another
// provider does not end at the one of now.
func TestOIDCReloaded(t *testing.T) {
	w, at := withIDP(t)
	for name, change := range map[string]func(*admin.OIDCConfig){
		"name-claim": func(c *admin.OIDCConfig) { c.NameClaim = "sub" }, "roles-claim": func(c *admin.OIDCConfig) { c.RolesClaim = "groups" },
	} {
		w.configure(at.settings(nil))
		p := w.person("")
		p.leadsTo(p.get(p.leaves(at, "/console/devices")), "/console/devices")
		w.configure(at.settings(change))
		if g := p.get("pending"); g.status != http.StatusSeeOther {
			t.Errorf("%s: %d", name, g.status)
		}
	}
	w.configure(at.settings(nil))
	p := w.person("")
	back := p.leaves(at, "")
	w.configure(at.settings(func(c *admin.OIDCConfig) { c.Issuer = "https://other.example" }))
	p.wants(p.get(back), http.StatusForbidden, "sign in again")
}

// Somebody with a certificate and an account is one person where the configuration says so, by either: the second approval is somebody else's.
func TestOneOfTwoWays(t *testing.T) {
	w, at := withIDP(t)
	w.configure(func(c *admin.RemoteConfig) {
		at.settings(nil)(c)
		c.People = map[string][]string{"carol": {"cert:CN=bob,O=Ops", "oidc:carol"}}
	})
	byCertificate := w.signedIn("bob")
	byCertificate.wants(byCertificate.get("pending"), http.StatusOK, "person:carol")
	p := w.person("")
	p.leadsTo(p.get(p.leaves(at, "/console/pending")), "/console/pending")
	p.wants(p.get("pending"), http.StatusOK, "person:carol")
	if !strings.Contains(w.log.String(), "way=oidc:carol") || !strings.Contains(w.log.String(), `way="cert:CN=bob,O=Ops"`) {
		t.Error(w.log.String())
	}
	// Who is somebody else by the configuration of now signs in again.
	w.configure(at.settings(nil))
	p.leadsTo(p.get("pending"), "/console/signin?to=%2Fconsole%2Fpending")
	byCertificate.leadsTo(byCertificate.get("pending"), "/console/signin?to=%2Fconsole%2Fpending")
}

// Who has signed out here is shown the way to sign out at the provider, which is asked for it and not told.
func TestSignOutAtProvider(t *testing.T) {
	for out, to := range map[string]string{
		"https://idp.example/logout?x=1": "https://idp.example/logout?client_id=muster&x=1", "http://idp.example/logout": "", "javascript:alert(1)": "", "": "",
	} {
		w, at := withIDP(t)
		at.out = out
		p := w.person("")
		p.wants(p.get("signin?out=1"), http.StatusOK, `href="/console/oidc/signout"`)
		if g := p.get("oidc/signout"); g.to != to || to == "" && g.status != http.StatusNotFound {
			t.Errorf("%s: %d %s", out, g.status, g.to)
		}
		w.configure(nil)
		p.wants(p.get("oidc/signout"), http.StatusNotFound, "no such page")
	}
}

// What does not come back as it went is refused.
func TestOIDCRefused(t *testing.T) {
	w, at := withIDP(t)
	other := key(t)
	for name, tt := range map[string]struct {
		change func(map[string]any)
		sign   func(map[string]any) string
		status int
		words  string
	}{
		"no group":           {change: func(c map[string]any) { delete(c, "realm") }, status: 403, words: "oidc:carol is in no group"},
		"groups of a shape":  {change: func(c map[string]any) { c["realm"] = map[string]any{"groups": 7} }, status: 403, words: "in no group"},
		"other groups":       {change: func(c map[string]any) { c["realm"] = map[string]any{"groups": []any{"PKI-Approvers", 7}} }, status: 403, words: "in no group"},
		"another's nonce":    {change: func(c map[string]any) { c["nonce"] = "x" }, status: 502},
		"no nonce":           {change: func(c map[string]any) { delete(c, "nonce") }, status: 502},
		"another's audience": {change: func(c map[string]any) { c["aud"] = "another" }, status: 502},
		"another issuer":     {change: func(c map[string]any) { c["iss"] = "https://evil.example" }, status: 502},
		"past its time":      {change: func(c map[string]any) { c["exp"] = noon.Add(-time.Minute).Unix() }, status: 502},
		"no name":            {change: func(c map[string]any) { delete(c, "preferred_username") }, status: 502},
		"a hostile name":     {change: func(c map[string]any) { c["preferred_username"] = "carol\u202e" }, status: 502},
		"a name with spaces": {change: func(c map[string]any) { c["preferred_username"] = "carol " }, status: 502},
		"another's party":    {change: func(c map[string]any) { c["azp"] = "another" }, status: 502},
		"party of no shape":  {change: func(c map[string]any) { c["azp"] = []any{"muster"} }, status: 502},
		"many audiences":     {change: func(c map[string]any) { c["aud"] = []any{"muster", "another"} }, status: 502},
		"a long name":        {change: func(c map[string]any) { c["preferred_username"] = strings.Repeat("x", 129) }, status: 502},
		"another key":        {sign: func(c map[string]any) string { return at.by(jose.ES256, other, c) }, status: 502},
		"a MAC by the secret": {sign: func(c map[string]any) string {
			return at.by(jose.HS256, []byte("s3cret-s3cret-s3cret-s3cret-s3cret"), c)
		}, status: 502},
		"no signature": {sign: func(c map[string]any) string {
			body, _ := json.Marshal(c)
			return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + base64.RawURLEncoding.EncodeToString(body) + "."
		}, status: 502},
		"no ID token": {sign: func(map[string]any) string { return "" }, status: 502},
	} {
		at.mu.Lock()
		at.change, at.sign = tt.change, tt.sign
		at.mu.Unlock()
		p := w.person("")
		g := p.get(p.leaves(at, ""))
		if g.status != tt.status || !strings.Contains(g.body, tt.words) {
			t.Errorf("%s: %d %s", name, g.status, g.body)
		}
		p.leadsTo(p.get("pending"), "/console/signin?to=%2Fconsole%2Fpending")
	}
	at.change, at.sign = nil, nil
	again := func(name string, p *person, path string) {
		t.Helper()
		if g := p.get(path); g.status != http.StatusForbidden || !strings.Contains(g.body, "sign in again") {
			t.Errorf("%s: %d %s", name, g.status, g.body)
		}
	}
	p := w.person("")
	again("not begun", p, "oidc/callback?code=x&state=y")
	back := p.leaves(at, "")
	again("another's state", p, back+"x")
	again("twice", p, back) // the first has taken the cookie back
	back = p.leaves(at, "")
	again("another issuer (RFC 9207)", p, back+"&iss=https://evil.example")
	back = p.leaves(at, "")
	again("in another browser", w.person(""), back)
	w.later(signInTime)
	again("too late", p, back)
	p.client.Jar = jarWith(t, w.url, signInCookie, "AAAA")
	again("not sealed here", p, back)
	p = w.person("")
	back = p.leaves(at, "")
	p.wants(p.get(back+"&error=access_denied"), http.StatusForbidden, "access_denied")
	back = p.leaves(at, "")
	p.wants(p.get(strings.Replace(back, "code=code", "code=other", 1)), http.StatusBadGateway, "log says why")
	if log := w.log.String(); strings.Contains(log, "s3cret") || !strings.Contains(log, "invalid_grant") {
		t.Error(log)
	}
}

// A provider that does not answer is said to, and asked again after a while.
func TestOIDCDown(t *testing.T) {
	w, at := withIDP(t)
	at.mu.Lock()
	at.down = true
	at.mu.Unlock()
	p := w.person("")
	p.wants(p.get("oidc"), http.StatusBadGateway, "does not answer")
	at.mu.Lock()
	at.down = false
	at.mu.Unlock()
	p.wants(p.get("oidc"), http.StatusBadGateway, "does not answer")
	w.later(providerRest)
	p.leaves(at, "")
}

// So many sign-ins are asked about at once.
func TestOIDCAtOnce(t *testing.T) {
	w := &world{T: t, dir: t.TempDir()}
	p, err := newProvider(&admin.OIDCConfig{Issuer: "https://idp.example"}, w.dir, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	for range providerAtOnce {
		if _, err := p.enter(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.enter(); err != errBusy {
		t.Error(err)
	}
	for name, c := range map[string]*admin.OIDCConfig{
		"ca: ": {CA: "none.pem"}, "client-secret-file: ": {ClientSecretFile: "none"},
	} {
		if err := Check(&admin.ConsoleConfig{OIDC: c}, w.dir); err == nil || !strings.HasPrefix(err.Error(), "console.oidc."+name) {
			t.Errorf("%v, want %s", err, name)
		}
	}
	w.put("empty", []byte("\n"))
	if _, err := newProvider(&admin.OIDCConfig{ClientSecretFile: "empty"}, w.dir, time.Now); err == nil {
		t.Error("an empty secret is taken")
	}
	if conf := p.http.Transport.(bounded).RoundTripper.(*http.Transport).TLSClientConfig; conf.InsecureSkipVerify || conf.MinVersion < tls.VersionTLS12 {
		t.Error("TLS of the provider is not checked")
	}
}
