package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What the rules of a policy would do is known when they are loaded: whether they hold, and which profiles they choose.
func TestPolicyAtLoad(t *testing.T) {
	const hold = `policy: {rules: [{name: night, if: "now.getHours() < 6", hold: "at night"}], otherwise: allow}`
	const allow = `policy: {rules: [{name: known, if: device.known, allow: true}]}`
	const secret = "challenge: {issued: true, basic: true}"
	for stages, want := range map[string]string{
		"      - " + secret + "\n      - " + hold + "\n      - names: {}\n":                                                                                                                         "",
		"      - " + allow + "\n      - " + secret + "\n      - names: {}\n":                                                                                                                        "",
		"      - " + hold + "\n      - " + secret + "\n      - names: {}\n":                                                                                                                         "muster.yaml:15: endpoints.ran.enroll[1]: the stage challenge needs a secret, and stands behind an approval",
		"      - anyOf: [" + hold + ", names: {}]\n      - " + secret + "\n      - names: {}\n":                                                                                                     "muster.yaml:15: endpoints.ran.enroll[1]: the stage challenge",
		"      - policy: {file: hold.yaml}\n      - " + secret + "\n      - names: {}\n":                                                                                                            "muster.yaml:15: endpoints.ran.enroll[1]: the stage challenge",
		"      - " + allow + "\n      - names: {}\n":                                                                                                                                                "there is a way through these stages on which nobody is authenticated",
		"      - " + hold + "\n      - names: {}\n":                                                                                                                                                 "there is a way through these stages on which nobody is authenticated",
		"      - " + secret + "\n      - " + allow + "\n      - names: {}\n    revoke:\n      - own-certificate: {}\n      - " + allow + "\n":                                                       "",
		"      - " + secret + "\n      - names: {}\n    revoke:\n      - own-certificate: {}\n      - " + hold + "\n":                                                                               "the stage policy holds requests, and a revocation does not wait",
		"      - " + secret + "\n      - names: {}\n      - policy: {rules: [{name: a, if: 'true', profile: ani}, {name: b, if: 'true', allow: true}]}\n":                                           `muster.yaml:16:57: endpoints.ran.enroll.policy.rules[0].profile: "ani" is not a profile that the endpoint offers (did you mean "any"?)`,
		"      - " + secret + "\n      - names: {}\n    revoke:\n      - own-certificate: {}\n      - policy: {rules: [{name: a, if: 'true', profile: any}, {name: b, if: 'true', allow: true}]}\n": `endpoints.ran.revoke.policy.rules[0].profile: "any" is not a profile that the endpoint offers`,
		"      - " + secret + "\n      - names: {}\n      - policy: {rules: [{name: a, if: device.knwn, allow: true}]}\n":                                                                           "muster.yaml:16: endpoints.ran.enroll[2].policy.rules[0].if: device.knwn: no such field; did you mean known? (column 8 of the expression)",
		"      - " + secret + "\n      - names: {}\n      - policy: {file: bad.yaml}\n":                                                                                                             "bad.yaml:2:26: endpoints.ran.enroll[2].policy.rules[0].if: device.knwn: no such field; did you mean known?",
		"      - " + secret + "\n      - names: {}\n      - policy: {file: none.yaml}\n":                                                                                                            "muster.yaml:16: endpoints.ran.enroll[2].policy",
		"      - " + secret + "\n      - names: {}\n      - policy: {}\n":                                                                                                                           "there are no rules",
	} {
		deps := testDeps(t)
		for name, text := range map[string]string{
			"hold.yaml": "rules: [{name: a, if: 'true', hold: x}]\n", "bad.yaml": "rules:\n  - {name: a, if: device.knwn, allow: true}\n",
		} {
			if err := os.WriteFile(filepath.Join(deps.Dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		text := orderConfig(stages)
		if strings.Contains(stages, "revoke") { // EST has none
			text = strings.Replace(strings.Replace(text, "est", "cmp", 1), secret, "shared-secret: {devices: true}", 1)
		}
		c, err := parseConfig("muster.yaml", deps.Dir, []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		_, err = makeEndpoints(c, deps)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s%v\nwant %q", stages, err, want)
		}
	}
}
