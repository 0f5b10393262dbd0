// Package gateway is Muster's domain: the one canonical enrollment request, the pipeline that authorizes it,
// and the issuing that certifies it exactly once. Protocol adapters call Gateway.Enroll; stages, the store and
// the CA backends are interfaces declared here and implemented elsewhere.
//
// It knows no wire format, no HTTP and no database, and never branches on the protocol.
package gateway

import (
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Protocol is the wire that brought a request. Policy and audit read it; the gateway never branches on it.
type Protocol string

const (
	CMP  Protocol = "cmp"
	EST  Protocol = "est"
	SCEP Protocol = "scep"
	MDM  Protocol = "mdm" // Apple's over-the-air profile service
	// Self is the gateway asking for a certificate of its own (its TLS listener).
	Self Protocol = "self"
)

// Operation is what a request asks for. An endpoint without a pipeline for an operation denies it.
type Operation string

const (
	Enroll Operation = "enroll" // a first certificate
	Renew  Operation = "renew"  // a new certificate for the same key and a certificate already held
	Rekey  Operation = "rekey"  // the same with a new key; its pipeline is Renew's unless it has one
	Revoke Operation = "revoke"
	Query  Operation = "query" // GetCert, CRL, an over-the-air profile
)

// Operations lists them all, in the order in which configurations and screens show them.
var Operations = []Operation{Enroll, Renew, Rekey, Revoke, Query}

// Certifying are those that end with a certificate.
var Certifying = []Operation{Enroll, Renew, Rekey}

// Certifies reports whether the operation ends with a certificate.
func (o Operation) Certifies() bool { return slices.Contains(Certifying, o) }

// Request is one enrollment, independent of the wire that brought it. It is never changed after the adapter made it.
type Request struct {
	ID          string // ours (NewID): transaction ID and idempotency key from here to the CA
	WireID      string // the protocol's transaction ID, "" for EST
	Protocol    Protocol
	Endpoint    string // the configured endpoint; selects profile and pipelines
	Operation   Operation
	Profile     string           // as asked for (CMP certProfile, EST label); policy decides
	Subject     []byte           // DER RDNSequence as asked for; nil when the device does not know it
	PublicKey   []byte           // DER SubjectPublicKeyInfo, bounds checked (gateway/pkix); nil with KeyGen
	KeyGen      *KeyGen          // central key generation
	Extensions  []pkix.Extension // as asked for, subjectAltName among them
	Validity    Validity         // as asked for, may be zero
	CSR         []byte           // DER PKCS#10 when the wire carried one; nil for CRMF
	POP         POP
	Relayed     bool              // the request is bound to another connection than its own (RFC 7030 section 3.7): only an RA may pass it on, for which a stage has to vouch
	Credentials []Credential      // all that authenticates the requester
	Identifiers []DeviceID        // of the device, as the message states them that the requester signed, or sent over its TLS connection; worth what its word is
	OldCert     *x509.Certificate // renew, rekey: the certificate that is renewed, as the adapter found it; trust is a stage's business
	Target      *CertID           // revoke, query
	NewNames    *Names            // names to change to: EST ChangeSubjectName (RFC 6402), CMP kur with another subject
	Content     []byte            // what makes a repeat the same request, in the protocol's own canonical form
	Message     []byte            // hash of what the sender has protected, and of who that is, where that alone proves it (CMP, SCEP): such a message has one certificate, whenever, wherever and by whomever it is sent again; nil where the connection proves it (EST)
	Resume      []byte            // what a new exchange has to ask for again to get the certificate of one that was never confirmed; nil: nothing does
	Confirm     bool              // the certificate waits for Gateway.Confirm
	ConfirmWait time.Duration     // and for how long; 0: as long as the endpoint says
	OnlyRepeat  *Error            // what to refuse with unless it is the same message again: it came too late to be anything else
	Exchange    []byte            // the adapter's own record of the exchange; stored with the transaction, and given back with its Result
	Notes       []string          // what the operator should know of how the adapter read the request, without secrets; shown before the verdicts
	Source      netip.Addr        // the peer, or what a trusted proxy says of it
	Proxy       string            // the name of that proxy, "" when the peer came itself
	Transport   string            // how it came when not over the network ("file"): shown where the source would be
	Received    time.Time
	Raw         []byte     // the message as received, which is what is passed on
	Forwarding  Forwarding // judges what comes back when the message is passed on; nil: it cannot be
}

// Validity is a period; a zero time leaves that end to policy.
type Validity struct{ NotBefore, NotAfter time.Time }

// KeyGen asks for a key made by the gateway. A stage has to allow it (Grant.AllowKeyGen).
type KeyGen struct {
	Algorithm string   // the kind of key, as pkix.KeyName has it, e.g. "P-256", or AnyRSA; "" leaves it to policy
	Wrap      WrapKind // how the private key travels
	KeyID     []byte   // DecryptKeyIdentifier and its kin: which key to wrap with
	WrapKey   Secret   // symmetric: the key under KeyID (Gateway.WrappingKey), nil where there is none; a stage judges whether it is the device's
	Prefer    string   // with Algorithm "": the kind that is made where it is among those that are, or else one of its family, before the first
	// Seal makes of the key what travels, for the requester alone to open. It is called once, after the pipeline has allowed
	// the request and before the intent is committed: what it returns is kept with the transaction while that is open, and
	// given back as Result.Key; the key itself is kept nowhere. An *Error of it refuses the request.
	//
	// With WrapNone what it returns is the key, and is kept nowhere either: it goes with this request's answer, if that has a
	// certificate. It is called for each request that a key is made for, the repeats among them, and not while one is held.
	Seal func(key crypto.Signer) ([]byte, error)
}

// bare reports whether the key travels without protection of its own, and therefore must not be kept anywhere.
func (k *KeyGen) bare() bool { return k != nil && k.Wrap == WrapNone }

// AnyRSA asks for an RSA key whose size is left to policy: an algorithm identifier says none.
const AnyRSA = "RSA"

// Fits reports whether a key of the kind, as pkix.KeyName has it, is what is asked for.
func (k *KeyGen) Fits(kind string) bool {
	return k.Algorithm == "" || k.Algorithm == kind || k.Algorithm == AnyRSA && strings.HasPrefix(kind, AnyRSA+"-")
}

// WrapKind is how a generated private key is protected on its way.
type WrapKind string

const (
	WrapNone       WrapKind = "none"       // by TLS alone (RFC 7030 section 4.4.2)
	WrapSymmetric  WrapKind = "symmetric"  // a pre-shared key-encryption key
	WrapAsymmetric WrapKind = "asymmetric" // to a key of the device
	WrapPassword   WrapKind = "password"   // PasswordRecipientInfo (RFC 5652 section 6.2.4)
)

// POP is how possession of the private key was proven, and by whom. The adapter proves; policy decides whether it suffices.
type POP string

const (
	POPNone      POP = "none"
	POPSignature POP = "signature"       // the request is signed with the key itself
	POPLinked    POP = "tls-binding"     // and bound to the TLS session (RFC 7030 section 3.5)
	POPRA        POP = "ra"              // an RA vouches (raVerified)
	POPConfirm   POP = "pending-confirm" // proven by decrypting the certificate (RFC 9810 section 5.2.8.3.2)
)

// Names is a subject with its alternative names.
type Names struct {
	Subject        []byte // DER Name
	SubjectAltName []byte // DER GeneralNames, nil for none
}

// CertID names a certificate, and for a revocation says why.
type CertID struct {
	Issuer []byte // DER Name
	Serial *big.Int
	Reason int // CRLReason
}

// from is the peer's address, or by what other way the request came.
func (r *Request) from() string {
	if r.Source.IsValid() {
		return r.Source.String()
	}
	return r.Transport
}

// Extension returns the value of the first requested extension with the OID, and whether there is one.
func (r *Request) Extension(oid []int) (value []byte, ok bool) {
	for _, e := range r.Extensions {
		if e.Id.Equal(oid) {
			return e.Value, true
		}
	}
	return nil, false
}
