package main

import (
	"strings"
	"testing"

	"github.com/muster-pki/muster/plugins/backend"
)

const forwarding = `version: 1
listeners: {tls: {address: 127.0.0.1:0, tls: {}}}
backends:
  local: {plugin: local, config: {dir: ./ca}}
  central: {plugin: /opt/forwarder, sha256: ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad}
profiles:
  device: {backend: local}
  passed: {backend: central}
endpoints:
  edge:
    protocol: cmp
    listeners: [tls]
    profile: passed
    enroll:
    - shared-secret: {devices: true}
    - forward: {backend: central}
    renew: [own-certificate: {}, forward: {backend: central}]
    revoke: [own-certificate: {}, forward: {backend: central}]
`

// Where the stage forward cannot stand.
func TestForwardLoads(t *testing.T) {
	for name, tc := range map[string]struct{ old, new, want string }{
		"as it should be":   {"version: 1", "version: 1", ""},
		"no such backend":   {"    - forward: {backend: central}", "    - forward: {backend: centrall}", `there is no backend "centrall" (did you mean "central"?)`},
		"no backend":        {"    - forward: {backend: central}", "    - forward: {}", `lacks "backend"`},
		"unknown key":       {"    - forward: {backend: central}", "    - forward: {backend: central, raw: true}", `unknown key "raw"`},
		"not the last":      {"    - forward: {backend: central}", "    - forward: {backend: central}\n    - names: {}", "the last of its pipeline"},
		"twice":             {"    - forward: {backend: central}", "    - forward: {backend: central}\n    - forward: {backend: central}", "the last of its pipeline, once"},
		"within anyOf":      {"    - forward: {backend: central}", "    - anyOf: [[forward: {backend: central}]]", "within no other stage"},
		"within not":        {"    - forward: {backend: central}", "    - not: {forward: {backend: central}}", "within no other stage"},
		"behind approval":   {"    - forward: {backend: central}", "    - approval: {}\n    - forward: {backend: central}", "the stage approval holds requests"},
		"approval in anyOf": {"    - forward: {backend: central}", "    - anyOf: [[approval: {}], [keys: {}]]\n    - forward: {backend: central}", "the stage approval holds requests"},
		"over EST":          {"    protocol: cmp", "    protocol: est", "the endpoint speaks est"},
		"to whom it may be": {"    - shared-secret: {devices: true}\n", "", "nobody is authenticated"},
	} {
		t.Run(name, func(t *testing.T) {
			if strings.Count(forwarding, tc.old) != 1 {
				t.Fatalf("%q stands there %d times", tc.old, strings.Count(forwarding, tc.old))
			}
			text := strings.Replace(forwarding, tc.old, tc.new, 1)
			if strings.Contains(tc.new, "est") { // which has no such request
				text = text[:strings.Index(text, "    revoke:")]
			}
			c, err := parseConfig("m.yaml", t.TempDir(), []byte(text))
			if err == nil {
				_, err = makeEndpoints(c, testDeps(t))
			}
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
		})
	}
}

// What the backend has to be able to do, and need not.
func TestForwardSuits(t *testing.T) {
	passes := backend.Description{Name: "forwarder", Forms: []backend.Form{backend.FormExchange}, Capabilities: []backend.Capability{backend.CapExchange}}
	certifies := backend.Description{Name: "local", Forms: []backend.Form{backend.FormTemplate}, Capabilities: []backend.Capability{backend.CapRevoke}}
	deaf := passes
	deaf.Capabilities = nil
	for name, tc := range map[string]struct {
		old, new string
		central  backend.Description
		want     string
	}{
		"all is passed on":                  {"version: 1", "version: 1", passes, ""},
		"to one that certifies, too":        {"version: 1", "version: 1", backend.Description{Name: "both", Forms: certifies.Forms, Capabilities: passes.Capabilities}, ""},
		"to one that does not":              {"version: 1", "version: 1", deaf, "endpoints.edge.enroll: backend central (forwarder) does not pass messages on"},
		"some is certified, by nobody":      {"renew: [own-certificate: {}, forward: {backend: central}]", "renew: [own-certificate: {}]", passes, "certifies nothing itself: end each pipeline with the stage forward"},
		"the rest by another":               {"profile: passed", "profile: device", passes, ""},
		"revoked by one that cannot":        {"revoke: [own-certificate: {}, forward: {backend: central}]", "revoke: [own-certificate: {}]", passes, "endpoints.edge.revoke: backend central (forwarder) cannot revoke"},
		"revoked by one that cannot, local": {"    profile: passed", "    profile: device", passes, ""},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := parseConfig("m.yaml", t.TempDir(), []byte(strings.Replace(forwarding, tc.old, tc.new, 1)))
			if err != nil {
				t.Fatal(err)
			}
			described := map[string]*backend.Description{"local": &certifies, "central": &tc.central}
			rt := &Runtime{cfg: c, cas: map[string][]backend.CA{}}
			err = rt.passesOn("edge", described)
			if err == nil {
				err = rt.suits("edge", c.Endpoints["edge"].Profile, described)
			}
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
		})
	}
}
