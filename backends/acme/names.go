package acme

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/plugins/backend"
)

// maxIdentifiers of one order.
const maxIdentifiers = 100

// dnsName is a name as a CA writes it: letters, digits and hyphens in lower case, a wildcard first perhaps (RFC 8555 section 7.1.3).
var dnsName = regexp.MustCompile(`^(?:\*\.)?(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$`)

// identifiers are what the order is for: the names of the template, which are the CSR's (RFC 8555 section 7.4). Its error says what is
// not for an ACME CA.
func (c *running) identifiers(r *backend.IssueRequest) ([]acme.AuthzID, error) {
	if r.Issuer != "" && r.Issuer != name {
		return nil, fmt.Errorf("there is no CA %.40q", r.Issuer)
	}
	if r.CSR == nil {
		return nil, errors.New("there is no PKCS#10")
	}
	csr, err := x509.ParseCertificateRequest(r.CSR)
	if err != nil {
		return nil, fmt.Errorf("the PKCS#10 does not parse: %v", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("the PKCS#10's signature: %v", err)
	}
	if !bytes.Equal(csr.RawSubjectPublicKeyInfo, r.Template.PublicKey) {
		return nil, errors.New("the PKCS#10 has another public key than the template")
	}
	if _, err := x509.ParsePKIXPublicKey(r.Template.PublicKey); err != nil {
		return nil, fmt.Errorf("the public key does not parse: %v", err)
	}
	for _, e := range r.Template.Extensions {
		return nil, fmt.Errorf("extension %s: an ACME CA takes none but its own", e.Id)
	}
	var asked []byte
	for _, e := range csr.Extensions {
		if e.Id.Equal(oidSubjectAltName) {
			asked = e.Value
		}
	}
	if !bytes.Equal(asked, r.Template.SubjectAltName) {
		return nil, errors.New("the PKCS#10 asks for other names than are granted, and the CA certifies it as it stands")
	}
	ids, err := c.parseNames(r.Template.SubjectAltName)
	if err != nil {
		return nil, err
	}
	// A common name is an identifier too.
	if cn := csr.Subject.CommonName; cn != "" && !slices.ContainsFunc(ids, func(id acme.AuthzID) bool { return id.Value == strings.ToLower(cn) }) {
		return nil, fmt.Errorf("the common name %.100q is none of the names in subjectAltName, and an ACME CA takes it for one (RFC 8555 section 7.4)", cn)
	}
	return ids, nil
}

var oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}

// parseNames reads GeneralNames (RFC 5280 section 4.2.1.6): dNSName and iPAddress (RFC 8738) alone.
func (c *running) parseNames(san []byte) ([]acme.AuthzID, error) {
	in, list := cryptobyte.String(san), cryptobyte.String(nil)
	if len(san) == 0 {
		return nil, errors.New("there is no subjectAltName: an ACME CA certifies DNS names and IP addresses")
	}
	if !in.ReadASN1(&list, cbasn1.SEQUENCE) || !in.Empty() {
		return nil, errors.New("the subjectAltName is no GeneralNames")
	}
	var ids []acme.AuthzID
	for !list.Empty() {
		var value cryptobyte.String
		var tag cbasn1.Tag
		if !list.ReadAnyASN1(&value, &tag) {
			return nil, errors.New("the subjectAltName is no GeneralNames")
		}
		var id acme.AuthzID
		switch tag {
		case cbasn1.Tag(2).ContextSpecific():
			id = acme.AuthzID{Type: "dns", Value: string(value)}
			if len(value) > 253 || !dnsName.MatchString(id.Value) {
				return nil, fmt.Errorf("the name %.100q is no DNS name in lower case with a domain", id.Value)
			}
			if strings.HasPrefix(id.Value, "*.") && c.solve[dns01] == nil {
				return nil, fmt.Errorf("the wildcard %.100q wants dns-01, which is not configured", id.Value)
			}
		case cbasn1.Tag(7).ContextSpecific():
			ip, ok := netip.AddrFromSlice(value)
			if !ok {
				return nil, errors.New("an iPAddress that is none")
			}
			id = acme.AuthzID{Type: "ip", Value: ip.String()}
			if c.solve[http01] == nil {
				return nil, fmt.Errorf("the address %s wants http-01 (RFC 8738 section 7), which is not configured", ip)
			}
		default:
			return nil, errors.New("a name in subjectAltName that is neither a DNS name nor an IP address: an ACME CA certifies no other")
		}
		if slices.Contains(ids, id) {
			return nil, fmt.Errorf("the name %.100q stands twice", id.Value)
		}
		if ids = append(ids, id); len(ids) > maxIdentifiers {
			return nil, fmt.Errorf("more than %d names", maxIdentifiers)
		}
	}
	if len(ids) == 0 {
		return nil, errors.New("the subjectAltName is empty")
	}
	return ids, nil
}
