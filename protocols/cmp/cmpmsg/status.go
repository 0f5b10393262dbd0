package cmpmsg

import (
	"math"

	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/protocols/cms"
)

// statusInfo reads a PKIStatusInfo (RFC 9810 section 5.2.3). Bits of failInfo beyond the 31st are ignored: more codes may
// be added, and none of them changes what is done.
//
//	PKIStatusInfo ::= SEQUENCE {
//	    status        PKIStatus,                -- INTEGER
//	    statusString  PKIFreeText OPTIONAL,
//	    failInfo      PKIFailureInfo OPTIONAL } -- BIT STRING
func (in *input) statusInfo(what string) (s PKIStatusInfo) {
	in.sequence(what, func(in *input) {
		s.Status = Status(in.int(what+" status", 0, math.MaxInt32))
		if in.next(cbasn1.SEQUENCE) {
			s.Text = in.freeText(what + " statusString")
		}
		if in.next(cbasn1.BIT_STRING) {
			at := in.s
			v := in.bits(what + " failInfo")
			if v.BitLength > maxFailInfo {
				in.fail(at, cms.ErrLimit, what+" failInfo", "BIT STRING is too long")
			}
			for i := range min(v.BitLength, 32) {
				s.FailInfo |= FailInfo(v.At(i)) << i
			}
		}
	})
	return s
}

const maxFailInfo = 256 // bits

func (b *builder) statusInfo(s *PKIStatusInfo) {
	b.sequence(func(b *builder) {
		b.AddASN1Int64(int64(s.Status))
		b.freeText(s.Text)
		if s.FailInfo != 0 {
			b.failInfo(s.FailInfo)
		}
	})
}

// failInfo writes a named bit list: DER has no trailing zero bits (X.690 section 11.2.2).
func (b *builder) failInfo(f FailInfo) {
	octets := []byte{0}
	for i := range 32 {
		if f>>i&1 == 0 {
			continue
		}
		for len(octets) < i/8+2 {
			octets = append(octets, 0)
		}
		octets[i/8+1] |= 0x80 >> (i % 8)
		octets[0] = byte(7 - i%8)
	}
	b.add(cbasn1.BIT_STRING, func(b *builder) { b.AddBytes(octets) })
}
