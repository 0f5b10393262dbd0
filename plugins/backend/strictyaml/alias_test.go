package strictyaml_test

import (
	"fmt"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// An alias is a value of its own: what is done to it is not done to the other, its lines are those of what it names, and no
// anchor is left to be written anywhere.
func TestAliases(t *testing.T) {
	n, err := strictyaml.Parse("f", []byte(`version: 1
profiles:
  a: &profile
    backend: &b local
    keys: &k [P-256]
  b: *profile
  c: {backend: *b, keys: *k}
`))
	if err != nil {
		t.Fatal(err)
	}
	var d document
	if err := strictyaml.DecodeNode("f", n, &d); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b", "c"} {
		if p := d.Profiles[name]; p == nil || p.Backend != "local" || len(p.Keys) != 1 || p.Keys[0] != "P-256" {
			t.Errorf("%s: %+v", name, p)
		}
	}
	if line := strictyaml.Line(n, "profiles", "b"); line != 6 {
		t.Errorf("the key of an alias is said to stand in line %d", line)
	}
	if line := strictyaml.Line(n, "profiles", "b", "keys"); line != 5 {
		t.Errorf("a key of what an alias names is said to stand in line %d", line)
	}
	profiles := n.Content[3].Content
	profiles[1].Content[1].Value = "changed"
	if profiles[3].Content[1].Value != "local" {
		t.Error("an alias is the very node that it names")
	}
	text, err := yaml.Marshal(n)
	if err != nil || strings.ContainsAny(string(text), "&*") {
		t.Errorf("%s %v", text, err)
	}
}

// Aliases of aliases do not grow without bound, and one that contains itself does not either.
func TestAliasesAreBounded(t *testing.T) {
	laughs := "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
	for c := 'b'; c < 'k'; c++ {
		was := string(c - 1)
		laughs += fmt.Sprintf("%c: &%c [%s]\n", c, c, strings.Repeat("*"+was+", ", 9)+"*"+was)
	}
	for in, want := range map[string]string{
		laughs: "f:5: the aliases of this file stand for more than 20000 values, together with *d: write some of them out",
		"a: &a [" + strings.Repeat("x, ", 1000) + "x]\nb: [" + strings.Repeat("*a, ", 30) + "*a]\n": "f:2: the aliases of this file stand for more than 20000 values",
		"a: &a {b: &b {c: *a}}\n":                        "f:1: the alias *a stands within what it names",
		"a: " + strings.Repeat("&x"+"y [", 1) + "*xy]\n": "f:1: the alias *xy stands within what it names",
	} {
		_, err := strictyaml.Parse("f", []byte(in))
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%.60s...: %v, want %s", in, err, want)
		}
	}
	// Deep by aliases alone.
	deep := "a0: &a0 [x]\n"
	for i := 1; i < 40; i++ {
		deep += fmt.Sprintf("a%d: &a%d [*a%d]\n", i, i, i-1)
	}
	if _, err := strictyaml.Parse("f", []byte(deep)); err == nil || !strings.Contains(err.Error(), "nested deeper than 32 levels") {
		t.Errorf("aliases make any depth: %v", err)
	}
}
