package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway/admin"
)

// Commands reach a gateway over TLS, by flags or by the environment.
func TestRemote(t *testing.T) {
	const token = "0123456789abcdef0123456789abcdef"
	var authorization, person string
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		authorization, person = r.Header.Get("Authorization"), ""
		if len(r.TLS.PeerCertificates) > 0 {
			person = r.TLS.PeerCertificates[0].Subject.String()
		}
		json.NewEncoder(w).Encode(admin.DeviceList{}) //nolint:errcheck // the client tells
	}))
	server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	dir := t.TempDir()
	ca := write(t, dir, "ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
	tokenFile := write(t, dir, "token", token+"\n")
	ls := func(args ...string) (string, error) { return runCommand(newDeviceLsCommand(), args...) }

	if out, err := ls("--url", server.URL, "--ca", ca, "--token-file", tokenFile); err != nil || out != "no devices\n" || authorization != "Bearer "+token {
		t.Errorf("%v %s %s", err, out, authorization)
	}
	for name, value := range map[string]string{"MUSTER_URL": server.URL, "MUSTER_CA": ca, "MUSTER_TOKEN_FILE": tokenFile} {
		t.Setenv(name, value)
	}
	authorization = ""
	if out, err := ls(); err != nil || out != "no devices\n" || authorization != "Bearer "+token {
		t.Errorf("by the environment: %v %s %s", err, out, authorization)
	}
	if _, err := ls("--url", ""); err == nil || !strings.Contains(err.Error(), "--url is given, and empty") { // else another gateway would be asked
		t.Error(err)
	}
	// What a flag says counts before the environment; the machine's own gateway too.
	if _, err := ls("--data", dir); err == nil || !strings.Contains(err.Error(), "no gateway answers on admin socket "+filepath.Join(dir, adminSocket)) {
		t.Error(err)
	}
	if _, err := ls("--url", "https://127.0.0.1:1"); err == nil || !strings.Contains(err.Error(), "does it run there") {
		t.Error(err)
	}
	if _, err := ls("--token-file", filepath.Join(dir, "absent")); err == nil || !strings.Contains(err.Error(), "absent: no such file") {
		t.Error(err)
	}

	for _, name := range []string{"MUSTER_URL", "MUSTER_CA", "MUSTER_TOKEN_FILE"} {
		t.Setenv(name, "")
	}
	der, err := x509.MarshalPKCS8PrivateKey(server.TLS.Certificates[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	key := write(t, dir, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	authorization = ""
	if out, err := ls("--url", server.URL, "--ca", ca, "--cert", ca, "--key", key); err != nil || out != "no devices\n" || person != server.Certificate().Subject.String() || authorization != "" {
		t.Errorf("with a certificate: %v %s %s %s", err, out, person, authorization)
	}
	for want, args := range map[string][]string{
		"--token-file goes with --url":                 {"--token-file", tokenFile},
		"--ca goes with --url":                         {"--ca", ca},
		"a gateway asks who comes over the network":    {"--url", server.URL, "--ca", ca},
		"speaks https only":                            {"--url", "http://127.0.0.1:1", "--token-file", tokenFile},
		"a certificate and its key belong together":    {"--url", server.URL, "--cert", ca},
		"holds none: want one line":                    {"--url", server.URL, "--token-file", write(t, dir, "two", "a\nb\n")},
		"certificate signed by unknown authority":      {"--url", server.URL, "--token-file", tokenFile},
		"[data socket url] are set none of the others": {"--url", server.URL, "--data", dir},
	} {
		if _, err := ls(args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", args, err)
		} else if strings.Contains(err.Error(), token) {
			t.Errorf("the token is shown: %v", err)
		}
	}
}

// The environment's token is not sent beside a certificate that a flag names.
func TestRemoteCredentialsBelongTogether(t *testing.T) {
	env := map[string]string{"MUSTER_URL": "https://h:1", "MUSTER_CA": "ca", "MUSTER_CERT": "c", "MUSTER_KEY": "k", "MUSTER_TOKEN_FILE": "t"}
	f := &clientFlags{}
	f.remote.Cert, f.remote.Key = "mine", "my key"
	f.resolve(func(flag string) bool { return flag == "cert" || flag == "key" }, func(name string) string { return env[name] }) //nolint:errcheck // there are no such files
	if f.url != "https://h:1" || f.remote.CA != "ca" || f.remote.Cert != "mine" || f.remote.Key != "my key" || f.tokenFile != "" {
		t.Errorf("%+v", f)
	}
}
