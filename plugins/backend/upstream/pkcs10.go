package upstream

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/plugins/backend"
)

var oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}

// Decides is a configuration's list of what the CA sets by rules of its own (backend.Description.Decides). nil is otherwise.
func Decides(given []string, otherwise ...backend.Field) ([]backend.Field, error) {
	if given == nil {
		return otherwise, nil
	}
	known := []backend.Field{backend.FieldSubject, backend.FieldSubjectAltName, backend.FieldValidity, backend.FieldKeyUsage, backend.FieldExtKeyUsage}
	fields := []backend.Field{}
	for _, name := range given {
		f := backend.Field(name)
		if !slices.Contains(known, f) || slices.Contains(fields, f) {
			return nil, fmt.Errorf("decides: %q is not one of subject, subjectAltName, validity, keyUsage, extKeyUsage, each once", name)
		}
		fields = append(fields, f)
	}
	if !slices.Contains(fields, backend.FieldValidity) {
		return nil, errors.New("decides: validity has to be among them: a PKCS#10 request has no place for dates")
	}
	return fields, nil
}

// CheckCSR refuses, as INVALID_ARGUMENT, what a CA that certifies a PKCS#10 as it stands would certify otherwise than the template: another key,
// and a name that is not the CA's to decide.
func CheckCSR(r *backend.IssueRequest, decides []backend.Field) error {
	csr, err := x509.ParseCertificateRequest(r.CSR)
	if err != nil {
		return backend.Refuse(codes.InvalidArgument, "not a PKCS#10 request: %v", err)
	}
	t := &r.Template
	var san []byte
	for _, e := range csr.Extensions {
		if e.Id.Equal(oidSubjectAltName) {
			san = e.Value
		}
	}
	switch {
	case !bytes.Equal(csr.RawSubjectPublicKeyInfo, t.PublicKey):
		return backend.Refuse(codes.InvalidArgument, "the PKCS#10 request is for another key than the template")
	case !slices.Contains(decides, backend.FieldSubject) && !bytes.Equal(csr.RawSubject, t.Subject):
		return backend.Refuse(codes.InvalidArgument, "this CA certifies the subject of the PKCS#10 request, and another was granted")
	case !slices.Contains(decides, backend.FieldSubjectAltName) && !bytes.Equal(san, t.SubjectAltName):
		return backend.Refuse(codes.InvalidArgument, "this CA certifies the subjectAltName of the PKCS#10 request, and another was granted")
	}
	return nil
}

// Issued makes the answer of what a CA sent: the certificate of the key, and its chain out of the bag and what came along. What does
// not fit is passed on as it is, since the gateway compares, and revokes; it fails when there is no certificate, or none above it.
func (b Bag) Issued(key []byte, sent Bag) (*backend.Issuance, error) {
	i := slices.IndexFunc(sent, func(c *x509.Certificate) bool { return bytes.Equal(c.RawSubjectPublicKeyInfo, key) })
	switch {
	case i >= 0:
	case len(sent) == 1:
		i = 0
	default:
		return nil, backend.Refuse(codes.Internal, "of the %d certificates in the CA's answer none is for the key of the request", len(sent))
	}
	up := append(slices.Clone(b), sent...).Above(sent[i])
	if len(up) == 0 {
		return nil, backend.Refuse(codes.Internal, "the certificate is issued by a CA that its server does not name, or that leads to no root")
	}
	return &backend.Issuance{Certificate: sent[i].Raw, Chain: up.DER()}, nil
}
