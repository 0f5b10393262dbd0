package cmpmsg

import (
	"math"

	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Type is TypePKIConf.
func (*PKIConf) Type() BodyType { return TypePKIConf }

// Type is TypeNested.
func (*Nested) Type() BodyType { return TypeNested }

// Type is TypeCertConf.
func (*CertConf) Type() BodyType { return TypeCertConf }

// Type is TypeError.
func (*ErrorMsg) Type() BodyType { return TypeError }

// Type is TypePollReq.
func (*PollReq) Type() BodyType { return TypePollReq }

// Type is TypePollRep.
func (*PollRep) Type() BodyType { return TypePollRep }

const (
	maxHash = 64 // octets: SHA-512
	maxWait = math.MaxInt32
)

// certConf reads a CertConfirmContent, which may be empty: that rejects all certificates (RFC 9810 section 5.3.18).
//
//	CertConfirmContent ::= SEQUENCE OF CertStatus
//	CertStatus ::= SEQUENCE {
//	    certHash    OCTET STRING,
//	    certReqId   INTEGER,
//	    statusInfo  PKIStatusInfo OPTIONAL,
//	    hashAlg     [0] AlgorithmIdentifier OPTIONAL }
func (in *input) certConf() *CertConf {
	c := new(CertConf)
	in.list("CertConfirmContent", 0, maxRequests, func(in *input) {
		var s CertStatus
		in.sequence("CertStatus", func(in *input) {
			s.CertHash = in.octets("certHash", maxHash)
			s.ReqID = in.bigInt("certReqId", maxInteger)
			if in.next(cbasn1.SEQUENCE) {
				info := in.statusInfo("statusInfo")
				s.Status = &info
			}
			in.tagged(0, "hashAlg", func(in *input) {
				a := in.algorithm("hashAlg")
				s.HashAlg = &a
			})
		})
		c.Statuses = append(c.Statuses, s)
	})
	return c
}

func (b *builder) certConf(c *CertConf) {
	b.sequence(func(b *builder) {
		for i := range c.Statuses {
			s := &c.Statuses[i]
			b.sequence(func(b *builder) {
				b.AddASN1OctetString(s.CertHash)
				b.bigInt(s.ReqID, "certReqId")
				if s.Status != nil {
					b.statusInfo(s.Status)
				}
				if s.HashAlg != nil {
					b.tagged(0, func(b *builder) { b.algorithm(s.HashAlg) })
				}
			})
		}
	})
}

// errorMsg reads an ErrorMsgContent.
//
//	ErrorMsgContent ::= SEQUENCE {                      -- RFC 9810 section 5.3.21
//	    pKIStatusInfo  PKIStatusInfo,
//	    errorCode      INTEGER OPTIONAL,
//	    errorDetails   PKIFreeText OPTIONAL }
func (in *input) errorMsg() *ErrorMsg {
	e := new(ErrorMsg)
	in.sequence("ErrorMsgContent", func(in *input) {
		e.Status = in.statusInfo("pKIStatusInfo")
		if in.next(cbasn1.INTEGER) {
			e.Code = in.bigInt("errorCode", maxInteger)
		}
		if in.next(cbasn1.SEQUENCE) {
			e.Details = in.freeText("errorDetails")
		}
	})
	return e
}

func (b *builder) errorMsg(e *ErrorMsg) {
	b.sequence(func(b *builder) {
		b.statusInfo(&e.Status)
		if e.Code != nil {
			b.AddASN1BigInt(e.Code)
		}
		b.freeText(e.Details)
	})
}

// pollReq reads a PollReqContent.
//
//	PollReqContent ::= SEQUENCE OF SEQUENCE { certReqId INTEGER }    -- RFC 9810 section 5.3.22
func (in *input) pollReq() *PollReq {
	p := new(PollReq)
	in.list("PollReqContent", 0, maxRequests, func(in *input) {
		in.sequence("PollReqContent", func(in *input) {
			p.ReqIDs = append(p.ReqIDs, in.bigInt("certReqId", maxInteger))
		})
	})
	return p
}

func (b *builder) pollReq(p *PollReq) {
	b.sequence(func(b *builder) {
		for _, id := range p.ReqIDs {
			b.sequence(func(b *builder) { b.bigInt(id, "certReqId") })
		}
	})
}

// pollRep reads a PollRepContent.
//
//	PollRepContent ::= SEQUENCE OF SEQUENCE {           -- RFC 9810 section 5.3.22
//	    certReqId   INTEGER,
//	    checkAfter  INTEGER,                            -- seconds
//	    reason      PKIFreeText OPTIONAL }
func (in *input) pollRep() *PollRep {
	p := new(PollRep)
	in.list("PollRepContent", 0, maxRequests, func(in *input) {
		var r PollResponse
		in.sequence("PollRepContent", func(in *input) {
			r.ReqID = in.bigInt("certReqId", maxInteger)
			r.CheckAfter = in.int("checkAfter", 0, maxWait)
			if in.next(cbasn1.SEQUENCE) {
				r.Reason = in.freeText("reason")
			}
		})
		p.Responses = append(p.Responses, r)
	})
	return p
}

func (b *builder) pollRep(p *PollRep) {
	b.sequence(func(b *builder) {
		for i := range p.Responses {
			r := &p.Responses[i]
			b.sequence(func(b *builder) {
				b.bigInt(r.ReqID, "certReqId")
				b.AddASN1Int64(r.CheckAfter)
				b.freeText(r.Reason)
			})
		}
	})
}
