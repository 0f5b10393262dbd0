package profile

import (
	"fmt"
	"testing"

	"github.com/muster-pki/muster/gateway"
)

var _ gateway.NameAsker = (*Shaper)(nil)

// What a device is told to ask for: what the templates cannot do without, or a name where nothing makes one.
func TestNamesWanted(t *testing.T) {
	for config, want := range map[string]string{
		`{ask: {validity: allow}}`:                          "[2.5.4.3] []",
		`{subject: "CN={{device.serial}},O=Operator"}`:      "[] []",
		`{subject: "CN={{request.subject.CN}},O=Operator"}`: "[2.5.4.3] []",
		`{subject: "CN={{request.subject.CN}}-{{request.subject.CN}},OU={{request.subject.serialNumber}}"}`:                "[2.5.4.5 2.5.4.3] []",
		`{subject: "CN={{request.subject.CN}},OU={{request.subject.OU | optional}}"}`:                                      "[2.5.4.3] []",
		`{subject: "CN={{request.subject.CN | default \"x\"}}"}`:                                                           "[] []",
		`{subject: "CN={{device.serial}}", san: {dns: ["{{request.san.dns}}"], ip: ["{{request.san.ip}}"]}}`:               "[] [2 7]",
		`{subject: "CN={{device.serial}}", ask: {subject: allow, san: allow}}`:                                             "[] []",
		`{san: {dns: ["{{device.name}}"]}}`:                                                                                "[2.5.4.3] []",
		`{san: {uri: ["{{request.san.uri}}"], email: ["{{request.san.email}}"]}, ask: {subject: replace}}`:                 "[] [1 6]",
		`{san: {dns: ["{{device.name}}"]}, ask: {subject: refuse}}`:                                                        "[] []",
		`{san: {dns: ["{{device.name | optional}}"]}, ask: {subject: allow, san: allow}}`:                                  "[2.5.4.3] []",
		`{ask: {subject: replace, san: allow}}`:                                                                            "[] [2]",
		`{subject: "CN={{certificate.subject.CN}}", renew-names: template, san: {dns: ["{{old.subject.CN | optional}}"]}}`: "[] []",
	} {
		w := shaper(t, config).NamesWanted()
		if got := fmt.Sprint(w.Subject, " ", w.SAN); got != want {
			t.Errorf("%s: %s, want %s", config, got, want)
		}
	}
}
