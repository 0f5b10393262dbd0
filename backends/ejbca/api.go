package ejbca

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/upstream"
)

const (
	maxAnswer = 1 << 20  // bytes of an answer
	maxCRL    = 44 << 20 // of one with a CRL, base64
)

// call asks the REST API. body is sent as JSON, nil for none.
func (r *running) call(ctx context.Context, method, path string, query url.Values, body any, limit int64) (*upstream.Answer, error) {
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return nil, backend.Refuse(codes.InvalidArgument, "not asked: %v", err)
		}
	}
	address := r.client.URL(restPath + path)
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	q, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(text))
	if err != nil {
		return nil, backend.Refuse(codes.FailedPrecondition, "not asked: url: it makes no request")
	}
	if body != nil {
		q.Header.Set("Content-Type", "application/json")
	}
	if r.config.Token != "" {
		token, err := bearer(r.config.Token)
		if err != nil {
			return nil, backend.Refuse(codes.FailedPrecondition, "not asked: token: %v", err)
		}
		q.Header.Set("Authorization", "Bearer "+token)
	}
	a, err := r.client.Do(ctx, q, limit)
	if e, ok := body.(*enrollment); ok && a != nil {
		a.Hide(e.Password)
	}
	if err != nil && ctx.Err() != nil && backend.Definite(err) {
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	return a, err
}

// bearer reads a token (RFC 6750 section 2.1).
func bearer(path string) (string, error) {
	text, err := upstream.Secret(path)
	if err != nil {
		return "", err
	}
	if len(text) == 0 || bytes.ContainsFunc(text, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return "", errors.New(path + " holds no bearer token")
	}
	return string(text), nil
}

// said is the text of a refusal: error_message (ExceptionErrorRestResponse), "" when there is none, or null, which the cause of an exception may say.
func said(a *upstream.Answer) string {
	var e struct {
		Message string `json:"error_message"`
	}
	if json.Unmarshal(a.Body, &e) != nil {
		return ""
	}
	return e.Message
}

// get asks for JSON. Its errors refuse nothing.
func (r *running) get(ctx context.Context, path string, query url.Values, limit int64, into any) error {
	a, err := r.call(ctx, http.MethodGet, path, query, nil, limit)
	if err != nil {
		return again(err)
	}
	return read(a, http.StatusOK, into)
}

// read takes an answer apart. Its errors refuse nothing.
func read(a *upstream.Answer, want int, into any) error {
	if a.Status != want {
		return again(a.Refused(said(a)))
	}
	if err := json.Unmarshal(a.Body, into); err != nil {
		return backend.Refuse(codes.Unavailable, "an answer that is not JSON as EJBCA has it")
	}
	return nil
}

// again makes an error that refuses nothing.
func again(err error) error {
	if !backend.Definite(err) {
		return err
	}
	return backend.Refuse(codes.Unavailable, "%s", status.Convert(err).Message())
}

// certificate reads a DER certificate in base64, or in base64 of base64: pkcs10enroll gives the one (CertificateRestResponse), search the other
// (SearchCertificatesRestResponse, which encodes what the JSON writer encodes again).
func certificate(text string) (*x509.Certificate, error) {
	der, err := base64.StdEncoding.DecodeString(text)
	if err == nil && strings.HasPrefix(string(der), "MI") {
		der, err = base64.StdEncoding.DecodeString(string(der))
	}
	if err != nil {
		return nil, errors.New("a certificate that is not base64")
	}
	return x509.ParseCertificate(der)
}
