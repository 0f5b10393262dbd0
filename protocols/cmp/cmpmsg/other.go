package cmpmsg

import (
	"math/big"

	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Challenges is popdecc: challenges to decrypt with the private key that a certificate is asked for (RFC 9810 section
// 5.2.8.3.3).
type Challenges struct{ Challenges []Challenge }

// Challenge is one of them, in the order of the requests.
type Challenge struct {
	OWF           *AlgorithmIdentifier // nil: that of the challenge before
	Witness       []byte
	Challenge     []byte // pvno 2; empty under pvno 3
	EncryptedRand []byte // DER EnvelopedData, pvno 3; nil when absent
}

// ChallengeResponses is popdecr: the integers found in the challenges.
type ChallengeResponses struct{ Values []*big.Int }

// KeyRecRep is krp (RFC 9810 section 5.3.8).
type KeyRecRep struct {
	Status     PKIStatusInfo
	NewSigCert []byte // DER; nil when absent
	CACerts    [][]byte
	History    []CertifiedKeyPair
}

// CAKeyUpdate is ckuann (RFC 9810 section 5.3.13). In the form of cmp2000, which is deprecated, all three are there.
type CAKeyUpdate struct {
	V2         bool   // CAKeyUpdAnnContent; else RootCaKeyUpdateContent
	NewWithNew []byte // DER, also below
	NewWithOld []byte // nil when absent
	OldWithNew []byte // nil when absent
}

// CertAnn is cann (RFC 9810 section 5.3.14).
type CertAnn struct{ Certificate []byte }

// CRLAnn is crlann (RFC 9810 section 5.3.16).
type CRLAnn struct{ CRLs [][]byte }

// Type is TypePOPDecC.
func (*Challenges) Type() BodyType { return TypePOPDecC }

// Type is TypePOPDecR.
func (*ChallengeResponses) Type() BodyType { return TypePOPDecR }

// Type is TypeKRP.
func (*KeyRecRep) Type() BodyType { return TypeKRP }

// Type is TypeCKUAnn.
func (*CAKeyUpdate) Type() BodyType { return TypeCKUAnn }

// Type is TypeCAnn.
func (*CertAnn) Type() BodyType { return TypeCAnn }

// Type is TypeCRLAnn.
func (*CRLAnn) Type() BodyType { return TypeCRLAnn }

const (
	maxChallenge = 4096 // octets
	maxRand      = 1024 // octets of the INTEGER in a challenge
)

// challenges reads a POPODecKeyChallContent.
//
//	POPODecKeyChallContent ::= SEQUENCE OF Challenge
//	Challenge ::= SEQUENCE {
//	    owf            AlgorithmIdentifier OPTIONAL,
//	    witness        OCTET STRING,
//	    challenge      OCTET STRING,
//	    encryptedRand  [0] EnvelopedData OPTIONAL }
func (in *input) challenges() *Challenges {
	v := new(Challenges)
	in.list("POPODecKeyChallContent", 0, maxRequests, func(in *input) {
		var c Challenge
		in.sequence("Challenge", func(in *input) {
			if in.next(cbasn1.SEQUENCE) {
				a := in.algorithm("owf")
				c.OWF = &a
			}
			c.Witness = in.octets("witness", maxHash)
			c.Challenge = in.octets("challenge", maxChallenge)
			in.tagged(0, "encryptedRand", func(in *input) { c.EncryptedRand = in.certificate("encryptedRand") })
		})
		v.Challenges = append(v.Challenges, c)
	})
	return v
}

func (b *builder) challenges(v *Challenges) {
	b.sequence(func(b *builder) {
		for i := range v.Challenges {
			c := &v.Challenges[i]
			b.sequence(func(b *builder) {
				if c.OWF != nil {
					b.algorithm(c.OWF)
				}
				b.AddASN1OctetString(c.Witness)
				b.AddASN1OctetString(c.Challenge)
				if c.EncryptedRand != nil {
					b.tagged(0, func(b *builder) { b.element(c.EncryptedRand, "encryptedRand", cbasn1.SEQUENCE) })
				}
			})
		}
	})
}

// challengeResponses reads a POPODecKeyRespContent.
//
//	POPODecKeyRespContent ::= SEQUENCE OF INTEGER
func (in *input) challengeResponses() *ChallengeResponses {
	v := new(ChallengeResponses)
	in.list("POPODecKeyRespContent", 0, maxRequests, func(in *input) {
		v.Values = append(v.Values, in.bigInt("POPODecKeyRespContent", maxRand))
	})
	return v
}

func (b *builder) challengeResponses(v *ChallengeResponses) {
	b.sequence(func(b *builder) {
		for _, n := range v.Values {
			b.bigInt(n, "POPODecKeyRespContent")
		}
	})
}

// keyRecRep reads a KeyRecRepContent.
//
//	KeyRecRepContent ::= SEQUENCE {
//	    status       PKIStatusInfo,
//	    newSigCert   [0] CMPCertificate OPTIONAL,
//	    caCerts      [1] SEQUENCE SIZE (1..MAX) OF CMPCertificate OPTIONAL,
//	    keyPairHist  [2] SEQUENCE SIZE (1..MAX) OF CertifiedKeyPair OPTIONAL }
func (in *input) keyRecRep() *KeyRecRep {
	k := new(KeyRecRep)
	in.sequence("KeyRecRepContent", func(in *input) {
		k.Status = in.statusInfo("status")
		in.tagged(0, "newSigCert", func(in *input) { k.NewSigCert = in.certificate("newSigCert") })
		in.tagged(1, "caCerts", func(in *input) { k.CACerts = in.certificates("caCerts", 0, maxCerts) })
		in.tagged(2, "keyPairHist", func(in *input) {
			in.list("keyPairHist", 0, maxRequests, func(in *input) { k.History = append(k.History, in.keyPair()) })
		})
	})
	return k
}

func (b *builder) keyRecRep(k *KeyRecRep) {
	b.sequence(func(b *builder) {
		b.statusInfo(&k.Status)
		if k.NewSigCert != nil {
			b.tagged(0, func(b *builder) { b.element(k.NewSigCert, "newSigCert", cbasn1.SEQUENCE) })
		}
		if len(k.CACerts) > 0 {
			b.tagged(1, func(b *builder) { b.certificates(k.CACerts, "caCerts") })
		}
		if len(k.History) > 0 {
			b.tagged(2, func(b *builder) {
				b.sequence(func(b *builder) {
					for i := range k.History {
						b.keyPair(&k.History[i])
					}
				})
			})
		}
	})
}

// caKeyUpdate reads a CAKeyUpdContent.
//
//	CAKeyUpdContent ::= CHOICE {
//	    cAKeyUpdAnnV2  CAKeyUpdAnnContent,              -- deprecated
//	    cAKeyUpdAnnV3  [0] RootCaKeyUpdateContent }
//	CAKeyUpdAnnContent ::= SEQUENCE {
//	    oldWithNew  CMPCertificate,
//	    newWithOld  CMPCertificate,
//	    newWithNew  CMPCertificate }
func (in *input) caKeyUpdate() *CAKeyUpdate {
	var u CAKeyUpdate
	if in.tagged(0, "RootCaKeyUpdateContent", func(in *input) { u = in.rootUpdate() }) {
		return &u
	}
	u.V2 = true
	in.sequence("CAKeyUpdAnnContent", func(in *input) {
		u.OldWithNew = in.certificate("oldWithNew")
		u.NewWithOld = in.certificate("newWithOld")
		u.NewWithNew = in.certificate("newWithNew")
	})
	return &u
}

// rootUpdate reads a RootCaKeyUpdateContent.
//
//	RootCaKeyUpdateContent ::= SEQUENCE {               -- RFC 9810 section 5.3.19.15
//	    newWithNew  CMPCertificate,
//	    newWithOld  [0] CMPCertificate OPTIONAL,
//	    oldWithNew  [1] CMPCertificate OPTIONAL }
func (in *input) rootUpdate() (u CAKeyUpdate) {
	in.sequence("RootCaKeyUpdateContent", func(in *input) {
		u.NewWithNew = in.certificate("newWithNew")
		in.tagged(0, "newWithOld", func(in *input) { u.NewWithOld = in.certificate("newWithOld") })
		in.tagged(1, "oldWithNew", func(in *input) { u.OldWithNew = in.certificate("oldWithNew") })
	})
	return u
}

func (b *builder) caKeyUpdate(u *CAKeyUpdate) {
	if u.V2 {
		b.certificates([][]byte{u.OldWithNew, u.NewWithOld, u.NewWithNew}, "CAKeyUpdAnnContent")
		return
	}
	b.tagged(0, func(b *builder) { b.rootUpdate(u) })
}

func (b *builder) rootUpdate(u *CAKeyUpdate) {
	b.sequence(func(b *builder) {
		b.element(u.NewWithNew, "newWithNew", cbasn1.SEQUENCE)
		if u.NewWithOld != nil {
			b.tagged(0, func(b *builder) { b.element(u.NewWithOld, "newWithOld", cbasn1.SEQUENCE) })
		}
		if u.OldWithNew != nil {
			b.tagged(1, func(b *builder) { b.element(u.OldWithNew, "oldWithNew", cbasn1.SEQUENCE) })
		}
	})
}
