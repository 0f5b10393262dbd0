// Package storetest says what a gateway.Store has to do. Every implementation runs the same suite; it is imported by
// tests only.
package storetest

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/audit"
	"github.com/muster-pki/muster/plugins/backend"
)

// Store is a gateway.Store with what the suite needs to judge it.
type Store interface {
	gateway.Store
	VerifyAudit(ctx context.Context) error
	RecordSigned(ctx context.Context, e gateway.AuditEvent) error
	Checkpoint(ctx context.Context) error
	PruneAudit(ctx context.Context, before time.Time) (removed int64, err error)
	Close() error
}

// Database is one database, empty at first, that stores are opened on.
type Database interface {
	// Open opens the database for an instance, with a key that signs its audit trail, and a head file; a nil clock leaves it to the
	// implementation. The store is closed with the test, if it was not before.
	Open(t testing.TB, instance string, clock func() time.Time) Store
	// Crash ends a store as a kill of its process would. The next Open sees what is left.
	Crash(t testing.TB, s Store)
	// Exec changes the database behind the stores' backs.
	Exec(t testing.TB, query string)
	// Trail reads the audit trail, as somebody does who has all public keys and head files.
	Trail(t testing.TB) ([]audit.Record, audit.Trust)
	// Shared says whether several instances can have it open at once.
	Shared() bool
}

// Run runs the suite; fresh makes an empty database.
func Run(t *testing.T, fresh func(t testing.TB) Database) {
	for _, c := range slices.Concat([]part{
		{"begin", testBegin},
		{"begin refuses nonsense", testBeginNonsense},
		{"held", testHeld},
		{"repeat and twin", testRepeatAndTwin},
		{"claims", testClaims},
		{"refuse", testRefuse},
		{"hostile text", testHostileText},
		{"settle issued", testSettleIssued},
		{"settle failed", testSettleFailed},
		{"settle with work that follows", testSettleWithWork},
		{"settle a mismatch and revoke it", testSettleMismatch},
		{"settle stale", testSettleStale},
		{"settle without a lease", testSettleWithoutLease},
		{"settle refuses nonsense", testSettleNonsense},
		{"certificate of two transactions", testCertificateExists},
		{"mark revoked", testMarkRevoked},
		{"two keys", testTwoKeys},
		{"unconfirmed", testUnconfirmed},
		{"unconfirmed in time", testConfirmTimeOut},
		{"settle refuses nonsense of what is unconfirmed", testUnconfirmedNonsense},
		{"conclude: accepted", testAccepted},
		{"conclude: rejected", testRejected},
		{"conclude: stale and nonsense", testConcludeStale},
		{"conclude: of another exchange", concludeOtherExchange},
		{"adopt", testAdopt},
		{"message claims", testMessageClaims},
		{"by wire ID", testByWireID},
		{"asked under a wire ID", testAskedUnder},
		{"nothing without its audit event", testUnaudited},
		{"state of a certificate", testCertificateState},
		{"secrets", testSecrets},
		{"secrets: nonsense", testSecretsNonsense},
		{"secrets: pages", testSecretsPages},
		{"claim due", testClaimDue},
		{"claim due by CA", testClaimDueByCA},
		{"postpone", testPostpone},
		{"asked again", testAskAgain},
		{"leased by hand", testLeaseWork},
		{"take-over by another instance", testTakeOver},
		{"database's clock", testDatabaseClock},
		{"transactions", testTransactions},
		{"certificates", testCertificates},
		{"successors", testSuccessors},
		{"audit", testAudit},
		{"audit tampered with", testAuditTampered},
		{"audit: checkpoints", testCheckpoints},
		{"audit: at the start", testAuditAtStart},
		{"audit: pruned", testPruned},
		{"audit: pruned of others", testPrunedOfOthers},
		{"race for a claim", testRaceForClaim},
		{"race of twins", testRaceOfTwins},
		{"race for work", testRaceForWork},
		{"race of instances", testRaceOfInstances},
		{"race of resumed twins", testRaceOfResumed},
		{"race of crossed keys", testRaceOfCrossedKeys},
		{"race of conclusions", testRaceOfConclusions},
		{"race of conclusion and time-out", testRaceOfTimeOut},
		{"race of conclusion and adoption", testRaceOfAdoption},
		{"crash", testCrash},
		{"crash between the messages of an exchange", testCrashUnconfirmed},
		{"instance in use", testInstanceInUse},
		{"random operations", testModel},
	}, holdTests, revocationTests, inventoryTests, challengeTests, keyTests, deliveryTests, forwardTests, rerouteTests, queueTests, paceTests, limitTests, sweepTests) {
		t.Run(c.name, func(t *testing.T) {
			e := &env{T: t, db: fresh(t), clock: NewClock()}
			e.s = e.db.Open(t, "one", e.clock.Now)
			c.test(e)
			if err := e.s.VerifyAudit(context.Background()); err != nil && !e.tampered {
				t.Errorf("after the test: %v", err)
			}
		})
	}
}

// part is one test of the suite.
type part struct {
	name string
	test func(*env)
}

// Clock is a clock that stands until it is told otherwise.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// NewClock returns a clock at a fixed time.
func NewClock() *Clock { return &Clock{now: time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)} }

// Now is the time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Advance moves it on.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

const lease = time.Minute

// env is what a test works with.
type env struct {
	*testing.T
	db       Database
	clock    *Clock
	s        Store
	serial   byte
	tampered bool
}

func (e *env) ctx() context.Context { return e.Context() }

// id is a new transaction ID; later ones are newer.
func (e *env) id() string {
	e.clock.Advance(time.Millisecond)
	return gateway.NewID(e.clock.Now())
}

// transaction is one with all fields set that its state has.
func (e *env) transaction(state gateway.State) *gateway.Transaction {
	id := e.id()
	t := &gateway.Transaction{
		ID: id, WireID: "wire-" + id, Protocol: gateway.EST, Endpoint: "ran", Operation: gateway.Renew, State: state,
		Source: "192.0.2.1", Credentials: []string{"tls-certificate:aa", "password:factory"}, Requester: "password:factory",
		Device: "device-" + id, Subject: "CN=Gerät,O=Operator",
		Verdicts: []gateway.Judged{{Stage: "password", Decision: gateway.Allow, Note: "known", Took: 3 * time.Microsecond,
			Parts: []gateway.Judged{{Stage: "inner", Decision: gateway.Deny, Reason: gateway.NotAuthorized}}}},
		Backend: "local", Profile: "base-station", Replaces: []byte{0x80, 1}, Note: "as it should be",
		Received: e.clock.Now(), Updated: e.clock.Now().Add(time.Microsecond), Exchange: []byte{0x30, 0, 0xff, 0x0a},
		Facts: json.RawMessage(`{"request":{"id":"` + id + `"}}`),
	}
	if state == gateway.StateRefused {
		t.Reason = gateway.NotAuthorized
		return t
	}
	t.Repeat, t.Resume, t.ConfirmWait = keyOf("repeat", id), keyOf("resume", id), 5*time.Minute+time.Microsecond
	t.Intent = &backend.IssueRequest{
		ID: id, Issuer: "ec", Device: t.Device, CSR: []byte{0x30, 0},
		Template: backend.Template{
			Subject: []byte{0x30, 1, 2}, PublicKey: []byte{4, 5}, NotBefore: e.clock.Now().Truncate(time.Second),
			NotAfter: e.clock.Now().Truncate(time.Second).Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 2}},
			Extensions:  []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 99}, Critical: true, Value: []byte{5, 0}}},
		},
	}
	return t
}

func keyOf(kind, id string) gateway.RepeatKey {
	sum := sha256.Sum256([]byte(kind + id))
	return gateway.RepeatKey(hex.EncodeToString(sum[:]))
}

// certificate is a new one for the transaction.
func (e *env) certificate(t *gateway.Transaction) *gateway.Certificate {
	e.serial++
	return &gateway.Certificate{
		Issuer: []byte("issuer"), Serial: []byte{0x91, e.serial}, Transaction: t.ID, Backend: t.Backend, Endpoint: t.Endpoint,
		Profile: t.Profile, Device: t.Device, Requester: t.Requester, Subject: t.Subject, SubjectRaw: []byte("subject"),
		KeyHash: []byte("key hash"), NotBefore: e.clock.Now().Truncate(time.Second),
		NotAfter: e.clock.Now().Truncate(time.Second).Add(24 * time.Hour), DER: []byte("der of " + t.ID),
		Chain: [][]byte{[]byte("issuing"), []byte("root")}, Replaces: t.Replaces,
	}
}

func event(kind string, t *gateway.Transaction) gateway.AuditEvent {
	return gateway.AuditEvent{Kind: kind, At: t.Received, Transaction: t.ID, Counts: map[string]uint64{"a": 1}}
}

func (e *env) mustBegin(s Store, t *gateway.Transaction, claims ...gateway.Claim) int64 {
	e.Helper()
	epoch, err := s.Begin(e.ctx(), &gateway.Beginning{Transaction: t, Claims: claims, Lease: lease})
	if err != nil {
		e.Fatalf("Begin: %v", err)
	}
	return epoch
}

// begun begins a new transaction.
func (e *env) begun(claims ...gateway.Claim) (*gateway.Transaction, int64) {
	e.Helper()
	t := e.transaction(gateway.StateIssuing)
	return t, e.mustBegin(e.s, t, claims...)
}

func (e *env) issued(t *gateway.Transaction, epoch int64) *gateway.Settlement {
	return &gateway.Settlement{
		Transaction: t.ID, Epoch: epoch, State: gateway.StateIssued, Certificate: e.certificate(t), Now: e.clock.Now(),
		RepeatUntil: e.clock.Now().Add(10 * time.Minute), Audit: event("issued", t),
	}
}

func (e *env) failed(t *gateway.Transaction, epoch int64) *gateway.Settlement {
	return &gateway.Settlement{
		Transaction: t.ID, Epoch: epoch, State: gateway.StateFailed, Reason: gateway.BadTemplate, Note: "no",
		Release: true, Now: e.clock.Now(), Audit: event("failed", t),
	}
}

// unconfirmed waits delay for its confirmation.
func (e *env) unconfirmed(t *gateway.Transaction, epoch int64, delay time.Duration) *gateway.Settlement {
	return &gateway.Settlement{
		Transaction: t.ID, Epoch: epoch, State: gateway.StateUnconfirmed, Certificate: e.certificate(t), Now: e.clock.Now(),
		Next: gateway.WorkConfirm, Delay: delay, Audit: event("unconfirmed", t),
	}
}

func (e *env) unknown(t *gateway.Transaction, epoch int64) *gateway.Settlement {
	return &gateway.Settlement{
		Transaction: t.ID, Epoch: epoch, State: gateway.StateUnknown, Note: "connection reset", Now: e.clock.Now(),
		Next: gateway.WorkSettle, Delay: time.Second,
	}
}

func (e *env) must(err error) {
	e.Helper()
	if err != nil {
		e.Fatal(err)
	}
}

func (e *env) wantErr(err, want error) {
	e.Helper()
	if !errors.Is(err, want) {
		e.Fatalf("got error %v, want %v", err, want)
	}
}

func (e *env) get(id string) *gateway.Transaction {
	e.Helper()
	t, err := e.s.Transaction(e.ctx(), id)
	if err != nil {
		e.Fatalf("transaction %s: %v", id, err)
	}
	return t
}

func (e *env) wantState(id string, want gateway.State) {
	e.Helper()
	if t := e.get(id); t.State != want {
		e.Errorf("transaction is %q, want %q", t.State, want)
	}
}

func (e *env) wantRepeat(key gateway.RepeatKey, id string) {
	e.Helper()
	t, err := e.s.Repeat(e.ctx(), key, e.clock.Now())
	switch {
	case id == "" && !errors.Is(err, gateway.ErrNotFound):
		e.Errorf("Repeat: %+v, %v; want not found", t, err)
	case id != "" && err != nil:
		e.Errorf("Repeat: %v, want %s", err, id)
	case id != "" && t.ID != id:
		e.Errorf("Repeat: %s, want %s", t.ID, id)
	}
}

// AnyPlace has ClaimDue lease whatever is due.
func AnyPlace(string) int { return 1 << 20 }

// due leases everything that is due.
func (e *env) due(s Store) []gateway.Work {
	e.Helper()
	w, err := s.ClaimDue(e.ctx(), lease, 1000, AnyPlace)
	if err != nil {
		e.Fatalf("ClaimDue: %v", err)
	}
	return w
}

// theOnly is the one row that is due.
func (e *env) theOnly(s Store) gateway.Work {
	e.Helper()
	due := e.due(s)
	if len(due) != 1 {
		e.Fatalf("%d rows are due, want 1: %+v", len(due), due)
	}
	return due[0]
}

func (e *env) equal(what string, got, want any) {
	e.Helper()
	if !reflect.DeepEqual(got, want) {
		e.Errorf("%s:\n got %s\nwant %s", what, show(got), show(want))
	}
}

func show(v any) string {
	if r := reflect.ValueOf(v); r.Kind() == reflect.Pointer && !r.IsNil() {
		return fmt.Sprintf("%+v", r.Elem())
	}
	return fmt.Sprintf("%+v", v)
}

// together runs fn n times at once and returns the errors.
func together(n int, fn func(i int) error) []error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		wg.Go(func() { <-start; errs[i] = fn(i) })
	}
	close(start)
	wg.Wait()
	return errs
}
