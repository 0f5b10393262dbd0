package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway/admin"
)

// fakeAPI answers the admin API on a socket in the data folder that it returns: per "METHOD /path" (as http.ServeMux has
// it) what to answer, an *admin.Failure with its status before it, or a func that does it.
func fakeAPI(t *testing.T, answers map[string]any) (dir string, asked func() []string) {
	t.Helper()
	dir = t.TempDir()
	l, err := admin.Listen(dir + "/" + adminSocket)
	if err != nil {
		t.Fatal(err)
	}
	heard := &safeBuffer{}
	mux := http.NewServeMux()
	for pattern, answer := range answers {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			fmt.Fprintf(heard, "%s %s %s\n", r.Method, r.URL, bytes.ReplaceAll(bytes.TrimSpace(body), []byte("\n"), []byte(" ")))
			answer := answer
			switch a := answer.(type) {
			case func(w http.ResponseWriter, r *http.Request, body []byte):
				a(w, r, body)
				return
			case refusedWith:
				w.WriteHeader(a.status)
				answer = a.Failure
			}
			if err := json.NewEncoder(w).Encode(answer); err != nil {
				t.Error(err)
			}
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		json.NewEncoder(w).Encode(admin.Failure{Error: "there is no " + r.URL.Path}) //nolint:errcheck // the client tells
	})
	server := &http.Server{Handler: mux}
	done := make(chan error)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Close() //nolint:errcheck // of a test
		<-done
	})
	return dir, func() []string { return strings.Split(strings.TrimSpace(heard.String()), "\n") }
}

type refusedWith struct {
	status int
	admin.Failure
}

// says fails when the output lacks one of the texts.
func says(t *testing.T, out string, texts ...string) {
	t.Helper()
	unseen(t, out)
	for _, s := range texts {
		if !strings.Contains(out, s) {
			t.Errorf("lacks %q:\n%s", s, out)
		}
	}
}

func timeAt(t time.Time) *time.Time { return &t }

func someDevices() []admin.Device {
	return []admin.Device{
		{Name: "bts-1", Identifiers: []admin.Identifier{{Kind: "serial", Value: "SN1"}, {Kind: "serial", Value: `S"N;1b`}, {Kind: "tag", Value: "-7,"}}, Vendor: "acme", Endpoints: []string{"ran", "core"},
			Profiles: []string{"p"}, Enrollments: 2, NotBefore: timeAt(received), NotAfter: timeAt(received.Add(1500 * time.Millisecond)), HasSecret: true, Attributes: map[string]string{"site": "North, 7", "Rack_2": "x"}},
		{Name: "bts-2", Identifiers: []admin.Identifier{{Kind: "imei", Value: "490154203237518"}, {Kind: "mac", Value: "00:1a:2b:3c:4d:5e"}}, Enrollments: admin.Unlimited, Disabled: true, HasPassword: true, Note: `said "no"; twice`},
		{Name: "4.9E+14"},
		{Name: "ünï", Attributes: map[string]string{"site": "sep=;"}},
	}
}

func inJSON(t *testing.T, all []admin.Device) string {
	t.Helper()
	text, err := json.MarshalIndent(all, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The whole way: export of one gateway, import --replace into another.
func TestDeviceExportCommand(t *testing.T) {
	all := someDevices()
	shown := slices.Clone(all)
	shown[0].Enrolled, shown[0].Created = 1, timeAt(received)
	dir, _ := fakeAPI(t, map[string]any{
		"GET /v1/devices": func(w http.ResponseWriter, r *http.Request, _ []byte) {
			list := admin.DeviceList{Devices: shown[:2], Next: "bts-2"}
			if r.URL.Query().Get("after") == "bts-2" {
				list = admin.DeviceList{Devices: shown[2:]}
			}
			json.NewEncoder(w).Encode(list) //nolint:errcheck // the client tells
		},
	})
	for _, form := range []string{"--csv", "--json"} {
		text, err := runCommand(newDeviceExportCommand(), "--data", dir, form)
		if err != nil {
			t.Fatal(err)
		}
		var sent []admin.Device
		to, asked := fakeAPI(t, map[string]any{"POST /v1/devices/import": takesImport(&sent, 1)})
		out, err := runCommand(newDeviceImportCommand(), "--data", to, "--replace", write(t, t.TempDir(), "x", text))
		if err != nil || !regexp.MustCompile(`^imported 4 devices \(3 new, 1 replaced\) in [0-9.]+s\n$`).MatchString(out) {
			t.Errorf("%v %q", err, out)
		}
		if !strings.HasPrefix(asked()[0], "POST /v1/devices/import?replace=true ") {
			t.Error(asked())
		}
		if got, want := inJSON(t, sent), inJSON(t, all); got != want {
			t.Errorf("%s: got\n%s\nwant\n%s", form, got, want)
		}
	}
}

// takesImport reads what is imported, and answers as the gateway does.
func takesImport(into *[]admin.Device, replaced int) any {
	return func(w http.ResponseWriter, _ *http.Request, body []byte) {
		lines := json.NewDecoder(bytes.NewReader(body))
		for {
			var d admin.Device
			if err := lines.Decode(&d); err != nil {
				break
			}
			*into = append(*into, d)
		}
		n := len(*into)
		answer := json.NewEncoder(w)
		answer.Encode(admin.ImportLine{Done: n / 2, Total: n})                                                                   //nolint:errcheck // the client tells
		answer.Encode(admin.ImportLine{Done: n, Total: n, Result: &admin.ImportResult{Added: n - replaced, Replaced: replaced}}) //nolint:errcheck // the client tells
	}
}

func TestDeviceImportCommand(t *testing.T) {
	var sent []admin.Device
	dir, asked := fakeAPI(t, map[string]any{"POST /v1/devices/import": takesImport(&sent, 0)})
	file := write(t, dir, "d.csv", "serial;password\nSN1;open sesame, and wide\nSN2;\n")
	if out, err := runCommand(newDeviceImportCommand(), "--data", dir, "--dry-run", file); err != nil || out != file+": nothing is wrong with its 2 devices. Nothing was imported (--dry-run)\n" || asked()[0] != "" {
		t.Errorf("%v %q", err, out)
	}
	out, err := runCommand(newDeviceImportCommand(), "--data", dir, "--json", file)
	var told imported
	if err != nil || json.Unmarshal([]byte(out), &told) != nil || told.Devices != 2 || told.Added != 2 || told.DryRun {
		t.Errorf("%v %s", err, out)
	}
	if len(sent) != 2 || sent[0].Password != "open sesame, and wide" || strings.Contains(asked()[0], "replace") {
		t.Errorf("%+v %s", sent, asked())
	}

	bad := write(t, dir, "bad.csv", "serial;password\nSN1;open sesame, and wide\nSN1;open sesame, and wide\n")
	if out, err := runCommand(newDeviceImportCommand(), "--data", dir, bad); err == nil || out != "" ||
		err.Error() != bad+`:3: serial "SN1": line 2 has it already`+"\nnothing was imported" || len(asked()) != 1 {
		t.Errorf("%v %q %s", err, out, asked())
	}
	if _, err := runCommand(newDeviceImportCommand(), "--data", dir, dir+"/absent.csv"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// What the gateway objects to is said by line.
func TestDeviceImportRefused(t *testing.T) {
	dir, _ := fakeAPI(t, map[string]any{"POST /v1/devices/import": refusedWith{422, admin.Failure{
		Error: "2 devices cannot be imported", Failures: []admin.ImportFailure{{Index: 1, Error: "device SN2 stands already"}, {Index: 2, Error: "serial SN3 is device \x1b[2Jx's"}}, More: 7,
	}}})
	file := write(t, dir, "d.csv", "serial\nSN1\n\nSN2\nSN3\n")
	want := file + `:4: device "SN2": device SN2 stands already` + "\n" + file + `:5: device "SN3": serial SN3 is device \x1b[2Jx's` +
		"\n... and 7 more like these\nnothing was imported"
	if _, err := runCommand(newDeviceImportCommand(), "--data", dir, "--replace", file); err == nil || err.Error() != want {
		t.Errorf("%v", err)
	}
	if _, err := runCommand(newDeviceImportCommand(), "--data", dir, file); err == nil || err.Error() != want+": --replace puts the file's entries into the place of those that stand" {
		t.Errorf("%v", err)
	}
}

func TestDeviceLs(t *testing.T) {
	all := someDevices()
	all[0].Enrolled, all[1].Enrolled = 1, 3
	all[3].Name = "\x1b[2Jx"
	dir, asked := fakeAPI(t, map[string]any{"GET /v1/devices": admin.DeviceList{Devices: all, Next: "x"}})
	f := &deviceLsFlags{clientFlags: clientFlags{data: dir}, limit: 4}
	var out strings.Builder
	if err := f.list(t.Context(), admin.DeviceQuery{Vendor: "acme"}, &out, 0, received); err != nil {
		t.Fatal(err)
	}
	says(t, out.String(), "NAME ", `bts-1     acme    serial=SN1 serial=S"N;1b tag=-7,`, "1 of 2        good      2026-03-01", "3, unlimited  disabled  for ever", `\x1b[2Jx`, "... and further ones: --limit 16")
	if !strings.HasPrefix(asked()[0], "GET /v1/devices?limit=4&vendor=acme") {
		t.Error(asked())
	}
	text, err := runCommand(newDeviceLsCommand(), "--data", dir, "--limit", "2", "--disabled=false", "--prefix", "b", "--json")
	var list []admin.Device
	if err != nil || json.Unmarshal([]byte(text), &list) != nil || len(list) != 4 || !strings.Contains(asked()[1], "disabled=false") || !strings.Contains(asked()[1], "prefix=b") {
		t.Errorf("%v %s %s", err, text, asked())
	}
	empty, _ := fakeAPI(t, map[string]any{"GET /v1/devices": admin.DeviceList{}})
	if out, err := runCommand(newDeviceLsCommand(), "--data", empty); err != nil || out != "no devices\n" {
		t.Error(err, out)
	}
	for width := 60; width < 140; width += 10 {
		out.Reset()
		if err := f.list(t.Context(), admin.DeviceQuery{}, &out, width, received); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out.String()) {
			if len([]rune(line)) > width+1 {
				t.Errorf("%d columns: %s", width, line)
			}
		}
	}
}

// One identity, with its history over every protocol, on one screen.
func TestDeviceShow(t *testing.T) {
	d := someDevices()[0]
	d.Enrolled, d.HasPassword, d.PasswordUsed, d.Created, d.Updated = 1, true, true, timeAt(received), timeAt(received.Add(time.Hour))
	d.NotAfter = nil
	certs := admin.CertificateList{Certificates: []admin.Certificate{
		{Serial: "bb", Subject: "CN=bts-1", Endpoint: "ran", Transaction: txID(2), NotBefore: received, NotAfter: received.AddDate(100, 0, 0)},
		{Serial: "aa", Subject: "CN=\x1b[2Jx", Endpoint: "phones", Transaction: txID(1), NotBefore: received, NotAfter: received.AddDate(100, 0, 0), RevokedAt: timeAt(received)},
	}}
	trans := admin.TransactionList{Transactions: []admin.Transaction{
		{ID: txID(3), Protocol: "est", Endpoint: "ran", Operation: "renew", State: "refused", Note: "own-certificate: revoked", Received: received},
		{ID: txID(2), Protocol: "cmp", Endpoint: "ran", Operation: "enroll", State: "issued", Received: received},
		{ID: txID(1), Protocol: "scep", Endpoint: "phones", Operation: "enroll", State: "issued", Received: received},
	}, Next: txID(1)}
	dir, asked := fakeAPI(t, map[string]any{
		"GET /v1/devices/SN1": d, "GET /v1/certificates": certs, "GET /v1/transactions": trans,
		"GET /v1/devices/both": refusedWith{409, admin.Failure{Error: "it is an identifier of two", Candidates: []string{"a", "b\x1b"}}},
	})
	out, err := runCommand(newDeviceShowCommand(), "--data", dir, "--limit", "3", "SN1")
	if err != nil {
		t.Fatal(err)
	}
	says(t, out, "Device bts-1 may ask for certificates, and has 1 valid certificate\n", "serial       SN1\n", "Enrolled     1 of 2\n", "Good from    2026-03-01 12:00:00 UTC\n",
		"Password     one-time, used up\n", "Secret       shared, sealed\n", "attr:site    North, 7\n", "Added        2026-03-01 12:00:00 UTC, changed 2026-03-01 13:00:00 UTC\n", "Endpoints    ran, core\n",
		"  bb      valid    2126-03-01  ran (cmp)      CN=bts-1", `  aa      revoked  2126-03-01  phones (scep)  CN=\x1b[2Jx`, "refused  ran (est) renew       own-certificate: revoked", "  ... and older ones: --limit N\n")
	if got := strings.Join(asked(), "\n"); !strings.Contains(got, "/v1/certificates?device=bts-1&limit=3") || !strings.Contains(got, "/v1/transactions?device=bts-1&limit=3") {
		t.Error(got)
	}
	// Whoever is not in the inventory may have a history all the same.
	if out, err = runCommand(newDeviceShowCommand(), "--data", dir, "SN9"); err != nil || !strings.HasPrefix(out, "Device SN9 is not in the inventory, and has 1 valid certificate\n") {
		t.Error(err, out)
	}
	var h deviceHistory
	if out, err = runCommand(newDeviceShowCommand(), "--data", dir, "--json", "SN1"); err != nil || json.Unmarshal([]byte(out), &h) != nil || h.Device.Name != "bts-1" || len(h.Certificates) != 2 || len(h.Transactions) < 3 {
		t.Error(err, out)
	}
	if _, err = runCommand(newDeviceShowCommand(), "--data", dir, "both"); err == nil || err.Error() != "it is an identifier of two:\n  a\n  b\\x1b" {
		t.Error(err)
	}
	bare, _ := fakeAPI(t, map[string]any{"GET /v1/certificates": admin.CertificateList{}, "GET /v1/transactions": admin.TransactionList{}, "GET /v1/devices/new": admin.Device{Name: "new"},
		"GET /v1/devices/gone": refusedWith{404, admin.Failure{Error: "there is no device gone"}}})
	if _, err = runCommand(newDeviceShowCommand(), "--data", bare, "gone"); err == nil || err.Error() != "there is no device gone" {
		t.Error(err)
	}
	if out, err = runCommand(newDeviceShowCommand(), "--data", bare, "new"); err != nil || strings.Count(out, "  none\n") != 2 {
		t.Error(err, out)
	}
}

func TestDeviceSwitches(t *testing.T) {
	d := admin.Device{Name: "bts-1", HasPassword: true}
	dir, asked := fakeAPI(t, map[string]any{
		"GET /v1/devices/SN1": d, "POST /v1/devices/bts-1/state": d, "POST /v1/devices/bts-1/reset": d, "DELETE /v1/devices/bts-1": admin.Device{Name: "bts-1", Enrolled: 1},
	})
	for want, c := range map[string]struct {
		args []string
		call string
	}{
		"bts-1 is disabled: it gets no certificates. Those that it has stay good: muster revoke --device bts-1\n": {[]string{"disable", "SN1"}, `POST /v1/devices/bts-1/state {"disabled":true}`},
		"bts-1 is enabled\n": {[]string{"enable", "SN1"}, `POST /v1/devices/bts-1/state {"disabled":false}`},
		"bts-1 has used none of its enrollments now, and its one-time password is good again\n":                                                                                                           {[]string{"reset", "SN1"}, `POST /v1/devices/bts-1/reset `},
		"bts-1 is removed. Certificates that it has stay good: muster revoke --device bts-1\n1 enrollment used under this name, and counted for whatever entry has it: muster device reset starts anew\n": {[]string{"rm", "bts-1"}, `DELETE /v1/devices/bts-1 `},
	} {
		out, err := runCommand(newDeviceCommand(), append(c.args, "--data", dir)...)
		calls := asked()
		if err != nil || out != want || strings.TrimSpace(calls[len(calls)-1]) != strings.TrimSpace(c.call) {
			t.Errorf("%v %q %s", err, out, calls)
		}
		if out, err := runCommand(newDeviceCommand(), append(c.args, "--data", dir, "--json")...); err != nil || !strings.Contains(out, `"name": "bts-1"`) {
			t.Errorf("%v %q", err, out)
		}
		if _, err := runCommand(newDeviceCommand(), c.args[0], "SN8", "--data", dir); err == nil || err.Error() != "there is no /v1/devices/SN8" {
			t.Error(err)
		}
	}
}
