package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/muster-pki/muster/gateway"
)

const (
	idLength   = 26   // of gateway.NewID
	minPart    = 6    // characters of an ID that may stand for it
	scanPage   = 500  // transactions read at once
	scanned    = 5000 // newest transactions among which the end of an ID is looked for
	candidates = 5    // shown of an ambiguous part
)

// misread undoes what a person makes of an ID read off a screen: its alphabet has no i, l, o and u, and no capitals.
var misread = strings.NewReplacer("i", "1", "l", "1", "o", "0", "-", "", " ", "")

// find returns the transaction whose ID, or whose ID's beginning or end, is given.
func (s *Server) find(ctx context.Context, given string) (*gateway.Transaction, error) {
	if len(given) > 4*idLength {
		return nil, badRequest("a transaction ID has %d characters", idLength)
	}
	part := misread.Replace(strings.ToLower(strings.TrimSpace(given)))
	// What completes part to an ID must leave one.
	if len(part) > idLength || !gateway.ValidID(part+strings.Repeat("0", idLength-len(part))) {
		return nil, badRequest("%q is no transaction ID: it has %d characters of 0-9 and a-z without i, l, o and u", given, idLength)
	}
	if len(part) < minPart {
		return nil, badRequest("%q is too short: give at least the first or the last %d characters of the ID", given, minPart)
	}
	if len(part) == idLength {
		t, err := s.config.Gateway.Explain(ctx, part)
		if errors.Is(err, gateway.ErrNotFound) {
			return nil, notFound(part)
		}
		return t, err
	}
	ids, err := s.beginning(ctx, part)
	if err == nil && len(ids) == 0 {
		ids, err = s.ending(ctx, part)
	}
	switch {
	case err != nil:
		return nil, err
	case len(ids) == 0:
		return nil, notFound(part)
	case len(ids) > 1:
		return nil, &refusal{
			status: http.StatusConflict, candidates: ids[:min(len(ids), candidates)],
			message: fmt.Sprintf("%q stands in more than one ID: give more of it", part),
		}
	}
	t, err := s.config.Gateway.Explain(ctx, ids[0])
	if errors.Is(err, gateway.ErrNotFound) {
		return nil, notFound(part) // a stranger's refusal that was pushed out just now
	}
	return t, err
}

func notFound(part string) error {
	message := fmt.Sprintf("no transaction %s: refusals of those who did not authenticate are kept in memory only, and lost with a restart or when many more follow; "+
		"what ended is swept in time (retention), and the audit trail may still have it: muster audit export --transaction %s", part, part)
	if len(part) < idLength {
		message = fmt.Sprintf("no transaction whose ID begins with %s, nor one of the newest %d whose ID ends with it: refusals of those who did not authenticate are kept in memory only, and lost with a restart or when many more follow", part, scanned)
	}
	return &refusal{status: http.StatusNotFound, message: message}
}

// beginning lists the IDs that begin with the part: IDs sort by time, so they stand together.
func (s *Server) beginning(ctx context.Context, part string) ([]string, error) {
	// "zz..." one longer than an ID is behind all that begin with the part.
	after := part + strings.Repeat("z", idLength+1-len(part))
	found, err := s.config.Store.Transactions(ctx, gateway.TransactionFilter{Before: after, Limit: candidates + 1})
	if err != nil {
		return nil, err
	}
	return s.matching(found, func(id string) bool { return strings.HasPrefix(id, part) }), nil
}

// ending lists the IDs that end with the part, among the newest.
func (s *Server) ending(ctx context.Context, part string) ([]string, error) {
	var all []*gateway.Transaction
	before := ""
	for len(all) < scanned {
		page, err := s.config.Store.Transactions(ctx, gateway.TransactionFilter{Before: before, Limit: scanPage})
		if err != nil {
			return nil, err
		}
		all = append(all, page...)
		if len(page) < scanPage {
			break
		}
		before = page[len(page)-1].ID
	}
	return s.matching(all, func(id string) bool { return strings.HasSuffix(id, part) }), nil
}

// matching lists the IDs that match, of the transactions found and of the strangers' refusals.
func (s *Server) matching(found []*gateway.Transaction, match func(id string) bool) []string {
	var ids []string
	for _, t := range slices.Concat(found, s.config.Gateway.Strangers(maxStrangers)) {
		if match(t.ID) && !slices.Contains(ids, t.ID) {
			ids = append(ids, t.ID)
		}
	}
	return ids
}
