package cmpmsg

import (
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/protocols/cms"
)

// Bounds of a message, beside those of the guard (cms.Check with its defaults: 256 KiB, 32 levels, 16,384 elements).
const (
	maxCerts    = 16 // caPubs and other lists of certificates or CRLs
	maxExtra    = 64 // extraCerts: beyond what a server takes, so that its refusal can keep transactionID and nonces
	maxRequests = 64 // elements of a body: requests, responses, statuses, nested messages
	maxControls = 32 // controls, regInfo, extensions
)

// Parse reads one DER PKIMessage within the bounds of this package: nothing is parsed before all its lengths, its depth
// and the number of its elements are known to be sane. Errors are *Error. The message refers to der, which must not change.
//
// When only the body does not parse, the message comes with the error, without Body: header, raw bytes, protection and
// extraCerts are there, so that the answer can keep transactionID and nonces, and protection can be verified.
//
// The encoding must be DER. Beyond what the grammar allows, an empty SEQUENCE in the place of an optional list of at least
// one element is read as an absent list. Messages within nested are kept as bytes: parse them with Parse, one by one.
func Parse(der []byte) (*Message, error) {
	if err := cms.Check(der, cms.Limits{}); err != nil {
		return nil, fromGuard(err)
	}
	in := inputOf(der)
	m := &Message{Raw: keep(der)}
	var body *input
	in.sequence("PKIMessage", func(in *input) {
		at := in.s
		m.Header = in.header()
		m.RawHeader = keep(at[:len(at)-len(in.s)])
		raw := in.any("PKIBody")
		m.RawBody = keep(raw)
		// Faults of the body are kept apart from those of the message.
		body = &input{d: &decoder{size: in.d.size}, s: raw}
		in.tagged(0, "protection", func(in *input) { m.Protection = in.wholeBits("protection") })
		in.tagged(1, "extraCerts", func(in *input) { m.ExtraCerts = in.certificates("extraCerts", 0, maxExtra) })
	})
	in.end("PKIMessage")
	if err := in.result(); err != nil {
		return nil, err
	}
	m.Body = body.body()
	if e := body.d.err; e != nil {
		e.Body = true
		m.Body = nil
		return m, e
	}
	return m, nil
}

// Remains reads from a message that Parse refuses what an answer to it has to give back (RFC 9810 section 5.1.1), as far as it
// is there: transactionID and senderNonce, nil for none. Nothing else of the message is looked at.
func Remains(der []byte) (transactionID, senderNonce []byte) {
	in, message, header := cryptobyte.String(der), cryptobyte.String(nil), cryptobyte.String(nil)
	if cms.Check(der, cms.Limits{}) != nil || !in.ReadASN1(&message, cbasn1.SEQUENCE) || !message.ReadASN1(&header, cbasn1.SEQUENCE) {
		return nil, nil
	}
	for !header.Empty() {
		var field, value cryptobyte.String
		var tag cbasn1.Tag
		if !header.ReadAnyASN1(&field, &tag) {
			break
		}
		to := map[cbasn1.Tag]*[]byte{constructed(4): &transactionID, constructed(5): &senderNonce}[tag]
		if to != nil && *to == nil && field.ReadASN1(&value, cbasn1.OCTET_STRING) && field.Empty() && len(value) <= maxHeaderOctets {
			*to = keep(value)
		}
	}
	return transactionID, senderNonce
}

// Protected is the DER of ProtectedPart ::= SEQUENCE { header, body }, from the original bytes (RFC 9810 section 5.1.3).
func (m *Message) Protected() []byte {
	part, err := build(func(b *builder) {
		b.sequence(func(b *builder) {
			b.AddBytes(m.RawHeader)
			b.AddBytes(m.RawBody)
		})
	})
	if err != nil {
		return nil // as for a message without any bytes: nothing verifies over this
	}
	return part
}

// body reads a PKIBody: a CHOICE, each alternative in an explicit tag.
func (in *input) body() (v Body) {
	at := in.s
	tag := cbasn1.Tag(at[0])
	t := BodyType(tag & 0x1f)
	if tag != constructed(uint8(t)) || t > TypePollRep {
		in.syntax(at, "PKIBody", "no body of RFC 9810")
		return nil
	}
	in.within(at, t.String(), func(in *input) {
		switch t {
		case TypeIR, TypeCR, TypeKUR, TypeKRR, TypeCCR:
			v = in.certReqMessages(t)
		case TypeIP, TypeCP, TypeKUP, TypeCCP:
			v = in.certRepMessage(t)
		case TypeP10CR:
			v = &PKCS10{CSR: in.certificate("CertificationRequest")}
		case TypePOPDecC:
			v = in.challenges()
		case TypePOPDecR:
			v = in.challengeResponses()
		case TypeKRP:
			v = in.keyRecRep()
		case TypeRR:
			v = in.revReq()
		case TypeRP:
			v = in.revRep()
		case TypeCKUAnn:
			v = in.caKeyUpdate()
		case TypeCAnn:
			v = &CertAnn{Certificate: in.certificate("CertAnnContent")}
		case TypeRAnn:
			v = in.revAnn()
		case TypeCRLAnn:
			v = &CRLAnn{CRLs: in.certificates("CRLAnnContent", 0, maxCerts)}
		case TypePKIConf:
			in.null("pkiconf")
			v = &PKIConf{}
		case TypeNested:
			v = &Nested{Messages: in.certificates("NestedMessageContent", 1, maxRequests)}
		case TypeGenM, TypeGenP:
			v = &General{Kind: t, Info: in.info(t.String())}
		case TypeError:
			v = in.errorMsg()
		case TypeCertConf:
			v = in.certConf()
		case TypePollReq:
			v = in.pollReq()
		case TypePollRep:
			v = in.pollRep()
		}
	})
	return v
}
