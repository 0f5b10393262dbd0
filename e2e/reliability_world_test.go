//go:build reliability

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/muster-pki/muster/backends/local"
	"github.com/muster-pki/muster/gateway/admin"
)

// records are what gateway and CA have on disk, by what clients know of it.
type records struct {
	ledger     map[string][]local.Entry       // by common name
	store      map[string][]admin.Transaction // likewise
	challenges map[string]admin.Challenge     // by ID
	strays     []string                       // IDs in the ledger of which the store knows nothing
}

// records reads them, from a gateway that runs.
func (g *instance) records() *records {
	g.t.Helper()
	// The ledger first: what is issued meanwhile has its intent in the store before.
	ledger, err := local.ReadLedger(g.t.Context(), filepath.Join(g.dir, "ca"))
	if err != nil {
		g.t.Fatal(err)
	}
	r := &records{ledger: map[string][]local.Entry{}, store: map[string][]admin.Transaction{}, challenges: map[string]admin.Challenge{}}
	intents := map[string]bool{}
	for _, tr := range listing[admin.Transaction](g, "--limit", "1000000") {
		intents[tr.ID] = true
		name := commonName(tr.Subject)
		r.store[name] = append(r.store[name], tr)
	}
	for _, e := range ledger {
		name := commonName(e.Subject)
		r.ledger[name] = append(r.ledger[name], e)
		if !intents[e.ID] {
			r.strays = append(r.strays, e.ID)
		}
	}
	var challenges []admin.Challenge
	if err := json.Unmarshal([]byte(g.muster("challenge", "ls", "--json", "--limit", "1000000")), &challenges); err != nil {
		g.t.Fatal(err)
	}
	for _, c := range challenges {
		r.challenges[c.ID] = c
	}
	return r
}

func commonName(subject string) string {
	_, cn, _ := strings.Cut(subject, "CN=")
	cn, _, _ = strings.Cut(cn, ",")
	return cn
}

// lacks says what is missing of what a client was told, "" when all of it is there, in the same form.
func (r *records) lacks(t promise) string {
	c, known := r.challenges[t.name]
	switch t.what {
	case toldChallenge:
		if !known {
			return "the challenge is gone"
		}
		return ""
	case toldSpent:
		if !known || c.Used != 1 {
			return fmt.Sprintf("the challenge is good again: %+v", c)
		}
		return ""
	}
	// A name has one transaction, but for refusals.
	at := slices.IndexFunc(r.store[t.name], func(tx admin.Transaction) bool { return tx.State != "refused" })
	if at < 0 {
		return "the store knows nothing of it"
	}
	tx := r.store[t.name][at]
	switch t.what {
	case toldApproved:
		if tx.Hold == nil || len(tx.Hold.Approvals) == 0 {
			return "it is not approved, but " + tx.State
		}
	case toldConfirmed:
		if tx.State != "issued" {
			return "it is not confirmed, but " + tx.State
		}
	case toldRevoked:
		if tx.Certificate == nil || tx.Certificate.RevokedAt == nil {
			return "it is not revoked, but " + tx.State
		}
	case toldCertificate:
		if tx.Certificate == nil || !slices.Contains([]string{"issued", "unconfirmed", "rejected"}, tx.State) {
			return "it has no certificate, but is " + tx.State
		}
		if !slices.ContainsFunc(r.ledger[t.name], func(e local.Entry) bool { return e.ID == tx.ID && bytes.Equal(e.Certificate, t.cert) }) {
			return "the ledger has not got the certificate"
		}
	default:
		return "the test does not know what " + t.what + " means"
	}
	return ""
}

// twice lists what was issued or spent more than once.
func (r *records) twice() (all []string) {
	for name, l := range r.ledger {
		if len(l) > 1 && strings.HasPrefix(name, "reliable-") {
			all = append(all, fmt.Sprintf("%s: %d certificates", name, len(l)))
		}
	}
	for id, c := range r.challenges {
		if c.Used > c.Uses {
			all = append(all, fmt.Sprintf("challenge %s: spent %d times of %d", id, c.Used, c.Uses))
		}
	}
	return all
}

// compare holds the records against what clients were told, and tells what is wrong.
func (g *instance) compare(r *records, heard []promise) (lost, twice int) {
	g.t.Helper()
	for _, t := range heard {
		if why := r.lacks(t); why != "" {
			if lost++; lost <= 20 {
				g.t.Errorf("lost: %s was told %s: %s", t.name, t.what, why)
			}
		}
	}
	again := r.twice()
	for _, why := range again {
		g.t.Errorf("twice: %s", why)
	}
	for _, id := range r.strays {
		g.t.Errorf("the ledger has %s, the store has no intent of it", id)
	}
	return lost, len(again)
}
