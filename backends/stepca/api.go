package stepca

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/upstream"
)

const (
	maxAnswer = 1 << 20 // bytes of JSON
	maxCerts  = 64      // in one answer
)

// trust reads the roots, or fetches the one with the fingerprint, and makes the client that trusts them only.
func (r *running) trust(ctx context.Context) (err error) {
	if r.config.Fingerprint == "" {
		text, err := os.ReadFile(r.config.Root)
		if err == nil {
			r.roots, err = parsePEM(text)
		}
		if err != nil {
			return backend.Refuse(codes.FailedPrecondition, "root: %s: %v", r.config.Root, err)
		}
	} else {
		root, err := fetchRoot(ctx, r.config)
		if err != nil {
			return backend.Refuse(codes.Unavailable, "step-ca: its root certificate: %v", err)
		}
		r.roots = []*x509.Certificate{root}
	}
	return r.connect(false)
}

// connect makes the client that trusts the roots. once is upstream.Config.Once.
func (r *running) connect(once bool) (err error) {
	u := r.config.upstream()
	u.CA, u.Roots, u.Once = "", x509.NewCertPool(), once
	for _, root := range r.roots {
		u.Roots.AddCert(root)
	}
	if r.client, err = u.New(); err != nil {
		return backend.Refuse(codes.FailedPrecondition, "%v", err)
	}
	return nil
}

// fetchRoot asks for the root with the fingerprint (api.Root). Whom is of no importance: the answer has that hash or will not do.
func fetchRoot(ctx context.Context, c *Config) (*x509.Certificate, error) {
	sum := strings.ToLower(strings.ReplaceAll(c.Fingerprint, ":", ""))
	timeout := time.Duration(c.Timeout)
	if timeout == 0 {
		timeout = upstream.DefaultTimeout
	}
	t := &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true}} //nolint:gosec // the hash of the answer is checked
	defer t.CloseIdleConnections()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(c.URL, "/")+"/1.0/root/"+sum, nil)
	if err != nil {
		return nil, err
	}
	res, err := (&http.Client{Transport: t, Timeout: timeout}).Do(q)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	var answer struct {
		CA string `json:"ca"`
	}
	if res.StatusCode >= 300 || json.Unmarshal(body, &answer) != nil {
		return nil, fmt.Errorf("HTTP %d: it has no root with that fingerprint", res.StatusCode)
	}
	certs, err := parsePEM([]byte(answer.CA))
	if err != nil {
		return nil, err
	}
	if got := sha256.Sum256(certs[0].Raw); hex.EncodeToString(got[:]) != sum {
		return nil, errors.New("it answered with a certificate of another fingerprint")
	}
	return certs[0], nil
}

// parsePEM reads one certificate or more.
func parsePEM(text []byte) (certs []*x509.Certificate, err error) {
	for len(certs) < maxCerts {
		var b *pem.Block
		if b, text = pem.Decode(text); b == nil {
			break
		}
		if b.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, err
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, errors.New("no PEM certificate")
	}
	return certs, nil
}

func (r *running) get(ctx context.Context, path string, limit int64) (*upstream.Answer, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, r.client.URL(path), nil)
	if err != nil {
		return nil, err
	}
	return r.client.Do(ctx, q, limit)
}

// post sends JSON with a token in it.
func (r *running) post(ctx context.Context, path, token string, body any) (*upstream.Answer, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, r.client.URL(path), bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	q.Header.Set("Content-Type", "application/json")
	a, err := r.client.Do(ctx, q, maxAnswer)
	if err != nil {
		return nil, err
	}
	a.Hide(token)
	return a, nil
}

// certificates asks for a list of certificates (api.Intermediates).
func (r *running) certificates(ctx context.Context, path string) ([]*x509.Certificate, error) {
	a, err := r.get(ctx, path, maxAnswer)
	if err != nil {
		return nil, err
	}
	if a.Status >= 300 {
		return nil, a.Refused(message(a) + " (" + path + ")")
	}
	var list struct {
		Certs []string `json:"crts"`
	}
	if err := json.Unmarshal(a.Body, &list); err != nil {
		return nil, fmt.Errorf("%s: no JSON", path)
	}
	return parsePEM([]byte(strings.Join(list.Certs, "\n")))
}

// message is what the CA said in an answer of its errs.Error, on one line.
func message(a *upstream.Answer) string {
	var e struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(a.Body, &e) != nil {
		return ""
	}
	return a.Said(e.Message)
}
