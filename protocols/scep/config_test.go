package scep

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

func TestConfig(t *testing.T) {
	type file struct {
		SCEP Config `yaml:"scep"`
	}
	var f file
	text := "scep:\n  legacy: [des, 3des, sha1]\n  root: false\n  chain: full\n  max-body: 8192\n  retry-after: 2m\n"
	if err := strictyaml.Decode("muster.yaml", []byte(text), &f); err != nil {
		t.Fatal(err)
	}
	c := f.SCEP
	if len(c.Legacy) != 3 || *c.Root || c.Chain != ChainFull || c.MaxBody != 8192 || time.Duration(c.RetryAfter) != 2*time.Minute {
		t.Errorf("%+v", c)
	}
	if got := (Config{}).withDefaults(); !*got.Root || got.Chain != ChainLeaf || got.MaxBody != 256<<10 || time.Duration(got.RetryAfter) != 30*time.Second || len(got.Legacy) != 0 {
		t.Errorf("defaults %+v", got)
	}
	for text, want := range map[string]string{
		"scep:\n  legacy: [md5]":                      `muster.yaml:2: scep: legacy: "md5" is not one of des, 3des, sha1`,
		"scep:\n  legacy: [des, des]":                 `"des" stands twice`,
		"scep:\n  legacy: des":                        "legacy",
		"scep:\n  type: onem2m":                       "type: not one of onem2m-mef",
		"scep:\n  type: onem2m-mef\n  legacy: [sha1]": "legacy: type onem2m-mef has no place for old algorithms",
		"scep:\n  chain: root":                        "chain: not one of leaf, full",
		"scep:\n  root: perhaps":                      "root",
		"scep:\n  max-body: 10":                       "max-body: not from 4096 to 16777216",
		"scep:\n  max-body: 999999999":                "max-body: not from",
		"scep:\n  retry-after: 10ms":                  "retry-after: not from 1s to 24h",
		"scep:\n  legacies: [des]":                    `did you mean "legacy"`,
	} {
		var f file
		if err := strictyaml.Decode("muster.yaml", []byte(text), &f); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// options are good ones for an endpoint a, changed.
func options(change func(*Options)) Options {
	o := Options{Gateway: &fakeGateway{}, Clock: time.Now, Log: slog.New(slog.DiscardHandler), Endpoints: []Endpoint{{Name: "a"}},
		Identity: func(string) *gateway.Identity { return nil }}
	change(&o)
	return o
}

func TestNewChecksEndpoints(t *testing.T) {
	endpoints := func(list ...Endpoint) func(*Options) { return func(o *Options) { o.Endpoints = list } }
	for name, change := range map[string]func(*Options){
		"no gateway":          func(o *Options) { o.Gateway = nil },
		"no identity":         func(o *Options) { o.Identity = nil },
		"no clock":            func(o *Options) { o.Clock = nil },
		"no log":              func(o *Options) { o.Log = nil },
		"no name":             endpoints(Endpoint{}),
		"a slash":             endpoints(Endpoint{Name: "a/b"}),
		"dots":                endpoints(Endpoint{Name: ".."}),
		"a line end":          endpoints(Endpoint{Name: "a\n"}),
		"too long":            endpoints(Endpoint{Name: strings.Repeat("a", 65)}),
		"twice":               endpoints(Endpoint{Name: "a"}, Endpoint{Name: "a"}),
		"two defaults":        endpoints(Endpoint{Name: "a", Default: true}, Endpoint{Name: "b", Default: true}),
		"a bad configuration": endpoints(Endpoint{Name: "a", Config: Config{Chain: "?"}}),
	} {
		if _, err := New(options(change)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	h, err := New(options(endpoints(Endpoint{Name: "phones", Default: true}, Endpoint{Name: "b_1.2~x-y"})))
	if err != nil || len(h.endpoints) != 2 || h.fallback.Name != "phones" || h.rand == nil {
		t.Errorf("%v, %+v", err, h)
	}
}
