//go:build cas

package cas

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
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
	s.Address = running.Address(t)
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
	waits(s.t, func() string { return "step-ca does not answer\n" + s.log.String() }, func() bool {
		res, err := client.Get("https://" + s.Address + "/health")
		if err == nil {
			res.Body.Close()
		}
		select {
		case <-s.exited:
			s.t.Fatalf("step-ca ended\n%s", s.log)
		default:
		}
		return err == nil
	})
}

func (s *stepCA) stop() {
	s.cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // it may have ended
	select {
	case <-s.exited:
	case <-time.After(time.Minute):
		s.cmd.Process.Kill() //nolint:errcheck // as above
		<-s.exited
	}
	if s.t.Failed() && testing.Verbose() {
		s.t.Logf("step-ca's log:\n%s", s.log)
	}
}

// between is what stands before step-ca. It keeps no list that could be read while it runs: what it has issued is read off its answers.
func (s *stepCA) between() *between {
	s.t.Helper()
	key := s.ec()
	leaf := s.certify(&x509.Certificate{Subject: pkix.Name{CommonName: "proxy"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature}, s.issuing, key.Public(), s.key)
	shown := &tls.Certificate{Certificate: [][]byte{leaf.Raw, s.issuing.Raw}, PrivateKey: key}
	return newBetween(s.t, "https://"+s.Address, shown, func(res *http.Response, body []byte) ([]*x509.Certificate, bool) {
		if res.Request.URL.Path != "/1.0/sign" || res.StatusCode != http.StatusCreated {
			return nil, false
		}
		var answer struct {
			Certificate string `json:"crt"`
		}
		if err := json.Unmarshal(body, &answer); err != nil {
			return nil, true
		}
		block, _ := pem.Decode([]byte(answer.Certificate))
		if block == nil {
			return nil, true
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, true
		}
		return []*x509.Certificate{c}, true
	})
}

// died has a gateway before this CA, by the configuration of its backend, killed and its answers lost.
func (s *stepCA) died(config string) (refused string, died deaths, promise string) {
	s.t.Helper()
	files := &running.Gateway{T: s.t, Dir: s.t.TempDir()}
	files.Sh(raFiles + "\nmkdir shared; cp ops-ca.pem ra.pem ra.key shared/; cp '" + s.file("root.pem") + "' shared/root.pem")
	b := s.between()
	g := estFront(s.t, files.File("shared"), "stepca, config: {url: '"+b.URL+"', root: root.pem, "+config+"}")
	chain(g)
	eventually(g, "", "gw-1")
	return refusesCRMF(g, "device"), crashes(s.t, g, accidents{at: b.at, lose: b.lose}), describes(g, "up")
}
