package est

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// The suite, in process and as a plugin process, for a CA that promises nothing.
func TestConformance(t *testing.T) {
	backendtest.Run(t, backendtest.Subject{
		New:       func() backend.Backend { return New(Options{}) },
		Config:    func(t *testing.T) []byte { return newFakeCA(t).config(t) },
		BadConfig: []byte("url: http://ca.example\nuser: ra\npassword: /p"),
		Plugin:    "est",
	})
}

// gatewayed knows what the gateway would record: whether, and when, Issue was called.
type gatewayed struct {
	*CA
	asked map[string]time.Time
}

func (g *gatewayed) Issue(ctx context.Context, r *backend.IssueRequest) (*backend.Issuance, error) {
	a, err := g.CA.Issue(ctx, r)
	if ctx.Err() == nil && !backend.Definite(err) { // a refusal ends it
		g.asked[r.ID] = time.Now()
	}
	return a, err
}

func (g *gatewayed) Lookup(ctx context.Context, r *backend.IssueRequest) (*backend.Outcome, error) {
	q := *r
	q.Asked = g.asked[r.ID]
	return g.CA.Lookup(ctx, &q)
}

// The suite for a CA that repeats, which may be held for a while first.
func TestConformanceRepeat(t *testing.T) {
	backendtest.Run(t, backendtest.Subject{
		New: func() backend.Backend { return &gatewayed{New(Options{}), map[string]time.Time{}} },
		Config: func(t *testing.T) []byte {
			f := newFakeCA(t)
			f.repeat = 10 * time.Minute
			return f.config(t, "repeat: 10m")
		},
	})
}

func TestDescribe(t *testing.T) {
	f := newFakeCA(t)
	for lines, want := range map[string]string{
		"":                                  "none [validity keyUsage extKeyUsage] []",
		"repeat: 10m":                       "lookup [validity keyUsage extKeyUsage] [poll]",
		"crl: http://127.0.0.1/x":           "none [validity keyUsage extKeyUsage] [crl]",
		"decides: [validity, subject]":      "none [validity subject] []",
		"decides: [validity]\nrepeat: 240s": "lookup [validity] [poll]",
	} {
		d := must(f.configured(t, lines).Describe(t.Context()))
		if got := fmt.Sprintf("%s %v %v", d.Idempotency, d.Decides, d.Capabilities); got != want {
			t.Errorf("%q: %s, not %s", lines, got, want)
		}
	}
}

func TestConfigErrors(t *testing.T) {
	for text, want := range map[string]string{
		"url: https://h\nuser: a\npasword: /p":                        "password",
		"url: http://h\nuser: a\npassword: /p":                        "url: wants https",
		"url: https://h":                                              "cert: an EST CA wants to know who asks",
		"url: https://h\nuser: a":                                     "user and password go together",
		"url: https://h/.well-known/est\nuser: a\npassword: /p":       "leave out /.well-known/est",
		"url: https://h?x=y\nuser: a\npassword: /p":                   "no query",
		"url: https://h\nuser: a\npassword: p":                        "password: not an absolute path",
		"url: https://h\nuser: a:b\npassword: /p":                     "colon",
		"url: https://h\nuser: a\npassword: /p\nlabel: cacerts":       "label:",
		"url: https://h\nuser: a\npassword: /p\nlabel: a/b":           "label:",
		"url: https://h\nuser: a\npassword: /p\nlabel: ..":            "label:",
		"url: https://h\nuser: a\npassword: /p\nrepeat: 30s":          "repeat: at least four times",
		"url: https://h\nuser: a\npassword: /p\nrepeat: 31d":          "repeat:",
		"url: https://h\nuser: a\npassword: /p\ncrl: ldap://x":        "crl:",
		"url: https://h\nuser: a\npassword: /p\ndecides: [key-usage]": "decides:",
		"url: https://h\nuser: a\npassword: /p\ndecides: [keyUsage]":  "validity has to be among them",
		"url: https://h\ncert: /c":                                    "cert and key go together",
	} {
		err := New(Options{}).Validate(t.Context(), []byte(text))
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, which lacks %q", text, err, want)
		}
	}
}
