package e2e

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"
)

// mdmNginxConfig is that of docs/ios.md, with whatever a test in a folder of its own needs.
const mdmNginxConfig = `daemon off;
master_process off;
pid DIR/nginx.pid;
error_log DIR/error.log info;
events {}
http {
  access_log off;
  client_body_temp_path DIR/t1; proxy_temp_path DIR/t2; fastcgi_temp_path DIR/t3; uwsgi_temp_path DIR/t4; scgi_temp_path DIR/t5;
  server {
    listen TLSPORT ssl;
    ssl_certificate DIR/edge.pem;
    ssl_certificate_key DIR/edge.key;
    ssl_verify_client optional_no_ca;
    location = /muster-check {
      internal;
      proxy_bind 127.0.0.2;
      proxy_pass GATEWAY/ota/ota/check;
      proxy_method GET;
      proxy_pass_request_body off;
      proxy_set_header Content-Length "";
      proxy_set_header Mdm-Signature "";
      proxy_set_header X-SSL-Client-Cert $ssl_client_escaped_cert;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Proto $scheme;
    }
    location / {
      auth_request /muster-check;
      auth_request_set $device $upstream_http_muster_device;
      auth_request_set $cert $upstream_http_client_cert;
      proxy_set_header Muster-Device $device;
      proxy_set_header Client-Cert $cert;
      proxy_pass MDMSERVER;
    }
  }
}
`

// What docs/ios.md has nginx do is what runs here.
func TestIOSNginxAsDocumented(t *testing.T) {
	page, err := os.ReadFile("../docs/ios.md")
	if err != nil {
		t.Fatal(err)
	}
	_, printed, _ := strings.Cut(string(page), "```nginx\n")
	printed, _, _ = strings.Cut(printed, "```")
	words := func(line string) string {
		line, _, _ = strings.Cut(line, "#")
		return strings.Join(strings.Fields(line), " ")
	}
	runs, said := map[string]bool{}, 0
	for line := range strings.Lines(mdmNginxConfig) {
		runs[words(line)] = true
	}
	for line := range strings.Lines(printed) {
		line = words(line)
		if word, _, _ := strings.Cut(line, " "); strings.HasPrefix(word, "auth_request") || word == "proxy_set_header" || word == "proxy_method" || word == "proxy_pass_request_body" || word == "ssl_verify_client" {
			if said++; !runs[line] {
				t.Errorf("docs/ios.md has nginx do what no test does: %s", line)
			}
		}
	}
	if said != 13 {
		t.Errorf("docs/ios.md has %d lines for nginx, want 13", said)
	}
}

// nginx asks about the TLS client before it passes a message on, with the device's name and certificate (RFC 9440).
func TestIOSBehindNginx(t *testing.T) {
	maker := newDeviceMaker(t)
	g := profileService(t, maker, "addresses: [127.0.0.1]}", "addresses: [127.0.0.2], client-certificate: nginx}")
	phone := maker.iPhone(g, udid7, serial7)
	url, challenge := phone.begin()
	identity := phone.identity(url, challenge)

	var got []*http.Request
	mdm := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = append(got, r) }))
	t.Cleanup(mdm.Close)
	overTLS, _ := g.nginxOn(t.TempDir(), strings.ReplaceAll(mdmNginxConfig, "MDMSERVER", mdm.URL))
	send := func(certs ...tls.Certificate) int {
		t.Helper()
		c := &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: certs}, DisableKeepAlives: true}}
		r, err := http.NewRequest("PUT", overTLS+"/mdm", bytes.NewReader([]byte("<plist/>")))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Muster-Device", "phone-8") // nobody's word
		r.Header.Set("Client-Cert", ":AAAA:")
		res, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		io.Copy(io.Discard, res.Body) //nolint:errcheck // its status counts
		return res.StatusCode
	}
	if status := send(tls.Certificate{Certificate: [][]byte{identity.cert.Raw}, PrivateKey: identity.key}); status != http.StatusOK || len(got) != 1 ||
		got[0].Header.Get("Muster-Device") != "phone-7" || got[0].Header.Get("Client-Cert") != ":"+base64.StdEncoding.EncodeToString(identity.cert.Raw)+":" {
		t.Fatalf("%d, %d requests: %+v", status, len(got), got)
	}
	if status := send(); status != http.StatusForbidden {
		t.Errorf("without a certificate: %d", status)
	}
	stranger := phone.scep("https://pki.example.com/scep/phones")
	if status := send(tls.Certificate{Certificate: [][]byte{stranger.certify("phone-7", nil).Raw}, PrivateKey: stranger.key}); status != http.StatusForbidden {
		t.Errorf("a stranger's certificate: %d", status)
	}
	g.muster("device", "disable", "phone-7")
	if status := send(tls.Certificate{Certificate: [][]byte{identity.cert.Raw}, PrivateKey: identity.key}); status != http.StatusForbidden {
		t.Errorf("a disabled device: %d", status)
	}
	if len(got) != 1 {
		t.Errorf("the MDM server got %d requests", len(got))
	}
}
