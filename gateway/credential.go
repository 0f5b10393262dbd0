package gateway

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
)

// CredentialKind is a way in which a requester authenticates.
type CredentialKind string

const (
	// Proven kinds: the adapter has verified a signature, MAC or handshake with it before it made the request.
	CredentialTLS    CredentialKind = "tls-certificate"    // the TLS client certificate; possession shown by the handshake
	CredentialSigner CredentialKind = "message-signer"     // the certificate that signed the message
	CredentialMAC    CredentialKind = "mac-key"            // a shared secret, by its reference
	CredentialDevice CredentialKind = "device-certificate" // the certificate that the device's maker put into it, which signed the message; the adapter has verified it under the CA that its endpoint pins
	CredentialKey    CredentialKind = "message-key"        // a key that signed the message, under no certificate that counts: two messages with it have one sender, whoever that is
	// CredentialNested is the certificate of the one who passed the message on under a signature of his own. It was verified, but
	// says nothing about who asks: the same request by another way is the same request.
	CredentialNested CredentialKind = "nested-signer"
	// Claimed kinds: a stage still has to compare the secret.
	CredentialPassword  CredentialKind = "password"  // HTTP Basic or Digest
	CredentialChallenge CredentialKind = "challenge" // SCEP challengePassword
)

// Credential is one thing that authenticates the requester. It is stored and logged as kind and ID only.
type Credential struct {
	Kind   CredentialKind
	ID     string              // user name, key reference, or a certificate's (a key's) fingerprint
	Secret Secret              // claimed kinds, and what a MAC was verified with
	Chain  []*x509.Certificate // certificates as the peer sent them, leaf first, not yet verified
	Digest *DigestProof        // of a password that was not sent; nil where Secret holds it
}

// DigestProof is what a client sends in place of its password with HTTP Digest (RFC 7616), algorithm SHA-256. A stage compares it.
type DigestProof struct {
	Realm string // what the password is hashed with
	// Matches reports whether the client made it with ha1, the SHA-256 of user:realm:password, in constant time. An answer
	// that was taken from another request does not match.
	Matches func(ha1 []byte) bool
}

// Proven reports whether the adapter verified that the credential is the requester's, whatever it is worth.
func (c Credential) Proven() bool {
	return c.Kind == CredentialTLS || c.Kind == CredentialSigner || c.Kind == CredentialMAC || c.Kind == CredentialKey || c.Kind == CredentialDevice
}

// String is kind and ID.
func (c Credential) String() string { return string(c.Kind) + ":" + c.ID }

// LogValue keeps secrets and certificates out of logs.
func (c Credential) LogValue() slog.Value { return slog.StringValue(c.String()) }

// MarshalJSON keeps secrets and certificates out of the store.
func (c Credential) MarshalJSON() ([]byte, error) { return json.Marshal(c.String()) }

// Credential returns the first credential of the kind.
func (r *Request) Credential(kind CredentialKind) (Credential, bool) {
	for _, c := range r.Credentials {
		if c.Kind == kind {
			return c, true
		}
	}
	return Credential{}, false
}

// Fingerprint is the credential ID of a certificate: SHA-256 over its DER, in hexadecimal.
func Fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return hex.EncodeToString(sum[:])
}

// KeyFingerprint is the credential ID of a certificate's key: SHA-256 over its SubjectPublicKeyInfo, in hexadecimal.
func KeyFingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// Secret holds what must never be printed. Every way of formatting it gives a fixed word.
type Secret []byte

const redacted = "[secret]"

func (Secret) String() string               { return redacted }
func (Secret) Format(f fmt.State, _ rune)   { fmt.Fprint(f, redacted) }
func (Secret) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
