package authz

import (
	"context"
	"crypto/x509"
	x509pkix "crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// certificateJudge is what `client-certificate` and `vendor-ca` have in common: which certificate of a request counts,
// what a chain policy's errors mean, and which device the certificate names.
type certificateJudge struct {
	kinds  []gateway.CredentialKind
	device *field // nil: certificates name no device
	now    func() time.Time
}

// newCertificateJudge reads the settings. setting is what the stage calls the place of the device's name.
func newCertificateJudge(kinds []string, setting, device string, now func() time.Time) (*certificateJudge, error) {
	known, err := certificateKinds(kinds)
	if err != nil {
		return nil, err
	}
	j := &certificateJudge{kinds: known, now: now}
	if device != "" {
		f, err := parseField(device)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", setting, err)
		}
		j.device = &f
	}
	return j, nil
}

// Credentials is what the stage looks at.
func (j *certificateJudge) Credentials() []gateway.CredentialKind { return j.kinds }

// Identifies marks the stage as one that depends only on who is asking.
func (j *certificateJudge) Identifies() {}

// decide verifies the certificate under the policy and takes the device's name from it. The policy is asked for only
// when there is a certificate; its error means that the stage cannot answer.
func (j *certificateJudge) decide(ctx context.Context, r *gateway.Request, g *gateway.Grant, policy func(context.Context) (*pkix.ChainPolicy, error)) gateway.Verdict {
	_, v := j.judge(ctx, r, g, policy)
	return v
}

// judged is what a certificate said that was accepted.
type judged struct {
	device string            // "" when certificates name none
	anchor *x509.Certificate // that its path ends with
}

// judge is decide, and says what was found when it allows.
func (j *certificateJudge) judge(ctx context.Context, r *gateway.Request, g *gateway.Grant, policy func(context.Context) (*pkix.ChainPolicy, error)) (judged, gateway.Verdict) {
	if err := ctx.Err(); err != nil {
		return judged{}, gateway.Unanswered(err)
	}
	c, ok := carried(r, j.kinds)
	if !ok {
		return judged{}, gateway.Denied(gateway.Unauthenticated, "a client certificate is required", "the request carries no "+joinKinds(j.kinds))
	}
	leaf := c.Chain[0]
	seen := fmt.Sprintf("%s %s, issued by %s", c.Kind, formatSubject(leaf.RawSubject), formatSubject(leaf.RawIssuer))
	p, err := policy(ctx)
	if err != nil {
		return judged{}, gateway.Unanswered(fmt.Errorf("%s: %w", seen, err))
	}
	path, err := p.Verify(c.Chain, j.now())
	if err != nil {
		return judged{}, refusedChain(seen, err)
	}
	g.Authenticate(c)
	found := judged{anchor: path[len(path)-1]}
	note := fmt.Sprintf("%s, under %s", seen, formatSubject(found.anchor.RawSubject))
	if j.device == nil {
		return found, gateway.Allowed(note)
	}
	if found.device, err = j.device.of(leaf.RawSubject, sanOf(leaf)); err != nil {
		return judged{}, gateway.Denied(gateway.NotAuthorized, "the certificate does not say which device it is", seen+": "+err.Error())
	}
	if denied, ok := nameDevice(g, found.device); !ok {
		return judged{}, denied
	}
	return found, gateway.Allowed(note + ", device " + shown(found.device))
}

// refusedChain gives an error of ChainPolicy.Verify its reason.
func refusedChain(seen string, err error) gateway.Verdict {
	note := seen + ": " + err.Error()
	switch {
	case errors.Is(err, pkix.ErrRevoked):
		return gateway.Denied(gateway.Revoked, "the certificate is revoked", note)
	case errors.Is(err, pkix.ErrRevocationUnknown):
		return gateway.Unanswered(errors.New(note))
	case errors.Is(err, pkix.ErrExpired):
		return gateway.Denied(gateway.Untrusted, "the certificate, or one above it, is not valid now", note)
	case errors.Is(err, pkix.ErrUsage):
		return gateway.Denied(gateway.Untrusted, "the certificate is not for this use", note)
	case errors.Is(err, pkix.ErrWeak), errors.Is(err, pkix.ErrAlgorithm):
		return gateway.Denied(gateway.Untrusted, "the certificate's key or algorithm is not accepted", note)
	}
	return gateway.Denied(gateway.Untrusted, "the certificate is not trusted here", note)
}

// policyFiles are the settings of a chain policy that are read from files and names.
type policyFiles struct {
	cas, intermediates, purposes []string
	blocklist                    string
}

// readPolicy starts a chain policy.
func readPolicy(dir string, c policyFiles) (*pkix.ChainPolicy, error) {
	p := &pkix.ChainPolicy{Known: &pkix.KnownPaths{}}
	var err error
	if p.Roots, err = readCAs(dir, c.cas); err != nil {
		return nil, fmt.Errorf("cas: %w", err)
	}
	if p.Intermediates, err = readCAs(dir, c.intermediates); err != nil {
		return nil, fmt.Errorf("intermediates: %w", err)
	}
	if p.ExtKeyUsages, err = purposeOIDs(c.purposes); err != nil {
		return nil, err
	}
	if c.blocklist != "" {
		if p.Blocklist, err = readBlocklist(dir, c.blocklist); err != nil {
			return nil, fmt.Errorf("blocklist: %w", err)
		}
	}
	return p, nil
}

// purposes are the extended key usages (RFC 5280 section 4.2.1.12, RFC 4945, RFC 6402) that configurations may name.
var purposes = []struct {
	name string
	oid  asn1.ObjectIdentifier
}{
	{"clientAuth", pkix.OIDClientAuth},
	{"serverAuth", asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 1}},
	{"codeSigning", asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 3}},
	{"emailProtection", asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 4}},
	{"ipsecIKE", asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 17}},
	{"cmcRA", oidCMCRA},
	{"cmKGA", asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 32}},
	{"any", asn1.ObjectIdentifier{2, 5, 29, 37, 0}},
}

func purposeNames() []string {
	names := make([]string, len(purposes))
	for i, p := range purposes {
		names[i] = p.name
	}
	return names
}

// purposeOIDs reads a list of them.
func purposeOIDs(names []string) (list []asn1.ObjectIdentifier, err error) {
	for _, name := range names {
		oid, ok := purposeOID(name)
		if !ok {
			return nil, fmt.Errorf("purposes: %q is not known%s", name, strictyaml.Suggest(name, purposeNames()))
		}
		list = append(list, oid)
	}
	return list, nil
}

// hasPurpose refuses a certificate that is for other uses than those that count (RFC 5280 section 4.2.1.12). One without the
// extension is for any, and so is a list of none.
func hasPurpose(leaf *x509.Certificate, wanted []asn1.ObjectIdentifier) (gateway.Verdict, bool) {
	restricted := slices.ContainsFunc(leaf.Extensions, func(e x509pkix.Extension) bool { return e.Id.Equal(oidExtKeyUsage) })
	has := purposesOf(leaf)
	if restricted && len(wanted) > 0 && !slices.ContainsFunc(wanted, func(oid asn1.ObjectIdentifier) bool { return slices.ContainsFunc(has, oid.Equal) }) {
		return gateway.Denied(gateway.Untrusted, "the certificate is not for this use",
			fmt.Sprintf("the extended key usage of certificate %x is %s; one of %s is wanted", leaf.SerialNumber.Bytes(), oids(has), oids(wanted))), false
	}
	return gateway.Verdict{}, true
}

func purposeOID(name string) (asn1.ObjectIdentifier, bool) {
	for _, p := range purposes {
		if strings.EqualFold(p.name, name) {
			return p.oid, true
		}
	}
	return dottedOID(name)
}
