package stepca

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/upstream"
)

// Issue signs under a token whose jti is the request's, so that a request that reached the CA once is known there. A second call finds
// the jti used. With a deterministic issuing key it then signs by another token: serial number, dates and content are the same and so
// is the certificate, byte for byte. Otherwise it ends unknown: the answer to the first call is lost.
func (c *CA) Issue(ctx context.Context, r *backend.IssueRequest) (*backend.Issuance, error) {
	run, err := c.open.Get(ctx)
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	if run.foreign.Load() {
		return nil, backend.Refuse(codes.FailedPrecondition, "%s", foreignText)
	}
	v := run.view.Load()
	q, err := v.prepare(r, run.config.Template)
	if err != nil {
		return nil, backend.Refuse(codes.InvalidArgument, "%v", err)
	}
	a, err := c.sign(ctx, run, r, q, tokenID(r.ID))
	if err != nil {
		return nil, err
	}
	if a.Status == http.StatusUnauthorized { // the jti was used, or step-ca takes no token of ours
		if run.describe.Idempotency == backend.IdempotencyLookup {
			if a, err = c.sign(ctx, run, r, q, freshID()); err != nil {
				return nil, err
			}
			return c.signed(ctx, run, q, a)
		}
		fresh, err := c.useUp(ctx, run, r, freshID(), c.o.Clock())
		if err != nil {
			return nil, backend.Refuse(codes.Unavailable, "%v", err)
		}
		if fresh || !r.Asked.IsZero() {
			return nil, backend.Refuse(codes.Unavailable, "step-ca has had this request already, and its answer is lost")
		}
	}
	return c.signed(ctx, run, q, a)
}

const foreignText = "the provisioner has not Muster's template: a certificate came with a serial number of the CA's own. Give the provisioner configs/stepca.tpl, or set `template: default`, and reload"

// signRequest is api.SignRequest.
type signRequest struct {
	CSR       string `json:"csr"`
	OTT       string `json:"ott"`
	NotBefore string `json:"notBefore,omitempty"`
	NotAfter  string `json:"notAfter,omitempty"`
}

// signBody is what is posted with a token.
func signBody(r *backend.IssueRequest, token string) *signRequest {
	return &signRequest{
		CSR: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: r.CSR})), OTT: token,
		NotBefore: r.Template.NotBefore.UTC().Format(time.RFC3339), NotAfter: r.Template.NotAfter.UTC().Format(time.RFC3339),
	}
}

// sign asks for the certificate under a token with that jti.
func (c *CA) sign(ctx context.Context, run *running, r *backend.IssueRequest, q *request, jti string) (*upstream.Answer, error) {
	now := c.o.Clock()
	sum := sha256.Sum256(r.CSR)
	token, err := run.signer.sign(&claims{
		Issuer: run.signer.name, Subject: q.subject, Audience: run.audience("sign"), ID: jti, IssuedAt: now.Unix(), Expires: now.Add(lifetime).Unix(),
		SANs: q.sans, Confirm: &cnf{Fingerprint: base64.RawURLEncoding.EncodeToString(sum[:])}, Muster: q.content,
	})
	if err != nil {
		return nil, backend.Refuse(codes.FailedPrecondition, "%v", err)
	}
	a, err := run.post(ctx, "/1.0/sign", token, signBody(r, token))
	if err != nil && ctx.Err() != nil {
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	return a, err
}

func (run *running) audience(path string) []string {
	return []string{"https://" + run.host + "/1.0/" + path + run.signer.fragment}
}

// signed reads the answer to a sign. 4xx is from before the signature: what fails after it is 500 (authority.signX509).
func (c *CA) signed(ctx context.Context, run *running, q *request, a *upstream.Answer) (*backend.Issuance, error) {
	if a.Status != http.StatusCreated {
		said := message(a)
		switch {
		case a.Status == http.StatusUnauthorized: // Muster's, not the device's: also of a CA that started this very second
			return nil, backend.Exhausted(5*time.Second, "HTTP 401: step-ca does not take the provisioner's tokens; its log says why: "+said)
		case a.Status == http.StatusForbidden && (strings.Contains(said, "duration") || strings.Contains(said, "requested certificate not")):
			return nil, backend.Refuse(codes.InvalidArgument, "HTTP 403: %s (claims of the provisioner: minTLSCertDuration, maxTLSCertDuration)", said)
		case a.Status >= 200 && a.Status < 300:
			return nil, backend.Refuse(codes.Internal, "HTTP %d is no answer of step-ca to a sign", a.Status)
		}
		return nil, a.Refused(said)
	}
	var answer struct {
		Chain []string `json:"certChain"`
	}
	if err := json.Unmarshal(a.Body, &answer); err != nil {
		return nil, backend.Refuse(codes.Internal, "the answer to a sign is no JSON")
	}
	certs, err := parsePEM([]byte(strings.Join(answer.Chain, "\n")))
	if err != nil || len(certs) < 2 {
		return nil, backend.Refuse(codes.Internal, "the answer to a sign has no certificate and chain")
	}
	chain, err := chainOf(certs[1], slices.Concat(certs[2:], run.view.Load().all), run.roots)
	if err != nil {
		return nil, backend.Refuse(codes.Internal, "%v", err)
	}
	leaf := certs[0]
	if q.content != nil && leaf.SerialNumber.String() != q.content.SerialNumber {
		// Nobody is given it, and there will not be another.
		run.foreign.Store(true)
		err := c.revoke(context.WithoutCancel(ctx), run, leaf.SerialNumber, 5) // cessationOfOperation
		c.o.Log.Error("step-ca's provisioner has not Muster's template", "serial", leaf.SerialNumber.Text(16), "revoked", err == nil)
		return nil, backend.Refuse(codes.Internal, "%s", foreignText)
	}
	return &backend.Issuance{Certificate: leaf.Raw, Chain: raw(chain)}, nil
}
