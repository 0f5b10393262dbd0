// Package console is the gateway's pages for operators with a browser: what came, what waits, what is known of a device, what runs.
// It signs people in, and has no say in what they may do: each page is made of calls of the admin API, which go through the API's own
// checks and leave the API's audit events. Pages are rendered here whole and work without a script; htmx, which is embedded, renews
// parts of them. It is run by `muster serve` where the configuration has `admin: {console: ...}`.
package console

import (
	"bytes"
	"errors"
	"fmt"
	"html/template"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/muster-pki/muster/gateway/admin"
)

// API is the admin API as the console asks it; *admin.Server is one.
type API interface {
	// As returns a client whose calls are the person's.
	As(p admin.Person) *admin.Client
	// May reports whether a person's role suffices for a call.
	May(p admin.Person, method, path string) bool
	// Certified finds out whose client certificate a connection has shown. admin.ErrNobody.
	Certified(a *admin.Access, r *http.Request) (admin.Person, error)
	// Denied counts somebody who was not let in.
	Denied(how, source string)
}

// Config is what a Console is made of.
type Config struct {
	API      API
	Access   *admin.Access // of the running configuration
	Settings *admin.ConsoleConfig
	Dir      string    // that relative paths of Settings start from
	Sessions *Sessions // outlive a configuration
	// Account tells the story of a transaction, as `muster explain` does.
	Account func(t *admin.Transaction, now time.Time) Account
	// ReadDevices reads a file of devices, as `muster device import` does. Its error has a line for each fault. refused says where in the file
	// the entries stand that the gateway would not have.
	ReadDevices func(name string, in io.Reader) (all []admin.Device, refused func(*admin.ImportError) error, err error)
	// Plain makes what strangers sent fit to be shown.
	Plain   func(string) string
	Version string
	Clock   func() time.Time
	Log     *slog.Logger
}

// Account is the story of a transaction.
type Account struct {
	Summary  string
	Sections []Section
}

// Section is a part of an Account.
type Section struct {
	Title string // "" for the first
	Rows  []Row
}

// Row is a line of an Account.
type Row struct {
	Label, Value string
	Note         string // below the value
	Depth        int    // of a stage within others
	Verdict      bool   // Label is what a stage decided
}

// Console answers browsers.
type Console struct {
	Config
	pages     map[string]page
	templates map[string]*template.Template
	idp       *provider // nil: none
	cross     *http.CrossOriginProtection
}

// New makes a Console. It reads the files that Settings name, and asks nobody.
func New(c Config) (*Console, error) {
	if c.API == nil || c.Access == nil || c.Settings == nil || c.Sessions == nil || c.Account == nil || c.ReadDevices == nil || c.Plain == nil || c.Clock == nil || c.Log == nil {
		return nil, errors.New("console: all of Config is required")
	}
	k := &Console{Config: c, cross: http.NewCrossOriginProtection()}
	if c.Settings.OIDC != nil {
		var err error
		if k.idp, err = newProvider(c.Settings.OIDC, c.Dir, c.Clock); err != nil {
			return nil, fmt.Errorf("console.oidc.%w", err)
		}
	}
	var err error
	k.templates, err = k.parse()
	k.pages = k.routes()
	return k, err
}

// Check reads the files that a configuration names; nil settings name none.
func Check(settings *admin.ConsoleConfig, dir string) error {
	if settings == nil || settings.OIDC == nil {
		return nil
	}
	if _, err := newProvider(settings.OIDC, dir, time.Now); err != nil {
		return fmt.Errorf("console.oidc.%w", err)
	}
	return nil
}

// Path is what the console's URLs begin with.
const Path = "/console/"

// Handler answers for the console's paths, and leaves the others to the API. A browser that asks for "/" is shown the way.
func (k *Console) Handler(api http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.URL.Path, Path), r.URL.Path == "/console":
			k.ServeHTTP(w, r)
		case r.URL.Path == "/" && r.Method == http.MethodGet && strings.Contains(r.Header.Get("Accept"), "text/html"):
			http.Redirect(w, r, Path, http.StatusSeeOther)
		default:
			api.ServeHTTP(w, r)
		}
	})
}

// page is one URL.
type page struct {
	method, path string // of the API's call that it is for: who may not make it is not shown the page; "" for any role
	open         bool   // to those who have not signed in
	ownBody      bool   // reads its body itself, with the token in it
	handle       func(*visit) error
}

// routes are all pages, by method and path without Path.
func (k *Console) routes() map[string]page {
	return map[string]page{
		"GET signin":        {open: true, handle: k.showSignIn},
		"POST signin":       {open: true, handle: k.signIn},
		"GET oidc":          {open: true, handle: k.toProvider},
		"GET oidc/callback": {open: true, handle: k.fromProvider},
		"GET oidc/signout":  {open: true, handle: k.outAtProvider},
		"POST signout":      {handle: k.signOut},

		"GET ":                     {"GET", "/v1/overview", false, false, k.overview},
		"GET transactions":         {"GET", "/v1/transactions", false, false, k.transactions},
		"GET transaction":          {"GET", "/v1/transactions/:id", false, false, k.transaction},
		"POST approve":             {"POST", "/v1/transactions/:id/approve", false, false, k.approve},
		"POST deny":                {"POST", "/v1/transactions/:id/deny", false, false, k.deny},
		"GET pending":              {"GET", "/v1/transactions", false, false, k.pending},
		"GET devices":              {"GET", "/v1/devices", false, false, k.devices},
		"GET device":               {"GET", "/v1/devices/:name", false, false, k.device},
		"POST device/state":        {"POST", "/v1/devices/:name/state", false, false, k.deviceState},
		"POST device/reset":        {"POST", "/v1/devices/:name/reset", false, false, k.deviceReset},
		"GET devices/import":       {"POST", "/v1/devices/import", false, false, k.showImport},
		"POST devices/import":      {"POST", "/v1/devices/import", false, true, k.importDevices},
		"GET devices/import/state": {"POST", "/v1/devices/import", false, false, k.importState},
		"GET certificates":         {"GET", "/v1/certificates", false, false, k.certificates},
		"GET revoke":               {"POST", "/v1/certificates/revoke", false, false, k.showRevoke},
		"POST revoke":              {"POST", "/v1/certificates/revoke", false, false, k.revoke},
		"GET cas":                  {"GET", "/v1/cas", false, false, k.cas},
		"GET configuration":        {"GET", "/v1/pipelines", false, false, k.configuration},
	}
}

// visit is one request.
type visit struct {
	k       *Console
	w       http.ResponseWriter
	r       *http.Request
	name    string
	person  admin.Person // zero where nobody has signed in
	session *session
	now     time.Time
}

// headers are those of every answer. Scripts and styles come from here alone, and none stand in a page.
func headers(h http.Header) {
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "same-origin") // with no-referrer a form's Origin would be "null"
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()")
	h.Set("Cache-Control", "no-store")
	h.Set("Vary", "Cookie")
}

// ServeHTTP is http.Handler.
func (k *Console) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	headers(w.Header())
	v := &visit{k: k, w: w, r: r, name: strings.TrimPrefix(r.URL.Path, Path), now: k.Clock()}
	if r.URL.Path == "/console" {
		http.Redirect(w, r, Path, http.StatusSeeOther)
		return
	}
	if err := k.serve(v); err != nil {
		v.fail(err)
	}
}

// wrong is an error with the status that a page shows it under.
type wrong struct {
	status int
	words  string
}

func (e *wrong) Error() string { return e.words }

func refuse(status int, format string, args ...any) error {
	return &wrong{status, fmt.Sprintf(format, args...)}
}

// maxForm bounds the body of a form, in bytes.
const maxForm = 16 << 10

func (k *Console) serve(v *visit) error {
	r := v.r
	if r.TLS == nil {
		return refuse(http.StatusForbidden, "the console speaks TLS only")
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if !k.Access.Hosted(host) { // whoever gives this address a name of theirs makes their pages' origin ours
		return refuse(http.StatusMisdirectedRequest, "the gateway's certificate is not for the host that was asked for")
	}
	if asset, ok := strings.CutPrefix(v.name, "assets/"); ok && r.Method == http.MethodGet {
		return v.asset(asset)
	}
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	p, ok := k.pages[method+" "+v.name]
	if !ok {
		for _, other := range []string{"GET ", "POST "} {
			if _, there := k.pages[other+v.name]; there {
				v.w.Header().Set("Allow", strings.TrimSpace(other))
				return refuse(http.StatusMethodNotAllowed, "this page takes %s only", strings.TrimSpace(other))
			}
		}
		return refuse(http.StatusNotFound, "there is no such page")
	}
	if method == http.MethodPost {
		if err := k.sameOrigin(r); err != nil {
			return err
		}
	}
	if err := v.recognise(); err != nil {
		return err
	}
	switch {
	case p.open:
	case v.session == nil && method == http.MethodGet:
		to := Path + "signin"
		if v.name != "" && r.Header.Get("HX-Request") == "" {
			to += "?to=" + url.QueryEscape(r.URL.RequestURI())
		}
		if r.Header.Get("HX-Request") != "" { // a part of a page was asked for: the whole goes there
			v.w.Header().Set("HX-Redirect", to)
			v.w.WriteHeader(http.StatusUnauthorized)
			return nil
		}
		http.Redirect(v.w, r, to, http.StatusSeeOther)
		return nil
	case v.session == nil:
		return refuse(http.StatusUnauthorized, "you are not signed in, or no longer: nothing was done")
	case p.path != "" && !k.API.May(v.person, p.method, p.path):
		return refuse(http.StatusForbidden, "this takes more than the role %s, which you have", v.person.Role)
	}
	if method == http.MethodPost && !p.ownBody {
		if err := v.form(); err != nil {
			return err
		}
		if !p.open && !v.session.holds(r.PostForm.Get("token")) {
			return refuse(http.StatusForbidden, "the form is not one of this session's: load the page again")
		}
	}
	return p.handle(v)
}

// sameOrigin refuses a form that does not come from a page of this console. Browsers say where it comes from.
func (k *Console) sameOrigin(r *http.Request) error {
	if r.Header.Get("Sec-Fetch-Site") == "" && r.Header.Get("Origin") == "" || k.cross.Check(r) != nil {
		return refuse(http.StatusForbidden, "this does not come from a page of the console: nothing was done")
	}
	return nil
}

// form reads the body.
func (v *visit) form() error {
	v.r.Body = http.MaxBytesReader(v.w, v.r.Body, maxForm)
	if err := v.r.ParseForm(); err != nil {
		if _, large := errors.AsType[*http.MaxBytesError](err); large {
			return refuse(http.StatusRequestEntityTooLarge, "the form is larger than %d bytes", maxForm)
		}
		return refuse(http.StatusBadRequest, "the form does not parse")
	}
	return nil
}

// api is the API for the person.
func (v *visit) api() *admin.Client { return v.k.API.As(v.person) }

// may reports whether a page offers something.
func (v *visit) may(method, path string) bool { return v.k.API.May(v.person, method, path) }

// patient gives an answer that waits for a CA its time.
func (v *visit) patient(d time.Duration) {
	_ = http.NewResponseController(v.w).SetWriteDeadline(time.Now().Add(d)) // where it cannot be set, it ends earlier
}

// to sends the browser on, with something to say there.
func (v *visit) to(where string, pairs ...string) {
	q := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		q.Set(pairs[i], pairs[i+1])
	}
	address := Path + where
	if len(q) > 0 {
		address += "?" + q.Encode()
	}
	http.Redirect(v.w, v.r, address, http.StatusSeeOther)
}

// fail shows an error.
func (v *visit) fail(err error) {
	status, words := http.StatusServiceUnavailable, ""
	var candidates []string
	if own, ok := errors.AsType[*wrong](err); ok {
		status, words = own.status, own.words
	} else if e, ok := errors.AsType[*admin.Error](err); ok {
		status, words, candidates = e.Status, e.Message, e.Candidates
	} else {
		v.k.Log.Error("console: a page failed", "page", v.name, "err", err)
		words = "the gateway cannot answer: its log says why"
	}
	if err := v.show(status, "error", "Not done", errorPage{http.StatusText(status), words, candidates}); err != nil {
		v.k.Log.Error("console: the page of an error failed", "err", err)
	}
}

type errorPage struct {
	Status, Words string
	Candidates    []string
}

// show renders a page whole before a byte of it is sent.
func (v *visit) show(status int, name, title string, body any) error {
	frame := frame{
		Title: title, Page: name, Body: body, Version: v.k.Version, Now: v.now.UTC(), Style: assetURL("console.css"), Script: assetURL("htmx.min.js"),
	}
	if v.session != nil {
		frame.Actor, frame.Role, frame.Token = v.person.Actor, v.person.Role.String(), v.session.token
	}
	var b bytes.Buffer
	if err := v.k.template(name).Execute(&b, frame); err != nil {
		return err
	}
	v.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	v.w.WriteHeader(status)
	if v.r.Method != http.MethodHead {
		_, _ = io.WriteString(v.w, visible(b.String())) // who has left needs no answer
	}
	return nil
}

// frame is what stands around each page.
type frame struct {
	Title, Page, Version string
	Actor, Role, Token   string // "" where nobody has signed in
	Style, Script        string
	Now                  time.Time
	Body                 any
}
