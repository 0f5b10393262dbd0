package e2e

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const proxyConfig = `version: 1
listeners:
  http:
    address: 127.0.0.1:0
    proxies:
      - {name: edge, addresses: [127.0.0.2], client-certificate: nginx}
  https:
    address: 127.0.0.1:0
    tls: {}
    proxies:
      - {name: mesh, ca: mesh-ca.pem, names: [edge.example], client-certificate: nginx}
store: sqlite:muster.db
backends:
  local: {plugin: local, config: {dir: ca}}
server-certificate: {backend: local}
profiles:
  device: {backend: local, validity: 90d}
endpoints:
  plant:
    protocol: est
    listeners: [http, https]
    default: true
    profile: device
    enroll:
      - vendor-ca: {cas: [vendor-ca.pem], serial: subject.CN}
      - names: {device: subject.CN}
    renew:
      - own-certificate: {}
  people:
    protocol: est
    listeners: [http]
    profile: device
    enroll:
      - password: {users: {anna: "{sha256}USER"}}
      - names: {}
`

// nginxConfig is that of docs/tls.md, with a port without TLS beside it, and whatever a test in a folder of its own needs.
const nginxConfig = `daemon off;
master_process off;
pid DIR/nginx.pid;
error_log DIR/error.log info;
events {}
http {
  access_log off;
  client_body_temp_path DIR/t1; proxy_temp_path DIR/t2; fastcgi_temp_path DIR/t3; uwsgi_temp_path DIR/t4; scgi_temp_path DIR/t5;
  server {
    listen TLSPORT ssl;
    listen PORT;
    ssl_certificate DIR/edge.pem;
    ssl_certificate_key DIR/edge.key;
    ssl_verify_client optional_no_ca;
    location /.well-known/est/reencrypted/ {
      proxy_pass TLSGATEWAY/.well-known/est/;
      proxy_ssl_certificate DIR/mesh.pem;
      proxy_ssl_certificate_key DIR/mesh.key;
      proxy_set_header X-SSL-Client-Cert $ssl_client_escaped_cert;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Proto $scheme;
    }
    location / {
      proxy_pass GATEWAY;
      proxy_bind 127.0.0.2;
      proxy_set_header X-SSL-Client-Cert $ssl_client_escaped_cert;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Proto $scheme;
    }
  }
}
`

// What docs/tls.md has nginx say of its clients is what runs here.
func TestProxyNginxAsDocumented(t *testing.T) {
	page, err := os.ReadFile("../docs/tls.md")
	if err != nil {
		t.Fatal(err)
	}
	_, printed, _ := strings.Cut(string(page), "```nginx\n")
	printed, _, _ = strings.Cut(printed, "```")
	words := func(line string) string { return strings.Join(strings.Fields(line), " ") }
	runs := map[string]bool{}
	for line := range strings.Lines(nginxConfig) {
		runs[words(line)] = true
	}
	said := 0
	for line := range strings.Lines(printed) {
		if line = words(line); strings.HasPrefix(line, "proxy_set_header ") || strings.HasPrefix(line, "ssl_verify_client ") {
			if said++; !runs[line] {
				t.Errorf("docs/tls.md has nginx do what no test does: %s", line)
			}
		}
	}
	if said != 4 {
		t.Errorf("docs/tls.md has %d lines for nginx, want 4", said)
	}
}

// nginx runs it in front of the gateway's listener http, in the folder, and returns where it listens.
func (g *instance) nginx(dir string) (overTLS, clear string) {
	g.t.Helper()
	return g.nginxOn(dir, nginxConfig)
}

// nginxOn is nginx with another configuration.
func (g *instance) nginxOn(dir, config string) (overTLS, clear string) {
	g.t.Helper()
	var addresses []string
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			g.t.Fatal(err)
		}
		addresses = append(addresses, l.Addr().String())
		l.Close()
	}
	g.sh(dir, `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout edge.key -out edge.pem -subj /CN=edge -addext subjectAltName=IP:127.0.0.1 -days 2 2>/dev/null`)
	conf := strings.NewReplacer("DIR", dir, "TLSPORT", addresses[0], "PORT", addresses[1], "TLSGATEWAY", g.env["MUSTER_HTTPS"], "GATEWAY", g.env["MUSTER_HTTP"]).Replace(config)
	if err := os.WriteFile(filepath.Join(dir, "nginx.conf"), []byte(conf), 0o600); err != nil {
		g.t.Fatal(err)
	}
	binary, err := exec.LookPath("nginx")
	if err != nil {
		binary = "/usr/sbin/nginx"
	}
	cmd := exec.Command(binary, "-p", dir, "-e", filepath.Join(dir, "error.log"), "-c", filepath.Join(dir, "nginx.conf"))
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		g.t.Fatalf("nginx (Debian's nginx-light): %v", err)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }() //nolint:errcheck // it is killed
	g.t.Cleanup(func() { cmd.Process.Kill(); <-ended })
	for range 1000 {
		if c, err := net.Dial("tcp", addresses[0]); err == nil {
			c.Close()
			return "https://" + addresses[0], "http://" + addresses[1]
		}
		select {
		case <-ended:
			g.t.Fatalf("nginx ended: %s", &said)
		case <-time.After(10 * time.Millisecond):
		}
	}
	g.t.Fatal("nginx does not listen")
	return "", ""
}

// putDevice writes NAME.pem and NAME.key.
func putDevice(t *testing.T, dir, name string, d *device) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(d.key)
	if err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string]string{".pem": certificatePEM(d.cert), ".key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))} {
		if err := os.WriteFile(filepath.Join(dir, name+file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// nginx ends TLS, in front of a listener without and of one that knows it by its certificate: what it says of its clients counts, and nobody
// else's word does.
func TestProxyNginx(t *testing.T) {
	caPEM, certify := certifier(t, "Vendor CA")
	hash := "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08" // of "test"
	dir := t.TempDir()
	(&instance{t: t}).sh(dir, `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout mesh-ca.key -out mesh-ca.pem -subj /CN=mesh-ca -days 2 2>/dev/null
		openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout mesh.key -out mesh.csr -subj /CN=edge 2>/dev/null
		printf 'keyUsage=digitalSignature\nextendedKeyUsage=clientAuth\nsubjectAltName=DNS:edge.example\n' > mesh.ext
		openssl x509 -req -in mesh.csr -CA mesh-ca.pem -CAkey mesh-ca.key -set_serial 1 -days 2 -extfile mesh.ext -out mesh.pem 2>/dev/null`)
	meshCA, err := os.ReadFile(filepath.Join(dir, "mesh-ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	g := configured(t, strings.Replace(proxyConfig, "USER", hash, 1), "vendor-ca.pem", caPEM, "mesh-ca.pem", string(meshCA))
	vendor := certify("device-1")
	putDevice(t, dir, "vendor", vendor)
	overTLS, clear := g.nginx(dir)
	g.env["EDGE"], g.env["CLEAR"] = overTLS, clear
	g.env["HEADER"] = strings.ReplaceAll(url.QueryEscape(certificatePEM(vendor.cert)), "+", "%20")
	g.sh(dir, `openssl ecparam -name prime256v1 -genkey -noout -out device.key
		openssl req -new -key device.key -subj /CN=device-1 -outform DER | openssl base64 -out device.b64
		openssl req -new -key device.key -outform DER -config /dev/stdin <<END | openssl base64 -out bound.b64
[req]
distinguished_name = name
attributes = attributes
prompt = no
[name]
CN = device-1
[attributes]
challengePassword = abcd
END`)
	ask := func(operation, args string) string {
		return g.sh(dir, `curl -sS --interface 127.0.0.3 --cacert edge.pem -H 'Content-Type: application/pkcs10' --data-binary @${BODY:-device.b64} -w '\n%{http_code}' -o answer `+
			args+`/.well-known/est/`+operation+`; cat answer`)
	}
	type asked struct{ name, operation, args, status, says string }
	check := func(all ...asked) {
		t.Helper()
		for _, c := range all {
			if out := ask(c.operation, c.args); !strings.HasPrefix(out, "\n"+c.status) || !strings.Contains(out, c.says) {
				t.Errorf("%s: %s", c.name, out)
			}
		}
	}
	check([]asked{
		{"without a certificate", "simpleenroll", `"$EDGE"`, "403", ""},
		{"the header sent to nginx", "simpleenroll", `-H "X-SSL-Client-Cert: $HEADER" "$EDGE"`, "403", ""},
		{"RFC 9440's header sent to nginx", "simpleenroll", `-H "Client-Cert: :AAAA:" "$EDGE"`, "403", ""},
		{"nginx without TLS", "simpleenroll", `-H "X-SSL-Client-Cert: $HEADER" -H 'X-Forwarded-Proto: https' "$CLEAR"`, "403", "EST is served over HTTPS only"},
		{"the headers sent to the gateway", "simpleenroll", `-H "X-SSL-Client-Cert: $HEADER" -H 'X-Forwarded-Proto: https' "$MUSTER_HTTP"`, "403", "EST is served over HTTPS only"},
		{"and by TLS", "simpleenroll", `--insecure -H "X-SSL-Client-Cert: $HEADER" -H 'X-Forwarded-Proto: https' "$MUSTER_HTTPS"`, "403", ""},
		{"a password in clear", "people/simpleenroll", `-u anna:test -H 'X-Forwarded-Proto: https' "$MUSTER_HTTP"`, "403", "EST is served over HTTPS only"},
		{"a password through nginx in clear", "people/simpleenroll", `-u anna:test "$CLEAR"`, "403", "EST is served over HTTPS only"},
		{"a password", "people/simpleenroll", `-u anna:test "$EDGE"`, "200", ""},
		{"a wrong password", "people/simpleenroll", `-u anna:wrong "$EDGE"`, "401", ""},
		{"another's renewal", "simplereenroll", `--cert vendor.pem --key vendor.key "$EDGE"`, "403", ""},
		{"a vendor's certificate", "simpleenroll", `--cert vendor.pem --key vendor.key "$EDGE"`, "200", ""},
	}...)
	told := g.muster("explain", "--last")
	for _, want := range []string{"127.0.0.3", "came through the proxy edge", "over TLS up to the proxy", "device-1"} {
		if !strings.Contains(told, want) {
			t.Errorf("explain does not say %q:\n%s", want, told)
		}
	}
	if !strings.Contains(g.stderr.String(), "source=127.0.0.3 proxy=edge") {
		t.Errorf("the log does not tell:\n%s", g.stderr)
	}
	kept := filepath.Join(dir, "answer")
	issued, err := os.ReadFile(kept)
	if err != nil {
		t.Fatal(err)
	}
	check([]asked{
		{"without a certificate, by the proxy's", "reencrypted/simpleenroll", `"$EDGE"`, "403", ""},
		{"a vendor's certificate by TLS to TLS", "reencrypted/simpleenroll", `--cert vendor.pem --key vendor.key "$EDGE"`, "200", ""},
		{"as the proxy itself", "simpleenroll", `--insecure --cert mesh.pem --key mesh.key "$MUSTER_HTTPS"`, "403", ""},
	}...)
	if !strings.Contains(g.stderr.String(), "source=127.0.0.3 proxy=mesh") {
		t.Errorf("the log does not tell of the proxy with a certificate:\n%s", g.stderr)
	}
	if err := os.WriteFile(kept, issued, 0o600); err != nil {
		t.Fatal(err)
	}
	g.sh(dir, `openssl base64 -d -A -in answer | openssl pkcs7 -inform DER -print_certs -out issued.pem; cp device.key issued.key
		openssl ecparam -name prime256v1 -genkey -noout -out device.key
		openssl req -new -key device.key -subj /CN=device-1 -outform DER | openssl base64 -out device.b64`)
	if out := ask("simplereenroll", `--cert issued.pem --key issued.key "$EDGE"`); !strings.HasPrefix(out, "\n200") {
		t.Errorf("renewal: %s", out)
	}
	// A channel binding of the client's connection with nginx cannot be compared here.
	g.env["BODY"] = "bound.b64"
	if out := ask("simpleenroll", `--cert vendor.pem --key vendor.key "$EDGE"`); !strings.HasPrefix(out, "\n400") || !strings.Contains(out, "TLS ends at a proxy") {
		t.Errorf("a channel binding: %s", out)
	}
}
