package stepca

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"fmt"
	"math/big"
	"net"
	"slices"
	"strings"
	"text/template"
)

// rendered is of x509util.Certificate what the templates use.
type rendered struct {
	SerialNumber       string                      `json:"serialNumber"`
	RawSubject         []byte                      `json:"rawSubject"`
	Subject            struct{ CommonName string } `json:"subject"`
	DNSNames           []string                    `json:"dnsNames"`
	EmailAddresses     []string                    `json:"emailAddresses"`
	IPAddresses        []net.IP                    `json:"ipAddresses"`
	URIs               []string                    `json:"uris"`
	KeyUsage           []string                    `json:"keyUsage"`
	UnknownExtKeyUsage []string                    `json:"unknownExtKeyUsage"`
	Extensions         []extension                 `json:"extensions"`
}

// render applies the template as x509util.NewCertificate does.
func (f *fake) render(csr *x509.CertificateRequest, c *fakeClaims) (*x509.Certificate, error) {
	if f.template == "" {
		serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
		leaf := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: c.Subject}, KeyUsage: x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
		leaf.DNSNames = append(leaf.DNSNames, c.SANs...)
		return leaf, err
	}
	t, err := template.New("").Funcs(template.FuncMap{
		"fail":   func(s string) (string, error) { return "", fmt.Errorf("%s", s) },
		"toJson": func(v any) string { b, _ := json.Marshal(v); return string(b) }, //nolint:errcheck // what was JSON is
	}).Parse(f.template)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := t.Execute(&out, map[string]any{"Token": c.Raw}); err != nil {
		return nil, err
	}
	var m rendered
	if err := json.Unmarshal(out.Bytes(), &m); err != nil {
		return nil, err
	}
	serial, _ := new(big.Int).SetString(m.SerialNumber, 0)
	leaf := &x509.Certificate{SerialNumber: serial, RawSubject: m.RawSubject, Subject: pkix.Name{CommonName: m.Subject.CommonName}, DNSNames: m.DNSNames, EmailAddresses: m.EmailAddresses, IPAddresses: m.IPAddresses}
	for _, u := range keyUsages {
		if slices.Contains(m.KeyUsage, u.name) {
			leaf.KeyUsage |= u.bit
		}
	}
	for _, text := range m.UnknownExtKeyUsage {
		leaf.UnknownExtKeyUsage = append(leaf.UnknownExtKeyUsage, oidOf(text))
	}
	for _, e := range m.Extensions {
		leaf.ExtraExtensions = append(leaf.ExtraExtensions, pkix.Extension{Id: oidOf(e.ID), Critical: e.Critical, Value: e.Value})
	}
	if len(csr.RawSubjectPublicKeyInfo) == 0 || len(m.URIs) > 0 {
		return nil, fmt.Errorf("the fake has no URIs")
	}
	return leaf, nil
}

func oidOf(text string) (id asn1.ObjectIdentifier) {
	for part := range strings.SplitSeq(text, ".") {
		var n int
		fmt.Sscan(part, &n) //nolint:errcheck // 0 is another one
		id = append(id, n)
	}
	return id
}
