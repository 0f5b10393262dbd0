package store

import (
	"context"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// counting is answered by the index transactions_state alone, without sorting anything.
const counting = `SELECT count(CASE WHEN protocol = 'cmp' THEN 1 END), count(CASE WHEN protocol = 'est' THEN 1 END), count(CASE WHEN protocol = 'scep' THEN 1 END), count(CASE WHEN protocol = 'mdm' THEN 1 END)
	FROM transactions WHERE state = $1 AND id >= $2 AND id < $3`

const counted = `SELECT count(*) FROM certificates WHERE not_after >= $1 AND not_after < $2 AND revoked_at = 0`

// tallied are what counting counts.
var tallied = [...]gateway.Protocol{gateway.CMP, gateway.EST, gateway.SCEP, gateway.MDM}

// Tallies counts the transactions that began from a time on until before another, by protocol and by the state in which they are
// now. It costs a walk through the index entries of that time.
func (s *Store) Tallies(ctx context.Context, from, until time.Time) ([]gateway.Tally, error) {
	var out []gateway.Tally
	for _, state := range gateway.States {
		var n [len(tallied)]int64
		if err := s.readDB.QueryRowContext(ctx, counting, string(state), gateway.FirstID(from), gateway.FirstID(until)).Scan(&n[0], &n[1], &n[2], &n[3]); err != nil {
			return nil, err
		}
		for i, protocol := range tallied {
			if n[i] > 0 {
				out = append(out, gateway.Tally{Protocol: protocol, State: state, Count: n[i]})
			}
		}
	}
	return out, nil
}

// Endings counts the certificates that end in each of n steps from a time on, and are not revoked.
func (s *Store) Endings(ctx context.Context, from time.Time, step time.Duration, n int) ([]int64, error) {
	out := make([]int64, n)
	for i := range out {
		next := from.Add(step)
		if err := s.readDB.QueryRowContext(ctx, counted, micros(from), micros(next)).Scan(&out[i]); err != nil {
			return nil, err
		}
		from = next
	}
	return out, nil
}
