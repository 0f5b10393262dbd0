package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway"
)

// orderConfig is a configuration of an EST endpoint with these stages.
func orderConfig(stages string) string {
	return `version: 1
listeners:
  tls: {address: 127.0.0.1:0, tls: {}}
backends:
  local: {plugin: local, config: {dir: ca}}
profiles:
  any: {backend: local}
endpoints:
  ran:
    protocol: est
    listeners: [tls]
    profile: any
    enroll:
` + stages
}

// What waits for people has been authenticated before.
func TestSecretsStandBeforeApproval(t *testing.T) {
	const password = "password: {users: {a: " + testHash + "}}"
	for stages, want := range map[string]string{
		"      - " + password + "\n      - approval: {}\n      - names: {}\n":                                                                                              "",
		"      - approval: {}\n      - " + password + "\n      - names: {}\n":                                                                                              "muster.yaml:15: endpoints.ran.enroll[1]: the stage password needs a secret, and stands behind an approval",
		"      - approval: {}\n      - names: {}\n      - device-password: {}\n":                                                                                           "muster.yaml:16: endpoints.ran.enroll[2]: the stage device-password",
		"      - approval: {}\n      - challenge: {issued: true, basic: true}\n      - names: {}\n":                                                                        "muster.yaml:15: endpoints.ran.enroll[1]: the stage challenge",
		"      - anyOf: [approval: {}, " + password + "]\n      - names: {}\n":                                                                                             "",
		"      - anyOf: [[approval: {}, " + password + "], names: {}]\n      - names: {}\n":                                                                                "muster.yaml:14: endpoints.ran.enroll[0]: the stage password",
		"      - anyOf:\n        - approval: {}\n        - names: {}\n      - " + password + "\n      - names: {}\n":                                                       "muster.yaml:17: endpoints.ran.enroll[1]: the stage password",
		"      - allOf: [approval: {}]\n      - not: [" + password + "]\n      - names: {}\n":                                                                              "muster.yaml:15: endpoints.ran.enroll[1]: the stage password",
		"      - approval: {}\n      - anyOf: [names: {}, allOf: [device-password: {}]]\n      - names: {}\n":                                                              "muster.yaml:15: endpoints.ran.enroll[1]: the stage device-password",
		"      - approval: {}\n      - inventory: {by: [subject.CN]}\n      - names: {}\n":                                                                                 "",
		"      - not: [keys: {}, approval: {}]\n      - " + password + "\n      - names: {}\n":                                                                             "muster.yaml:14: endpoints.ran.enroll[0]: the stage approval stands within not, which denies what is held",
		"      - not: [not: [approval: {}]]\n      - " + password + "\n      - names: {}\n":                                                                                "muster.yaml:14: endpoints.ran.enroll[0]: the stage approval stands within not",
		"      - " + password + "\n      - not: [webhook: {url: \"https://a.example/\", hold: true}]\n      - challenge: {issued: true, basic: true}\n      - names: {}\n": "",
	} {
		c, err := parseConfig("muster.yaml", t.TempDir(), []byte(orderConfig(stages)))
		if err != nil {
			t.Fatal(err)
		}
		_, err = makeEndpoints(c, testDeps(t))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s%v, want %q", stages, err, want)
		}
	}
}

// A device is not taken for what it says alone.
func TestClaimsNeedSomebodyWhoVouches(t *testing.T) {
	const refused = "muster.yaml:13: endpoints.ran.enroll: the stage inventory goes by what the request says of itself"
	const open = "muster.yaml:13: endpoints.ran.enroll: there is a way through these stages on which nobody is authenticated"
	deps := testDeps(t)
	pemFile(t, filepath.Join(deps.Dir, "ca.pem"))
	for stages, want := range map[string]string{
		"      - inventory: {by: [subject.CN]}\n      - names: {}\n":       refused,
		"      - anyOf: [inventory: {by: [san.dns]}]\n      - names: {}\n": refused,
		"      - inventory: {}\n      - names: {}\n":                       "muster.yaml:14: endpoints.ran.enroll: the stage inventory goes by the device, and no stage before it says which",
		// A branch without one is a way around the others', and what a list of `not` denies is nobody in particular.
		"      - anyOf: [[challenge: {issued: true, basic: true}, inventory: {by: [subject.CN]}], inventory: {by: [subject.CN]}]\n      - names: {}\n": refused,
		"      - not: [challenge: {issued: true, basic: true}]\n      - inventory: {by: [subject.CN]}\n      - names: {}\n":                            refused,
		"      - anyOf: [approval: {}, keys: {}]\n      - allOf: [inventory: {by: [device, san.dns]}]\n      - names: {}\n":                            refused,
		"      - anyOf: [approval: {}, challenge: {issued: true, basic: true}]\n      - inventory: {by: [subject.CN]}\n      - names: {}\n":            "",
		"      - anyOf: [inventory: {}, inventory: {by: [subject.CN]}]\n      - names: {}\n      - approval: {}\n":                                     refused, // strangers would learn which devices there are
		// The refusal of a `not` tells who is in the inventory, too.
		"      - not: [inventory: {by: [subject.CN]}]\n      - challenge: {issued: true, basic: true}\n      - names: {}\n": refused,
		"      - challenge: {issued: true, basic: true}\n      - not: [inventory: {by: [subject.CN]}]\n      - names: {}\n": "",
		"      - names: {}\n": open,
		"      - keys: {}\n      - not: [client-certificate: {cas: [ca.pem]}]\n      - names: {}\n":                       open,
		"      - anyOf: [challenge: {issued: true, basic: true}, keys: {}]\n      - names: {}\n":                          open,
		"      - anyOf: [[keys: {}, allOf: [challenge: {issued: true, basic: true}]], approval: {}]\n      - names: {}\n": "",
		"      - names: {device: subject.CN}\n":                                                                           "muster.yaml:14: endpoints.ran.enroll: the stage names goes by the device",
		"      - device-password: {}\n      - inventory: {by: [subject.CN]}\n      - names: {}\n":                         "",
		"      - approval: {}\n      - inventory: {by: [device, subject.CN]}\n      - names: {}\n":                        "",
		"      - password: {users: {a: " + testHash + "}}\n      - inventory: {by: [san.dns]}\n      - names: {}\n":       "",
	} {
		c, err := parseConfig("muster.yaml", deps.Dir, []byte(orderConfig(stages)))
		if err != nil {
			t.Fatal(err)
		}
		_, err = makeEndpoints(c, deps)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s%v, want %q", stages, err, want)
		}
	}
}

// A stage that takes a secret in either of two ways stands where the protocol has one of them, over TLS where it is in clear.
func TestChallengesByBasic(t *testing.T) {
	for text, want := range map[string]string{
		"{protocol: scep, listeners: [plain], profile: any, enroll: [challenge: {issued: true, basic: true}, names: {}]}": "",
		"{protocol: scep, listeners: [plain], profile: any, enroll: [device-password: {}, names: {}]}":                    "",
		"{protocol: est, listeners: [tls], profile: any, enroll: [challenge: {issued: true, basic: true}, names: {}]}":    "",
		"{protocol: est, listeners: [tls], profile: any, enroll: [challenge: {issued: true}, names: {}]}":                 "the stage challenge looks at challenge, which EST requests do not carry",
		"{protocol: cmp, listeners: [plain], profile: any, enroll: [device-password: {}, names: {}]}":                     "the stage device-password looks at password and challenge, which CMP requests do not carry",
	} {
		head, _, _ := strings.Cut(orderConfig(""), "endpoints:")
		head = strings.Replace(head, "  tls: {", "  plain: {address: 127.0.0.1:0}\n  tls: {", 1)
		head = strings.Replace(head, "{dir: ca}", "{dir: ca, issuers: {rsa: {bits: 2048}}}", 1)
		if strings.Contains(text, "scep") {
			head = strings.Replace(head, "{backend: local}", "{backend: local, issuer: rsa, keys: [\"RSA>=2048\"]}", 1)
		}
		c, err := parseConfig("muster.yaml", t.TempDir(), []byte(head+"endpoints:\n  ran: "+text+"\n"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = makeEndpoints(c, testDeps(t))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// The stages that read the store are wired to it: what cannot be looked up is not allowed.
func TestStagesAskTheStore(t *testing.T) {
	deps := testDeps(t)
	pemFile(t, filepath.Join(deps.Dir, "ca.pem"))
	if err := os.WriteFile(filepath.Join(deps.Dir, "list"), []byte("SN1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := decodeTestPipeline(t, `
- inventory: {by: [subject.CN], kind: mac, enrollments: unlimited, attributes-required: [site]}
- device-password: {by: [subject.CN], uses: 3}
- challenge: {issued: true, basic: true}
- shared-secret: {inventory: true}
- vendor-ca: {cas: [ca.pem], vendor: ACME, serial: subject.serialNumber, list: list, enrollments: 2}
- approval: {approvers: 2, expires: 1d, operations: [enroll]}
`, deps)
	if err != nil {
		t.Fatal(err)
	}
	r := &gateway.Request{Operation: gateway.Enroll, Endpoint: "ran", Subject: []byte("\x30\x0c\x31\x0a\x30\x08\x06\x03\x55\x04\x03\x0c\x01\x61"), Credentials: []gateway.Credential{
		{Kind: gateway.CredentialChallenge, Secret: gateway.Secret("abc")}, {Kind: gateway.CredentialMAC, ID: "a"},
	}}
	for _, s := range p[:4] {
		if v := s.Decide(t.Context(), r, &gateway.Grant{}); v.Decision != gateway.CannotAnswer || !strings.Contains(v.Note, "the store cannot answer") {
			t.Errorf("%s: %+v", s.Name(), v)
		}
	}
	if v := p[5].Decide(t.Context(), r, &gateway.Grant{}); v.Decision != gateway.Hold || v.Terms.Approvers != 2 {
		t.Errorf("%+v", v)
	}
}

// Nobody but who is known revokes, and none of a vendor's devices another's.
func TestWhoMayRevoke(t *testing.T) {
	deps := testDeps(t)
	pemFile(t, filepath.Join(deps.Dir, "vendor.pem"))
	const vendor = "vendor-ca: {cas: [vendor.pem]}"
	const named = "vendor-ca: {cas: [vendor.pem], serial: subject.serialNumber}"
	const client = "client-certificate: {cas: [vendor.pem], purposes: [cmcRA]}"
	const open, anonymous = "there is a way through these stages on which nobody is authenticated: whoever reaches the endpoint could revoke", "the stage vendor-ca does not say which device asks"
	for stages, want := range map[string]string{
		"[own-certificate: {}]":                                   "",
		"[own-certificate: {revoke: device}]":                     "",
		"[own-certificate: {revoke: devices}]":                    `revoke: "devices" is neither itself nor device (did you mean "device"?)`,
		"[" + client + "]":                                        "",
		"[" + named + "]":                                         "",
		"[" + vendor + "]":                                        anonymous,
		"[" + vendor + ", own-certificate: {}]":                   "",
		"[anyOf: [own-certificate: {}, " + vendor + "]]":          anonymous,
		"[anyOf: [own-certificate: {}, allOf: [" + vendor + "]]]": anonymous,
		"[anyOf: [own-certificate: {}, " + client + "]]":          "",
		"[keys: {}]":                       open,
		"[not: [own-certificate: {}]]":     open,
		"[shared-secret: {devices: true}]": "the stage shared-secret looks at mac-key, which CMP revocation requests do not carry: nobody could pass it",
		"[anyOf: [own-certificate: {}, shared-secret: {devices: true}]]": "nobody could pass it",
		"[own-certificate: {}, approval: {}]":                            "the stage approval holds requests, and a revocation does not wait: leave it out",
	} {
		text := strings.Replace(orderConfig("      - shared-secret: {devices: true}\n      - names: {}\n"), "protocol: est", "protocol: cmp", 1)
		c, err := parseConfig("muster.yaml", deps.Dir, []byte(text+"    revoke: "+stages+"\n"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = makeEndpoints(c, deps)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s\ngot  %v\nwant %q", stages, err, want)
		}
	}
}
