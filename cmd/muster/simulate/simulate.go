// Package simulate loads a gateway with devices that do not exist: each has a key, asks for a certificate as a good device does,
// waits as long as it is told, and tries again. It enrols them and has them renew, spread over a time or all at once, and reports
// what came of it. Operators run it against a gateway of their own before a roll-out.
//
// It is a client: it knows the protocols' messages, and nothing of how a gateway decides. cmd/muster calls it, and end-to-end
// tests do.
package simulate

import (
	"context"
	"crypto"
	"time"
)

// MaxDevices is how many devices one run has at most: each takes about 1 kB.
const MaxDevices = 1_000_000

// Phase is what all devices of a run do.
type Phase string

const (
	Enroll Phase = "enroll" // get a first certificate
	Renew  Phase = "renew"  // get another one by the certificate that they have
	Revoke Phase = "revoke" // have the certificate revoked that they have; then they have none
)

// Device is one device at the moment of a try.
type Device struct {
	Subject []byte // DER Name
	Key     crypto.Signer
	Cert    []byte // DER, of the certificate that is renewed or revoked; nil to enrol
	Revoke  bool
	Open    any // what Answer.Open was, when the last answer told it to wait; else nil
}

// Answer is what came of one try. Exactly one of Cert, Away, Refused and Broken says so.
type Answer struct {
	Cert []byte // DER: the certificate, or the one that was revoked

	Away  string        // told to come back, and by which answer: "503", "202", "PENDING", "systemUnavail"
	After time.Duration // with Away: how long it was told to wait; 0: it was not told
	Open  any           // with Away: what the next try goes on with

	Refused string // for good, in words
	Broken  string // no answer that a device could use: it tries again
}

// Client speaks one protocol. It is used by many goroutines at once.
type Client interface {
	// Ask makes one try. It ends when ctx does.
	Ask(ctx context.Context, d Device) Answer
}

// Pace says when devices ask, and for how long.
type Pace struct {
	Concurrency int           // requests under way at a time
	Within      time.Duration // devices' first tries are spread over it; 0: all are due at once
	Retry       time.Duration // how long to wait when told to wait, and not how long
	GiveUp      time.Duration // since a device's first try
}

// Watch is told how a run gets on, once a second. Both may be nil.
type Watch struct {
	Show   func(Standing)
	Sample func() (Sample, bool) // what the gateway uses now; false when that is not known
}

// Standing is how far a run has come.
type Standing struct {
	Phase    Phase
	Elapsed  time.Duration
	Devices  int
	Issued   int
	Failed   int
	Waiting  int // told to wait, or not begun
	Asking   int // requests under way
	Away     int // times that one was turned away
	Rate     int // certificates of the last second
	Latency  time.Duration
	Finished bool
}
