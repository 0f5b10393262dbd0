package cmp

import (
	"crypto/x509"
	"fmt"
	"slices"
	"strings"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
	"github.com/muster-pki/muster/protocols/wire"
)

// BodyName is the name of a body that asks for a certificate (RFC 9810 section 5.1.2).
type BodyName string

// The values of Config.Bodies.
const (
	BodyIR    BodyName = "ir"
	BodyCR    BodyName = "cr"
	BodyKUR   BodyName = "kur"
	BodyP10CR BodyName = "p10cr"
)

var certifyingBodies = []BodyName{BodyIR, BodyCR, BodyKUR, BodyP10CR}

// Takes reports whether requests of the body are taken.
func (c Config) Takes(b BodyName) bool { return len(c.Bodies) == 0 || slices.Contains(c.Bodies, b) }

// TakesFor lists the bodies that are taken and ask for the operation: ir, cr and p10cr enrol, kur renews and rekeys; where kur is not
// taken, p10cr does (exchange.renewedBy).
func (c Config) TakesFor(op gateway.Operation) []BodyName {
	var all []BodyName
	switch op {
	case gateway.Enroll:
		all = []BodyName{BodyIR, BodyCR, BodyP10CR}
	case gateway.Renew, gateway.Rekey:
		all = []BodyName{BodyKUR}
		if !c.Takes(BodyKUR) {
			all = []BodyName{BodyP10CR}
		}
	}
	return slices.DeleteFunc(all, func(b BodyName) bool { return !c.Takes(b) })
}

func (c Config) checkBodies() error {
	if c.Bodies != nil && len(c.Bodies) == 0 {
		return fmt.Errorf("bodies: none would ask for a certificate: name some of ir, cr, kur, p10cr, or leave it out")
	}
	for i, b := range c.Bodies {
		switch {
		case !slices.Contains(certifyingBodies, b):
			return fmt.Errorf("bodies: %q does not ask for a certificate: a list of ir, cr, kur, p10cr%s", b, strictyaml.Suggest(string(b), namesOf(certifyingBodies)))
		case slices.Contains(c.Bodies[:i], b):
			return fmt.Errorf("bodies: %s stands twice", b)
		}
	}
	return nil
}

// taken refuses a body that asks for a certificate and is none of those that the endpoint takes.
func (x *exchange) taken(kind cmpmsg.BodyType) *refusal {
	b, c := BodyName(kind.String()), x.endpoint.Config
	if !slices.Contains(certifyingBodies, b) || c.Takes(b) {
		return nil
	}
	return refused(gateway.Unsupported, fmt.Sprintf("this endpoint does not take %s: send %s", b, strings.Join(namesOf(c.Bodies), " or ")), fmt.Errorf("%s is none of the endpoint's bodies", b))
}

// pkcs10 answers p10cr.
func (x *exchange) pkcs10(b *cmpmsg.PKCS10) *refusal {
	old, ref := x.renewedBy(b)
	if ref != nil {
		return ref
	}
	if old != nil {
		x.Request.Operation = gateway.Rekey
	}
	return x.certify(func() (*wish, *refusal) { return x.fillPKCS10(b, old) }, cmpmsg.TypeP10CR, -1, nil)
}

// renewedBy is the certificate that a p10cr renews; nil for a first one. RFC 9810 has kur for that, which holds no PKCS#10: at an
// endpoint that takes no kur and renews, a p10cr that is signed with a certificate issued here, and asks for its subject, is what a kur
// would be. A batch's RA signs nothing here, and an RA with a certificate of ours asks for other subjects than its own.
func (x *exchange) renewedBy(b *cmpmsg.PKCS10) (*x509.Certificate, *refusal) {
	signer := x.requester.signer
	if signer == nil || !x.endpoint.Renews || x.endpoint.Config.Takes(BodyKUR) {
		return nil, nil
	}
	csr, err := pkix.ParseCSR(b.CSR, pkix.IgnoreKey())
	if err != nil || isNullDN(csr.Subject) || !pkix.SameName(csr.Subject, signer.RawSubject) {
		return nil, nil // fillPKCS10 says what is wrong
	}
	old, err := x.h.gateway.IssuedAs(x.R.Context(), signer.RawIssuer, signer.SerialNumber)
	if err != nil {
		return nil, &refusal{Refusal: wire.Refusal{Err: gateway.AsError(err)}, rejection: true}
	}
	if old == nil || !old.Equal(signer) {
		return nil, nil
	}
	return old, nil
}

func namesOf(list []BodyName) []string {
	out := make([]string, len(list))
	for i, b := range list {
		out[i] = string(b)
	}
	return out
}
