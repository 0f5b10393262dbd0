package est

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"mime/multipart"
	"net/http"
	"net/textproto"

	"golang.org/x/crypto/cryptobyte"
	cryptobyteasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/cms"
	"github.com/muster-pki/muster/protocols/wire"
)

// Attributes of a request for a key.
var (
	oidDecryptKeyID    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 37} // RFC 4108 section 2.2.5
	oidAsymmDecryptKey = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 54} // RFC 7030 section 4.4.1.2
)

const (
	nameDecryptKeyID    = "DecryptKeyIdentifier"
	nameAsymmDecryptKey = "AsymmetricDecryptKeyIdentifier"
)

// maxKeyID is how many bytes the identifier of a key may have.
const maxKeyID = 128

// Content types of the parts of an answer (RFC 7030 section 4.4.2).
const (
	typePlainKey     = "application/pkcs8"
	typeEncryptedKey = "application/pkcs7-mime; smime-type=server-generated-key"
)

// keyWish is what a request for a key says of how the key is to be encrypted.
type keyWish struct {
	wrap gateway.WrapKind
	id   []byte            // of the key to encrypt with
	can  *cms.Capabilities // what the client decrypts; nil: it does not say
}

// serverKeyGen answers RFC 7030 section 4.4: a key that the gateway makes, and its certificate.
func (x *exchange) serverKeyGen() *wire.Refusal {
	der, body, ref := x.readRequest()
	if ref != nil {
		return ref
	}
	c, ref := parseKeyless(der)
	if c != nil {
		x.Request.Subject = c.Subject
	}
	if ref != nil {
		return ref
	}
	if len(x.Request.Credentials) == 0 {
		// Section 4.4: "The EST server MUST authenticate the client".
		return wire.Refused(gateway.Unauthenticated, "a key is only made for a client that authenticates (RFC 7030 section 4.4)", nil)
	}
	x.Request.Raw = body
	if ref := x.link(c); ref != nil {
		return ref
	}
	linked := x.Request.POP == gateway.POPLinked
	x.Request.POP = gateway.POPNone // of a key that is still to be made
	wish, err := parseKeyWish(c.Attributes)
	if err != nil {
		return wire.Refused(gateway.BadTemplate, err.Error(), err)
	}
	if ref := x.succeedWithKey(c); ref != nil {
		return ref
	}
	if ref := x.askKey(c, wish); ref != nil {
		return ref
	}
	r := x.Request
	r.Subject, r.Extensions, r.NewNames = c.Subject, c.Extensions, c.newNames
	if r.Content, err = c.keyContent(); err != nil {
		return wire.Refused(gateway.Malformed, "the request cannot be encoded again", err)
	}
	r.Notes = append(r.Notes, x.keyFacts(wish, len(der), linked))
	return x.ask()
}

// parseKeyless is parseCertification for a request whose key and signature are ignored (RFC 7030 section 4.4.1): they are there so
// that clients can use the code that they have. c.Key is nil.
func parseKeyless(der []byte) (*certification, *wire.Refusal) {
	c, ref := readCertification(der, pkix.IgnoreKey())
	if ref != nil {
		return c, ref
	}
	return c, c.readAttributes()
}

// parseKeyWish reads the attributes that say how the key is to be encrypted: with a shared key (section 4.4.1.1), for a public one
// (section 4.4.1.2), or not at all beside TLS. Errors are for the client.
//
//	DecryptKeyIdentifier ::= OCTET STRING
//	AsymmetricDecryptKeyIdentifier ::= OCTET STRING
func parseKeyWish(list []pkix.Attribute) (keyWish, error) {
	wish := keyWish{wrap: gateway.WrapNone}
	for _, a := range list {
		var name string
		var wrap gateway.WrapKind
		switch {
		case a.OID.Equal(oidDecryptKeyID):
			name, wrap = nameDecryptKeyID, gateway.WrapSymmetric
		case a.OID.Equal(oidAsymmDecryptKey):
			name, wrap = nameAsymmDecryptKey, gateway.WrapAsymmetric
		case a.OID.Equal(cms.OIDCapabilities):
			name = "SMIMECapabilities"
		default:
			continue
		}
		if len(a.Values) != 1 {
			return wish, fmt.Errorf("the request's attribute %s has %d values instead of one", name, len(a.Values))
		}
		if wrap == "" {
			var err error
			if wish.can, err = cms.ParseCapabilities(a.Values[0]); err != nil {
				return wish, fmt.Errorf("the request's attribute %s does not parse: %w", name, err)
			}
			continue
		}
		if wish.wrap != gateway.WrapNone {
			return wish, fmt.Errorf("the request has both %s and %s: the key is encrypted one way or the other", nameDecryptKeyID, nameAsymmDecryptKey)
		}
		s := cryptobyte.String(a.Values[0])
		var id cryptobyte.String
		if !s.ReadASN1(&id, cryptobyteasn1.OCTET_STRING) || !s.Empty() || len(id) == 0 || len(id) > maxKeyID {
			return wish, fmt.Errorf("the request's attribute %s is not an OCTET STRING of 1 to %d bytes", name, maxKeyID)
		}
		wish.wrap, wish.id = wrap, id
	}
	return wish, nil
}

// askKey makes the request one for a key. The kind of the request's own key, which is ignored else, is a wish.
func (x *exchange) askKey(c *certification, wish keyWish) *wire.Refusal {
	r, endpoint := x.Request, x.endpoint.Name
	k := &gateway.KeyGen{Prefer: c.WishedKind(), Wrap: wish.wrap, KeyID: wish.id}
	r.KeyGen = k
	var to cms.Recipient
	name := cms.RecipientID{KeyID: wish.id}
	switch wish.wrap {
	case gateway.WrapNone:
		if x.R.TLS.Version == 0 {
			// What is between the proxy and here is not known, and the key would be in clear there.
			return wire.Refused(gateway.NotAuthorized, "a key is not sent in clear by way of a proxy that ends TLS: have it encrypted ("+nameDecryptKeyID+" or "+nameAsymmDecryptKey+
				", RFC 7030 section 4.4.1), or come directly", nil)
		}
		k.Seal = func(key crypto.Signer) ([]byte, error) { return x509.MarshalPKCS8PrivateKey(key) }
		return nil
	case gateway.WrapSymmetric:
		// The pipeline judges it, once it is known who asks: nobody else learns which keys there are.
		k.WrapKey = x.h.gateway.WrappingKey(x.R.Context(), endpoint, r.Operation, wish.id)
		to = &cms.SharedKey{Key: k.WrapKey}
	case gateway.WrapAsymmetric:
		cert, recipient, ref := x.keyRecipient(wish.id)
		if ref != nil {
			return ref
		}
		if err := wish.can.Allow(recipient); err != nil {
			return &wire.Refusal{Err: incapable(err)}
		}
		to, name = recipient, cms.RecipientOf(cert)
	}
	k.Seal = func(key crypto.Signer) ([]byte, error) {
		return sealKey(key, x.h.identity(endpoint), wish.can, to, name)
	}
	return nil
}

// succeedWithKey makes the request a rekey of the TLS client's certificate where that was issued here and the request has its names:
// section 4.4.1 has a request treated "as it would any enroll or re-enroll CSR", and there is one path for both. From everybody else
// it is an enrollment.
func (x *exchange) succeedWithKey(c *certification) *wire.Refusal {
	cred, ok := x.Request.Credential(gateway.CredentialTLS)
	if !ok || x.Request.Relayed || !pkix.SameName(c.Subject, cred.Chain[0].RawSubject) {
		return nil
	}
	cert := cred.Chain[0]
	if !bytes.Equal(subjectAltName(c.Extensions), subjectAltName(cert.Extensions)) {
		return nil
	}
	ours, err := x.h.gateway.Issued(x.R.Context(), cert)
	if err != nil {
		return &wire.Refusal{Err: gateway.AsError(err)}
	}
	if ours {
		x.Request.Operation, x.Request.OldCert = gateway.Rekey, cert
	}
	return nil
}

// keyContent is content for a request for a key. The request's own key is no part of it, but its kind is: clients make one for each
// request, and throw it away.
//
//	Content ::= SEQUENCE {
//	    version      INTEGER (2),
//	    kind         UTF8String,
//	    subject      Name,
//	    extensions   as in content
//	    attributes   as in content; those that say how to encrypt the key among them }
func (c *certification) keyContent() ([]byte, error) {
	extensions, attributes, err := c.canonical()
	if err != nil {
		return nil, err
	}
	return sequence(func(b *cryptobyte.Builder) {
		b.AddASN1Int64(2)
		b.AddASN1(cryptobyteasn1.UTF8String, func(b *cryptobyte.Builder) { b.AddBytes([]byte(c.WishedKind())) })
		b.AddBytes(c.Subject)
		addAll(b, extensions)
		addAll(b, attributes)
	})
}

// keyFacts is facts for a request for a key.
func (x *exchange) keyFacts(wish keyWish, size int, linked bool) string {
	how := "under TLS alone"
	switch wish.wrap {
	case gateway.WrapSymmetric:
		how = fmt.Sprintf("encrypted with the shared key %q", gateway.ReferenceID(wish.id))
	case gateway.WrapAsymmetric:
		how = "encrypted for the TLS client's certificate"
	}
	bound := ""
	switch {
	case x.Request.Relayed:
		bound = "; the request is bound to another connection, as an RA passes it on"
	case linked:
		bound = "; the request is bound to the connection"
	}
	return fmt.Sprintf("%s %s, PKCS#10 of %d bytes; a key is to be made, and to travel %s%s", x.R.URL.Path, x.over(), size, how, bound)
}

// writeKey answers with the key and its certificate (section 4.4.2).
func (x *exchange) writeKey(result *gateway.Result) *wire.Refusal {
	if len(result.Key) == 0 {
		return wire.Refused(gateway.Internal, "", errors.New("the gateway answered a request for a key without one"))
	}
	cert, err := cms.CertsOnly(result.Certificate.Raw)
	if err != nil {
		return wire.Refused(gateway.Internal, "", err)
	}
	contentType := typeEncryptedKey
	if x.Request.KeyGen.Wrap == gateway.WrapNone {
		contentType = typePlainKey
		defer clear(result.Key) // this answer alone has it
	}
	parts := []part{{contentType, result.Key}, {typeEnrolled, cert}}
	boundary, body, err := multipartOf(parts, x.endpoint.Config.Wrap.wraps(x.R.UserAgent()))
	if err != nil {
		return wire.Refused(gateway.Internal, "", err)
	}
	defer clear(body)
	x.Write(http.StatusOK, "multipart/mixed; boundary="+boundary, body)
	return nil
}

// part is one of a multipart/mixed answer.
type part struct {
	contentType string
	der         []byte
}

// multipartOf is a multipart/mixed body (RFC 2046 section 5.1) of parts in base64, with line ends of CR LF throughout.
func multipartOf(parts []part, wrap bool) (boundary string, body []byte, err error) {
	size := 0
	for _, p := range parts {
		size += 2*len(p.der) + 512 // room for all, so that a key is not left behind where a smaller buffer was
	}
	buffer := bytes.NewBuffer(make([]byte, 0, size))
	w := multipart.NewWriter(buffer)
	for _, p := range parts {
		out, err := w.CreatePart(textproto.MIMEHeader{"Content-Type": {p.contentType}, "Content-Transfer-Encoding": {"base64"}})
		if err != nil {
			return "", nil, err
		}
		text := encodeLines(p.der, wrap, "\r\n")
		_, err = out.Write(text)
		clear(text)
		if err != nil {
			return "", nil, err
		}
	}
	if err := w.Close(); err != nil {
		return "", nil, err
	}
	return w.Boundary(), buffer.Bytes(), nil
}
