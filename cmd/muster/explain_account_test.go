package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/admin"
)

// Nobody is said not to have authenticated who has.
func TestExplainKeptInMemory(t *testing.T) {
	for _, tt := range []struct {
		requester string
		reason    gateway.Reason
		want      string
	}{
		{"", gateway.Unauthenticated, ", as with all who do not authenticate"}, {"", gateway.Unavailable, ", as with all who do not authenticate"},
		{"password:anna", gateway.Unavailable, ", as with all that is refused for the time being"}, {"password:anna", gateway.Busy, ", as with all that is refused for the time being"},
		{"password:anna", gateway.BadTemplate, ""},
	} {
		if got := asWith(&admin.Transaction{Requester: tt.requester, Reason: string(tt.reason)}); got != tt.want {
			t.Errorf("%+v: %q", tt, got)
		}
	}
}

// Pages tell what the command tells: every line of theirs stands in its text, fit to be shown.
func TestAccountInParts(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	x := &admin.Transaction{
		ID: "06gzsq0001abcdefghjk000007", Protocol: "est", Endpoint: "ran", Operation: "enroll", State: "held", Subject: "CN=\x1b[2J", Received: at, Updated: at, Backend: "local",
		Verdicts: []admin.Verdict{
			{Stage: "est", Decision: "allow", Note: "PKCS#10"},
			{Stage: "anyOf", Decision: "deny", Note: "none", Parts: []admin.Verdict{{Stage: "password", Decision: "deny", Reason: "unauthenticated", Note: "wrong\u202e"}}},
		},
		Hold:        &admin.Hold{Stage: "approval", Approvers: 2, Until: at, Approvals: []admin.Approval{{By: "cert:CN=bob", At: at}}},
		Certificate: &admin.Certificate{Serial: "07", Subject: "CN=a", NotBefore: at, NotAfter: at},
		Messages:    []admin.Message{{Kind: "poll", Count: 2, First: at, Last: at}},
	}
	text, parts := account(x, at), accountInParts(x, at)
	if !strings.HasPrefix(text, parts.Summary+"\n") {
		t.Errorf("%q is not how it begins:\n%s", parts.Summary, text)
	}
	var titles []string
	depth := 0
	for _, p := range parts.Sections {
		titles = append(titles, p.Title)
		for _, r := range p.Rows {
			depth = max(depth, r.Depth)
			for _, words := range []string{r.Label, r.Value, r.Note} {
				if !strings.Contains(text, words) {
					t.Errorf("%q is not in\n%s", words, text)
				}
			}
		}
	}
	if got := strings.Join(titles, ","); got != ",Stages,Approval,CA,Certificate,Later messages" || depth != 1 {
		t.Errorf("%s, %d deep", got, depth)
	}
	if rows := parts.Sections[1].Rows; len(rows) != 2 || rows[1].Note != `wrong\u202e` || !rows[1].Verdict {
		t.Errorf("%+v", rows)
	}
	for _, line := range strings.Split(text, "\n")[2:] {
		words := strings.Fields(line)
		if len(words) > 0 && !strings.Contains(fmt.Sprint(parts), words[len(words)-1]) {
			t.Errorf("%q is not in the parts", line)
		}
	}
}
