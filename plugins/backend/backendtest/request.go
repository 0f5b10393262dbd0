package backendtest

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"slices"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
)

// request makes a request with an ID, a key and a name of its own.
func (x *trial) request() (*backend.IssueRequest, error) {
	x.serial++
	return x.requestFor(fmt.Sprintf("suite-%04d", x.serial))
}

func (x *trial) requestFor(id string) (*backend.IssueRequest, error) {
	from := x.subject.Now().UTC().Truncate(time.Second)
	if from.Before(x.issuing.NotBefore) {
		from = x.issuing.NotBefore
	}
	common := id
	if x.subject.NamedByDNS {
		common += domain
	}
	return newRequest(id, common, from, from.Add(24*time.Hour-time.Second), slices.Contains(x.d.Forms, backend.FormPKCS10))
}

// domain of the requests' dNSNames.
const domain = ".example.org"

// newRequest asks for a certificate with every field of a template set.
func newRequest(id, common string, notBefore, notAfter time.Time, withCSR bool) (*backend.IssueRequest, error) {
	key := (&Memory{o: MemoryOptions{Seed: "device " + id}}).derive("key")
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	subject, err := asn1.Marshal(pkix.Name{CommonName: common, Organization: []string{"Test"}}.ToRDNSequence())
	if err != nil {
		return nil, err
	}
	// GeneralNames with one dNSName, [2] IMPLICIT IA5String (RFC 5280 section 4.2.1.6).
	san, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 2, Bytes: []byte(id + domain)}})
	if err != nil {
		return nil, err
	}
	r := &backend.IssueRequest{ID: id, Device: id, Template: backend.Template{
		Subject: subject, SubjectAltName: san, PublicKey: spki, NotBefore: notBefore, NotAfter: notAfter,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyAgreement,
		ExtKeyUsage: []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 2}}, // id-kp-clientAuth
	}}
	if withCSR {
		r.CSR, err = newCSR(key, &r.Template)
	}
	return r, err
}

// newCSR asks for what the template says, in the device's own words.
func newCSR(key *ecdsa.PrivateKey, t *backend.Template) ([]byte, error) {
	usage, err := asn1.Marshal(asn1.BitString{Bytes: []byte{0x88}, BitLength: 5}) // digitalSignature, keyAgreement
	if err != nil {
		return nil, err
	}
	extended, err := asn1.Marshal(t.ExtKeyUsage)
	if err != nil {
		return nil, err
	}
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		RawSubject: t.Subject,
		ExtraExtensions: []pkix.Extension{
			{Id: oidSubjectAltName, Value: t.SubjectAltName},
			{Id: oidKeyUsage, Critical: true, Value: usage},
			{Id: oidExtKeyUsage, Value: extended},
		},
	}, key)
}

// issue asks once and wants a certificate.
func (x *trial) issue(ctx context.Context, r *backend.IssueRequest) (*backend.Issuance, error) {
	ctx, cancel := context.WithTimeout(ctx, x.subject.Timeout)
	defer cancel()
	a, err := x.b.Issue(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("Issue %s: %w", r.ID, err)
	}
	return x.certificate(ctx, r, a)
}

// issueNew issues under an ID never used before.
func (x *trial) issueNew(ctx context.Context) (*backend.IssueRequest, *backend.Issuance, error) {
	r, err := x.request()
	if err != nil {
		return nil, nil, err
	}
	a, err := x.issue(ctx, r)
	return r, a, err
}

// certificate polls while the CA answers with tickets.
func (x *trial) certificate(ctx context.Context, r *backend.IssueRequest, a *backend.Issuance) (*backend.Issuance, error) {
	for a.Certificate == nil {
		x.tickets.Store(r.ID, a.Ticket)
		if !x.can(backend.CapPoll) {
			return nil, fmt.Errorf("the answer for %s is a ticket, and the backend does not describe %q", r.ID, backend.CapPoll)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("the answer for %s is still a ticket: %w", r.ID, ctx.Err())
		case <-time.After(min(a.RetryAfter, time.Second)):
		}
		var err error
		if a, err = x.b.Poll(ctx, r, a.Ticket); err != nil {
			return nil, fmt.Errorf("polling for %s: %w", r.ID, err)
		}
	}
	return a, nil
}
