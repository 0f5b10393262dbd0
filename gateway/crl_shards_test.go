package gateway_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"io"
	"math/big"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// sharding is a CA with CRLs of some of its certificates: each certificate names that of shard 1, or none.
type sharding struct {
	backend.Backend
	memory *backendtest.Memory
	clock  func() time.Time
	shards []backend.CRLShard
	points map[string]string // by the name of a CRL: the URI in its issuingDistributionPoint, if not the shard's own
	bare   bool              // certificates name no CRL
	fails  error             // of the CRLs of shards
	asked  atomic.Int64      // for the CA's certificates
	made   atomic.Int64      // CRLs
}

func shardAt(name string) backend.CRLShard {
	return backend.CRLShard{Name: name, URIs: []string{"http://pki.test/crl/ca/" + name + ".crl"}}
}

func (s *sharding) CACertificates(ctx context.Context) ([]backend.CA, error) {
	s.asked.Add(1)
	cas, err := s.Backend.CACertificates(ctx)
	if err == nil {
		cas[0].Shards = slices.Clone(s.shards)
	}
	return cas, err
}

var oidCRLPoint = asn1.ObjectIdentifier{2, 5, 29, 28}

func (s *sharding) CRL(ctx context.Context, name string, w io.Writer) error {
	s.made.Add(1)
	n := slices.IndexFunc(s.shards, func(x backend.CRLShard) bool { return x.Name == name })
	if n < 0 {
		return s.Backend.CRL(ctx, name, w)
	}
	if s.fails != nil {
		return s.fails
	}
	uri, ok := s.points[name]
	if !ok {
		uri = s.shards[n].URIs[0]
	}
	names := append([]byte{0x86, byte(len(uri))}, uri...)
	point := pkix.Extension{Id: oidCRLPoint, Critical: !strings.HasPrefix(uri, "?"), Value: append([]byte{0x30, byte(len(names) + 4), 0xa0, byte(len(names) + 2), 0xa0, byte(len(names))}, names...)}
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: s.clock(), NextUpdate: s.clock().Add(time.Hour)}
	if uri != "" {
		list.ExtraExtensions = []pkix.Extension{point}
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, s.memory.Issuer(), s.memory.Key())
	if err == nil {
		_, err = w.Write(der)
	}
	return err
}

func (s *sharding) Issue(ctx context.Context, r *backend.IssueRequest) (*backend.Issuance, error) {
	made, err := s.Backend.Issue(ctx, r)
	if err != nil || s.bare {
		return made, err
	}
	cert, err := x509.ParseCertificate(made.Certificate)
	if err != nil {
		return nil, err
	}
	cert.ExtraExtensions = cert.Extensions
	cert.CRLDistributionPoints = s.shards[0].URIs
	own := *made
	own.Certificate, err = x509.CreateCertificate(rand.Reader, cert, s.memory.Issuer(), cert.PublicKey, s.memory.Key())
	return &own, err
}

// The CRL of a shard is served under its name, if it says that it is the shard's.
func TestCRLShards(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{})
	s := &sharding{Backend: w.memory, memory: w.memory, clock: w.clock.now, shards: []backend.CRLShard{shardAt("ec.1.1"), shardAt("ec.1.2")}, points: map[string]string{}}
	w.publish(s)
	for _, name := range []string{"ec.1.1", "ec.1.2", "ec"} {
		if _, err := w.crl(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if list, err := w.gw.CRLs(t.Context(), "est"); err != nil || len(list) != 1 {
		t.Errorf("%d complete CRLs, %v", len(list), err)
	}
	// Another shard's, none's, and one that says so and leaves who does not know it to take it for complete.
	for _, point := range []string{s.shards[1].URIs[0], "", "?" + s.shards[0].URIs[0]} {
		s.points["ec.1.1"] = point
		w.publish(s)
		if _, err := w.crl("ec.1.1"); reason(err) != gateway.Unavailable {
			t.Errorf("the CRL of %q as that of shard 1: %v", point, err)
		}
	}
	// Two CRLs of one name: what the CA told before goes on.
	s.shards = append(s.shards, shardAt("ec"))
	w.clock.add(2 * time.Minute)
	if _, err := w.crl("ec"); err != nil {
		t.Errorf("the complete CRL, whose name a shard has: %v", err)
	}
}

// A shard that the CA has opened since it was asked last is found; what is none costs the CA one look in five seconds.
func TestCRLShardOpened(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{})
	s := &sharding{Backend: w.memory, memory: w.memory, clock: w.clock.now}
	w.publish(s)
	if _, err := w.crl("ec"); err != nil {
		t.Fatal(err)
	}
	s.shards = []backend.CRLShard{shardAt("ec.1.1")}
	asked := s.asked.Load()
	if _, err := w.crl("ec.1.1"); err != nil || s.asked.Load() != asked+1 {
		t.Errorf("a new shard: %v, asked %d times", err, s.asked.Load()-asked)
	}
	made := s.made.Load()
	for _, name := range []string{"ec.2", "ec.2", "ec.99", "other", "other.1", "ec."} {
		if _, err := w.crl(name); !errors.Is(err, gateway.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if s.asked.Load() != asked+1 || s.made.Load() != made {
		t.Errorf("asked %d times, %d CRLs", s.asked.Load()-asked, s.made.Load()-made)
	}
	w.clock.add(5 * time.Second)
	for range 3 {
		_, _ = w.crl("ec.2")
		_, _ = w.crl("other.2")
	}
	if s.asked.Load() != asked+2 || s.made.Load() != made {
		t.Errorf("later: asked %d times, %d CRLs", s.asked.Load()-asked, s.made.Load()-made)
	}
}

// RFC 8894 section 4.6: GetCRL is answered with the CRL of the shard that the certificate is in; with none when that is not to be had.
func TestQueryCRLOfShard(t *testing.T) {
	w := newQueryWorld(t)
	var s *sharding
	w.wrapped = func(b backend.Backend) backend.Backend {
		s = &sharding{Backend: b, memory: w.memory, clock: w.clock.now, shards: []backend.CRLShard{shardAt("ec.1.1"), shardAt("ec.1.2")}}
		return s
	}
	w.put()
	in := w.has("device-a", "est")
	s.bare = true
	before := w.has("device-a", "est")
	w.asks = func(g *gateway.Grant) { g.NameDevice("device-a") }
	answer := func(serial *big.Int) (shard bool, err error) {
		t.Helper()
		res, err := w.askFor(in.RawIssuer, serial, true)
		if err != nil {
			return false, err
		}
		list, err := x509.ParseRevocationList(res.Answer)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list.Extensions {
			if e.Id.Equal(oidCRLPoint) {
				shard = bytes.Contains(e.Value, []byte(s.shards[0].URIs[0]))
			}
		}
		return shard, nil
	}
	if shard, err := answer(in.SerialNumber); err != nil || !shard {
		t.Errorf("of one in a shard: its CRL %t, %v", shard, err)
	}
	for what, serial := range map[string]*big.Int{"of before": before.SerialNumber, "that there is not": big.NewInt(7)} {
		if shard, err := answer(serial); err != nil || shard {
			t.Errorf("of one %s: a shard's CRL %t, %v", what, shard, err)
		}
	}
	w.put()
	s.bare, s.fails = true, backend.Refuse(codes.Unavailable, "away")
	if _, err := answer(in.SerialNumber); reason(err) != gateway.Unavailable {
		t.Errorf("when the shard's CRL is not to be had: %v", err)
	}
	if _, err := answer(before.SerialNumber); err != nil {
		t.Errorf("of one of before: %v", err)
	}
}
