package console

import (
	"cmp"
	"context"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/muster-pki/muster/gateway/admin"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// Bounds of what is asked of an identity provider.
const (
	providerTime   = 10 * time.Second // for one answer
	providerAnswer = 1 << 20          // bytes of one
	providerAtOnce = 4                // sign-ins that it is asked about at once
	providerRest   = 5 * time.Second  // after which one that did not answer is asked again who it is
	maxGroups      = 200              // of a person, beside those with a role
	maxGroup       = 256              // bytes of the name of such a one
	maxName        = 128              // bytes
)

// provider is the identity provider of a configuration. It is asked when somebody signs in, and not before.
type provider struct {
	settings *admin.OIDCConfig
	host     string
	secret   string
	http     *http.Client
	clock    func() time.Time
	asking   chan struct{} // has a place for each sign-in under way

	finding chan struct{} // held while it is being asked who it is
	found   *oidc.Provider
	failed  error
	at      time.Time // of failed
}

func newProvider(c *admin.OIDCConfig, dir string, clock func() time.Time) (*provider, error) {
	u, err := url.Parse(c.Issuer)
	if err != nil {
		return nil, fmt.Errorf("issuer: %w", err)
	}
	p := &provider{settings: c, host: u.Host, clock: clock, asking: make(chan struct{}, providerAtOnce), finding: make(chan struct{}, 1)}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CA != "" {
		data, err := strictyaml.ReadFile(dir, c.CA, 1<<20)
		if err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(data) {
			return nil, fmt.Errorf("ca: %s: no certificate in it (PEM)", c.CA)
		}
	}
	if c.ClientSecretFile != "" {
		data, err := strictyaml.ReadFile(dir, c.ClientSecretFile, 4<<10)
		if err != nil {
			return nil, fmt.Errorf("client-secret-file: %w", err)
		}
		if p.secret = strings.TrimSpace(string(data)); p.secret == "" || strings.ContainsFunc(p.secret, unicode.IsSpace) {
			return nil, errors.New("client-secret-file: want one line with the secret")
		}
	}
	p.http = &http.Client{
		Timeout:   providerTime,
		Transport: bounded{&http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: conf, ForceAttemptHTTP2: true, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: 64 << 10}},
		// It would carry the client's secret elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return p, nil
}

// bounded cuts answers off that are too large.
type bounded struct{ http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.RoundTripper.RoundTrip(r)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, providerAnswer), resp.Body}
	}
	return resp, err
}

var errBusy = &wrong{http.StatusServiceUnavailable, "many people are signing in: try again"}

// enter takes a place among those whom the provider is asked about.
func (p *provider) enter() (leave func(), err error) {
	select {
	case p.asking <- struct{}{}:
		return func() { <-p.asking }, nil
	default:
		return nil, errBusy
	}
}

// discovered is what the provider says of itself (OpenID Connect Discovery 1.0 section 4), asked for once.
func (p *provider) discovered(ctx context.Context) (*oidc.Provider, error) {
	select {
	case p.finding <- struct{}{}:
		defer func() { <-p.finding }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	now := p.clock()
	switch {
	case p.found != nil:
		return p.found, nil
	case p.failed != nil && now.Sub(p.at) < providerRest:
		return nil, p.failed
	}
	// The keys are asked for later, too: by this client, and not under this request's deadline.
	found, err := oidc.NewProvider(oidc.ClientContext(context.WithoutCancel(ctx), p.http), p.settings.Issuer)
	p.found, p.failed, p.at = found, err, now
	return found, err
}

func (p *provider) flow(found *oidc.Provider) *oauth2.Config {
	scopes := []string{oidc.ScopeOpenID}
	if len(p.settings.Scopes) == 0 {
		scopes = append(scopes, "profile")
	}
	return &oauth2.Config{
		ClientID: p.settings.ClientID, ClientSecret: p.secret, Endpoint: found.Endpoint(),
		RedirectURL: strings.TrimRight(p.settings.URL, "/") + Path + "oidc/callback", Scopes: append(scopes, p.settings.Scopes...),
	}
}

// signingIn is what the browser keeps, sealed, while it is at the provider.
type signingIn struct {
	Issuer   string    `json:"i"` // of the provider that it was sent to: a reload may name another
	State    string    `json:"s"`
	Nonce    string    `json:"n"`
	Verifier string    `json:"v"` // RFC 7636
	To       string    `json:"t"`
	At       time.Time `json:"a"`
}

// silent is what is said where the provider does not answer. The log has why.
func (v *visit) silent(err error) error {
	v.k.Log.Warn("console: the identity provider does not answer as it should", "issuer", v.k.idp.settings.Issuer, "err", err)
	return refuse(http.StatusBadGateway, "the identity provider does not answer as it should: the gateway's log says why")
}

// toProvider sends somebody to the identity provider.
func (k *Console) toProvider(v *visit) error {
	if k.idp == nil {
		return refuse(http.StatusNotFound, "there is no such page")
	}
	found, err := k.idp.discovered(v.r.Context())
	if err != nil {
		return v.silent(err)
	}
	s := signingIn{Issuer: k.idp.settings.Issuer, State: random(), Nonce: random(), Verifier: oauth2.GenerateVerifier(), To: local(v.r.URL.Query().Get("to")), At: v.now}
	kept, err := k.Sessions.sealed(s)
	if err != nil {
		return err
	}
	http.SetCookie(v.w, &http.Cookie{
		Name: signInCookie, Value: kept, Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode, MaxAge: int(signInTime / time.Second),
	})
	http.Redirect(v.w, v.r, k.idp.flow(found).AuthCodeURL(s.State, oidc.Nonce(s.Nonce), oauth2.S256ChallengeOption(s.Verifier)), http.StatusSeeOther)
	return nil
}

// fromProvider takes in who comes back.
func (k *Console) fromProvider(v *visit) error {
	if k.idp == nil {
		return refuse(http.StatusNotFound, "there is no such page")
	}
	again := refuse(http.StatusForbidden, "this sign-in was not begun here, or too long ago: sign in again")
	var s signingIn
	cookie, err := v.r.Cookie(signInCookie)
	if err != nil || k.Sessions.unsealed(cookie.Value, &s) != nil {
		return again
	}
	v.forget(signInCookie)
	q := v.r.URL.Query()
	if v.now.Sub(s.At) >= signInTime || v.now.Before(s.At) || subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(s.State)) != 1 {
		return again
	}
	if iss := q.Get("iss"); s.Issuer != k.idp.settings.Issuer || iss != "" && iss != s.Issuer { // RFC 9207
		return again
	}
	if q.Get("error") != "" {
		return refuse(http.StatusForbidden, "the identity provider has not signed you in: %.64s", q.Get("error"))
	}
	leave, err := k.idp.enter()
	if err != nil {
		return err
	}
	defer leave()
	o, err := k.idp.exchange(v.r.Context(), q.Get("code"), &s)
	if err != nil {
		k.API.Denied("oidc", v.r.RemoteAddr)
		return v.silent(err)
	}
	actor, role := k.Access.Named(o.way), k.idp.roleOf(o)
	if role < admin.Viewer {
		k.API.Denied("oidc", v.r.RemoteAddr)
		return refuse(http.StatusForbidden, "%s is in no group that has a role here", o.way)
	}
	v.begin(actor, o)
	k.Log.Info("console: signed in", "actor", actor, "way", o.way, "role", role.String(), "source", v.r.RemoteAddr)
	http.Redirect(v.w, v.r, s.To, http.StatusSeeOther)
	return nil
}

// outAtProvider sends somebody on who would end the session at the identity provider too (OpenID Connect RP-Initiated Logout 1.0). Without an ID token
// as a hint the provider asks first: no page of others can have people signed out there.
func (k *Console) outAtProvider(v *visit) error {
	if k.idp == nil {
		return refuse(http.StatusNotFound, "there is no such page")
	}
	found, err := k.idp.discovered(v.r.Context())
	if err != nil {
		return v.silent(err)
	}
	var says struct {
		End string `json:"end_session_endpoint"`
	}
	u := &url.URL{}
	if err = found.Claims(&says); err == nil {
		u, err = url.Parse(says.End)
	}
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return refuse(http.StatusNotFound, "%s does not say where people sign out: do it there", k.idp.host)
	}
	q := u.Query()
	q.Set("client_id", k.idp.settings.ClientID)
	u.RawQuery = q.Encode()
	http.Redirect(v.w, v.r, u.String(), http.StatusSeeOther)
	return nil
}

// exchange has the provider say who brought the code.
func (p *provider) exchange(ctx context.Context, code string, s *signingIn) (*oidcSession, error) {
	found, err := p.discovered(ctx)
	if err != nil {
		return nil, err
	}
	ctx = oidc.ClientContext(ctx, p.http)
	token, err := p.flow(found).Exchange(ctx, code, oauth2.VerifierOption(s.Verifier))
	if err != nil {
		if e, ok := errors.AsType[*oauth2.RetrieveError](err); ok { // its text would have the whole answer
			return nil, fmt.Errorf("the code was not taken: %.40q", e.ErrorCode)
		}
		return nil, err
	}
	raw, ok := token.Extra("id_token").(string)
	if !ok {
		return nil, errors.New("there is no ID token")
	}
	id, err := found.VerifierContext(ctx, &oidc.Config{ClientID: p.settings.ClientID, Now: p.clock}).Verify(ctx, raw)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare([]byte(id.Nonce), []byte(s.Nonce)) != 1 {
		return nil, errors.New("the ID token is for another sign-in (nonce)")
	}
	var claims map[string]any
	if err := id.Claims(&claims); err != nil {
		return nil, err
	}
	if azp, there := claims["azp"]; (there || len(id.Audience) > 1) && azp != p.settings.ClientID { // OpenID Connect Core 1.0 section 3.1.3.7, 4 and 5
		return nil, errors.New("the ID token was made for another client (azp)")
	}
	claim := p.nameClaim()
	name, _ := claimAt(claims, claim).(string)
	if name == "" || len(name) > maxName || name != strings.TrimSpace(name) || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return nil, fmt.Errorf("the ID token names nobody: its claim %s is missing, or cannot be shown", claim)
	}
	return &oidcSession{p.terms(), "oidc:" + name, p.groups(claims)}, nil
}

func (p *provider) nameClaim() string { return cmp.Or(p.settings.NameClaim, "preferred_username") }

func (p *provider) rolesClaim() string { return cmp.Or(p.settings.RolesClaim, "groups") }

// terms are what a sign-in is worth something under: who signed in under others signs in again.
func (p *provider) terms() oidcTerms {
	return oidcTerms{p.settings.Issuer, p.settings.ClientID, p.nameClaim(), p.rolesClaim()}
}

// groups are those of the claim, a text or a list of them. Of very many those that have a role are kept before others.
func (p *provider) groups(claims map[string]any) (all []string) {
	var given []any
	switch is := claimAt(claims, p.rolesClaim()).(type) {
	case string:
		given = []any{is}
	case []any:
		given = is
	}
	var others []string
	for _, one := range given {
		s, _ := one.(string)
		if _, counts := p.settings.Roles[s]; counts && !slices.Contains(all, s) {
			all = append(all, s)
		} else if !counts && s != "" && len(s) <= maxGroup && len(others) < maxGroups {
			others = append(others, s)
		}
	}
	return append(all, others...)
}

// claimAt is the claim of a name, or what its dots lead to.
func claimAt(claims map[string]any, name string) any {
	if is, ok := claims[name]; ok {
		return is
	}
	first, rest, ok := strings.Cut(name, ".")
	if below, is := claims[first].(map[string]any); ok && is {
		return claimAt(below, rest)
	}
	return nil
}

// roleOf is the highest role of somebody's groups, by the configuration that runs. It is none for who signed in at another provider.
func (p *provider) roleOf(o *oidcSession) admin.Role {
	var role admin.Role
	if p == nil || o.oidcTerms != p.terms() {
		return role
	}
	for _, group := range o.groups {
		if word, ok := p.settings.Roles[group]; ok {
			if r, err := admin.ParseRole(word); err == nil {
				role = max(role, r)
			}
		}
	}
	return role
}
