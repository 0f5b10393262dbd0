package main

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/muster-pki/muster/authz"
	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/serve"
)

// quickstart is what `muster serve` without a configuration makes in the data directory, beside what every gateway
// has there: muster.yaml and secrets/ once, roots.pem and quickstart.env with each start, when they changed.
type quickstart struct{ data string }

const (
	quickstartUser = "factory"
	passwordFile   = "est-password"
)

func (q quickstart) config() string  { return filepath.Join(q.data, "muster.yaml") }
func (q quickstart) roots() string   { return filepath.Join(q.data, "roots.pem") }
func (q quickstart) env() string     { return filepath.Join(q.data, "quickstart.env") }
func (q quickstart) secrets() string { return filepath.Join(q.data, "secrets") }

// prepare writes the configuration unless there is one. The secret comes first: a crash in between leaves one that
// the next start takes up.
func (q quickstart) prepare() error {
	switch _, err := os.Stat(q.config()); {
	case err == nil:
		return nil
	case !errors.Is(err, os.ErrNotExist):
		return err
	}
	if err := os.MkdirAll(q.secrets(), 0o700); err != nil {
		return err
	}
	password, err := q.password()
	if errors.Is(err, os.ErrNotExist) {
		b := make([]byte, 16) // 128 bits
		rand.Read(b)          //nolint:errcheck // crypto/rand.Read never fails (Go 1.24)
		password = base64.RawURLEncoding.EncodeToString(b)
		err = serve.WriteFile(filepath.Join(q.secrets(), passwordFile), []byte(password+"\n"), 0o600)
	}
	if err != nil {
		return err
	}
	return serve.WriteFile(q.config(), quickstartConfig(authz.HashSecret([]byte(password))), 0o600)
}

func (q quickstart) password() (string, error) {
	b, err := os.ReadFile(filepath.Join(q.secrets(), passwordFile))
	return strings.TrimSpace(string(b)), err
}

// quickstartConfig is the configuration of a first start. hash is of the password of quickstartUser.
func quickstartConfig(hash string) []byte {
	return fmt.Appendf(nil, `# Muster's configuration, as its first start wrote it. Relative paths start from this folder.
#   muster config check FILE    says what is wrong with it, with line numbers
#   muster serve --config FILE  runs it; SIGHUP reads it again, and a faulty file then changes nothing
version: 1

# Where it listens. A listener with "tls" speaks HTTPS; without "cert" and "key" files the gateway has a certificate
# issued for itself, by the CA under "server-certificate", and renews it.
listeners:
  http:
    address: 127.0.0.1:8080
  https:
    address: 127.0.0.1:8443
    tls: {}
    # tls:
    #   cert: server.pem        # the certificate, then its chain
    #   key: server.key
    #   min: "1.2"              # or "1.3"
    #   max: "1.3"              # "1.2" for oneM2M, with suites: [ECDHE_ECDSA_AES_128_CBC_SHA256]

# What must survive: transactions, certificates, the audit trail.
store: sqlite:muster.db         # or postgres://USER@HOST/DATABASE, with a CA that is not "local"

# The CAs. "local" is built in, and runs in a process of its own like every other.
backends:
  local:
    plugin: local
    config:
      dir: ca                   # two roots and their issuing CAs, "ec" (P-256, the default) and "rsa"
  # corp:
  #   plugin: /opt/corp/ca-plugin
  #   sha256: 64 hexadecimal digits; another executable is not run
  #   config: {}                # the plugin's own

# Who certifies the gateway's own listeners, and for which names beside localhost and this host's.
server-certificate:
  backend: local
  # names: [ra.example.com]

# Prometheus reads /metrics on these listeners.
metrics:
  listeners: [http]

# Kinds of certificate.
profiles:
  device:
    backend: local
    # issuer: rsa
    keys: [P-256, P-384, P-521, Ed25519, "RSA>=2048"]
    validity: 397d
    backdate: 5m                # for devices whose clock is slow
    key-usage: [digitalSignature]
    ext-key-usage: [clientAuth]

# Who may have which certificate. An operation that is not named here is denied; of those that are, every stage has
# to allow, from top to bottom.
endpoints:
  devices:                      # served at /.well-known/est/devices
    protocol: est
    listeners: [https]
    default: true               # and at /.well-known/est
    profile: device
    enroll:
      - password:
          users:                # "muster password" prints such hashes; this one's secret is in secrets/est-password
            factory: "%s"
      - names:                  # a subject; and the kinds of subjectAltName that stand here, each within a rule
          san: {dns: {}, ip: {}, email: {}, uri: {}}
    renew:
      - own-certificate: {}     # by a certificate that this endpoint issued, for the same names
    repeat: 10m                 # an equal request gets the same certificate for this long
`, hash)
}

// writeRoots writes the PEM file that clients trust. The default CA's root comes first: some clients read one only.
// When it held others, clients have to be told: the CA's folder may have been lost, and another CA made.
func (q quickstart) writeRoots(rt *Runtime, log *slog.Logger) error {
	roots, err := rt.roots()
	if err != nil {
		return err
	}
	var buf bytes.Buffer
	for _, c := range roots {
		if err := pem.Encode(&buf, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}); err != nil {
			return err
		}
	}
	if old, err := os.ReadFile(q.roots()); err == nil && !bytes.Equal(old, buf.Bytes()) {
		log.Warn("the roots are not those of the last start: clients need the file anew, and if it is another CA, new certificates", "file", q.roots())
	}
	return writeChanged(q.roots(), buf.Bytes(), 0o644)
}

// setting is one line of quickstart.env.
type setting struct{ name, value string }

// settings tells scripts what listens where. addrs are the listeners' real addresses.
func (q quickstart) settings(cfg *Config, addrs map[string]net.Addr) ([]setting, error) {
	var all []setting
	if name := cfg.listener(false); name != "" {
		all = append(all, setting{"MUSTER_HTTP", baseURL("http", addrs[name])})
	}
	if name := cfg.listener(true); name != "" {
		all = append(all, setting{"MUSTER_HTTPS", baseURL("https", addrs[name])})
	}
	all = append(all, setting{"MUSTER_CA", q.roots()})
	password, err := q.password()
	switch {
	case err == nil:
		all = append(all, setting{"MUSTER_EST_USER", quickstartUser}, setting{"MUSTER_EST_PASSWORD", password})
	case !errors.Is(err, os.ErrNotExist): // an operator may have removed it
		return nil, err
	}
	return all, nil
}

func envFile(settings []setting) []byte {
	var buf bytes.Buffer
	for _, s := range settings {
		fmt.Fprintf(&buf, "%s=%s\n", s.name, shellQuote(s.value))
	}
	return buf.Bytes()
}

// shellQuote quotes for sh, whatever stands in s.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// baseURL is how this machine reaches a listener.
func baseURL(scheme string, a net.Addr) string {
	host, port, err := net.SplitHostPort(a.String())
	if err != nil {
		return scheme + "://" + a.String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return scheme + "://" + net.JoinHostPort(host, port)
}

// writeChanged leaves a file alone that holds the data already.
func writeChanged(path string, data []byte, mode os.FileMode) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return nil
	}
	return serve.WriteFile(path, data, mode)
}

// listener finds the listener that --http or --https means: the one of that name, else the only one of that kind.
func (c *Config) listener(tls bool) string {
	preferred := map[bool]string{false: "http", true: "https"}[tls]
	if l := c.Listeners[preferred]; l != nil && (l.TLS != nil) == tls {
		return preferred
	}
	only := ""
	for _, name := range byName(c.Listeners) {
		if (c.Listeners[name].TLS != nil) == tls {
			if only != "" {
				return ""
			}
			only = name
		}
	}
	return only
}

// estPath is where a client of the HTTPS listener enrols, "" when nowhere.
func (c *Config) estPath() string {
	found := ""
	for _, name := range byName(c.Endpoints) {
		e := c.Endpoints[name]
		switch {
		case e.Protocol != gateway.EST || !slices.Contains(e.Listeners, c.listener(true)):
		case e.Default:
			return "/.well-known/est"
		case found == "":
			found = "/.well-known/est/" + name
		}
	}
	return found
}

// screen is what the first minute needs: what listens where, and commands that work as printed.
func (q quickstart) screen(w io.Writer, cfg *Config, settings []setting, took time.Duration) {
	value := map[string]string{}
	for _, s := range settings {
		value[s.name] = s.value
	}
	fmt.Fprintf(w, "muster %s, ready in %.2f s. Ctrl-C stops it.\n\n", version(), took.Seconds())
	line := func(what, where string) {
		if where != "" {
			fmt.Fprintf(w, "  %-8s %s\n", what, where)
		}
	}
	path := cfg.estPath()
	if v := value["MUSTER_HTTPS"]; v != "" && path != "" {
		line("EST", v+path)
	}
	if v := value["MUSTER_HTTP"]; v != "" {
		paths := "  (/healthz, /readyz)"
		if m := cfg.Metrics; m != nil && slices.Contains(m.Listeners, cfg.listener(false)) {
			paths = "  (/healthz, /readyz, /metrics)"
		}
		line("HTTP", v+paths)
	}
	line("CA", value["MUSTER_CA"])
	line("config", q.config())
	if path != "" && value["MUSTER_EST_PASSWORD"] != "" && value["MUSTER_HTTPS"] != "" {
		fmt.Fprintf(w, "\nEnrol a device, in a second shell:\n\n%s\nRenew its certificate:\n\n%s", indent(enrolCommands(q.env(), path)), indent(renewCommands(path)))
	}
	self := invocation()
	where := " --data " + shellQuote(q.data)
	if here, err := filepath.Abs(defaultData); err == nil && here == q.data {
		where = ""
	}
	fmt.Fprintf(w, "\nWhat happened, and why:\n\n  %s ls%s\n  %s explain ID%s\n\nNext: edit muster.yaml, which explains itself; then %s serve --config %s\n",
		self, where, self, where, self, shellQuote(q.config()))
}

// invocation is how this program was called.
func invocation() string {
	switch self := os.Args[0]; {
	case strings.Contains(self, "/go-build"): // by go run, whose binary is gone afterwards
		return "go run ./cmd/muster"
	case strings.ContainsAny(self, " '\"$\\"):
		return shellQuote(self)
	default:
		return self
	}
}

// enrolCommands make a key and a request, and have it certified.
func enrolCommands(env, path string) string {
	return `. ` + shellQuote(env) + `
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout device.key \
  -subj /CN=device-0001 -outform DER | openssl base64 -A > device.csr
curl -sS --fail-with-body --cacert "$MUSTER_CA" -u "$MUSTER_EST_USER:$MUSTER_EST_PASSWORD" \
  -H 'Content-Type: application/pkcs10' --data-binary @device.csr "$MUSTER_HTTPS` + path + `/simpleenroll" \
  | openssl base64 -d -A | openssl pkcs7 -inform DER -print_certs -out device.crt
openssl x509 -in device.crt -noout -subject -serial -enddate
`
}

// renewCommands have the same request certified again, by the certificate.
func renewCommands(path string) string {
	return `curl -sS --fail-with-body --cacert "$MUSTER_CA" --cert device.crt --key device.key \
  -H 'Content-Type: application/pkcs10' --data-binary @device.csr "$MUSTER_HTTPS` + path + `/simplereenroll" \
  | openssl base64 -d -A | openssl pkcs7 -inform DER -print_certs -out renewed.crt
openssl x509 -in renewed.crt -noout -subject -serial -enddate
`
}

func indent(s string) string {
	return "  " + strings.ReplaceAll(strings.TrimSuffix(s, "\n"), "\n", "\n  ") + "\n"
}
