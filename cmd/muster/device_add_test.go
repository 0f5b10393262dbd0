package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway/admin"
)

func TestDeviceAdd(t *testing.T) {
	var got admin.Device
	dir, asked := fakeAPI(t, map[string]any{
		"POST /v1/devices": func(w http.ResponseWriter, r *http.Request, body []byte) {
			got = admin.Device{}
			if err := json.Unmarshal(body, &got); err != nil {
				t.Error(err)
			}
			if got.Name == "stands" && r.URL.Query().Get("replace") == "" || got.Name == "other" {
				w.WriteHeader(409)
				json.NewEncoder(w).Encode(admin.Failure{Error: "it stands already"}) //nolint:errcheck // the client tells
				return
			}
			answer := got
			answer.PasswordHash, answer.Secret = "", nil
			if got.Name == "back" {
				answer.Enrolled = 2
			}
			if answer.Password == "generate" {
				answer.Password = "0123456789abcdef0123456789abcdef"
			} else {
				answer.Password = ""
			}
			json.NewEncoder(w).Encode(answer) //nolint:errcheck // the client tells
		},
		"GET /v1/devices/stands": admin.Device{Name: "stands"},
		"GET /v1/devices/other":  admin.Device{Name: "another"},
	})
	file := write(t, dir, "secret", "0123456789\n")
	add := func(args ...string) (string, string, error) {
		cmd := newDeviceAddCommand()
		var out, told bytes.Buffer
		cmd.SilenceUsage, cmd.SilenceErrors = true, true
		cmd.SetOut(&out)
		cmd.SetErr(&told)
		cmd.SetIn(strings.NewReader("open sesame\r\nmore\n"))
		cmd.SetArgs(append([]string{"--data", dir}, args...))
		err := cmd.Execute()
		return out.String(), told.String(), err
	}
	out, told, err := add("bts-1", "--serial", "SN1", "--id", "mac=001A2B3C4D5E", "--id", "tag=x", "--vendor", "acme", "--endpoint", "ran,core", "--profile", "p", "--enrollments", "unlimited",
		"--not-before", "2026-01-01", "--not-after", "9026-12-31", "--attr", "site=a=b", "--password", "-", "--secret-file", file, "--note", "n", "--disabled")
	if err != nil || out != "bts-1 is in the inventory (serial=SN1, mac=00:1a:2b:3c:4d:5e, tag=x), until 9026-12-31 23:59:59 UTC\n" || told != "" {
		t.Errorf("%v %q %q", err, out, told)
	}
	line, _ := json.Marshal(got)
	if want := `{"name":"bts-1","identifiers":[{"kind":"serial","value":"SN1"},{"kind":"mac","value":"00:1a:2b:3c:4d:5e"},{"kind":"tag","value":"x"}],"vendor":"acme","endpoints":["ran","core"],"profiles":["p"],` +
		`"enrollments":"unlimited","not_before":"2026-01-01T00:00:00Z","not_after":"9026-12-31T23:59:59Z","disabled":true,"attributes":{"site":"a=b"},"note":"n","password":"open sesame","secret":"MDEyMzQ1Njc4OQ=="}`; string(line) != want {
		t.Errorf("got  %s\nwant %s", line, want)
	}
	// A generated password stands alone on standard output.
	out, told, err = add("x", "--password", "generate", "--expires", "30d")
	if err != nil || out != "0123456789abcdef0123456789abcdef\n" || !strings.HasPrefix(told, "x is in the inventory, until 20") || !strings.HasSuffix(told, "Its one-time password, shown this once:\n") ||
		time.Until(*got.NotAfter).Round(time.Hour) != 30*24*time.Hour {
		t.Errorf("%v %q %q", err, out, told)
	}
	if _, _, err := add("stands"); err == nil || err.Error() != "it stands already: --replace puts this entry into its place" {
		t.Error(err)
	}
	if out, _, err := add("back"); err != nil || out != "back is in the inventory\n2 enrollments used under this name, and counted for whatever entry has it: muster device reset starts anew\n" {
		t.Error(err, out)
	}
	if out, _, err := add("late", "--not-after", "2020-01-01"); err != nil || !strings.Contains(out, "2020-01-01 23:59:59 UTC, which is over: it gets nothing\n") {
		t.Error(err, out)
	}
	if _, _, err := add("other"); err == nil || err.Error() != "it stands already" {
		t.Error(err)
	}
	if out, _, err := add("stands", "--replace", "--json"); err != nil || !strings.Contains(out, `"name": "stands"`) {
		t.Error(err, out)
	}
	before := len(asked())
	for want, args := range map[string][]string{
		`--id "imei": want KIND=VALUE, e.g. imei=490154203237518`: {"x", "--id", "imei"},
		`--id imei "7": an IMEI has 15 digits`:                    {"x", "--id", "imei=7"},
		`--attr a-b "c": "a-b" is no name of an attribute`:        {"x", "--attr", "a-b=c"},
		`--not-after "soon": want a date such as`:                 {"x", "--not-after", "soon"},
		`--expires 30: want a period such as 12h or 30d`:          {"x", "--expires", "30"},
		`--enrollments "-2": want a number, or unlimited`:         {"x", "--enrollments", "-2"},
		`a shared secret has 8 to 1024 bytes, this one 5`:         {"x", "--secret-file", write(t, dir, "short", "12345")},
		`--password: open `:                                       {"x", "--password", "sesame"},
		`there is no password`:                                    {"x", "--password", write(t, dir, "empty", "")},
		`only one of them can be standard input`:                  {"x", "--password", "-", "--secret-file", "-"},
		`serial "1" stands twice`:                                 {"x", "--serial", "1", "--serial", "1"},
		"accepts 1 arg(s), received 0":                            {},
		"--serial is given, and empty":                            {"x", "--serial", ""},
		"--serial: one of them is empty":                          {"x", "--serial", "1", "--serial", ""},
		"--endpoint is given, and empty":                          {"x", "--endpoint", ""},
		"--endpoint: one of them is empty":                        {"x", "--endpoint", "ran,"},
		"--profile is given, and empty":                           {"x", "--profile", ""},
		"--not-after is given, and empty":                         {"x", "--not-after", ""},
		"--expires is given, and empty":                           {"x", "--expires", ""},
		"--enrollments is given, and empty":                       {"x", "--enrollments", ""},
		"--vendor is given, and empty":                            {"x", "--vendor", ""},
		"--data is given, and empty":                              {"x", "--data", ""},
		"is 1970-01-01 or earlier":                                {"x", "--not-after", "1970-01-01T00:00:00Z"},
	} {
		if _, _, err := add(args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %s", args, err, want)
		}
	}
	if len(asked()) != before {
		t.Errorf("the gateway was asked: %s", asked()[before:])
	}
}
