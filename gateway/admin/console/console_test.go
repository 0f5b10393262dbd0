package console

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/admin"
)

// Nobody comes in without having signed in, whatever the page.
func TestNoSession(t *testing.T) {
	w := newWorld(t, nil)
	p := w.person("alice") // a certificate alone is no session
	for name, page := range (&Console{}).routes() {
		method, path, _ := strings.Cut(name, " ")
		switch {
		case page.open:
		case method == "GET":
			to := "/console/signin"
			if path != "" {
				to += "?to=" + url.QueryEscape("/console/"+path+"?x=1")
			}
			p.leadsTo(p.get(path+"?x=1"), to)
			g := p.get(path, "HX-Request", "true")
			p.wants(g, http.StatusUnauthorized, "")
			if g.header.Get("HX-Redirect") != "/console/signin" {
				t.Errorf("%s: %v", path, g.header)
			}
		default:
			p.wants(p.post(path, url.Values{}), http.StatusUnauthorized, "nothing was done")
		}
	}
	p.client.Jar = jarWith(t, w.url, sessionCookie, "made-up")
	p.leadsTo(p.get("pending"), "/console/signin?to=%2Fconsole%2Fpending")
}

func jarWith(t *testing.T, at, name, value string) http.CookieJar {
	t.Helper()
	p := (&world{T: t, operators: nil}).emptyJar()
	u, err := url.Parse(at)
	if err != nil {
		t.Fatal(err)
	}
	p.SetCookies(u, []*http.Cookie{{Name: name, Value: value, Path: "/", Secure: true}})
	return p
}

// Who has an operator's certificate signs in, and out.
func TestSignIn(t *testing.T) {
	w := newWorld(t, nil)
	p := w.person("alice")
	p.wants(p.get("signin?to=/console/devices"), http.StatusOK, "CN=alice,O=Ops")
	g := p.post("signin", url.Values{"to": {"/console/devices"}})
	p.leadsTo(g, "/console/devices")
	if cookie := g.header.Get("Set-Cookie"); !strings.HasPrefix(cookie, "__Host-muster=") || !strings.HasSuffix(cookie, "; Path=/; HttpOnly; Secure; SameSite=Lax") {
		t.Error(cookie)
	}
	p.withToken()
	p.wants(p.get(""), http.StatusOK, "cert:CN=alice,O=Ops")
	p.leadsTo(p.get("signin"), "/console/")
	kept := p.client.Jar
	g = p.post("signout", url.Values{})
	p.leadsTo(g, "/console/signin?out=1")
	if !strings.Contains(g.header.Get("Set-Cookie"), "Max-Age=0") {
		t.Error(g.header)
	}
	p.client.Jar = kept // the cookie is worth nothing more, kept or not
	p.leadsTo(p.get("pending"), "/console/signin?to=%2Fconsole%2Fpending")

	mallory := w.person("mallory")
	mallory.wants(mallory.get("signin"), http.StatusOK, "is no operator's here")
	mallory.wants(mallory.post("signin", url.Values{}), http.StatusForbidden, "client certificate of an operator")
	nobody := w.person("")
	nobody.wants(nobody.get("signin"), http.StatusOK, "no client certificate")
	nobody.wants(nobody.post("signin", url.Values{}), http.StatusForbidden, "client certificate of an operator")
	if strings.Contains(nobody.get("signin").body, "oidc") {
		t.Error("a provider is offered that there is none of")
	}
	nobody.wants(nobody.get("oidc"), http.StatusNotFound, "no such page")
	nobody.wants(nobody.get("oidc/callback"), http.StatusNotFound, "no such page")
}

// A sign-in leads to pages of the console, and nowhere else.
func TestWhereASignInLeads(t *testing.T) {
	for to, want := range map[string]string{
		"/console/devices?prefix=a": "/console/devices?prefix=a", "https://evil.example/console/": Path, "//evil.example/console/": Path, "/v1/status": Path, "": Path,
		"/console/\r\nX: y": Path, `/console/\evil`: Path, "javascript:alert(1)": Path, "/console/" + strings.Repeat("x", 2000): Path,
	} {
		if got := local(to); got != want {
			t.Errorf("%q: %q", to, got)
		}
	}
}

// A form counts when a page of this session's has it, and the browser says so.
func TestForgedForms(t *testing.T) {
	w := newWorld(t, nil)
	w.source.transactions = []*gateway.Transaction{held()}
	alice, bob := w.signedIn("alice"), w.signedIn("bob")
	form := func() url.Values { return url.Values{"id": {w.source.transactions[0].ID}, "reason": {"r"}} }
	for name, headers := range map[string][]string{
		"cross-site": {"Sec-Fetch-Site", "cross-site"}, "same-site": {"Sec-Fetch-Site", "same-site"}, "an older browser's": {"Sec-Fetch-Site", "", "Origin", "https://evil.example"},
		"sandboxed": {"Sec-Fetch-Site", "", "Origin", "null"}, "of nobody knows where": {"Sec-Fetch-Site", ""},
	} {
		g := alice.post("deny", form(), headers...)
		if g.status != http.StatusForbidden || !strings.Contains(g.body, "not come from a page") {
			t.Errorf("%s: %d %s", name, g.status, g.body)
		}
		if g := w.person("alice").post("signin", url.Values{}, headers...); g.status != http.StatusForbidden {
			t.Errorf("%s: signs in: %d", name, g.status)
		}
	}
	for name, token := range map[string]string{"none": "", "another's": bob.token, "cut": alice.token[1:]} {
		f := form()
		f.Set("token", token)
		g := alice.post("deny", f)
		if g.status != http.StatusForbidden || !strings.Contains(g.body, "not one of this session") {
			t.Errorf("token %s: %d", name, g.status)
		}
		body, kind := upload(t, token, "units.csv", "a")
		if g := alice.do("POST", "devices/import", kind, body, "Sec-Fetch-Site", "same-origin"); g.status != http.StatusForbidden {
			t.Errorf("upload with token %s: %d", name, g.status)
		}
	}
	alice.wants(alice.do("GET", "deny?id=x", "", nil), http.StatusMethodNotAllowed, "POST only")
	if len(w.source.events) > 0 {
		t.Errorf("done: %v", w.source.events)
	}
	origin := alice.post("deny", form(), "Sec-Fetch-Site", "", "Origin", w.url)
	if origin.status != http.StatusSeeOther {
		t.Errorf("%d %s", origin.status, origin.body)
	}
}

// What a role does not suffice for is neither shown nor done; the API judges again by itself.
func TestRoles(t *testing.T) {
	w := newWorld(t, nil)
	x := held()
	w.source.transactions = []*gateway.Transaction{x}
	rank := map[string]admin.Role{"victor": admin.Viewer, "bob": admin.Approver, "alice": admin.Admin}
	needs := map[string]admin.Role{"approve": admin.Approver, "deny": admin.Approver, "device/state": admin.Admin, "device/reset": admin.Admin, "devices/import": admin.Admin, "devices/import/state": admin.Admin, "revoke": admin.Admin}
	for cn, role := range rank {
		p := w.signedIn(cn)
		for name := range (&Console{}).routes() {
			method, path, _ := strings.Cut(name, " ")
			if strings.HasPrefix(path, "sign") || strings.HasPrefix(path, "oidc") {
				continue
			}
			var g got
			if method == "GET" {
				g = p.get(path)
			} else {
				g = p.post(path, url.Values{"id": {x.ID}})
			}
			if refused := g.status == http.StatusForbidden && strings.Contains(g.body, "more than the role"); refused != (role < needs[path]) {
				t.Errorf("%s at %s: %d", cn, name, g.status)
			}
		}
		text := p.get("transaction?id=" + x.ID).body
		if strings.Contains(text, `action="/console/deny"`) != (role >= admin.Approver) {
			t.Errorf("%s: what is offered is not the role's", cn)
		}
	}
	// Even where the console would let it pass.
	if _, err := w.server.As(admin.Person{Actor: "cert:x", Role: admin.Viewer}).Approve(t.Context(), x.ID, ""); err == nil || !strings.Contains(err.Error(), "takes the role approver") {
		t.Error(err)
	}
	if _, err := w.server.As(admin.Person{}).Status(t.Context()); err == nil {
		t.Error("nobody is answered")
	}
}

// A session ends when nothing is asked for, after half a day, and with what it was begun with.
func TestSessionsEnd(t *testing.T) {
	w := newWorld(t, nil)
	signIn := "/console/signin?to=%2Fconsole%2Fpending"
	p := w.signedIn("alice")
	for range 3 {
		w.later(14 * time.Minute)
		p.wants(p.get("pending"), http.StatusOK, "")
	}
	w.later(14 * time.Minute)
	p.wants(p.get("pending", pollHeader, "1"), http.StatusOK, "") // a page by itself: nobody is there
	w.later(time.Minute)
	p.leadsTo(p.get("pending"), signIn)

	p = w.signedIn("alice")
	for range 51 {
		w.later(14 * time.Minute)
		p.wants(p.get("devices"), http.StatusOK, "")
	}
	w.later(7 * time.Minute)
	p.leadsTo(p.get("pending"), signIn)

	// The certificate's role is taken away by a reload; with another it goes on.
	p = w.signedIn("alice")
	w.configure(func(c *admin.RemoteConfig) { c.Certificates["CN=alice,O=Ops"] = "viewer" })
	p.wants(p.get("revoke"), http.StatusForbidden, "the role viewer")
	w.configure(func(c *admin.RemoteConfig) { delete(c.Certificates, "CN=alice,O=Ops") })
	p.leadsTo(p.get("pending"), signIn)

	// The session is no good without the certificate, or with another's.
	w.configure(nil)
	p = w.signedIn("alice")
	for _, cn := range []string{"", "bob"} {
		thief := w.person(cn)
		thief.client.Jar = p.client.Jar
		thief.leadsTo(thief.get("pending"), signIn)
	}
}

// Sessions are so many at most, of one person and at all.
func TestTooManySessions(t *testing.T) {
	at := noon
	all, err := NewSessions(func() time.Time { return at })
	if err != nil {
		t.Fatal(err)
	}
	var mine []string
	for range maxOfPerson + 1 {
		mine = append(mine, all.begin("alice", nil))
		at = at.Add(time.Second)
		all.find(mine[0], time.Hour, true) // in use
	}
	if all.find(mine[0], time.Hour, true) == nil || all.find(mine[1], time.Hour, true) != nil || len(all.by) != maxOfPerson {
		t.Errorf("%d sessions; the one that was used longest ago has to go", len(all.by))
	}
	for i := range 2 * maxSessions {
		all.begin(fmt.Sprint(i), nil)
	}
	if len(all.by) != maxSessions {
		t.Errorf("%d sessions", len(all.by))
	}
}

// Paths, hosts, methods and files that are none.
func TestPaths(t *testing.T) {
	w := newWorld(t, nil)
	p := w.signedIn("victor")
	for path, want := range map[string]int{"nothing": 404, "assets/nothing.css": 404, "assets/../console.go": 404, "assets/%2e%2e/console.go": 404, "assets/htmx.LICENSE": 404, "transaction": 400, "device": 400, "transaction?id=zzz": 400} {
		if g := p.get(path); g.status != want {
			t.Errorf("%s: %d", path, g.status)
		}
	}
	p.wants(p.do("DELETE", "pending", "", nil), http.StatusMethodNotAllowed, "GET only")
	p.wants(p.get("pending", "Host", "evil.example"), http.StatusMisdirectedRequest, "not for the host")
	p.wants(p.get("assets/console.css", "Host", "evil.example"), http.StatusMisdirectedRequest, "not for the host")
	p.wants(p.outside("/v1/status", "Sec-Fetch-Site", "same-origin"), http.StatusForbidden, "not for web pages") // as ever
	p.wants(p.outside("/"), http.StatusNotFound, "not found")
	p.leadsTo(p.outside("/console"), "/console/")
	p.leadsTo(p.outside("/", "Accept", "text/html"), "/console/")
}

// Each answer has the headers that keep what is foreign out.
func TestHeaders(t *testing.T) {
	w := newWorld(t, nil)
	p := w.signedIn("alice")
	for _, path := range []string{"", "nothing", "assets/console.css", "assets/htmx.min.js", "signin"} {
		h := p.get(path).header
		if csp := h.Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'; script-src 'self'; style-src 'self';") || strings.Contains(csp, "unsafe") ||
			!strings.Contains(csp, "frame-ancestors 'none'") || !strings.Contains(csp, "base-uri 'none'") || !strings.Contains(csp, "form-action 'self'") {
			t.Errorf("%s: %s", path, csp)
		}
		if h.Get("X-Content-Type-Options") != "nosniff" || h.Get("X-Frame-Options") != "DENY" || h.Get("Cross-Origin-Opener-Policy") != "same-origin" {
			t.Errorf("%s: %v", path, h)
		}
		if wants := strings.HasPrefix(path, "assets/"); strings.Contains(h.Get("Cache-Control"), "max-age") != wants || (h.Get("Cache-Control") == "no-store") == wants {
			t.Errorf("%s: %v", path, h)
		}
	}
}

// All pages are made, without a script or style of their own, and without what strangers would like to do with them.
func TestHostileText(t *testing.T) {
	w := newWorld(t, nil)
	const evil = "CN=<script>alert(1)</script>\"onload=x \x1b[2J\u202egpj\x00\u2066"
	x := held()
	x.Subject, x.Note, x.Device, x.Endpoint = evil, evil, "d"+evil, evil
	x.Hold.Approvals[0].By = evil
	x.Facts = []byte(`{"a": "` + "\u202e" + `</details>"}`)
	c := &gateway.Certificate{Issuer: w.operators.cert.RawSubject, Serial: []byte{7}, Transaction: x.ID, Subject: evil, Device: evil, Endpoint: evil, NotBefore: noon.Add(-time.Hour), NotAfter: noon.Add(time.Hour), DER: w.operators.cert.Raw}
	x.Certificate = c
	w.source.transactions, w.source.certificates = []*gateway.Transaction{x}, []*gateway.Certificate{c}
	w.source.devices = []*gateway.Device{{Name: evil, Vendor: evil, Note: evil, Identifiers: []gateway.DeviceID{{Kind: "serial", Value: evil}}, Attributes: map[string]string{evil: evil}}}
	p := w.signedIn("alice")
	pages := []string{"", "?span=month", "transactions", "transactions?device=" + url.QueryEscape(evil), "transaction?id=" + x.ID, "pending", "devices", "device?name=" + url.QueryEscape(evil), "devices/import", "certificates", "revoke?transaction=" + x.ID, "cas", "configuration", "transaction?id=" + url.QueryEscape(evil), "nothing" + url.PathEscape(evil)}
	for _, path := range pages {
		g := p.get(path)
		if g.status >= 500 {
			t.Errorf("%s: %d %s", path, g.status, g.body)
		}
		for _, bad := range []string{"<script>", "\x1b", "\u202e", "\u2066", "\x00", " style=", " onclick", "javascript:", "</details>\"}"} {
			if strings.Contains(g.body, bad) {
				t.Errorf("%s has %q", path, bad)
			}
		}
	}
	p.wants(p.get("transaction?id="+x.ID), http.StatusOK, `&lt;script&gt;alert(1)&lt;/script&gt;&#34;onload=x \x1b[2J\xe280aegpj\x00\xe281a6`)
	if got := visible("a\x00b\u202ec\n\tü"); got != `a\u0000b\u202ec`+"\n\tü" {
		t.Errorf("%q", got)
	}
}

// What is done goes through the API, by the person's name.
func TestChanges(t *testing.T) {
	w := newWorld(t, nil)
	x := held()
	c := &gateway.Certificate{Issuer: w.operators.cert.RawSubject, Serial: []byte{7}, Transaction: x.ID, Subject: "CN=a", NotBefore: noon, NotAfter: noon.Add(time.Hour)}
	x.Certificate = c
	w.source.transactions, w.source.certificates, w.source.devices = []*gateway.Transaction{x}, []*gateway.Certificate{c}, []*gateway.Device{{Name: "unit"}}
	p := w.signedIn("alice")
	p.leadsTo(p.post("approve", url.Values{"id": {x.ID}, "reason": {" good "}}), "/console/transaction?id="+x.ID+"&said=approved")
	p.wants(p.get("transaction?said=approved&id="+x.ID), http.StatusOK, "Your approval stands.")
	p.wants(p.post("deny", url.Values{"id": {x.ID}}), http.StatusBadRequest, "takes a reason")
	p.leadsTo(p.post("deny", url.Values{"id": {x.ID}, "reason": {"bad"}}), "/console/transaction?id="+x.ID+"&said=denied")
	p.wants(p.post("approve", url.Values{"id": {x.ID}, "reason": {"\u202e"}}), http.StatusBadRequest, "cannot be printed")
	p.leadsTo(p.post("revoke", url.Values{"transaction": {x.ID}, "reason": {"superseded"}, "note": {"old"}}), "/console/transaction?id="+x.ID+"&said=revoked")
	p.wants(p.post("revoke", url.Values{"transaction": {x.ID}, "reason": {"certificateHold"}}), http.StatusBadRequest, "is no reason")
	p.wants(p.post("revoke", url.Values{}), http.StatusBadRequest, "which certificate")
	p.leadsTo(p.post("device/state", url.Values{"name": {"unit"}, "disabled": {"true"}}), "/console/device?name=unit&said=disabled")
	p.leadsTo(p.post("device/reset", url.Values{"name": {"unit"}}), "/console/device?name=unit&said=reset")
	p.wants(p.post("device/reset", url.Values{"name": {"gone"}}), http.StatusNotFound, "no device")
	const by = " by cert:CN=alice,O=Ops"
	want := []string{"approve" + by + ": good", "deny" + by + ": bad", "revoke" + by + ": superseded: old", "devices-imported 1" + by, "device-reset" + by}
	want[3] = "device-disabled 1" + by
	if !slices.Equal(w.source.events, want) {
		t.Errorf("%q", w.source.events)
	}
	w.source.err = fmt.Errorf("disk on fire")
	p.wants(p.get("devices"), http.StatusServiceUnavailable, "cannot answer")
}

// The script is the one that its maker has published.
func TestScript(t *testing.T) {
	data, err := assetFiles.ReadFile("assets/htmx.min.js")
	if sum := sha256.Sum256(data); err != nil || hex.EncodeToString(sum[:]) != htmxSHA256 {
		t.Errorf("%v %x", err, sum)
	}
	if assetURL("nothing") != "" || !strings.HasPrefix(assetURL("console.css"), "/console/assets/console.css?") {
		t.Error(assetURL("console.css"))
	}
}

// Every state can be chosen. What a page renews by itself has IDs where the keyboard may be, so that it stays there.
func TestStatesAndFocus(t *testing.T) {
	w := newWorld(t, nil)
	w.source.transactions = []*gateway.Transaction{held()}
	p := w.signedIn("alice")
	g := p.get("transactions")
	for _, state := range gateway.States {
		p.wants(g, http.StatusOK, "<option>"+string(state)+"</option>")
		if tone(string(state)) == "plain" {
			t.Errorf("%s has no colour", state)
		}
	}
	p.wants(p.get("pending"), http.StatusOK, `id="decide-`)
	p.wants(p.get(""), http.StatusOK, `id="span-week"`)
}
