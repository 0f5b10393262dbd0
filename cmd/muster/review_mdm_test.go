package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The example of the profile service, and what is refused of it.
func TestProfileServiceConfiguration(t *testing.T) {
	dir := t.TempDir()
	final, err := os.ReadFile("../../configs/ios-mdm.mobileconfig")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "ios-mdm.mobileconfig"), final, 0o600); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../../configs/ios-mdm.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct{ from, to, want string }{
		"as it stands":         {"", "", ""},
		"another's section":    {"    mdm:\n", "    scep: {legacy: [sha1]}\n    mdm:\n", "the endpoint speaks mdm"},
		"no such endpoint":     {"{endpoint: phones, subject", "{endpoint: phone, subject", `did you mean "phones"`},
		"not SCEP":             {"{endpoint: phones, subject", "{endpoint: ota, subject", "devices enrol over SCEP"},
		"no issued challenges": {"challenge: {issued: true}", "challenge: {secrets: {x: \"{sha256}0000000000000000000000000000000000000000000000000000000000000000\"}}", "takes no issued challenges"},
		"it certifies nothing": {"    query:\n", "    enroll: [{approval: {}}]\n    query:\n", "certifies nothing"},
		"a stage that no message passes": {"          - device-certificate: {}      # phase 2: Apple's own certificate of the device\n",
			"          - password: {users: {x: \"{sha256}0000000000000000000000000000000000000000000000000000000000000000\"}}\n", "MDM requests do not carry"},
		"no inventory":                 {"      - inventory: {by: [identifier.udid, device]}\n", "", "without `inventory`"},
		"no way back":                  {"own-certificate: {endpoints: [phones]} #", "own-certificate: {} #", "no stage takes the certificates of endpoint phones"},
		"a way back with grace":        {"own-certificate: {endpoints: [phones]} #", "own-certificate: {endpoints: [other, phones], grace: 1h, once: never} #", ""},
		"device-certificate over SCEP": {"      - own-certificate: {}\n      - inventory: {}", "      - device-certificate: {}\n      - inventory: {}", "SCEP requests do not carry"},
	} {
		file := filepath.Join(dir, "muster.yaml")
		if err := os.WriteFile(file, []byte(strings.Replace(string(text), tt.from, tt.to, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := loadConfig(file)
		if err == nil {
			_, err = makeEndpoints(c, testDeps(t))
		}
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
