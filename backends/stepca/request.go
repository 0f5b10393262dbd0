package stepca

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/plugins/backend"
)

// content is the claim `muster` of a token: what configs/stepca.tpl renders, in the words of step-ca's templates
// (go.step.sm/crypto/x509util, Certificate).
type content struct {
	SerialNumber       string      `json:"serialNumber"` // decimal
	RawSubject         []byte      `json:"rawSubject"`   // DER
	CommonName         string      `json:"commonName"`   // for the CA's policy; the certificate has rawSubject
	DNSNames           []string    `json:"dnsNames"`
	EmailAddresses     []string    `json:"emailAddresses"`
	IPAddresses        []string    `json:"ipAddresses"`
	URIs               []string    `json:"uris"`
	KeyUsage           []string    `json:"keyUsage"`
	UnknownExtKeyUsage []string    `json:"unknownExtKeyUsage"`
	Extensions         []extension `json:"extensions"`
}

type extension struct {
	ID       string `json:"id"`
	Critical bool   `json:"critical"`
	Value    []byte `json:"value"`
}

var (
	oidSubjectAltName   = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidBasicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidCommonName       = asn1.ObjectIdentifier{2, 5, 4, 3}
	oidServerAuth       = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 1}
	oidClientAuth       = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 2}
)

// own are the extensions that have a place of their own in a template, or are the CA's.
var own = []asn1.ObjectIdentifier{oidSubjectAltName, oidBasicConstraints,
	{2, 5, 29, 15}, {2, 5, 29, 37}, {2, 5, 29, 14}, {2, 5, 29, 35}, {1, 3, 6, 1, 4, 1, 37476, 9000, 64, 1}}

// keyUsages are step-ca's names of the bits.
var keyUsages = []struct {
	bit  x509.KeyUsage
	name string
}{
	{x509.KeyUsageDigitalSignature, "digitalSignature"}, {x509.KeyUsageContentCommitment, "contentCommitment"},
	{x509.KeyUsageKeyEncipherment, "keyEncipherment"}, {x509.KeyUsageDataEncipherment, "dataEncipherment"},
	{x509.KeyUsageKeyAgreement, "keyAgreement"}, {x509.KeyUsageEncipherOnly, "encipherOnly"}, {x509.KeyUsageDecipherOnly, "decipherOnly"},
}

// request is what is asked of step-ca, as far as it does not change from call to call.
type request struct {
	csr     *x509.CertificateRequest
	subject string   // of the token
	sans    []string // of the token
	content *content // nil with step-ca's own template
}

// maxNames bounds the names of a request.
const maxNames = 100

// prepare checks a request and puts it into step-ca's words. Its errors say why this CA cannot certify that.
func (v *view) prepare(r *backend.IssueRequest, template string) (*request, error) {
	t := &r.Template
	if r.Issuer != "" && r.Issuer != caName {
		return nil, fmt.Errorf("there is no CA %q: the one here is %q", r.Issuer, caName)
	}
	if len(r.CSR) == 0 {
		return nil, errors.New("step-ca certifies PKCS#10 requests, and there is none")
	}
	csr, err := x509.ParseCertificateRequest(r.CSR)
	if err != nil {
		return nil, fmt.Errorf("the PKCS#10 request: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("the PKCS#10 request: %w", err)
	}
	if !bytes.Equal(csr.RawSubjectPublicKeyInfo, t.PublicKey) {
		return nil, errors.New("the PKCS#10 request is for another key")
	}
	if err := v.datesWithin(t); err != nil {
		return nil, err
	}
	var name pkix.RDNSequence
	if rest, err := asn1.Unmarshal(t.Subject, &name); err != nil || len(rest) > 0 {
		return nil, errors.New("a subject that does not parse")
	}
	names, err := namesOf(t.SubjectAltName)
	if err != nil {
		return nil, err
	}
	if template == templateDefault {
		return asDefault(csr, t, name, names)
	}
	return v.asMuster(csr, r, name, names)
}

// datesWithin holds the dates against the issuing certificates', which step-ca does not.
func (v *view) datesWithin(t *backend.Template) error {
	if t.NotBefore.IsZero() || !t.NotAfter.After(t.NotBefore) {
		return errors.New("wants notBefore, and a later notAfter")
	}
	if t.NotBefore.Nanosecond() != 0 || t.NotAfter.Nanosecond() != 0 {
		return errors.New("dates are in whole seconds")
	}
	for _, c := range v.chain {
		if t.NotAfter.After(c.NotAfter) {
			return fmt.Errorf("valid until %s, and the CA's certificate %q until %s only", t.NotAfter.UTC().Format(time.RFC3339), c.Subject, c.NotAfter.UTC().Format(time.RFC3339))
		}
	}
	return nil
}

// asMuster is for the template of configs/stepca.tpl. step-ca holds the names in the PKCS#10 against the token's, which
// are therefore the PKCS#10's; the certificate has those of the content.
func (v *view) asMuster(csr *x509.CertificateRequest, r *backend.IssueRequest, name pkix.RDNSequence, names *names) (*request, error) {
	t := &r.Template
	c := &content{SerialNumber: serialOf(r, v.chain[0].RawSubject).String(), RawSubject: t.Subject, CommonName: commonName(name)}
	for _, u := range keyUsages {
		if t.KeyUsage&u.bit != 0 {
			c.KeyUsage = append(c.KeyUsage, u.name)
		}
	}
	if t.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 {
		return nil, errors.New("the key usages of a CA")
	}
	for _, id := range t.ExtKeyUsage {
		c.UnknownExtKeyUsage = append(c.UnknownExtKeyUsage, id.String())
	}
	// As names where step-ca writes them so, which has its policies and name constraints see them; else as the extension.
	if names.typed && bytes.Equal(names.marshal(), t.SubjectAltName) {
		c.DNSNames, c.EmailAddresses, c.IPAddresses, c.URIs = names.dns, names.email, names.ip, names.uri
	} else if t.SubjectAltName != nil {
		c.Extensions = append(c.Extensions, extension{ID: oidSubjectAltName.String(), Critical: len(name) == 0, Value: t.SubjectAltName})
	}
	for _, e := range t.Extensions {
		if slices.ContainsFunc(own, e.Id.Equal) {
			return nil, fmt.Errorf("extension %s is not for a request to set", e.Id)
		}
		c.Extensions = append(c.Extensions, extension{ID: e.Id.String(), Critical: e.Critical, Value: e.Value})
	}
	q := &request{csr: csr, content: c, subject: csr.Subject.CommonName, sans: slices.Concat(csr.DNSNames, csr.EmailAddresses)}
	for _, ip := range csr.IPAddresses {
		q.sans = append(q.sans, ip.String())
	}
	for _, u := range csr.URIs {
		q.sans = append(q.sans, u.String())
	}
	if q.subject == "" { // step-ca wants one
		q.subject = "muster"
		if c.CommonName != "" {
			q.subject = c.CommonName
		}
	}
	if len(q.sans) > maxNames {
		return nil, fmt.Errorf("more than %d names", maxNames)
	}
	return q, nil
}

// asDefault is for step-ca's own template (x509util.DefaultLeafTemplate): a common name, the names of the token, digitalSignature,
// with keyEncipherment for RSA, serverAuth and clientAuth. What it would make otherwise is refused.
func asDefault(csr *x509.CertificateRequest, t *backend.Template, name pkix.RDNSequence, names *names) (*request, error) {
	cn := commonName(name)
	if same, err := asn1.Marshal(pkix.Name{CommonName: cn}.ToRDNSequence()); err != nil || cn == "" || !bytes.Equal(same, t.Subject) {
		return nil, errors.New("step-ca's own template makes a subject of one common name only: give the provisioner Muster's template")
	}
	if csr.Subject.CommonName != "" && csr.Subject.CommonName != cn {
		return nil, fmt.Errorf("step-ca's own template keeps the common name of the request: give the provisioner Muster's template")
	}
	if !names.typed || !bytes.Equal(names.marshal(), t.SubjectAltName) || len(names.all()) == 0 {
		return nil, errors.New("step-ca's own template makes a subjectAltName of DNS names, addresses, e-mail addresses and URIs, in this order, and one of the common name when there is none: give the provisioner Muster's template")
	}
	usage := x509.KeyUsageDigitalSignature
	if _, ok := csr.PublicKey.(*rsa.PublicKey); ok {
		usage |= x509.KeyUsageKeyEncipherment
	}
	if usage&^t.KeyUsage != 0 && t.KeyUsage != 0 {
		return nil, fmt.Errorf("step-ca's own template sets key usage %#x, and granted is %#x: give the provisioner Muster's template", usage, t.KeyUsage)
	}
	for _, id := range []asn1.ObjectIdentifier{oidServerAuth, oidClientAuth} {
		if len(t.ExtKeyUsage) > 0 && !slices.ContainsFunc(t.ExtKeyUsage, id.Equal) {
			return nil, errors.New("step-ca's own template sets serverAuth and clientAuth, and not both are granted: give the provisioner Muster's template")
		}
	}
	if len(t.Extensions) > 0 {
		return nil, errors.New("step-ca's own template has no extensions: give the provisioner Muster's template")
	}
	return &request{csr: csr, subject: cn, sans: names.all()}, nil
}

func commonName(name pkix.RDNSequence) string {
	for _, rdn := range name {
		for _, a := range rdn {
			if s, ok := a.Value.(string); ok && a.Type.Equal(oidCommonName) {
				return s
			}
		}
	}
	return ""
}

// names are those of a subjectAltName, by kind.
type names struct {
	dns, email, ip, uri []string
	typed               bool // there are no other kinds
}

// namesOf parses GeneralNames (RFC 5280 section 4.2.1.6); nil has none.
func namesOf(der []byte) (*names, error) {
	n := &names{typed: true}
	if der == nil {
		return n, nil
	}
	in, list := cryptobyte.String(der), cryptobyte.String(nil)
	if !in.ReadASN1(&list, cbasn1.SEQUENCE) || !in.Empty() {
		return nil, errors.New("a subjectAltName that does not parse")
	}
	for count := 0; !list.Empty(); count++ {
		var tag cbasn1.Tag
		var value cryptobyte.String
		if !list.ReadAnyASN1(&value, &tag) {
			return nil, errors.New("a subjectAltName that does not parse")
		}
		if count == maxNames {
			return nil, fmt.Errorf("more than %d names", maxNames)
		}
		switch text := string(value); tag {
		case cbasn1.Tag(1).ContextSpecific():
			n.email = append(n.email, text)
			n.typed = n.typed && kindOf(text) == 'e'
		case cbasn1.Tag(2).ContextSpecific():
			n.dns = append(n.dns, text)
			n.typed = n.typed && kindOf(text) == 'd'
		case cbasn1.Tag(6).ContextSpecific():
			n.uri = append(n.uri, text)
			u, err := url.Parse(text)
			n.typed = n.typed && kindOf(text) == 'u' && err == nil && u.String() == text
		case cbasn1.Tag(7).ContextSpecific():
			n.ip = append(n.ip, net.IP(value).String())
			n.typed = n.typed && (len(value) == net.IPv4len || len(value) == net.IPv6len && net.IP(value).To4() == nil)
		default:
			n.typed = false
		}
	}
	return n, nil
}

// kindOf is how step-ca takes a name that it is told without its kind (x509util.SplitSANs).
func kindOf(san string) rune {
	u, err := url.Parse(san)
	switch {
	case net.ParseIP(san) != nil:
		return 'i'
	case err == nil && u.Scheme != "":
		return 'u'
	case strings.Contains(san, "@"):
		return 'e'
	}
	return 'd'
}

func (n *names) all() []string { return slices.Concat(n.dns, n.ip, n.email, n.uri) }

// marshal is the GeneralNames that crypto/x509 makes of them: by kind, in the order of createCertificate's marshalSANs.
func (n *names) marshal() []byte {
	if len(n.all()) == 0 {
		return nil
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		add := func(tag uint8, values []string, bytesOf func(string) []byte) {
			for _, v := range values {
				b.AddASN1(cbasn1.Tag(tag).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes(bytesOf(v)) })
			}
		}
		text := func(s string) []byte { return []byte(s) }
		add(2, n.dns, text)
		add(1, n.email, text)
		add(7, n.ip, func(s string) []byte {
			ip := net.ParseIP(s)
			if v4 := ip.To4(); v4 != nil {
				return v4
			}
			return ip
		})
		add(6, n.uri, text)
	})
	der, err := b.Bytes()
	if err != nil {
		return nil
	}
	return der
}
