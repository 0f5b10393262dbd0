package wire

import (
	"errors"
	"strings"
	"testing"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

type section struct {
	Wrong  bool `yaml:"wrong"`
	Limits `yaml:",inline"`
}

func (s *section) UnmarshalStrict(file string, n *yaml.Node) error {
	type plain section
	return DecodeSection(file, n, (*plain)(s), func() error {
		if s.Wrong {
			return errors.New("wrong: that it is")
		}
		return s.Check(16384)
	})
}

func TestSection(t *testing.T) {
	for text, want := range map[string]string{
		"":                   "",
		"max-body: 4096":     "",
		"max-body: 16384":    "",
		"retry-after: 1s":    "",
		"retry-after: 24h":   "",
		"max-body: 4095":     "max-body: not from 4096 to 16384 bytes",
		"max-body: 16385":    "max-body: not from 4096 to 16384 bytes",
		"max-body: -1":       "max-body: not from 4096 to 16384 bytes",
		"retry-after: 999ms": "retry-after: not from 1s to 24h0m0s",
		"retry-after: 25h":   "retry-after: not from 1s to 24h0m0s",
		"max-bdoy: 4096":     `did you mean "max-body"`,
		"wrong: true":        "wrong: that it is",
	} {
		var f struct {
			Section section `yaml:"section"`
		}
		err := strictyaml.Decode("muster.yaml", []byte("\nsection:\n  "+text+"\n"), &f)
		switch {
		case want == "" && err != nil:
			t.Errorf("%q: %v", text, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "muster.yaml:3")):
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestDefaults(t *testing.T) {
	if d := (Limits{}).WithDefaults(); d.MaxBody != 256<<10 || time.Duration(d.RetryAfter) != 30*time.Second {
		t.Errorf("%+v", d)
	}
	l := Limits{MaxBody: 4096, RetryAfter: 1e9}
	if l.WithDefaults() != l {
		t.Errorf("%+v", l.WithDefaults())
	}
}

func TestNames(t *testing.T) {
	var n Names
	for _, tt := range []struct {
		name      string
		isDefault bool
		err       string
	}{
		{"ran", true, ""}, {"pp_1.2~x-y", false, ""}, {strings.Repeat("x", 64), false, ""},
		{"ran", false, "named twice"}, {"plant", true, `"ran" is the default already`}, {"plant", false, ""},
		{"", false, "part of a URL"}, {".well-known", false, "part of a URL"}, {"a/b", false, "part of a URL"}, {"a b", false, "part of a URL"},
		{strings.Repeat("x", 65), false, "at most 64"}, {"é", false, "part of a URL"}, {"a\n", false, "part of a URL"},
	} {
		if err := n.Add(tt.name, tt.isDefault); (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%q: %v", tt.name, err)
		}
	}
}
