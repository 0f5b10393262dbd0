//go:build cas

package cas

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/muster-pki/muster/e2e/running"
)

// stepCA is a real step-ca with hierarchy, provisioners and ca.json made here.
type stepCA struct {
	t       *testing.T
	dir     string
	Address string // host:port
	root    *x509.Certificate
	issuing *x509.Certificate
	key     crypto.Signer // of the issuing CA
	cmd     *exec.Cmd
	log     *running.Output
	exited  chan struct{}
}

// startStepCA starts one whose chain has keys of that make. The JWK provisioner `muster` and the X5C provisioner `x5c` have Muster's
// template, the JWK provisioner `plain` step-ca's own. The files muster.jwk, x5c.pem, x5c.key and root.pem are in its folder.
func startStepCA(t *testing.T, newKey func() crypto.Signer) *stepCA {
	t.Helper()
	s := &stepCA{t: t, dir: t.TempDir()}
	rootKey, caKey := newKey(), newKey()
	ca := func(name string) *x509.Certificate {
		return &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	}
	s.root = s.certify(ca("E2E Root CA"), nil, rootKey.Public(), rootKey)
	issuing := s.certify(ca("E2E Intermediate CA"), s.root, caKey.Public(), rootKey)
	s.issuing, s.key = issuing, caKey
	s.pem("root.pem", "CERTIFICATE", s.root.Raw)
	s.pem("issuing.pem", "CERTIFICATE", issuing.Raw)
	der, err := x509.MarshalPKCS8PrivateKey(caKey)
	s.ok(err)
	s.pem("issuing.key", "PRIVATE KEY", der)

	// A CA of its own for the X5C provisioner.
	raKey, raCAKey := s.ec(), s.ec()
	raCA := s.certify(ca("RA Root"), nil, raCAKey.Public(), raCAKey)
	ra := s.certify(&x509.Certificate{Subject: pkix.Name{CommonName: "Muster RA"}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, raCA, raKey.Public(), raCAKey)
	s.pem("x5c.pem", "CERTIFICATE", ra.Raw)
	der, err = x509.MarshalPKCS8PrivateKey(raKey)
	s.ok(err)
	s.pem("x5c.key", "PRIVATE KEY", der)

	jwk := jose.JSONWebKey{Key: s.ec(), KeyID: "muster-1", Algorithm: "ES256", Use: "sig"}
	text, err := json.Marshal(jwk)
	s.ok(err)
	s.write("muster.jwk", text)
	template, err := os.ReadFile("../../configs/stepca.tpl")
	s.ok(err)
	options := map[string]any{"x509": map[string]any{"template": string(template)}}
	claims := map[string]any{"maxTLSCertDuration": "9600h", "minTLSCertDuration": "5m"}
	plain := jose.JSONWebKey{Key: jwk.Key, KeyID: "muster-2", Algorithm: "ES256", Use: "sig"}
	text, err = json.Marshal(plain)
	s.ok(err)
	s.write("plain.jwk", text)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	s.ok(err)
	s.Address = free.Addr().String()
	s.ok(free.Close())
	text, err = json.MarshalIndent(map[string]any{
		"root": s.file("root.pem"), "crt": s.file("issuing.pem"), "key": s.file("issuing.key"),
		"address": s.Address, "dnsNames": []string{"127.0.0.1"}, "logger": map[string]any{"format": "text"},
		"db": map[string]any{"type": "badgerv2", "dataSource": s.file("db")}, "crl": map[string]any{"enabled": true, "generateOnRevoke": true},
		"authority": map[string]any{"provisioners": []any{
			map[string]any{"type": "JWK", "name": "muster", "key": jwk.Public(), "claims": claims, "options": options},
			map[string]any{"type": "JWK", "name": "plain", "key": plain.Public(), "claims": claims},
			map[string]any{"type": "X5C", "name": "x5c", "roots": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raCA.Raw}), "claims": claims, "options": options},
		}},
	}, "", "\t")
	s.ok(err)
	s.write("ca.json", text)
	s.start()
	t.Cleanup(s.stop)
	return s
}

func (s *stepCA) ok(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *stepCA) file(name string) string { return filepath.Join(s.dir, name) }

func (s *stepCA) write(name string, text []byte) {
	s.t.Helper()
	s.ok(os.WriteFile(s.file(name), text, 0o600))
}

func (s *stepCA) pem(name, kind string, der []byte) {
	s.t.Helper()
	s.write(name, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func (s *stepCA) ec() *ecdsa.PrivateKey {
	s.t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	s.ok(err)
	return k
}

func (s *stepCA) certify(c, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	s.t.Helper()
	c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().Add(-24*time.Hour), time.Now().Add(300*24*time.Hour)
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, pub, key)
	s.ok(err)
	made, err := x509.ParseCertificate(der)
	s.ok(err)
	return made
}

// start runs the server until it answers.
func (s *stepCA) start() {
	s.t.Helper()
	s.cmd = exec.Command(filepath.Join(tools, "bin", "step-ca"), s.file("ca.json"))
	s.cmd.Env = append(os.Environ(), "STEPPATH="+s.dir)
	s.log, s.exited = &running.Output{}, make(chan struct{})
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	s.ok(s.cmd.Start())
	cmd, exited := s.cmd, s.exited
	go func() {
		cmd.Wait() //nolint:errcheck // how it ended is in ProcessState
		close(exited)
	}()
	pool := x509.NewCertPool()
	pool.AddCert(s.root)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}, Timeout: 5 * time.Second}
	for range 3000 {
		if res, err := client.Get("https://" + s.Address + "/health"); err == nil {
			res.Body.Close()
			return
		}
		select {
		case <-s.exited:
			s.t.Fatalf("step-ca ended\n%s", s.log)
		case <-time.After(10 * time.Millisecond):
		}
	}
	s.t.Fatalf("step-ca does not answer\n%s", s.log)
}

func (s *stepCA) stop() {
	s.cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // it may have ended
	select {
	case <-s.exited:
	case <-time.After(20 * time.Second):
		s.cmd.Process.Kill() //nolint:errcheck // as above
		<-s.exited
	}
	if s.t.Failed() && testing.Verbose() {
		s.t.Logf("step-ca's log:\n%s", s.log)
	}
}

// between is a proxy in front of step-ca that loses answers to signs, and knows what step-ca made.
type between struct {
	Address string
	mu      sync.Mutex
	lose    int             // that many answers from now on
	signed  int             // answers with a certificate
	made    map[string]bool // certificates, PEM
}

func (s *stepCA) between() *between {
	s.t.Helper()
	b := &between{made: map[string]bool{}}
	pool := x509.NewCertPool()
	pool.AddCert(s.root)
	target, err := url.Parse("https://" + s.Address)
	s.ok(err)
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	proxy.ErrorLog = log.New(io.Discard, "", 0)
	proxy.ModifyResponse = func(res *http.Response) error {
		if res.Request.URL.Path != "/1.0/sign" || res.StatusCode != http.StatusCreated {
			return nil
		}
		body, err := io.ReadAll(res.Body)
		if err != nil {
			return err
		}
		res.Body = io.NopCloser(bytes.NewReader(body))
		var answer struct {
			Certificate string `json:"crt"`
		}
		if err := json.Unmarshal(body, &answer); err != nil {
			return err
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.signed++
		b.made[answer.Certificate] = true
		if b.lose > 0 {
			b.lose--
			return errors.New("lost")
		}
		return nil
	}
	proxy.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
	server := httptest.NewUnstartedServer(proxy)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	key := s.ec()
	leaf := s.certify(&x509.Certificate{Subject: pkix.Name{CommonName: "proxy"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature}, s.issuing, key.Public(), s.key)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Raw, s.issuing.Raw}, PrivateKey: key}}}
	server.StartTLS()
	s.t.Cleanup(server.Close)
	b.Address = server.Listener.Addr().String()
	return b
}
