package console

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/admin"
)

// readDevices takes a name a line.
func readDevices(name string, in io.Reader) (all []admin.Device, refused func(*admin.ImportError) error, err error) {
	text, err := io.ReadAll(in)
	if err != nil {
		return nil, nil, err
	}
	for i, line := range strings.Fields(string(text)) {
		if line == "bad" {
			return nil, nil, fmt.Errorf("%s:%d: bad <b>\x1b\nnothing was imported", name, i+1)
		}
		all = append(all, admin.Device{Name: line})
	}
	return all, func(e *admin.ImportError) error {
		return fmt.Errorf("%s:%d: %s", name, e.Failures[0].Index+1, e.Failures[0].Error)
	}, nil
}

var odd = regexp.MustCompile(`[^\x20-\x7eü]`)

func plain(s string) string {
	return odd.ReplaceAllStringFunc(s, func(c string) string { return fmt.Sprintf(`\x%x`, c) })
}

// person is a browser of somebody's, with a certificate unless cn is "".
type person struct {
	*world
	client *http.Client
	token  string
}

func (w *world) person(cn string) *person {
	w.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(w.serving.Leaf)
	conf := &tls.Config{RootCAs: roots}
	if cn != "" {
		pair := w.operators.sign(w, &x509.Certificate{
			Subject: pkix.Name{CommonName: cn, Organization: []string{"Ops"}}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		})
		conf.Certificates = []tls.Certificate{pair}
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		w.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: conf}
	w.Cleanup(transport.CloseIdleConnections)
	return &person{world: w, client: &http.Client{Jar: jar, Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// signedIn is one who has signed in.
func (w *world) signedIn(cn string) *person {
	w.Helper()
	p := w.person(cn)
	if got := p.post("signin", url.Values{}); got.status != http.StatusSeeOther {
		w.Fatalf("%s: %d %s", cn, got.status, got.body)
	}
	return p.withToken()
}

var tokenField = regexp.MustCompile(`name="token" value="([^"]+)"`)

func (p *person) withToken() *person {
	p.Helper()
	m := tokenField.FindStringSubmatch(p.get("pending").body)
	if m == nil {
		p.Fatal("there is no token in the page")
	}
	p.token = m[1]
	return p
}

type got struct {
	status int
	body   string
	header http.Header
	to     string
}

func (p *person) do(method, path, kind string, body io.Reader, headers ...string) got {
	p.Helper()
	return p.send(method, Path+path, kind, body, headers...)
}

// outside asks for a path that is not the console's.
func (p *person) outside(path string, headers ...string) got {
	p.Helper()
	return p.send("GET", path, "", nil, headers...)
}

func (p *person) send(method, path, kind string, body io.Reader, headers ...string) got {
	p.Helper()
	r, err := http.NewRequestWithContext(p.Context(), method, p.url+path, body)
	if err != nil {
		p.Fatal(err)
	}
	if kind != "" {
		r.Header.Set("Content-Type", kind)
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			r.Host = headers[i+1]
		} else if headers[i+1] == "" {
			r.Header.Del(headers[i])
		} else {
			r.Header.Set(headers[i], headers[i+1])
		}
	}
	resp, err := p.client.Do(r)
	if err != nil {
		p.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		p.Fatal(err)
	}
	return got{resp.StatusCode, string(text), resp.Header, resp.Header.Get("Location")}
}

func (p *person) get(path string, headers ...string) got {
	p.Helper()
	return p.do("GET", path, "", nil, headers...)
}

// post sends a form of the console's, with the person's token.
func (p *person) post(path string, form url.Values, headers ...string) got {
	p.Helper()
	if p.token != "" && !form.Has("token") {
		form.Set("token", p.token)
	}
	return p.do("POST", path, "application/x-www-form-urlencoded", strings.NewReader(form.Encode()), append([]string{"Sec-Fetch-Site", "same-origin"}, headers...)...)
}

func (p *person) wants(g got, status int, words string) {
	p.Helper()
	if g.status != status || !strings.Contains(g.body, words) {
		p.Errorf("%d, want %d with %q:\n%s", g.status, status, words, g.body)
	}
}

func (p *person) leadsTo(g got, to string) {
	p.Helper()
	if g.status != http.StatusSeeOther || g.to != to {
		p.Errorf("%d to %q, want %q\n%s", g.status, g.to, to, g.body)
	}
}

// held is a request that waits.
func held() *gateway.Transaction {
	return &gateway.Transaction{
		ID: gateway.NewID(noon), Protocol: gateway.EST, Endpoint: "ran", Operation: gateway.Enroll, State: gateway.StateHeld, Subject: "CN=device-1", Received: noon, Updated: noon,
		Hold: &gateway.HoldRecord{Stage: "approval", Approvers: 2, Until: noon.Add(time.Hour), Approvals: []gateway.Approval{{By: "cert:CN=bob,O=Ops", At: noon}}},
	}
}
