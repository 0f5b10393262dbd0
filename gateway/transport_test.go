package gateway_test

import (
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// What is carried in a file waits for its confirmation as long as the request says, not the endpoint, and is shown as such.
func TestCarried(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{})
	carried := w.exchange(w.request("device-1"), "a")
	carried.Transport, carried.ConfirmWait = "file", 14*24*time.Hour
	w.mustEnroll(carried)
	sent := w.exchange(w.request("device-2"), "b")
	w.mustEnroll(sent)
	got, err := w.store.Transaction(t.Context(), carried.ID)
	if err != nil || got.Source != "file" || got.ConfirmWait != 14*24*time.Hour {
		t.Errorf("%+v, %v", got, err)
	}
	w.work(13 * 24 * time.Hour)
	if w.state(carried.ID) != gateway.StateUnconfirmed || w.state(sent.ID) != gateway.StateRejected {
		t.Errorf("carried %s, sent %s", w.state(carried.ID), w.state(sent.ID))
	}
	w.work(25 * time.Hour)
	w.work(time.Minute)
	if w.state(carried.ID) != gateway.StateRejected || !w.revoked(carried.ID) {
		t.Errorf("carried %s after its time", w.state(carried.ID))
	}
}
