package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
)

// State is where a transaction stands.
type State string

const (
	StateRefused State = "refused" // by the pipeline; nothing was asked of the CA
	StateHeld    State = "held"    // waits for approval
	// StateApproved: it was held, and its key is made when its requester comes for it, since it is not kept; then the CA is asked.
	StateApproved State = "approved"
	// StateQueued: the CA has nothing of it and cannot be asked now; it is asked, in the order of arrival, when it can (Offline).
	StateQueued  State = "queued"
	StateIssuing State = "issuing" // the intent is recorded, the CA is being asked
	StateUnknown State = "unknown" // the CA was asked and it is not known what it did; the worker finds out
	StateWaiting State = "waiting" // the CA gave a ticket; the worker polls
	StateStuck   State = "stuck"   // unknown, and the CA can neither be asked again nor asked what it did: the operator decides
	// StateUnconfirmed: issued, and the requester has yet to say that it takes the certificate.
	StateUnconfirmed State = "unconfirmed"
	StateIssued      State = "issued"
	StateRejected    State = "rejected" // issued, and refused by the requester or never confirmed; it is revoked
	StateFailed      State = "failed"   // the CA refused, or its certificate was not what was granted
	StateRevoked     State = "revoked"  // a request to revoke, carried out; the certificate is another transaction's
	StateDenied      State = "denied"   // it was held, and somebody denied it, or nobody approved in time; nothing was asked of the CA
	// StateForwarded: its messages are passed on, and the last answer that came back does not end it. It may have its certificate.
	StateForwarded State = "forwarded"
)

// Open reports whether the transaction will still change.
func (s State) Open() bool {
	switch s {
	case StateHeld, StateApproved, StateIssuing, StateQueued, StateUnknown, StateWaiting, StateStuck, StateUnconfirmed, StateForwarded:
		return true
	}
	return false
}

// Transaction is the record of one request. It is written at most a few times: with the intent, hold or refusal,
// and with the outcome.
type Transaction struct {
	ID          string
	WireID      string
	Protocol    Protocol
	Endpoint    string
	Operation   Operation
	State       State
	Source      string   // the peer's address
	Credentials []string // Credential.String of each
	Requester   string   // Grant.Requester
	Device      string   // Grant.Device
	Subject     string   // RFC 4514, as granted (as asked for when refused)
	Verdicts    []Judged
	Repeat      RepeatKey     // "" for a refusal
	Resume      RepeatKey     // "" when nothing resumes it
	ConfirmWait time.Duration // for how long its certificate waits to be confirmed; 0: not at all. Forwarded: likewise
	Exchange    []byte        // Request.Exchange
	SealedKey   []byte        // KeyGen.Seal's, until the requester confirms, or nobody is given the answer again; nil for none
	Backend     string
	Profile     string
	Replaces    []byte                // serial of the certificate that this one succeeds, nil for none
	Intent      *backend.IssueRequest // nil for a refusal
	Reason      Reason                // refused, failed
	Note        string                // the operator's line: why it is in this state
	Received    time.Time
	Updated     time.Time
	Certificate *Certificate    // issued
	Ticket      string          // waiting
	Hold        *HoldRecord     // held, and what was; nil for others
	Delivery    *Delivery       // of a key that is made at delivery and not kept; nil for others
	Queue       *QueueRecord    // of a request whose CA's backend keeps those that cannot be asked for; nil for others
	Facts       json.RawMessage // Facts, as they were when it was decided; nil for none, and in lists
	Changes     []string        // what is granted otherwise than asked for, a line each, for the operator

	asked       *AuditAsked // what Facts say of it, where this process has the request; for its events
	requestHash string
}

// RepeatKey is the SHA-256, in hexadecimal, by which a repeated request is found. A transaction has one for the same
// message again (Repeat), and may have one for the same wish in a new exchange (Resume).
type RepeatKey string

// Certificate is a certificate that the gateway had issued. Issuer and serial identify it.
type Certificate struct {
	Issuer      []byte // DER Name
	Serial      []byte // big-endian magnitude
	Transaction string
	Backend     string
	Endpoint    string
	Profile     string
	Device      string
	Requester   string
	Subject     string // RFC 4514
	SubjectRaw  []byte // DER Name
	KeyHash     []byte // SHA-256 of the SubjectPublicKeyInfo
	NotBefore   time.Time
	NotAfter    time.Time
	DER         []byte
	Chain       [][]byte  // DER, its issuer first, the root last
	RevokedAt   time.Time // zero while valid
	Revocation  int       // CRLReason, with RevokedAt
	Replaces    []byte    // serial of the certificate that it renewed, nil for none
	// State is its transaction's, "" where it comes with that. A certificate counts while it is StateIssued: before, nobody
	// has confirmed it; rejected or failed, it counts no more, whenever its CA comes to revoke it.
	State State
}

// WorkKind is what a row of the work table waits for.
type WorkKind string

const (
	WorkSettle  WorkKind = "settle"  // find out what the CA did with an intent
	WorkQueue   WorkKind = "queue"   // its CA is asked, or asked again, when its turn in the queue comes
	WorkPoll    WorkKind = "poll"    // ask the CA with a ticket
	WorkRevoke  WorkKind = "revoke"  // revoke a certificate, retried until the CA has
	WorkConfirm WorkKind = "confirm" // nobody has confirmed in time: revoke
	WorkHold    WorkKind = "hold"    // nobody has approved in time, or come for the key of what was approved: deny
	WorkForward WorkKind = "forward" // what is forwarded has not ended in time: close it
	WorkWipe    WorkKind = "wipe"    // nobody is given the answer again: erase the generated key
)

// AsksCA reports whether work of the kind asks the transaction's CA.
func (k WorkKind) AsksCA() bool {
	return k == WorkSettle || k == WorkQueue || k == WorkPoll || k == WorkRevoke
}

// Work is one row of the work table: something that has to be done for a transaction, by one instance at a time.
type Work struct {
	Transaction string
	Kind        WorkKind
	Backend     string // of the CA that it asks; "" where it asks none
	Due         time.Time
	Attempts    int
	Owner       string // the instance that holds the lease
	Epoch       int64  // grows with each lease; a write under an older epoch changes nothing (ErrStale)
	Note        string // why the last attempt did not end it
}

// Store keeps what must survive. Its methods are coarse: each is one commit, and returns only after it is durable.
// It is implemented by gateway/store for SQLite and PostgreSQL; gateway/store/storetest says what it has to do.
//
// Every method may fail with any error when the store cannot answer; the caller then refuses.
//
// Where the audit trail goes to sinks, no method that commits an event returns nil before every sink has it: else ErrUnaudited, with the
// event committed. While a sink is behind, what has not happened yet fails with ErrUnaudited, and nothing is written: Begin, Refuse,
// Approve, Deny, OrderRevocation, Supersede, and what changes challenges, devices and secrets. What has happened is committed: Settle,
// Adopt, Conclude, MarkRevoked, Record.
type Store interface {
	// Repeat returns the transaction that holds the key, as Repeat or Resume: one that is open, or issued or
	// denied within the key's time. ErrNotFound when there is none.
	Repeat(ctx context.Context, key RepeatKey, now time.Time) (*Transaction, error)

	// Begin commits a transaction with its claims, and with its intent under a lease of this instance (StateIssuing)
	// or without (StateHeld). When now is past Lease.Until and the transaction is still open, any worker may take it.
	// *ClaimLostError when a claim has no use left, one of Transaction.Hold that is taken later too; *TwinError when another transaction holds one of its two keys
	// (one for which Repeat would have found something); nothing is written then.
	Begin(ctx context.Context, b *Beginning) (epoch int64, err error)

	// Spent reports whether Begin would find no use left of one of the claims. It changes nothing, and promises nothing.
	Spent(ctx context.Context, b *Beginning) (bool, error)

	// Refuse commits a refused transaction and its audit event.
	Refuse(ctx context.Context, t *Transaction, e AuditEvent) error

	// Settle commits the outcome of a transaction, its audit event and the work that follows, and ends or
	// reschedules the work under whose lease it was found. ErrStale when the lease was lost to another instance,
	// ErrCertificateExists when issuer and serial belong to another transaction; nothing is written then. A generated key
	// (SealedKey) is erased with the commit after which no repeat is given the answer, and when an unconfirmed transaction ends;
	// so it is by Conclude, Deny, MarkRevoked and OrderRevocation.
	Settle(ctx context.Context, s *Settlement) error

	// Adopt commits that an open transaction goes on in another exchange, with its audit event: it gets that one's wire ID, record
	// and repeat key. The old repeat key is free then. ErrStale when it is no longer open, *TwinError as Begin.
	Adopt(ctx context.Context, a *Adoption) error

	// Conclude commits what the requester said of its certificate, with its audit event: StateUnconfirmed becomes
	// StateIssued, or StateRejected with its claims given back and its revocation due at once. Its WorkConfirm ends,
	// whoever has leased it. ErrStale when it is no longer unconfirmed; nothing is written then.
	Conclude(ctx context.Context, c *Conclusion) error

	// MarkRevoked commits that a certificate was revoked, with its audit event, and ends the revocation's work.
	// Revoking a certificate that is revoked already keeps the earlier date. Its transaction's repeat key is free then.
	// ErrStale as Settle, ErrNotFound for a certificate that is not ours.
	MarkRevoked(ctx context.Context, r *Revocation) error

	// ClaimDue leases at most limit rows of work that are due and not leased, to this instance for the given time,
	// on the database's clock; of those that ask one CA (Work.Backend) at most as many as free says, and the others stay as they
	// are. Each row's epoch grows. What was due first comes first, as far as backends in turn allow.
	ClaimDue(ctx context.Context, lease time.Duration, limit int, free func(backend string) int) ([]Work, error)

	// LeaseWork leases the work that finds out what a CA did (settle, poll) to this instance, for an operator who knows it. ErrStale when the
	// transaction has none, or somebody is at it.
	LeaseWork(ctx context.Context, transaction string, lease time.Duration) (epoch int64, err error)
	// AskAgain records that the transaction's CA is asked again from now on (Transaction.Updated), by who holds the lease of the
	// epoch. ErrStale as Settle.
	AskAgain(ctx context.Context, transaction string, epoch int64, now time.Time) error
	// Postpone gives a row of work back, to be due again after the delay. ErrStale as Settle.
	Postpone(ctx context.Context, w Work, delay time.Duration, note string) error

	// Transaction returns one transaction, with its certificate. ErrNotFound.
	Transaction(ctx context.Context, id string) (*Transaction, error)
	// ByWireID returns the transaction of the endpoint with the wire ID, with its certificate: the newest that is open, else
	// the newest that was not refused. ErrNotFound.
	ByWireID(ctx context.Context, endpoint, wireID string) (*Transaction, error)
	// AskedUnder is ByWireID among the transactions that were begun with one of the credentials (Credential.String): clients
	// that do not know of each other may use one wire ID. It looks at the newest thousand with that ID. ErrNotFound.
	AskedUnder(ctx context.Context, endpoint, wireID string, credentials []string) (*Transaction, error)
	// Transactions lists the newest first, without certificates' DER.
	Transactions(ctx context.Context, f TransactionFilter) ([]*Transaction, error)
	// Certificate returns one certificate by issuer and serial, with its State. ErrNotFound.
	Certificate(ctx context.Context, issuer, serial []byte) (*Certificate, error)
	// Certificates lists the newest first.
	Certificates(ctx context.Context, f CertificateFilter) ([]*Certificate, error)

	// PutSecret commits a device's shared secret, in the place of one that stands, with its audit event.
	PutSecret(ctx context.Context, s *StoredSecret, e AuditEvent) error
	// DropSecret takes it away. ErrNotFound.
	DropSecret(ctx context.Context, endpoint, reference string, e AuditEvent) error
	// Secret returns one, past its NotAfter too. ErrNotFound.
	Secret(ctx context.Context, endpoint, reference string) (*StoredSecret, error)
	// Secrets lists those of an endpoint ("" for all), without what is sealed, by endpoint and reference, at most limit
	// (0: 100) after the given one.
	Secrets(ctx context.Context, endpoint, afterEndpoint, afterReference string, limit int) ([]*StoredSecret, error)

	Inventory
	Challenges
	Holds
	Deliveries
	Forwards
	Reroutes
	Messages
	Revocations
	Paces
	Queues
	Sweeps

	// Record commits an audit event that belongs to no transaction.
	Record(ctx context.Context, e AuditEvent) error
	// Audited returns nil when every sink of the audit trail has all that this instance has committed so far: what was decided
	// before is given to nobody else before. ErrUnaudited.
	Audited(ctx context.Context) error
	// Ready reports why the store cannot commit, nil when it can; ErrUnaudited when it could, and a sink is behind.
	Ready(ctx context.Context) error
}

// Beginning is what Begin commits.
type Beginning struct {
	Transaction *Transaction // StateIssuing, StateHeld or StateForwarded
	Claims      []Claim
	Renews      *Replaced     // the certificate whose uses the Active claims take over, for as long as this transaction's own stand; nil for none
	Lease       time.Duration // StateIssuing, StateForwarded: for how long the caller settles it itself
	Wait        time.Duration // StateForwarded: when WorkForward closes it
	Audit       AuditEvent    // zero Kind for none: an intent is audited with its outcome, a hold at once
}

// Settlement is what Settle commits.
type Settlement struct {
	Transaction string
	Epoch       int64 // of the lease under which the outcome was found
	State       State
	Reason      Reason       // StateFailed
	Note        string       // for the operator
	Certificate *Certificate // StateIssued, StateUnconfirmed, StateForwarded; with StateFailed one that has to be revoked. nil when the transaction has it already
	Ticket      string       // StateWaiting
	Instead     bool         // StateForwarded, with a Certificate: in the place of the one that it has, which nobody confirmed
	Exchange    []byte       // takes the place of the transaction's; nil: it stays
	Confirmed   bool         // StateIssued: the requester of what was passed on has said that it takes the certificate, as Conclude takes it down
	Revokes     *CertID      // StateRevoked: the certificate that was revoked, which counts no more where it is one of ours
	Ends        time.Time    // with a Certificate: it ends later than its intent says, and counts as valid until then; zero otherwise
	RepeatUntil time.Time    // StateIssued, StateRevoked: until then a repeat gets this certificate, by either key
	Release     bool         // give the claims back: nothing was issued, or what was counts no more. Uses of a number per time stay where there is a certificate
	Queue       *QueueRecord // StateQueued, StateUnknown: takes the place of the transaction's; nil: it stays
	Next        WorkKind     // work that follows, due after Delay; "" for none
	Delay       time.Duration
	Now         time.Time
	Audit       AuditEvent // zero Kind for none
}

// Adoption is what Adopt commits.
type Adoption struct {
	Transaction string
	WireID      string
	Repeat      RepeatKey
	Exchange    []byte
	At          time.Time
	Claim       *Claim // of the message, which never lapses; nil for none. Lost only to another transaction: ClaimLostError
	Audit       AuditEvent
}

// Conclusion is what Conclude commits.
type Conclusion struct {
	Transaction string
	State       State     // StateIssued or StateRejected
	Note        string    // for the operator
	WireID      string    // ErrStale when the transaction goes on in another exchange by now
	Exchange    []byte    // takes the place of the transaction's
	RepeatUntil time.Time // StateIssued: until then the repeat key stands; the resume key is free at once
	Now         time.Time
	Audit       AuditEvent
}

// Revocation is what MarkRevoked commits.
type Revocation struct {
	Issuer, Serial []byte
	Reason         int // CRLReason
	At             time.Time
	Work           *Work // whose lease it was done under; nil when none
	Audit          AuditEvent
}

// TransactionFilter selects transactions. The zero value selects all.
type TransactionFilter struct {
	States   []State
	Endpoint string
	Device   string
	Before   string // ID: only older ones, for paging
	Limit    int    // 0: 100
}

// CertificateFilter selects certificates. The zero value selects all.
type CertificateFilter struct {
	Device     string
	Requester  string
	SubjectRaw []byte
	ValidAt    time.Time // not expired and not revoked then
	Renewed    []byte    // serial number: only certificates that renewed the one with it
	Confirmed  bool      // only those whose requester has said (Conclude) that it takes them
	Before     string    // transaction ID: only older ones, for paging
	Limit      int       // 0: 100
}

// AuditEvent is one record of the audit trail. The store adds stream, sequence number, and the hash of the record before.
type AuditEvent struct {
	Kind        string            `json:"kind"` // "issued", "refused", "failed", "held", "revoked", "started", "strangers", ...
	At          time.Time         `json:"at"`
	Transaction string            `json:"transaction,omitempty"`
	Protocol    Protocol          `json:"protocol,omitempty"`
	Endpoint    string            `json:"endpoint,omitempty"`
	Operation   Operation         `json:"operation,omitempty"`
	Requester   string            `json:"requester,omitempty"`
	Actor       string            `json:"actor,omitempty"` // the operator who did it
	Device      string            `json:"device,omitempty"`
	Subject     string            `json:"subject,omitempty"`
	Stage       string            `json:"stage,omitempty"`
	Reason      Reason            `json:"reason,omitempty"`
	Note        string            `json:"note,omitempty"`
	Source      string            `json:"source,omitempty"`
	Issuer      string            `json:"issuer,omitempty"` // RFC 4514
	Serial      string            `json:"serial,omitempty"` // hexadecimal
	Fingerprint string            `json:"fingerprint,omitempty"`
	Counts      map[string]uint64 `json:"counts,omitempty"` // "strangers", "turned-away": refusals by endpoint and reason; "answers": by endpoint and outcome

	WireID        string         `json:"wireID,omitempty"`        // the protocol's transaction ID, as the client chose it
	RequestSHA256 string         `json:"requestSHA256,omitempty"` // of the message as received, hexadecimal
	Credentials   []string       `json:"credentials,omitempty"`   // how the requester authenticated: Credential.String of each
	Asked         *AuditAsked    `json:"asked,omitempty"`
	Verdicts      []AuditVerdict `json:"verdicts,omitempty"`
	Granted       *AuditGranted  `json:"granted,omitempty"`
}

// ErrNotFound is returned for what the store does not hold.
var ErrNotFound = errors.New("not found")

// ErrUnaudited is returned when a sink of the audit trail is behind: what is committed is not to be told of, and nothing is begun.
var ErrUnaudited = errors.New("the audit trail does not reach a sink")

// ErrCertificateExists is returned when a CA gave the same certificate, or serial number, to two transactions.
var ErrCertificateExists = errors.New("a certificate with this issuer and serial number exists")

// ErrStale is returned when the caller's lease passed to another instance: what it found out must not be written.
var ErrStale = errors.New("the lease on this transaction passed to another instance")

// ClaimLostError says which claim had no use left.
type ClaimLostError struct {
	Claim Claim
	Used  int64     // uses that stand; only of claims that lapse
	Free  time.Time // when a use will be left if nobody takes it before; zero: not known, or never
}

func (e *ClaimLostError) Error() string { return fmt.Sprintf("claim %s: no use left", e.Claim.Key) }

// TwinError says which transaction holds the repeat key.
type TwinError struct{ Transaction string }

func (e *TwinError) Error() string {
	return "transaction " + e.Transaction + " is the same request"
}

// StoredSecret is a shared secret of one device, as the store keeps it: sealed, never in clear.
type StoredSecret struct {
	Endpoint  string // where it is good
	Reference string // by which requests name it (CMP senderKID), as raw bytes; unique at the endpoint
	Device    string // whose it is; "" for nobody's in particular
	Sealed    []byte // by gateway/seal, bound to endpoint, reference and device
	Created   time.Time
	NotAfter  time.Time // zero: for ever
}
