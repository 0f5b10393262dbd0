package main

import (
	"strings"
	"testing"
)

const standbyExample = `version: 1
listeners: {https: {address: 127.0.0.1:0, tls: {}}}
backends:
  corp: {plugin: local, config: {dir: a}}
  corp2: {plugin: local, config: {dir: b}}
server-certificate: {backend: corp2}
profiles:
  device: {backend: corp, standby: STANDBY}
endpoints:
  est: {protocol: est, listeners: [https], profile: device, enroll: [{password: {users: {a: "{sha256}0000000000000000000000000000000000000000000000000000000000000000"}}}, {names: {}}]}
`

// Standbys are names, or have an issuer; each is there, and stands once.
func TestStandbys(t *testing.T) {
	for standby, want := range map[string]string{
		"[corp2]":                               "",
		"[{backend: corp2}]":                    "",
		"[{backend: corp2, issuer: ec}]":        "",
		"[corp3]":                               `gateway.yaml:8: profiles.device.standby.0: there is no backend "corp3"`,
		"[corp]":                                `"corp" stands before it already`,
		"[corp2, {backend: corp2, issuer: ec}]": `profiles.device.standby.1: "corp2" stands before it already`,
		"[{issuer: ec}]":                        "backend",
		"[{backend: corp2, isuer: ec}]":         "isuer",
		"[7]":                                   "wants a backend's name",
	} {
		c, err := parseConfig("gateway.yaml", t.TempDir(), []byte(strings.Replace(standbyExample, "STANDBY", standby, 1)))
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", standby, err)
		case want == "" && len(c.Profiles["device"].each()) != 2:
			t.Errorf("%s: %+v", standby, c.Profiles["device"].each())
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v", standby, err)
		}
	}
}
