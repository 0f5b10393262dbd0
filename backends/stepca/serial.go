package stepca

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"math/big"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
)

const (
	serialSize = 20 // octets at most (RFC 5280 section 4.1.2.2)
	serialBody = 14 // of them from the request; the others are a checksum over these and the issuer
)

// serialOf is the serial number of the certificate for a request, a function of its ID and content. step-ca's Muster template takes
// it from the token, so that a second call for the same request makes the same certificate again, not another one. Its last octets
// tell a serial number of Muster's making from others: step-ca revokes any number, whether there is such a certificate or not.
func serialOf(r *backend.IssueRequest, issuer []byte) *big.Int {
	h := sha256.New()
	part := func(p []byte) {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(p))))
		h.Write(p)
	}
	t := &r.Template
	part([]byte("muster stepca serial 1"))
	part([]byte(r.ID))
	part(t.Subject)
	part(t.SubjectAltName)
	part(t.PublicKey)
	for _, at := range []time.Time{t.NotBefore, t.NotAfter} {
		part([]byte(at.UTC().Format(time.RFC3339)))
	}
	part(binary.BigEndian.AppendUint64(nil, uint64(t.KeyUsage)))
	for _, id := range t.ExtKeyUsage {
		part([]byte(id.String()))
	}
	part(nil)
	for _, e := range t.Extensions {
		critical := []byte{0}
		if e.Critical {
			critical[0] = 1
		}
		part([]byte(e.Id.String()))
		part(critical)
		part(e.Value)
	}
	body := h.Sum(nil)[:serialBody]
	body[0] = body[0]&0x3f | 0x40 // positive, and always of serialSize octets
	return new(big.Int).SetBytes(append(body, checksum(body, issuer)...))
}

func checksum(body, issuer []byte) []byte {
	h := sha256.New()
	h.Write([]byte("muster stepca check 1"))
	h.Write(body)
	h.Write(issuer)
	return h.Sum(nil)[:serialSize-serialBody]
}

// ours reports whether a serial number, a big-endian magnitude, is one that serialOf made for that issuer, a DER Name.
func ours(serial, issuer []byte) bool {
	return len(serial) == serialSize && bytes.Equal(checksum(serial[:serialBody], issuer), serial[serialBody:])
}

// tokenID is the jti of the first token for a request. step-ca takes a jti once (authority.UseToken): whether it has been used says
// whether the request ever reached the CA.
func tokenID(id string) string {
	return hexSum("muster stepca token 1\x00" + id)
}
