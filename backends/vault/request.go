package vault

import (
	"bytes"
	"crypto/x509"
	stdpkix "crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/plugins/backend"
)

var (
	oidSubjectKeyID     = asn1.ObjectIdentifier{2, 5, 29, 14}
	oidKeyUsage         = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidSubjectAltName   = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidBasicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidExtKeyUsage      = asn1.ObjectIdentifier{2, 5, 29, 37}
)

const maxExtensions = 64 // of a request

// checked is the PKCS#10 of a request, which asks for the granted key and subject.
func checked(r *backend.IssueRequest) (*x509.CertificateRequest, error) {
	refuse := func(format string, args ...any) (*x509.CertificateRequest, error) {
		return nil, backend.Refuse(codes.InvalidArgument, format, args...)
	}
	if len(r.CSR) == 0 {
		return refuse("the engine certifies PKCS#10 requests only, and there is none")
	}
	csr, err := x509.ParseCertificateRequest(r.CSR)
	switch {
	case err != nil:
		return refuse("the PKCS#10 request does not parse: %v", err)
	case csr.CheckSignature() != nil:
		return refuse("the PKCS#10 request's signature is wrong, or of an unknown kind")
	case !bytes.Equal(csr.RawSubjectPublicKeyInfo, r.Template.PublicKey):
		return refuse("the PKCS#10 request is for another key than was granted")
	case !bytes.Equal(csr.RawSubject, r.Template.Subject):
		return refuse("the PKCS#10 request is for another subject than was granted, and the engine certifies the request's")
	case len(csr.Extensions) > maxExtensions:
		return refuse("the PKCS#10 request asks for more than %d extensions", maxExtensions)
	}
	return csr, nil
}

// verbatim completes an order of sign-verbatim, which certifies all extensions of the request as they stand, and the usages that it is told
// where the request names none (certutil.signCertificate; crypto/x509 prefers ExtraExtensions).
func verbatim(body map[string]any, t *backend.Template, csr *x509.CertificateRequest) error {
	body["key_usage"], body["ext_key_usage"], body["ext_key_usage_oids"] = usageNames(t.KeyUsage), []string{}, dotted(t.ExtKeyUsage)
	for i, ext := range csr.Extensions {
		if slices.ContainsFunc(csr.Extensions[:i], func(e stdpkix.Extension) bool { return e.Id.Equal(ext.Id) }) {
			return backend.Refuse(codes.InvalidArgument, "the PKCS#10 request names extension %s twice", ext.Id)
		}
		if why := granted(ext, t, csr); why != "" {
			return backend.Refuse(codes.InvalidArgument, "the PKCS#10 request asks for %s itself, and sign-verbatim certifies requests as they stand", why)
		}
	}
	if t.SubjectAltName != nil && find(csr, oidSubjectAltName) == nil {
		return backend.Refuse(codes.InvalidArgument, "a subjectAltName is granted that the PKCS#10 request does not name, and the engine certifies the request's")
	}
	for _, want := range t.Extensions {
		if find(csr, want.Id) == nil {
			return backend.Refuse(codes.InvalidArgument, "extension %s is granted, the PKCS#10 request does not name it, and the engine certifies the request's", want.Id)
		}
	}
	return nil
}

// granted says what of a request's extension is not as granted, "" for nothing.
func granted(ext stdpkix.Extension, t *backend.Template, csr *x509.CertificateRequest) string {
	switch {
	case ext.Id.Equal(oidSubjectAltName):
		if !bytes.Equal(ext.Value, t.SubjectAltName) {
			return "another subjectAltName than was granted"
		}
	case ext.Id.Equal(oidKeyUsage):
		if usage, ok := keyUsage(ext.Value); !ok || usage != t.KeyUsage {
			return "another key usage than was granted"
		}
	case ext.Id.Equal(oidExtKeyUsage):
		var ids []asn1.ObjectIdentifier
		if rest, err := asn1.Unmarshal(ext.Value, &ids); err != nil || len(rest) > 0 || !sameSet(dotted(ids), dotted(t.ExtKeyUsage)) {
			return "another extended key usage than was granted"
		}
	case ext.Id.Equal(oidBasicConstraints):
		var constraints struct {
			IsCA       bool `asn1:"optional"`
			MaxPathLen int  `asn1:"optional,default:-1"`
		}
		if rest, err := asn1.Unmarshal(ext.Value, &constraints); err != nil || len(rest) > 0 || constraints.IsCA {
			return "a CA certificate"
		}
	case ext.Id.Equal(oidSubjectKeyID):
		var id []byte // it names the key, and grants nothing
		if rest, err := asn1.Unmarshal(ext.Value, &id); err != nil || len(rest) > 0 || len(id) > 64 || ext.Critical {
			return "a subject key identifier that is none"
		}
	default:
		same := func(e stdpkix.Extension) bool {
			return e.Id.Equal(ext.Id) && e.Critical == ext.Critical && bytes.Equal(e.Value, ext.Value)
		}
		if !slices.ContainsFunc(t.Extensions, same) {
			return fmt.Sprintf("extension %s, which was not granted", ext.Id)
		}
	}
	return ""
}

// byRole completes an order of sign. What the role leaves to the caller is as granted: names, where it does not take them from the request.
func byRole(body map[string]any, t *backend.Template, csr *x509.CertificateRequest) error {
	if len(t.Extensions) > 0 {
		return backend.Refuse(codes.InvalidArgument, "extension %s is granted, and a role of the engine certifies none of that kind", t.Extensions[0].Id)
	}
	var asked []byte
	if san := find(csr, oidSubjectAltName); san != nil {
		asked = san.Value
	}
	if !bytes.Equal(asked, t.SubjectAltName) {
		return backend.Refuse(codes.InvalidArgument, "the PKCS#10 request is for another subjectAltName than was granted, and the role certifies the request's")
	}
	body["common_name"], body["exclude_cn_from_sans"] = csr.Subject.CommonName, true
	body["alt_names"] = strings.Join(slices.Concat(csr.DNSNames, csr.EmailAddresses), ",")
	var ips, uris []string
	for _, ip := range csr.IPAddresses {
		ips = append(ips, ip.String())
	}
	for _, u := range csr.URIs {
		uris = append(uris, u.String())
	}
	body["ip_sans"], body["uri_sans"] = strings.Join(ips, ","), strings.Join(uris, ",")
	return nil
}

func find(csr *x509.CertificateRequest, id asn1.ObjectIdentifier) *stdpkix.Extension {
	for i := range csr.Extensions {
		if csr.Extensions[i].Id.Equal(id) {
			return &csr.Extensions[i]
		}
	}
	return nil
}

// names of usages as the engine has them (parsing.ParseKeyUsages), from bit 0 on.
var names = []string{"DigitalSignature", "ContentCommitment", "KeyEncipherment", "DataEncipherment", "KeyAgreement", "CertSign", "CRLSign", "EncipherOnly", "DecipherOnly"}

func usageNames(u x509.KeyUsage) []string {
	out := []string{}
	for i, name := range names {
		if u&(1<<i) != 0 {
			out = append(out, name)
		}
	}
	return out
}

// keyUsage reads KeyUsage ::= BIT STRING (RFC 5280 section 4.2.1.3).
func keyUsage(der []byte) (u x509.KeyUsage, ok bool) {
	var bits asn1.BitString
	if rest, err := asn1.Unmarshal(der, &bits); err != nil || len(rest) > 0 || bits.BitLength > len(names) {
		return 0, false
	}
	for i := range bits.BitLength {
		if bits.At(i) == 1 {
			u |= 1 << i
		}
	}
	return u, true
}

func dotted(ids []asn1.ObjectIdentifier) []string {
	out := []string{}
	for _, id := range ids {
		out = append(out, id.String())
	}
	return out
}

func sameSet(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(slices.Compact(a), slices.Compact(b))
}
