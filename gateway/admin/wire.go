package admin

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"strconv"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
)

// Transaction is a gateway.Transaction as the API shows it. Times are UTC; names are in the form of RFC 4514.
type Transaction struct {
	ID          string       `json:"id"`
	WireID      string       `json:"wire_id,omitempty"` // the protocol's own transaction ID
	Protocol    string       `json:"protocol"`
	Endpoint    string       `json:"endpoint"`
	Operation   string       `json:"operation"`
	State       string       `json:"state"`
	Reason      string       `json:"reason,omitempty"` // refused, failed
	Note        string       `json:"note,omitempty"`   // for the operator: why it is in this state
	Source      string       `json:"source,omitempty"` // the peer's address
	Credentials []string     `json:"credentials,omitempty"`
	Requester   string       `json:"requester,omitempty"` // who authenticated
	Device      string       `json:"device,omitempty"`
	Subject     string       `json:"subject,omitempty"` // as granted; as asked for when refused
	Profile     string       `json:"profile,omitempty"`
	Backend     string       `json:"backend,omitempty"`
	Replaces    string       `json:"replaces,omitempty"` // serial number, hexadecimal, of the certificate before
	Received    time.Time    `json:"received"`
	Updated     time.Time    `json:"updated"`
	Verdicts    []Verdict    `json:"verdicts,omitempty"`
	Granted     *Granted     `json:"granted,omitempty"`    // what the CA was asked for
	Ticket      string       `json:"ticket,omitempty"`     // waiting: what the CA gave to poll with
	ConfirmBy   *time.Time   `json:"confirm_by,omitempty"` // unconfirmed: until then the device can confirm its certificate
	Certificate *Certificate `json:"certificate,omitempty"`
	// Remembered is set on a stranger's refusal, which is kept in memory only.
	Remembered bool      `json:"remembered,omitempty"`
	Hold       *Hold     `json:"hold,omitempty"`     // held, and what was
	Changes    []string  `json:"changes,omitempty"`  // what is granted otherwise than asked for, a line each
	Messages   []Message `json:"messages,omitempty"` // when one transaction is asked for
	// Facts are what was known of the request when it was decided, as policies read it; when one transaction is asked for.
	Facts json.RawMessage `json:"facts,omitempty"`
}

// Verdict is what one stage decided.
type Verdict struct {
	Stage    string    `json:"stage"`
	Decision string    `json:"decision"`
	Reason   string    `json:"reason,omitempty"`
	Note     string    `json:"note,omitempty"`
	Took     int64     `json:"took_us"` // microseconds
	Parts    []Verdict `json:"parts,omitempty"`
}

// Granted is what the CA was asked to certify.
type Granted struct {
	Subject        string    `json:"subject"`
	SubjectAltName []string  `json:"subject_alt_name,omitempty"` // "dns:...", "ip:...", "email:...", "uri:...", "other:<count>"
	Key            string    `json:"key,omitempty"`              // "P-256", "RSA-3072", ...
	NotBefore      time.Time `json:"not_before"`
	NotAfter       time.Time `json:"not_after"`
}

// Certificate is a certificate that the gateway had issued.
type Certificate struct {
	Serial      string     `json:"serial"` // hexadecimal
	Issuer      string     `json:"issuer"`
	Subject     string     `json:"subject"`
	NotBefore   time.Time  `json:"not_before"`
	NotAfter    time.Time  `json:"not_after"`
	Transaction string     `json:"transaction"`
	Endpoint    string     `json:"endpoint"`
	Profile     string     `json:"profile,omitempty"`
	Backend     string     `json:"backend"`
	Device      string     `json:"device,omitempty"`
	Requester   string     `json:"requester,omitempty"`
	Replaces    string     `json:"replaces,omitempty"`          // serial number, hexadecimal
	RevokedAt   *time.Time `json:"revoked_at,omitempty"`        // absent while valid
	Revocation  string     `json:"revocation_reason,omitempty"` // with revoked_at, as RFC 5280 section 5.3.1 names it
	Fingerprint string     `json:"sha256,omitempty"`            // of the DER, hexadecimal
	PEM         string     `json:"pem,omitempty"`               // when one transaction is asked for
}

// TransactionList is the answer to GET /v1/transactions.
type TransactionList struct {
	Transactions []Transaction `json:"transactions"`   // newest first
	Next         string        `json:"next,omitempty"` // for `before`, when there may be more
}

// CertificateList is the answer to GET /v1/certificates.
type CertificateList struct {
	Certificates []Certificate `json:"certificates"` // newest first
	Next         string        `json:"next,omitempty"`
}

// Status is the answer to GET /v1/status.
type Status struct {
	Version  string    `json:"version"`
	Instance string    `json:"instance"`
	Started  time.Time `json:"started"`
	Uptime   int64     `json:"uptime_s"` // seconds
	Ready    bool      `json:"ready"`
	NotReady string    `json:"not_ready,omitempty"` // why
	Backends []Backend `json:"backends"`
	// Sinks are those of the audit trail. While one is down nothing new is begun.
	Sinks []Sink `json:"sinks,omitempty"`
	// Configuration is the one that runs; absent while the gateway starts.
	Configuration *Configuration `json:"configuration,omitempty"`
}

// Backend is the state of one CA backend.
type Backend struct {
	Name        string `json:"name"`   // as configured
	Plugin      string `json:"plugin"` // what it runs
	PID         int    `json:"pid,omitempty"`
	Restarts    int    `json:"restarts"`
	Idempotency string `json:"idempotency,omitempty"` // native, lookup or none
	Error       string `json:"error,omitempty"`       // why it does not answer
	Breaker     string `json:"breaker,omitempty"`     // open: it is not asked where another CA can be; half-open: the next request tries; closed
	// LastHeard is set while the CA has not answered since the gateway started, or read its configuration: what is known of it is of then.
	LastHeard time.Time `json:"last_heard,omitzero"`
	Means     string    `json:"means,omitempty"` // what that means for requests
	// Queued is how many requests wait until the CA can be asked, and QueuedSince when the first of them came.
	Queued      int       `json:"queued,omitempty"`
	QueuedSince time.Time `json:"queued_since,omitzero"`
}

// Sink is the state of one sink of the audit trail.
type Sink struct {
	Name  string    `json:"name"`            // its kind, and where it is
	Lag   int64     `json:"lag"`             // records that it does not have yet
	Down  time.Time `json:"down,omitzero"`   // since when; absent while it is well
	Error string    `json:"error,omitempty"` // why
}

// Failure is the body of every answer that is not a success.
type Failure struct {
	Error      string   `json:"error"`
	Candidates []string `json:"candidates,omitempty"` // what an ambiguous name may mean
	// Failures are the entries that cannot be imported, at most 100; More says how many further ones there are.
	Failures []ImportFailure `json:"failures,omitempty"`
	More     int             `json:"more,omitempty"`
}

func transactionOf(t *gateway.Transaction, remembered, whole bool) Transaction {
	out := Transaction{
		ID: t.ID, WireID: t.WireID, Protocol: string(t.Protocol), Endpoint: t.Endpoint, Operation: string(t.Operation),
		State: string(t.State), Reason: string(t.Reason), Note: t.Note, Source: t.Source, Credentials: t.Credentials,
		Requester: t.Requester, Device: t.Device, Subject: t.Subject, Profile: t.Profile, Backend: t.Backend,
		Replaces: hex.EncodeToString(t.Replaces), Received: t.Received.UTC(), Updated: t.Updated.UTC(),
		Ticket: t.Ticket, Remembered: remembered, Hold: holdOf(t.Hold),
	}
	if whole {
		out.Verdicts, out.Changes, out.Facts = verdictsOf(t.Verdicts), t.Changes, t.Facts
	}
	if i := t.Intent; i != nil {
		out.Granted = &Granted{
			Subject: pkix.FormatName(i.Template.Subject), SubjectAltName: namesOf(i.Template.SubjectAltName),
			NotBefore: i.Template.NotBefore.UTC(), NotAfter: i.Template.NotAfter.UTC(),
		}
		if key, err := pkix.ParsePublicKey(i.Template.PublicKey); err == nil {
			out.Granted.Key = pkix.KeyName(key)
		}
	}
	if t.State == gateway.StateUnconfirmed {
		by := t.Updated.Add(t.ConfirmWait).UTC()
		out.ConfirmBy = &by
	}
	if t.Certificate != nil {
		c := certificateOf(t.Certificate, whole)
		out.Certificate = &c
	}
	return out
}

func verdictsOf(all []gateway.Judged) []Verdict {
	var out []Verdict
	for _, j := range all {
		out = append(out, Verdict{
			Stage: j.Stage, Decision: string(j.Decision), Reason: string(j.Reason), Note: j.Note,
			Took: j.Took.Microseconds(), Parts: verdictsOf(j.Parts),
		})
	}
	return out
}

func namesOf(der []byte) []string {
	if der == nil {
		return nil
	}
	names, err := pkix.ParseGeneralNames(der)
	if err != nil {
		return []string{"(malformed)"}
	}
	return names.List()
}

func certificateOf(c *gateway.Certificate, whole bool) Certificate {
	out := Certificate{
		Serial: hex.EncodeToString(c.Serial), Issuer: pkix.FormatName(c.Issuer), Subject: c.Subject,
		NotBefore: c.NotBefore.UTC(), NotAfter: c.NotAfter.UTC(), Transaction: c.Transaction, Endpoint: c.Endpoint,
		Profile: c.Profile, Backend: c.Backend, Device: c.Device, Requester: c.Requester, Replaces: hex.EncodeToString(c.Replaces),
	}
	if !c.RevokedAt.IsZero() {
		at := c.RevokedAt.UTC()
		out.RevokedAt, out.Revocation = &at, crlReason(c.Revocation)
	}
	if len(c.DER) > 0 {
		sum := sha256.Sum256(c.DER)
		out.Fingerprint = hex.EncodeToString(sum[:])
		if whole {
			out.PEM = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.DER}))
		}
	}
	return out
}

// crlReasons are the names of CRLReason (RFC 5280 section 5.3.1); 7 is not used.
var crlReasons = gateway.CRLReasons

func crlReason(n int) string {
	if n >= 0 && n < len(crlReasons) {
		return crlReasons[n]
	}
	return strconv.Itoa(n)
}
