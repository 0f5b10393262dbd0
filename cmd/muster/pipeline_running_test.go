package main

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway/admin"
)

// A drawing says that the gateway which runs goes by something else.
func TestDrawingsOfWhatDoesNotRun(t *testing.T) {
	data, err := os.MkdirTemp("", "m") // short: a socket's path has some 100 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(data) })
	file := filepath.Join(data, "muster.yaml")
	if err := os.WriteFile(file, []byte(orderConfig("      - challenge: {issued: true, basic: true}\n      - names: {}\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := loadConfig(file)
	if err != nil {
		t.Fatal(err)
	}
	show := func() string {
		out, err := drawn(t, "show", "ran", "--config", file)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(strings.Fields(out), " ")
	}
	if out := show(); strings.Contains(out, "The gateway") {
		t.Errorf("none runs: %s", out)
	}
	listener, err := net.Listen("unix", filepath.Join(data, adminSocket))
	if err != nil {
		t.Fatal(err)
	}
	status := admin.Status{Ready: true}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(status); err != nil {
			t.Error(err)
		}
	})}
	go server.Serve(listener) //nolint:errcheck // it ends by Close
	t.Cleanup(func() { server.Close() })
	since := time.Date(2026, 3, 1, 14, 0, 0, 0, time.UTC)
	for name, tt := range map[string]struct {
		running *admin.Configuration
		want    string
	}{
		"starting":            {nil, ""},
		"this one":            {&admin.Configuration{File: file, SHA256: c.sha256}, ""},
		"named from its home": {&admin.Configuration{File: "muster.yaml", SHA256: c.sha256}, ""},
		"another version":     {&admin.Configuration{File: file, SHA256: "00", Since: since}, "other version of this file, in force since 2026-03-01 14:00:00 UTC: muster reload"},
		"another file":        {&admin.Configuration{File: "/etc/x\x1b[2J/a.yaml", SHA256: c.sha256}, `goes by another file, /etc/x\x1b[2J/a.yaml`},
		"of another place":    {&admin.Configuration{File: "/etc/muster.yaml", SHA256: c.sha256}, "goes by another file, /etc/muster.yaml"},
	} {
		status.Configuration = tt.running
		if out := show(); strings.Contains(out, "The gateway that runs") != (tt.want != "") || !strings.Contains(out, tt.want) {
			t.Errorf("%s: %s", name, out)
		}
	}
}

// URLs behind proxies are not where devices go.
func TestDrawingsOfProxies(t *testing.T) {
	text := strings.Replace(orderConfig("      - challenge: {issued: true, basic: true}\n      - names: {}\n"), "{address: 127.0.0.1:0, tls: {}}", "{address: 127.0.0.1:80, proxies: [{name: a, addresses: [127.0.0.1]}]}", 1)
	file := filepath.Join(t.TempDir(), "muster.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := drawn(t, "show", "ran", "--config", file); err != nil || !strings.Contains(out, "listener tls, behind proxies, where the clients' TLS ends\n") {
		t.Errorf("%v %s", err, out)
	}
}
