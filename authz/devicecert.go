package authz

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// DeviceCertificateConfig configures the stage `device-certificate`: the message is signed with the certificate that the
// device's maker put into it, as the protocol has verified under the device CA of the endpoint (`mdm: {device-ca: ...}`). It
// has no settings, and says that the maker has certified this key, not which device has it.
type DeviceCertificateConfig struct{}

// DeviceCertificate is the stage `device-certificate`. It denies with Unauthenticated a request without such a certificate.
// What the message states of its sender (`identifier.KIND` in `inventory`) counts behind it.
type DeviceCertificate struct{}

// NewDeviceCertificate makes the stage.
func NewDeviceCertificate(DeviceCertificateConfig) (*DeviceCertificate, error) {
	return &DeviceCertificate{}, nil
}

// Name is "device-certificate".
func (s *DeviceCertificate) Name() string { return "device-certificate" }

// Credentials is what the stage looks at.
func (s *DeviceCertificate) Credentials() []gateway.CredentialKind {
	return []gateway.CredentialKind{gateway.CredentialDevice}
}

// Identifies marks the stage as one that depends only on who is asking.
func (s *DeviceCertificate) Identifies() {}

// Decide looks for the certificate, which the adapter has verified.
func (s *DeviceCertificate) Decide(ctx context.Context, r *gateway.Request, g *gateway.Grant) gateway.Verdict {
	if err := ctx.Err(); err != nil {
		return gateway.Unanswered(err)
	}
	c, ok := carried(r, s.Credentials())
	if !ok {
		return gateway.Denied(gateway.Unauthenticated, "a message signed with the device's own certificate is required", "the request carries no "+string(gateway.CredentialDevice))
	}
	g.Authenticate(c)
	leaf := c.Chain[0]
	return gateway.Allowed(fmt.Sprintf("device certificate %s, issued by %s, until %s (its time is not judged)",
		formatSubject(leaf.RawSubject), formatSubject(leaf.RawIssuer), leaf.NotAfter.UTC().Format(time.RFC3339)))
}

// stated is the identifier of a kind that the requester's signed message states.
func stated(r *gateway.Request, kind string) (string, bool) {
	for _, id := range r.Identifiers {
		if id.Kind == kind && id.Value != "" {
			return id.Value, true
		}
	}
	return "", false
}

// signed reports whether an earlier stage has accepted who signed the message: what it states counts then.
func signed(r *gateway.Request, g *gateway.Grant) bool {
	for _, c := range r.Credentials {
		if (c.Kind == gateway.CredentialDevice || c.Kind == gateway.CredentialSigner || c.Kind == gateway.CredentialTLS) && g.Authenticated(c) {
			return true
		}
	}
	return false
}

// contradicts says what of a message's statements is not the entry's: an identifier that is another device's, or of which the
// entry has another value. "" when nothing is.
func contradicts(ctx context.Context, devices Devices, r *gateway.Request, d *gateway.Device) (string, error) {
	for _, id := range r.Identifiers {
		says := fmt.Sprintf("the message states %s %s", id.Kind, shown(id.Value))
		other, err := find(ctx, devices, id.Kind, id.Value)
		switch {
		case errors.Is(err, gateway.ErrNotFound):
			if has := d.Identifier(id.Kind); has != "" {
				return fmt.Sprintf("%s, and the entry of device %s has %s", says, shown(d.Name), shown(has)), nil
			}
		case err != nil:
			return "", fmt.Errorf("%s: it cannot be looked up: %w", says, err)
		case other.Name != d.Name:
			return fmt.Sprintf("%s, which is device %s's, not device %s's", says, shown(other.Name), shown(d.Name)), nil
		}
	}
	return "", nil
}
