package exec

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/plugins/backend"
)

var (
	oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidKeyUsage       = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidExtKeyUsage    = asn1.ObjectIdentifier{2, 5, 29, 37}
)

// questionOf says a request in JSON. Its error is that of a template that cannot be certified.
func (c *CA) questionOf(operation string, r *backend.IssueRequest, ca *backend.CA) (*question, error) {
	q := &question{Version: 1, Operation: operation, ID: r.ID, Issuer: r.Issuer, Device: r.Device}
	if !r.Asked.IsZero() {
		q.Asked = r.Asked.UTC().Format(time.RFC3339)
	}
	if slices.Contains(c.config.Forms, backend.FormPKCS10) && r.CSR != nil {
		csr, err := x509.ParseCertificateRequest(r.CSR)
		if err != nil {
			return nil, fmt.Errorf("the PKCS#10 does not parse: %v", err)
		}
		if err := csr.CheckSignature(); err != nil {
			return nil, fmt.Errorf("the PKCS#10's signature: %v", err)
		}
		if !slices.Equal(csr.RawSubjectPublicKeyInfo, r.Template.PublicKey) {
			return nil, errors.New("the PKCS#10 has another public key than the template")
		}
		q.CSR = toPEM("CERTIFICATE REQUEST", r.CSR)
	} else if !slices.Contains(c.config.Forms, backend.FormTemplate) {
		return nil, errors.New("there is no PKCS#10, and the configured forms are pkcs10 alone")
	}
	t, err := templateOf(&r.Template)
	if err != nil {
		return nil, err
	}
	issuing, err := x509.ParseCertificate(ca.Chain[0])
	if err != nil {
		return nil, err
	}
	if c.sets(backend.FieldValidity) && r.Template.NotAfter.After(issuing.NotAfter) {
		return nil, fmt.Errorf("notAfter %s is beyond the CA's, %s", r.Template.NotAfter, issuing.NotAfter)
	}
	q.Template = t
	return q, nil
}

// sets reports whether the field is certified as the template says.
func (c *CA) sets(f backend.Field) bool {
	return !slices.Contains(c.config.Decides, f) && (slices.Contains(c.config.Forms, backend.FormTemplate) || slices.Contains(c.config.Overrides, f))
}

func templateOf(t *backend.Template) (*templateJSON, error) {
	if _, err := x509.ParsePKIXPublicKey(t.PublicKey); err != nil {
		return nil, fmt.Errorf("the public key does not parse: %v", err)
	}
	var subject pkix.RDNSequence
	if rest, err := asn1.Unmarshal(t.Subject, &subject); err != nil || len(rest) > 0 {
		return nil, errors.New("the subject is no Name")
	}
	if t.NotBefore.IsZero() || !t.NotAfter.After(t.NotBefore) {
		return nil, fmt.Errorf("valid from %s to %s, which is never", t.NotBefore, t.NotAfter)
	}
	out := &templateJSON{
		Subject: subject.String(), SubjectDER: t.Subject, PublicKey: toPEM("PUBLIC KEY", t.PublicKey),
		NotBefore: t.NotBefore.UTC().Format(time.RFC3339), NotAfter: t.NotAfter.UTC().Format(time.RFC3339), Extensions: []extensionJSON{},
	}
	if t.SubjectAltName != nil {
		if err := out.names(t.SubjectAltName); err != nil {
			return nil, err
		}
		// RFC 5280 section 4.2.1.6: critical when the subject is empty.
		out.Extensions = append(out.Extensions, extensionJSON{oidSubjectAltName.String(), len(subject) == 0, t.SubjectAltName})
	}
	if t.KeyUsage != 0 {
		usage, err := asn1.Marshal(usageBits(t.KeyUsage))
		if err != nil {
			return nil, err
		}
		out.Extensions = append(out.Extensions, extensionJSON{oidKeyUsage.String(), true, usage})
	}
	if len(t.ExtKeyUsage) > 0 {
		purposes, err := asn1.Marshal(t.ExtKeyUsage)
		if err != nil {
			return nil, err
		}
		out.Extensions = append(out.Extensions, extensionJSON{oidExtKeyUsage.String(), false, purposes})
	}
	for _, e := range t.Extensions {
		out.Extensions = append(out.Extensions, extensionJSON{e.Id.String(), e.Critical, e.Value})
	}
	return out, nil
}

// names fills in what a script can read without a DER parser. GeneralNames: RFC 5280 section 4.2.1.6.
func (t *templateJSON) names(san []byte) error {
	in, list := cryptobyte.String(san), cryptobyte.String(nil)
	if !in.ReadASN1(&list, cbasn1.SEQUENCE) || !in.Empty() {
		return errors.New("the subjectAltName is no GeneralNames")
	}
	for !list.Empty() {
		var value cryptobyte.String
		var tag cbasn1.Tag
		if !list.ReadAnyASN1(&value, &tag) {
			return errors.New("the subjectAltName is no GeneralNames")
		}
		switch tag {
		case cbasn1.Tag(1).ContextSpecific():
			t.Email = append(t.Email, string(value))
		case cbasn1.Tag(2).ContextSpecific():
			t.DNS = append(t.DNS, string(value))
		case cbasn1.Tag(6).ContextSpecific():
			t.URI = append(t.URI, string(value))
		case cbasn1.Tag(7).ContextSpecific():
			t.IP = append(t.IP, net.IP(value).String())
		}
	}
	return nil
}

// usageBits is KeyUsage ::= BIT STRING without trailing zeros (RFC 5280 section 4.2.1.3).
func usageBits(u x509.KeyUsage) asn1.BitString {
	b := asn1.BitString{Bytes: make([]byte, 2)}
	for i := range 9 {
		if u&(1<<i) != 0 {
			b.Bytes[i/8] |= 0x80 >> (i % 8)
			b.BitLength = i + 1
		}
	}
	b.Bytes = b.Bytes[:(b.BitLength+7)/8]
	return b
}

func toPEM(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// nameText is a Name as RFC 4514 writes it, "" when it is none.
func nameText(raw []byte) string {
	var name pkix.RDNSequence
	if rest, err := asn1.Unmarshal(raw, &name); err != nil || len(rest) > 0 {
		return ""
	}
	return name.String()
}
