package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// What limits cannot work with does not load, with its line, and the nearest key.
func TestLimitsConfig(t *testing.T) {
	deps := testDeps(t)
	pemFile(t, filepath.Join(deps.Dir, "ca.pem"))
	const (
		named   = "      - vendor-ca: {cas: [ca.pem], serial: subject.serialNumber}\n      - names: {}\n"
		nobody  = "      - client-certificate: {cas: [ca.pem]}\n      - names: {}\n"
		device  = "      - limits: {device: {active: 1}}\n"
		refused = "endpoints.ran.enroll: the stage limits counts per device, and no stage before it says which device asks"
	)
	for stages, want := range map[string]string{
		named + device: "",
		named + "      - limits:\n          device:   {issued: 3, per: 24h, active: 2}\n          endpoint: {issued: 10000, per: 1h}\n          source:   {issued: 100, per: 1h, active: 500}\n": "",
		nobody + device: "muster.yaml:16: " + refused,
		device + named:  "muster.yaml:14: " + refused,
		nobody + "      - limits: {source: {active: 1}}\n":                                     "",
		nobody + "      - limits: {}\n":                                                        "nothing is limited: say device, endpoint or source",
		nobody + "      - limits: {endpiont: {active: 1}}\n":                                   "endpoint",
		nobody + "      - limits: {endpoint: {issued: 0, per: 1h}}\n":                          "muster.yaml:16: endpoints.ran.enroll[2].limits.endpoint.issued: wants a number from 1 to",
		nobody + "      - limits: {endpoint: {issued: 5}}\n":                                   "per: say in what time 5 may be issued",
		nobody + "      - limit: {endpoint: {active: 1}}\n":                                    `unknown stage "limit" (did you mean "limits"?)`,
		nobody + "      - anyOf: [[keys: {}, limits: {device: {active: 1}}]]\n":                "muster.yaml:16: " + refused,
		nobody + "      - not: [limits: {endpoint: {active: 1}}]\n":                            "muster.yaml:16: endpoints.ran.enroll: the stage limits stands within not, where nothing is counted",
		nobody + "      - not: [anyOf: [limits: {endpoint: {active: 1}}, keys: {}]]\n":         "the stage limits stands within not",
		nobody + "      - anyOf: [inventory: {by: [subject.CN]}, keys: {}]\n" + device:         "",
		nobody + "      - allOf: [inventory: {by: [subject.CN]}]\n" + device:                   "",
		nobody + "      - not: [inventory: {}]\n" + device:                                     refused,
		nobody + "      - password: {users: {a: " + testHash + "}}\n" + device:                 refused,
		nobody + "      - challenge: {secrets: {a: " + testHash + "}, basic: true}\n" + device: refused,
		nobody + "      - challenge: {issued: true, basic: true}\n" + device:                   "",
		nobody + "      - approval: {}\n" + device:                                             refused,
		nobody + "      - names: {device: subject.CN}\n" + device:                              refused,
		named + "    renew:\n      - own-certificate: {window: 34%}\n" + device:                "",
		named + "    renew:\n      - own-certificate: {window: 130%}\n":                        "wants a period such as 30d, or a share",
		named + "    renew:\n      - own-certificate: {window: 0d}\n":                          "wants a period such as 30d, or a share",
		named + "    query:\n      - own-certificate: {}\n" + device:                           "the stage limits counts certificates, and query makes none",
	} {
		c, err := parseConfig("muster.yaml", deps.Dir, []byte(orderConfig(stages)))
		if err == nil {
			_, err = makeEndpoints(c, deps)
		}
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s%v\nwant %q", stages, err, want)
		}
	}
}

func TestJitterConfig(t *testing.T) {
	deps := testDeps(t)
	for profile, want := range map[string]string{
		"validity: 90d, jitter: 5d":  "",
		"validity: 90d, jitter: 50%": "",
		"jitter: 40d":                "",
		"validity: 90d, jitter: 51%": "muster.yaml:7: profiles.any.jitter: 51% is more than half of the validity of 90d",
		"validity: 90d, jitter: 46d": "profiles.any.jitter: 46d is more than half",
		"jitter: 199d":               "more than half of the validity of 397d",
		"validity: 90d, jitter: 0d":  "wants a period such as 30d, or a share",
		"validity: 90d, jiter: 5d":   "jitter",
		"validity: 90d, jitter: -1%": "wants a period",
	} {
		text := strings.Replace(orderConfig("      - approval: {}\n      - names: {}\n"), "any: {backend: local}", "any: {backend: local, "+profile+"}", 1)
		c, err := parseConfig("muster.yaml", deps.Dir, []byte(text))
		if err == nil {
			_, err = makeEndpoints(c, deps)
		}
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v\nwant %q", profile, err, want)
		}
		if want == "" && c.Profiles["any"].Jitter.IsZero() {
			t.Errorf("%s: none", profile)
		}
	}
}

// Clients that ask when to renew are not told a time at which they would be refused.
func TestWindowAndHint(t *testing.T) {
	deps := testDeps(t)
	const renew, told = "    renew:\n      - ", "and clients that ask est.renewal-hint come after "
	for stages, want := range map[string]string{
		renew + "own-certificate: {window: 33%}\n":                                                                                                "muster.yaml:16: endpoints.ran.renew: own-certificate renews after 67% of a certificate's life (profile any), " + told + "66%: they would be refused. Give it a longer window, or set est.renewal-hint to {from: 67%, until: 83%}",
		renew + "own-certificate: {window: 33%}\n    est: {renewal-hint: {from: 67%}}\n":                                                          "",
		renew + "own-certificate: {window: 33%}\n    est: {renewal-hint: {off: true}}\n":                                                          "",
		renew + "own-certificate: {window: 50%}\n    est: {renewal-hint: {from: 49%}}\n":                                                          "renews after 50% of a certificate's life",
		renew + "own-certificate: {window: 30d}\n":                                                                                                "renews after 93% of a certificate's life (profile any), " + told + "66%: they would be refused. Give it a longer window, or set est.renewal-hint to {from: 93%, until: 99%}",
		renew + "own-certificate: {window: 1h}\n":                                                                                                 "set est.renewal-hint to {off: true}",
		renew + "own-certificate: {window: 200d}\n":                                                                                               "",
		renew + "own-certificate: {window: 2000d}\n":                                                                                              "",
		renew + "own-certificate: {}\n":                                                                                                           "",
		renew + "anyOf: [own-certificate: {window: 10%}, own-certificate: {window: 40%}]\n":                                                       "",
		renew + "anyOf: [[own-certificate: {window: 10%}, keys: {}], allOf: [own-certificate: {window: 20%}]]\n":                                  "renews after 80%",
		"    rekey:\n      - own-certificate: {}\n" + renew + "own-certificate: {window: 5%}\n    est: {renewal-hint: {from: 95%, until: 99%}}\n": "",
	} {
		c, err := parseConfig("muster.yaml", deps.Dir, []byte(orderConfig("      - password: {users: {a: "+testHash+"}}\n      - names: {}\n"+stages)))
		if err == nil {
			_, err = makeEndpoints(c, deps)
		}
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s%v\nwant %q", stages, err, want)
		}
	}
}
