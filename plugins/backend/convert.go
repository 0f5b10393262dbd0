package backend

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/muster-pki/muster/plugins/backend/backendpb/v1"
)

// The two vocabularies, side by side. A value that the other side does not know is left out, so that a newer
// plugin may offer what this gateway has never heard of.
var (
	formNames = map[pb.Form]Form{
		pb.Form_FORM_TEMPLATE:      FormTemplate,
		pb.Form_FORM_PKCS10:        FormPKCS10,
		pb.Form_FORM_GENERATED_KEY: FormGeneratedKey,
		pb.Form_FORM_EXCHANGE:      FormExchange,
	}
	fieldNames = map[pb.Field]Field{
		pb.Field_FIELD_SUBJECT:          FieldSubject,
		pb.Field_FIELD_SUBJECT_ALT_NAME: FieldSubjectAltName,
		pb.Field_FIELD_VALIDITY:         FieldValidity,
		pb.Field_FIELD_KEY_USAGE:        FieldKeyUsage,
		pb.Field_FIELD_EXT_KEY_USAGE:    FieldExtKeyUsage,
	}
	idempotencyNames = map[pb.Idempotency]Idempotency{
		pb.Idempotency_IDEMPOTENCY_NATIVE: IdempotencyNative,
		pb.Idempotency_IDEMPOTENCY_LOOKUP: IdempotencyLookup,
		pb.Idempotency_IDEMPOTENCY_NONE:   IdempotencyNone,
	}
	capabilityNames = map[pb.Capability]Capability{
		pb.Capability_CAPABILITY_POLL:     CapPoll,
		pb.Capability_CAPABILITY_REVOKE:   CapRevoke,
		pb.Capability_CAPABILITY_CRL:      CapCRL,
		pb.Capability_CAPABILITY_SIGN_CMS: CapSignCMS,
		pb.Capability_CAPABILITY_EXCHANGE: CapExchange,
		pb.Capability_CAPABILITY_ROLLOVER: CapRollover,
		pb.Capability_CAPABILITY_ANNOUNCE: CapAnnounce,
		pb.Capability_CAPABILITY_OCSP:     CapOCSP,
		pb.Capability_CAPABILITY_KEYS:     CapKeys,
	}
	rolloverNames = map[pb.RolloverKind]RolloverKind{
		pb.RolloverKind_ROLLOVER_KIND_RENEW: RolloverRenew,
		pb.RolloverKind_ROLLOVER_KIND_REKEY: RolloverRekey,
	}
	outcomeNames = map[pb.OutcomeState]OutcomeState{
		pb.OutcomeState_OUTCOME_STATE_ISSUED:  OutcomeIssued,
		pb.OutcomeState_OUTCOME_STATE_PENDING: OutcomePending,
		pb.OutcomeState_OUTCOME_STATE_NEVER:   OutcomeNever,
		pb.OutcomeState_OUTCOME_STATE_UNKNOWN: OutcomeUnknown,
	}
)

// toWire translates ours into the wire's values.
func toWire[W, G comparable](names map[W]G, ours []G) []W {
	var out []W
	for _, g := range ours {
		if w, ok := wireOf(names, g); ok {
			out = append(out, w)
		}
	}
	return out
}

func wireOf[W, G comparable](names map[W]G, ours G) (W, bool) {
	for w, g := range names {
		if g == ours {
			return w, true
		}
	}
	var zero W
	return zero, false
}

// fromWire translates the wire's values into ours.
func fromWire[W, G comparable](names map[W]G, wire []W) []G {
	var out []G
	for _, w := range wire {
		if g, ok := names[w]; ok {
			out = append(out, g)
		}
	}
	return out
}

// timeToWire makes a zero time absent.
func timeToWire(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// timeFromWire gives UTC; absent is the zero time.
func timeFromWire(name string, t *timestamppb.Timestamp) (time.Time, error) {
	if t == nil {
		return time.Time{}, nil
	}
	if err := t.CheckValid(); err != nil {
		return time.Time{}, fmt.Errorf("%s: %w", name, err)
	}
	return t.AsTime(), nil
}

// durationFromWire bounds a delay to 0 to 7 days.
func durationFromWire(d *durationpb.Duration) time.Duration {
	return min(max(d.AsDuration(), 0), 7*24*time.Hour)
}

// parseOID reads a dotted OID (X.660: the first arc 0 to 2, the second below 40 under the first two) of at most 32
// arcs below 2^31.
func parseOID(s string) (asn1.ObjectIdentifier, error) {
	arcs := strings.SplitN(s, ".", 34)
	if len(arcs) < 2 || len(arcs) > 32 {
		return nil, errors.New("malformed OID")
	}
	oid := make(asn1.ObjectIdentifier, len(arcs))
	for i, a := range arcs {
		n, err := strconv.ParseUint(a, 10, 31)
		if err != nil || len(a) > 1 && a[0] == '0' {
			return nil, errors.New("malformed OID")
		}
		oid[i] = int(n)
	}
	if oid[0] > 2 || oid[0] < 2 && oid[1] >= 40 {
		return nil, errors.New("malformed OID")
	}
	return oid, nil
}

func templateToWire(t *Template) *pb.Template {
	w := &pb.Template{
		Subject:        t.Subject,
		SubjectAltName: t.SubjectAltName,
		PublicKey:      t.PublicKey,
		NotBefore:      timeToWire(t.NotBefore),
		NotAfter:       timeToWire(t.NotAfter),
		KeyUsage:       uint32(t.KeyUsage),
	}
	for _, o := range t.ExtKeyUsage {
		w.ExtKeyUsage = append(w.ExtKeyUsage, o.String())
	}
	for _, e := range t.Extensions {
		w.Extensions = append(w.Extensions, &pb.Extension{Oid: e.Id.String(), Critical: e.Critical, Value: e.Value})
	}
	return w
}

func templateFromWire(w *pb.Template) (t Template, err error) {
	if w == nil {
		return t, errors.New("no template")
	}
	if len(w.ExtKeyUsage) > maxExtensions || len(w.Extensions) > maxExtensions {
		return t, errors.New("too many extensions")
	}
	if w.KeyUsage > math.MaxUint16 {
		return t, errors.New("no such key usage")
	}
	t = Template{
		Subject:        w.Subject,
		SubjectAltName: w.SubjectAltName,
		PublicKey:      w.PublicKey,
		KeyUsage:       x509.KeyUsage(w.KeyUsage),
	}
	if t.NotBefore, err = timeFromWire("notBefore", w.NotBefore); err != nil {
		return t, err
	}
	if t.NotAfter, err = timeFromWire("notAfter", w.NotAfter); err != nil {
		return t, err
	}
	for _, s := range w.ExtKeyUsage {
		oid, err := parseOID(s)
		if err != nil {
			return t, fmt.Errorf("extended key usage: %w", err)
		}
		t.ExtKeyUsage = append(t.ExtKeyUsage, oid)
	}
	for _, e := range w.Extensions {
		oid, err := parseOID(e.GetOid())
		if err != nil {
			return t, fmt.Errorf("extension: %w", err)
		}
		t.Extensions = append(t.Extensions, pkix.Extension{Id: oid, Critical: e.GetCritical(), Value: e.GetValue()})
	}
	return t, nil
}

func requestToWire(r *IssueRequest) *pb.IssueRequest {
	return &pb.IssueRequest{
		Id: r.ID, Issuer: r.Issuer, Device: r.Device, Template: templateToWire(&r.Template), Csr: r.CSR, Asked: timeToWire(r.Asked),
	}
}

func requestFromWire(w *pb.IssueRequest) (*IssueRequest, error) {
	if w.GetId() == "" || !printable(w.GetId(), MaxName) {
		return nil, errors.New("the request has no well-formed ID")
	}
	t, err := templateFromWire(w.Template)
	if err != nil {
		return nil, err
	}
	asked, err := timeFromWire("asked", w.Asked)
	if err != nil {
		return nil, err
	}
	return &IssueRequest{ID: w.Id, Issuer: w.Issuer, Device: w.Device, Template: t, CSR: w.Csr, Asked: asked}, nil
}

func issuanceToWire(i *Issuance) *pb.Issuance {
	if i == nil {
		return nil
	}
	w := &pb.Issuance{Certificate: i.Certificate, Chain: i.Chain, Ticket: i.Ticket}
	if i.RetryAfter > 0 {
		w.RetryAfter = durationpb.New(i.RetryAfter)
	}
	return w
}

// issuanceFromWire re-parses what a plugin returned, but for the chain.
func issuanceFromWire(w *pb.Issuance) (*Issuance, error) {
	if w == nil {
		return nil, errors.New("neither certificate nor ticket")
	}
	if len(w.Certificate) == 0 {
		if w.Ticket == "" || !printable(w.Ticket, MaxTicket) {
			return nil, errors.New("neither certificate nor well-formed ticket")
		}
		if len(w.Chain) > 0 {
			return nil, errors.New("a chain without its certificate")
		}
		return &Issuance{Ticket: w.Ticket, RetryAfter: durationFromWire(w.RetryAfter)}, nil
	}
	if w.Ticket != "" {
		return nil, errors.New("both certificate and ticket")
	}
	leaf, err := parseCertificate(bytes.Clone(w.Certificate)) // what is parsed stays what it was, whatever becomes of the other
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	return &Issuance{Certificate: w.Certificate, Chain: w.Chain, leaf: leaf}, nil
}

// parseCertificate wants one well-formed certificate within the bounds.
func parseCertificate(der []byte) (*x509.Certificate, error) {
	if len(der) > MaxCertificate {
		return nil, fmt.Errorf("%d bytes, more than %d", len(der), MaxCertificate)
	}
	return x509.ParseCertificate(der)
}

func checkChain(chain [][]byte) error {
	return checkCertificates("chain", chain, MaxChain)
}

func checkCertificates(what string, chain [][]byte, limit int) error {
	if len(chain) > limit {
		return fmt.Errorf("a %s of %d certificates, more than %d", what, len(chain), limit)
	}
	for i, der := range chain {
		if _, err := parseCertificate(der); err != nil {
			return fmt.Errorf("%s, certificate %d: %w", what, i, err)
		}
	}
	return nil
}

func caToWire(ca *CA) *pb.CA {
	w := &pb.CA{Name: ca.Name, Chain: ca.Chain, Rollover: ca.Rollover, Crls: ca.CRLs, Next: ca.Next}
	for _, s := range ca.Shards {
		w.Shards = append(w.Shards, &pb.CRLShard{Name: s.Name, Uris: s.URIs})
	}
	return w
}

// caFromWire re-parses a CA that a plugin names.
func caFromWire(w *pb.CA) (*CA, error) {
	name := w.GetName()
	if name == "" || !printable(name, MaxName) {
		return nil, errors.New("a CA without a name of its own")
	}
	if len(w.Chain) == 0 {
		return nil, fmt.Errorf("CA %s without certificate", name)
	}
	if err := checkChain(w.Chain); err != nil {
		return nil, fmt.Errorf("CA %s: %w", name, err)
	}
	if err := checkCertificates("rollover", w.Rollover, MaxRollover); err != nil {
		return nil, fmt.Errorf("CA %s: %w", name, err)
	}
	if err := checkCertificates("next chain", w.Next, MaxChain); err != nil {
		return nil, fmt.Errorf("CA %s: %w", name, err)
	}
	if len(w.Crls) > MaxRollover {
		return nil, fmt.Errorf("CA %s: %d CRLs, more than %d", name, len(w.Crls), MaxRollover)
	}
	seen := map[string]bool{}
	for _, crl := range w.Crls {
		if crl == "" || !printable(crl, MaxName) || seen[crl] {
			return nil, fmt.Errorf("CA %s: a CRL without a name of its own", name)
		}
		seen[crl] = true
	}
	shards, err := shardsFromWire(w.Shards, seen)
	if err != nil {
		return nil, fmt.Errorf("CA %s: %w", name, err)
	}
	return &CA{Name: name, Chain: w.Chain, Rollover: w.Rollover, CRLs: w.Crls, Next: w.Next, Shards: shards}, nil
}

// shardsFromWire checks the shards of a CA: each has a name of its own among the CA's CRLs, and URIs of its own.
func shardsFromWire(w []*pb.CRLShard, names map[string]bool) ([]CRLShard, error) {
	if len(w) > MaxShards {
		return nil, fmt.Errorf("%d CRL shards, more than %d", len(w), MaxShards)
	}
	var shards []CRLShard
	taken := map[string]bool{}
	for _, s := range w {
		name := s.GetName()
		if name == "" || !printable(name, MaxName) || names[name] {
			return nil, errors.New("a CRL shard without a name of its own")
		}
		names[name] = true
		if len(s.Uris) == 0 || len(s.Uris) > MaxURIs {
			return nil, fmt.Errorf("the CRL shard %s with %d URIs, not 1 to %d", name, len(s.Uris), MaxURIs)
		}
		for _, uri := range s.Uris {
			if uri == "" || !printable(uri, MaxURI) || taken[uri] {
				return nil, fmt.Errorf("the CRL shard %s without URIs of its own", name)
			}
			taken[uri] = true
		}
		shards = append(shards, CRLShard{Name: name, URIs: s.Uris})
	}
	return shards, nil
}
