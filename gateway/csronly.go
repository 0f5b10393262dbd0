package gateway

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"slices"

	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/plugins/backend"
)

// takesCSR reports whether a CA takes nothing but a PKCS#10 request.
func takesCSR(desc *backend.Description) bool {
	return desc != nil && !slices.Contains(desc.Forms, backend.FormTemplate)
}

// asItStands refuses a request that a CA would certify otherwise than it was granted: one that takes PKCS#10 alone certifies what
// stands in it, but for what it overrides (backend.Description.Overrides). It would be found out by comparing the certificate, which
// would have to be revoked. later: there is no PKCS#10 yet, and one for what was granted will be made with its key.
func asItStands(q *backend.IssueRequest, d *backend.Description, backendName string, later bool) *Error {
	if !takesCSR(d) || later {
		return nil
	}
	if q.CSR == nil {
		return Errorf(BadTemplate, "this CA certifies PKCS#10 requests only, and the request is none", "backend %s (%s) takes PKCS#10 only, and the request is none", backendName, d.Name)
	}
	csr, err := pkix.ParseCSR(q.CSR, pkix.IgnoreKey())
	if err != nil {
		return Errorf(Malformed, "the PKCS#10 request does not parse", "the PKCS#10 request: %w", err)
	}
	differs := func(what, asked, granted string) *Error {
		return Errorf(BadTemplate, cut("the CA certifies a PKCS#10 request as it stands, and its "+what+" is not what is granted here: ask for what is", maxShown),
			"backend %s (%s) certifies a PKCS#10 request as it stands, and its %s is another one than granted: asked for %s, granted %s. "+
				"Have the device ask for that, or the profile grant what is asked for, or name a backend that takes templates or overrides it", backendName, d.Name, what, asked, granted)
	}
	t := &q.Template
	if !bytes.Equal(csr.PublicKey, t.PublicKey) {
		return differs("public key", "one", "another")
	}
	asked, granted := orEmptyName(csr.Subject), orEmptyName(t.Subject)
	if !slices.Contains(d.Overrides, backend.FieldSubject) && !bytes.Equal(asked, granted) {
		_, more := subjectWithin(asked, granted)
		if more != nil || !slices.Contains(d.Decides, backend.FieldSubject) {
			return differs("subject", shownName(asked), shownName(granted))
		}
	}
	san := extensionOf(csr, oidSubjectAltName)
	if !slices.Contains(d.Overrides, backend.FieldSubjectAltName) && !bytes.Equal(san, t.SubjectAltName) {
		if namesWithin(san, t.SubjectAltName) != "" || !slices.Contains(d.Decides, backend.FieldSubjectAltName) {
			return differs("subjectAltName", shownSAN(san), shownSAN(t.SubjectAltName))
		}
	}
	for _, e := range t.Extensions {
		if !bytes.Equal(extensionOf(csr, e.Id), e.Value) {
			return differs("extension "+e.Id.String(), "none, or another value", fmt.Sprintf("%x", e.Value))
		}
	}
	for _, e := range csr.Extensions {
		if e.Critical && grantedExtension(e.Id, t) == nil && !ownCritical(e.Id) {
			return differs("critical extension "+e.Id.String(), "it", "none")
		}
	}
	return nil
}

// inItsOwnWords gives the template the names in the encoding and order of a PKCS#10 request that asks for the very same ones, since a
// CA that certifies the request as it stands keeps to that: in a renewal these may be others than the old certificate's.
func inItsOwnWords(q *backend.IssueRequest, d *backend.Description) {
	csr, err := pkix.ParseCSR(q.CSR, pkix.IgnoreKey())
	if err != nil {
		return
	}
	if !slices.Contains(d.Overrides, backend.FieldSubject) && pkix.SameName(csr.Subject, orEmptyName(q.Template.Subject)) {
		q.Template.Subject = bytes.Clone(csr.Subject)
	}
	if san := extensionOf(csr, oidSubjectAltName); !slices.Contains(d.Overrides, backend.FieldSubjectAltName) && permuted(san, q.Template.SubjectAltName) {
		q.Template.SubjectAltName = bytes.Clone(san)
	}
}

// permuted reports whether GeneralNames are the same names in another order.
func permuted(a, b []byte) bool {
	x, ok := generalNames(a)
	y, also := generalNames(b)
	if !ok || !also || a == nil || b == nil {
		return false
	}
	slices.SortFunc(x, bytes.Compare)
	slices.SortFunc(y, bytes.Compare)
	return slices.EqualFunc(x, y, bytes.Equal)
}

// copied says which extensions a CA took from a PKCS#10 request that were not granted: what stands there is the device's say, and may
// be more than any policy looked at, such as a directory's security identifier.
func copied(leaf *x509.Certificate, q *backend.IssueRequest) error {
	if q.CSR == nil {
		return nil
	}
	csr, err := pkix.ParseCSR(q.CSR, pkix.IgnoreKey())
	if err != nil {
		return fmt.Errorf("the PKCS#10 request: %w", err)
	}
	for _, e := range leaf.Extensions {
		if ownCritical(e.Id) || e.Id.Equal(oidSubjectKeyID) || grantedExtension(e.Id, &q.Template) != nil {
			continue // compared, or the key's
		}
		if asked := extensionOf(csr, e.Id); asked != nil && bytes.Equal(asked, e.Value) {
			return fmt.Errorf("extension %s was taken from the request, and not granted", e.Id)
		}
	}
	return nil
}

var oidSubjectKeyID = asn1.ObjectIdentifier{2, 5, 29, 14}

// extensionOf is the value of an extension that a PKCS#10 asks for, nil when it does not.
func extensionOf(csr *pkix.CSR, id asn1.ObjectIdentifier) []byte {
	for _, e := range csr.Extensions {
		if e.Id.Equal(id) {
			return e.Value
		}
	}
	return nil
}

func orEmptyName(der []byte) []byte {
	if len(der) == 0 {
		return []byte{0x30, 0}
	}
	return der
}
