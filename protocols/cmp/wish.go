package cmp

import (
	"bytes"
	"crypto/x509"
	stdpkix "crypto/x509/pkix"
	"encoding/asn1"
	"slices"
	"strings"
	"time"

	"github.com/muster-pki/muster/gateway/pkix"
)

// wish is what a request asked to stand in its certificate, kept with the transaction: the status of the answer says
// whether it was granted so (grantedWithMods, RFC 9810 section 5.2.3), and that may be many polls later.
type wish struct {
	Subject    []byte      `json:"s,omitempty"` // DER Name; nil when not asked for, as below
	Issuer     []byte      `json:"i,omitempty"` // DER Name
	NotBefore  int64       `json:"b,omitempty"` // Unix seconds
	NotAfter   int64       `json:"a,omitempty"`
	Extensions []extension `json:"e,omitempty"`
}

type extension struct {
	OID   asn1.ObjectIdentifier `json:"o"`
	Value []byte                `json:"v"`
}

var (
	oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidKeyUsage       = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidExtKeyUsage    = asn1.ObjectIdentifier{2, 5, 29, 37}
)

func wishOf(subject, issuer []byte, notBefore, notAfter time.Time, extensions []stdpkix.Extension) wish {
	w := wish{Issuer: issuer}
	if !isNullDN(subject) {
		w.Subject = subject
	}
	if !notBefore.IsZero() {
		w.NotBefore = notBefore.Unix()
	}
	if !notAfter.IsZero() {
		w.NotAfter = notAfter.Unix()
	}
	for _, e := range extensions {
		w.Extensions = append(w.Extensions, extension{e.Id, e.Value})
	}
	return w
}

// changes names what the certificate has otherwise than it was asked for, nil when it is as asked.
func (w *wish) changes(cert *x509.Certificate) []string {
	var list []string
	if w.Subject != nil && !pkix.SameName(w.Subject, cert.RawSubject) {
		list = append(list, "subject")
	}
	if w.Issuer != nil && !isNullDN(w.Issuer) && !pkix.SameName(w.Issuer, cert.RawIssuer) {
		list = append(list, "issuer")
	}
	if w.NotBefore != 0 && w.NotBefore != cert.NotBefore.Unix() || w.NotAfter != 0 && w.NotAfter != cert.NotAfter.Unix() {
		list = append(list, "validity")
	}
	for _, e := range w.Extensions {
		granted := slices.ContainsFunc(cert.Extensions, func(g stdpkix.Extension) bool {
			return g.Id.Equal(e.OID) && bytes.Equal(g.Value, e.Value)
		})
		switch {
		case granted:
		case e.OID.Equal(oidSubjectAltName):
			list = append(list, "subjectAltName")
		case e.OID.Equal(oidKeyUsage):
			list = append(list, "keyUsage")
		case e.OID.Equal(oidExtKeyUsage):
			list = append(list, "extKeyUsage")
		case !slices.Contains(list, "extensions"):
			list = append(list, "extensions")
		}
	}
	return list
}

// modified is the text of grantedWithMods.
func modified(changes []string) string {
	return "the certificate differs from what was asked for in: " + strings.Join(changes, ", ")
}
