package cmpmsg

import (
	"math"
	"time"

	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// RevReq is rr (RFC 9810 section 5.3.9).
type RevReq struct{ Details []RevDetails }

// RevDetails asks for one revocation.
type RevDetails struct {
	Certificate CertTemplate // as much as is known: issuer and serialNumber name it
	Extensions  []byte       // DER Extensions for the CRL entry; nil when absent
}

// RevRep is rp (RFC 9810 section 5.3.10).
type RevRep struct {
	Statuses []PKIStatusInfo // in the order of the request
	CertIDs  []CertID        // likewise; may be nil
	CRLs     [][]byte        // DER
}

// RevAnn is rann (RFC 9810 section 5.3.15).
type RevAnn struct {
	Status        Status
	Certificate   CertID
	WillBeRevoked time.Time
	BadSince      time.Time
	Extensions    []byte // DER Extensions of the CRL; nil when absent
}

// Type is TypeRR.
func (*RevReq) Type() BodyType { return TypeRR }

// Type is TypeRP.
func (*RevRep) Type() BodyType { return TypeRP }

// Type is TypeRAnn.
func (*RevAnn) Type() BodyType { return TypeRAnn }

// revReq reads a RevReqContent.
//
//	RevReqContent ::= SEQUENCE OF RevDetails
//	RevDetails ::= SEQUENCE {
//	    certDetails      CertTemplate,
//	    crlEntryDetails  Extensions OPTIONAL }
func (in *input) revReq() *RevReq {
	r := new(RevReq)
	in.list("RevReqContent", 0, maxRequests, func(in *input) {
		var d RevDetails
		in.sequence("RevDetails", func(in *input) {
			d.Certificate = in.template("certDetails")
			if in.more() {
				d.Extensions = in.extensions("crlEntryDetails")
			}
		})
		r.Details = append(r.Details, d)
	})
	return r
}

func (b *builder) revReq(r *RevReq) {
	b.sequence(func(b *builder) {
		for i := range r.Details {
			d := &r.Details[i]
			b.sequence(func(b *builder) {
				b.template(&d.Certificate)
				if d.Extensions != nil {
					b.element(d.Extensions, "crlEntryDetails", cbasn1.SEQUENCE)
				}
			})
		}
	})
}

// revRep reads a RevRepContent.
//
//	RevRepContent ::= SEQUENCE {
//	    status    SEQUENCE SIZE (1..MAX) OF PKIStatusInfo,
//	    revCerts  [0] SEQUENCE SIZE (1..MAX) OF CertId OPTIONAL,
//	    crls      [1] SEQUENCE SIZE (1..MAX) OF CertificateList OPTIONAL }
func (in *input) revRep() *RevRep {
	r := new(RevRep)
	in.sequence("RevRepContent", func(in *input) {
		in.list("status", 1, maxRequests, func(in *input) { r.Statuses = append(r.Statuses, in.statusInfo("status")) })
		in.tagged(0, "revCerts", func(in *input) {
			in.list("revCerts", 0, maxRequests, func(in *input) { r.CertIDs = append(r.CertIDs, in.certID("CertId")) })
		})
		in.tagged(1, "crls", func(in *input) { r.CRLs = in.certificates("crls", 0, maxCerts) })
	})
	return r
}

func (b *builder) revRep(r *RevRep) {
	if len(r.Statuses) == 0 {
		b.fail("RevRepContent: no status")
	}
	b.sequence(func(b *builder) {
		b.sequence(func(b *builder) {
			for i := range r.Statuses {
				b.statusInfo(&r.Statuses[i])
			}
		})
		if len(r.CertIDs) > 0 {
			b.tagged(0, func(b *builder) {
				b.sequence(func(b *builder) {
					for i := range r.CertIDs {
						b.certID(&r.CertIDs[i])
					}
				})
			})
		}
		if len(r.CRLs) > 0 {
			b.tagged(1, func(b *builder) { b.certificates(r.CRLs, "crls") })
		}
	})
}

// revAnn reads a RevAnnContent.
//
//	RevAnnContent ::= SEQUENCE {
//	    status           PKIStatus,
//	    certId           CertId,
//	    willBeRevokedAt  GeneralizedTime,
//	    badSinceDate     GeneralizedTime,
//	    crlDetails       Extensions OPTIONAL }
func (in *input) revAnn() *RevAnn {
	r := new(RevAnn)
	in.sequence("RevAnnContent", func(in *input) {
		r.Status = Status(in.int("status", 0, math.MaxInt32))
		r.Certificate = in.certID("certId")
		r.WillBeRevoked = in.generalizedTime("willBeRevokedAt")
		r.BadSince = in.generalizedTime("badSinceDate")
		if in.more() {
			r.Extensions = in.extensions("crlDetails")
		}
	})
	return r
}

func (b *builder) revAnn(r *RevAnn) {
	b.sequence(func(b *builder) {
		b.AddASN1Int64(int64(r.Status))
		b.certID(&r.Certificate)
		b.AddASN1GeneralizedTime(r.WillBeRevoked.UTC())
		b.AddASN1GeneralizedTime(r.BadSince.UTC())
		if r.Extensions != nil {
			b.element(r.Extensions, "crlDetails", cbasn1.SEQUENCE)
		}
	})
}
