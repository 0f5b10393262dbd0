package admin

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// reversing seals so that a test can see what was sealed, and for what.
type reversing struct{}

func (reversing) Seal(secret []byte, context ...string) []byte {
	turned := bytes.Clone(secret)
	slices.Reverse(turned)
	return append(turned, strings.Join(context, "|")...)
}

func (s *source) find(endpoint, reference string) int {
	return slices.IndexFunc(s.secrets, func(x *gateway.StoredSecret) bool { return x.Endpoint == endpoint && x.Reference == reference })
}

func (s *source) PutSecret(_ context.Context, x *gateway.StoredSecret, e gateway.AuditEvent) error {
	if i := s.find(x.Endpoint, x.Reference); i >= 0 {
		s.secrets = slices.Delete(s.secrets, i, i+1)
	}
	s.secrets = append(s.secrets, x)
	slices.SortFunc(s.secrets, func(a, b *gateway.StoredSecret) int {
		return cmp.Or(cmp.Compare(a.Endpoint, b.Endpoint), cmp.Compare(a.Reference, b.Reference))
	})
	s.audit = append(s.audit, e)
	return s.err
}

func (s *source) DropSecret(_ context.Context, endpoint, reference string, e gateway.AuditEvent) error {
	i := s.find(endpoint, reference)
	if i < 0 {
		return gateway.ErrNotFound
	}
	s.secrets = slices.Delete(s.secrets, i, i+1)
	s.audit = append(s.audit, e)
	return nil
}

func (s *source) Secret(_ context.Context, endpoint, reference string) (*gateway.StoredSecret, error) {
	if i := s.find(endpoint, reference); i >= 0 {
		return s.secrets[i], s.err
	}
	return nil, cmp.Or(s.err, gateway.ErrNotFound)
}

func (s *source) Secrets(_ context.Context, endpoint, afterEndpoint, afterReference string, limit int) ([]*gateway.StoredSecret, error) {
	var out []*gateway.StoredSecret
	for _, x := range s.secrets {
		if (endpoint == "" || x.Endpoint == endpoint) && len(out) < limit &&
			(x.Endpoint > afterEndpoint || x.Endpoint == afterEndpoint && x.Reference > afterReference) {
			out = append(out, x)
		}
	}
	return out, s.err
}

func status(err error) int {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Status
	}
	return 0
}

func TestSecrets(t *testing.T) {
	s := &source{}
	c, _ := serve(t, s)
	until := noon.Add(1000 * time.Hour)
	reference, value := []byte("sn\x00\xff|\n"), []byte("0123456789abcdef")
	got, err := c.AddSecret(t.Context(), NewSecret{Endpoint: "ran", Reference: reference, Secret: value, Device: "bts-1", NotAfter: &until})
	if err != nil || got.Endpoint != "ran" || !bytes.Equal(got.Reference, reference) || got.Device != "bts-1" || got.NotAfter == nil || !got.NotAfter.Equal(until) {
		t.Fatalf("%+v, %v", got, err)
	}
	kept := s.secrets[0]
	if string(kept.Sealed) != "fedcba9876543210secret|ran|"+string(reference)+"|bts-1" || kept.Reference != string(reference) || !kept.NotAfter.Equal(until) || kept.Created.IsZero() {
		t.Errorf("kept %+v", kept)
	}
	if _, err := c.AddSecret(t.Context(), NewSecret{Endpoint: "ran", Reference: reference, Secret: value}); status(err) != http.StatusConflict {
		t.Errorf("once more: %v", err)
	}
	if _, err := c.AddSecret(t.Context(), NewSecret{Endpoint: "ran", Reference: reference, Secret: value, Replace: true}); err != nil || len(s.secrets) != 1 || s.secrets[0].Device != "" || !s.secrets[0].NotAfter.IsZero() {
		t.Errorf("in the place of the first: %v, %+v", err, s.secrets)
	}
	if _, err := c.DropSecret(t.Context(), "ran", []byte("other")); status(err) != http.StatusNotFound {
		t.Errorf("one that is not there: %v", err)
	}
	if _, err := c.DropSecret(t.Context(), "ran", reference); err != nil || len(s.secrets) != 0 {
		t.Errorf("%v, %+v", err, s.secrets)
	}
	var kinds []string
	for _, e := range s.audit {
		kinds = append(kinds, e.Kind)
		if e.Endpoint != "ran" || e.At.IsZero() || e.Note != "reference hex:736e00ff7c0a" || !strings.HasPrefix(e.Actor, "unix:") {
			t.Errorf("audit: %+v", e)
		}
	}
	if strings.Join(kinds, " ") != "secret-added secret-added secret-removed" {
		t.Errorf("audit: %v", kinds)
	}
	if strings.Contains(s.log.String(), string(value)) || !strings.Contains(s.log.String(), "shared secret added") {
		t.Errorf("log: %s", s.log.String())
	}
}

func TestSecretsRefused(t *testing.T) {
	s := &source{}
	c, _ := serve(t, s)
	past := noon.Add(-time.Second)
	good := NewSecret{Endpoint: "ran", Reference: []byte("r"), Secret: []byte("hunter2hunter2")}
	for what, change := range map[string]func(*NewSecret){
		"no reference":     func(n *NewSecret) { n.Reference = nil },
		"long reference":   func(n *NewSecret) { n.Reference = make([]byte, 129) },
		"no secret":        func(n *NewSecret) { n.Secret = nil },
		"short secret":     func(n *NewSecret) { n.Secret = []byte("hunter2") },
		"long secret":      func(n *NewSecret) { n.Secret = make([]byte, 1025) },
		"body too large":   func(n *NewSecret) { n.Secret = make([]byte, 20<<10) },
		"long device":      func(n *NewSecret) { n.Device = strings.Repeat("x", 257) },
		"control in name":  func(n *NewSecret) { n.Device = "a\nb" },
		"past its time":    func(n *NewSecret) { n.NotAfter = &past },
		"unknown endpoint": func(n *NewSecret) { n.Endpoint = "nar" },
		"no endpoint":      func(n *NewSecret) { n.Endpoint = "" },
	} {
		n := good
		change(&n)
		want := http.StatusBadRequest
		if what == "body too large" {
			want = http.StatusRequestEntityTooLarge
		}
		if _, err := c.AddSecret(t.Context(), n); status(err) != want || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := c.do(t.Context(), http.MethodPost, "/v1/secrets", nil, strings.NewReader(`{"secret": "hunter2hunter2", "hunter2": 1}`), &Secret{}); status(err) != http.StatusBadRequest || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("unknown key: %v", err)
	}
	if err := c.do(t.Context(), http.MethodPost, "/v1/secrets", values("device", "x"), strings.NewReader("{}"), &Secret{}); status(err) != http.StatusBadRequest {
		t.Errorf("unknown parameter: %v", err)
	}
	if err := c.do(t.Context(), http.MethodDelete, "/v1/secrets", values("endpoint", "ran"), nil, &Secret{}); status(err) != http.StatusBadRequest {
		t.Errorf("no reference: %v", err)
	}
	if len(s.secrets)+len(s.audit) != 0 || strings.Contains(s.log.String(), "hunter2") {
		t.Errorf("%+v\n%s", s.secrets, s.log.String())
	}
	s.err = errors.New("the disk is full")
	for what, err := range map[string]error{
		"add":  func() error { _, err := c.AddSecret(t.Context(), good); return err }(),
		"drop": func() error { _, err := c.DropSecret(t.Context(), "ran", []byte("r")); return err }(),
		"list": func() error { _, err := c.Secrets(t.Context(), "", "", 0); return err }(),
	} {
		if status(err) != http.StatusServiceUnavailable || !strings.Contains(err.Error(), "the disk is full") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// Lists go on where an earlier one ended, whatever bytes a reference has, and hold no secrets.
func TestSecretsListed(t *testing.T) {
	s := &source{}
	c, path := serve(t, s)
	for i := range 7 {
		endpoint := []string{"core", "ran"}[i%2]
		if _, err := c.AddSecret(t.Context(), NewSecret{Endpoint: endpoint, Reference: fmt.Appendf(nil, "\x00r%d", i), Secret: []byte("0123456789abcdef")}); err != nil {
			t.Fatal(err)
		}
	}
	for endpoint, want := range map[string]string{"": "core:0 core:2 core:4 core:6 ran:1 ran:3 ran:5", "ran": "ran:1 ran:3 ran:5", "none": ""} {
		var all []string
		after := ""
		for {
			list, err := c.Secrets(t.Context(), endpoint, after, 3)
			if err != nil {
				t.Fatal(err)
			}
			for _, x := range list.Secrets {
				all = append(all, x.Endpoint+":"+strings.TrimPrefix(string(x.Reference), "\x00r"))
			}
			if after = list.Next; after == "" {
				break
			}
		}
		if got := strings.Join(all, " "); got != want {
			t.Errorf("%q: %s, want %s", endpoint, got, want)
		}
	}
	if _, err := NewClient(path).Secrets(t.Context(), "", "?", 0); status(err) != http.StatusBadRequest {
		t.Errorf("after that is none: %v", err)
	}
	if err := c.get(t.Context(), "/v1/secrets", values("endpiont", "ran"), &SecretList{}); status(err) != http.StatusBadRequest {
		t.Errorf("a misspelt filter: %v", err)
	}
}
