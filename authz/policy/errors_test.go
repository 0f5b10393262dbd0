package policy

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// one is a file with the condition, in a line of its own.
func one(condition string) string {
	return "rules:\n  - name: one\n    if: " + condition + "\n    allow: true\n"
}

// Line and column are those of the file, and the nearest name is said.
func TestErrors(t *testing.T) {
	for condition, want := range map[string]string{
		`request.subjct.dn == "x"`:                                         "policy.yaml:3:17: rules[0].if: request.subjct: no such field; did you mean subject?",
		`'request.subjct.dn == "x"'`:                                       "policy.yaml:3:18: rules[0].if: request.subjct: no such field; did you mean subject?",
		`"request.subjct.dn == \"x\""`:                                     "policy.yaml:3:18: ",
		`"'\"' == 'x' && request.subjct.dn == ''"`:                         "policy.yaml:3:33: ",
		`'''a'' == ''b'' && request.subjct == ""'`:                         "policy.yaml:3:36: ",
		`"\x72equest.subjct == 'x'"`:                                       "policy.yaml:3: rules[0].if: request.subjct: no such field; did you mean subject? (column 9 of the expression)",
		"|\n      device.known &&\n      ünknown.x":                        "policy.yaml:5:7: rules[0].if: ", // no letter of CEL's
		"|\n      device.known &&\n        device.knwn":                    "policy.yaml:5:16: rules[0].if: device.knwn: no such field; did you mean known?",
		"|-\n     'ü' == 'ü' && device.knwn":                               "policy.yaml:4:27: ",
		">\n      device.known &&\n      device.knwn":                      "policy.yaml:3: rules[0].if: device.knwn: no such field; did you mean known? (column 24 of the expression)",
		"device.known &&\n      device.knwn":                               "policy.yaml:3: rules[0].if: device.knwn: no such field; did you mean known? (column 24 of the expression)",
		`&c device.knwn`:                                                   "policy.yaml:3:19: rules[0].if: device.knwn",
		`&c  'device.knwn'`:                                                "policy.yaml:3:21: rules[0].if: device.knwn",
		"&c device.knwn\n    allow: true\n  - name: two\n    if: *c":       "policy.yaml:3:19: rules[1].if: device.knwn",
		`requst.key.bits > 1`:                                              "policy.yaml:3:9: rules[0].if: requst: no such variable; did you mean request?",
		`subject.dn == "x"`:                                                "policy.yaml:3:9: rules[0].if: subject: no such variable; did you mean request.subject?",
		`zzz == "x"`:                                                       "policy.yaml:3:9: rules[0].if: zzz: no such variable; there are request, credentials, requester, device, grant, attributes, now",
		`request.subject.foo == "x"`:                                       "request.subject.foo: no such field; there are dn, commonName, serialNumber",
		`request.id.endswith("x")`:                                         "policy.yaml:3:20: rules[0].if: endswith(): no such function; did you mean endsWith?",
		`credentials.exists(c, c.knd == "x")`:                              "policy.yaml:3:33: rules[0].if: c.knd: no such field; did you mean kind?",
		`credentials[0].certificate.isuer.dn == ""`:                        "credentials[...].certificate.isuer: no such field; did you mean issuer?",
		`credentials.exists(cred, crd.kind == "x")`:                        "policy.yaml:3:34: rules[0].if: crd: no such variable; did you mean cred?",
		`request.subject.attributes.exists(k, v, v.exists(x, x.foo == k))`: "type 'string' does not support field selection",
		`has(device.atributes)`:                                            "policy.yaml:3:20: rules[0].if: device.atributes: no such field; did you mean attributes?",
		`device.?atributes.hasValue()`:                                     "policy.yaml:3:15: rules[0].if: device.atributes: no such field; did you mean attributes?",
		`request.key.bits < "x"`:                                           "policy.yaml:3:26: rules[0].if: < does not take int and string",
		`request.subject == "x"`:                                           "== does not take Name and string; the fields of a Name are dn, commonName",
		`request.id.startsWith(3)`:                                         "startsWith does not take string and int",
		`request.key.bits`:                                                 "policy.yaml:3:9: rules[0].if: this is int, and a condition is true or false, as in request.key.bits > 0",
		`request.id`:                                                       `policy.yaml:3:9: rules[0].if: this is string, and a condition is true or false, as in request.id != ""`,
		`request.subject`:                                                  "policy.yaml:3:9: rules[0].if: this is Name, and",
		`device.known = true`:                                              "policy.yaml:3:22: rules[0].if: = is no operator: == compares",
		`device.known &&`:                                                  "policy.yaml:3:24: rules[0].if: the expression ends here, and is not complete",
		`request.id.matches("[a")`:                                         "policy.yaml:3:28: rules[0].if: the pattern does not parse: missing closing ]: `[a`",
		`request.id.matches("(?!a)")`:                                      "the pattern does not parse: invalid or unsupported Perl syntax: `(?!`",
		`cidr("10.0.0.0/33").containsIP(request.source)`:                   `policy.yaml:3:14: rules[0].if: "10.0.0.0/33" is no network, as in "10.0.0.0/8"`,
		`ip("10.0.0") == ip(request.source)`:                               `policy.yaml:3:12: rules[0].if: "10.0.0" is no address`,
		`now - now < duration("1 day")`:                                    `"1 day" is no duration`,
		`now < timestamp("2027")`:                                          `"2027" is no time`,
		`""`:                                                               "policy.yaml:3:9: rules[0].if: an expression is missing",
		`[a]`:                                                              "rules[0].if: wants an expression",
		`""
    if: x`: "stands twice",
		// Runaway ones: where, and the figures.
		`device.known && request.sans.dns.exists(a, request.sans.dns.exists(b, request.sans.dns.exists(c, a == b && b == c)))`: "policy.yaml:3:25: rules[0].if: this could cost 125961222 units, and 5000000 are the most",
		`'"a".replace("a", request.subject.dn).replace("x", request.subject.dn) == ""'`:                                        "policy.yaml:3:10: rules[0].if: this could cost",
		`lists.range(3).exists(x, x == 3)`: "policy.yaml:3:21: rules[0].if: lists.range() is not for rules",
		`cel.bind(f, request.sans.dns.map(x, request.sans.dns).flatten(), f.map(x, f) == f.map(x, f))`:   "this could cost",
		`cel.bind(f, request.sans.dns.map(x, request.sans.dns).flatten(), f.map(x, f) in [f.map(x, f)])`: "lists within lists within lists: 2 within each other are the most",
		`cel.bind(a, [1, 1], cel.bind(b, [a, a], [b, b] == [b, b]))`:                                     "policy.yaml:3:49: rules[0].if: lists within lists within lists",
		`sets.contains([["a"]], [["a"]])`:                                                                "sets.contains() does not take lists of lists",
		"'[[\"a\"]].distinct().size() > 3'":                                                              "distinct() does not take lists of lists",
		// What looks as if it could be, and never is or never can be said.
		`request.renews == null`:                     "policy.yaml:3:9: rules[0].if: nothing here is ever null: what is absent is empty",
		`null != request.target`:                     "policy.yaml:3:17: rules[0].if: nothing here is ever null",
		`request.key.algorithm == "ECDSA"`:           `policy.yaml:3:34: rules[0].if: request.key.algorithm is never "ECDSA"; `,
		`true && "enrol" != request.operation`:       `policy.yaml:3:17: rules[0].if: request.operation is never "enrol"; did you mean enroll?`,
		`request.operation in ["renew", "reky"]`:     `policy.yaml:3:40: rules[0].if: request.operation is never "reky"; did you mean rekey?`,
		`credentials.exists(c, c.kind == "tls")`:     `c.kind is never "tls"`,
		`request.id in ["a", 1]`:                     "policy.yaml:3:29: rules[0].if: expected type 'string' but found 'int'",
		`dyn(request) == 3`:                          "the type of this is not known before it is evaluated",
		"'gateway.FactsKey{bits: 3} == request.key'": "Key{...}: rules read values, and make none of these",
		`now.getHours("Europe/Berln") < 6`:           `policy.yaml:3:22: rules[0].if: "Europe/Berln" is no time zone, as in "Europe/Berlin" or "+01:00"`,
		`now.getHours("25:00") < 6`:                  `"25:00" is no time zone`,
		`now.getHours(request.id) < 6`:               "policy.yaml:3:22: rules[0].if: a time zone is a text that stands here",
		`has(attributes)`:                            "has() takes a field or a key, as in has(request.notAfter)",
		`int("x") == 1`:                              "policy.yaml:3:18: rules[0].if: a part that is always the same cannot be evaluated",
	} {
		t.Run(condition, func(t *testing.T) { wantText(t, parseError(t, one(condition)), want) })
	}
	long := parseError(t, one(`request.id == "`+strings.Repeat("x", MaxExpression)+`"`))
	wantText(t, long, "policy.yaml:3:9: rules[0].if: an expression of", fmt.Sprint(MaxExpression, " are the most"))
	deep := strings.Repeat("(1+", maxNesting) + "1" + strings.Repeat(")", maxNesting) + " == 3"
	wantText(t, parseError(t, one(deep)), "policy.yaml:3", "expression recursion limit exceeded")
	wantText(t, parseError(t, one("'1 in [1"+strings.Repeat(",1", maxNodes)+"]'")), "policy.yaml:3:9: rules[0].if: expression node count exceeds limit")
	wantText(t, parseError(t, one(`request.id.matches("a{999}")`)), "policy.yaml:3:28: rules[0].if: regex program size 1001 exceeds limit")
}

// What is wrong with a rule but for its condition.
func TestRuleErrors(t *testing.T) {
	for rules, want := range map[string]string{
		"rules: []":                         "policy.yaml:1: rules: the list of rules is empty",
		"{}":                                `key "rules" is missing`,
		"rules:\n  - {name: a, if: 'true'}": "policy.yaml:2: rules[0]: says not what to do: one of `allow: true`, `deny: \"why\"`",
		"rules:\n  - {name: a, if: 'true', deny: x, allow: true}":                                "allow and deny in one rule: give each a rule of its own",
		"rules:\n  - {name: a, if: 'true', allow: false}":                                        "policy.yaml:2: rules[0].allow: is false: write `deny",
		"rules:\n  - {name: a, if: 'true', deny: true}":                                          "rules[0].deny wants text",
		"rules:\n  - {name: a, if: 'true', deny: \"a\\nb\"}":                                     "rules[0].deny: wants 1 to 200 bytes of text in one line",
		"rules:\n  - {name: a, if: 'true', deny: \"a\\u202eb\"}":                                 "rules[0].deny: wants 1 to 200 bytes",
		"rules:\n  - {name: a, if: 'true', deny: " + strings.Repeat("x", 201) + "}":              "rules[0].deny: wants 1 to 200 bytes",
		"rules:\n  - {name: a, if: 'true', hold: x, approvers: 0}":                               "rules[0].approvers: 1 to 10",
		"rules:\n  - {name: a, if: 'true', hold: x, approvers: 11}":                              "rules[0].approvers: 1 to 10",
		"rules:\n  - {name: a, if: 'true', hold: x, expires: 1s}":                                "rules[0].expires: 1m to 90d",
		"rules:\n  - {name: a, if: 'true', hold: x, expires: 91d}":                               "rules[0].expires: 1m to 90d",
		"rules:\n  - {name: a, if: 'true', allow: true, approvers: 2}":                           "approvers and expires go with hold",
		"rules:\n  - {name: a, allow: true}":                                                     `rules[0] lacks "if"`,
		"rules:\n  - {if: 'true', allow: true}":                                                  `rules[0] lacks "name"`,
		"rules:\n  - {name: " + strings.Repeat("x", maxName+1) + ", if: 'true', allow: true}":    "policy.yaml:2: rules[0]: name: 1 to 64 printable",
		"rules:\n  - {name: '', if: 'true', allow: true}":                                        "name: 1 to 64 printable characters",
		"rules:\n  - {name: a, if: 'true', alow: true}":                                          `unknown key "alow" in rules[0] (did you mean "allow"?)`,
		"rules:\n  - {name: a, if: 'true', allow: true}\n  - {name: a, if: 'true', allow: true}": `policy.yaml:3: rules[1]: name: "a" stands twice, first in line 2`,
		"rules:\n  - {name: a, if: 'true', deny: x}":                                             "nobody could pass. Say `otherwise: allow`",
		"rules:\n  - {name: a, if: 'true', deny: x}\notherwise: allw":                            `otherwise: "allw" is neither allow nor deny (did you mean "allow"?)`,
		"rules:" + strings.Repeat("\n  - {name: a, if: 'true', allow: true}", MaxRules+1):        "257 rules; 256 are the most",
		strings.Repeat("#", MaxFile+1):                                                           "larger than 1048576 bytes",
	} {
		t.Run(want, func(t *testing.T) { wantText(t, parseError(t, rules), want) })
	}
	// Every fault is said, each at its place.
	got := parseError(t, "rules:\n  - {name: a, if: devic.known, allow: true}\n  - {name: b, if: requester, deny: x}\n")
	wantText(t, got, "policy.yaml:2:19: rules[0].if: devic: no such variable; did you mean device?\n", "policy.yaml:3:19: rules[1].if: this is string")
}

// In a configuration, too, the columns are those of the file.
func TestErrorsInConfiguration(t *testing.T) {
	file := filepath.Join(t.TempDir(), "muster.yaml")
	text := "endpoints:\n  rules:\n    - {name: a, if: 'devic.known', allow: true}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var c struct {
		Endpoints struct {
			Rules List `yaml:"rules"`
		} `yaml:"endpoints"`
	}
	err := strictyaml.Decode(file, []byte(text), &c)
	if err == nil {
		t.Fatal("read")
	}
	wantText(t, err.Error(), file+":3:22: endpoints.rules[0].if: devic: no such variable; did you mean device?")
	// What stands there now is not what was read.
	if err := os.WriteFile(file, []byte("\n\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantText(t, strictyaml.Decode(file, []byte(text), &c).Error(), file+":3: endpoints.rules[0].if: devic: no such variable; did you mean device? (column 1 of the expression)")
}

func TestCheckProfiles(t *testing.T) {
	p := mustParse(t, "rules:\n  - {name: a, if: 'true', profile: lab}\n  - {name: b, if: 'true', profile: bas}\n  - {name: c, if: 'true', allow: true}\n")
	if err := p.CheckProfiles([]string{"lab", "bas"}); err != nil {
		t.Error(err)
	}
	wantText(t, p.CheckProfiles([]string{"lab", "base"}).Error(), `policy.yaml:3:36: rules[1].profile: "bas" is not a profile that the endpoint offers (did you mean "base"?)`)
}
