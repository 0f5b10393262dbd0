package gateway

import (
	"context"

	"github.com/muster-pki/muster/plugins/backend"
)

// What operators do, beside configuring: approve and deny, revoke, change a CA over. actor is who does it, as the admin API
// established it. Each is an audit event, committed before anything comes of it. All errors are *Error.

// Approve records that actor approves a held request. With the last approval that it takes, the CA is asked at once, for
// what was held; the transaction is returned as it stands then.
func (g *Gateway) Approve(ctx context.Context, id, actor, reason string) (*Transaction, error) {
	panic("todo")
}

// Deny ends a held request: nothing is issued, and whoever asks again within the endpoint's repeat time is told so.
func (g *Gateway) Deny(ctx context.Context, id, actor, reason string) (*Transaction, error) {
	panic("todo")
}

// RevokeCertificate revokes a certificate issued through the gateway: here at once, and at its CA; told is false when the CA
// has not answered yet, which the worker pursues. UnknownCert when it is not ours; revoking again changes nothing.
func (g *Gateway) RevokeCertificate(ctx context.Context, issuer, serial []byte, reason int, actor, note string) (c *Certificate, told bool, err error) {
	panic("todo")
}

// Rollover changes a CA over to a new certificate or key. Unsupported when its backend cannot.
func (g *Gateway) Rollover(ctx context.Context, name string, r *backend.RolloverRequest, actor string) (*backend.CA, error) {
	panic("todo")
}
