package gateway

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestSecretsAreNeverPrinted(t *testing.T) {
	c := Credential{Kind: CredentialPassword, ID: "factory", Secret: Secret("hunter2")}
	r := &Request{Credentials: []Credential{c}}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "credential", c, "secret", c.Secret, "request", r)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "credential", c, "secret", c.Secret, "request", r)
	j, err := json.Marshal([]any{c, c.Secret, r})
	if err != nil {
		t.Fatal(err)
	}
	all := log.String() + string(j) + fmt.Sprintf("%v %+v %#v %s %q %x %d", c.Secret, c.Secret, c.Secret, c.Secret, c.Secret, c.Secret, c.Secret) + fmt.Sprintf("%v %+v", c, c)
	for _, leak := range []string{"hunter2", "68756e74657232", "aHVudGVyMg", "104 117 110"} {
		if strings.Contains(all, leak) {
			t.Errorf("%q is printed in %s", leak, all)
		}
	}
}

func TestNewID(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	a, b, later := NewID(at), NewID(at), NewID(at.Add(time.Millisecond))
	if a == b || !ValidID(a) || !ValidID(b) {
		t.Errorf("%s and %s", a, b)
	}
	if later <= a || later <= b {
		t.Errorf("%s does not sort behind %s and %s", later, a, b)
	}
	for _, bad := range []string{"", "x", strings.Repeat("i", 26), a + "0", strings.ToUpper(a)} {
		if ValidID(bad) {
			t.Errorf("%q passes for an ID", bad)
		}
	}
}
