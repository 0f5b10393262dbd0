package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// What `cmp: {type: 3gpp}` rules out, each with the line where it stands (3GPP TS 33.310 clause 9).
func TestType3GPPPipelines(t *testing.T) {
	const (
		unlisted = "a certificate of the vendor's is not enough"
		vendor   = "{vendor-ca: {cas: [ca.pem], serial: subject.serialNumber}}"
		counted  = "{vendor-ca: {cas: [ca.pem], serial: subject.serialNumber, list: serials}}"
		secret   = "{shared-secret: {devices: true}}"
		enroll   = "    enroll: [" + counted + ", {names: {}}]\n"
		renewal  = "a certificate is renewed by itself alone"
		mac      = "messages are signed there: nobody could pass it"
	)
	deps := testDeps(t)
	pemFile(t, filepath.Join(deps.Dir, "ca.pem"))
	write(t, deps.Dir, "serials", "SN1\n")
	for pipelines, want := range map[string]string{
		enroll: "",
		"    enroll: [" + vendor + ", {inventory: {}}, {names: {}}]\n":                                                   "",
		"    enroll: [{anyOf: [" + vendor + ", " + counted + "]}, {inventory: {}}, {names: {}}]\n":                       "",
		"    enroll: [{anyOf: [[" + vendor + ", {inventory: {}}], " + counted + "]}, {names: {}}]\n":                     "",
		"    enroll: [" + vendor + ", {names: {}}]\n":                                                                    unlisted,
		"    enroll: [{anyOf: [" + vendor + ", " + counted + "]}, {names: {}}]\n":                                        unlisted,
		"    enroll: [{allOf: [" + vendor + "]}, {names: {}}]\n":                                                         unlisted,
		"    enroll: [" + vendor + ", {anyOf: [{inventory: {}}, {keys: {}}]}, {names: {}}]\n":                            unlisted,
		"    enroll: [" + vendor + ", {anyOf: [{inventory: {}}, {allOf: [{inventory: {}}]}]}, {names: {}}]\n":            "",
		"    enroll: [{vendor-ca: {cas: [ca.pem], serial: subject.CN, list: serials, allow-sha1: true}}, {names: {}}]\n": "certificates signed with SHA-1 are forbidden",
		"    enroll: [" + secret + ", {names: {}}]\n":                                                                    mac,
		"    enroll: [{anyOf: [" + counted + ", " + secret + "]}, {names: {}}]\n":                                        mac,
		"    enroll: [" + counted + ", {keys: {generate: [P-256]}}, {names: {}}]\n":                                      "a base station makes its key",
		"    enroll: [" + counted + ", {keys: {pop: [signature, pending-confirm]}}, {names: {}}]\n":                      "a base station makes its key",
		"    enroll: [" + counted + ", {keys: {pop: [signature]}}, {names: {}}]\n":                                       "",
		enroll + "    renew: [{own-certificate: {}}]\n":                                                                  "",
		enroll + "    renew: [{own-certificate: {}}, {inventory: {}}]\n":                                                 "",
		enroll + "    renew: [" + counted + "]\n":                                                                        renewal,
		enroll + "    renew: [{anyOf: [{own-certificate: {}}, " + counted + "]}]\n":                                      renewal,
		enroll + "    rekey: [" + counted + "]\n":                                                                        renewal,
		enroll + "    revoke: [" + vendor + "]\n":                                                                        "", // the device's own alone
	} {
		for _, kind := range []string{"    cmp: {type: 3gpp}\n", ""} {
			c, err := parseConfig("muster.yaml", deps.Dir, []byte(raConfig(pipelines+kind)))
			if err != nil {
				t.Fatal(err)
			}
			_, err = makeEndpoints(c, deps)
			switch {
			case kind == "" || want == "":
				if err != nil && (want == "" || !strings.Contains(err.Error(), "nobody judges the names")) { // which goes without a type, too
					t.Errorf("%s%s: %v", pipelines, kind, err)
				}
			case err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "muster.yaml:"):
				t.Errorf("%s%s: %v, want %s", pipelines, kind, err, want)
			}
		}
	}
}
