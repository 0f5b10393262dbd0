package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	x509pkix "crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway/admin"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// What replicas of a CMP server share: store, seal key, RA certificate, secret files.
const cmpReplicaConfig = `version: 1
listeners:
  http: {address: 127.0.0.1:0}
store: %q
seal: {file: ../seal.key}
backends:
  memory: {plugin: ../memoryca, sha256: %s, config: {journal: %s}}
profiles:
  device: {backend: memory, keys: [P-256], validity: 30d, key-usage: [digitalSignature], ext-key-usage: [clientAuth]}
endpoints:
  macs:
    protocol: cmp
    listeners: [http]
    profile: device
    ra: {cert: ../ra.pem, key: ../ra.pem}
    enroll:
      - shared-secret: {secrets: {factory: {file: ../factory.secret}}, devices: true}
      - names: {}
  signed:
    protocol: cmp
    listeners: [http]
    profile: device
    ra: {cert: ../ra.pem, key: ../ra.pem}
    cmp: {protection: signature}
    enroll:
      - shared-secret: {secrets: {factory: {file: ../factory.secret}}}
      - names: {}
  hasty:
    protocol: cmp
    listeners: [http]
    profile: device
    ra: {cert: ../ra.pem, key: ../ra.pem}
    cmp: {confirm-wait: 2s}
    enroll:
      - shared-secret: {secrets: {factory: {file: ../factory.secret}}}
      - names: {}
`

const (
	factorySecret = "what the whole factory knows"
	deviceSecret  = "what one device knows, and no other"
)

// cmpReplicas starts two gateways that share what replicas share, and returns the journals of their CA.
func cmpReplicas(t *testing.T) (a, b *instance, journals []string) {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string][]byte{
		"ra.pem": raPEM(t), "factory.secret": []byte(factorySecret), "seal.key": []byte(base64.StdEncoding.EncodeToString(random(32))),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	both, journals := startReplicas(t, dir, func(dsn, _, sum, journal string) string {
		return fmt.Sprintf(cmpReplicaConfig, dsn, sum, journal)
	}, func(g *instance) map[string]string {
		return map[string]string{
			"MUSTER_HTTP": "http://" + g.listening("http"), "MUSTER_CMP_REF": "factory", "MUSTER_CMP_SECRET": factorySecret,
		}
	})
	return both[0], both[1], journals
}

// raPEM is an RA certificate with its key.
func raPEM(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ra := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: x509pkix.Name{CommonName: "RA of both"}, KeyUsage: x509.KeyUsageDigitalSignature,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, ra, ra, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})...)
}

// at makes the device talk to an endpoint of a replica.
func (d *cmpDevice) at(g *instance, endpoint string) {
	d.url = g.env["MUSTER_HTTP"] + "/.well-known/cmp/p/" + endpoint
}

// decided sends the same bytes until the answer is not that of a request under way.
func (d *cmpDevice) decided(der []byte) ([]byte, error) {
	for range 200 {
		answer, err := d.post(der)
		if err != nil {
			return nil, err
		}
		m, err := cmpmsg.Parse(answer)
		if err != nil {
			return nil, err
		}
		rep, ok := m.Body.(*cmpmsg.CertRepMessage)
		if !ok || len(rep.Responses) != 1 || rep.Responses[0].Status.Status != cmpmsg.StatusWaiting {
			return answer, nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return nil, fmt.Errorf("waiting all the time")
}

// TestCMPReplicas runs two gateways over one PostgreSQL: an exchange goes on at the other one, also when the first has died.
func TestCMPReplicas(t *testing.T) {
	t.Parallel()
	a, b, journals := cmpReplicas(t)
	issued := func(cert []byte) (n int) {
		for _, j := range journals {
			ids, err := backendtest.Journal(j)
			if err != nil {
				t.Fatal(err)
			}
			for _, certs := range ids {
				for _, der := range certs {
					if bytes.Equal(der, cert) {
						n++
					}
				}
			}
		}
		return n
	}
	wantState := func(t *testing.T, g *instance, name, state string) admin.Transaction {
		t.Helper()
		all := g.transactions(name)
		if len(all) != 1 || all[0].State != state {
			t.Fatalf("%s: %+v, want one that is %s", name, all, state)
		}
		return all[0]
	}

	t.Run("ir at one, certConf at the other, which reads its configuration again in between", func(t *testing.T) {
		d := a.cmpDevice("walks")
		d.at(a, "macs")
		if m, err := d.exchange(d.request(cmpmsg.TypeIR)); err != nil || d.cert == nil {
			t.Fatalf("%v %s", err, failure(m))
		}
		b.cmd.Process.Signal(syscall.SIGHUP) //nolint:errcheck // the log tells
		for range 1000 {
			if strings.Contains(b.stderr.String(), "the configuration is in force") {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if told := b.stderr.String(); !strings.Contains(told, "the configuration is in force") {
			t.Fatalf("not reloaded:\n%s", told)
		}
		conf := d.message(d.certConf())
		d.at(b, "macs")
		pkiConf, err := d.post(conf)
		if err != nil {
			t.Fatal(err)
		}
		if m, err := d.take(pkiConf); err != nil || m.Body.Type() != cmpmsg.TypePKIConf {
			t.Fatalf("%v %s", err, failure(m))
		}
		d.at(a, "macs")
		if again, err := d.post(conf); err != nil || !bytes.Equal(again, pkiConf) {
			t.Errorf("the same certConf at the first is answered otherwise: %v", err)
		}
		wantState(t, a, "walks", "issued")
	})

	for _, endpoint := range []string{"macs", "signed"} {
		t.Run("the same ir at both at once, "+endpoint, func(t *testing.T) {
			name := "at-once-" + endpoint
			d := a.cmpDevice(name)
			ir := d.message(d.request(cmpmsg.TypeIR))
			answers := make([][]byte, 12)
			var wg sync.WaitGroup
			for i := range answers {
				own := *d
				own.at([]*instance{a, b}[i%2], endpoint)
				wg.Go(func() {
					var err error
					if answers[i], err = own.decided(ir); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			for i, got := range answers {
				if !bytes.Equal(got, answers[0]) {
					m, _ := cmpmsg.Parse(got)
					t.Fatalf("answer %d is another one: %s %s", i, m.Body.Type(), failure(m))
				}
			}
			if _, err := d.take(answers[0]); err != nil || d.cert == nil {
				t.Fatalf("no certificate: %v", err)
			}
			if n := issued(d.cert.Raw); n != 1 {
				t.Errorf("the CA issued it %d times", n)
			}
			wantState(t, b, name, "unconfirmed")
			d.at(b, endpoint)
			if m, err := d.exchange(d.certConf()); err != nil || m.Body.Type() != cmpmsg.TypePKIConf {
				t.Errorf("%v %s", err, failure(m))
			}
		})
	}

	t.Run("a device's own secret", func(t *testing.T) {
		a.muster("secret", "add", "--endpoint", "macs", "--reference", "dev-1", "--device", "one", "--secret-file", secretFile(t, deviceSecret))
		d := b.cmpDevice("sealed")
		d.at(b, "macs")
		d.ref, d.secret = "dev-1", []byte(deviceSecret)
		if err := d.enroll(); err != nil {
			t.Fatal(err)
		}
		if tr := wantState(t, b, "sealed", "issued"); tr.Device != "one" {
			t.Errorf("%+v", tr)
		}
		d.at(b, "signed") // which takes no secrets of devices
		d.tid, d.peer, d.cert = random(16), nil, nil
		if err := d.enroll(); err == nil || !strings.Contains(err.Error(), "badMessageCheck") {
			t.Errorf("at another endpoint: %v", err)
		}
	})

	t.Run("one dies between ir and certConf", func(t *testing.T) {
		d, silent := a.cmpDevice("survives"), a.cmpDevice("silent")
		d.at(a, "macs")
		silent.at(a, "hasty")
		for _, x := range []*cmpDevice{d, silent} {
			if m, err := x.exchange(x.request(cmpmsg.TypeIR)); err != nil || x.cert == nil {
				t.Fatalf("%v %s", err, failure(m))
			}
		}
		a.cmd.Process.Kill() //nolint:errcheck // as a power cut would
		<-a.exited
		d.at(b, "macs")
		if m, err := d.exchange(d.certConf()); err != nil || m.Body.Type() != cmpmsg.TypePKIConf {
			t.Errorf("%v %s", err, failure(m))
		}
		wantState(t, b, "survives", "issued")
		// Nobody confirms the other one: the replica that is left revokes it.
		var tr admin.Transaction
		for range 100 {
			if tr = b.transactions("silent")[0]; tr.Certificate != nil && tr.Certificate.RevokedAt != nil {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		if tr.State != "rejected" || tr.Certificate == nil || tr.Certificate.RevokedAt == nil {
			t.Fatalf("%+v", tr)
		}
		silent.at(b, "hasty")
		if m, err := silent.exchange(silent.certConf()); err != nil || failure(m) != "certRevoked" {
			t.Errorf("a late certConf: %v %s", err, failure(m))
		}
	})

	// No secret is told by what they wrote and tell.
	told := []string{a.stderr.String(), b.stderr.String(), b.muster("ls", "--json", "--limit", "1000"), b.muster("secret", "ls", "--json")}
	for _, tr := range b.transactions("") {
		told = append(told, b.muster("explain", "--json", tr.ID), b.muster("explain", tr.ID))
	}
	for _, secret := range []string{factorySecret, deviceSecret} {
		for _, form := range []string{secret, hex.EncodeToString([]byte(secret)), base64.StdEncoding.EncodeToString([]byte(secret))} {
			if i := slices.IndexFunc(told, func(s string) bool { return strings.Contains(s, form) }); i >= 0 {
				t.Errorf("a secret stands in\n%s", told[i])
			}
		}
	}
}
