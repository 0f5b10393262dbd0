package scep

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/upstream"
	"github.com/muster-pki/muster/protocols/cms"
)

// messageType (RFC 8894 section 3.2.1.2).
const (
	typeCertRep  = "3"
	typePKCSReq  = "19"
	typeCertPoll = "20"
	typeGetCRL   = "22"
)

// pkiStatus (section 3.2.1.3).
const (
	statusSuccess = "0"
	statusFailure = "2"
	statusPending = "3"
)

const nonceSize = 16

// signer is the RA.
type signer struct {
	key   *rsa.PrivateKey
	chain upstream.Bag // its certificate first
}

// signer reads the RA's files. What is wrong with them is FAILED_PRECONDITION: nobody was asked.
func (r *running) signer(now time.Time) (*signer, error) {
	chain, err := upstream.ReadBag(r.config.RA.Cert)
	if err != nil {
		return nil, backend.Refuse(codes.FailedPrecondition, "ra.cert: %v", err)
	}
	secret, err := upstream.Secret(r.config.RA.Key)
	if err != nil {
		return nil, backend.Refuse(codes.FailedPrecondition, "ra.key: %v", err)
	}
	defer clear(secret)
	block, _ := pem.Decode(secret)
	if block == nil {
		return nil, backend.Refuse(codes.FailedPrecondition, "ra.key: no PEM block in it")
	}
	var key any
	if key, err = x509.ParsePKCS8PrivateKey(block.Bytes); err != nil {
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	}
	own, ok := key.(*rsa.PrivateKey)
	switch {
	case err != nil || !ok:
		return nil, backend.Refuse(codes.FailedPrecondition, "ra.key: wants an RSA key, PKCS #8 or PKCS #1: SCEP's answers are encrypted to it")
	case !own.PublicKey.Equal(chain[0].PublicKey):
		return nil, backend.Refuse(codes.FailedPrecondition, "ra.key is not the key of ra.cert")
	case now.After(chain[0].NotAfter):
		return nil, backend.Refuse(codes.FailedPrecondition, "ra.cert: the RA's certificate has expired at %s", chain[0].NotAfter.UTC().Format(time.RFC3339))
	}
	return &signer{key: own, chain: chain}, nil
}

// answer is a CertRep that is the CA's, and about our message.
type answer struct {
	status   string
	failInfo string // "" for none
	text     string // failInfoText
	content  []byte // of the envelope, decrypted; nil but with SUCCESS
}

// exchange sends a message and reads its answer. Errors mean for Issue what they say.
func (r *running) exchange(ctx context.Context, s *server, ra *signer, kind, id string, content []byte) (*answer, error) {
	cipher, digest := cms.AES128, crypto.SHA256
	if !s.can("aes", "scepstandard") {
		if cipher = cms.TripleDES; !slices.Contains(r.config.Legacy, LegacyTripleDES) {
			return nil, backend.Refuse(codes.FailedPrecondition, "the CA does not name AES in GetCACaps: `legacy: [3des]` does without")
		}
	}
	if !s.can("sha-256", "scepstandard") {
		if digest = crypto.SHA1; !slices.Contains(r.config.Legacy, LegacySHA1) {
			return nil, backend.Refuse(codes.FailedPrecondition, "the CA does not name SHA-256 in GetCACaps: `legacy: [sha1]` does without")
		}
	}
	nonce := make([]byte, nonceSize)
	if _, err := rand.Read(nonce); err != nil {
		return nil, backend.Refuse(codes.FailedPrecondition, "not asked: %v", err)
	}
	envelope, err := cms.Encrypt(content, s.recipient, cipher)
	if err != nil {
		return nil, backend.Refuse(codes.FailedPrecondition, "not asked: %v", err)
	}
	message, err := cms.Sign(cms.SignOptions{
		Content: envelope, Key: ra.key, Certificate: ra.chain[0], Certificates: ra.chain, Digest: digest, PlainRSA: true,
		Attributes: []cms.Attribute{
			cms.AttributePrintable(cms.SCEPMessageType, kind), cms.AttributePrintable(cms.SCEPTransactionID, id), cms.AttributeOctets(cms.SCEPSenderNonce, nonce),
		},
	})
	if err != nil {
		return nil, backend.Refuse(codes.FailedPrecondition, "not asked: %v", err)
	}
	got, err := r.send(ctx, s, message)
	switch {
	case err != nil:
		return nil, err
	case got.Status != http.StatusOK && r.config.private():
		return nil, got.Refused("")
	case got.Status != http.StatusOK: // anybody on the way can say that
		return nil, backend.Refuse(codes.Unavailable, "HTTP %d", got.Status)
	}
	a, err := r.read(got.Body, s, ra, id, nonce)
	if status.Code(err) == codes.Unauthenticated {
		if s, late := r.current(ctx, true); late == nil { // it has another RA certificate
			return r.read(got.Body, s, ra, id, nonce)
		}
	}
	return a, err
}

// send is PKIOperation (RFC 8894 section 4.1), by POST unless the CA has GET alone.
func (r *running) send(ctx context.Context, s *server, message []byte) (*upstream.Answer, error) {
	if !s.can("postpkioperation", "scepstandard") {
		query := "?operation=PKIOperation&message=" + strings.NewReplacer("+", "%2B", "/", "%2F", "=", "%3D").Replace(base64.StdEncoding.EncodeToString(message))
		q, err := http.NewRequestWithContext(ctx, http.MethodGet, r.client.URL(query), nil)
		if err != nil {
			return nil, backend.Refuse(codes.FailedPrecondition, "not asked: url: it makes no request")
		}
		// net/http sends a GET again by itself when its connection ends, but for one with a body that it cannot have again: this one is empty.
		q.Body = io.NopCloser(strings.NewReader(""))
		return r.do(ctx, q)
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, r.client.URL("?operation=PKIOperation"), bytes.NewReader(message))
	if err != nil {
		return nil, backend.Refuse(codes.FailedPrecondition, "not asked: url: it makes no request")
	}
	q.Header.Set("Content-Type", "application/x-pki-message")
	return r.do(ctx, q)
}

func (r *running) do(ctx context.Context, q *http.Request) (*upstream.Answer, error) {
	got, err := r.client.Do(ctx, q, maxAnswer)
	if err != nil && ctx.Err() != nil && backend.Definite(err) {
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	return got, err
}

// read verifies an answer (RFC 8894 section 3.3.2). UNAUTHENTICATED is of one that is signed by somebody who is not known as the
// CA's; it proves no more than other errors of it: an answer that is not the CA's says nothing.
func (r *running) read(body []byte, s *server, ra *signer, id string, nonce []byte) (*answer, error) {
	signed, err := cms.ParseSigned(body, cms.Limits{Size: maxAnswer})
	if err != nil {
		return nil, backend.Refuse(codes.Internal, "the answer is no SCEP message: %v", err)
	}
	candidates := s.bag // a signer may leave out its certificate, which GetCACert has
	if signed.Signer != nil {
		candidates = upstream.Bag{signed.Signer}
	}
	unverified := errors.New("by somebody else")
	for _, c := range candidates {
		if !slices.ContainsFunc(s.bag, c.Equal) {
			continue
		}
		signed.Signer = c
		if unverified = signed.Verify(r.config.digests()); unverified == nil {
			break
		}
	}
	switch {
	case errors.Is(unverified, cms.ErrAlgorithm):
		return nil, backend.Refuse(codes.Internal, "the answer's signature: %v (a CA that signs with SHA-1 takes `legacy: [sha1]`)", unverified)
	case unverified != nil:
		return nil, backend.Refuse(codes.Unauthenticated, "the answer is not signed by the CA or its RA: %v", unverified)
	}
	text := func(oid []int) string {
		value, _ := signed.Attribute(oid)
		s, _ := cms.StringValue(value)
		return s
	}
	value, _ := signed.Attribute(cms.SCEPRecipientNonce)
	echo, _ := cms.OctetsValue(value)
	if text(cms.SCEPMessageType) != typeCertRep || text(cms.SCEPTransactionID) != id || !bytes.Equal(echo, nonce) {
		return nil, backend.Refuse(codes.Internal, "the answer is to another message")
	}
	a := &answer{status: text(cms.SCEPPKIStatus), failInfo: text(cms.SCEPFailInfo), text: upstream.Line(text(cms.SCEPFailInfoText))}
	if a.status != statusSuccess {
		return a, nil
	}
	envelope, err := cms.ParseEnveloped(signed.Content, cms.Limits{Size: maxAnswer})
	if err != nil {
		return nil, backend.Refuse(codes.Internal, "the answer's envelope: %v", err)
	}
	if envelope.Cipher == cms.CipherUnknown || envelope.Cipher == cms.DES && !slices.Contains(r.config.Legacy, LegacyDES) {
		return nil, backend.Refuse(codes.Internal, "the answer is encrypted with %s (a CA that does so with DES, 1.3.14.3.2.7, takes `legacy: [des]`)", envelope.CipherOID)
	}
	if a.content, err = envelope.Decrypt(ra.key, ra.chain[0]); err != nil {
		return nil, backend.Refuse(codes.Internal, "the answer cannot be decrypted with the RA's key")
	}
	return a, nil
}
