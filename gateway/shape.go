package gateway

import (
	"crypto/x509"

	"github.com/muster-pki/muster/plugins/backend"
)

// Shaper makes the content of a grant what a profile says: names from templates, and of what was asked for only what may
// be. gateway/profile has it.
type Shaper interface {
	// Shape runs after all stages have allowed or held, and replaces fields of the grant, never changing a slice in place. It
	// reads r, and in g: Device, Inventory, Vendor, and what stands there to be certified. Its error is an *Error: BadTemplate
	// for what was asked for and may not be, with a Detail that tells the device what to ask for; NotAuthorized with the
	// operator's words in Err when a template lacks what it needs (the inventory has no such attribute).
	Shape(r *Request, g *Grant) error
	// DerivesSubject reports whether the subject comes from a template whatever is asked for, so that a request needs none.
	DerivesSubject() bool
}

// Linter checks certificates against the rules of RFC 5280 and others, before they are made and after. gateway/lint has it.
type Linter interface {
	// Before checks what is to be certified by issuer. Its error lists the lints that failed, and is the operator's and the
	// device's: names of lints and of fields, no secrets.
	Before(t *backend.Template, issuer *x509.Certificate) error
	// After checks the certificate that the CA made.
	After(cert *x509.Certificate) error
}
