package backendtest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"io"
	"math/big"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/plugins/backend"
)

// MemoryOptions shape a Memory. The zero value is a whole CA.
type MemoryOptions struct {
	// Seed fixes the CA's keys and with them every certificate: the same seed, ID and template give the same
	// bytes in every process. Never a secret: it is a test's.
	Seed string
	// Clock dates the CRL. nil is time.Now.
	Clock func() time.Time
	// NotBefore and NotAfter bound both CA certificates; zero values are 2020-01-01 and 2050-01-01.
	NotBefore, NotAfter time.Time
	// Journal is a file that keeps what was issued and revoked beyond the process, written before an answer
	// leaves; "" keeps it in memory only. Configure's `journal:` sets it too.
	Journal string
	// Constrain puts name constraints into the CA certificates; nil puts none.
	Constrain func(*x509.Certificate)
}

// Memory is a CA for tests: a P-256 root, an issuing CA under it, native idempotency, revocation, a CRL, and rollover.
type Memory struct {
	backend.Unimplemented
	o           MemoryOptions
	serialKey   []byte
	mu          sync.Mutex
	key         *ecdsa.PrivateKey // of the issuing CA, as the next two the newest
	issuing     *x509.Certificate
	root        *x509.Certificate
	generations []memoryGeneration // never changed, only added to; the newest last
	announced   *memoryGeneration  // the one to follow; nil for none
	journal     io.WriteCloser
	issued      map[string]entry  // by ID
	serials     map[string]string // serial -> ID
	revocations []x509.RevocationListEntry
}

// entry is what an ID led to.
type entry struct {
	content    [sha256.Size]byte // of the request
	der        []byte
	generation int // that issued it
}

// MemoryName is Description.Name of a Memory.
const MemoryName = "memory"

// NewMemory makes a CA. It panics when the options make none: they are a test's constants.
func NewMemory(o MemoryOptions) *Memory {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.NotBefore.IsZero() {
		o.NotBefore = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	if o.NotAfter.IsZero() {
		o.NotAfter = time.Date(2050, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	m := &Memory{o: o, issued: map[string]entry{}, serials: map[string]string{}}
	rootKey := m.derive("root")
	m.key = m.derive("issuing")
	serial := sha256.Sum256([]byte(o.Seed + "/serial"))
	m.serialKey = serial[:]
	m.root = m.ca(memoryRoot, 1, rootKey, nil, rootKey)
	m.issuing = m.ca(memoryIssuing, 2, m.key, m.root, rootKey)
	m.generations = []memoryGeneration{{key: m.key, rootKey: rootKey, issuing: m.issuing, root: m.root}}
	if o.Journal != "" {
		if err := m.open(o.Journal); err != nil {
			panic("backendtest: " + err.Error())
		}
	}
	return m
}

// derive makes the P-256 key with the given label.
func (m *Memory) derive(label string) *ecdsa.PrivateKey {
	d := sha256.Sum256([]byte(m.o.Seed + "/" + label))
	d[0] &= 0x7f // below the group order
	k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), d[:])
	if err != nil {
		panic("backendtest: " + err.Error())
	}
	return k
}

func (m *Memory) ca(name string, serial int64, key *ecdsa.PrivateKey, parent *x509.Certificate, signer *ecdsa.PrivateKey) *x509.Certificate {
	t := &x509.Certificate{
		SerialNumber:          big.NewInt(serial),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             m.o.NotBefore,
		NotAfter:              m.o.NotAfter,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	if m.o.Constrain != nil {
		m.o.Constrain(t)
	}
	if parent == nil {
		parent = t
	}
	t.AuthorityKeyId = parent.SubjectKeyId // crypto/x509 sets it itself, but where a name issues to itself
	der, err := x509.CreateCertificate(nil, t, parent, key.Public(), deterministic{signer})
	if err != nil {
		panic("backendtest: " + err.Error())
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		panic("backendtest: " + err.Error())
	}
	return c
}

// deterministic signs by RFC 6979, which crypto/ecdsa does when it is given no randomness.
type deterministic struct{ key *ecdsa.PrivateKey }

func (d deterministic) Public() crypto.PublicKey { return d.key.Public() }

func (d deterministic) Sign(_ io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	return d.key.Sign(nil, digest, o)
}

const memoryRoot, memoryIssuing = "Muster Test Root", "Muster Test Issuing CA"

// Describe is Backend.Describe.
func (m *Memory) Describe(context.Context) (*backend.Description, error) {
	return &backend.Description{
		Name:         MemoryName,
		Version:      "1",
		Forms:        []backend.Form{backend.FormTemplate},
		Idempotency:  backend.IdempotencyNative,
		Capabilities: []backend.Capability{backend.CapRevoke, backend.CapCRL, backend.CapRollover, backend.CapAnnounce, backend.CapSignCMS, backend.CapOCSP},
	}, nil
}

// CACertificates is Backend.CACertificates: one CA, named "ec".
func (m *Memory) CACertificates(context.Context) ([]backend.CA, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return []backend.CA{m.describe()}, nil
}

// Root is the trust anchor, the newest one.
func (m *Memory) Root() *x509.Certificate {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.root
}

// Issuer is the issuing CA's certificate, the newest one.
func (m *Memory) Issuer() *x509.Certificate {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.issuing
}

// Issue is Backend.Issue.
func (m *Memory) Issue(ctx context.Context, r *backend.IssueRequest) (*backend.Issuance, error) {
	if err := ctx.Err(); err != nil {
		return nil, contextError(err)
	}
	if r.ID == "" {
		return nil, backend.Refuse(codes.InvalidArgument, "the request has no ID")
	}
	if r.Issuer != "" && r.Issuer != "ec" {
		return nil, backend.Refuse(codes.InvalidArgument, "no CA is named %q", r.Issuer)
	}
	content := contentOf(r)
	m.mu.Lock()
	defer m.mu.Unlock()
	if e, ok := m.issued[r.ID]; ok {
		if e.content != content {
			return nil, backend.Refuse(codes.AlreadyExists, "ID %s stands for another request", r.ID)
		}
		return m.issuance(e), nil
	}
	der, err := m.sign(r)
	if err != nil {
		return nil, err
	}
	e := entry{content, der, len(m.generations) - 1}
	if err := m.record(journalLine{ID: r.ID, Content: hex.EncodeToString(content[:]), Certificate: der}); err != nil {
		return nil, backend.Refuse(codes.Unavailable, "journal: %v", err)
	}
	m.remember(r.ID, e)
	return m.issuance(e), nil
}

func (m *Memory) remember(id string, e entry) {
	m.issued[id] = e
	m.serials[string(m.serial(id).Bytes())] = id
}

func (m *Memory) issuance(e entry) *backend.Issuance {
	return &backend.Issuance{Certificate: bytes.Clone(e.der), Chain: m.generations[e.generation].chain()}
}

// serial is 127 bits of HMAC(seed, ID), with the highest set so that the length never varies.
func (m *Memory) serial(id string) *big.Int {
	h := hmac.New(sha256.New, m.serialKey)
	h.Write([]byte(id))
	b := h.Sum(nil)[:16]
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b)
}

// sign checks the template and certifies it.
func (m *Memory) sign(r *backend.IssueRequest) ([]byte, error) {
	t := r.Template
	refuse := func(format string, args ...any) ([]byte, error) {
		return nil, backend.Refuse(codes.InvalidArgument, format, args...)
	}
	if len(t.PublicKey) == 0 {
		return refuse("the template has no public key")
	}
	pub, err := x509.ParsePKIXPublicKey(t.PublicKey)
	if err != nil {
		return refuse("public key: %v", err)
	}
	var name pkix.RDNSequence
	if rest, err := asn1.Unmarshal(t.Subject, &name); err != nil || len(rest) > 0 {
		return refuse("the subject is not a Name")
	}
	if t.NotBefore.IsZero() || !t.NotBefore.Before(t.NotAfter) {
		return refuse("notBefore %s is not before notAfter %s", t.NotBefore, t.NotAfter)
	}
	if t.NotBefore.Before(m.issuing.NotBefore) || t.NotAfter.After(m.issuing.NotAfter) {
		return refuse("the validity ends beyond the CA's own, %s to %s", m.issuing.NotBefore, m.issuing.NotAfter)
	}
	c := &x509.Certificate{
		SerialNumber:       m.serial(r.ID),
		RawSubject:         t.Subject,
		NotBefore:          t.NotBefore,
		NotAfter:           t.NotAfter,
		KeyUsage:           t.KeyUsage,
		UnknownExtKeyUsage: t.ExtKeyUsage,
		ExtraExtensions:    slices.Clone(t.Extensions),
	}
	if t.SubjectAltName != nil {
		// RFC 5280 section 4.2.1.6: critical when the subject is empty.
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: oidSubjectAltName, Critical: len(name) == 0, Value: t.SubjectAltName})
	}
	der, err := x509.CreateCertificate(nil, c, m.issuing, pub, deterministic{m.key})
	if err != nil {
		return refuse("%v", err)
	}
	if _, err := x509.ParseCertificate(der); err != nil {
		return refuse("the certificate would not parse: %v", err)
	}
	return der, nil
}

var oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}

// contentOf is a hash over everything of the request that the certificate follows from.
func contentOf(r *backend.IssueRequest) [sha256.Size]byte {
	h := sha256.New()
	t := r.Template
	for _, b := range [][]byte{[]byte(r.Issuer), t.Subject, t.SubjectAltName, t.PublicKey, r.CSR} {
		fmt.Fprintf(h, "%d:%x;", len(b), b)
	}
	fmt.Fprintf(h, "%d;%d;%d;%v;", t.NotBefore.Unix(), t.NotAfter.Unix(), t.KeyUsage, t.ExtKeyUsage)
	for _, e := range t.Extensions {
		fmt.Fprintf(h, "%v:%v:%x;", e.Id, e.Critical, e.Value)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// Lookup is Backend.Lookup.
func (m *Memory) Lookup(_ context.Context, r *backend.IssueRequest) (*backend.Outcome, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e, ok := m.issued[r.ID]; ok {
		return &backend.Outcome{State: backend.OutcomeIssued, Issuance: m.issuance(e)}, nil
	}
	return &backend.Outcome{State: backend.OutcomeNever}, nil
}

// Revoke is Backend.Revoke.
func (m *Memory) Revoke(_ context.Context, r *backend.RevokeRequest) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	serial := new(big.Int).SetBytes(r.Serial)
	if _, ok := m.serials[string(serial.Bytes())]; !ok || !bytes.Equal(r.Issuer, m.issuing.RawSubject) {
		return backend.Refuse(codes.NotFound, "no such certificate")
	}
	return m.revoke(serial, r.Reason, r.At)
}

// revoke needs the lock.
func (m *Memory) revoke(serial *big.Int, reason int, at time.Time) error {
	if m.revoked(serial) {
		return nil
	}
	if at.IsZero() {
		at = m.o.Clock()
	}
	if err := m.record(journalLine{Revoked: serial.Bytes(), Reason: reason, At: at}); err != nil {
		return backend.Refuse(codes.Unavailable, "journal: %v", err)
	}
	m.revocations = append(m.revocations, x509.RevocationListEntry{SerialNumber: serial, RevocationTime: at.UTC(), ReasonCode: reason})
	return nil
}

func (m *Memory) revoked(serial *big.Int) bool {
	return slices.ContainsFunc(m.revocations, func(e x509.RevocationListEntry) bool { return e.SerialNumber.Cmp(serial) == 0 })
}

// CRL is Backend.CRL.
func (m *Memory) CRL(_ context.Context, issuer string, w io.Writer) error {
	m.mu.Lock()
	g := m.crlNamed(issuer)
	if g == nil {
		m.mu.Unlock()
		return backend.Refuse(codes.NotFound, "no CRL is named %q", issuer)
	}
	now := m.o.Clock().UTC()
	l := &x509.RevocationList{
		Number:                    big.NewInt(int64(len(m.revocations)) + 1),
		ThisUpdate:                now,
		NextUpdate:                now.Add(24 * time.Hour),
		RevokedCertificateEntries: slices.Clone(m.revocations),
	}
	m.mu.Unlock()
	der, err := x509.CreateRevocationList(nil, l, g.issuing, deterministic{g.key})
	if err != nil {
		return backend.Refuse(codes.Internal, "CRL: %v", err)
	}
	_, err = w.Write(der)
	return err
}

// Issued counts the certificates issued under the ID: 0 or 1.
func (m *Memory) Issued(id string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.issued[id]; ok {
		return 1
	}
	return 0
}

// Total counts all certificates that were issued.
func (m *Memory) Total() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.issued)
}

// Revoked reports whether the certificate issued under the ID has been revoked.
func (m *Memory) Revoked(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.revoked(m.serial(id))
}
