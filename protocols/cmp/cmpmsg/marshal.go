package cmpmsg

import (
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/protocols/cms"
)

// Outgoing is a message being made.
type Outgoing struct {
	Header     Header
	Body       Body
	ExtraCerts [][]byte
}

// Protect encodes header and body, has protect compute the protection over the DER of ProtectedPart, and returns the DER
// of the whole PKIMessage. protect is nil for an unprotected message, whose Header.ProtectionAlg is nil.
//
// Fields named Raw stand for what they are the DER of: when one is not nil, the fields beside it are not looked at.
// What is DER already must be one element of the right tag; an error says which field is not.
func (o *Outgoing) Protect(protect func(part []byte) ([]byte, error)) ([]byte, error) {
	if (protect == nil) != (o.Header.ProtectionAlg == nil) {
		// RFC 9810 section 5.1.1: protectionAlg is there if and only if protection is.
		return nil, errors.New("cmp: protectionAlg and protection come together")
	}
	part, err := build(func(b *builder) {
		b.sequence(func(b *builder) {
			b.header(&o.Header)
			b.body(o.Body)
		})
	})
	if err != nil {
		return nil, err
	}
	var protection []byte
	if protect != nil {
		if protection, err = protect(part); err != nil {
			return nil, fmt.Errorf("cmp: protection: %w", err)
		}
	}
	der, err := build(func(b *builder) {
		content := cryptobyte.String(part)
		if !content.ReadASN1(&content, cbasn1.SEQUENCE) {
			b.fail("ProtectedPart cannot be opened")
		}
		b.sequence(func(b *builder) {
			b.AddBytes(content)
			if protect != nil {
				b.tagged(0, func(b *builder) { b.AddASN1BitString(protection) })
			}
			if len(o.ExtraCerts) > 0 {
				b.tagged(1, func(b *builder) { b.certificates(o.ExtraCerts, "extraCerts") })
			}
		})
	})
	if err != nil {
		return nil, err
	}
	if err := cms.Check(der, cms.Limits{}); err != nil {
		return nil, fmt.Errorf("cmp: what was made is refused: %w", err)
	}
	return der, nil
}

func (b *builder) body(v Body) {
	if v == nil {
		b.fail("no body")
		return
	}
	t := v.Type()
	if t < 0 || t > TypePollRep {
		b.fail("no body of RFC 9810")
		return
	}
	b.tagged(uint8(t), func(b *builder) {
		fits := true
		switch v := v.(type) {
		case *CertReqMessages:
			fits = slices.Contains([]BodyType{TypeIR, TypeCR, TypeKUR, TypeKRR, TypeCCR}, t)
			b.certReqMessages(v)
		case *CertRepMessage:
			fits = slices.Contains([]BodyType{TypeIP, TypeCP, TypeKUP, TypeCCP}, t)
			b.certRepMessage(v)
		case *PKCS10:
			b.element(v.CSR, "CertificationRequest", cbasn1.SEQUENCE)
		case *Challenges:
			b.challenges(v)
		case *ChallengeResponses:
			b.challengeResponses(v)
		case *KeyRecRep:
			b.keyRecRep(v)
		case *RevReq:
			b.revReq(v)
		case *RevRep:
			b.revRep(v)
		case *CAKeyUpdate:
			b.caKeyUpdate(v)
		case *CertAnn:
			b.element(v.Certificate, "CertAnnContent", cbasn1.SEQUENCE)
		case *RevAnn:
			b.revAnn(v)
		case *CRLAnn:
			b.certificates(v.CRLs, "CRLAnnContent")
		case *PKIConf:
			b.AddASN1NULL()
		case *Nested:
			if len(v.Messages) == 0 {
				b.fail("nested: no message")
			}
			b.certificates(v.Messages, "NestedMessageContent")
		case *General:
			fits = t == TypeGenM || t == TypeGenP
			b.info(v.Info)
		case *ErrorMsg:
			b.errorMsg(v)
		case *CertConf:
			b.certConf(v)
		case *PollReq:
			b.pollReq(v)
		case *PollRep:
			b.pollRep(v)
		default:
			fits = false
		}
		if !fits {
			b.fail("content of another body than its type")
		}
	})
}

// builder writes DER; the first error stays.
type builder struct{ *cryptobyte.Builder }

func build(write func(*builder)) ([]byte, error) {
	b := &builder{new(cryptobyte.Builder)}
	write(b)
	der, err := b.Bytes()
	if err != nil {
		return nil, fmt.Errorf("cmp: cannot be encoded: %w", err)
	}
	return der, nil
}

func (b *builder) fail(what string) { b.SetError(errors.New(what)) }

func (b *builder) add(tag cbasn1.Tag, write func(*builder)) {
	b.AddASN1(tag, func(c *cryptobyte.Builder) { write(&builder{c}) })
}

func (b *builder) sequence(write func(*builder)) { b.add(cbasn1.SEQUENCE, write) }

// tagged writes [n] EXPLICIT, or [n] IMPLICIT in the place of a SEQUENCE.
func (b *builder) tagged(n uint8, write func(*builder)) { b.add(constructed(n), write) }

// element writes what is DER already: one element, with one of the tags when there are any.
func (b *builder) element(der []byte, what string, tags ...cbasn1.Tag) {
	if err := cms.Check(der, cms.Limits{}); err != nil {
		b.SetError(fmt.Errorf("%s: %w", what, err))
		return
	}
	if len(tags) > 0 && !slices.Contains(tags, cbasn1.Tag(der[0])) {
		b.fail(what + ": another type of element")
		return
	}
	b.AddBytes(der)
}

func (b *builder) bigInt(n *big.Int, what string) {
	if n == nil {
		b.fail(what + ": missing")
		return
	}
	b.AddASN1BigInt(n)
}

func (b *builder) generalName(der []byte, what string) {
	if err := parseValue(der, what, func(in *input) { in.generalName(what) }); err != nil {
		b.SetError(fmt.Errorf("%s: %w", what, err))
		return
	}
	b.AddBytes(der)
}

func (b *builder) algorithm(a *AlgorithmIdentifier) {
	if a.Raw != nil {
		b.element(a.Raw, "AlgorithmIdentifier", cbasn1.SEQUENCE)
		return
	}
	b.sequence(func(b *builder) {
		b.AddASN1ObjectIdentifier(a.OID)
		if a.Parameters != nil {
			b.element(a.Parameters, "parameters")
		}
	})
}

// freeText writes a PKIFreeText, or nothing when there is no text.
func (b *builder) freeText(texts []string) {
	if len(texts) > 0 {
		b.utf8List(texts)
	}
}

func (b *builder) utf8List(texts []string) {
	b.sequence(func(b *builder) {
		for _, s := range texts {
			b.utf8(s)
		}
	})
}

func (b *builder) utf8(s string) {
	if !utf8.ValidString(s) {
		b.fail("text is not UTF-8")
	}
	b.add(cbasn1.UTF8String, func(b *builder) { b.AddBytes([]byte(s)) })
}

func (b *builder) certificates(certs [][]byte, what string) {
	b.sequence(func(b *builder) {
		for _, c := range certs {
			b.element(c, what, cbasn1.SEQUENCE)
		}
	})
}

// time writes a Time as RFC 5280 section 4.1.2.5 has it: UTCTime through 2049.
func (b *builder) time(t time.Time) {
	t = t.UTC()
	if y := t.Year(); y >= 1950 && y < 2050 {
		b.AddASN1UTCTime(t)
		return
	}
	b.AddASN1GeneralizedTime(t)
}

func (b *builder) certID(id *CertID) {
	b.sequence(func(b *builder) {
		b.generalName(id.Issuer, "issuer")
		b.bigInt(id.Serial, "serialNumber")
	})
}
