package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
)

// stepLike answers as step-ca does when it is asked for its certificates, and can be away.
type stepLike struct {
	t         *testing.T
	dir       string
	address   string
	cert      tls.Certificate
	root, sub *x509.Certificate
	crl       bool
	server    *http.Server
}

func newStepLike(t *testing.T, dir string) *stepLike {
	s := &stepLike{t: t, dir: dir}
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	serial := int64(0)
	made := func(c *x509.Certificate, by *x509.Certificate, k, signer *ecdsa.PrivateKey) *x509.Certificate {
		serial++
		c.SerialNumber, c.NotBefore, c.NotAfter, c.BasicConstraintsValid = big.NewInt(serial), time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour), true
		if by == nil {
			by = c
		}
		der, err := x509.CreateCertificate(rand.Reader, c, by, k.Public(), signer)
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return parsed
	}
	rootKey, subKey, leafKey := key(), key(), key()
	ca := func(cn string) *x509.Certificate {
		return &x509.Certificate{Subject: pkix.Name{CommonName: cn}, IsCA: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	}
	s.root = made(ca("Corp Root"), nil, rootKey, rootKey)
	s.sub = made(ca("Corp CA"), s.root, subKey, rootKey)
	leaf := made(&x509.Certificate{
		Subject: pkix.Name{CommonName: "ra"}, IPAddresses: []net.IP{{127, 0, 0, 1}}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, s.sub, leafKey, subKey)
	s.cert = tls.Certificate{Certificate: [][]byte{leaf.Raw, s.sub.Raw}, PrivateKey: leafKey}
	der, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, "root.pem", certificatePEM(s.root))
	write(t, dir, "x5c.pem", certificatePEM(leaf)+certificatePEM(s.sub))
	write(t, dir, "x5c.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	s.address = "127.0.0.1:0"
	s.comes()
	t.Cleanup(s.goes)
	return s
}

func certificatePEM(c *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}

// comes has it answer, where it did before.
func (s *stepLike) comes() {
	s.t.Helper()
	l, err := net.Listen("tcp", s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.address = l.Addr().String()
	mux := http.NewServeMux()
	mux.HandleFunc("/1.0/intermediates", func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(map[string][]string{"crts": {certificatePEM(s.sub)}}) //nolint:errcheck // the client is told by what it gets
	})
	if s.crl {
		mux.HandleFunc("/1.0/crl", func(http.ResponseWriter, *http.Request) {})
	}
	s.server = &http.Server{Handler: mux, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0), TLSConfig: &tls.Config{Certificates: []tls.Certificate{s.cert}}}
	go s.server.ServeTLS(l, "", "") //nolint:errcheck // goes ends it
}

// goes has it away.
func (s *stepLike) goes() { s.server.Close() } //nolint:errcheck // it may be away

// inProcess is a gateway of this process.
type inProcess struct {
	*process
	log *safeBuffer
	cfg *Config
}

// startIn starts one on the configuration in dir.
func startIn(t *testing.T, dir string) (*inProcess, error) {
	t.Helper()
	log := &safeBuffer{}
	p, err := newProcess(filepath.Join(dir, "data"), "here", slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	p.file = filepath.Join(dir, "muster.yaml")
	p.load = func() (*Config, error) { return loadConfig(p.file) }
	g := &inProcess{process: p, log: log}
	if g.cfg, err = p.load(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.end)
	if err := p.start(t.Context(), g.cfg); err != nil {
		g.end()
		return nil, err
	}
	return g, nil
}

// mustStart fails the test when it does not.
func mustStart(t *testing.T, dir string) *inProcess {
	t.Helper()
	g, err := startIn(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func (g *inProcess) end() {
	if g.process == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	g.process.stop(ctx) //nolint:errcheck // one that did not start has nothing to say
	g.process = nil
}

// enroll has a device enrol by EST, and returns the HTTP status and the backend that its request has.
func (g *inProcess) enroll(t *testing.T, label, cn string) (int, string) {
	t.Helper()
	rt := g.runtime.Load()
	roots, err := rt.roots()
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	for _, r := range roots {
		pool.AddCert(r)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: cn}}, key)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+g.set.Addrs()["tls"].String()+"/.well-known/est/"+label+"/simpleenroll", strings.NewReader(base64.StdEncoding.EncodeToString(csr)))
	if err != nil {
		t.Fatal(err)
	}
	r.SetBasicAuth("factory", "0123456789abcdef0123456789abcdef")
	r.Header.Set("Content-Type", "application/pkcs10")
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}}
	res, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	io.Copy(io.Discard, res.Body) //nolint:errcheck // the status says it
	all, err := g.store.Transactions(t.Context(), gateway.TransactionFilter{Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	for _, tr := range all {
		if tr.Intent != nil && bytes.Contains(tr.Intent.Template.Subject, []byte(cn)) {
			return res.StatusCode, tr.Backend
		}
	}
	return res.StatusCode, ""
}

// state is what `muster status` says of a backend.
func (g *inProcess) state(name string) (heard bool, fault, means string) {
	for _, b := range g.backendStates(context.Background()) {
		if b.Name == name {
			return !b.LastHeard.IsZero(), b.Error, b.Means
		}
	}
	return false, "", ""
}

const silentConfig = `version: 1
listeners: {tls: {address: 127.0.0.1:0, tls: {}}}
store: sqlite:data/muster.db
backends:
  corp: CORP
  spare: {plugin: local, config: {dir: ca}}
server-certificate: {backend: spare}
profiles:
  device: {backend: corp, standby: [spare], validity: 1h}
  lone: {backend: corp, validity: 1h, issuer: "ISSUER"}
endpoints:
  device: {protocol: est, listeners: [tls], profile: device, enroll: [{password: {users: {factory: "{sha256}3eb1bd439947eb762998e566ccc2e099c791118b2f40579cc4f7da2b5061b7f9"}}}, {names: {}}]}
  lone: {protocol: est, listeners: [tls], profile: lone, enroll: [{password: {users: {factory: "{sha256}3eb1bd439947eb762998e566ccc2e099c791118b2f40579cc4f7da2b5061b7f9"}}}, {names: {}}]}
`

// A CA whose plugin cannot even be configured without it, step-ca, is down when the gateway starts: the standby has its requests at once, others wait,
// and a reload is possible. It is used again when it is back as it was; as another, once all checks of a start have passed.
func TestStartsWithoutItsCA(t *testing.T) {
	dir := t.TempDir()
	s := newStepLike(t, dir)
	config := strings.NewReplacer("CORP", fmt.Sprintf("{plugin: stepca, config: {url: 'https://%s', root: root.pem, provisioner: p, x5c: {cert: x5c.pem, key: x5c.key}, timeout: 5s}}", s.address), "ISSUER", "").Replace(silentConfig)
	write(t, dir, "muster.yaml", config)

	s.goes()
	if _, err := startIn(t, dir); err == nil || !strings.Contains(err.Error(), "nothing was ever heard of it, so that the gateway cannot start without it: see that it can be reached") {
		t.Fatalf("started with a CA that was never heard: %v", err)
	}
	s.comes()
	g := mustStart(t, dir)
	if heard, fault, _ := g.state("corp"); heard || fault != "" {
		t.Errorf("all is well: %v %s", heard, fault)
	}
	g.end()

	s.goes()
	write(t, dir, "muster.yaml", strings.Replace(config, "timeout: 5s", "timeout: 6s", 1))
	if _, err := startIn(t, dir); err == nil || !strings.Contains(err.Error(), "was under another configuration of it") {
		t.Fatalf("started with what another configuration heard: %v", err)
	}
	write(t, dir, "muster.yaml", config)
	kept := newHearing(filepath.Join(dir, "data", heardDir)).path("corp")
	good, err := os.ReadFile(kept)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Dir(kept), filepath.Base(kept), string(good)+" ")
	if _, err := startIn(t, dir); err == nil || !strings.Contains(err.Error(), "cannot be used: it is damaged") {
		t.Fatalf("started with a file that is damaged: %v", err)
	}
	write(t, filepath.Dir(kept), filepath.Base(kept), string(good))

	g = mustStart(t, dir)
	if n := strings.Count(g.log.String(), "a CA does not answer: the gateway goes by what it last heard of it"); n != 1 || !strings.Contains(g.log.String(), "requests of device are issued by the other CA of the profile; those of lone wait") {
		t.Errorf("said %d times:\n%s", n, g.log)
	}
	if heard, fault, means := g.state("corp"); !heard || !strings.Contains(fault, "has not answered since") || !strings.Contains(means, "those of lone wait") {
		t.Errorf("%v, %q, %q", heard, fault, means)
	}
	if state := g.gateway.Fault("corp"); state == nil {
		t.Error("its breaker is closed")
	}
	if code, by := g.enroll(t, "device", "device-1"); code != http.StatusOK || by != "spare" {
		t.Errorf("with a standby: %d by %q", code, by)
	}
	if code, _ := g.enroll(t, "lone", "lone-1"); code != http.StatusAccepted && code != http.StatusServiceUnavailable {
		t.Errorf("without one: %d", code)
	}
	if _, err := g.reload(t.Context(), bySignal); err != nil {
		t.Errorf("a reload: %v", err)
	}
	if code, by := g.enroll(t, "device", "device-2"); code != http.StatusOK || by != "spare" {
		t.Errorf("after a reload: %d by %q", code, by)
	}
	if !g.soundOut(t.Context()) {
		t.Error("a CA that stays away is no failure")
	}

	s.comes()
	g.sounds(t, func() bool { return len(g.runtime.Load().silence.names()) == 0 })
	if heard, _, _ := g.state("corp"); heard || g.runtime.Load().plugins["corp"].plugin.Healthy() != nil || !strings.Contains(g.log.String(), "and is as it was: it is used again") {
		t.Errorf("back, and not used: %v\n%s", g.runtime.Load().plugins["corp"].plugin.Healthy(), g.log)
	}
	g.end()

	s.goes()
	s.crl = true // it has a CRL when it is back: another capability
	g = mustStart(t, dir)
	before := g.runtime.Load()
	s.comes()
	g.sounds(t, func() bool { return g.runtime.Load() != before })
	rt := g.runtime.Load()
	if r := rt.plugins["corp"]; r == before.plugins["corp"] || !slices.Contains(r.plugin.Description().Capabilities, backend.CapCRL) || r.plugin.Healthy() != nil || len(rt.silence.names()) > 0 {
		t.Errorf("%+v, %v, silent: %v", r.plugin.Description(), r.plugin.Healthy(), rt.silence.names())
	}
}

// sounds asks the CAs that are silent until something is so.
func (g *inProcess) sounds(t *testing.T, until func() bool) {
	t.Helper()
	for range 2000 {
		g.soundOut(t.Context())
		if until() {
			return
		}
		time.Sleep(10 * time.Millisecond) // its plugin is launched again
	}
	t.Fatalf("never\n%s", g.log)
}

// A CA whose plugin runs without it, and which is another when it is back, than the configuration can use: it is not used.
func TestCAIsBackAsAnother(t *testing.T) {
	dir := t.TempDir()
	cert, _ := selfSigned(t)
	file := filepath.Join(dir, "ca.json")
	told := func(name string) {
		t.Helper()
		text, err := json.Marshal(map[string]any{"cas": []any{map[string]any{"name": name, "chain": []string{certificatePEM(cert)}}}})
		if err != nil {
			t.Fatal(err)
		}
		write(t, dir, "ca.json", string(text))
	}
	told("one")
	write(t, dir, "muster.yaml", strings.NewReplacer("CORP", "{plugin: exec, config: {issue: [/bin/false], ca: [/bin/cat, "+file+"], forms: [template]}}", "ISSUER", "one").Replace(silentConfig))
	g := mustStart(t, dir)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	running := g.runtime.Load().plugins["corp"]
	if _, err := g.reload(t.Context(), bySignal); err != nil {
		t.Fatalf("a reload while it is down: %v", err)
	}
	if r := g.runtime.Load().plugins["corp"]; r != running || r.plugin.Held() != nil || g.gateway.Fault("corp") == nil {
		t.Errorf("a plugin that runs is to be used on, with its breaker open: %v, %v", r.plugin.Held(), g.gateway.Fault("corp"))
	}
	if heard, _, _ := g.state("corp"); !heard {
		t.Error("status does not tell of it")
	}
	g.end()

	g = mustStart(t, dir)
	held := g.runtime.Load().plugins["corp"].plugin
	if held.Held() == nil {
		t.Error("a plugin whose CA nobody has looked at can be asked")
	}
	told("two")
	if g.soundOut(t.Context()) {
		t.Error("taken for good")
	}
	if _, fault, _ := g.state("corp"); !strings.Contains(fault, "is another than it was") || !strings.Contains(fault, `has no CA "one"`) {
		t.Errorf("muster status: %s", fault)
	}
	if !strings.Contains(g.log.String(), `level=ERROR msg="a CA that did not answer before answers again, and cannot be used as it is now`) {
		t.Errorf("the log:\n%s", g.log)
	}
	if _, err := held.Issue(t.Context(), &backend.IssueRequest{ID: "1"}); !backend.IsNotAsked(err) {
		t.Errorf("it is asked: %v", err)
	}
	if all, err := g.gateway.CACertificates(t.Context(), "lone"); err != nil || len(all) != 1 {
		t.Errorf("what was heard is no longer handed out: %v", err)
	}
	if code, by := g.enroll(t, "device", "device-3"); code != http.StatusOK || by != "spare" {
		t.Errorf("with a standby: %d by %q", code, by)
	}
	told("one")
	if !g.soundOut(t.Context()) || g.runtime.Load().plugins["corp"].plugin.Healthy() != nil {
		t.Errorf("as it was, and not used: %v", g.runtime.Load().plugins["corp"].plugin.Healthy())
	}
}
