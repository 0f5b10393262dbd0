package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestEnvFileIsReadBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "quickstart.env")
	written := []setting{{"MUSTER_HTTPS", "https://127.0.0.1:8443"}, {"MUSTER_CA", "/it's here/a=b/roots.pem"}, {"EMPTY", ""}}
	if err := os.WriteFile(path, envFile(written), 0o600); err != nil {
		t.Fatal(err)
	}
	env, err := readEnvFile(path)
	if err != nil || len(env) != len(written) {
		t.Fatalf("%v, %v", env, err)
	}
	for _, s := range written {
		if env[s.name] != s.value {
			t.Errorf("%s: %q, want %q", s.name, env[s.name], s.value)
		}
	}
	if err := os.WriteFile(path, []byte("A=$(date)\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readEnvFile(path); err == nil {
		t.Error("what a shell would run is read")
	}
}

func TestSimulateRefuses(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const here = "https://127.0.0.1:1/.well-known/est"
	for args, why := range map[string]string{
		"storm --data " + dir:                                                         "no gateway has run there",
		"renew --url " + here:                                                         "--state DIR says which devices renew",
		"renew --state " + dir + " --url " + here:                                     "no devices are kept there",
		"storm --url https://ra.example/.well-known/est":                              "--yes-i-own-it",
		"storm --url http://127.0.0.1:1/x":                                            "EST needs https",
		"storm --url " + here + " --endpoint x":                                       "do not go with it",
		"storm --url " + here + " --user u":                                           "--user and --password-file go together",
		"storm --url " + here + " --user u --password-file " + empty:                  "no password on its first line",
		"storm --url " + here + " --ca " + empty:                                      "no certificate in PEM",
		"storm --url " + here + " --devices 0":                                        "0 devices: want 1 to 1000000",
		"storm --url " + here + " --keys DSA":                                         "keys are P-256 or RSA-2048",
		"storm --url " + here + " --subject CN=all":                                   "the same for all devices",
		"storm --url " + here + " --concurrency 0":                                    "--concurrency 0",
		"storm --url " + here + " --within -1s":                                       "--within -1s",
		"storm --url " + here + " --give-up 0s":                                       "--give-up 0s",
		"storm --url " + here + " --protocol acme":                                    "want est, cmp or scep",
		"storm --protocol cmp --url http://127.0.0.1:1/x --keys RSA-2048":             "over CMP the keys are P-256",
		"storm --protocol scep --url http://127.0.0.1:1/x --user u --password-file p": "a SCEP challenge has no user",
		"enroll --url " + here + " --rate 0":                                          "want devices per second",
		"enroll --url " + here + " --duration 0s":                                     "want a time such as 30s",
		"enroll --url " + here + " --duration 5s --within 5s":                         "name one",
		"enroll --url " + here + " --rate 5 --duration 5s --devices 7":                "two of them say the third",
		"enroll --url " + here + " --rate 1000000 --duration 5s":                      "more than 1000000 devices",
		"enroll --url " + here + " --rate 5 --duration 5s --state " + dir:             "needs no time",
		"revoke --url " + here + " --state " + dir:                                    "over cmp alone",
		"revoke --protocol cmp --url http://127.0.0.1:1/x":                            "says whose certificates are revoked",
		"revoke --protocol cmp --url http://127.0.0.1:1/x --state " + dir:             "no devices are kept there",
		"storm extra": "takes flags only",
	} {
		cmd := newRootCommand()
		var out strings.Builder
		cmd.SetOut(&out)
		cmd.SetErr(&out)
		cmd.SetArgs(append([]string{"simulate"}, strings.Fields(args)...))
		if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v, want %q", args, err, why)
		}
	}
}
