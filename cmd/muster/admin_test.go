package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/muster-pki/muster/gateway/admin"
)

const (
	adminToken  = "0123456789abcdef0123456789abcdef"
	viewerToken = "fedcba9876543210fedcba9876543210"
)

func tokenLine(name, role, token string) string {
	sum := sha256.Sum256([]byte(token))
	return name + ":" + role + ":{sha256}" + hex.EncodeToString(sum[:]) + "\n"
}

func TestAdminConfigErrors(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "tokens", tokenLine("ops", "admin", adminToken))
	write(t, dir, "bad-tokens", "# who\nops:root:{sha256}00\n")
	write(t, dir, "empty.pem", "")
	for name, tc := range map[string]struct{ admin, want string }{
		"good":           {"{address: 127.0.0.1:0, tokens: tokens}", ""},
		"no address":     {"{tokens: tokens}", `:2: admin lacks "address"`},
		"wrong address":  {"{address: nowhere, tokens: tokens}", ":2: admin.address: address must be host:port"},
		"unknown key":    {"{address: 127.0.0.1:0, token: tokens}", `unknown key "token" in admin (did you mean "tokens"?)`},
		"nobody":         {"{address: 127.0.0.1:0}", ":2: admin: nobody could come in"},
		"no CA":          {"{address: 127.0.0.1:0, certificates: {CN=a: admin}}", "client-ca and certificates belong together"},
		"role":           {"{address: 127.0.0.1:0, client-ca: x, certificates: {CN=a: root}}", `:2: admin.certificates.CN=a: "root" is no role`},
		"token file":     {"{address: 127.0.0.1:0, tokens: none}", ":2: admin: tokens: "},
		"token line":     {"{address: 127.0.0.1:0, tokens: bad-tokens}", `bad-tokens:2: "root" is no role`},
		"empty CA":       {"{address: 127.0.0.1:0, client-ca: empty.pem, certificates: {CN=a: admin}}", "empty.pem: no certificate in it"},
		"half a key":     {"{address: 127.0.0.1:0, tokens: tokens, tls: {cert: a}}", `:2: admin.tls lacks "key"`},
		"no certificate": {"{address: 127.0.0.1:0, tokens: tokens, tls: {cert: a, key: b}}", ":2: admin.tls: tls.cert, tls.key"},
	} {
		t.Run(name, func(t *testing.T) {
			file := write(t, dir, "muster.yaml", strings.Replace(good, "version: 1\n", "version: 1\nadmin: "+tc.admin+"\n", 1))
			if tc.want == "" {
				if _, err := checkConfig(t.Context(), file); err != nil {
					t.Error(err)
				}
				return
			}
			wantFault(t, file, tc.want)
		})
	}
	taken := strings.Replace(good, "version: 1\n", "version: 1\nadmin: {address: 127.0.0.1:0, tokens: tokens}\n", 1)
	wantFault(t, write(t, dir, "muster.yaml", strings.ReplaceAll(strings.ReplaceAll(taken, "  plain:", "  admin:"), "[plain]", "[admin]")), "the admin API's listener has this name")
	same := strings.Replace(taken, "  plain: {address: 127.0.0.1:0}", "  plain: {address: 127.0.0.1:19443}", 1)
	wantFault(t, write(t, dir, "muster.yaml", strings.Replace(same, "{address: 127.0.0.1:0, tokens", "{address: 127.0.0.1:19443, tokens", 1)), "is listener plain's already")
}

// The gateway opens the admin API on an address of its own, with its own certificate, and reads the tokens again at a reload.
func TestAdminOverTheNetwork(t *testing.T) {
	dir := t.TempDir()
	tokens := tokenLine("ops", "admin", adminToken) + tokenLine("screen", "viewer", viewerToken)
	write(t, dir, "tokens", tokens)
	config := strings.Replace(good, "version: 1\n", "version: 1\nadmin: {address: 127.0.0.1:0, tokens: tokens}\n", 1)
	g := serveOn(t, dir, "--config", write(t, dir, "muster.yaml", config))
	roots := filepath.Join(g.data, "ca", "roots.pem")
	client := func(token string) *admin.Client {
		t.Helper()
		c, err := admin.NewRemoteClient("https://"+g.where("admin"), admin.RemoteOptions{CA: roots, Token: token})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	status := func(err error) int {
		if e, ok := errors.AsType[*admin.Error](err); ok {
			return e.Status
		}
		return 0
	}
	if s, err := client(viewerToken).Status(t.Context()); err != nil || !s.Ready {
		t.Fatalf("%+v, %v", s, err)
	}
	if cas, err := client(viewerToken).CAs(t.Context()); err != nil || len(cas.CAs) == 0 || cas.CAs[0].Backend != "local" || len(cas.CAs[0].Chain) == 0 {
		t.Errorf("%+v, %v", cas, err)
	} else if der, err := client(viewerToken).CRL(t.Context(), "local", ""); err != nil || len(der) == 0 {
		t.Errorf("CRL: %d bytes, %v", len(der), err)
	}
	if _, err := client(viewerToken).AddDevice(t.Context(), admin.Device{Name: "dev-1"}, false); status(err) != http.StatusForbidden {
		t.Errorf("a viewer: %v", err)
	}
	if d, err := client(adminToken).AddDevice(t.Context(), admin.Device{Name: "dev-1", Secret: []byte("0123456789abcdef")}, false); err != nil || !d.HasSecret {
		t.Errorf("%+v, %v", d, err)
	}
	if _, err := client(adminToken).NewChallenge(t.Context(), admin.NewChallenge{Endpoint: "ran"}); status(err) != http.StatusBadRequest || !strings.Contains(err.Error(), "issued: true") {
		t.Errorf("an endpoint that takes none: %v", err)
	}
	// The devices' listeners have no part of it.
	if code, _ := fetch(t, g.client(), "https://"+g.where("tls")+"/v1/status"); code != http.StatusNotFound {
		t.Errorf("on a listener of devices: %d", code)
	}
	// The socket is as it was.
	if list, err := admin.NewClient(filepath.Join(dir, adminSocket)).Devices(t.Context(), admin.DeviceQuery{}); err != nil || len(list.Devices) != 1 {
		t.Errorf("%+v, %v", list, err)
	}
	// A wrong file changes nothing; a token that is taken away is good no more.
	write(t, dir, "tokens", "nonsense")
	g.reload(t, dir, config, "want NAME:ROLE")
	if _, err := client(adminToken).Status(t.Context()); err != nil {
		t.Error(err)
	}
	write(t, dir, "tokens", tokenLine("screen", "viewer", viewerToken))
	g.reload(t, dir, config, "in force")
	if _, err := client(adminToken).Status(t.Context()); status(err) != http.StatusUnauthorized {
		t.Errorf("a token that was taken away: %v", err)
	}
	if _, err := client(viewerToken).Status(t.Context()); err != nil {
		t.Error(err)
	}
	if code := g.end(syscall.SIGINT); code != 0 {
		t.Errorf("exit code %d\n%s", code, g.stderr)
	}
}
