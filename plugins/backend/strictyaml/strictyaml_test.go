package strictyaml_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/plugins/backend/strictyaml"
	"gopkg.in/yaml.v3"
)

type tlsBlock struct {
	Cert string `yaml:"cert"`
	Max  string `yaml:"max"`
}

type shared struct {
	Note string `yaml:"note"`
}

// even decodes itself and accepts even numbers only.
type even int

func (e *even) UnmarshalStrict(file string, n *yaml.Node) error {
	var i int
	if err := strictyaml.DecodeNode(file, n, &i); err != nil {
		return err
	}
	if i%2 != 0 {
		return strictyaml.Errorf(file, n, "odd")
	}
	*e = even(i)
	return nil
}

type bare struct{}

func (*bare) UnmarshalStrict(string, *yaml.Node) error { return errors.New("never right") }

// own decodes itself by way of a struct.
type own struct{}

func (*own) UnmarshalStrict(file string, n *yaml.Node) error {
	var s struct {
		List []struct {
			Name string `yaml:"name"`
		} `yaml:"list"`
	}
	return strictyaml.DecodeNode(file, n, &s)
}

type profile struct {
	Backend  string              `yaml:"backend,required"`
	Validity strictyaml.Duration `yaml:"validity"`
	Keys     []string            `yaml:"keys"`
}

type document struct {
	Version  int                 `yaml:"version,required"`
	Profiles map[string]*profile `yaml:"profiles"`
	TLS      *tlsBlock           `yaml:"tls"`
	Stages   []yaml.Node         `yaml:"stages"`
	Config   *yaml.Node          `yaml:"config"`
	On       bool                `yaml:"on-off"`
	Small    int8                `yaml:"small"`
	Count    uint16              `yaml:"count"`
	Ratio    float64             `yaml:"ratio"`
	Even     even                `yaml:"even"`
	Bare     bare                `yaml:"bare"`
	Own      own                 `yaml:"own"`
	Addr     netip.Addr          `yaml:"addr"`
	Repeat   time.Duration       `yaml:"repeat"`
	shared   `yaml:",inline"`
	Shared   shared `yaml:"shared"`
	Ignored  string `yaml:"-"`
}

func TestDecode(t *testing.T) {
	var d document
	err := strictyaml.Decode("f", []byte(`
version: 1
profiles:
  base-station: {backend: local, validity: 397d, keys: [P-256, "RSA-3072"]}
  other:
    backend: local
tls:
stages: [own-certificate, password: {file: x}]
config: {dir: ./ca}
on-off: true
small: -0x10
count: 65535
ratio: 0.5
even: 4
addr: 127.0.0.1
repeat: 1d12h
shared: {note: there}
`), &d)
	if err != nil {
		t.Fatal(err)
	}
	p := d.Profiles["base-station"]
	if p == nil || p.Backend != "local" || time.Duration(p.Validity) != 397*24*time.Hour || len(p.Keys) != 2 || p.Keys[1] != "RSA-3072" {
		t.Errorf("profile: %+v", p)
	}
	if d.Profiles["other"] == nil || d.Profiles["other"].Validity != 0 {
		t.Errorf("other: %+v", d.Profiles["other"])
	}
	if d.TLS == nil {
		t.Error("a key without value must read as an empty map")
	}
	if len(d.Stages) != 2 || d.Stages[0].Value != "own-certificate" || d.Stages[1].Kind != yaml.MappingNode || d.Stages[1].Line != 8 {
		t.Errorf("stages: %+v", d.Stages)
	}
	if d.Config == nil || d.Config.Content[1].Value != "./ca" {
		t.Errorf("config: %+v", d.Config)
	}
	if !d.On || d.Small != -16 || d.Count != 65535 || d.Ratio != 0.5 || d.Even != 4 || d.Addr != netip.MustParseAddr("127.0.0.1") || d.Repeat != 36*time.Hour || d.Shared.Note != "there" {
		t.Errorf("%+v", d)
	}
}

func TestErrors(t *testing.T) {
	deep := strings.Repeat("[", 40) + strings.Repeat("]", 40)
	for _, tc := range []struct{ in, want string }{
		{"version: 1\nprofiles:\n  base-station:\n    backend: x\n    vaildity: 3d\n", `f:5: unknown key "vaildity" in profiles.base-station (did you mean "validity"?)`},
		{"version: 1\nonoff: true\n", `f:2: unknown key "onoff" (did you mean "on-off"?)`},
		{"version: 1\ntls: {zzzzzz: 1}\n", `f:2: unknown key "zzzzzz" in tls (known: cert, max)`},
		{"version: 1\nversion: 2\n", `f:2: key "version" stands twice, first in line 1`},
		{"version: 1\nprofiles: {a: {backend: x}, a: {backend: y}}\n", `f:2: key "a" stands twice, first in line 2`},
		{"version: 1\n---\nversion: 1\n", "f:2: a second document begins here: a file holds one"},
		{"version: 1\n---\n[\n", "f:3: did not find expected node content"},
		{"version: 1\ntls:\n\tmax: x\n", "f:3: found character that cannot start any token (a tab, perhaps"},
		{"version: \"1\"\n", "f:1: version wants a whole number, not text"},
		{"version: 1\ntls: {max: 1.2}\n", "f:2: tls.max wants text, not a number: put it in quotes"},
		{"version: 1\ntls: {max: 2026-01-02}\n", "f:2: tls.max wants text, not a date: put it in quotes"},
		{"version: 1\ntls: {max: }\n", "f:2: tls.max wants text, not nothing"},
		{"version: 1\ntls: ~\n", "f:2: tls is ~: leave the key out instead"},
		{"version: 1\ntls: null\n", "f:2: tls is null: leave the key out instead"},
		{"version: 1\ntls: []\n", "f:2: tls wants a map, not a list"},
		{"version: 1\nprofiles: x\n", "f:2: profiles wants a map, not text"},
		{"version: 1\nprofiles: {p: {backend: x, keys: P-256}}\n", "f:2: profiles.p.keys wants a list, not text"},
		{"version: 1\nprofiles: {p: {backend: x, keys: [P-256, 3]}}\n", "f:2: profiles.p.keys[1] wants text, not a number: put it in quotes"},
		{"version: 1\nprofiles:\n  p:\n    keys: []\n", `f:4: profiles.p lacks "backend"`},
		{"tls: {}\n", `f:1: key "version" is missing`},
		{"", `f:1: key "version" is missing`},
		{"version: 1\non-off: yes\n", "f:2: on-off wants true or false, not text"},
		{"version: 1\nsmall: 128\n", "f:2: small is out of range"},
		{"version: 1\nsmall: 1_0\n", ""},
		{"version: 1\ncount: -1\n", "f:2: count is not a number as this file writes them"},
		{"version: 1\nratio: x\n", "f:2: ratio wants a number, not text"},
		{"version: 1\neven: 3\n", "f:2: even: odd"},
		{"version: 1\neven: x\n", "f:2: even wants a whole number, not text"},
		{"version: 1\nown: {list: [{nmae: x}]}\n", `f:2: unknown key "nmae" in own.list[0] (did you mean "name"?)`},
		{"version: 1\nown: []\n", `f:2: own wants a map, not a list`},
		{"version: 1\nbare: x\n", "f:2: bare is wrong: never right"},
		{"version: 1\naddr: nowhere\n", `f:2: addr is wrong: ParseAddr("nowhere"): unable to parse IP`},
		{"version: 1\nrepeat: 10\n", "f:2: repeat wants a period such as 30s, 10m, 12h or 397d"},
		{"version: 1\nrepeat: -5m\n", "f:2: repeat wants a period such as 30s, 10m, 12h or 397d"},
		{"version: 1\nrepeat: 999999999d\n", "f:2: repeat wants a period such as 30s, 10m, 12h or 397d"},
		{"version: 1\nignored: x\n", `f:2: unknown key "ignored"`},
		{"version: 1\nstages: &s [*s]\n", "f:2: the alias *s stands within what it names"},
		{"version: 1\nstages: &s [{a: [*s]}]\n", "f:2: the alias *s stands within what it names"},
		{"version: 1\nstages: [&a x, &a y]\n", "f:2: the anchor &a stands twice, first in line 2"},
		{"version: 1\n&k shared: {}\n", "f:2: a key must be plain text"},
		{"version: 1\nconfig: {a: &k b}\nshared: {*k : x}\n", "f:3: a key must be plain text"},
		{"version: 1\nprofiles:\n  a: &p {backend: x, vaildity: 3d}\n  b: *p\n", "f:3: unknown key \"vaildity\" in profiles.a (did you mean \"validity\"?)\nf:3: unknown key \"vaildity\" in profiles.b (did you mean \"validity\"?)"},
		{"version: 1\ntls: *a\n", "f:2: unknown anchor 'a' referenced"},
		{"version: &abc 1\ntls: [*abc]\nkeys: [*a]\n", "f:3: unknown anchor 'a' referenced"},
		{"version: 1\nprofiles:\n  <<: {a: {}}\n", "f:3: merge keys (<<) are not read: write the keys out; an alias stands for a whole value"},
		{"version: !!int 1\n", "f:1: tags (!!int) are not read"},
		{"1: 2\n", "f:1: key 1 must be text: put it in quotes"},
		{"? [a]\n: b\n", "f:1: a key must be plain text"},
		{"stages: " + deep, "f:1: nested deeper than 32 levels"},
		{"version: 1\n\tx: 1\n", "f:2: found a tab character that violates indentation"},
		{"[]", "f:1: wants a map, not a list"},
	} {
		var d document
		err := strictyaml.Decode("f", []byte(tc.in), &d)
		if tc.want == "" {
			if err != nil {
				t.Errorf("%q: %v", tc.in, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%q:\n got  %v\n want %s", tc.in, err, tc.want)
		}
	}
}

func TestErrorsTogetherAndInOrder(t *testing.T) {
	var d document
	err := strictyaml.Decode("dir/f.yaml", []byte("version: x\nprofiles:\n  p: {kyes: []}\nsmall: 1000\neven: 1\n"), &d)
	want := `dir/f.yaml:1: version wants a whole number, not text
dir/f.yaml:3: unknown key "kyes" in profiles.p (did you mean "keys"?)
dir/f.yaml:3: profiles.p lacks "backend"
dir/f.yaml:4: small is out of range
dir/f.yaml:5: even: odd`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
	var many strings.Builder
	for i := range 80 {
		fmt.Fprintf(&many, "k%d: 1\n", i)
	}
	if err := strictyaml.Decode("f", []byte(many.String()), &d); strings.Count(err.Error(), "\n") != 50 || !strings.HasSuffix(err.Error(), "and 31 more") {
		t.Errorf("80 faults: %v", err)
	}
}

// A value may be a secret put in the wrong place: it must not reach a log through an error.
func TestErrorsHoldNoValues(t *testing.T) {
	for _, in := range []string{"version: hunter2", "version: 1\ntls: hunter2", "version: 1\ntls: {cert: [hunter2]}", "version: 1\nrepeat: hunter2", "version: 1\non-off: hunter2"} {
		var d document
		if err := strictyaml.Decode("f", []byte(in), &d); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestDecodeNodeAt(t *testing.T) {
	root, err := strictyaml.Parse("f", []byte("a:\n- password: {flie: x}\n"))
	if err != nil {
		t.Fatal(err)
	}
	var into struct {
		File string `yaml:"file"`
	}
	err = strictyaml.DecodeNodeAt("f", "a[0].password", root.Content[1].Content[0].Content[1], &into)
	if want := `f:2: unknown key "flie" in a[0].password (did you mean "file"?)`; err == nil || err.Error() != want {
		t.Errorf("%v", err)
	}
	if err := strictyaml.DecodeNode("f", nil, &into); err != nil {
		t.Errorf("no node at all is an empty map: %v", err)
	}
	if err := strictyaml.DecodeNode("f", root, into); err == nil {
		t.Error("decoded into a value")
	}
	// A node that was put together by other means is inspected as well.
	loop := &yaml.Node{Kind: yaml.SequenceNode}
	loop.Content = []*yaml.Node{loop}
	if err := strictyaml.DecodeNode("f", loop, &[]yaml.Node{}); err == nil {
		t.Error("accepted an endless node")
	}
}

func TestUnder(t *testing.T) {
	n := &yaml.Node{Line: 7}
	for _, tc := range []struct {
		err  error
		want string
	}{
		{strictyaml.Errorf("f", n, "odd"), "f:7: a[0]: odd"},
		{errors.Join(strictyaml.Errorf("f", n, "odd"), &strictyaml.Error{File: "f", Line: 3, Path: "b", Message: "even"}), "f:3: a[0].b: even\nf:7: a[0]: odd"},
		{errors.New("plain"), "f:7: a[0]: plain"},
		{errors.Join(errors.New("plain"), strictyaml.Errorf("f", n, "odd")), "f:7: a[0]: plain\nf:7: odd"},
	} {
		if got := strictyaml.Under("f", "a[0]", n, tc.err); got == nil || got.Error() != tc.want {
			t.Errorf("%v, want %s", got, tc.want)
		}
	}
	if err := strictyaml.Under("f", "a", n, nil); err != nil {
		t.Error(err)
	}
}

func TestLine(t *testing.T) {
	root, err := strictyaml.Parse("f", []byte("a:\n  b:\n    c: 1\n  d:\n  - x\n  - y: 2\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		path string
		want int
	}{{"", 1}, {"a", 1}, {"a b", 2}, {"a b c", 3}, {"a b missing", 2}, {"a d 0", 5}, {"a d 1 y", 6}, {"a d 7", 4}, {"zz", 1}, {"a b c d", 3}} {
		if got := strictyaml.Line(root, strings.Fields(tc.path)...); got != tc.want {
			t.Errorf("Line(%s) = %d, want %d", tc.path, got, tc.want)
		}
	}
}

func TestNearest(t *testing.T) {
	known := []string{"validity", "backend", "keys", "subject", "clock-skew", "ok"}
	for got, want := range map[string]string{
		"vaildity": "validity", "Validity": "validity", "valididty": "validity", "backed": "backend", "kyes": "keys", "key": "keys",
		"clockSkew": "clock-skew", "clock_skew": "clock-skew", "x": "", "zzzzz": "", "": "", "sub": "", strings.Repeat("k", 100): "",
	} {
		if near := strictyaml.Nearest(got, known); near != want {
			t.Errorf("Nearest(%q) = %q, want %q", got, near, want)
		}
	}
}

func TestDuration(t *testing.T) {
	for in, want := range map[string]time.Duration{"0": 0, "30s": 30 * time.Second, "1h30m": 90 * time.Minute, "1d": 24 * time.Hour, "1d1ns": 24*time.Hour + 1, "106751d": 106751 * 24 * time.Hour} {
		d, err := strictyaml.ParseDuration(in)
		if err != nil || time.Duration(d) != want {
			t.Errorf("ParseDuration(%q) = %v, %v", in, d, err)
		}
		if again, err := strictyaml.ParseDuration(d.String()); err != nil || again != d {
			t.Errorf("%q is written as %q, which reads %v, %v", in, d, again, err)
		}
	}
	for _, in := range []string{"", "d", "1", "-1d", "+1d", "1d-1h", "1d+1h", "106752d", "4294967296d", "1h1d", "1x", "1.5d"} {
		if d, err := strictyaml.ParseDuration(in); err == nil {
			t.Errorf("ParseDuration(%q) = %v", in, d)
		}
	}
}
