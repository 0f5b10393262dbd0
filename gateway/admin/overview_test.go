package admin

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// An overview counts each step once, the newest ones anew after a while, and the remembered refusals beside them.
func TestOverview(t *testing.T) {
	s := &source{strangers: []*gateway.Transaction{
		transaction(2, gateway.StateRefused, nil), transaction(1, gateway.StateRefused, nil),
		transaction(0, gateway.StateRefused, func(x *gateway.Transaction) { x.Received = noon.AddDate(0, 0, -2) }),
	}}
	server := newServer(t, s)
	at := noon.Add(30 * time.Minute)
	server.config.Clock = func() time.Time { return at }
	api := server.As(Person{"cert:CN=alice", Viewer})
	o, err := api.Overview(t.Context(), "")
	if err != nil || o.Steps != 24 || o.Missing != 0 || len(s.tallied) != 24 || !o.From.Equal(noon.Add(-23*time.Hour)) || len(o.Ending) != endingSteps {
		t.Fatalf("%+v %v, %d counted", o, err, len(s.tallied))
	}
	strangers := int64(0)
	for _, r := range o.Requests {
		if r.Remembered {
			strangers += r.Count
		} else if r.Count != int64(r.From.Hour()) {
			t.Errorf("%+v", r)
		}
	}
	if strangers != 2 {
		t.Errorf("%d strangers: %+v", strangers, o.Requests)
	}
	at = at.Add(goodNew - 1)
	if _, err := api.Overview(t.Context(), "day"); err != nil || len(s.tallied) != 24 {
		t.Errorf("%v, %d counted", err, len(s.tallied))
	}
	at = at.Add(1)
	if _, err := api.Overview(t.Context(), "day"); err != nil || len(s.tallied) != 26 || !s.tallied[25].Equal(noon.Add(-time.Hour)) {
		t.Errorf("%v, %d counted, the newest two are due", err, len(s.tallied))
	}
	at = noon.Add(30*time.Minute + goodOld)
	if _, err := api.Overview(t.Context(), "day"); err != nil || len(s.tallied) != 26+24 {
		t.Errorf("%v, %d counted, all are due", err, len(s.tallied))
	}
	at = at.AddDate(0, 2, 0)
	if _, err := api.Overview(t.Context(), "month"); err != nil || len(server.counts.steps) != 30 {
		t.Errorf("%v, %d steps are kept", err, len(server.counts.steps))
	}
	if _, err := api.Overview(t.Context(), "year"); !isStatus(err, http.StatusBadRequest) {
		t.Error(err)
	}
	s.err = errors.New("disk on fire")
	if _, err := api.Overview(t.Context(), "week"); !isStatus(err, http.StatusServiceUnavailable) {
		t.Error(err)
	}
}

// Who does not wait any longer leaves, whoever else counts.
func TestOverviewLeft(t *testing.T) {
	server := newServer(t, &source{})
	server.counts.lock <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		_, err := server.As(Person{"a", Viewer}).Overview(ctx, "")
		ended <- err
	}()
	cancel()
	if err := <-ended; err == nil {
		t.Error("an answer")
	}
	<-server.counts.lock
	if _, err := server.As(Person{"a", Viewer}).Overview(t.Context(), ""); err != nil {
		t.Error(err)
	}
}

func isStatus(err error, status int) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Status == status
}

// Calls from inside pass the same handlers as all others: the role is asked for, and a handler that panics ends one call alone.
func TestInside(t *testing.T) {
	s := &source{stored: []*gateway.Transaction{transaction(1, gateway.StateHeld, nil)}}
	server := newServer(t, s)
	for role, status := range map[Role]int{nobody: http.StatusUnauthorized, Viewer: http.StatusForbidden, Approver: 0} {
		_, err := server.As(Person{"oidc:carol", role}).Approve(t.Context(), id(1), "fine")
		if status == 0 && err != nil || status != 0 && !isStatus(err, status) {
			t.Errorf("%s: %v", role, err)
		}
		if server.May(Person{"oidc:carol", role}, "POST", "/v1/transactions/:id/approve") != (status == 0) {
			t.Errorf("%s: offered otherwise", role)
		}
	}
	if s.approved != "approve "+id(1)+" oidc:carol fine" {
		t.Error(s.approved)
	}
	if server.May(Person{"a", Admin}, "POST", "/v1/nothing") {
		t.Error("what there is not is offered")
	}
	if _, err := server.As(Person{"", Admin}).Status(t.Context()); !isStatus(err, http.StatusUnauthorized) {
		t.Errorf("somebody without a name: %v", err)
	}
	server.config.Backends = nil // a fault
	if _, err := server.As(Person{"a", Admin}).Status(t.Context()); !isStatus(err, http.StatusInternalServerError) {
		t.Errorf("a panic: %v", err)
	}
	if list, err := server.As(Person{"a", Viewer}).Pipelines(t.Context()); err != nil || list.Pipelines == nil {
		t.Errorf("%v %v", list, err)
	}
}

// What a console's configuration lacks is said with its key.
func TestConsoleConfig(t *testing.T) {
	good := func() *RemoteConfig {
		return &RemoteConfig{Address: "127.0.0.1:1", Console: &ConsoleConfig{OIDC: &OIDCConfig{
			Issuer: "https://idp.example/realm", ClientID: "muster", URL: "https://muster.example:9443", Roles: map[string]string{"ops": "admin"}}}}
	}
	if key, err := good().Check(); err != nil {
		t.Errorf("%v %v", key, err)
	}
	for want, change := range map[string]func(*RemoteConfig){
		"console":                func(c *RemoteConfig) { c.Console.OIDC, c.Tokens = nil, "tokens" },
		"console.session":        func(c *RemoteConfig) { c.Console.Session = 1 },
		"console.oidc.issuer":    func(c *RemoteConfig) { c.Console.OIDC.Issuer = "http://idp.example" },
		"console.oidc.url":       func(c *RemoteConfig) { c.Console.OIDC.URL = "https://muster.example/console" },
		"console.oidc.client-id": func(c *RemoteConfig) { c.Console.OIDC.ClientID = "" },
		"console.oidc.roles":     func(c *RemoteConfig) { c.Console.OIDC.Roles = nil },
		"console.oidc.roles.ops": func(c *RemoteConfig) { c.Console.OIDC.Roles["ops"] = "king" },
	} {
		c := good()
		change(c)
		key, err := c.Check()
		if got := joined(key); err == nil || got != want {
			t.Errorf("%s: %s %v", want, got, err)
		}
	}
}

func joined(key []string) (s string) {
	for i, k := range key {
		if i > 0 {
			s += "."
		}
		s += k
	}
	return s
}
