package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/passhash"
)

func TestDevice(t *testing.T) {
	s := &source{claims: map[string]int64{}}
	c, _ := serve(t, s)
	from, until := noon.Add(-time.Hour), noon.AddDate(1, 0, 0)
	in := Device{
		Name: "line 1/é%2F..", Identifiers: []Identifier{{"mac", "00-1A-2B-3C-4D-5E"}, {"serial", "S1"}, {"serial", "S2"}}, Vendor: "acme", Endpoints: []string{"ran"},
		Profiles: []string{"base"}, Enrollments: Unlimited, NotBefore: &from, NotAfter: &until, Attributes: map[string]string{"site": "Ulm"}, Note: "spare",
		Password: generate, Secret: []byte("hunter2hunter2"),
	}
	added, err := c.AddDevice(t.Context(), in, false)
	if err != nil {
		t.Fatal(err)
	}
	if len(added.Password) != 26 || added.PasswordHash != "" || added.Secret != nil || !added.HasPassword || !added.HasSecret {
		t.Errorf("%+v", added)
	}
	kept := s.devices[0]
	if kept.Password != passhash.Secret([]byte(added.Password)) || string(kept.Sealed) != "2retnuh2retnuhdevice|"+in.Name {
		t.Errorf("%+v", kept)
	}
	password := added.Password
	s.claims[gateway.EnrollmentsKey(in.Name)], s.claims[gateway.PasswordKey(in.Name, kept.Password)] = 2, 1
	want := in
	want.Identifiers = []Identifier{{"mac", "00:1a:2b:3c:4d:5e"}, {"serial", "S1"}, {"serial", "S2"}}
	want.Password, want.Secret, want.HasPassword, want.HasSecret, want.PasswordUsed, want.Enrolled = "", nil, true, true, true, 2
	for _, by := range []string{in.Name, "S2", "00:1a:2b:3c:4d:5e", "00-1A-2B-3C-4D-5E", "001A2B3C4D5E"} { // as it stands on the label
		got, err := c.Device(t.Context(), by)
		if err != nil {
			t.Fatal(err)
		}
		if got.Created == nil || got.Updated == nil {
			t.Errorf("%+v", got)
		}
		got.Created, got.Updated = nil, nil
		if !reflect.DeepEqual(*got, want) {
			t.Errorf("got %+v\nwant %+v", *got, want)
		}
	}
	if _, err := c.AddDevice(t.Context(), in, false); status(err) != 409 || !strings.Contains(err.Error(), "stands already") {
		t.Errorf("again: %v", err)
	}
	// An identifier is no name where something is changed.
	for _, change := range []func() error{
		func() error { _, err := c.DropDevice(t.Context(), "S1"); return err },
		func() error { _, err := c.SetDeviceDisabled(t.Context(), "S1", true); return err },
		func() error { _, err := c.ResetDevice(t.Context(), "S1"); return err },
	} {
		if err := change(); status(err) != 404 {
			t.Errorf("by an identifier: %v", err)
		}
	}
	for _, disabled := range []bool{true, true, false} {
		got, err := c.SetDeviceDisabled(t.Context(), in.Name, disabled)
		if err != nil || got.Disabled != disabled || s.devices[0].Disabled != disabled || s.devices[0].Password != kept.Password || len(s.devices[0].Identifiers) != 3 {
			t.Errorf("%+v, %v", got, err)
		}
	}
	if got, err := c.ResetDevice(t.Context(), in.Name); err != nil || got.Enrolled != 0 || got.PasswordUsed || len(s.claims) != 0 {
		t.Errorf("%+v, %v, %v", got, err, s.claims)
	}
	if _, err := c.DropDevice(t.Context(), in.Name); err != nil || len(s.devices) != 0 {
		t.Errorf("%v, %v", err, s.devices)
	}
	var kinds []string
	for _, e := range s.audit {
		kinds = append(kinds, e.Kind)
		if e.Device != in.Name || !strings.HasPrefix(e.Actor, "unix:") || e.At.IsZero() {
			t.Errorf("audit: %+v", e)
		}
	}
	if strings.Join(kinds, " ") != "device-added device-disabled device-enabled device-reset device-removed" {
		t.Errorf("audit: %v", kinds)
	}
	for _, secret := range []string{password, kept.Password, "hunter2"} {
		if strings.Contains(s.log.String(), secret) {
			t.Errorf("log: %s", s.log.String())
		}
	}
}

func TestDevicePasswords(t *testing.T) {
	s := &source{}
	c, _ := serve(t, s)
	typed, err := passhash.Password([]byte("correct horse"))
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range []Device{{Name: "a", Password: "correct horse"}, {Name: "b", Password: "0123456789abcdef0123456789abcdef"}, {Name: "c", PasswordHash: typed}, {Name: "d"}} {
		out, err := c.AddDevice(t.Context(), in, false)
		if err != nil || out.Password != "" {
			t.Errorf("%s: %+v, %v", in.Name, out, err)
		}
	}
	// Whoever chose it may have chosen it ill.
	if !strings.HasPrefix(s.devices[0].Password, "$argon2id$") || !strings.HasPrefix(s.devices[1].Password, "$argon2id$") || s.devices[2].Password != typed || s.devices[3].Password != "" {
		t.Errorf("%q %q %q %q", s.devices[0].Password, s.devices[1].Password, s.devices[2].Password, s.devices[3].Password)
	}
	s.devices[3].Sealed = []byte("sealed")
	// What is said to be there is kept; the rest goes with the entry that is replaced.
	for name, x := range map[string]struct {
		in               Device
		password, sealed string
		want             string
	}{
		"kept":          {Device{Name: "c", HasPassword: true}, typed, "", ""},
		"secret kept":   {Device{Name: "d", HasSecret: true}, "", "sealed", ""},
		"replaced":      {Device{Name: "c", HasPassword: true, PasswordHash: passhash.Secret([]byte("x"))}, passhash.Secret([]byte("x")), "", ""},
		"taken away":    {Device{Name: "c"}, "", "", ""},
		"none to keep":  {Device{Name: "c", HasPassword: true}, "", "", "said to have a password"},
		"none, new":     {Device{Name: "e", HasPassword: true}, "", "", "said to have a password"},
		"no secret":     {Device{Name: "c", HasSecret: true}, "", "", "said to have a secret"},
		"without erase": {Device{Name: "d"}, "", "", ""},
	} {
		if name == "none to keep" || name == "no secret" {
			continue // below, in their order
		}
		if name == "kept" || name == "taken away" {
			s.devices[2].Password = typed
		}
		if name == "secret kept" {
			s.devices[3].Sealed = []byte("sealed")
		}
		_, err := c.AddDevice(t.Context(), x.in, true)
		if x.want != "" {
			if status(err) != 400 || !strings.Contains(err.Error(), x.want) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		d := s.devices[s.at(x.in.Name)]
		if err != nil || d.Password != x.password || string(d.Sealed) != x.sealed {
			t.Errorf("%s: %v, %+v", name, err, d)
		}
	}
	s.devices[2].Password, s.devices[2].Sealed = "", nil
	for _, in := range []Device{{Name: "c", HasPassword: true}, {Name: "c", HasSecret: true}} {
		if _, err := c.AddDevice(t.Context(), in, true); status(err) != 400 || !strings.Contains(err.Error(), "said to have") {
			t.Errorf("%+v: %v", in, err)
		}
	}
}

func TestDevicesRefused(t *testing.T) {
	s := &source{}
	c, _ := serve(t, s)
	for body, want := range map[string]string{
		`{"name": "a", "nam": "b"}`:                       `unknown field "nam"`,
		`{"name": "a"} {}`:                                "more than one JSON object",
		`{"name": "a", "name": "b"}`:                      `field "name" stands twice`,
		`{"name": "a", "note": "b,\"x\":{", "NAME": "b"}`: `field "NAME" stands twice`,
		`{"name": "a", "n\u0061me": "b"}`:                 `field "name" stands twice`,
		`{"name": "a", "identifiers": [{"kind": "serial", "value": "S"}], "identifiers": [{"kind": "udid"}]}`: `field "identifiers" stands twice`,
		`{"name": "a", "identifiers": [{"kind": "serial", "Kind": "udid", "value": "S"}]}`:                    `field "Kind" stands twice`,
		`{"name": "a", "attributes": {"x": "1", "x": "2"}}`:                                                   `field "x" stands twice`,
		`{"name": "a", "not_after": "1970-01-01T00:00:00Z"}`:                                                  "is 1970-01-01 or earlier",
		`{"name": "a", "not_after": "0001-01-01T00:00:00Z"}`:                                                  "is 1970-01-01 or earlier",
		`{"name": "a", "not_before": "0001-01-01T00:00:00Z"}`:                                                 "is 1970-01-01 or earlier",
		`{"name": "a", "identifiers": [{"kind": "mac", "value": "00:1a"}]}`:                                   "a MAC address has",
		`{"name": "a", "identifiers": [{"kind": "imei", "value": "4.9E+14"}]}`:                                "an IMEI has 15 digits",
		`{"name": "a"`:                                                   "not a JSON object",
		`["a"]`:                                                          "not a JSON object",
		`{"name": 1}`:                                                    `field "name" is of another type`,
		`{"name": "a", "enrollments": -1}`:                               "a number from 0 on",
		`{"name": "a", "enrollments": "all"}`:                            "a number from 0 on",
		`{"name": "a", "not_after": "tomorrow"}`:                         "a time is written as",
		`{"name": "a", "secret": "hunter2!"}`:                            "base64",
		`{"name": "a", "secret": "aHVudGVyMg=="}`:                        "8 to 1024 bytes",
		`{"name": ""}`:                                                   "the name is empty",
		`{"name": "a", "identifiers": [{"kind": "Serial"}]}`:             "no kind of identifier",
		`{"name": "a", "password_hash": "hunter2"}`:                      "password_hash: want",
		`{"name": "a", "password": "b", "password_hash": "c"}`:           "give one of them",
		`{"name": "a", "password": "` + strings.Repeat("x", 1025) + `"}`: "at most 1024 bytes",
		"{\"name\": \"a\xff\"}":                                          "not UTF-8",
		`{"name": "a", "note": "` + strings.Repeat("x", maxBody) + `"}`:  "larger than 16384 bytes",
	} {
		err := c.do(t.Context(), http.MethodPost, "/v1/devices", nil, strings.NewReader(body), &Device{})
		if st := status(err); st != 400 && st != 413 || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%.60q: %v", body, err)
		}
	}
	for path, want := range map[string]string{
		"/v1/devices?replace=yes": `replace is "true"`, "/v1/devices?x=1": "unknown parameter", "/v1/devices/a/reset?x=1": "unknown parameter",
		"/v1/devices/" + strings.Repeat("x", 257) + "/reset": "1 to 256 bytes",
	} {
		if err := c.do(t.Context(), http.MethodPost, path, nil, strings.NewReader(`{"name": "a"}`), &Device{}); status(err) != 400 || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if err := c.do(t.Context(), http.MethodPost, "/v1/devices/a/state", nil, strings.NewReader(`{}`), &Device{}); status(err) != 400 || !strings.Contains(err.Error(), "disabled is missing") {
		t.Errorf("no state: %v", err)
	}
	if len(s.devices)+len(s.audit) != 0 {
		t.Errorf("%v, %v", s.devices, s.audit)
	}
	for _, n := range []string{"one", "two"} {
		s.devices = append(s.devices, &gateway.Device{Name: n, Identifiers: []gateway.DeviceID{{Kind: n, Value: "X"}}})
	}
	_, err := c.Device(t.Context(), "X")
	if e, ok := errors.AsType[*Error](err); !ok || e.Status != 409 || strings.Join(e.Candidates, " ") != "one two" {
		t.Errorf("ambiguous: %v", err)
	}
	if _, err := c.Device(t.Context(), "Y"); status(err) != 404 {
		t.Errorf("none: %v", err)
	}
	s.err = errors.New("disk on fire")
	for _, call := range []func() error{
		func() error { _, err := c.Device(t.Context(), "one"); return err },
		func() error { _, err := c.Devices(t.Context(), DeviceQuery{}); return err },
		func() error { _, err := c.AddDevice(t.Context(), Device{Name: "a"}, false); return err },
		func() error { _, err := c.AddDevice(t.Context(), Device{Name: "a", HasSecret: true}, true); return err },
		func() error {
			_, err := c.ImportDevices(t.Context(), []Device{{Name: "a", HasSecret: true}}, true, nil)
			return err
		},
	} {
		if err := call(); status(err) != 503 || !strings.Contains(err.Error(), "disk on fire") {
			t.Errorf("%v", err)
		}
	}
	s.err, s.starting = nil, true
	if _, err := c.AddDevice(t.Context(), Device{Name: "a"}, false); status(err) != 503 || !strings.Contains(err.Error(), "is starting") {
		t.Errorf("before the configuration is in force: %v", err)
	}
}

func TestDeviceList(t *testing.T) {
	s := &source{claims: map[string]int64{gateway.EnrollmentsKey("d-0003"): 4}}
	for i := range 900 {
		s.devices = append(s.devices, &gateway.Device{Name: fmt.Sprintf("d-%04d", i), Vendor: fmt.Sprint("v", i%2), Disabled: i%3 == 0, Password: "x"})
	}
	c, _ := serve(t, s)
	list, err := c.Devices(t.Context(), DeviceQuery{Limit: 900})
	if err != nil || len(list.Devices) != 900 || list.Next != "d-0899" || list.Devices[3].Enrolled != 4 {
		t.Errorf("%v, %v", len(list.Devices), err)
	}
	yes := true
	list, err = c.Devices(t.Context(), DeviceQuery{Vendor: "v1", Disabled: &yes, Prefix: "d-00", After: "d-0010"})
	if err != nil || len(list.Devices) != 15 || list.Devices[0].Name != "d-0015" || list.Next != "" {
		t.Errorf("%+v, %v", list, err)
	}
	for _, query := range []string{"disabled=1", "limit=0", "limit=1001", "vendr=x"} {
		if err := c.do(t.Context(), http.MethodGet, "/v1/devices?"+query, nil, nil, &DeviceList{}); status(err) != 400 {
			t.Errorf("%s: %v", query, err)
		}
	}
}

func TestEnrollmentsJSON(t *testing.T) {
	for text, want := range map[string]Enrollments{`{"name":"a","enrollments":"unlimited"}`: Unlimited, `{"name":"a","enrollments":3}`: 3, `{"name":"a"}`: 0} {
		var d Device
		if err := json.Unmarshal([]byte(text), &d); err != nil || d.Enrollments != want {
			t.Errorf("%s: %v, %v", text, d.Enrollments, err)
		}
		if back, err := json.Marshal(d); err != nil || string(back) != text {
			t.Errorf("%s, %v", back, err)
		}
	}
}

func TestImport(t *testing.T) {
	s := &source{}
	c, _ := serve(t, s)
	var devices []Device
	for i := range 5000 {
		devices = append(devices, Device{Name: fmt.Sprintf("d-%04d", i), Password: fmt.Sprintf("a long random one %04d", i)})
	}
	result, err := c.ImportDevices(t.Context(), devices, false, func(done, total int) {
		if total != 5000 || done < 0 || done > total {
			t.Errorf("%d of %d", done, total)
		}
	})
	if err != nil || *result != (ImportResult{Added: 5000}) || len(s.devices) != 5000 {
		t.Fatalf("%+v, %v", result, err)
	}
	if !strings.HasPrefix(s.devices[7].Password, "{sha256}") {
		t.Error("a long password was hashed as a short one")
	}
	if len(s.audit) != 1 || s.audit[0].Kind != "devices-imported" || !strings.HasPrefix(s.audit[0].Actor, "unix:") || s.audit[0].Note != "5000 entries" {
		t.Errorf("audit: %+v", s.audit)
	}
	// Those that stand.
	_, err = c.ImportDevices(t.Context(), []Device{{Name: "new"}, {Name: "d-0001"}}, false, nil)
	e, ok := errors.AsType[*ImportError](err)
	if !ok || len(e.Failures) != 1 || e.Failures[0] != (ImportFailure{1, "device d-0001 stands already"}) || e.Err.Status != 422 || len(s.devices) != 5000 {
		t.Errorf("%v, %+v", err, e)
	}
	if result, err = c.ImportDevices(t.Context(), []Device{{Name: "new"}, {Name: "d-0001", HasPassword: true}}, true, nil); err != nil || *result != (ImportResult{1, 1}) {
		t.Errorf("%+v, %v", result, err)
	}
	if s.devices[1].Password == "" {
		t.Error("the password that stood was not kept")
	}
}

func TestImportRefused(t *testing.T) {
	s := &source{}
	c, _ := serve(t, s)
	long := strings.Repeat("x", maxBody)
	var many []Device
	for range 150 {
		many = append(many, Device{})
	}
	for name, x := range map[string]struct {
		devices []Device
		status  int
		want    string // of the failures, or of the message
		more    int
	}{
		"none":            {nil, 400, "there is no entry", 0},
		"all that are":    {[]Device{{Name: "a"}, {}, {Name: "b", Enrollments: -2}, {Name: "c"}, {Name: "d", Password: "short"}, {Name: "e", Password: generate}, {Name: "f", HasSecret: true}}, 422, "1: the name is empty|2: enrollments is a number from 0 on, or \"unlimited\"|4: the password is short|5: a password is generated for one device|6: the entry is said to have a secret", 0},
		"100 are named":   {many, 422, "0: the name is empty|", 50},
		"entry too large": {[]Device{{Name: "a"}, {Name: "b", Note: long}}, 413, "1: larger than 16384 bytes", 0},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.ImportDevices(t.Context(), x.devices, false, nil)
			if status(err) != x.status {
				t.Fatalf("%v", err)
			}
			e, ok := errors.AsType[*ImportError](err)
			if !ok {
				if !strings.Contains(err.Error(), x.want) {
					t.Error(err)
				}
				return
			}
			var got []string
			for _, f := range e.Failures {
				got = append(got, fmt.Sprintf("%d: %s", f.Index, f.Error))
			}
			if e.More != x.more || len(got) > maxFailures {
				t.Errorf("%d and %d more", len(got), e.More)
			}
			for i, want := range strings.Split(strings.TrimSuffix(x.want, "|"), "|") {
				if !strings.HasPrefix(got[i], want) {
					t.Errorf("%q, want %q", got[i], want)
				}
			}
		})
	}
	// An entry is one line, and blank ones do not count.
	err := c.importRaw(t, ndjson, "\n{\"name\": \"a\"}\n\n  \n{\"name\":\n\"b\"}\n")
	if e, ok := errors.AsType[*ImportError](err); !ok || len(e.Failures) != 2 || e.Failures[0].Index != 1 || e.Failures[1].Index != 2 {
		t.Errorf("%+v", err)
	}
	if err := c.importRaw(t, "application/json", `{"name": "a"}`); status(err) != 415 {
		t.Errorf("%v", err)
	}
	if len(s.devices)+len(s.audit) != 0 {
		t.Errorf("%v, %v", s.devices, s.audit)
	}
	if strings.Contains(s.log.String(), "short") {
		t.Errorf("log: %s", s.log.String())
	}
}

func (c *Client) importRaw(t *testing.T, kind, body string) error {
	t.Helper()
	resp, err := c.send(t.Context(), http.MethodPost, "/v1/devices/import", nil, strings.NewReader(body), kind)
	if err == nil {
		resp.Body.Close()
	}
	return err
}

// One at a time: who comes while devices are imported waits, not for ever, and is told so.
func TestImportsDoNotMeet(t *testing.T) {
	s := &source{}
	server := newServer(t, s)
	impatient, stop := context.WithCancel(t.Context())
	stop()
	for path, busy := range map[string]chan struct{}{"/v1/devices/import": server.importing, "/v1/devices/import?replace=true": server.changing, "/v1/devices": server.changing} {
		busy <- struct{}{}
		kind := ndjson
		if path == "/v1/devices" {
			kind = "application/json"
		}
		if got := request(impatient, server, "POST", path, kind, []byte(`{"name": "a"}`)); got.status != 409 || !strings.Contains(got.body, "try again later") || len(s.devices) != 0 {
			t.Errorf("%s: %+v", path, got)
		}
		<-busy
	}
	if got := request(t.Context(), server, "POST", "/v1/devices/import", ndjson, []byte(`{"name": "a"}`)); got.status != 200 || len(s.devices) != 1 {
		t.Errorf("%+v", got)
	}
}

// A client that sends its list slowly keeps nobody else from changing devices, and one that sends nothing is given up.
func TestSlowImport(t *testing.T) {
	s := &source{}
	server := newServer(t, s)
	w := &deadlined{ResponseRecorder: httptest.NewRecorder()}
	body := &slowBody{text: `{"name": "a"}`, before: func() {
		if time.Until(w.read) > time.Minute {
			t.Error("the list may stand still until", w.read)
		}
		if got := request(t.Context(), server, "POST", "/v1/devices", "application/json", []byte(`{"name": "b"}`)); got.status != 200 {
			t.Errorf("meanwhile: %+v", got)
		}
	}}
	r := httptest.NewRequestWithContext(t.Context(), "POST", "/v1/devices/import", body)
	r.Header.Set("Content-Type", ndjson)
	server.handler(func(*http.Request) (caller, error) { return caller{"test", Admin}, nil }).ServeHTTP(w, r)
	if w.Code != 200 || len(s.devices) != 2 {
		t.Errorf("%d %s: %v", w.Code, w.Body, s.devices)
	}
	if time.Until(w.read) < importTimeout { // else the server would take the client for gone while it stores
		t.Error("the deadline of the upload holds on:", w.read)
	}
}

// slowBody calls before ahead of its one text.
type slowBody struct {
	text   string
	before func()
}

func (b *slowBody) Read(p []byte) (int, error) {
	if b.text == "" {
		return 0, io.EOF
	}
	b.before()
	n := copy(p, b.text)
	b.text = b.text[n:]
	return n, nil
}

// Whether a gateway that goes away has imported them, nobody knows.
func TestImportBreaksOff(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if conn, err := l.Accept(); err == nil {
			io.CopyN(io.Discard, conn, 1<<20) //nolint:errcheck // it goes away in any case
			conn.Close()
		}
	}()
	_, err = NewClient(path).ImportDevices(t.Context(), make([]Device, 200_000), false, nil)
	if err == nil || !strings.HasSuffix(err.Error(), "the connection broke off: whether the devices were imported is not known") {
		t.Errorf("%v", err)
	}
}

// What fails after the first line of the answer stands in the last one.
func TestImportFailsLate(t *testing.T) {
	s := &source{late: make(chan struct{})}
	c, _ := serve(t, s)
	_, err := c.ImportDevices(t.Context(), []Device{{Name: "a"}, {Name: "b"}}, false, func(done, total int) {
		if done != 1 || total != 2 {
			t.Errorf("%d of %d", done, total)
		}
		close(s.late)
	})
	if e, ok := errors.AsType[*ImportError](err); !ok || len(e.Failures) != 1 || e.Failures[0] != (ImportFailure{1, "late"}) || e.More != 7 {
		t.Errorf("%v", err)
	}
}

func TestImportIsBounded(t *testing.T) {
	s := &source{}
	server := newServer(t, s)
	if server.entries != 1_000_000 || server.imported != 1<<30 {
		t.Errorf("%d entries, %d bytes", server.entries, server.imported)
	}
	server.entries, server.imported = 2, 100
	for body, want := range map[string]string{
		`{"name": "a"}` + "\n" + `{"name": "b"}` + "\n" + `{"name": "c"}`:                                "more than 2 entries: import them in parts",
		`{"name": "a", "note": "` + strings.Repeat("x", 60) + `"}` + "\n" + `{"name": "b", "note": "y"}`: "larger than 100 bytes together",
	} {
		if got := request(t.Context(), server, "POST", "/v1/devices/import", ndjson, []byte(body)); got.status != 413 || !strings.Contains(got.body, want) {
			t.Errorf("%s: %+v", body, got)
		}
	}
	server.imported = 1000
	if got := request(t.Context(), server, "POST", "/v1/devices/import", ndjson, []byte(`{"name": "a"}`+"\n"+`{"name": "b"}`+"\n")); got.status != 200 || len(s.devices) != 2 {
		t.Errorf("%+v", got)
	}
}
