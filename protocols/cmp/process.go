package cmp

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/wire"
)

// TransportFile is what gateway.Request.Transport says of messages that came by Process.
const TransportFile = "file"

// Process answers one message for an endpoint, DER, that came by another way than HTTP: carried in a file, or inside another
// protocol's messages. Parsing, protection, transaction and pipeline are the same; the window of messageTime and the time to
// confirm are those of Config.Files. The same message gets the same answer as it would over HTTP, and the transactions are
// the same: what began by one way can go on by the other.
//
// The answer is a PKIMessage, DER; a refusal is one, too. With an error there is none; it is a *gateway.Error:
// NotAuthorized, wrapping gateway.ErrNotFound, when there is no such endpoint; Malformed when the message is none or is too
// large; Unavailable while the endpoint cannot sign.
func (h *Handler) Process(ctx context.Context, endpoint string, message []byte) (answer []byte, err error) {
	e := h.endpoints[endpoint]
	if e == nil {
		return nil, &gateway.Error{Reason: gateway.NotAuthorized, Detail: fmt.Sprintf("no CMP endpoint has the name %q", endpoint), Err: gateway.ErrNotFound}
	}
	w := &memory{header: http.Header{}}
	r := (&http.Request{Method: http.MethodPost, URL: &url.URL{Path: short + "/" + endpoint}, Header: http.Header{}, Body: http.NoBody}).WithContext(ctx)
	x := &exchange{h: h, pvno: 2, byFile: true, endpoint: e, Exchange: wire.New(w, r, gateway.CMP, h.now(), h.log)}
	x.Limits = e.Config.Limits
	x.Request.Operation, x.Request.Endpoint, x.Request.Transport = gateway.Enroll, e.Name, TransportFile
	x.Request.ConfirmWait = e.Config.confirmWait(true)
	x.carry(message)
	switch {
	case w.status == http.StatusOK && w.header.Get("Content-Type") == typePKIXCMP:
		return w.body, nil
	case x.failed != nil:
		return nil, x.failed
	}
	return nil, &gateway.Error{Reason: gateway.Internal, Transaction: x.Request.ID, Err: fmt.Errorf("the message was answered with %q", w.body)}
}

// carry is serve without HTTP.
func (x *exchange) carry(message []byte) {
	defer x.Contain(func(ref *wire.Refusal) { x.refuse(&refusal{Refusal: *ref}) })
	var ref *refusal
	if limit := x.Limits.WithDefaults().MaxBody; int64(len(message)) > limit {
		ref = &refusal{Refusal: *wire.RefusedAs(http.StatusRequestEntityTooLarge, gateway.Malformed, fmt.Sprintf("the message is larger than %d bytes", limit))}
	} else {
		ref = x.process(message)
	}
	if ref != nil {
		x.refuse(ref)
	}
}

// confirmWait is for how long a certificate waits for its certConf.
func (c Config) confirmWait(byFile bool) time.Duration {
	if byFile {
		return time.Duration(c.Files.ConfirmWait)
	}
	return time.Duration(c.ConfirmWait)
}

// memory is the http.ResponseWriter of an answer that is not sent.
type memory struct {
	header http.Header
	status int
	body   []byte
}

func (m *memory) Header() http.Header    { return m.header }
func (m *memory) WriteHeader(status int) { m.status = status }
func (m *memory) Write(b []byte) (int, error) {
	m.body = append(m.body, b...)
	return len(b), nil
}
