package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// raConfig is a configuration of a CMP endpoint with these pipelines.
func raConfig(pipelines string) string {
	return `version: 1
listeners:
  plain: {address: 127.0.0.1:0}
backends:
  local: {plugin: local, config: {dir: ca}}
profiles:
  any: {backend: local}
endpoints:
  ran:
    protocol: cmp
    listeners: [plain]
    profile: any
` + pipelines
}

// An RA that asks authenticates; one that passes on does not. And what an RA has renewed is judged.
func TestPipelinesWithRA(t *testing.T) {
	const (
		ra       = "ra: {cas: [ca.pem]}"
		nested   = "ra: {cas: [ca.pem], nested: true}"
		enroll   = "    enroll: [{approval: {}}, {names: {}}]\n"
		open     = "there is a way through these stages on which nobody is authenticated"
		claims   = "the stage inventory goes by what the request says of itself"
		unjudged = "endpoints.ran.renew: the stage ra says who asks, and nothing about the certificate that is renewed"
	)
	deps := testDeps(t)
	pemFile(t, filepath.Join(deps.Dir, "ca.pem"))
	for pipelines, want := range map[string]string{
		"    enroll: [{" + ra + "}, {inventory: {by: [subject.CN]}}, {names: {}}]\n":                      "",
		"    enroll: [{" + nested + "}, {names: {}}]\n":                                                   open,
		"    enroll: [{" + nested + "}, {inventory: {by: [subject.CN]}}, {names: {}}]\n":                  claims,
		"    enroll: [{anyOf: [{" + ra + "}, {" + nested + "}]}, {names: {}}]\n":                          open,
		"    enroll: [{" + nested + "}, {vendor-ca: {cas: [ca.pem]}}, {names: {}}]\n":                     "",
		"    enroll: [{anyOf: [{" + ra + "}, {vendor-ca: {cas: [ca.pem]}}]}, {names: {}}]\n":              "",
		enroll + "    renew: [{" + ra + "}]\n":                                                            unjudged,
		enroll + "    renew: [{" + ra + "}, {own-certificate: {}}]\n":                                     "",
		enroll + "    renew: [{own-certificate: {}}, {" + ra + "}]\n":                                     unjudged, // which sees the RA's
		enroll + "    renew: [{" + nested + "}, {own-certificate: {}}]\n":                                 "",
		enroll + "    renew: [{anyOf: [[{" + ra + "}, {own-certificate: {}}], {own-certificate: {}}]}]\n": "",
		enroll + "    renew: [{anyOf: [{" + ra + "}, {own-certificate: {}}]}]\n":                          unjudged,
		enroll + "    renew: [{anyOf: [{" + ra + "}, {keys: {}}]}, {own-certificate: {}}]\n":              "",
		enroll + "    renew: [{" + ra + "}, {anyOf: [{own-certificate: {}}, {keys: {}}]}]\n":              unjudged,
		enroll + "    renew: [{allOf: [{" + ra + "}]}, {keys: {}}]\n":                                     unjudged,
		enroll + "    renew: [{allOf: [{" + ra + "}, {own-certificate: {}}]}]\n":                          "",
		enroll + "    renew: [{" + ra + "}, {allOf: [{own-certificate: {}}]}]\n":                          "",
	} {
		c, err := parseConfig("muster.yaml", deps.Dir, []byte(raConfig(pipelines)))
		if err != nil {
			t.Fatal(err)
		}
		_, err = makeEndpoints(c, deps)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s%v, want %q", pipelines, err, want)
		}
	}
}

// No request of another protocol is passed on by an RA.
func TestNestedIsCMPs(t *testing.T) {
	deps := testDeps(t)
	pemFile(t, filepath.Join(deps.Dir, "ca.pem"))
	c, err := parseConfig("muster.yaml", deps.Dir, []byte(orderConfig("      - ra: {cas: [ca.pem], nested: true}\n      - approval: {}\n      - names: {}\n")))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := makeEndpoints(c, deps); err == nil || !strings.Contains(err.Error(), "the stage ra looks at nested-signer, which EST requests do not carry") {
		t.Error(err)
	}
}
