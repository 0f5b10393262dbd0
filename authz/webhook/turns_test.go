package webhook

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
)

// Who waits is bounded, and one device has no more than its share: others are asked about all the same.
func TestTurns(t *testing.T) {
	turns := newTurns(8)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	var back []func()
	for range 8 / deviceShare {
		giveBack, err := turns.take(t.Context(), "greedy")
		if err != nil {
			t.Fatal(err)
		}
		back = append(back, giveBack)
	}
	if _, err := turns.take(t.Context(), "greedy"); err == nil || !strings.Contains(err.Error(), "2 questions about the same device are under way") {
		t.Errorf("one more of the same device: %v", err)
	}
	for range 6 {
		giveBack, err := turns.take(t.Context(), "")
		if err != nil {
			t.Fatalf("of who is not known: %v", err)
		}
		back = append(back, giveBack)
	}
	if _, err := turns.take(gone, "other"); !errors.Is(err, context.Canceled) || len(turns.by) != 1 || turns.asking != 8 {
		t.Errorf("%v, %+v", err, turns.by)
	}
	// As many as may wait.
	ctx, end := context.WithCancel(t.Context())
	waited := make(chan error)
	for range maxWaiting {
		if err := turns.enter(""); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := turns.take(ctx, ""); err == nil || !strings.Contains(err.Error(), "8 questions are under way, and 128 wait") {
		t.Errorf("%v", err)
	}
	for range maxWaiting {
		turns.leave("")
	}
	// One that waits has the turn that is given back.
	go func() {
		giveBack, err := turns.take(ctx, "other")
		if err == nil {
			giveBack()
		}
		waited <- err
	}()
	for _, giveBack := range back {
		giveBack()
	}
	if err := <-waited; err != nil {
		t.Error(err)
	}
	end()
	if turns.asking != 0 || len(turns.by) != 0 || len(turns.under) != 0 {
		t.Errorf("%d are asking, %v", turns.asking, turns.by)
	}
}

// A device's share is what Ask goes by.
func TestDevicesShare(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	p := newPeer(t, false, func(n int, w http.ResponseWriter, r *http.Request) {
		if n == 0 {
			entered <- struct{}{}
			<-release
		}
		says("application/json", goodReply)(n, w, r)
	})
	s := made(t, Config{URL: p.URL, Concurrency: 4}, "")
	ask := func(device string) error {
		var a reply
		return s.Ask(t.Context(), device, "k", question{hidden}, &a, asking)
	}
	errs := make(chan error)
	go func() { errs <- ask("greedy") }()
	<-entered
	if err := ask("greedy"); err == nil || !strings.Contains(err.Error(), "the same device") {
		t.Errorf("a second one: %v", err)
	}
	if err := ask("other"); err != nil {
		t.Errorf("another device: %v", err)
	}
	close(release)
	if err := <-errs; err != nil {
		t.Error(err)
	}
	if err := ask("greedy"); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}
