package cmp

import (
	"context"
	"crypto"
	"crypto/x509"
	stdpkix "crypto/x509/pkix"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/wire"
)

// openssl runs `openssl cmp` in a directory of its own.
type openssl struct {
	t   testing.TB
	w   *world
	dir string
}

func newOpenSSL(t testing.TB, w *world) *openssl {
	t.Helper()
	if err := exec.Command("openssl", "cmp", "-help").Run(); err != nil {
		t.Fatalf("openssl cmp (3.0 or later; Debian's package openssl) is needed: %v", err)
	}
	o := &openssl{t, w, t.TempDir()}
	o.write("root.pem", "CERTIFICATE", w.ca.root.Raw)
	return o
}

func (o *openssl) path(name string) string { return filepath.Join(o.dir, name) }

func (o *openssl) write(name, kind string, der []byte) {
	o.t.Helper()
	if err := os.WriteFile(o.path(name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		o.t.Fatal(err)
	}
}

func (o *openssl) key(name string, key crypto.Signer) {
	o.t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		o.t.Fatal(err)
	}
	o.write(name, "PRIVATE KEY", der)
}

// run returns what the client said; ok is whether it succeeded.
func (o *openssl) run(args ...string) (out string, ok bool) {
	o.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	server := strings.TrimPrefix(o.w.server.URL, "http://")
	all := append([]string{"cmp", "-config", "", "-server", server, "-path", ".well-known/cmp", "-msg_timeout", "10"}, args...)
	cmd := exec.CommandContext(ctx, "openssl", all...)
	cmd.Dir = o.dir
	b, err := cmd.CombinedOutput()
	return string(b), err == nil
}

func (o *openssl) must(args ...string) string {
	o.t.Helper()
	out, ok := o.run(args...)
	if !ok {
		o.t.Fatalf("openssl cmp %s\n%s\n%s", strings.Join(args, " "), out, o.w.log)
	}
	return out
}

// verified checks the chain of a certificate that was fetched.
func (o *openssl) verified(cert, chain string) {
	o.t.Helper()
	cmd := exec.Command("openssl", "verify", "-CAfile", "root.pem", "-untrusted", chain, cert)
	cmd.Dir = o.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		o.t.Fatalf("%s: %v\n%s", cert, err, out)
	}
}

func TestOpenSSL(t *testing.T) {
	w := newWorld(t, worldOptions{})
	o := newOpenSSL(t, w)
	secret := []string{"-ref", "ref-1", "-secret", "pass:correct horse battery staple"}
	o.key("device.key", newP256())
	key := newP256()
	o.write("device.csr", "CERTIFICATE REQUEST", csr(t, key, "device-1"))
	o.key("csr.key", key)

	for _, implicit := range []bool{false, true} {
		for _, cmd := range []string{"ir", "cr", "p10cr"} {
			args := append([]string{"-cmd", cmd, "-certout", cmd + ".pem", "-chainout", cmd + "-chain.pem", "-cacertsout", cmd + "-ca.pem"}, secret...)
			if cmd == "p10cr" {
				args = append(args, "-csr", "device.csr")
			} else {
				args = append(args, "-newkey", "device.key", "-subject", "/CN=device-1", "-sans", "device.example")
			}
			want := gateway.StateIssued
			if implicit {
				args = append(args, "-implicit_confirm")
			}
			o.must(args...)
			if tx := w.gateway.tx(t); tx.State != want || tx.ConfirmWait == 0 != implicit {
				t.Errorf("%s, implicit %v: %s", cmd, implicit, tx.State)
			}
			o.verified(cmd+".pem", cmd+"-chain.pem")
			if ca, _ := os.ReadFile(o.path(cmd + "-ca.pem")); (len(ca) > 0) != (cmd == "ir") {
				t.Errorf("%s: caPubs:\n%s", cmd, ca)
			}
		}
	}

	// A vendor's certificate, then the key update with what it gave.
	vendor := newTestCA(t, "Vendor", newP256())
	vendorKey := newP256()
	o.key("vendor.key", vendorKey)
	o.write("vendor.pem", "CERTIFICATE", vendor.issue(t, &x509.Certificate{Subject: stdpkix.Name{CommonName: "serial 4711"}, KeyUsage: x509.KeyUsageDigitalSignature}, vendorKey.Public()).Raw)
	o.write("vendor-ca.pem", "CERTIFICATE", vendor.issuer.Raw)
	o.must("-cmd", "ir", "-cert", "vendor.pem", "-key", "vendor.key", "-extracerts", "vendor-ca.pem", "-trusted", "root.pem",
		"-newkey", "device.key", "-subject", "/CN=device-1", "-certout", "first.pem", "-chainout", "first-chain.pem")
	o.verified("first.pem", "first-chain.pem")
	o.key("second.key", newP256())
	o.must("-cmd", "kur", "-cert", "first.pem", "-key", "device.key", "-trusted", "root.pem", "-newkey", "second.key", "-certout", "second.pem", "-chainout", "second-chain.pem")
	o.verified("second.pem", "second-chain.pem")
	if r := w.gateway.last(t); r.Operation != gateway.Rekey || r.OldCert == nil || r.NewNames != nil {
		t.Errorf("kur: %+v", r)
	}
	o.must("-cmd", "kur", "-cert", "second.pem", "-key", "second.key", "-trusted", "root.pem", "-newkey", "second.key", "-certout", "third.pem")
	if r := w.gateway.last(t); r.Operation != gateway.Renew {
		t.Errorf("kur with the same key: %s", r.Operation)
	}
	if n := len(w.gateway.rejected); n != 0 {
		t.Errorf("%d refusals, the first: %v", n, w.gateway.rejected[0])
	}
}

// What openssl shows of a refusal.
func TestOpenSSLRefusals(t *testing.T) {
	w := newWorld(t, worldOptions{})
	o := newOpenSSL(t, w)
	o.key("device.key", newP256())
	ir := []string{"-cmd", "ir", "-newkey", "device.key", "-subject", "/CN=device-1", "-certout", "x.pem"}
	good := append([]string{"-ref", "ref-1", "-secret", "pass:correct horse battery staple", "-trusted", "root.pem"}, ir...)
	for name, tt := range map[string]struct {
		args []string
		want string
	}{
		"wrong secret":      {append([]string{"-ref", "ref-1", "-secret", "pass:wrong", "-trusted", "root.pem"}, ir...), "badMessageCheck"},
		"unknown reference": {append([]string{"-ref", "nobody", "-secret", "pass:wrong", "-trusted", "root.pem"}, ir...), "badMessageCheck"},
		"raVerified":        {append([]string{"-popo", "0"}, good...), "notAuthorized"},
		"no POP":            {append([]string{"-popo", "-1"}, good...), "badPOP"},
		"rr, MAC":           {[]string{"-cmd", "rr", "-ref", "ref-1", "-secret", "pass:correct horse battery staple", "-oldcert", "root.pem"}, "wrongIntegrity"},
		"unprotected":       {append([]string{"-unprotected_requests", "-trusted", "root.pem"}, ir...), "badMessageCheck"},
	} {
		out, ok := o.run(tt.args...)
		if ok || !strings.Contains(out, tt.want) {
			t.Errorf("%s: %v\n%s", name, ok, out)
		}
	}
	if w.gateway.issued != 0 {
		t.Errorf("%d issued", w.gateway.issued)
	}
}

// openssl polls while the request is held.
func TestOpenSSLPolls(t *testing.T) {
	w := newWorld(t, worldOptions{config: Config{Limits: wire.Limits{RetryAfter: 1e9}}})
	o := newOpenSSL(t, w)
	o.key("device.key", newP256())
	polled := 0
	w.gateway.mu.Lock() // the client is another process: nothing else orders this before its requests
	w.gateway.decide = func(*gateway.Request) (*gateway.Error, gateway.State) { return nil, gateway.StateHeld }
	w.gateway.looked = func() {
		if polled++; polled == 3 { // the request, the first poll, the second
			for _, t := range w.gateway.byID {
				w.gateway.settle(t, w.gateway.enrolled[0])
			}
		}
	}
	w.gateway.mu.Unlock()
	o.must("-cmd", "ir", "-ref", "ref-1", "-secret", "pass:correct horse battery staple", "-newkey", "device.key", "-subject", "/CN=device-1",
		"-certout", "held.pem", "-chainout", "held-chain.pem")
	o.verified("held.pem", "held-chain.pem")
	if tx := w.gateway.tx(t); tx.State != gateway.StateIssued || tx.ConfirmWait == 0 {
		t.Errorf("%s", tx.State)
	}
}
