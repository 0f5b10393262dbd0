package main

import (
	"strings"
	"testing"
)

// By a password alone the request's own word says whose certificate it renews: what compares the password stands before the
// own-certificate, and no way leads around that.
func TestPipelinesThatRenewByPassword(t *testing.T) {
	const (
		own        = "own-certificate: {kinds: [password]}"
		both       = "own-certificate: {kinds: [tls-certificate, password]}"
		shown      = "own-certificate: {kinds: [tls-certificate]}"
		password   = `password: {users: {a: "{sha256}e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}}`
		device     = "device-password: {}"
		uncompared = "endpoints.plant.renew: own-certificate renews by a password, and on a way to it no stage compares that"
		around     = "endpoints.plant.renew: own-certificate renews by a password, and there is a way to renew around it"
	)
	deps := testDeps(t)
	for renew, want := range map[string]string{
		"{" + password + "}, {" + own + "}":                               "",
		"{" + device + "}, {" + own + "}":                                 "",
		"{anyOf: [{" + password + "}, {" + device + "}]}, {" + own + "}":  "",
		"{allOf: [{" + password + "}]}, {" + own + "}":                    "",
		"{allOf: [{" + password + "}, {" + own + "}]}":                    "",
		"{anyOf: [{" + shown + "}, [{" + password + "}, {" + own + "}]]}": "",
		"{" + own + "}":                     uncompared,
		"{" + both + "}":                    uncompared,
		"{" + own + "}, {" + password + "}": uncompared,
		"{" + password + "}, {anyOf: [{" + own + "}, {" + shown + "}]}":                    "",
		"{anyOf: [{" + password + "}, {" + own + "}]}":                                     uncompared,
		"{allOf: [{" + own + "}]}":                                                         uncompared,
		"{anyOf: [[{" + password + "}, {" + own + "}], {" + password + "}]}":               around,
		"{" + password + "}, {anyOf: [{" + own + "}, {keys: {}}]}":                         around,
		"{anyOf: [[{" + password + "}, {" + both + "}], {" + shown + "}]}, {names: {}}":    "",
		"{anyOf: [{" + password + "}, {client-certificate: {cas: []}}]}, {" + own + "}":    "client-certificate",
		"{" + password + "}, {own-certificate: {kinds: [passwort]}}":                       `kinds: "passwort"`,
		"{anyOf: [{" + shown + "}, {" + password + "}]}":                                   "endpoints.plant.renew: there is a way through these stages on which nobody judges the names", // a user with any certificate
		"{" + password + "}, {not: {" + shown + "}}, {allOf: [{keys: {}}, {" + own + "}]}": "",
	} {
		text := strings.NewReplacer("ran:", "plant:", "protocol: cmp", "protocol: est", "plain", "tls", "127.0.0.1:0}", "127.0.0.1:0, tls: {}}").
			Replace(raConfig("    renew: [" + renew + "]\n"))
		c, err := parseConfig("muster.yaml", deps.Dir, []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		_, err = makeEndpoints(c, deps)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", renew, err, want)
		}
	}
}
