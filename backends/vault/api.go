package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/upstream"
)

// api is the server's HTTP API under a session.
type api struct {
	client    *upstream.Client
	namespace string
	session   *session
}

func newAPI(cfg *Config, o Options) (*api, error) {
	client, err := cfg.Config.New()
	if err != nil {
		return nil, err
	}
	a := &api{client: client, namespace: cfg.Namespace}
	a.session = newSession(a, &cfg.Auth, o)
	return a, nil
}

// call asks under the session's token. When the server does not take it (403, which it says before it does anything), it is asked a
// second time under a new one, if there is one. Its errors are those of upstream.Client.Do.
func (a *api) call(ctx context.Context, method, path string, body any, limit int64) (*upstream.Answer, error) {
	token, err := a.session.token(ctx)
	if err != nil {
		return nil, err
	}
	answer, err := a.do(ctx, method, path, token, body, limit)
	if err != nil || answer.Status != http.StatusForbidden {
		return answer, err
	}
	again, err := a.session.instead(ctx, token)
	if err != nil {
		return nil, err
	}
	if again == token {
		return answer, nil
	}
	return a.do(ctx, method, path, again, body, limit)
}

// ask is call for a good answer's data.
func (a *api) ask(ctx context.Context, method, path string, body any, limit int64, data any) error {
	answer, err := a.call(ctx, method, path, body, limit)
	if err != nil {
		return err
	}
	if answer.Status != http.StatusOK {
		return refused(answer)
	}
	return dataOf(answer, data)
}

// do asks once.
func (a *api) do(ctx context.Context, method, path, token string, body any, limit int64) (*upstream.Answer, error) {
	var content []byte
	if body != nil {
		var err error
		if content, err = json.Marshal(body); err != nil {
			return nil, backend.Refuse(codes.Internal, "%v", err)
		}
	}
	r, err := http.NewRequestWithContext(ctx, method, a.client.URL("/v1/"+path), bytes.NewReader(content))
	if err != nil {
		return nil, backend.Refuse(codes.Internal, "no request can be made for %s", path)
	}
	r.Header.Set("X-Vault-Request", "true") // which agents and proxies of it can require
	if token != "" {
		r.Header.Set("X-Vault-Token", token)
	}
	if a.namespace != "" {
		r.Header.Set("X-Vault-Namespace", a.namespace)
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	answer, err := a.client.Do(ctx, r, limit)
	if err != nil {
		return nil, err
	}
	answer.Hide(token)
	return answer, nil
}

// dataOf reads what stands under "data".
func dataOf(a *upstream.Answer, data any) error {
	wrapped := struct {
		Data any `json:"data"`
	}{data}
	if err := json.Unmarshal(a.Body, &wrapped); err != nil {
		return backend.Refuse(codes.Internal, "an answer that is not the engine's: %v", err)
	}
	return nil
}

// said are the texts of an answer's "errors".
func said(a *upstream.Answer) []string {
	var e struct {
		Errors []string `json:"errors"`
	}
	if json.Unmarshal(a.Body, &e) != nil {
		return nil
	}
	return e.Errors
}

// warnings are an answer's "warnings", but for those of names that were given to a role that takes the request's.
func warnings(a *upstream.Answer) string {
	var w struct {
		Warnings []string `json:"warnings"`
	}
	if json.Unmarshal(a.Body, &w) != nil {
		return ""
	}
	expected := func(text string) bool { return strings.Contains(text, "was provided but the role is set with") }
	return a.Said(strings.Join(slices.DeleteFunc(w.Warnings, expected), "; "))
}

// Sealed and standby servers answer before anything else is done (vault.Core.switchedLockHandleRequest): this is all that they say then. What
// fails on a seal later says where.
var notAtWork = []string{"Vault is sealed", "Vault is in standby mode"}

const (
	retrySealed  = 30 * time.Second // when one who was told that the server is sealed may come again
	retryStandby = 5 * time.Second  // or that another one is active
)

// refused is the error of Issue that an answer other than a good one is. Beyond what upstream.Answer.Refused says: a server that is sealed, or
// sends to another, has done nothing.
func refused(a *upstream.Answer) error {
	texts := said(a)
	text := a.Said(strings.Join(texts, "; "))
	switch {
	case a.Status == http.StatusServiceUnavailable && len(texts) == 1 && slices.Contains(notAtWork, texts[0]):
		return backend.Exhausted(retrySealed, "not asked: "+text)
	case a.Status == http.StatusTemporaryRedirect || a.Status == http.StatusPermanentRedirect:
		return backend.Exhausted(retryStandby, "not asked: a standby that sends to the active server instead of asking it: configure the active one's URL")
	case a.Status == http.StatusNotFound && strings.Contains(text, "no handler for route"):
		return backend.Refuse(codes.FailedPrecondition, "HTTP %d: %s: is `mount` (and `namespace`) that of the PKI secrets engine?", a.Status, text)
	}
	return a.Refused(text)
}

// named puts before an error's text what it is about, and leaves its code and details.
func named(err error, what string) error {
	s := status.Convert(err).Proto()
	s.Message = what + ": " + s.Message
	return status.FromProto(s).Err()
}

// pathOf escapes and joins. A mount's slashes stay.
func pathOf(parts ...string) string {
	for i, p := range parts {
		segments := strings.Split(p, "/")
		for j, s := range segments {
			segments[j] = url.PathEscape(s)
		}
		parts[i] = strings.Join(segments, "/")
	}
	return strings.Join(parts, "/")
}

// ended is the error of a context that has ended, nil when it has not. It refuses nothing.
func ended(ctx context.Context) error {
	switch err := ctx.Err(); {
	case errors.Is(err, context.DeadlineExceeded):
		return backend.Refuse(codes.DeadlineExceeded, "%v", err)
	case err != nil:
		return backend.Refuse(codes.Canceled, "%v", err)
	}
	return nil
}
