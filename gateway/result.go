package gateway

import (
	"crypto/x509"
	"time"
)

// ResultKind is what became of a request that was not refused.
type ResultKind string

const (
	ResultIssued  ResultKind = "issued"
	ResultPending ResultKind = "pending" // held, waiting for the CA, or its outcome not yet known
	ResultRevoked ResultKind = "revoked"
	ResultAnswer  ResultKind = "answer" // Query and Exchange
)

// Result is the answer to a request that was not refused. Pending is a result, not an error.
type Result struct {
	Kind        ResultKind
	Transaction string              // ID of the transaction; that of the first request for a repeat
	Certificate *x509.Certificate   // issued
	Chain       []*x509.Certificate // the certificate's issuer first, the root last
	RetryAfter  time.Duration       // pending: when to ask again; 0 when nobody knows
	Key         []byte              // issued, with a key made for the device: what KeyGen.Seal made of it; nil once the transaction is over. With WrapNone of this request's KeyGen, never stored
	Answer      []byte              // answer
	Repeated    bool                // the answer to an earlier, equal request
	Unconfirmed bool                // the certificate waits for Gateway.Confirm
	// ConfirmUntil is when that wait ends, with Unconfirmed: it counts from when the certificate was there, whoever asks for it
	// again, or takes it over in a new exchange.
	ConfirmUntil time.Time
	Exchange     []byte              // Request.Exchange, as stored
	Certificates []*x509.Certificate // Query: the requester's own, the newest first
}

// fresh reports whether a result tells of nothing that was committed before this request, and not waited for: a certificate that was
// just issued or revoked has been, and what is pending tells of nothing.
func (r *Result) fresh() bool {
	return r.Kind == ResultPending || !r.Repeated && (r.Kind == ResultIssued || r.Kind == ResultRevoked)
}
