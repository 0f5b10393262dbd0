package admin

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
)

func (s *source) configuration() Configuration {
	return Configuration{File: "muster.yaml", SHA256: "00ff", Since: noon, Watched: true, LastReload: &ReloadOutcome{At: noon, By: "signal", Error: "muster.yaml:3: no"}}
}

func (s *source) reload(_ context.Context, actor string) (*Reload, error) {
	if s.faulty != nil {
		return nil, s.faulty
	}
	s.reloaded = append(s.reloaded, actor)
	return &Reload{Configuration: s.configuration(), Endpoints: Changes{Added: []string{"ran"}}, Backends: BackendChanges{Kept: []string{"local"}}}, nil
}

// An order to reload says what changed, or all that is wrong as it is; that nobody can tell is another answer.
func TestReload(t *testing.T) {
	s := &source{}
	c, _ := serve(t, s)
	done, err := c.Reload(t.Context())
	if err != nil || !reflect.DeepEqual(done.Endpoints.Added, []string{"ran"}) || done.Configuration.SHA256 != "00ff" || !reflect.DeepEqual(done.Backends.Kept, []string{"local"}) {
		t.Errorf("%+v, %v", done, err)
	}
	if len(s.reloaded) != 1 || !strings.HasPrefix(s.reloaded[0], "unix:") {
		t.Errorf("by %v", s.reloaded)
	}
	const wrong = "muster.yaml:3: unknown key \"a\"\nmuster.yaml:9: unknown key \"b\""
	for _, tc := range []struct {
		err    error
		status int
		says   string
	}{
		{&NotReloadedError{errors.New(wrong)}, 422, wrong},
		{errors.New("the audit trail cannot take the reload"), 503, "the audit trail cannot take the reload"},
	} {
		s.faulty = tc.err
		_, err := c.Reload(t.Context())
		if e, ok := errors.AsType[*Error](err); !ok || e.Status != tc.status || !strings.Contains(e.Message, tc.says) {
			t.Errorf("%v: %#v", tc.err, err)
		}
	}
	s.starting = true
	if _, err := c.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "is starting") {
		t.Errorf("%v", err)
	}
}

// The status tells which configuration runs, once one does.
func TestStatusTellsTheConfiguration(t *testing.T) {
	s := &source{starting: true}
	c, _ := serve(t, s)
	if st, err := c.Status(t.Context()); err != nil || st.Configuration != nil {
		t.Errorf("%+v, %v", st, err)
	}
	s.starting = false
	st, err := c.Status(t.Context())
	if err != nil || st.Configuration == nil || st.Configuration.LastReload == nil || st.Configuration.LastReload.Good || st.Configuration.LastReload.Error == "" || !st.Configuration.Watched {
		t.Errorf("%+v, %v", st, err)
	}
}
