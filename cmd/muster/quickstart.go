package main

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/muster-pki/muster/authz"
	"github.com/muster-pki/muster/gateway/serve"
)

// quickstart is what `muster serve` without a configuration makes in the data directory, beside what every gateway
// has there: muster.yaml, secrets/ and vendor-ca/ once, roots.pem and quickstart.env with each start, when they
// changed; roots.pem when a CA changes over, too.
type quickstart struct{ data string }

const (
	quickstartUser = "factory" // of EST, and the reference of CMP's secret
	passwordFile   = "est-password"
	challengeFile  = "scep-challenge"
	cmpSecretFile  = "cmp-secret"
)

func (q quickstart) config() string    { return filepath.Join(q.data, "muster.yaml") }
func (q quickstart) roots() string     { return filepath.Join(q.data, "roots.pem") }
func (q quickstart) env() string       { return filepath.Join(q.data, "quickstart.env") }
func (q quickstart) secrets() string   { return filepath.Join(q.data, "secrets") }
func (q quickstart) vendorCAs() string { return filepath.Join(q.data, "vendor-ca") }

// prepare writes the configuration unless there is one; config makes it of the hashes of two secrets. The secrets come first: a crash in between leaves some that
// the next start takes up.
func (q quickstart) prepare(config func(password, challenge string) []byte) error {
	switch _, err := os.Stat(q.config()); {
	case err == nil:
		return nil
	case !errors.Is(err, os.ErrNotExist):
		return err
	}
	for _, dir := range []string{q.secrets(), q.vendorCAs()} {
		if err := serve.MakeDir(dir); err != nil {
			return err
		}
	}
	hashes := map[string]string{}
	for _, name := range []string{passwordFile, challengeFile, cmpSecretFile} {
		secret, err := q.secret(name)
		if errors.Is(err, os.ErrNotExist) {
			secret = randomSecret()
			err = serve.WriteFile(filepath.Join(q.secrets(), name), []byte(secret+"\n"), 0o600)
		}
		if err != nil {
			return err
		}
		hashes[name] = authz.HashSecret([]byte(secret))
	}
	return serve.WriteFile(q.config(), config(hashes[passwordFile], hashes[challengeFile]), 0o600)
}

func (q quickstart) secret(name string) (string, error) {
	b, err := os.ReadFile(filepath.Join(q.secrets(), name))
	return strings.TrimSpace(string(b)), err
}

// writeRoots writes the PEM file that clients trust. The default CA's root comes first: some clients read one only.
// During a rollover those of before are in it too. When it held others, clients have to be told: the CA's folder may have
// been lost, and another CA made.
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
		if holdsAll(roots, old) {
			log.Info("a CA has a new root, beside those of before: give clients the file anew", "file", q.roots())
		} else {
			log.Warn("the roots are not those of before: clients need the file anew, and if it is another CA, new certificates", "file", q.roots())
		}
	}
	return writeChanged(q.roots(), buf.Bytes(), 0o644)
}

// holdsAll reports whether every certificate of a PEM file is among the roots.
func holdsAll(roots []*x509.Certificate, file []byte) bool {
	for {
		var b *pem.Block
		if b, file = pem.Decode(file); b == nil {
			return true
		}
		if !slices.ContainsFunc(roots, func(c *x509.Certificate) bool { return bytes.Equal(c.Raw, b.Bytes) }) {
			return false
		}
	}
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
	for _, one := range []struct{ file, user, name string }{
		{passwordFile, "MUSTER_EST_USER", "MUSTER_EST_PASSWORD"}, {cmpSecretFile, "MUSTER_CMP_REF", "MUSTER_CMP_SECRET"}, {challengeFile, "", "MUSTER_SCEP_CHALLENGE"},
	} {
		secret, err := q.secret(one.file)
		switch {
		case errors.Is(err, os.ErrNotExist): // an operator may have removed it, and older versions made fewer
			continue
		case err != nil:
			return nil, err
		}
		if one.user != "" {
			all = append(all, setting{one.user, quickstartUser})
		}
		all = append(all, setting{one.name, secret})
	}
	if info, err := os.Stat(q.vendorCAs()); err == nil && info.IsDir() {
		all = append(all, setting{"MUSTER_VENDOR_CA_DIR", q.vendorCAs()})
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
