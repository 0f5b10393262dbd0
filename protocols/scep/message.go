package scep

import (
	"crypto"
	"errors"
	"fmt"

	"github.com/muster-pki/muster/protocols/cms"
)

// pkiMessage is what an answer needs of the request (RFC 8894 section 3.2). Nothing in it is verified when it is made.
type pkiMessage struct {
	signed        *cms.Signed
	kind          string      // messageType, "" when there is none that can be read
	transactionID []byte      // DER, echoed as it came
	wireID        string      // its text
	senderNonce   []byte      // DER, echoed as recipientNonce
	digest        crypto.Hash // of the answer: the request's, once that is known to be accepted
	cipher        cms.Cipher  // of the answer: the request's
}

// Bounds of what a message says of itself, in bytes. A nonce has 16 (section 3.2.1.5); other sizes are seen and do no harm.
const (
	maxTransactionID = 255
	maxNonce         = 64
)

// newPKIMessage reads the attributes without which there is no answer in CMS. The errors' texts are for the client.
func newPKIMessage(s *cms.Signed) (*pkiMessage, error) {
	m := &pkiMessage{signed: s, digest: crypto.SHA256}
	var ok bool
	if m.transactionID, ok = s.Attribute(cms.SCEPTransactionID); !ok {
		return nil, errors.New("the message has no transactionID, or more than one (RFC 8894 section 3.2.1.1)")
	}
	text, ok := attributeText(m.transactionID)
	if !ok || len(text) == 0 || len(text) > maxTransactionID {
		return nil, fmt.Errorf("the message's transactionID is not a PrintableString of 1 to %d characters (RFC 8894 section 3.2.1.1)", maxTransactionID)
	}
	m.wireID = text
	if m.senderNonce, ok = s.Attribute(cms.SCEPSenderNonce); !ok {
		return nil, errors.New("the message has no senderNonce, or more than one (RFC 8894 section 3.2.1.5)")
	}
	if nonce, ok := cms.OctetsValue(m.senderNonce); !ok || len(nonce) == 0 || len(nonce) > maxNonce {
		return nil, fmt.Errorf("the message's senderNonce is not an OCTET STRING of 1 to %d bytes (RFC 8894 section 3.2.1.5)", maxNonce)
	}
	if value, ok := s.Attribute(cms.SCEPMessageType); ok {
		if kind, ok := attributeText(value); ok && len(kind) <= 8 {
			m.kind = kind
		}
	}
	return m, nil
}

// attributeText reads an attribute that RFC 8894 section 3.2.1 has as a PrintableString. Clients put characters into it
// that do not belong there, and use other string types, so that all of printable ASCII is taken: it is echoed, compared,
// stored and shown, never interpreted.
func attributeText(der []byte) (string, bool) {
	text, ok := cms.StringValue(der)
	if !ok {
		return "", false
	}
	for _, b := range []byte(text) {
		if b < ' ' || b > '~' {
			return "", false
		}
	}
	return text, true
}
