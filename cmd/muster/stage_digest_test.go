package main

import (
	"strings"
	"testing"
)

// Digest is offered where somebody can log in by it, and alone where nothing needs the password itself.
func TestHTTPAuthOfEndpoints(t *testing.T) {
	const (
		form     = `{digest-sha-256}plant:c2VhbGVk`
		password = `password: {users: {a: "` + form + `"}}`
		another  = `password: {users: {a: "{digest-sha-256}ran:c2VhbGVk"}}`
		plain    = `password: {users: {a: ` + testHash + `}}`
		device   = "device-password: {}"
		both     = "[basic, digest]"
		none     = "muster.yaml:11: endpoints.plant.est.http-auth: digest is offered, and no pipeline of the endpoint has the stage `password`"
		formless = "muster.yaml:11: endpoints.plant.est.http-auth: digest is offered, and no user of a stage `password` has a digest form for the realm \"plant\""
		itself   = "muster.yaml:11: endpoints.plant.est.http-auth: `device-password` needs the password itself"
	)
	deps := testDeps(t)
	deps.Opener = nothing{} // opens everything
	for _, c := range []struct{ auth, enroll, want string }{
		{both, "{" + password + "}", ""},
		{"[digest]", "{" + password + "}", ""},
		{"[basic]", "{" + plain + "}", ""},
		{both, "{anyOf: [{" + device + "}, {" + password + "}]}", ""},
		{both, "{anyOf: [{" + plain + "}, {" + password + "}]}", ""},
		{both, "{" + device + "}", none},
		{"[digest]", "{" + device + "}", none},
		{both, "{" + plain + "}", formless},
		{both, "{" + another + "}", formless},
		{"[digest]", "{anyOf: [{" + device + "}, {" + password + "}]}", itself},
		{"[digest]", "{anyOf: [{challenge: {basic: true, secrets: {x: " + testHash + "}}}, {" + password + "}]}", "`challenge` needs"},
		{"[digest]", "{device-password: {byy: []}}", `unknown key "byy"`}, // and nothing more
		{"[md5]", "{" + password + "}", "muster.yaml:11: endpoints.plant.est: http-auth: not one of basic, digest"},
	} {
		text := strings.NewReplacer("ran:\n", "plant:\n", "protocol: cmp", "protocol: est\n    est: {http-auth: "+c.auth+"}", "plain", "tls", "127.0.0.1:0}", "127.0.0.1:0, tls: {}}").
			Replace(raConfig("    enroll: [" + c.enroll + ", {names: {}}]\n"))
		cfg, err := parseConfig("muster.yaml", deps.Dir, []byte(text))
		if err == nil {
			_, err = makeEndpoints(cfg, deps)
		}
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n")) {
			t.Errorf("%s %s: %v, want %q", c.auth, c.enroll, err, c.want)
		}
	}
}
