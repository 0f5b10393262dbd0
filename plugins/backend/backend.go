// Package backend is the one package a CA plugin is written against: the Backend interface, the types
// that cross it, and Serve, which turns a Backend into a plugin process.
//
// It knows nothing of CMP, EST or SCEP, of devices or of authorization: by the time a Backend is called,
// the gateway has decided what is to be certified, and has recorded it.
package backend

import (
	"bytes"
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"io"
	"time"
)

// Backend is a certification authority as the gateway sees it. Calls are concurrent.
//
// A method fails with a gRPC status error (see Refuse and Exhausted). Issue's failure is a definite refusal,
// which proves that nothing was and nothing will be issued under the request's ID, only with INVALID_ARGUMENT,
// PERMISSION_DENIED, FAILED_PRECONDITION, UNIMPLEMENTED, or RESOURCE_EXHAUSTED carrying a RetryInfo; every
// other error leaves the outcome unknown, and the gateway finds out by Lookup.
type Backend interface {
	// Validate checks an opaque YAML configuration without side effects: no file is made, no CA is called.
	Validate(ctx context.Context, config []byte) error
	// Configure readies the backend. It is called once in a plugin process, before every call but Validate.
	Configure(ctx context.Context, config []byte) error
	// Describe says what the CA can do. The answer does not change while the process lives.
	Describe(ctx context.Context) (*Description, error)
	// CACertificates returns the issuing CAs, the default first.
	CACertificates(ctx context.Context) ([]CA, error)
	// Issue certifies the template under the idempotency key r.ID. With IdempotencyNative, the same ID and
	// content give the same certificate, byte for byte; the same ID with another content is ALREADY_EXISTS.
	Issue(ctx context.Context, r *IssueRequest) (*Issuance, error)
	// Lookup says what became of the request: r is what Issue was given under r.ID, r.Asked when it last was, so that a backend
	// whose CA knows no IDs can look for the key, and keeps no record of its own. UNIMPLEMENTED where Describe says
	// IdempotencyNone. No error of it refuses anything: the gateway asks again. It is not asked about a request whose ticket the
	// gateway has recorded: that one is polled. So a CA that issues in Poll alone can always say never.
	Lookup(ctx context.Context, r *IssueRequest) (*Outcome, error)
	// Poll asks for what an earlier Issue of r answered with a ticket. UNIMPLEMENTED where the CA has no tickets.
	// INVALID_ARGUMENT, PERMISSION_DENIED and FAILED_PRECONDITION say that the CA has refused the request after all:
	// nothing was and nothing will be issued. After any other error the gateway polls again, not before a RetryInfo's delay.
	Poll(ctx context.Context, r *IssueRequest, ticket string) (*Issuance, error)
	// Revoke revokes; a certificate already revoked is success, an unknown one is NOT_FOUND. Optional.
	Revoke(ctx context.Context, r *RevokeRequest) error
	// CRL writes the issuer's current CRL, DER, to w. issuer is one of CA.CRLs, such as CA.Name, "" for the default, which lists all
	// that the CA has revoked; or the name of one of CA.Shards, which lists what is revoked of the shard's certificates. NOT_FOUND
	// when there is none. Optional.
	CRL(ctx context.Context, issuer string, w io.Writer) error
}

// CMSSigner is implemented by a backend whose current CA key vouches for the next certificates of the CA (SCEP
// GetNextCACert, RFC 8894 section 4.7.1). Optional.
type CMSSigner interface {
	// SignCMS returns a DER SignedData in a ContentInfo, its eContent the content, of type id-data, signed by the key of
	// CA.Chain[0] of the CA named issuer, "" for the default. content is the DER ContentInfo of a degenerate SignedData
	// (RFC 5652 section 5.1) that holds one or more certificates of CA.Next of that very CA, and nothing else: no eContent, no
	// CRL, no signer. A CA's key signs nothing else here, whoever asks: any other content is INVALID_ARGUMENT, and
	// FAILED_PRECONDITION when the CA has announced nothing.
	SignCMS(ctx context.Context, issuer string, content []byte) ([]byte, error)
}

// OCSPResponder is implemented by a backend that answers for its certificates by OCSP (RFC 6960, RFC 5019). Optional.
type OCSPResponder interface {
	// OCSP returns the DER OCSPResponse to the DER OCSPRequest, as it is given to whoever asks: anybody. issuer is CA.Name, or
	// another of CA.CRLs, "" for the default; the certificates of all keys of that CA are answered for. What a responder has no good
	// answer to is an OCSPResponse too: unauthorized where it is not about a certificate of this CA (RFC 5019 section 2.2.3),
	// malformedRequest, tryLater. NOT_FOUND when there is no such CA. A stranger's request must cost next to nothing: no signature
	// about a certificate that was never issued. After Revoke has answered, no answer says good.
	OCSP(ctx context.Context, issuer string, request []byte) ([]byte, error)
}

// Exchanger is implemented by a backend that passes a CMP message on unchanged and returns the answer
// (RFC 9483, a local RA before an RA). Optional.
type Exchanger interface {
	// Exchange sends the DER PKIMessage of the transaction with the given ID and returns the DER answer.
	Exchange(ctx context.Context, id string, message []byte) ([]byte, error)
}

// Roller is implemented by a backend whose CAs change over to a new certificate or key on an operator's demand. Optional.
type Roller interface {
	// Rollover makes the next certificate of an issuing CA, or of its root, with the same key or a new one, and issues with it
	// from then on. It returns the CA as CACertificates now gives it. The same r.ID again gives the same answer and makes nothing.
	//
	// With r.Announce, of which only a backend with CapAnnounce hears, it makes them, names them in CA.Next, and goes on issuing as
	// before. The request that follows without it, of the same Kind and Root, makes nothing but puts these in force; one of another
	// Kind or Root, and a second announcement, are FAILED_PRECONDITION.
	Rollover(ctx context.Context, r *RolloverRequest) (*CA, error)
}

// RolloverKind is what changes.
type RolloverKind string

const (
	RolloverRenew RolloverKind = "renew" // a new certificate for the same key
	RolloverRekey RolloverKind = "rekey" // a new key
)

// RolloverRequest asks for the next certificate of a CA.
type RolloverRequest struct {
	ID     string // idempotency key
	Issuer string // CA.Name, "" for the default
	Kind   RolloverKind
	Root   bool // the CA's root changes, and with it the issuing CA below it; else the issuing CA alone

	Announce bool // make it known, in CA.Next, and put it in force later
}

// Form is a way in which a CA accepts what it is to certify.
type Form string

const (
	FormTemplate     Form = "template"      // the fields of Template; any of them may differ from the CSR's
	FormPKCS10       Form = "pkcs10"        // a PKCS#10 signed by the device, certified as it stands but for Overrides
	FormGeneratedKey Form = "generated-key" // the CA generates the key
	FormExchange     Form = "exchange"      // Exchanger
)

// Field is a part of a certificate that a PKCS#10-only CA may be able to set otherwise than the CSR asks.
type Field string

const (
	FieldSubject        Field = "subject"
	FieldSubjectAltName Field = "subjectAltName"
	FieldValidity       Field = "validity"
	FieldKeyUsage       Field = "keyUsage"
	FieldExtKeyUsage    Field = "extKeyUsage"
)

// Idempotency is what a CA promises about an ID that comes twice.
type Idempotency string

const (
	IdempotencyNative Idempotency = "native" // the same ID gives the same certificate
	IdempotencyLookup Idempotency = "lookup" // Lookup finds what an ID led to; Issue alone may issue twice
	IdempotencyNone   Idempotency = "none"   // neither: an unknown outcome waits for the operator
)

// Capability names an optional call that the backend implements.
type Capability string

const (
	CapPoll     Capability = "poll"
	CapRevoke   Capability = "revoke"
	CapCRL      Capability = "crl"
	CapSignCMS  Capability = "sign-cms"
	CapExchange Capability = "exchange"
	CapRollover Capability = "rollover"
	CapAnnounce Capability = "announce" // RolloverRequest.Announce
	CapOCSP     Capability = "ocsp"
	CapKeys     Capability = "keys" // KeyHolder; a backend that has it alone need name no Forms
)

// Description is what a backend says of itself.
type Description struct {
	Name         string // of the implementation, e.g. "local"
	Version      string
	Forms        []Form
	Overrides    []Field // what can differ from a PKCS#10; meaningless with FormTemplate
	Decides      []Field // what the CA sets by rules of its own: the certificate may have less of it than the template, never more
	Idempotency  Idempotency
	Capabilities []Capability
}

// CA is one issuing CA of a backend.
type CA struct {
	Name     string     // selects the CA in IssueRequest.Issuer, e.g. "ec"
	Chain    [][]byte   // DER, the issuing certificate first, the root last
	Rollover [][]byte   // DER: OldWithOld, OldWithNew, NewWithOld while keys change over (RFC 7030 section 4.1.3), and earlier issuing certificates that still have unexpired certificates below them
	CRLs     []string   // what CRL takes for this CA: Name, always its newest key's; then names that stay with one key each while it has unexpired certificates. nil is as Name alone
	Next     [][]byte   // DER, announced and not in use yet: the chain to follow Chain, in the same order; nil while nothing is announced
	Shards   []CRLShard // the CRLs of some of its certificates each, beside CRLs; nil for none
}

// CRLShard is a CRL of some of a CA's certificates (RFC 5280 section 5.2.5): those whose cRLDistributionPoints have one of the URIs.
// Its issuingDistributionPoint, critical, has them all.
type CRLShard struct {
	Name string   // for CRL; it stays with these certificates as long as any of them has not expired
	URIs []string // at least one, no other shard's
}

// Template is what is to be certified. The certificate must equal it, but for what Description.Decides names: the gateway compares.
type Template struct {
	Subject        []byte                  // DER Name (an RDNSequence, RFC 5280 section 4.1.2.4)
	SubjectAltName []byte                  // DER GeneralNames (RFC 5280 section 4.2.1.6), nil for none
	PublicKey      []byte                  // DER SubjectPublicKeyInfo
	NotBefore      time.Time               // UTC, whole seconds
	NotAfter       time.Time               // UTC, whole seconds
	KeyUsage       x509.KeyUsage           // 0 for no extension
	ExtKeyUsage    []asn1.ObjectIdentifier // nil for no extension
	Extensions     []pkix.Extension        // further ones, certified as they stand
}

// IssueRequest asks for one certificate.
type IssueRequest struct {
	ID       string // the gateway's transaction ID: the idempotency key
	Issuer   string // CA.Name, "" for the default
	Device   string // for the CA's own records; may be empty
	Template Template
	CSR      []byte // DER PKCS#10 for a backend with FormPKCS10, else nil

	// Asked is when Issue was last called under this ID, or later, by the gateway's clock; zero when it never was. An earlier call
	// may still be under way at the CA. It is no part of the content.
	Asked time.Time
}

// Issuance is the answer to Issue and Poll: a certificate, or a ticket to poll with.
type Issuance struct {
	Certificate []byte        // DER; nil when a ticket is given
	Chain       [][]byte      // DER, without the certificate: its issuer first, the root last
	Ticket      string        // for Poll
	RetryAfter  time.Duration // when to poll

	leaf *x509.Certificate // Certificate, as Client has parsed it, of bytes of its own; nil elsewhere
}

// Leaf is Certificate, parsed. Of what came from a plugin that is done already, unless Certificate has been changed since.
func (i *Issuance) Leaf() (*x509.Certificate, error) {
	if i.leaf != nil && bytes.Equal(i.leaf.Raw, i.Certificate) {
		return i.leaf, nil
	}
	return x509.ParseCertificate(i.Certificate)
}

// OutcomeState is what Lookup knows of an ID.
type OutcomeState string

const (
	OutcomeIssued  OutcomeState = "issued"  // Issuance holds the certificate
	OutcomePending OutcomeState = "pending" // Issuance holds the ticket
	OutcomeNever   OutcomeState = "never"   // not issued, and no call still under way will issue it
	OutcomeUnknown OutcomeState = "unknown" // the CA cannot say (yet)
)

// Outcome is the answer to Lookup.
type Outcome struct {
	State    OutcomeState
	Issuance *Issuance // with OutcomeIssued and OutcomePending
}

// RevokeRequest names a certificate by issuer and serial number.
type RevokeRequest struct {
	Issuer []byte // DER Name of the issuer
	Serial []byte // big-endian magnitude
	Reason int    // CRLReason (RFC 5280 section 5.3.1)
	At     time.Time

	Certificate []byte // DER, for a CA that wants to see it
}
