package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/muster-pki/muster/gateway/pkix"
)

// Person is who the console has let in: the actor of the audit trail, and the role.
type Person struct {
	Actor string // "cert:CN=alice,O=Ops", "oidc:alice"
	Role  Role
}

// Certified finds out whose client certificate a connection has shown, as for the API. ErrNobody when it is nobody's, or there is none; any
// other error means that nobody can tell now.
func (s *Server) Certified(a *Access, r *http.Request) (Person, error) {
	if r.TLS == nil {
		return Person{}, ErrNobody
	}
	who, _, err := s.certified(a, r)
	if errors.Is(err, errUnknown) {
		return Person{}, ErrNobody
	}
	return Person{who.actor, who.role}, err
}

// ErrNobody is returned where nobody has proven who they are.
var ErrNobody = errors.New("nobody that is known here")

// Denied counts somebody whom the console did not let in; how is "certificate", "oidc" or "none".
func (s *Server) Denied(how, source string) { s.denied.count(how, source) }

// Shown names the subject of the certificate that a connection has shown, whoever's it is; "" for none.
func Shown(r *http.Request) string {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return ""
	}
	return pkix.FormatName(r.TLS.PeerCertificates[0].RawSubject)
}

// Hosted reports whether the server's certificate is for the host that a request is for: others reach this address by a name of theirs.
func (a *Access) Hosted(host string) bool {
	cert := a.serving()
	return cert != nil && cert.VerifyHostname(host) == nil
}

// May reports whether a person's role suffices for a call of the API: method and path as the routes have them, as in POST
// /v1/transactions/:id/approve. The call itself asks the same again.
func (s *Server) May(p Person, method, path string) bool {
	for _, r := range s.table {
		if r.method == method && r.path == path {
			return r.allows(caller{p.Actor, p.Role}) == nil
		}
	}
	return false
}

// As returns a client whose calls are the person's. They take the API's way through the same handlers, without a connection.
func (s *Server) As(p Person) *Client {
	return &Client{where: "the gateway", base: "http://muster", http: &http.Client{Transport: inside{s, caller{p.Actor, p.Role}}}}
}

type insideKey struct{}

// insider is the gate of calls that come from inside.
func insider(r *http.Request) (caller, error) {
	who, ok := r.Context().Value(insideKey{}).(caller)
	if !ok || who.role == nobody || who.actor == "" {
		return caller{}, errUnknown
	}
	return who, nil
}

// inside is a http.RoundTripper that hands requests to the API's handlers.
type inside struct {
	s   *Server
	who caller
}

// RoundTrip is http.RoundTripper.
func (t inside) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(context.WithValue(r.Context(), insideKey{}, t.who))
	body, w := io.Pipe()
	out := &reply{header: http.Header{}, body: w, began: make(chan struct{})}
	call := r.Clone(ctx)
	if call.Body == nil {
		call.Body = http.NoBody
	}
	call.RequestURI, call.RemoteAddr = r.URL.RequestURI(), "inside"
	go func() {
		defer cancel()
		defer call.Body.Close()
		defer func() {
			if fault := recover(); fault != nil { // there is no http.Server around this that would
				t.s.config.Log.Error("admin request panicked", "path", r.URL.Path, "fault", fmt.Sprint(fault))
				out.WriteHeader(http.StatusInternalServerError)
				w.CloseWithError(errors.New("the answer ended early"))
				return
			}
			out.WriteHeader(http.StatusOK)
			w.Close()
		}()
		t.s.within.ServeHTTP(out, call)
	}()
	select {
	case <-out.began:
	case <-r.Context().Done():
		body.CloseWithError(r.Context().Err())
		return nil, r.Context().Err()
	}
	return &http.Response{
		StatusCode: out.status, Status: http.StatusText(out.status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: out.sent, Body: body, ContentLength: -1, Request: r,
	}, nil
}

// reply is a http.ResponseWriter into a pipe. The deadlines of a connection mean nothing here: contexts end calls.
type reply struct {
	header, sent http.Header
	status       int
	body         *io.PipeWriter
	began        chan struct{} // closed once there is a status
}

func (a *reply) Header() http.Header { return a.header }

func (a *reply) WriteHeader(status int) {
	if a.status == 0 {
		a.status, a.sent = status, a.header.Clone()
		close(a.began)
	}
}

func (a *reply) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(p)
}

func (a *reply) Flush()                           {}
func (a *reply) SetReadDeadline(time.Time) error  { return nil }
func (a *reply) SetWriteDeadline(time.Time) error { return nil }
