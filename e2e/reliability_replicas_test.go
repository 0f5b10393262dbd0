package e2e

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	x509pkix "crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway/admin"
	"github.com/muster-pki/muster/gateway/store/storetest/pgtest"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// What is counted over replicas: one-time challenges, enrollments of a device, a number per time.
const countedConfig = `version: 1
listeners:
  http: {address: 127.0.0.1:0}
  https: {address: 127.0.0.1:0, tls: {}}
store: %q
backends:
  memory: {plugin: ../memoryca, sha256: %s, config: {journal: %s}}
  rsa: {plugin: ../rsaca, sha256: %s, config: {dir: %s}}
server-certificate: {backend: memory}
profiles:
  device: {backend: memory, validity: 30d, key-usage: [digitalSignature], ext-key-usage: [clientAuth]}
  mobile: {backend: rsa, validity: 30d, key-usage: [digitalSignature, keyEncipherment], ext-key-usage: [clientAuth]}
endpoints:
  phones:
    protocol: scep
    listeners: [http]
    default: true
    profile: mobile
    ra: {cert: ../scep-ra.pem, key: ../scep-ra.pem}
    enroll:
      - challenge: {issued: true}
      - names: {}
  devices:
    protocol: est
    listeners: [https]
    default: true
    profile: device
    enroll:
      - password: {users: {factory: "{sha256}%s"}}
      - inventory: {by: [subject.CN], enrollments: 1}
      - names: {device: subject.CN, san: {dns: {}}}
  quota:
    protocol: cmp
    listeners: [http]
    default: true
    profile: device
    ra: {cert: ../ra.pem, key: ../ra.pem}
    enroll:
      - shared-secret: {secrets: {factory: {file: ../factory.secret}}}
      - names: {}
      - limits: {endpoint: {issued: %d, per: 24h}}
`

const estPassword = "0123456789abcdef0123456789abcdef"

// countingReplicas starts two replicas that share what replicas share; quota is how many the CMP endpoint issues.
func countingReplicas(t *testing.T, quota int) (replicas []*instance, journals []string, rsaDir string) {
	t.Helper()
	cluster := pgtest.Start(t, pgtest.Volatile)
	return countingReplicasAt(t, cluster.DSN(cluster.NewDatabase(t)), quota)
}

// countingReplicasAt is countingReplicas over a database that there is.
func countingReplicasAt(t *testing.T, dsn string, quota int) (replicas []*instance, journals []string, rsaDir string) {
	t.Helper()
	dir := t.TempDir()
	rsaDir = filepath.Join(dir, "rsa")
	if err := os.Mkdir(rsaDir, 0o700); err != nil {
		t.Fatal(err)
	}
	rsaSum := buildPlugin(t, "rsaca", filepath.Join(dir, "rsaca"))
	for name, content := range map[string][]byte{"ra.pem": raPEM(t), "scep-ra.pem": scepRAPEM(t), "factory.secret": []byte(factorySecret)} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	secret := sha256.Sum256([]byte(estPassword))
	replicas, journals = startReplicasAt(t, dsn, "memoryca", dir, func(dsn, _, sum, journal string) string {
		return fmt.Sprintf(countedConfig, dsn, sum, journal, rsaSum, rsaDir, hex.EncodeToString(secret[:]), quota)
	}, countedEnv(t))
	return replicas, journals, rsaDir
}

func countedEnv(t *testing.T) func(g *instance) map[string]string {
	return func(g *instance) map[string]string {
		return map[string]string{
			"MUSTER_HTTP": "http://" + g.listening("http"), "MUSTER_HTTPS": "https://" + g.listening("https"), "MUSTER_CA": memoryRoot(t, g.dir),
			"MUSTER_EST_USER": "factory", "MUSTER_EST_PASSWORD": estPassword, "MUSTER_CMP_REF": "factory", "MUSTER_CMP_SECRET": factorySecret,
		}
	}
}

// challenged has the clients of SCEP ask with one challenge, which is good so many times.
func challenged(t *testing.T, replicas []*instance, uses int) {
	t.Helper()
	c, err := replicas[0].admin().NewChallenge(t.Context(), admin.NewChallenge{Endpoint: "phones", Uses: int64(uses), NotAfter: new(time.Now().Add(time.Hour))})
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range replicas {
		g.env["MUSTER_SCEP_CHALLENGE"] = c.Challenge
	}
}

// scepRAPEM is an RA certificate of SCEP with its key.
func scepRAPEM(t *testing.T) []byte {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ra := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: x509pkix.Name{CommonName: "SCEP RA of both"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
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

// admin is a gateway's admin API, without a process for each call.
func (g *instance) admin() *admin.Client { return admin.NewClient(filepath.Join(g.dir, "admin.sock")) }

// inJournals counts what the memory CA issued for common names with the prefix, by common name.
func inJournals(t *testing.T, journals []string, prefix string) map[string]int {
	t.Helper()
	var all [][]byte
	for _, j := range journals {
		ids, err := backendtest.Journal(j)
		if err != nil {
			t.Fatal(err)
		}
		for _, certs := range ids {
			all = append(all, certs...)
		}
	}
	return byCommonName(t, all, prefix)
}

// inFolder counts what the RSA CA issued.
func inFolder(t *testing.T, dir, prefix string) map[string]int {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.issued"))
	if err != nil {
		t.Fatal(err)
	}
	var all [][]byte
	for _, f := range files {
		der, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, der)
	}
	return byCommonName(t, all, prefix)
}

func byCommonName(t *testing.T, certs [][]byte, prefix string) map[string]int {
	t.Helper()
	n := map[string]int{}
	for _, der := range certs {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(c.Subject.CommonName, prefix) {
			n[c.Subject.CommonName]++
		}
	}
	return n
}

// inStore counts the certificates that stand in the store for common names with the prefix, by common name.
func (g *instance) inStore(prefix string) map[string]int {
	g.t.Helper()
	n := map[string]int{}
	for before := ""; ; {
		page, err := g.admin().Certificates(g.t.Context(), admin.CertificateQuery{Before: before, Limit: 500})
		if err != nil {
			g.t.Fatal(err)
		}
		for _, c := range page.Certificates {
			if cn := named(c.Subject); strings.HasPrefix(cn, prefix) {
				n[cn]++
			}
		}
		if before = page.Next; before == "" {
			return n
		}
	}
}

// named is the common name in a subject as it is printed.
func named(subject string) string {
	_, cn, _ := strings.Cut(subject, "CN=")
	cn, _, _ = strings.Cut(cn, ",")
	return cn
}

// won is what the clients of a race got: per thing that is good for one, the certificates.
type won struct {
	sync.Mutex
	of map[string]map[string]bool // thing -> certificate (DER)
}

func (w *won) add(thing string, c *x509.Certificate) {
	w.Lock()
	defer w.Unlock()
	if w.of == nil {
		w.of = map[string]map[string]bool{}
	}
	if w.of[thing] == nil {
		w.of[thing] = map[string]bool{}
	}
	w.of[thing][string(c.Raw)] = true
}

// judge holds clients, CA and store against each other: one certificate for each of want things, and of each thing one.
func (w *won) judge(t *testing.T, what, prefix string, want int, g *instance, ca map[string]int, worst string) {
	t.Helper()
	store := g.inStore(prefix)
	sum := func(m map[string]int) (n int) {
		for _, k := range m {
			n += k
		}
		return n
	}
	got, twice := 0, 0
	for thing, certs := range w.of {
		got += len(certs)
		if len(certs) > 1 {
			twice += len(certs) - 1
			t.Errorf("%s: %s gave %d certificates", what, thing, len(certs))
		}
	}
	twice += max(0, sum(ca)-want)
	lost := max(0, want-got, want-sum(ca), want-sum(store))
	if got != want || sum(ca) != want || sum(store) != want {
		t.Errorf("%s: clients have %d certificates, the CA issued %d, the store has %d; want %d", what, got, sum(ca), sum(store), want)
	}
	found(finding{test: what, n: want, lost: lost, twice: twice, worst: worst})
}

// slowest is the longest of times taken at once.
type slowest struct{ atomic.Int64 }

// String is the longest, in the table's words.
func (s *slowest) String() string {
	return fmt.Sprintf("answer after %s", time.Duration(s.Load()).Round(time.Millisecond))
}

func (s *slowest) since(begun time.Time) {
	took := int64(time.Since(begun))
	for {
		have := s.Load()
		if took <= have || s.CompareAndSwap(have, took) {
			return
		}
	}
}

// contenders is how many clients want the same thing.
const contenders = 8

// contend runs all clients in parallel, in groups: those of a group go through the group's things together, all of them at the same one at the
// same time.
func contend(clients, things int, ask func(client, thing int)) {
	groups := max(1, clients/contenders)
	var all sync.WaitGroup
	for group := range groups {
		all.Go(func() {
			for thing := group; thing < things; thing += groups {
				var wg sync.WaitGroup
				for client := group * contenders; client < min(clients, (group+1)*contenders); client++ {
					wg.Go(func() { ask(client, thing) })
				}
				wg.Wait()
			}
		})
	}
	all.Wait()
}

// TestReliabilityReplicas: what is good once, or so many times, is so over replicas. Clients with keys of their own offer the same challenge,
// the same device's name, and a quota that is too small for all of them, to both replicas at once.
func TestReliabilityReplicas(t *testing.T) {
	if !long {
		t.Parallel()
	}
	clients, challenges, devices, quota := scaled(8, 64), scaled(20, 500), scaled(10, 200), scaled(10, 300)
	replicas, journals, rsaDir := countingReplicas(t, quota)
	t.Run("one-time challenges over SCEP", func(t *testing.T) { raceForChallenges(t, replicas, rsaDir, clients, challenges) })
	t.Run("one enrollment of a device over EST", func(t *testing.T) { raceForDevices(t, replicas, journals, clients, devices) })
	t.Run("a number per time over CMP", func(t *testing.T) { raceForQuota(t, replicas, journals, clients, quota) })
	for _, g := range replicas {
		g.stop()
	}
}

func raceForChallenges(t *testing.T, replicas []*instance, rsaDir string, clients, challenges int) {
	texts := make([]string, challenges)
	for i := range texts {
		c, err := replicas[i%2].admin().NewChallenge(t.Context(), admin.NewChallenge{Endpoint: "phones", Uses: 1, NotAfter: new(time.Now().Add(time.Hour))})
		if err != nil {
			t.Fatal(err)
		}
		texts[i] = c.Challenge
	}
	devices := make([]*scepDevice, clients)
	var wg sync.WaitGroup
	for i := range devices {
		wg.Go(func() { devices[i] = replicas[i%2].scepDevice() })
	}
	wg.Wait()
	got, worst := &won{}, &slowest{}
	begun := time.Now()
	contend(clients, challenges, func(client, i int) {
		d := devices[client]
		m := d.message(scepWish{name: fmt.Sprintf("phone-%d-%d", i, client), challenge: texts[i]})
		for range 200 {
			asked := time.Now()
			a, err := d.send(m)
			worst.since(asked)
			switch {
			case err != nil:
				t.Errorf("challenge %d, client %d: %v", i, client, err)
				return
			case a.cert != nil:
				got.add(texts[i], a.cert)
				return
			case a.status == "2":
				return
			case a.status != "3" && a.http != http.StatusServiceUnavailable:
				t.Errorf("challenge %d, client %d: %v", i, client, a)
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Errorf("challenge %d, client %d: pending all the time", i, client)
	})
	t.Logf("%d offers of %d challenges in %s", contenders*challenges, challenges, time.Since(begun).Round(time.Millisecond))
	got.judge(t, fmt.Sprintf("one-time challenges, %d clients, 2 replicas", clients), "phone-", challenges, replicas[0], inFolder(t, rsaDir, "phone-"), worst.String())
}

func raceForDevices(t *testing.T, replicas []*instance, journals []string, clients, devices int) {
	inventory := make([]admin.Device, devices)
	for i := range inventory {
		inventory[i] = admin.Device{Name: fmt.Sprintf("unit-%d", i)}
	}
	if _, err := replicas[0].admin().ImportDevices(t.Context(), inventory, false, func(int, int) {}); err != nil {
		t.Fatal(err)
	}
	conns := make([]*http.Client, clients)
	for i := range conns {
		conns[i] = replicas[i%2].client(nil)
	}
	got, worst := &won{}, &slowest{}
	contend(clients, devices, func(client, i int) {
		g, name := replicas[client%2], inventory[i].Name
		d := newDevice(t, name)
		for range 200 {
			asked := time.Now()
			a, err := g.enroll(t.Context(), conns[client], d)
			worst.since(asked)
			switch {
			case err != nil:
				t.Errorf("%s, client %d: %v", name, client, err)
				return
			case a.cert != nil:
				got.add(name, a.cert)
				return
			case a.status == http.StatusForbidden:
				return
			case a.status != http.StatusAccepted && a.status != http.StatusServiceUnavailable:
				t.Errorf("%s, client %d: %d %s", name, client, a.status, a.body)
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Errorf("%s, client %d: pending all the time", name, client)
	})
	got.judge(t, fmt.Sprintf("one enrollment per device, %d clients, 2 replicas", clients), "unit-", devices, replicas[1], inJournals(t, journals, "unit-"), worst.String())
}

// raceForQuota asks for twice as many certificates as there may be.
func raceForQuota(t *testing.T, replicas []*instance, journals []string, clients, quota int) {
	got, worst := &won{}, &slowest{}
	contend(clients, (2*quota+contenders-1)/contenders, func(client, i int) {
		g := replicas[client%2]
		d := g.cmpDevice(fmt.Sprintf("meter-%d-%d", i, client))
		d.http = sharedCMP
		asked := time.Now()
		m, err := d.exchange(d.request(cmpmsg.TypeIR))
		worst.since(asked)
		if err == nil && d.cert == nil && failure(m) != "" {
			return // refused: the number is used up
		}
		if err == nil && d.cert == nil {
			err = fmt.Errorf("answered %s", m.Body.Type())
		}
		if err == nil {
			got.add(string(d.subject), d.cert)
			m, err = d.exchange(d.certConf())
		}
		if err != nil || m.Body.Type() != cmpmsg.TypePKIConf {
			t.Errorf("meter-%d-%d: %v", i, client, err)
		}
	})
	got.judge(t, fmt.Sprintf("a number per time, %d clients, 2 replicas", clients), "meter-", quota, replicas[0], inJournals(t, journals, "meter-"), worst.String())
}

// sharedCMP keeps connections for all devices of a race.
var sharedCMP = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}}}
