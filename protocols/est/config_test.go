package est

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

func TestConfig(t *testing.T) {
	type file struct {
		EST Config `yaml:"est"`
	}
	var f file
	if err := strictyaml.Decode("muster.yaml", []byte("est:\n  wrap: never\n  max-body: 8192\n  retry-after: 2m\n"), &f); err != nil {
		t.Fatal(err)
	}
	if f.EST.Wrap != WrapNever || f.EST.MaxBody != 8192 || time.Duration(f.EST.RetryAfter) != 2*time.Minute {
		t.Errorf("%+v", f.EST)
	}
	if got := (Config{}).withDefaults(); got.Wrap != WrapAuto || got.CSRAttrs != CSRAttrsAuto || got.MaxBody != 256<<10 || time.Duration(got.RetryAfter) != 30*time.Second {
		t.Errorf("defaults %+v", got)
	}
	for text, want := range map[string]string{
		"est:\n  wrap: sometimes":           "muster.yaml:2: est: wrap: not one of auto, always, never",
		"est:\n  max-body: 10":              "muster.yaml:2: est: max-body: not from 4096 to 16777216",
		"est:\n  max-body: 999999999":       "muster.yaml:2: est: max-body: not from",
		"est:\n  retry-after: 10ms":         "muster.yaml:2: est: retry-after: not from 1s to 24h",
		"est:\n  retry-after: -5s":          "retry-after",
		"est:\n  http-auth: []":             "muster.yaml:2: est: http-auth: is empty",
		"est:\n  http-auth: [ntlm]":         "muster.yaml:2: est: http-auth: not one of basic, digest",
		"est:\n  http-auth: [basic, basic]": "muster.yaml:2: est: http-auth: basic stands twice",
		"est:\n  http-auth: digest":         "muster.yaml:2",
		"est:\n  csrattrs: always":          "muster.yaml:2: est: csrattrs: not one of auto, template, none",
		"est:\n  wrapp: auto":               `did you mean "wrap"`,
		"est:\n  max-body: large":           "max-body",
	} {
		var f file
		if err := strictyaml.Decode("muster.yaml", []byte(text), &f); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestNewChecksEndpoints(t *testing.T) {
	options := func(endpoints ...Endpoint) Options {
		return Options{Gateway: &fakeGateway{}, Secret: testSecret, Clock: time.Now, Log: slog.New(slog.DiscardHandler), Endpoints: endpoints}
	}
	for name, o := range map[string]Options{
		"no gateway":          {Secret: testSecret, Clock: time.Now, Log: slog.New(slog.DiscardHandler)},
		"no secret":           {Gateway: &fakeGateway{}, Clock: time.Now, Log: slog.New(slog.DiscardHandler)},
		"a short secret":      {Gateway: &fakeGateway{}, Secret: testSecret[:31], Clock: time.Now, Log: slog.New(slog.DiscardHandler)},
		"no clock":            {Gateway: &fakeGateway{}, Secret: testSecret, Log: slog.New(slog.DiscardHandler)},
		"no log":              {Gateway: &fakeGateway{}, Secret: testSecret, Clock: time.Now},
		"no name":             options(Endpoint{}),
		"a slash":             options(Endpoint{Name: "a/b"}),
		"dots":                options(Endpoint{Name: ".."}),
		"a quote":             options(Endpoint{Name: `a"b`}),
		"a line end":          options(Endpoint{Name: "a\n"}),
		"too long":            options(Endpoint{Name: strings.Repeat("a", 65)}),
		"an operation":        options(Endpoint{Name: "simpleenroll"}), // RFC 7030 section 3.2.2
		"RFC 8295 operation":  options(Endpoint{Name: "crls"}),
		"twice":               options(Endpoint{Name: "a"}, Endpoint{Name: "a"}),
		"two defaults":        options(Endpoint{Name: "a", Default: true}, Endpoint{Name: "b", Default: true}),
		"a bad configuration": options(Endpoint{Name: "a", Config: Config{Wrap: "no"}}),
	} {
		if h, err := New(o); err == nil {
			t.Errorf("%s: accepted: %v", name, h.endpoints)
		}
	}
	h, err := New(options(Endpoint{Name: "ran", Default: true}, Endpoint{Name: "MEF_1.2~x-y"}))
	if err != nil || len(h.endpoints) != 2 || h.fallback == nil || h.fallback.Name != "ran" {
		t.Errorf("%v, %+v", err, h)
	}
}

func TestOffers(t *testing.T) {
	for text, want := range map[string][2]bool{ // basic, digest
		"{}": {true, false}, "{http-auth: [basic]}": {true, false}, "{http-auth: [digest]}": {false, true}, "{http-auth: [digest, basic]}": {true, true},
	} {
		var f struct {
			EST Config `yaml:"est"`
		}
		if err := strictyaml.Decode("muster.yaml", []byte("est: "+text), &f); err != nil {
			t.Fatal(err)
		}
		if got := [2]bool{f.EST.Offers(HTTPAuthBasic), f.EST.Offers(HTTPAuthDigest)}; got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}

// Each operation that is served is a name that no label may have.
func TestOperationNames(t *testing.T) {
	served := 0
	for _, name := range operationNames {
		op, ok := operationNamed(name)
		if !ok {
			continue
		}
		served++
		if len(op.methods) == 0 || op.kind == "" || op.serve == nil {
			t.Errorf("%s: %+v", name, op)
		}
	}
	if served != 9 {
		t.Errorf("%d operations of RFC 7030, RFC 8295 and the renewal draft", served)
	}
	if _, ok := operationNamed(""); ok {
		t.Error("an empty name is an operation")
	}
}
