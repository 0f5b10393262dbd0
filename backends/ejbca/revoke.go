package ejbca

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/url"

	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/upstream"
)

// reasons are EJBCA's names (RevocationReasons). Nothing here takes a certificate off the CRL again.
var reasons = map[int]string{
	0: "UNSPECIFIED", 1: "KEY_COMPROMISE", 2: "CA_COMPROMISE", 3: "AFFILIATION_CHANGED", 4: "SUPERSEDED", 5: "CESSATION_OF_OPERATION",
	6: "CERTIFICATE_HOLD", 9: "PRIVILEGES_WITHDRAWN", 10: "AA_COMPROMISE",
}

// Revoke revokes as of now (PUT /v1/certificate/{issuer_dn}/{serial}/revoke): a date of the past is one that a certificate profile has to allow. 409 is a
// certificate that is revoked already (AlreadyRevokedException), 404 one that EJBCA does not have, 202 a revocation that somebody has to approve.
func (c *CA) Revoke(ctx context.Context, r *backend.RevokeRequest) error {
	run, err := c.running.Get(ctx)
	if err != nil {
		return err
	}
	reason, ok := reasons[r.Reason]
	if !ok {
		return backend.Refuse(codes.InvalidArgument, "EJBCA has no reason %d to revoke for", r.Reason)
	}
	known, err := run.authority(ctx, false)
	if err != nil {
		return err
	}
	serial := hex.EncodeToString(bytes.TrimLeft(r.Serial, "\x00"))
	if !bytes.Equal(known.chain[0].RawSubject, r.Issuer) || serial == "" {
		return backend.Refuse(codes.NotFound, "not a certificate of %s", upstream.Line(known.chain[0].Subject.String()))
	}
	a, err := run.call(ctx, http.MethodPut, "/v1/certificate/"+url.PathEscape(known.dn)+"/"+serial+"/revoke", url.Values{"reason": {reason}}, nil, maxAnswer)
	if err != nil {
		return err
	}
	switch a.Status {
	case http.StatusOK: // also of an RA node that has reached no CA (RaMasterApiProxyBean.revokeCertWithMetadata)
		var answer struct {
			Revoked bool `json:"revoked"`
		}
		if json.Unmarshal(a.Body, &answer) != nil || !answer.Revoked {
			return backend.Refuse(codes.Unavailable, "EJBCA has not revoked certificate %s", serial)
		}
		return nil
	case http.StatusConflict:
		return nil
	case http.StatusNotFound:
		return backend.Refuse(codes.NotFound, "HTTP 404: %s", a.Said(said(a)))
	case http.StatusAccepted:
		return backend.Refuse(codes.Unavailable, "the revocation waits for an approval at EJBCA")
	}
	return a.Refused(said(a))
}
