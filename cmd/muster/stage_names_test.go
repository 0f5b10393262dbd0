package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// What nobody has judged comes into no certificate: neither the names, on whichever way, nor, in a renewal, who asks.
func TestEveryWayJudgesWhoAndWhat(t *testing.T) {
	deps := testDeps(t)
	pemFile(t, filepath.Join(deps.Dir, "ca.pem"))
	const (
		enroll = "    enroll: [challenge: {issued: true, basic: true}, names: {}]\n"
		client = "client-certificate: {cas: [ca.pem]}"
		vendor = "vendor-ca: {cas: [ca.pem], serial: subject.serialNumber}"
		open   = "there is a way through these stages on which nobody is authenticated: whoever reaches the endpoint could have a certificate, by one that anybody has signed"
		names  = "there is a way through these stages on which none judges the names asked for, so that whoever may enrol could enrol as anybody"
		anew   = "there is a way through these stages on which nobody judges the names asked for, so that whoever may renew could renew as anybody"
		idle   = "the stage own-certificate judges renew, rekey, revoke and query: nobody could pass it in enroll"
		lost   = "goes by the device, and no stage before it says which device asks"
		made   = "{backend: local, subject: \"CN={{device.name}}\""
	)
	for _, tt := range []struct{ profile, pipelines, want string }{
		{"", "    enroll: [" + client + ", anyOf: [names: {}, keys: {}]]\n", names},
		{"", "    enroll: [anyOf: [[" + client + ", names: {}], " + vendor + "]]\n", names},
		{"", "    enroll: [anyOf: [[" + client + ", names: {}], [" + vendor + ", allOf: [names: {device: subject.CN}]]]]\n", ""},
		{"", "    enroll: [" + client + ", not: [names: {}]]\n", "no stage judges the names asked for, so that whoever may enrol"},
		{made + "}", "    enroll: [anyOf: [[" + client + ", names: {}], " + vendor + "]]\n", ""},
		{"", "    enroll: [anyOf: [[" + vendor + ", names: {}], [own-certificate: {}, names: {}]]]\n", idle},
		{"", "    enroll: [" + vendor + ", not: [own-certificate: {}], names: {}]\n", ""},

		{"", enroll + "    renew: [keys: {}]\n", open},
		{"", enroll + "    rekey: [names: {}]\n", open},
		{"", enroll + "    renew: [policy: {otherwise: allow, rules: [{name: a, if: 'false', deny: no}]}, webhook: {url: \"https://a.example/\"}, limits: {endpoint: {active: 9}}, names: {}]\n", open},
		{"", enroll + "    renew: [anyOf: [own-certificate: {}, not: [keys: {allowed: [Ed25519]}]]]\n", open},
		{"", enroll + "    renew: [not: [own-certificate: {}], names: {}]\n", open},
		{"", enroll + "    renew: [own-certificate: {}]\n", ""},
		{"", enroll + "    renew: [anyOf: [own-certificate: {}, [" + vendor + ", names: {device: subject.CN}]]]\n", ""},
		{"", enroll + "    renew: [anyOf: [own-certificate: {}, " + vendor + "]]\n", anew},
		{"", enroll + "    rekey: [" + client + "]\n", anew},
		{"", enroll + "    renew: [own-certificate: {change-names: true}]\n", anew},
		{"", enroll + "    renew: [own-certificate: {change-names: true}, names: {device: subject.CN}]\n", ""},
		{"", enroll + "    renew: [own-certificate: {change-names: true}, registration: {}]\n", ""},
		{"", enroll + "    renew: [" + vendor + ", registration: {}]\n", anew},
		{made + "}", enroll + "    renew: [" + vendor + "]\n", anew}, // which keeps the names asked for
		{made + ", renew-names: template}", enroll + "    renew: [" + vendor + "]\n", ""},
		{made + ", renew-names: template, san: {dns: [\"{{request.san.dns}}\"]}}", enroll + "    renew: [" + vendor + "]\n", anew},

		{"", "    enroll: [" + client + ", names: {device: subject.CN}]\n", "the stage names " + lost},
		{"", "    enroll: [" + client + ", anyOf: [inventory: {}, keys: {}], names: {}]\n", "the stage inventory " + lost},
		{"", "    enroll: [" + client + ", registration: {}, names: {}]\n", "the stage registration " + lost},
		{"", "    enroll: [" + client + ", not: [" + vendor + "], names: {device: subject.CN}]\n", "the stage names " + lost},
		{"", "    enroll: [" + client + ", webhook: {url: \"https://a.example/\"}, names: {device: subject.CN}]\n", ""},
		{"", "    enroll: [" + client + ", inventory: {by: [certificate.subject.CN]}, names: {device: subject.CN}]\n", ""},
	} {
		text, _, _ := strings.Cut(orderConfig(tt.pipelines), "    enroll:\n")
		if text += tt.pipelines; tt.profile != "" {
			text = strings.Replace(text, "any: {backend: local}", "any: "+tt.profile, 1)
		}
		c, err := parseConfig("muster.yaml", deps.Dir, []byte(text))
		if err == nil {
			_, err = makeEndpoints(c, deps)
		}
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s%s%v\nwant %q", tt.profile, tt.pipelines, err, tt.want)
		}
	}
}
