package backendtest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"fmt"

	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/plugins/backend"
)

// memoryGeneration is what a Memory issues by until its next rollover.
type memoryGeneration struct {
	made                   backend.RolloverRequest // that put it in force; zero for the first
	told                   backend.RolloverRequest // that announced it; zero for one that was not
	key, rootKey           *ecdsa.PrivateKey
	issuing, root          *x509.Certificate
	oldWithNew, newWithOld *x509.Certificate // nil without a new root key
}

func (g *memoryGeneration) chain() [][]byte {
	return [][]byte{bytes.Clone(g.issuing.Raw), bytes.Clone(g.root.Raw)}
}

// Rollover is Roller.Rollover. The certificates of all earlier generations stay in CA.Rollover: it does not look when what it
// issued expires.
func (m *Memory) Rollover(_ context.Context, r *backend.RolloverRequest) (*backend.CA, error) {
	switch {
	case r.ID == "" || r.Kind != backend.RolloverRenew && r.Kind != backend.RolloverRekey:
		return nil, backend.Refuse(codes.InvalidArgument, "no ID, or no such kind of rollover: %q", r.Kind)
	case r.Issuer != "" && r.Issuer != "ec":
		return nil, backend.Refuse(codes.InvalidArgument, "no CA is named %q", r.Issuer)
	}
	want := *r
	want.Issuer = "ec"
	m.mu.Lock()
	defer m.mu.Unlock()
	known := false
	for _, done := range m.rollovers() {
		if done.ID == r.ID {
			if done != want {
				return nil, backend.Refuse(codes.AlreadyExists, "ID %s stands for another rollover", r.ID)
			}
			known = true
		}
	}
	if a := m.announced; !known && a != nil && (r.Announce || a.told.Kind != r.Kind || a.told.Root != r.Root) {
		return nil, backend.Refuse(codes.FailedPrecondition, "another rollover is announced")
	}
	if !known {
		if err := m.record(journalLine{Rollover: &want}); err != nil {
			return nil, backend.Refuse(codes.Unavailable, "journal: %v", err)
		}
		m.roll(want)
	}
	ca := m.describe()
	return &ca, nil
}

// rollovers lists the requests that were answered. It needs the lock.
func (m *Memory) rollovers() []backend.RolloverRequest {
	var all []backend.RolloverRequest
	for _, g := range m.generations {
		all = append(all, g.made, g.told)
	}
	if m.announced != nil {
		all = append(all, m.announced.told)
	}
	return all
}

// roll makes the next generation, or announces it, or puts the announced one in force. It needs the lock.
func (m *Memory) roll(r backend.RolloverRequest) {
	if m.announced != nil {
		next := *m.announced
		next.made, m.announced = r, nil
		m.enforce(next)
		return
	}
	n := len(m.generations)
	old := m.generations[n-1]
	next := memoryGeneration{made: r, key: old.key, rootKey: old.rootKey, root: old.root}
	if r.Announce {
		next.made, next.told = backend.RolloverRequest{}, r
	}
	rekey := r.Kind == backend.RolloverRekey
	if rekey {
		next.key = m.derive(fmt.Sprintf("issuing/%d", n))
	}
	serial := int64(10 * n)
	if r.Root {
		if rekey {
			next.rootKey = m.derive(fmt.Sprintf("root/%d", n))
		}
		next.root = m.ca(memoryRoot, serial+1, next.rootKey, nil, next.rootKey)
		if rekey {
			next.oldWithNew = m.ca(memoryRoot, serial+3, old.rootKey, next.root, next.rootKey)
			next.newWithOld = m.ca(memoryRoot, serial+4, next.rootKey, old.root, old.rootKey)
		}
	}
	next.issuing = m.ca(memoryIssuing, serial+2, next.key, next.root, next.rootKey)
	if r.Announce {
		m.announced = &next
		return
	}
	m.enforce(next)
}

// enforce issues by a generation from now on. It needs the lock.
func (m *Memory) enforce(next memoryGeneration) {
	m.generations = append(m.generations, next)
	m.key, m.issuing, m.root = next.key, next.issuing, next.root
}

// describe is the CA with all that was before. It needs the lock.
func (m *Memory) describe() backend.CA {
	last := len(m.generations) - 1
	ca := backend.CA{Name: "ec", Chain: m.generations[last].chain(), CRLs: []string{"ec"}}
	if m.announced != nil {
		ca.Next = m.announced.chain()
	}
	seen := map[string]bool{}
	for _, der := range ca.Chain {
		seen[string(der)] = true
	}
	for n := last; n >= 0; n-- {
		g := &m.generations[n]
		for _, c := range []*x509.Certificate{g.root, g.oldWithNew, g.newWithOld, g.issuing} {
			if c != nil && !seen[string(c.Raw)] {
				seen[string(c.Raw)] = true
				ca.Rollover = append(ca.Rollover, bytes.Clone(c.Raw))
			}
		}
		if n == 0 || m.generations[n-1].key != g.key {
			ca.CRLs = append(ca.CRLs, crlName(n))
		}
	}
	return ca
}

// crlName is the name of the CRL of the key that came with a generation.
func crlName(generation int) string { return fmt.Sprintf("ec.%d", generation+1) }

// crlNamed finds a generation of the key whose CRL has the name, nil for none. It needs the lock.
func (m *Memory) crlNamed(name string) *memoryGeneration {
	if name == "" || name == "ec" {
		return &m.generations[len(m.generations)-1]
	}
	for n := range m.generations {
		if crlName(n) == name && (n == 0 || m.generations[n-1].key != m.generations[n].key) {
			return &m.generations[n]
		}
	}
	return nil
}
