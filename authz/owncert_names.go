package authz

import (
	"bytes"
	"crypto/x509"
	"fmt"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
)

// sameNames holds the names asked for against the certificate's (RFC 7030 section 4.2.2: they "MUST be identical"), and puts the
// names to certify into the grant: those of the certificate, byte by byte. A subject may be asked for in other string types
// (pkix.SameName): strongSwan and Go's clients write PrintableString, templates UTF8String.
func (s *OwnCertificate) sameNames(r *gateway.Request, g *gateway.Grant, leaf *x509.Certificate) (note string, denied gateway.Verdict, ok bool) {
	held := gateway.Names{Subject: leaf.RawSubject, SubjectAltName: sanOf(leaf)}
	asked := gateway.Names{Subject: r.Subject}
	asked.SubjectAltName, _ = r.Extension(oidSubjectAltName)
	if asked.Subject == nil && asked.SubjectAltName == nil {
		// A template without names (CRMF) asks for those of the certificate.
		asked = held
	}
	if !pkix.SameName(asked.Subject, held.Subject) {
		return "", gateway.Denied(gateway.NotAuthorized, "the subject is not that of the certificate",
			"the request asks for "+unlike("subject", formatSubject(asked.Subject), formatSubject(held.Subject))), false
	}
	if !bytes.Equal(asked.SubjectAltName, held.SubjectAltName) || (asked.SubjectAltName == nil) != (held.SubjectAltName == nil) {
		return "", gateway.Denied(gateway.NotAuthorized, "the subjectAltName is not that of the certificate",
			"the request asks for "+unlike("subjectAltName", formatSAN(asked.SubjectAltName), formatSAN(held.SubjectAltName))), false
	}
	if r.NewNames == nil {
		g.Subject, g.SubjectAltName = bytes.Clone(held.Subject), bytes.Clone(held.SubjectAltName)
		return "", gateway.Verdict{}, true
	}
	wanted := gateway.Names{Subject: r.NewNames.Subject, SubjectAltName: r.NewNames.SubjectAltName}
	if wanted.Subject == nil {
		wanted.Subject = []byte{0x30, 0x00} // the empty Name: a field absent from ChangeSubjectName removes that name
	}
	change := fmt.Sprintf("from subject %s, subjectAltName %s to subject %s, subjectAltName %s",
		formatSubject(held.Subject), formatSAN(held.SubjectAltName), formatSubject(wanted.Subject), formatSAN(wanted.SubjectAltName))
	if !s.config.ChangeNames {
		return "", gateway.Denied(gateway.NotAuthorized, "names cannot be changed here", "the request asks for a change "+change+"; change-names is off"), false
	}
	if isEmptyName(wanted.Subject) && wanted.SubjectAltName == nil {
		return "", gateway.Denied(gateway.BadTemplate, "no name would remain", "the request asks for a change "+change), false
	}
	g.Subject, g.SubjectAltName = bytes.Clone(wanted.Subject), bytes.Clone(wanted.SubjectAltName)
	return ", changed " + change, gateway.Verdict{}, true
}

// unlike tells two names apart whose bytes differ, for the operator: they may look the same.
func unlike(what, asked, held string) string {
	if asked == held {
		return fmt.Sprintf("%s %s, and the certificate has it in another encoding: the string types or the order differ (openssl asn1parse shows them)", what, asked)
	}
	return fmt.Sprintf("%s %s, the certificate has %s", what, asked, held)
}
