package authz

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// Certificates is where `own-certificate` finds what the gateway issued; gateway.Store is one.
type Certificates interface {
	// Certificate returns a certificate by its issuer's DER Name and its serial number's big-endian magnitude;
	// gateway.ErrNotFound when there is none.
	Certificate(ctx context.Context, issuer, serial []byte) (*gateway.Certificate, error)
	// Certificates lists those that the filter selects, the newest first.
	Certificates(ctx context.Context, f gateway.CertificateFilter) ([]*gateway.Certificate, error)
}

// OwnCertificateConfig configures the stage `own-certificate`: the requester holds a certificate that this gateway
// had issued, and renews, rekeys or revokes that very certificate, or asks for its own ones (`query`). Behind a
// stage `ra` it is the certificate that the RA asks to renew or revoke.
type OwnCertificateConfig struct {
	// Kinds of credential to look at, in this order; the first that the request carries counts.
	// Default: tls-certificate, message-signer. password lets a request without any of them renew by a password
	// that an earlier stage has compared: the newest valid certificate that was issued to the same user under the names asked for.
	Kinds []string `yaml:"kinds"`
	// Endpoints under which the certificate may have been issued. Default: the endpoint of the request.
	Endpoints []string `yaml:"endpoints"`
	// Grace is for how long after its end a certificate still renews, for those who show it. Default: not at all.
	Grace strictyaml.Duration `yaml:"grace"`
	// ChangeNames lets a request ask, in the protocol's own way, for other names than the certificate's
	// (ChangeSubjectName, RFC 6402 section 2.8). Put `names` after this stage then.
	ChangeNames bool `yaml:"change-names"`
	// Once says how often a certificate is renewed or rekeyed. confirmed (the default): not any more once the device has
	// confirmed that it holds a successor (RFC 9810 section 5.3.5); protocols that confirm nothing go on until the certificate
	// ends. asked: one time; it is refused from when its successor is asked of the CA, unless that is rejected, or never
	// confirmed. never: until it ends. The refusal says that it is revoked. Repeats of the request that renewed it get
	// their answer all the same.
	Once Once `yaml:"once"`
	// Window is for how long before its end a certificate is renewed or rekeyed: a period, or a share of its validity (33%). Who
	// comes earlier is told from when on; repeats are answered all the same. Default: at any time.
	Window Portion `yaml:"window"`
	// Purposes of which a certificate with an extended key usage needs one, as in `client-certificate`. Default: any will do.
	Purposes []string `yaml:"purposes"`
	// Revoke says which certificates a requester may revoke: itself, the one that it shows, or device, also the others that
	// the same device has from these endpoints. Default: itself.
	Revoke string `yaml:"revoke"`
}

// Once is what OwnCertificateConfig.Once may be.
type Once string

const (
	onceConfirmed Once = "confirmed"
	onceAsked     Once = "asked"
	onceNever     Once = "never"
)

// UnmarshalStrict reads a word, and says what true and false, which stood here once, are now.
func (o *Once) UnmarshalStrict(file string, n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!bool" {
		return strictyaml.Errorf(file, n, "wants one of confirmed, asked, never: what was true is asked, what was false is never")
	}
	return strictyaml.DecodeNode(file, n, (*string)(o))
}

// What OwnCertificateConfig.Revoke may be.
const (
	revokeItself = "itself"
	revokeDevice = "device"
)

// OwnCertificate is the stage `own-certificate`. It denies with Unauthenticated without a certificate, with Untrusted
// when this gateway did not issue it, it is not valid now or for other purposes, with Revoked (from when it was rejected on, and where Once
// says so), with UnknownCert when a renewal names no certificate, and with NotAuthorized for another endpoint's
// certificate, one that waits to be confirmed, another one than the requester's, or other names than the certificate's;
// it cannot answer when the look-up fails.
type OwnCertificate struct {
	config   OwnCertificateConfig
	kinds    []gateway.CredentialKind
	purposes []asn1.ObjectIdentifier
	store    Certificates
	now      func() time.Time
}

// NewOwnCertificate makes the stage. now is the clock.
func NewOwnCertificate(c OwnCertificateConfig, store Certificates, now func() time.Time) (*OwnCertificate, error) {
	if store == nil || now == nil {
		return nil, errors.New("own-certificate: no certificates or clock given")
	}
	kinds, err := ownKinds(c.Kinds)
	if err != nil {
		return nil, err
	}
	if c.Grace < 0 {
		return nil, errors.New("grace: not negative")
	}
	if slices.Contains(c.Endpoints, "") {
		return nil, errors.New("endpoints: a name is empty")
	}
	if how := []string{"", string(onceConfirmed), string(onceAsked), string(onceNever)}; !slices.Contains(how, string(c.Once)) {
		return nil, fmt.Errorf("once: %q is none of %s%s", c.Once, strings.Join(how[1:], ", "), strictyaml.Suggest(string(c.Once), how[1:]))
	}
	if whole := []string{"", revokeItself, revokeDevice}; !slices.Contains(whole, c.Revoke) {
		return nil, fmt.Errorf("revoke: %q is neither itself nor device%s", c.Revoke, strictyaml.Suggest(c.Revoke, whole[1:]))
	}
	s := &OwnCertificate{config: c, kinds: kinds, store: store, now: now}
	if s.purposes, err = purposeOIDs(c.Purposes); err != nil {
		return nil, err
	}
	return s, nil
}

// Name is "own-certificate".
func (s *OwnCertificate) Name() string { return "own-certificate" }

// Credentials is what the stage looks at.
func (s *OwnCertificate) Credentials() []gateway.CredentialKind { return s.kinds }

// Identify is Decide, but for successors: the request that made one is repeated.
func (s *OwnCertificate) Identify(ctx context.Context, r *gateway.Request, g *gateway.Grant) (v gateway.Verdict, proves bool) {
	return s.judge(ctx, r, g, false), true
}

// Decide looks the requester's certificate up and compares the names asked for with it.
func (s *OwnCertificate) Decide(ctx context.Context, r *gateway.Request, g *gateway.Grant) gateway.Verdict {
	return s.judge(ctx, r, g, true)
}

func (s *OwnCertificate) judge(ctx context.Context, r *gateway.Request, g *gateway.Grant, anew bool) gateway.Verdict {
	if err := ctx.Err(); err != nil {
		return gateway.Unanswered(err)
	}
	c, ok := s.shows(r)
	if !ok {
		return gateway.Denied(gateway.Unauthenticated, "the certificate that was issued here is required",
			"the request carries no "+joinKinds(s.kinds))
	}
	leaf, denied, ok := s.subject(ctx, r, g, c)
	if !ok {
		return denied
	}
	record, denied, ok := s.issuedHere(ctx, leaf)
	if !ok {
		return denied
	}
	if denied, ok := issuedTo(record, leaf, c); !ok {
		return denied
	}
	if denied, ok := hasPurpose(leaf, s.purposes); !ok {
		return denied
	}
	// From here on it is known who asks, and a refusal is kept for good.
	if !g.Vouched() && c.Kind != gateway.CredentialPassword {
		g.Authenticate(c)
	}
	if record.Device != "" {
		if denied, ok := nameRecorded(g, record.Device); !ok {
			return denied
		}
	}
	if denied, ok := s.mayAsk(ctx, r, record, leaf); !ok {
		return denied
	}
	if anew && (r.Operation == gateway.Renew || r.Operation == gateway.Rekey) {
		if denied, ok := s.early(leaf); !ok {
			return denied
		}
	}
	if anew && s.succeeds(r.Operation) {
		if denied, ok := s.succeeded(ctx, record); !ok {
			return denied
		}
	}
	note := fmt.Sprintf("certificate %x of %s, issued at endpoint %s", record.Serial, pkix.FormatName(leaf.RawSubject), record.Endpoint)
	switch r.Operation {
	case gateway.Revoke:
		g.Revokes = &gateway.Replaced{Issuer: bytes.Clone(r.Target.Issuer), Serial: r.Target.Serial.Bytes()}
	case gateway.Query:
		g.Owned = &gateway.Owned{
			Replaced:  gateway.Replaced{Issuer: bytes.Clone(leaf.RawIssuer), Serial: leaf.SerialNumber.Bytes()},
			Endpoints: slices.Clone(s.endpoints(r.Endpoint)),
		}
	default:
		changed, denied, ok := s.sameNames(r, g, leaf)
		if !ok {
			return denied
		}
		note += changed
		g.Replaces = &gateway.Replaced{Issuer: bytes.Clone(leaf.RawIssuer), Serial: leaf.SerialNumber.Bytes()}
	}
	if record.Device != "" {
		note += ", device " + shown(record.Device)
	}
	if s.config.Once == onceAsked && r.Operation != gateway.Revoke && r.Operation != gateway.Query {
		return gateway.Allowed(note, gateway.Claim{
			Key: "renewed:" + gateway.Fingerprint(leaf), Limit: 1, Lost: "the certificate has been renewed, and may be once",
			Reason: gateway.Revoked, Detail: "the certificate has been renewed already",
		})
	}
	return gateway.Allowed(note)
}

// succeeds reports whether a confirmed successor ends what the certificate is good for. A query is no renewal, so that a device
// whose answer was lost finds the successor by it, but once the device has that one the earlier key does not speak for it.
func (s *OwnCertificate) succeeds(op gateway.Operation) bool {
	switch op {
	case gateway.Revoke:
		return false
	case gateway.Query:
		return s.config.Once != onceNever
	}
	return s.config.Once == "" || s.config.Once == onceConfirmed
}

// succeeded denies the renewal of a certificate that has a successor of which the device has said that it holds it.
func (s *OwnCertificate) succeeded(ctx context.Context, record *gateway.Certificate) (gateway.Verdict, bool) {
	list, err := s.store.Certificates(ctx, gateway.CertificateFilter{Renewed: record.Serial, Confirmed: true})
	if err != nil {
		return gateway.Unanswered(fmt.Errorf("the successors of certificate %x cannot be looked up: %w", record.Serial, err)), false
	}
	for _, c := range list {
		// Serial numbers are one issuer's, and the successor may be another's: of the same CA and device it is.
		if c.Backend == record.Backend && c.Device == record.Device {
			if !c.RevokedAt.IsZero() { // no way back: whoever has the old key would get by it what was taken away
				return gateway.Denied(gateway.Revoked, "the certificate has been renewed, and its successor revoked: enrol anew",
					fmt.Sprintf("certificate %x was renewed by certificate %x of transaction %s, which was revoked at %s", record.Serial, c.Serial, c.Transaction, c.RevokedAt.UTC().Format(time.RFC3339))), false
			}
			return gateway.Denied(gateway.Revoked, "the certificate has been renewed, and its successor confirmed: use that one",
				fmt.Sprintf("certificate %x was renewed by certificate %x of transaction %s, which the device has confirmed", record.Serial, c.Serial, c.Transaction)), false
		}
	}
	return gateway.Verdict{}, true
}

// subject is the certificate that the request is about: the requester's own, or, where an RA asks in the device's place (RFC 9810
// section 5.3.5), the one that the request names.
func (s *OwnCertificate) subject(ctx context.Context, r *gateway.Request, g *gateway.Grant, c gateway.Credential) (*x509.Certificate, gateway.Verdict, bool) {
	switch {
	case c.Kind == gateway.CredentialPassword:
		return s.heldBy(r, g, c)
	case !g.Vouched():
	case r.OldCert != nil:
		return r.OldCert, gateway.Verdict{}, true
	case r.Operation == gateway.Revoke && r.Target != nil && r.Target.Serial != nil && r.Target.Serial.Sign() > 0:
		record, err := s.store.Certificate(ctx, r.Target.Issuer, r.Target.Serial.Bytes())
		if errors.Is(err, gateway.ErrNotFound) {
			return nil, gateway.Denied(gateway.UnknownCert, "no such certificate was issued here", fmt.Sprintf("certificate %x of %s is not among those issued here",
				r.Target.Serial, pkix.FormatName(r.Target.Issuer))), false
		}
		if err == nil && record == nil {
			err = errors.New("the look-up gave nothing")
		}
		var cert *x509.Certificate
		if err == nil {
			cert, err = x509.ParseCertificate(record.DER)
		}
		if err != nil {
			return nil, gateway.Unanswered(fmt.Errorf("certificate %x cannot be looked up: %w", r.Target.Serial, err)), false
		}
		return cert, gateway.Verdict{}, true
	}
	return c.Chain[0], gateway.Verdict{}, true
}

// issuedHere returns the record of the certificate when this gateway issued it and it is valid.
func (s *OwnCertificate) issuedHere(ctx context.Context, leaf *x509.Certificate) (*gateway.Certificate, gateway.Verdict, bool) {
	deny := func(reason gateway.Reason, detail, format string, args ...any) (*gateway.Certificate, gateway.Verdict, bool) {
		return nil, gateway.Denied(reason, detail, fmt.Sprintf(format, args...)), false
	}
	serial := leaf.SerialNumber
	if serial == nil || serial.Sign() <= 0 {
		return deny(gateway.Untrusted, "the certificate was not issued here", "the certificate's serial number is not positive")
	}
	id := fmt.Sprintf("certificate %x of %s", serial.Bytes(), pkix.FormatName(leaf.RawIssuer))
	record, err := s.store.Certificate(ctx, leaf.RawIssuer, serial.Bytes())
	switch {
	case errors.Is(err, gateway.ErrNotFound):
		return deny(gateway.Untrusted, "the certificate was not issued here", "%s is not among those issued here", id)
	case err != nil:
		return nil, gateway.Unanswered(fmt.Errorf("%s cannot be looked up: %w", id, err)), false
	case record == nil:
		return nil, gateway.Unanswered(fmt.Errorf("%s: the look-up gave nothing", id)), false
	case len(leaf.Raw) == 0 || !bytes.Equal(record.DER, leaf.Raw):
		return deny(gateway.Untrusted, "the certificate was not issued here", "%s is not the one issued here: same issuer and serial number, other content", id)
	case !record.RevokedAt.IsZero():
		return deny(gateway.Revoked, "the certificate is revoked", "%s was revoked at %s (reason %d)", id, record.RevokedAt.UTC().Format(time.RFC3339), record.Revocation)
	}
	switch record.State {
	case gateway.StateIssued, gateway.StateUnconfirmed, gateway.StateForwarded:
	case gateway.StateRejected, gateway.StateFailed:
		return deny(gateway.Revoked, "the certificate is revoked", "%s is to be revoked: its transaction %s is %s", id, record.Transaction, record.State)
	default:
		return nil, gateway.Unanswered(fmt.Errorf("%s: its transaction %s is %q", id, record.Transaction, record.State)), false
	}
	now := s.now()
	if now.Before(leaf.NotBefore) {
		return deny(gateway.Untrusted, "the certificate is not valid yet", "%s is not valid before %s", id, leaf.NotBefore.UTC().Format(time.RFC3339))
	}
	if now.After(leaf.NotAfter.Add(time.Duration(s.config.Grace))) {
		return deny(gateway.Untrusted, "the certificate has expired", "%s expired at %s (grace: %v)", id, leaf.NotAfter.UTC().Format(time.RFC3339), s.config.Grace)
	}
	return record, gateway.Verdict{}, true
}

// mayAsk judges what is asked of the certificate.
func (s *OwnCertificate) mayAsk(ctx context.Context, r *gateway.Request, record *gateway.Certificate, leaf *x509.Certificate) (gateway.Verdict, bool) {
	deny := func(reason gateway.Reason, detail, format string, args ...any) (gateway.Verdict, bool) {
		return gateway.Denied(reason, detail, fmt.Sprintf(format, args...)), false
	}
	endpoints := s.endpoints(r.Endpoint)
	if !slices.Contains(endpoints, record.Endpoint) {
		return deny(gateway.NotAuthorized, "the certificate is not one of this endpoint's", "the certificate was issued at endpoint %q; this stage takes those of %q", record.Endpoint, endpoints)
	}
	switch r.Operation {
	case gateway.Renew, gateway.Rekey:
		// Until it is confirmed it is revoked at any moment (RFC 9810 section 5.3.18), and what it renewed would stay.
		if !confirmed(record) {
			return deny(gateway.NotAuthorized, "the certificate is not confirmed yet", "certificate %x waits to be confirmed (transaction %s)", record.Serial, record.Transaction)
		}
		if r.OldCert == nil {
			return deny(gateway.UnknownCert, "the request does not say which certificate it renews", "the request names no certificate to renew")
		}
		if !bytes.Equal(r.OldCert.Raw, leaf.Raw) {
			return deny(gateway.NotAuthorized, "a certificate renews itself only", "certificate %x of %s asks to renew certificate %x of %s",
				leaf.SerialNumber.Bytes(), pkix.FormatName(leaf.RawSubject), r.OldCert.SerialNumber.Bytes(), pkix.FormatName(r.OldCert.RawSubject))
		}
	case gateway.Revoke:
		if r.Target == nil || r.Target.Serial == nil {
			return deny(gateway.UnknownCert, "the request does not say which certificate it revokes", "the request names no certificate to revoke")
		}
		if !bytes.Equal(r.Target.Issuer, leaf.RawIssuer) || r.Target.Serial.Cmp(leaf.SerialNumber) != 0 {
			return s.mayRevoke(ctx, r, record, leaf)
		}
	case gateway.Query:
		if !confirmed(record) {
			return deny(gateway.NotAuthorized, "the certificate is not confirmed yet", "certificate %x waits to be confirmed (transaction %s)", record.Serial, record.Transaction)
		}
	default:
		return deny(gateway.NotAuthorized, "the operation is not allowed with this certificate", "own-certificate judges renew, rekey, revoke and query, not %s", r.Operation)
	}
	return gateway.Verdict{}, true
}

// confirmed reports whether a certificate is one that its device has said to have, as far as it has to.
func confirmed(record *gateway.Certificate) bool {
	return record.State != gateway.StateUnconfirmed && record.State != gateway.StateForwarded
}

// endpoints are those under which a certificate may have been issued.
func (s *OwnCertificate) endpoints(endpoint string) []string {
	if len(s.config.Endpoints) == 0 {
		return []string{endpoint}
	}
	return s.config.Endpoints
}
