package host_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/host"
)

// away is a configuration whose CA does not answer, in one way, and the file that says so.
func away(t *testing.T, how string) (c host.Config, file, version string) {
	t.Helper()
	dir := t.TempDir()
	file, version = filepath.Join(dir, "away"), filepath.Join(dir, "version")
	c, _ = config(t, "away: "+file+"\nversion: "+version)
	c.BackoffMax = 10 * time.Millisecond
	if err := os.WriteFile(file, []byte(how), 0o600); err != nil {
		t.Fatal(err)
	}
	return c, file, version
}

// described is what the scripted plugin says of itself.
func described(t *testing.T) *backend.Description {
	t.Helper()
	d, err := newScripted().Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(d.Capabilities) // as the host has them
	return d
}

// A plugin whose CA does not answer is started with what it was known by, and is there when the CA is; without that it is not, and
// neither is one that refuses or dies.
func TestAssume(t *testing.T) {
	t.Parallel()
	for how, unanswered := range map[string]bool{"": true, "refuse": false, "die": false} {
		c, _, _ := away(t, how)
		if _, err := host.Start(t.Context(), c); err == nil || host.IsUnanswered(err) != unanswered {
			t.Errorf("%q, nothing known: %v", how, err)
		}
		c.Assume = described(t)
		if p, err := host.Start(t.Context(), c); (err == nil) != unanswered {
			t.Errorf("%q, known: %v", how, err)
		} else if err == nil {
			p.Close(t.Context()) //nolint:errcheck // no call is under way
		}
	}

	c, file, _ := away(t, "")
	c.Assume = described(t)
	c.Assume.Version = "of last year"
	restarts := 0
	c.OnRestart = func(string) { restarts++ }
	p := start(t, c)
	if _, err := p.Inquire(t.Context()); err == nil || !strings.Contains(err.Error(), "the CA is away") || !p.Assumed() || p.Healthy() == nil || p.PID() != 0 {
		t.Errorf("while the CA is away: %v, assumed %v, %v", err, p.Assumed(), p.Healthy())
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if cas, err := p.CACertificates(t.Context()); err != nil || len(cas) == 0 {
		t.Errorf("%d CAs, %v", len(cas), err)
	}
	if p.Restarts() != 0 || restarts != 0 || p.Healthy() != nil {
		t.Errorf("its first start counts as a restart: %d, %d; %v", p.Restarts(), restarts, p.Healthy())
	}
}

// One that comes back and is another is not run.
func TestAssumedOtherwise(t *testing.T) {
	t.Parallel()
	c, file, _ := away(t, "")
	c.Assume = described(t)
	c.Assume.Forms = []backend.Form{backend.FormPKCS10}
	p := start(t, c)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	var err error
	for range 1000 {
		if _, err = p.Inquire(t.Context()); errors.Is(err, host.ErrOtherwise) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if !errors.Is(err, host.ErrOtherwise) || p.PID() != 0 {
		t.Errorf("%v, PID %d", err, p.PID())
	}
}

// A plugin that is held is asked nothing but for its CAs by Inquire.
func TestHold(t *testing.T) {
	t.Parallel()
	c, _ := config(t, "")
	p := start(t, c)
	why := errors.New("not looked at yet")
	p.Hold(why)
	calls := map[string]error{}
	_, calls["Issue"] = p.Issue(t.Context(), request("held-1"))
	_, calls["Lookup"] = p.Lookup(t.Context(), &backend.IssueRequest{ID: "held-1"})
	_, calls["CACertificates"] = p.CACertificates(t.Context())
	calls["Revoke"] = p.Revoke(t.Context(), &backend.RevokeRequest{Serial: []byte{1}})
	for name, err := range calls {
		if status.Code(err) != codes.Unavailable || !backend.IsNotAsked(err) || !strings.Contains(err.Error(), "not looked at yet") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !errors.Is(p.Healthy(), why) || !errors.Is(p.Held(), why) {
		t.Errorf("healthy: %v, held: %v", p.Healthy(), p.Held())
	}
	if cas, err := p.Inquire(t.Context()); err != nil || len(cas) == 0 {
		t.Errorf("Inquire: %v", err)
	}
	p.Unhold()
	if _, err := p.Issue(t.Context(), request("held-1")); err != nil || p.Healthy() != nil {
		t.Errorf("after it: %v, %v", err, p.Healthy())
	}
}
