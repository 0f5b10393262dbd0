package cmpmsg

import (
	"encoding/asn1"
	"math"
	"math/big"

	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Type is Kind.
func (c *CertReqMessages) Type() BodyType { return c.Kind }

// Type is TypeP10CR.
func (*PKCS10) Type() BodyType { return TypeP10CR }

// certReqMessages reads the CertReqMessages of ir, cr, kur, krr and ccr.
//
//	CertReqMessages ::= SEQUENCE SIZE (1..MAX) OF CertReqMsg        -- RFC 4211 section 3
//	CertReqMsg ::= SEQUENCE {
//	    certReq  CertRequest,
//	    popo     ProofOfPossession OPTIONAL,
//	    regInfo  SEQUENCE SIZE (1..MAX) OF AttributeTypeAndValue OPTIONAL }
func (in *input) certReqMessages(kind BodyType) *CertReqMessages {
	c := &CertReqMessages{Kind: kind}
	in.list("CertReqMessages", 1, maxRequests, func(in *input) {
		var m CertReqMsg
		m.Raw = keep(in.sequence("CertReqMsg", func(in *input) {
			m.RawRequest = in.certRequest(&m)
			m.POP = in.proof()
			if in.next(cbasn1.SEQUENCE) {
				m.RegInfo = in.attributes("regInfo")
			}
		}))
		c.Messages = append(c.Messages, m)
	})
	return c
}

func (b *builder) certReqMessages(c *CertReqMessages) {
	if len(c.Messages) == 0 {
		b.fail("CertReqMessages: no request")
	}
	b.sequence(func(b *builder) {
		for i := range c.Messages {
			m := &c.Messages[i]
			if m.Raw != nil {
				b.element(m.Raw, "CertReqMsg", cbasn1.SEQUENCE)
				continue
			}
			b.sequence(func(b *builder) {
				b.certRequest(m)
				if m.POP != nil {
					b.proof(m.POP)
				}
				if len(m.RegInfo) > 0 {
					b.attributes(m.RegInfo)
				}
			})
		}
	})
}

// certRequest reads a CertRequest into m and returns its DER.
//
//	CertRequest ::= SEQUENCE {                          -- RFC 4211 section 5
//	    certReqId     INTEGER,
//	    certTemplate  CertTemplate,
//	    controls      Controls OPTIONAL }
func (in *input) certRequest(m *CertReqMsg) []byte {
	return keep(in.sequence("CertRequest", func(in *input) {
		m.ReqID = in.bigInt("certReqId", maxInteger)
		m.Template = in.template("certTemplate")
		if in.next(cbasn1.SEQUENCE) {
			m.Controls = in.attributes("controls")
		}
	}))
}

func (b *builder) certRequest(m *CertReqMsg) {
	if m.RawRequest != nil {
		b.element(m.RawRequest, "CertRequest", cbasn1.SEQUENCE)
		return
	}
	b.sequence(func(b *builder) {
		b.bigInt(m.ReqID, "certReqId")
		b.template(&m.Template)
		if len(m.Controls) > 0 {
			b.attributes(m.Controls)
		}
	})
}

// Request is the DER of the CertRequest: RawRequest, or made of the fields. It is what POPOSigningKey signs when subject
// and publicKey are in the template (RFC 4211 section 4.1).
func (m *CertReqMsg) Request() ([]byte, error) {
	return build(func(b *builder) { b.certRequest(m) })
}

// attributes reads a SEQUENCE SIZE (1..MAX) OF AttributeTypeAndValue: Controls, or regInfo.
//
//	AttributeTypeAndValue ::= SEQUENCE {
//	    type   OBJECT IDENTIFIER,
//	    value  ANY DEFINED BY type }
func (in *input) attributes(what string) (list []AttributeTypeAndValue) {
	in.list(what, 0, maxControls, func(in *input) {
		in.sequence(what, func(in *input) {
			list = append(list, AttributeTypeAndValue{Type: in.oid(what + " type"), Value: keep(in.any(what + " value"))})
		})
	})
	return list
}

func (b *builder) attributes(list []AttributeTypeAndValue) {
	b.sequence(func(b *builder) {
		for _, a := range list {
			b.sequence(func(b *builder) {
				b.AddASN1ObjectIdentifier(a.Type)
				b.element(a.Value, "value of a control")
			})
		}
	})
}

// Control returns the value of the first control of that type, DER, and whether there is one.
func (m *CertReqMsg) Control(control asn1.ObjectIdentifier) (value []byte, ok bool) {
	for _, c := range m.Controls {
		if c.Type.Equal(control) {
			return c.Value, true
		}
	}
	return nil, false
}

// template reads a CertTemplate. RFC 4211 is a module of implicit tags, so the tag of a field replaces its own, but for
// Name and Time, which are CHOICEs and keep theirs inside.
//
//	CertTemplate ::= SEQUENCE {                         -- RFC 4211 section 5
//	    version       [0] Version OPTIONAL,
//	    serialNumber  [1] INTEGER OPTIONAL,
//	    signingAlg    [2] AlgorithmIdentifier OPTIONAL,
//	    issuer        [3] Name OPTIONAL,
//	    validity      [4] OptionalValidity OPTIONAL,
//	    subject       [5] Name OPTIONAL,
//	    publicKey     [6] SubjectPublicKeyInfo OPTIONAL,
//	    issuerUID     [7] UniqueIdentifier OPTIONAL,
//	    subjectUID    [8] UniqueIdentifier OPTIONAL,
//	    extensions    [9] Extensions OPTIONAL }
//	OptionalValidity ::= SEQUENCE {
//	    notBefore  [0] Time OPTIONAL,
//	    notAfter   [1] Time OPTIONAL }                  -- at least one
func (in *input) template(what string) (t CertTemplate) {
	t.Raw = keep(in.sequence(what, func(in *input) {
		at := in.s
		if v := in.implicitInt(0, "version"); v != nil {
			if !v.IsInt64() || v.Int64() < 0 || v.Int64() > math.MaxInt32 {
				in.syntax(at, "version", "INTEGER out of range")
				return
			}
			version := int(v.Int64())
			t.Version = &version
		}
		t.SerialNumber = in.implicitInt(1, "serialNumber")
		if der := in.take(constructed(2)); der != nil {
			t.SigningAlg = &AlgorithmIdentifier{Raw: retag(der, cbasn1.SEQUENCE)}
			in.within(der, "signingAlg", t.SigningAlg.content("signingAlg"))
		}
		in.tagged(3, "issuer", func(in *input) { t.Issuer = in.name("issuer") })
		in.tagged(4, "validity", func(in *input) {
			in.tagged(0, "notBefore", func(in *input) { t.NotBefore = in.time("notBefore") })
			in.tagged(1, "notAfter", func(in *input) { t.NotAfter = in.time("notAfter") })
		})
		in.tagged(5, "subject", func(in *input) { t.Subject = in.name("subject") })
		if der := in.take(constructed(6)); der != nil {
			in.within(der, "publicKey", func(in *input) { in.publicKeyContent("publicKey") })
			t.PublicKey = retag(der, cbasn1.SEQUENCE)
		}
		t.IssuerUID = in.uniqueID(7, "issuerUID")
		t.SubjectUID = in.uniqueID(8, "subjectUID")
		if der := in.take(constructed(9)); der != nil {
			in.within(der, "extensions", func(in *input) { in.extensionList("extensions") })
			t.Extensions = retag(der, cbasn1.SEQUENCE)
		}
	}))
	return t
}

func (in *input) uniqueID(n uint8, what string) *asn1.BitString {
	der := in.take(primitive(n))
	if der == nil {
		return nil
	}
	v := in.implicitBits(der, what)
	return &v
}

// publicKeyContent reads what is in a SubjectPublicKeyInfo. Its BIT STRING may be empty: that asks for a key of the CA's
// making (RFC 9810 section 5.3.4).
//
//	SubjectPublicKeyInfo ::= SEQUENCE {
//	    algorithm         AlgorithmIdentifier,
//	    subjectPublicKey  BIT STRING }
func (in *input) publicKeyContent(what string) {
	in.algorithm(what + " algorithm")
	in.bits(what)
}

func (in *input) publicKey(what string) []byte {
	return keep(in.sequence(what, func(in *input) { in.publicKeyContent(what) }))
}

// extensionList reads what is in Extensions.
//
//	Extensions ::= SEQUENCE SIZE (1..MAX) OF SEQUENCE {
//	    extnID     OBJECT IDENTIFIER,
//	    critical   BOOLEAN DEFAULT FALSE,
//	    extnValue  OCTET STRING }
func (in *input) extensionList(what string) {
	for n := 0; in.more(); n++ {
		if n == maxControls {
			in.tooMany(what)
			return
		}
		in.sequence(what, func(in *input) {
			in.oid(what + " extnID")
			if in.next(cbasn1.BOOLEAN) {
				var v bool
				if at := in.s; !in.s.ReadASN1Boolean(&v) {
					in.syntax(at, what+" critical", "BOOLEAN is not DER")
				}
			}
			in.octets(what+" extnValue", math.MaxInt32)
		})
	}
}

func (in *input) extensions(what string) []byte {
	return keep(in.sequence(what, func(in *input) { in.extensionList(what) }))
}

func (b *builder) template(t *CertTemplate) {
	if t.Raw != nil {
		b.element(t.Raw, "CertTemplate", cbasn1.SEQUENCE)
		return
	}
	implicitInt := func(b *builder, n uint8, v *big.Int) {
		der, err := build(func(b *builder) { b.AddASN1BigInt(v) })
		if err != nil {
			b.SetError(err)
			return
		}
		b.AddBytes(retag(der, primitive(n)))
	}
	implicit := func(b *builder, n uint8, der []byte, what string) {
		c, err := build(func(b *builder) { b.element(der, what, cbasn1.SEQUENCE) })
		if err != nil {
			b.SetError(err)
			return
		}
		b.AddBytes(retag(c, constructed(n)))
	}
	b.sequence(func(b *builder) {
		if t.Version != nil {
			implicitInt(b, 0, big.NewInt(int64(*t.Version)))
		}
		if t.SerialNumber != nil {
			implicitInt(b, 1, t.SerialNumber)
		}
		if t.SigningAlg != nil {
			der, err := build(func(b *builder) { b.algorithm(t.SigningAlg) })
			if err != nil {
				b.SetError(err)
				return
			}
			implicit(b, 2, der, "signingAlg")
		}
		if t.Issuer != nil {
			b.tagged(3, func(b *builder) { b.element(t.Issuer, "issuer", cbasn1.SEQUENCE) })
		}
		if !t.NotBefore.IsZero() || !t.NotAfter.IsZero() {
			b.tagged(4, func(b *builder) {
				if !t.NotBefore.IsZero() {
					b.tagged(0, func(b *builder) { b.time(t.NotBefore) })
				}
				if !t.NotAfter.IsZero() {
					b.tagged(1, func(b *builder) { b.time(t.NotAfter) })
				}
			})
		}
		if t.Subject != nil {
			b.tagged(5, func(b *builder) { b.element(t.Subject, "subject", cbasn1.SEQUENCE) })
		}
		if t.PublicKey != nil {
			implicit(b, 6, t.PublicKey, "publicKey")
		}
		b.uniqueID(7, t.IssuerUID)
		b.uniqueID(8, t.SubjectUID)
		if t.Extensions != nil {
			implicit(b, 9, t.Extensions, "extensions")
		}
	})
}

func (b *builder) uniqueID(n uint8, v *asn1.BitString) {
	if v == nil {
		return
	}
	b.add(primitive(n), func(b *builder) {
		b.AddUint8(uint8(-v.BitLength & 7))
		b.AddBytes(v.Bytes)
	})
}
