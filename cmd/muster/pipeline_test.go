package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

var updateDrawings = flag.Bool("update", false, "write the drawings in testdata anew")

// sampled is every stage with settings that it can be made with, with secrets where it takes some.
var sampled = map[string]string{
	"password":           "{users: {anna: " + testHash + "}, limit: {burst: 5}}",
	"client-certificate": "{cas: [ca.pem], device: subject.CN, grace: 7d}",
	"shared-secret":      "{secrets: {\"3078\": {file: mac-secret}}, devices: true, inventory: true}",
	"challenge":          "{secrets: {door: " + testHash + "}, issued: true, basic: true, webhook: {url: \"https://mdm.example.com/scep?token=PATH-SECRET\", token-file: token, secret-file: mac-secret}}",
	"vendor-ca":          "{dir: vendor-ca, vendor: ACME, serial: subject.serialNumber, list: serials, enrollments: 2}",
	"device-certificate": "{}",
	"ra":                 "{cas: [ca.pem], names: [\"CN=RA 1\"], nested: true}",
	"own-certificate":    "{endpoints: [a, b], grace: 7d, window: 33%, change-names: true}",
	"inventory":          "{by: [device, subject.CN], kind: serial, attributes-required: [site]}",
	"registration":       "{types: [ae-id]}",
	"device-password":    "{uses: 3}",
	"approval":           "{approvers: 2, expires: 3d}",
	"policy":             "{rules: [{name: lab, if: 'request.endpoint == \"lab\"', hold: look at it}, {name: rest, if: 'true', allow: true}]}",
	"webhook":            "{url: \"https://asset.example.com/ask?token=PATH-SECRET\", token-file: token, secret-file: mac-secret, hold: true}",
	"limits":             "{device: {issued: 5, per: 1d, active: 2}}",
	"keys":               "{allowed: [P-256], generate: [P-256], wrapping: {keys: {kek: {file: kek}}, required: true}}",
	"names":              "{common-name: 'device-\\d+', san: {dns: {pattern: '.*[.]example', required: true}, ip: {within: [10.0.0.0/8]}}, device: subject.CN}",
	"forward":            "{backend: far}",
	"anyOf":              "[approval: {}, [keys: {}, names: {}]]",
	"allOf":              "[keys: {}, names: {}]",
	"not":                "[keys: {}]",
}

// What must not be seen: it stands in the settings, or in files that they name.
var hidden = []string{"ba7816bf8f01", "MAC-SECRET-TEXT", "TOKEN-TEXT", "PATH-SECRET", "000102030405"}

func sampleDeps(t *testing.T) stageDeps {
	t.Helper()
	deps := testDeps(t)
	pemFile(t, filepath.Join(deps.Dir, "ca.pem"))
	for name, text := range map[string]string{
		"mac-secret": "MAC-SECRET-TEXT-1234\n", "token": "TOKEN-TEXT-1234\n", "serials": "SN1\nSN2\n", "kek": "000102030405060708090a0b0c0d0e0f\n",
	} {
		if err := os.WriteFile(filepath.Join(deps.Dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return deps
}

// Every stage says what it checks, with which reasons it refuses and whether it may hold, and tells no secret in it.
func TestEveryStageDescribesItself(t *testing.T) {
	deps := sampleDeps(t)
	c := &Config{file: "m.yaml", dir: deps.Dir}
	for _, name := range stageNames {
		settings, ok := sampled[name]
		if !ok {
			t.Errorf("give the stage %s settings in `sampled`", name)
			continue
		}
		n, err := strictyaml.Parse("m.yaml", []byte(name+": "+settings))
		if err != nil {
			t.Fatal(err)
		}
		s, err := decodeStage("m.yaml", n, deps)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if s.Name() != name {
			t.Errorf("the stage %s calls itself %s", name, s.Name())
		}
		v := viewOf(gateway.Pipeline{s})[0]
		if len(v.Checks) == 0 || v.Checks[0] == "" {
			t.Errorf("%s does not say what it checks: have it implement gateway.Describer", name)
		}
		for _, line := range append(slices.Clone(v.Checks), v.Holds, v.Uses) {
			if strings.HasSuffix(line, ".") || strings.ContainsAny(line, "\n\t") {
				t.Errorf("%s: %q", name, line)
			}
		}
		if gateway.Branches(s) != nil {
			continue
		}
		if v.refuses == nil {
			t.Errorf("%s does not say why it refuses", name)
		}
		for _, reason := range v.refuses {
			if !slices.Contains(gateway.Reasons, reason) {
				t.Errorf("%s refuses for %q, which is no reason", name, reason)
			}
		}
		if holds := c.mayHold(name, n.Content[1]); holds != (v.Holds != "") {
			t.Errorf("%s: holds %q, and the checks of a configuration take it for one that holds: %v", name, v.Holds, holds)
		}
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range hidden {
			if strings.Contains(string(text), secret) {
				t.Errorf("%s tells %s: %s", name, secret, text)
			}
		}
	}
	for name := range sampled {
		if !slices.Contains(stageNames, name) {
			t.Errorf("there is no stage %s", name)
		}
	}
}

// drawn is what the command prints.
func drawn(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	root := newRootCommand()
	root.SetOut(&out)
	root.SetErr(&out)
	root.SetArgs(append([]string{"pipeline"}, args...))
	err := root.Execute()
	return out.String(), err
}

// The drawings of some configurations, as people see them.
func TestDrawings(t *testing.T) {
	composed := filepath.Join("testdata", "pipeline", "composed.yaml")
	for name, args := range map[string][]string{
		"factory.txt":       {"show", "factory", "--config", "../../configs/factory.yaml"},
		"lab-enroll.txt":    {"show", "lab", "--operation", "enroll", "--config", "../../configs/factory.yaml"},
		"routers.txt":       {"show", "routers", "--config", "../../configs/scep.yaml"},
		"sensors-est.txt":   {"show", "sensors", "--config", "../../configs/est.yaml"},
		"ran.txt":           {"show", "ran", "--config", "../../configs/cmp.yaml"},
		"composed.txt":      {"show", "devices", "--config", composed},
		"composed-ascii":    {"show", "devices", "--config", composed, "--ascii"},
		"composed.mermaid":  {"show", "devices", "--config", composed, "--mermaid"},
		"composed.json":     {"show", "devices", "--config", composed, "--json"},
		"composed-list.txt": {"ls", "--config", composed},
	} {
		got, err := drawn(t, args...)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		file := filepath.Join("testdata", "pipeline", name)
		if *updateDrawings {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s: go test ./cmd/muster -run TestDrawings -update, and look at what changes:\n%s", name, got)
		}
		for line := range strings.SplitSeq(got, "\n") {
			if n := len([]rune(line)); strings.HasSuffix(name, ".txt") && name != "composed-list.txt" && n > plainWidth {
				t.Errorf("%s: %d columns: %s", name, n, line)
			}
			if strings.HasSuffix(name, "ascii") && strings.IndexFunc(line, func(r rune) bool { return r > 0x7e || r < ' ' }) >= 0 {
				t.Errorf("%s is not ASCII: %q", name, line)
			}
		}
	}
}

// docs/cli.md has what is printed.
func TestDrawingsOfTheDocumentation(t *testing.T) {
	page, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	for command, args := range map[string][]string{
		"pipeline ls --config configs/factory.yaml\n":                          {"ls", "--config", "../../configs/factory.yaml"},
		"pipeline show lab --operation enroll --config configs/factory.yaml\n": {"show", "lab", "--operation", "enroll", "--config", "../../configs/factory.yaml"},
	} {
		if out, err := drawn(t, args...); err != nil || !strings.Contains(string(page), "$ muster "+command+out) {
			t.Errorf("%s prints another thing than docs/cli.md says: %v\n%s", command, err, out)
		}
	}
}

// What is not there is said with what is nearest.
func TestDrawingsOfNothing(t *testing.T) {
	composed := filepath.Join("testdata", "pipeline", "composed.yaml")
	for want, args := range map[string][]string{
		`there is no endpoint "device" in ` + composed + ` (did you mean "devices"?)`: {"show", "device", "--config", composed},
		`there is no operation "enrol" (did you mean "enroll"?)`:                      {"show", "devices", "--config", composed, "--operation", "enrol"},
		`endpoint devices denies query: it has no such pipeline`:                      {"show", "devices", "--config", composed, "--operation", "query"},
		`pipeline show wants one endpoint: "muster pipeline ls" lists them`:           {"show"},
		`give --json or --mermaid, not both`:                                          {"show", "devices", "--config", composed, "--json", "--mermaid"},
		`no such file or directory`:                                                   {"ls", "--config", filepath.Join(t.TempDir(), "none.yaml")},
		`there is no configuration `:                                                  {"ls", "--data", t.TempDir()},
	} {
		if _, err := drawn(t, args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %s", args, err, want)
		}
	}
	// A faulty configuration is told, not drawn.
	faulty := filepath.Join(t.TempDir(), "m.yaml")
	if err := os.WriteFile(faulty, []byte(orderConfig("      - pasword: {}\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := drawn(t, "show", "ran", "--config", faulty); err == nil || !strings.Contains(err.Error(), `unknown stage "pasword" (did you mean "password"?)`) {
		t.Errorf("%v %s", err, out)
	}
	// The data directory's own configuration is the default, as with other commands.
	data := t.TempDir()
	if err := os.WriteFile(filepath.Join(data, "muster.yaml"), []byte(orderConfig("      - challenge: {issued: true, basic: true}\n      - names: {}\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := drawn(t, "ls", "--data", data); err != nil || !strings.Contains(out, "challenge > names > keys*") {
		t.Errorf("%v %s", err, out)
	}
}

// A drawing has its width whatever stands in the configuration, and nothing in it drives the terminal.
func TestDrawingsAreBounded(t *testing.T) {
	v := endpointView{Endpoint: "e", Protocol: "EST", Operations: []operationView{{Operations: []gateway.Operation{gateway.Enroll}, Stages: []stageView{
		{Name: "names", Checks: []string{strings.Repeat("x", 5000), "a\x1b[2Jb", strings.Repeat("long words ", 200)}},
		{Name: "anyOf", Branches: [][]stageView{{{Name: "not", Branches: [][]stageView{{{Name: "allOf", Branches: [][]stageView{{{Name: "keys", Checks: []string{strings.Repeat("é ", 300)}}}}}}}}}}},
	}}}}
	for _, plain := range []bool{false, true} {
		got := draw(v, leastWidth, plain)
		if len(got) > 4000 || strings.Contains(got, "\x1b") {
			t.Errorf("%d bytes: %s", len(got), got)
		}
		for line := range strings.SplitSeq(got, "\n") {
			if len([]rune(line)) > leastWidth {
				t.Errorf("%d columns: %s", len([]rune(line)), line)
			}
		}
	}
	if got := mermaid(v); strings.Contains(got, "\x1b") || len(got) > 4000 {
		t.Errorf("%s", got)
	}
	quoting := endpointView{Endpoint: "e", Operations: []operationView{{Operations: []gateway.Operation{gateway.Enroll}, Stages: []stageView{{Name: "names", Checks: []string{`"]; click n1 <b> #`}}}}}}
	if got := mermaid(quoting); !strings.Contains(got, `#quot;#93;; click n1 #lt;b#gt; #35;`) {
		t.Errorf("%s", got)
	}
}

// Refusals are told in the protocol's own words, all of them.
func TestDrawingsTellEveryReason(t *testing.T) {
	var all []stageView
	for _, reason := range gateway.Reasons {
		all = append(all, stageView{Name: string(reason), refuses: []gateway.Reason{reason}})
	}
	for _, p := range protocols {
		told := refusals(p.name, operationView{Stages: all}, true)
		if len(told) != len(gateway.Reasons) {
			t.Errorf("%s: %d of %d reasons", p.name, len(told), len(gateway.Reasons))
		}
		for _, r := range told {
			if r.Told == "" || strings.Contains(r.Told, "HTTP 0") {
				t.Errorf("%s: %s is told as %q", p.name, r.Reason, r.Told)
			}
		}
	}
	in := refusals(gateway.EST, operationView{Stages: []stageView{{Name: "not", refuses: []gateway.Reason{gateway.NotAuthorized}, Branches: [][]stageView{{{Name: "password", refuses: []gateway.Reason{gateway.Unauthenticated}}}}}}}, true)
	if slices.ContainsFunc(in, func(r refusalView) bool { return r.Reason == gateway.Unauthenticated }) {
		t.Error("what stands in `not` refuses nobody in its own words")
	}
}

// Stages within stages have a bound, and a pipeline that stands twice is written once, with the lines of where it stands.
func TestCompositionsOfAConfiguration(t *testing.T) {
	const vouched = "      - challenge: {issued: true, basic: true}\n"
	for stages, want := range map[string]string{
		vouched + "      - " + strings.Repeat("not: [{", 20) + "keys: {}" + strings.Repeat("}]", 20) + "\n":                                                       "muster.yaml:15: nested deeper than 32 levels",
		vouched + "      - " + strings.Repeat("not: [{", 5) + "keys: {}" + strings.Repeat("}]", 5) + "\n      - names: {}\n":                                      "",
		"      &all\n      - challenge: {issued: true, basic: true}\n      - names: {comon-name: x}\n    renew: *all\n":                                           "muster.yaml:16: unknown key \"comon-name\" in endpoints.ran.enroll[1].names (did you mean \"common-name\"?)\nmuster.yaml:16: unknown key \"comon-name\" in endpoints.ran.renew[1].names",
		"      &all\n      - challenge: {issued: true, basic: true}\n      - names: {common-name: x}\n    renew:\n      - own-certificate: {}\n    rekey: *all\n": "",
	} {
		c, err := parseConfig("muster.yaml", t.TempDir(), []byte(orderConfig(stages)))
		if err == nil {
			_, err = makeEndpoints(c, testDeps(t))
		}
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s%v, want %q", stages, err, want)
		}
	}
}
