package gateway_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// dies runs what passes the crash point, and starts anew.
func (w *world) dies(crash *string, at string, do func()) {
	w.t.Helper()
	*crash = at
	func() {
		defer func() {
			if recover() == nil {
				w.t.Fatalf("%s was not passed", at)
			}
		}()
		do()
	}()
	w.restart()
}

func crashing(crash *string) func(*world) {
	return func(w *world) {
		w.opts.Crash = func(at string) {
			if at == *crash {
				*crash = ""
				panic("crash at " + at)
			}
		}
	}
}

// Wherever the gateway dies, over the first key or another: who asks again gets a key in the end, with the one certificate that
// is valid, and is counted once.
func TestBareKeyOverCrash(t *testing.T) {
	for _, point := range gateway.CrashPoints {
		for _, deliveries := range []int{0, 1, 2} {
			t.Run(fmt.Sprint(point, " ", deliveries), func(t *testing.T) {
				crash, judged := "", 0
				w := newWorld(t, backendtest.FaultPlan{}, countedOnce(&judged), crashing(&crash))
				s := &bareSeal{}
				r := w.bare("device-1", s)
				for range deliveries {
					w.gets(w.again(r), s)
				}
				w.dies(&crash, point, func() { w.gw.Enroll(t.Context(), w.again(r)) }) //nolint:errcheck // it does not return
				if point == gateway.CrashAfterIntent || point == gateway.CrashAfterIssue {
					made := len(s.keys)
					if res := w.mustEnroll(w.again(r)); res.Kind != gateway.ResultPending || res.Key != nil || res.RetryAfter == 0 || len(s.keys) != made {
						t.Errorf("while nobody knows: %+v, %d keys", res, len(s.keys)-made)
					}
				}
				w.work(time.Minute)
				last := w.gets(w.again(r), s)
				w.work(0)
				w.onlyValid(last.Transaction)
				if w.used(r) != 1 {
					t.Errorf("%d uses", w.used(r))
				}
			})
		}
	}
}

// Where the CA's answer is not known the key is gone: pending, and another one once it is.
func TestBareKeyOfUnknownOutcome(t *testing.T) {
	judged, lost := 0, true
	w := newWorld(t, backendtest.FaultPlan{}, countedOnce(&judged))
	w.twist(&twisted{issue: lostOnce(w, &lost)})
	s := &bareSeal{}
	r := w.bare("device-1", s)
	for range 2 {
		if res := w.mustEnroll(w.again(r)); res.Kind != gateway.ResultPending || res.Key != nil || len(s.keys) != 1 {
			t.Fatalf("%+v, %d keys", res, len(s.keys))
		}
	}
	if !bytes.Equal(s.out[0], make([]byte, len(s.out[0]))) {
		t.Error("a key that nobody is given stays in memory")
	}
	w.work(time.Minute)
	first := w.transactions()[0]
	if first.State != gateway.StateIssued || !strings.Contains(first.Note, "with a key that is gone") {
		t.Errorf("%+v", first)
	}
	last := w.gets(w.again(r), s)
	w.work(0)
	w.onlyValid(last.Transaction)
	if len(s.keys) != 2 || w.used(r) != 1 {
		t.Errorf("%d keys, %d uses", len(s.keys), w.used(r))
	}
}

// The store fails when another key is recorded, before it or on its way back: the client is told to come back, and gets one.
func TestStoreFailsADelivery(t *testing.T) {
	for _, lost := range []bool{false, true} {
		judged, s := 0, &watched{}
		w := newWorld(t, backendtest.FaultPlan{}, countedOnce(&judged), watch(s))
		seal := &bareSeal{}
		r := w.bare("device-1", seal)
		first := w.gets(r, seal)
		f := &failing{call: "Supersede", nth: 1, lost: lost}
		s.fails = f.fails
		if _, err := w.gw.Enroll(t.Context(), w.again(r)); reason(err) != gateway.Unavailable || !f.hit {
			t.Fatalf("%v, failed %t", err, f.hit)
		}
		s.fails = nil
		if w.revoked(first.Transaction) != lost {
			t.Errorf("lost %t: revoked %t", lost, w.revoked(first.Transaction))
		}
		w.work(time.Minute)
		last := w.gets(w.again(r), seal)
		w.work(0)
		w.onlyValid(last.Transaction)
		if w.used(r) != 1 {
			t.Errorf("%d uses", w.used(r))
		}
	}
}
