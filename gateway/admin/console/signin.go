package console

import (
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/muster-pki/muster/gateway/admin"
)

type signInPage struct {
	Shown string // the subject of the browser's certificate, "" for none
	Known bool   // it is somebody's who may come in
	OIDC  string // the provider's host, "" for none
	To    string
	Out   bool // has just signed out
}

// local is where a sign-in leads: a page of the console, whatever was asked for.
func local(to string) string {
	u, err := url.Parse(to)
	if err != nil || u.Scheme != "" || u.Host != "" || !strings.HasPrefix(to, Path) || strings.ContainsAny(to, "\\\r\n") || len(to) > 2000 {
		return Path
	}
	return to
}

// showSignIn offers the ways in.
func (k *Console) showSignIn(v *visit) error {
	p := signInPage{Shown: admin.Shown(v.r), To: local(v.r.URL.Query().Get("to")), Out: v.r.URL.Query().Get("out") != ""}
	if v.session != nil {
		http.Redirect(v.w, v.r, p.To, http.StatusSeeOther)
		return nil
	}
	switch _, err := k.API.Certified(k.Access, v.r); {
	case err == nil:
		p.Known = true
	case !errors.Is(err, admin.ErrNobody):
		return err
	}
	if k.idp != nil {
		p.OIDC = k.idp.host
	}
	return v.show(http.StatusOK, "signin", "Sign in", p)
}

// signIn signs in by the certificate of the connection.
func (k *Console) signIn(v *visit) error {
	who, err := k.API.Certified(k.Access, v.r)
	if errors.Is(err, admin.ErrNobody) {
		k.API.Denied("certificate", v.r.RemoteAddr)
		return refuse(http.StatusForbidden, "this takes the client certificate of an operator: your browser has shown none, or one that does not count here")
	}
	if err != nil {
		return err
	}
	v.begin(who.Actor, nil)
	k.Log.Info("console: signed in", "actor", who.Actor, "way", "cert:"+admin.Shown(v.r), "role", who.Role.String(), "source", v.r.RemoteAddr)
	http.Redirect(v.w, v.r, local(v.r.PostForm.Get("to")), http.StatusSeeOther)
	return nil
}

// signOut ends the session.
func (k *Console) signOut(v *visit) error {
	if cookie, err := v.r.Cookie(sessionCookie); err == nil {
		k.Sessions.end(cookie.Value)
	}
	v.forget(sessionCookie)
	v.w.Header().Set("Clear-Site-Data", `"cache"`)
	k.Log.Info("console: signed out", "actor", v.person.Actor)
	v.to("signin", "out", "1")
	return nil
}
