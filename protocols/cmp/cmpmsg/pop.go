package cmpmsg

import (
	"math/big"

	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// proof reads a ProofOfPossession if there is one. POPOPrivKey is a CHOICE, so its tags [2] and [3] are explicit in this
// module of implicit tags.
//
//	ProofOfPossession ::= CHOICE {                      -- RFC 4211 section 4
//	    raVerified       [0] NULL,
//	    signature        [1] POPOSigningKey,
//	    keyEncipherment  [2] POPOPrivKey,
//	    keyAgreement     [3] POPOPrivKey }
func (in *input) proof() *ProofOfPossession {
	at := in.s
	p := new(ProofOfPossession)
	switch {
	case in.next(primitive(0)):
		p.Kind = POPRAVerified
		if der := in.take(primitive(0)); len(der) != 2 {
			in.syntax(at, "raVerified", "NULL is not empty")
		}
	case in.tagged(1, "POPOSigningKey", func(in *input) { p.Signing = in.signingKey() }):
		p.Kind = POPSignature
	case in.tagged(2, "POPOPrivKey", func(in *input) { p.PrivKey = in.privKey() }):
		p.Kind = POPKeyEncipherment
	case in.tagged(3, "POPOPrivKey", func(in *input) { p.PrivKey = in.privKey() }):
		p.Kind = POPKeyAgreement
	default:
		return nil
	}
	p.Raw = keep(at[:len(at)-len(in.s)])
	return p
}

func (b *builder) proof(p *ProofOfPossession) {
	switch {
	case p.Raw != nil:
		b.element(p.Raw, "ProofOfPossession", primitive(0), constructed(1), constructed(2), constructed(3))
	case p.Kind == POPRAVerified:
		b.add(primitive(0), func(*builder) {})
	case p.Kind == POPSignature && p.Signing != nil:
		b.tagged(1, func(b *builder) { b.signingKey(p.Signing) })
	case (p.Kind == POPKeyEncipherment || p.Kind == POPKeyAgreement) && p.PrivKey != nil:
		b.tagged(uint8(p.Kind), func(b *builder) { b.privKey(p.PrivKey) })
	default:
		b.fail("ProofOfPossession: content of another kind")
	}
}

// signingKey reads a POPOSigningKey.
//
//	POPOSigningKey ::= SEQUENCE {                       -- RFC 4211 section 4.1
//	    poposkInput          [0] POPOSigningKeyInput OPTIONAL,
//	    algorithmIdentifier  AlgorithmIdentifier,
//	    signature            BIT STRING }
//	POPOSigningKeyInput ::= SEQUENCE {
//	    authInfo  CHOICE {
//	        sender        [0] GeneralName,
//	        publicKeyMAC  PKMACValue },
//	    publicKey  SubjectPublicKeyInfo }
//
// RFC 4211 section 4.1 has the signature "computed over the DER-encoded POPOSigningKeyInput structure" (cases 1 and 2), and
// says of poposkInput that it "contains the data to be signed". The structure by itself is a SEQUENCE; [0] is how the field
// is marked within POPOSigningKey. So RawInput has the tag of the SEQUENCE.
func (in *input) signingKey() *POPOSigningKey {
	s := new(POPOSigningKey)
	if der := in.take(constructed(0)); der != nil {
		s.RawInput = retag(der, cbasn1.SEQUENCE)
		in.within(der, "poposkInput", func(in *input) {
			if !in.tagged(0, "sender", func(in *input) { s.Sender = in.generalName("sender") }) {
				s.KeyMAC = in.pkMACValue("publicKeyMAC")
			}
			s.PublicKey = in.publicKey("publicKey")
		})
	}
	s.Algorithm = in.algorithm("algorithmIdentifier")
	s.Signature = in.wholeBits("signature")
	return s
}

func (b *builder) signingKey(s *POPOSigningKey) {
	if s.RawInput != nil || s.PublicKey != nil {
		input, err := s.Input()
		if err != nil {
			b.SetError(err)
			return
		}
		b.AddBytes(retag(input, constructed(0)))
	}
	b.algorithm(&s.Algorithm)
	b.AddASN1BitString(s.Signature)
}

// Input is the DER of POPOSigningKeyInput, which is what is signed: RawInput, or made of Sender or KeyMAC, and PublicKey.
func (s *POPOSigningKey) Input() ([]byte, error) {
	return build(func(b *builder) {
		if s.RawInput != nil {
			b.element(s.RawInput, "poposkInput", cbasn1.SEQUENCE)
			return
		}
		b.sequence(func(b *builder) {
			switch {
			case s.Sender != nil && s.KeyMAC == nil:
				b.tagged(0, func(b *builder) { b.generalName(s.Sender, "sender") })
			case s.KeyMAC != nil && s.Sender == nil:
				b.sequence(func(b *builder) { b.pkMACValue(s.KeyMAC) })
			default:
				b.fail("authInfo: one of sender and publicKeyMAC is needed")
			}
			b.element(s.PublicKey, "publicKey", cbasn1.SEQUENCE)
		})
	})
}

// pkMACValue reads a PKMACValue.
//
//	PKMACValue ::= SEQUENCE {
//	    algId  AlgorithmIdentifier,
//	    value  BIT STRING }
func (in *input) pkMACValue(what string) *PKMACValue {
	v := new(PKMACValue)
	in.sequence(what, v.content(what))
	return v
}

func (v *PKMACValue) content(what string) func(*input) {
	return func(in *input) {
		v.Algorithm = in.algorithm(what + " algId")
		v.Value = in.wholeBits(what + " value")
	}
}

func (b *builder) pkMACValue(v *PKMACValue) {
	b.algorithm(&v.Algorithm)
	b.AddASN1BitString(v.Value)
}

// privKey reads a POPOPrivKey.
//
//	POPOPrivKey ::= CHOICE {                            -- RFC 4211 section 4.2
//	    thisMessage        [0] BIT STRING,              -- deprecated
//	    subsequentMessage  [1] SubsequentMessage,       -- INTEGER { encrCert (0), challengeResp (1) }
//	    dhMAC              [2] BIT STRING,              -- deprecated
//	    agreeMAC           [3] PKMACValue,
//	    encryptedKey       [4] EnvelopedData }
func (in *input) privKey() *POPOPrivKey {
	const what = "POPOPrivKey"
	at := in.s
	p := new(POPOPrivKey)
	for n := range uint8(3) {
		if !in.next(primitive(n)) {
			continue
		}
		p.Method = int(n)
		if n == 1 {
			v := in.implicitInt(1, "subsequentMessage")
			if v != nil && v.Sign() >= 0 && v.Cmp(big.NewInt(1)) <= 0 {
				p.Subsequent = int(v.Int64())
			} else {
				in.syntax(at, "subsequentMessage", "neither encrCert nor challengeResp")
			}
		} else {
			in.implicitBits(in.take(primitive(n)), what)
		}
		p.Value = keep(at[:len(at)-len(in.s)])
		return p
	}
	if der := in.take(constructed(3)); der != nil {
		p.Method = 3
		in.within(der, "agreeMAC", new(PKMACValue).content("agreeMAC"))
		p.Value = keep(der)
	} else if der := in.take(constructed(4)); der != nil {
		p.Method = 4
		p.Value = keep(der)
	} else {
		in.syntax(at, what, "no method of RFC 4211")
	}
	return p
}

func (b *builder) privKey(p *POPOPrivKey) {
	switch p.Method {
	case 0, 2:
		b.element(p.Value, "POPOPrivKey", primitive(uint8(p.Method)))
	case 1:
		b.AddASN1Int64WithTag(int64(p.Subsequent), primitive(1))
	case 3, 4:
		b.element(p.Value, "POPOPrivKey", constructed(uint8(p.Method)))
	default:
		b.fail("POPOPrivKey: no method of RFC 4211")
	}
}
