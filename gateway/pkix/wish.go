package pkix

import (
	"encoding/asn1"
	"fmt"
	"math/big"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// WishedKind is the kind of a request's key as KeyName has it, "RSA" for an RSA key whose size cannot be told, "" for one of another
// kind, or that does not parse. The key need not be one that would be certified: no more than algorithm and size is looked at.
func (c *CSR) WishedKind() string {
	in := cryptobyte.String(c.PublicKey)
	var seq cryptobyte.String
	var bits []byte
	if !in.ReadASN1(&seq, cbasn1.SEQUENCE) {
		return ""
	}
	alg, err := readAlgorithm(&seq)
	if err != nil || !seq.ReadASN1BitStringAsBytes(&bits) {
		return ""
	}
	switch {
	case alg.oid.Equal(oidEd25519):
		return "Ed25519"
	case alg.oid.Equal(oidEC):
		params := cryptobyte.String(alg.params)
		var curve asn1.ObjectIdentifier
		if !params.ReadASN1ObjectIdentifier(&curve) {
			return ""
		}
		switch {
		case curve.Equal(oidP256):
			return "P-256"
		case curve.Equal(oidP384):
			return "P-384"
		case curve.Equal(oidP521):
			return "P-521"
		}
	case alg.oid.Equal(oidRSA):
		in, n := cryptobyte.String(bits), cryptobyte.String(nil)
		if in.ReadASN1(&seq, cbasn1.SEQUENCE) && seq.ReadASN1(&n, cbasn1.INTEGER) && positive(n) && len(n) <= MaxRSABits/8+1 {
			return fmt.Sprintf("RSA-%d", new(big.Int).SetBytes(n).BitLen())
		}
		return "RSA"
	}
	return ""
}
