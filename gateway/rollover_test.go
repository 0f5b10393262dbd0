package gateway_test

import (
	"context"
	"errors"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// ordering is a roller that says whether it was asked, and may refuse.
type ordering struct {
	roller
	asked int
	err   error
}

func (r *ordering) Rollover(ctx context.Context, q *backend.RolloverRequest) (*backend.CA, error) {
	r.asked++
	if r.err != nil {
		return nil, r.err
	}
	return r.roller.Rollover(ctx, q)
}

// The audit trail has the order before the CA is told, and the outcome before anybody else is: where it cannot be written,
// the CA is not told, or the operator asks again.
func TestRolloverIsAudited(t *testing.T) {
	records, failing := 0, 0
	s := &watched{}
	s.record = func() error {
		if records++; records == failing {
			return errors.New("the disk is full")
		}
		return nil
	}
	w := newWorld(t, backendtest.FaultPlan{}, watch(s))
	r := &ordering{roller: roller{&publisher{Backend: w.memory}, backendtest.NewMemory(backendtest.MemoryOptions{Seed: "next", Clock: w.clock.now})}}
	w.publish(r)
	for _, x := range []struct {
		what           string
		failing        int
		err            error
		asked, records int
		reason         gateway.Reason
	}{
		{"the order is not recorded", 1, nil, 0, 1, gateway.Unavailable},
		{"the outcome is not recorded", 2, nil, 1, 2, gateway.Unavailable},
		{"the CA refuses", 0, backend.Refuse(codes.FailedPrecondition, "no root key"), 1, 1, gateway.NotAuthorized},
		{"the CA does not answer", 0, backend.Refuse(codes.Unavailable, "away"), 1, 1, gateway.Unavailable},
		{"all is well", 0, nil, 1, 2, ""},
	} {
		records, failing, r.asked, r.err = 0, x.failing, 0, x.err
		_, err := w.gw.Rollover(t.Context(), "ca", &backend.RolloverRequest{ID: "1", Kind: backend.RolloverRekey}, "op")
		var reason gateway.Reason
		if e, ok := errors.AsType[*gateway.Error](err); ok {
			reason = e.Reason
		}
		if reason != x.reason || r.asked != x.asked || records != x.records {
			t.Errorf("%s: %v, %d calls, %d events", x.what, err, r.asked, records)
		}
	}
}
