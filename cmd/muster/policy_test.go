package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway/admin"
)

const triedRules = `rules:
  - {name: strong-keys, if: 'request.key.algorithm == "RSA" && request.key.bits < 3072', deny: "RSA keys need 3072 bits"}
  - {name: lab, if: 'device.attributes.?site.orValue("") == "lab"', profile: lab}
  - {name: night, if: 'now.getHours() < 6', hold: "it is night", approvers: 2}
  - {name: known, if: device.known, allow: true}
  - {name: tier, if: 'attributes.tier == "gold"', deny: "no gold today"}
`

func triedFacts(bits, hour string) string {
	return `{"request": {"id": "06gz", "protocol": "cmp", "endpoint": "ran", "operation": "enroll", "received": "2026-11-23T12:00:00Z",
 "key": {"algorithm": "RSA", "bits": ` + bits + `}}, "device": {"name": "bts-7", "known": true, "attributes": {"site": "lab"}}, "now": "2026-11-23T` + hour + `:00:00Z"}`
}

const triedTable = `policy.yaml
RULE         LINE  SAYS     EFFECT       LOOKED AT
strong-keys  2     no       deny         request.key.algorithm = "RSA"
                                         request.key.bits = 3072
lab          3     matched  profile lab  device.attributes.site = "lab"
night        4     no       hold         now = 2026-11-23T12:00:00Z
known        5     matched  allow        device.known = true
tier         6     (error)  deny         no such key: tier
                                         attributes.tier = (none)
(in parentheses: rules that are not asked, since one before has decided)
allow: by rule known
`

func TestPolicyTest(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for name, text := range map[string]string{
		"policy.yaml": triedRules, "good.json": triedFacts("3072", "12"), "weak.json": triedFacts("2048", "12"), "night.json": triedFacts("3072", "03"),
		"unknown.json": strings.Replace(triedFacts("3072", "12"), `"known": true`, `"known": false`, 1), "typo.json": `{"request": {"subjct": {}}}`,
		"other.json":  strings.Replace(triedFacts("3072", "12"), `"ran"`, `"rn"`, 1),
		"bad.yaml":    "rules:\n  - {name: a, if: device.knwn, allow: true}\n",
		"muster.yaml": orderConfig("      - challenge: {issued: true, basic: true}\n      - policy: {file: policy.yaml}\n      - anyOf: [policy: {rules: [{name: ram, if: 'request.endpoint == \"ram\"', deny: \"no\"}], otherwise: allow}]\n      - names: {}\n"),
		"none.yaml":   orderConfig("      - challenge: {issued: true, basic: true}\n      - names: {}\n"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	api, _ := fakeAPI(t, map[string]any{
		"GET /v1/transactions/06gz": admin.Transaction{ID: "06gz", Facts: json.RawMessage(triedFacts("2048", "12"))},
		"GET /v1/transactions/06no": admin.Transaction{ID: "06no"},
	})
	for _, c := range []struct {
		args string
		code int
		want []string
	}{
		{"policy.yaml --request good.json", 0, []string{triedTable}},
		{"policy.yaml --request weak.json", exitDenied, []string{`deny: by rule strong-keys; the client is told "RSA keys need 3072 bits"`, "lab          3     (matched)"}},
		{"policy.yaml --request night.json", exitHeld, []string{"hold: by rule night"}},
		{"policy.yaml --request unknown.json", exitCannotAnswer, []string{"cannot-answer: rule tier (policy.yaml:6:34): no such key: tier"}},
		{"policy.yaml --request 06gz --data " + api, exitDenied, []string{"deny: by rule strong-keys"}},
		{"policy.yaml --request weak.json --json", exitDenied, []string{`"outcome": "deny"`, `"path": "request.key.bits"`, `"value": 2048`, `"rule": "strong-keys"`, `"if": "device.known"`}},
		{"muster.yaml --request good.json", 0, []string{"endpoints.ran.enroll[1].policy\n", "endpoints.ran.enroll[2].anyOf[0].policy\n", "allow: no rule decides", "together, where all have to allow: allow"}},
		{"muster.yaml --request weak.json", exitDenied, []string{"together, where all have to allow: deny"}},
		{"muster.yaml --request other.json --endpoint ran", 0, []string{"allow: by rule known"}},
		{"policy.yaml --request typo.json", 1, []string{"typo.json: request.subjct: no such field; did you mean subject?"}},
		{"policy.yaml", 1, []string{"--request is missing"}},
		{"policy.yaml --request nowhere.json", 1, []string{"nowhere.json: no such file"}},
		{"policy.yaml --request 06no --data " + api, 1, []string{"keeps no facts of 06no"}},
		{"policy.yaml --request good.json --endpoint ran", 1, []string{"policy.yaml is a file of rules"}},
		{"bad.yaml --request good.json", 1, []string{"bad.yaml:2:26: rules[0].if: device.knwn: no such field; did you mean known?"}},
		{"muster.yaml --request other.json", 1, []string{`there is no endpoint "rn" (did you mean "ran"?)`}},
		{"muster.yaml --request good.json --operation enrol", 1, []string{`has no pipeline "enrol" (did you mean "enroll"?)`}},
		{"none.yaml --request good.json", 1, []string{"endpoints.ran.enroll has no stage policy"}},
	} {
		out, err := runCommand(newPolicyCommand(), append([]string{"test"}, strings.Fields(c.args)...)...)
		code := exitCode(0)
		if err != nil && !errors.As(err, &code) {
			code, out = 1, out+err.Error()
		}
		if int(code) != c.code {
			t.Errorf("%s: exit code %d, want %d\n%s", c.args, code, c.code, out)
		}
		for _, want := range c.want {
			if !strings.Contains(out, want) {
				t.Errorf("%s:\n%s\nlacks\n%s", c.args, out, want)
			}
		}
	}
}

func TestPolicyFields(t *testing.T) {
	out, err := runCommand(newPolicyCommand(), "fields")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"variables\n  request      Request ", "\nRequest\n", "  bits  ", "of the modulus, or the curve", "list(string)", "strong-keys"} {
		if !strings.Contains(out, want) {
			t.Errorf("lacks %q:\n%s", want, out)
		}
	}
	if out, err = runCommand(newPolicyCommand(), "fields", "--json"); err != nil || !strings.Contains(out, `"type": "map(string, string)"`) {
		t.Errorf("%v\n%s", err, out)
	}
}
