package cmp

import (
	"bytes"
	"crypto"
	"crypto/x509"
	stdpkix "crypto/x509/pkix"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// oneRequest checks that a body asks for one certificate, under certReqId 0. Several at once are not served.
func (x *exchange) oneRequest(b *cmpmsg.CertReqMessages) *refusal {
	if n := len(b.Messages); n != 1 {
		return refused(gateway.Unsupported, fmt.Sprintf("the message asks for %d certificates: ask for one", n), nil)
	}
	if id := b.Messages[0].ReqID; id == nil || id.Sign() != 0 {
		return refused(gateway.Unsupported, "the certReqId of a single request is 0", nil)
	}
	return nil
}

// update answers kur (RFC 9810 section 5.3.5): the signer's certificate is the one that is updated, unless an RA names another.
func (x *exchange) update(b *cmpmsg.CertReqMessages) *refusal {
	if x.requester.signer == nil {
		return refused(gateway.WrongProtection, "a kur is signed with the certificate to be updated; a MAC is no proof of it", nil)
	}
	x.Request.Operation = gateway.Rekey
	return x.certify(func() (*wish, *refusal) {
		old, ref := x.updated(&b.Messages[0])
		if ref != nil {
			return nil, ref
		}
		return x.fillTemplate(b, old)
	}, cmpmsg.TypeKUR, 0, x.oneRequest(b))
}

// fillTemplate writes what a CRMF request asks for into the gateway's (RFC 4211 section 5). old is the certificate that
// a kur updates: its names are asked for where the template has none.
func (x *exchange) fillTemplate(b *cmpmsg.CertReqMessages, old *x509.Certificate) (*wish, *refusal) {
	m := &b.Messages[0]
	t := &m.Template
	if _, ok := m.Control(cmpmsg.OIDAltCertTemplate); ok {
		// RFC 9810 section 5.2.1: of certificates in another format, with nothing in certTemplate.
		return nil, rejected(gateway.BadTemplate, "the control altCertTemplate asks for a certificate that is none of X.509: only those are issued", nil)
	}
	if old != nil {
		if ref := checkOldCertID(m, old); ref != nil {
			return nil, ref
		}
	}
	if !isNullDN(t.Subject) {
		if _, err := pkix.ParseName(t.Subject); err != nil {
			return nil, rejected(gateway.BadTemplate, "the template's subject does not parse: "+err.Error(), err)
		}
		x.Request.Subject = t.Subject
	}
	made := t.PublicKey == nil || isEmptyKey(t.PublicKey)
	var pub crypto.PublicKey
	if !made {
		var err error
		pub, err = pkix.ParsePublicKey(t.PublicKey)
		switch {
		case err == nil:
		case errors.Is(err, pkix.ErrAlgorithm):
			return nil, rejected(gateway.BadAlgorithm, "the template's public key is not accepted: "+err.Error(), err)
		default:
			return nil, rejected(gateway.BadTemplate, "the template's public key is not accepted: "+err.Error(), err)
		}
		x.Request.PublicKey = t.PublicKey
	}
	extensions, ref := readExtensions(t.Extensions)
	if ref != nil {
		return nil, ref
	}
	if made {
		ref = x.askKey(m)
	} else {
		ref = x.checkPOP(m)
	}
	if ref != nil {
		return nil, ref
	}
	x.Request.Extensions = extensions
	x.Request.Validity = gateway.Validity{NotBefore: t.NotBefore, NotAfter: t.NotAfter}
	w := wishOf(t.Subject, t.Issuer, t.NotBefore, t.NotAfter, extensions)
	if old != nil {
		x.succeed(old, pub)
	}
	return &w, nil
}

// isEmptyKey reports whether a SubjectPublicKeyInfo has no key in it: one that the server is to make (RFC 9810 section
// 5.3.4).
func isEmptyKey(spki []byte) bool {
	in := cryptobyte.String(spki)
	var seq, alg, bits cryptobyte.String
	return in.ReadASN1(&seq, cbasn1.SEQUENCE) && seq.ReadASN1(&alg, cbasn1.SEQUENCE) && seq.ReadASN1(&bits, cbasn1.BIT_STRING) && len(bits) <= 1
}

// readExtensions parses the extensions of a template.
func readExtensions(der []byte) ([]stdpkix.Extension, *refusal) {
	if der == nil {
		return nil, nil
	}
	list, err := pkix.ParseExtensions(der)
	if err != nil {
		return nil, rejected(gateway.BadTemplate, "the extensions asked for do not parse: "+err.Error(), err)
	}
	return list, checkSAN(list)
}

func checkSAN(list []stdpkix.Extension) *refusal {
	for _, e := range list {
		if e.Id.Equal(oidSubjectAltName) {
			if _, err := pkix.ParseGeneralNames(e.Value); err != nil {
				return rejected(gateway.BadTemplate, "the subjectAltName asked for does not parse: "+err.Error(), err)
			}
		}
	}
	return nil
}

// succeed makes the request a renewal or a rekey of the old certificate: the request is for its names, and names asked
// for that differ are a change of names, which is for policy to allow. pub is nil for a key that is still to be made.
func (x *exchange) succeed(old *x509.Certificate, pub crypto.PublicKey) {
	r := x.Request
	r.OldCert = old
	r.Operation = gateway.Rekey
	if key, ok := old.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); ok && key.Equal(pub) {
		r.Operation = gateway.Renew
	}
	oldSAN := sanOf(old.Extensions)
	askedSAN, askedSubject := sanOf(r.Extensions), r.Subject
	if askedSubject != nil && !pkix.SameName(askedSubject, old.RawSubject) || askedSAN != nil && !bytes.Equal(askedSAN, oldSAN) {
		r.NewNames = &gateway.Names{Subject: old.RawSubject, SubjectAltName: oldSAN}
		if askedSubject != nil {
			r.NewNames.Subject = askedSubject
		}
		if askedSAN != nil {
			r.NewNames.SubjectAltName = askedSAN
		}
	}
	r.Subject = old.RawSubject
	r.Extensions = slices.DeleteFunc(slices.Clone(r.Extensions), func(e stdpkix.Extension) bool { return e.Id.Equal(oidSubjectAltName) })
	if oldSAN != nil {
		r.Extensions = append(r.Extensions, stdpkix.Extension{Id: oidSubjectAltName, Value: oldSAN})
	}
}

// sanOf is the value of the subjectAltName among the extensions, nil for none.
func sanOf(list []stdpkix.Extension) []byte {
	for _, e := range list {
		if e.Id.Equal(oidSubjectAltName) {
			return e.Value
		}
	}
	return nil
}

// checkOldCertID holds the control oldCertId against the certificate that signed (RFC 4211 section 6.5). Absent, the
// signer says it all.
func checkOldCertID(m *cmpmsg.CertReqMsg, old *x509.Certificate) *refusal {
	value, ok := m.Control(cmpmsg.OIDOldCertID)
	if !ok {
		return nil
	}
	id, err := cmpmsg.ParseCertID(value)
	if err != nil {
		return rejected(gateway.Malformed, "the control oldCertId does not parse", err)
	}
	name, ok := cmpmsg.DirectoryName(id.Issuer)
	if !ok || !pkix.SameName(name, old.RawIssuer) || id.Serial.Cmp(old.SerialNumber) != 0 {
		return rejected(gateway.UnknownCert, "oldCertId does not name the certificate that signed the request",
			fmt.Errorf("oldCertId has the serial number %x, the signer %x", id.Serial, old.SerialNumber))
	}
	return nil
}

// fillPKCS10 writes what a PKCS#10 request asks for into the gateway's. Its own signature proves possession.
func (x *exchange) fillPKCS10(b *cmpmsg.PKCS10, old *x509.Certificate) (*wish, *refusal) {
	csr, err := pkix.ParseCSR(b.CSR)
	switch {
	case err == nil:
	case errors.Is(err, pkix.ErrAlgorithm):
		return nil, rejected(gateway.BadAlgorithm, "the PKCS#10 request's key or algorithm is not accepted: "+err.Error(), err)
	case errors.Is(err, pkix.ErrWeak):
		return nil, rejected(gateway.BadTemplate, "the PKCS#10 request's key is not accepted: "+err.Error(), err)
	default:
		return nil, rejected(gateway.Malformed, "the PKCS#10 request does not parse: "+err.Error(), err)
	}
	var opts []pkix.Option
	if x.endpoint.Config.allowSHA1() {
		opts = append(opts, pkix.AllowSHA1())
	}
	switch err := csr.CheckSignature(opts...); {
	case err == nil:
	case errors.Is(err, pkix.ErrWeak), errors.Is(err, pkix.ErrAlgorithm):
		return nil, rejected(gateway.BadAlgorithm, "the PKCS#10 request's signature algorithm is not accepted: "+err.Error(), err)
	default:
		return nil, rejected(gateway.BadPOP, "the PKCS#10 request's signature does not verify with the key in it", err)
	}
	if ref := checkSAN(csr.Extensions); ref != nil {
		return nil, ref
	}
	r := x.Request
	if !isNullDN(csr.Subject) {
		r.Subject = csr.Subject
	}
	r.CSR, r.PublicKey, r.Extensions, r.POP = csr.Raw, csr.PublicKey, csr.Extensions, gateway.POPSignature
	w := wishOf(csr.Subject, nil, r.Validity.NotBefore, r.Validity.NotAfter, csr.Extensions)
	if old != nil {
		x.succeed(old, csr.Key)
	}
	return &w, nil
}
