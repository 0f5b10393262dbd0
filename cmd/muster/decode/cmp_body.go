package decode

import (
	"encoding/asn1"
	"fmt"

	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// cmpBody shows the fields of a PKIBody.
func (d *decoder) cmpBody(n *node, m *cmpmsg.Message, number string, base int) {
	switch b := m.Body.(type) {
	case *cmpmsg.CertReqMessages:
		for i := range b.Messages {
			d.certReq(n, &b.Messages[i])
		}
	case *cmpmsg.PKCS10:
		d.addCSR(n, "CSR", b.CSR)
	case *cmpmsg.CertRepMessage:
		if len(b.CAPubs) > 0 {
			addCertificates(n, "caPubs", b.CAPubs)
		}
		for i := range b.Responses {
			d.certResponse(n, &b.Responses[i])
		}
	case *cmpmsg.PKIConf:
	case *cmpmsg.CertConf:
		if len(b.Statuses) == 0 {
			n.add("statuses", "none: every certificate is rejected")
		}
		for i := range b.Statuses {
			certStatus(n, &b.Statuses[i])
		}
	case *cmpmsg.ErrorMsg:
		statusInfo(n, &b.Status)
		if b.Code != nil {
			n.add("errorCode", valueNumber(b.Code))
		}
		n.some("errorDetails", quotedList(b.Details))
	case *cmpmsg.PollReq:
		for _, id := range b.ReqIDs {
			n.add("certReqId", valueNumber(id))
		}
	case *cmpmsg.PollRep:
		for _, r := range b.Responses {
			c := n.add("certReqId", valueNumber(r.ReqID))
			c.addf("checkAfter", "%d s", r.CheckAfter)
			c.some("reason", quotedList(r.Reason))
		}
	case *cmpmsg.Nested:
		for _, der := range b.Messages {
			d.within(n, der, number, base, m.Raw)
		}
	case *cmpmsg.General:
		d.cmpInfo(n, b.Info, number, base, m.Raw)
	case *cmpmsg.RevReq:
		for i := range b.Details {
			r := &b.Details[i]
			c := n.add("certificate", "")
			addTemplate(c, &r.Certificate)
			if r.Extensions != nil {
				addExtensions(c.add("crlEntryDetails", ""), r.Extensions)
			}
		}
	case *cmpmsg.RevRep:
		for i := range b.Statuses {
			c := n.add("certificate", "")
			if i < len(b.CertIDs) {
				c.value = certID(&b.CertIDs[i])
			}
			statusInfo(c, &b.Statuses[i])
		}
		for i, der := range b.CRLs {
			addCRL(n, fmt.Sprintf("CRL %d", i+1), der)
		}
	case *cmpmsg.RevAnn:
		n.add("certificate", certID(&b.Certificate))
		n.add("status", numbered(b.Status, int(b.Status)))
		n.some("willBeRevokedAt", when(b.WillBeRevoked))
		n.some("badSinceDate", when(b.BadSince))
		if b.Extensions != nil {
			addExtensions(n.add("crlDetails", ""), b.Extensions)
		}
	case *cmpmsg.CertAnn:
		addCertificate(n, "certificate", b.Certificate)
	case *cmpmsg.CRLAnn:
		for i, der := range b.CRLs {
			addCRL(n, fmt.Sprintf("CRL %d", i+1), der)
		}
	case *cmpmsg.CAKeyUpdate:
		addRootUpdate(n, b)
	case *cmpmsg.KeyRecRep:
		statusInfo(n, &b.Status)
		if b.NewSigCert != nil {
			addCertificate(n, "newSigCert", b.NewSigCert)
		}
		if len(b.CACerts) > 0 {
			addCertificates(n, "caCerts", b.CACerts)
		}
		for i, p := range b.History {
			d.keyPair(n.addf("keyPairHist", "%d", i+1), p)
		}
	default: // challenges and the answers to them
		d.brokenOutline(n, m.RawBody, base+offsetOf(m.Raw, m.RawBody))
	}
}

func certID(id *cmpmsg.CertID) string {
	return "serial " + serialText(id.Serial) + " of " + generalName(id.Issuer)
}

// certReq shows one CertReqMsg (RFC 4211 section 3).
func (d *decoder) certReq(n *node, r *cmpmsg.CertReqMsg) {
	n = n.add("request", "")
	n.add("certReqId", valueNumber(r.ReqID))
	addTemplate(n.add("certTemplate", ""), &r.Template)
	d.controls(n, "controls", r.Controls)
	d.popView(n, r)
	d.controls(n, "regInfo", r.RegInfo)
}

// addTemplate shows the fields of a CertTemplate that are there (RFC 4211 section 5).
func addTemplate(n *node, t *cmpmsg.CertTemplate) {
	if t.Version != nil {
		n.add("version", fmt.Sprint(*t.Version))
	}
	n.some("serialNumber", serialText(t.SerialNumber))
	if t.SigningAlg != nil {
		n.add("signingAlg", algorithmName(t.SigningAlg.OID, t.SigningAlg.Parameters))
	}
	if t.Issuer != nil {
		n.add("issuer", nameText(t.Issuer))
	}
	n.some("notBefore", when(t.NotBefore))
	n.some("notAfter", when(t.NotAfter))
	if t.Subject != nil {
		n.add("subject", nameText(t.Subject))
	}
	if t.PublicKey != nil {
		addKey(n, "publicKey", t.PublicKey)
	}
	if t.Extensions != nil {
		addExtensions(n, t.Extensions)
	}
	if len(n.children) == 0 {
		n.value = "(empty)"
	}
}

// controls shows controls and registration infos by name (RFC 4211 sections 6 and 7).
func (d *decoder) controls(n *node, label string, list []cmpmsg.AttributeTypeAndValue) {
	if len(list) == 0 {
		return
	}
	n = n.add(label, "")
	for _, c := range list {
		d.control(n, c.Type, c.Value)
	}
}

func (d *decoder) control(n *node, oid asn1.ObjectIdentifier, value []byte) {
	switch name := oidName(oid); name {
	case "regToken", "authenticator":
		n.add(name, d.secretText(value))
	case "oldCertID":
		if id, err := cmpmsg.ParseCertID(value); err == nil {
			n.add(name, certID(id))
		} else {
			n.add(name, fmt.Sprintf("(%v) %s", err, hexOf(value)))
		}
	case "protocolEncrKey":
		addKey(n, name, value)
	case "algId":
		n.add(name, algorithmOf(value))
	default:
		d.outline(n, name, value)
	}
}

// popMethods are the choices of POPOPrivKey, subsequentMessages those of SubsequentMessage (RFC 4211 section 4.2).
var (
	popMethods         = []string{"thisMessage", "subsequentMessage", "dhMAC", "agreeMAC", "encryptedKey"}
	subsequentMessages = []string{"encrCert", "challengeResp"}
)

// popView shows how possession is proven, and whether the proof holds (RFC 4211 section 4).
func (d *decoder) popView(n *node, r *cmpmsg.CertReqMsg) {
	if r.POP == nil {
		n.add("popo", "none")
		return
	}
	n = n.add("popo", numbered(r.POP.Kind, int(r.POP.Kind)))
	if k := r.POP.PrivKey; k != nil {
		method := choice(popMethods, k.Method)
		if k.Method == 1 {
			method += ", " + choice(subsequentMessages, k.Subsequent)
		}
		n.add("method", method)
		if k.Method == 4 {
			d.encryptedKey(n, "encryptedKey", k.Value)
		}
	}
	s := r.POP.Signing
	if s == nil {
		return
	}
	n.add("algorithm", algorithmName(s.Algorithm.OID, s.Algorithm.Parameters))
	data, key := r.RawRequest, r.Template.PublicKey
	if s.RawInput != nil {
		data, key = s.RawInput, s.PublicKey
		c := n.add("poposkInput", "")
		if s.Sender != nil {
			c.add("sender", generalName(s.Sender))
		}
		if s.KeyMAC != nil {
			addProtectionAlg(c, "publicKeyMAC", &s.KeyMAC.Algorithm)
			c.add("MAC", d.macState(&s.KeyMAC.Algorithm, s.PublicKey, s.KeyMAC.Value))
		}
		addKey(c, "publicKey", s.PublicKey)
		if r.Template.PublicKey != nil && string(r.Template.PublicKey) != string(s.PublicKey) {
			c.add("note", "this IS NOT the key of the template")
		}
	}
	n.add("proof", popState(s, data, key))
}

func popState(s *cmpmsg.POPOSigningKey, data, spki []byte) string {
	if spki == nil {
		return "not checked: the request has no public key"
	}
	key, err := pkix.ParsePublicKey(spki)
	if err == nil {
		algorithm := s.Algorithm.Raw
		err = pkix.VerifySignature(key, algorithm, data, s.Signature, pkix.AllowSHA1())
	}
	return signatureState(err)
}

// certResponse shows one answer (RFC 9810 section 5.3.4).
func (d *decoder) certResponse(n *node, r *cmpmsg.CertResponse) {
	n = n.add("response", "")
	n.add("certReqId", valueNumber(r.ReqID))
	statusInfo(n, &r.Status)
	d.keyPair(n, cmpmsg.CertifiedKeyPair{
		Certificate: r.Certificate, EncrCert: r.EncrCert, PrivateKey: r.PrivateKey, PublicationInfo: r.PublicationInfo,
	})
	n.some("rspInfo", present(r.RspInfo))
}

func (d *decoder) keyPair(n *node, p cmpmsg.CertifiedKeyPair) {
	if p.Certificate != nil {
		addCertificate(n, "certificate", p.Certificate)
	}
	if p.EncrCert != nil {
		d.encryptedKey(n, "encryptedCert", p.EncrCert)
	}
	if p.PrivateKey != nil {
		d.encryptedKey(n, "privateKey", p.PrivateKey)
	}
	if p.PublicationInfo != nil {
		d.outline(n, "publicationInfo", p.PublicationInfo)
	}
}

// statusInfo shows a PKIStatusInfo in words (RFC 9810 section 5.2.3).
func statusInfo(n *node, s *cmpmsg.PKIStatusInfo) {
	n.add("status", numbered(s.Status, int(s.Status)))
	n.some("failInfo", failures(s.FailInfo))
	n.some("statusString", quotedList(s.Text))
}

func certStatus(n *node, s *cmpmsg.CertStatus) {
	n = n.add("certificate", "")
	n.add("certReqId", valueNumber(s.ReqID))
	n.add("certHash", hexOf(s.CertHash))
	if s.HashAlg != nil {
		n.add("hashAlg", algorithmName(s.HashAlg.OID, s.HashAlg.Parameters))
	}
	if s.Status == nil {
		n.add("status", "accepted (no statusInfo)")
		return
	}
	statusInfo(n, s.Status)
}
