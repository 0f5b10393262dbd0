package admin

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway"
)

// processCMP answers at the endpoints "" and "ran" with the endpoint and the message, and with errors to what asks for them.
func (s *source) processCMP(_ context.Context, endpoint string, message []byte) ([]byte, error) {
	switch {
	case endpoint != "" && endpoint != "ran":
		return nil, &gateway.Error{Reason: gateway.NotAuthorized, Detail: fmt.Sprintf("there is no endpoint %q", endpoint), Err: gateway.ErrNotFound}
	case string(message) == "garbage":
		return nil, &gateway.Error{Reason: gateway.Malformed, Detail: "the message does not parse"}
	case string(message) == "later":
		return nil, &gateway.Error{Reason: gateway.Unavailable, Detail: "not yet"}
	}
	return append([]byte(endpoint+":"), message...), nil
}

func TestProcessCMP(t *testing.T) {
	s := &source{}
	c, _ := serve(t, s)
	for endpoint, want := range map[string]string{"": ":in", "ran": "ran:in"} {
		if got, err := c.ProcessCMP(t.Context(), endpoint, []byte("in")); err != nil || string(got) != want {
			t.Errorf("%q: %q, %v", endpoint, got, err)
		}
	}
	if log := s.log.String(); !strings.Contains(log, "CMP message passed on") || !strings.Contains(log, "actor=unix:") || !strings.Contains(log, "endpoint=ran") {
		t.Error(log)
	}
	if got, err := c.ProcessCMP(t.Context(), "ran", bytes.Repeat([]byte("x"), maxMessage)); err != nil || len(got) != maxMessage+4 {
		t.Errorf("the largest: %d, %v", len(got), err)
	}
	for _, tt := range []struct {
		endpoint, message string
		status            int
		text              string
	}{
		{"rann", "in", 404, `no endpoint "rann"`},
		{"a/b", "in", 404, `no endpoint "a/b"`},
		{"ran", "garbage", 400, "does not parse"},
		{"ran", "later", 503, "not yet"},
		{"ran", strings.Repeat("x", maxMessage+1), 413, "larger than 262144 bytes"},
	} {
		_, err := c.ProcessCMP(t.Context(), tt.endpoint, []byte(tt.message))
		if e, ok := err.(*Error); !ok || e.Status != tt.status || !strings.Contains(e.Message, tt.text) {
			t.Errorf("%q, %.10q: %v", tt.endpoint, tt.message, err)
		}
	}
	// Another type is what a page in a browser could send.
	_, err := c.send(t.Context(), http.MethodPost, "/v1/cmp/ran", nil, strings.NewReader("in"), "text/plain")
	if e, ok := err.(*Error); !ok || e.Status != 415 || !strings.Contains(e.Message, "application/pkixcmp") {
		t.Errorf("another type: %v", err)
	}
	s.starting = true
	if _, err := c.ProcessCMP(t.Context(), "ran", []byte("in")); err == nil || !strings.Contains(err.Error(), "starting") {
		t.Errorf("while starting: %v", err)
	}
}
