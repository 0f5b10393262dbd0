package cmpmsg

import (
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Type is Kind.
func (c *CertRepMessage) Type() BodyType { return c.Kind }

const maxRspInfo = 4096 // octets

// certRepMessage reads the CertRepMessage of ip, cp, kup and ccp.
//
//	CertRepMessage ::= SEQUENCE {                       -- RFC 9810 section 5.3.4
//	    caPubs    [1] SEQUENCE SIZE (1..MAX) OF CMPCertificate OPTIONAL,
//	    response  SEQUENCE OF CertResponse }
//	CertResponse ::= SEQUENCE {
//	    certReqId         INTEGER,
//	    status            PKIStatusInfo,
//	    certifiedKeyPair  CertifiedKeyPair OPTIONAL,
//	    rspInfo           OCTET STRING OPTIONAL }
func (in *input) certRepMessage(kind BodyType) *CertRepMessage {
	c := &CertRepMessage{Kind: kind}
	in.sequence("CertRepMessage", func(in *input) {
		in.tagged(1, "caPubs", func(in *input) { c.CAPubs = in.certificates("caPubs", 0, maxCerts) })
		in.list("response", 0, maxRequests, func(in *input) {
			var r CertResponse
			in.sequence("CertResponse", func(in *input) {
				r.ReqID = in.bigInt("certReqId", maxInteger)
				r.Status = in.statusInfo("status")
				if in.next(cbasn1.SEQUENCE) {
					p := in.keyPair()
					r.Certificate, r.EncrCert, r.PrivateKey, r.PublicationInfo = p.Certificate, p.EncrCert, p.PrivateKey, p.PublicationInfo
				}
				if in.next(cbasn1.OCTET_STRING) {
					r.RspInfo = in.octets("rspInfo", maxRspInfo)
				}
			})
			c.Responses = append(c.Responses, r)
		})
	})
	return c
}

func (b *builder) certRepMessage(c *CertRepMessage) {
	b.sequence(func(b *builder) {
		if len(c.CAPubs) > 0 {
			b.tagged(1, func(b *builder) { b.certificates(c.CAPubs, "caPubs") })
		}
		b.sequence(func(b *builder) {
			for i := range c.Responses {
				r := &c.Responses[i]
				b.sequence(func(b *builder) {
					b.bigInt(r.ReqID, "certReqId")
					b.statusInfo(&r.Status)
					p := CertifiedKeyPair{r.Certificate, r.EncrCert, r.PrivateKey, r.PublicationInfo}
					if p.Certificate != nil || p.EncrCert != nil || p.PrivateKey != nil || p.PublicationInfo != nil {
						b.keyPair(&p)
					}
					if r.RspInfo != nil {
						b.AddASN1OctetString(r.RspInfo)
					}
				})
			}
		})
	})
}

// CertifiedKeyPair is a certificate, clear or encrypted, with a private key perhaps (RFC 9810 section 5.3.4). One of
// Certificate and EncrCert is there.
type CertifiedKeyPair struct {
	Certificate     []byte // DER
	EncrCert        []byte // DER EncryptedKey
	PrivateKey      []byte // DER EncryptedKey; nil when absent
	PublicationInfo []byte // DER PKIPublicationInfo; nil when absent
}

// keyPair reads a CertifiedKeyPair.
//
//	CertifiedKeyPair ::= SEQUENCE {
//	    certOrEncCert    CertOrEncCert,
//	    privateKey       [0] EncryptedKey OPTIONAL,
//	    publicationInfo  [1] PKIPublicationInfo OPTIONAL }
//	CertOrEncCert ::= CHOICE {
//	    certificate    [0] CMPCertificate,
//	    encryptedCert  [1] EncryptedKey }
func (in *input) keyPair() (p CertifiedKeyPair) {
	const what = "CertifiedKeyPair"
	in.sequence(what, func(in *input) {
		at := in.s
		if !in.tagged(0, what, func(in *input) { p.Certificate = in.certificate("certificate") }) &&
			!in.tagged(1, what, func(in *input) { p.EncrCert = in.encryptedKey("encryptedCert") }) {
			in.syntax(at, what, "certificate or encryptedCert expected")
		}
		in.tagged(0, what, func(in *input) { p.PrivateKey = in.encryptedKey("privateKey") })
		in.tagged(1, what, func(in *input) {
			at := in.s
			in.publicationInfo()
			p.PublicationInfo = keep(at[:len(at)-len(in.s)])
		})
	})
	return p
}

func (b *builder) keyPair(p *CertifiedKeyPair) {
	if (p.Certificate == nil) == (p.EncrCert == nil) {
		b.fail("CertifiedKeyPair: one of certificate and encryptedCert is needed")
		return
	}
	b.sequence(func(b *builder) {
		if p.Certificate != nil {
			b.tagged(0, func(b *builder) { b.element(p.Certificate, "certificate", cbasn1.SEQUENCE) })
		} else {
			b.tagged(1, func(b *builder) { b.encryptedKey(p.EncrCert, "encryptedCert") })
		}
		if p.PrivateKey != nil {
			b.tagged(0, func(b *builder) { b.encryptedKey(p.PrivateKey, "privateKey") })
		}
		if p.PublicationInfo != nil {
			b.tagged(1, func(b *builder) { b.element(p.PublicationInfo, "publicationInfo", cbasn1.SEQUENCE) })
		}
	})
}

// encryptedKey reads an EncryptedKey and returns its DER.
//
//	EncryptedKey ::= CHOICE {                           -- RFC 4211 section 6.4
//	    encryptedValue  EncryptedValue,                 -- deprecated
//	    envelopedData   [0] EnvelopedData }             -- implicit: RFC 4211 is a module of implicit tags
func (in *input) encryptedKey(what string) []byte {
	if in.next(constructed(0)) {
		return keep(in.take(constructed(0)))
	}
	return keep(in.need(cbasn1.SEQUENCE, what, "EncryptedKey expected"))
}

func (b *builder) encryptedKey(der []byte, what string) {
	b.element(der, what, cbasn1.SEQUENCE, constructed(0))
}
