package e2e

import (
	"crypto/x509"
	"database/sql"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Two endpoints of each protocol that take the same credentials, so that nothing but the message binds it to one of them. CMP takes
// messages of any time: how old one is must not be all that keeps a recorded one out.
const replayConfig = onLocalCA + `profiles:
  device: {backend: local, validity: 90d, keys: [P-256, "RSA>=2048"]}
  mobile: {backend: local, issuer: rsa, validity: 90d, key-usage: [digitalSignature, keyEncipherment]}
endpoints:
  est:
    protocol: est
    listeners: [https]
    default: true
    profile: device
    enroll: [password: {file: users}, names: {san: {dns: {}}}]
    renew: [own-certificate: {}]
  est2:
    protocol: est
    listeners: [https]
    profile: device
    enroll: [password: {file: users}, names: {san: {dns: {}}}]
    renew: [own-certificate: {endpoints: [est, est2]}]
  linked:
    protocol: est
    listeners: [https]
    profile: device
    enroll: [client-certificate: {cas: [vendor.pem]}, keys: {pop: [tls-binding]}, names: {}]
  digest: &digest
    protocol: est
    listeners: [https]
    profile: device
    est: {http-auth: [digest]}
    enroll: [password: {file: digest.users}, names: {san: {dns: {}}}]
    renew: [own-certificate: {}]
  digest2: *digest
  cmp: &cmp
    protocol: cmp
    listeners: [http]
    profile: device
    cmp: {clock-skew: any}
    enroll: [shared-secret: {secrets: {factory: {file: factory.secret}, other: {file: other.secret}}}, names: {san: {dns: {}}}]
    renew: [own-certificate: {endpoints: [cmp, cmp2]}]
    revoke: [own-certificate: {endpoints: [cmp, cmp2]}]
  cmp2: *cmp
  relayed: &relayed
    protocol: cmp
    listeners: [http]
    profile: device
    cmp: {clock-skew: any}
    enroll:
      - ra: {certificates: [lra1.pem, lra2.pem], nested: true}
      - shared-secret: {secrets: {factory: {file: factory.secret}, other: {file: other.secret}}}
      - names: {san: {dns: {}}}
  relayed2: *relayed
  vendor: &vendor
    protocol: cmp
    listeners: [http]
    profile: device
    cmp: {clock-skew: any}
    enroll: [vendor-ca: {cas: [vendor.pem], serial: subject.serialNumber}, inventory: {enrollments: unlimited}, names: {}]
    renew: [own-certificate: {}, inventory: {}]
  vendor2: *vendor
  scep:
    protocol: scep
    listeners: [http]
    default: true
    profile: mobile
    enroll: &challenged [challenge: {file: challenges}, names: {}]
    renew: &own [own-certificate: {endpoints: [scep, scep2]}]
  scep2: {protocol: scep, listeners: [http], profile: mobile, enroll: *challenged, renew: *own}
`

// recorded is a request as it went over the wire, with what its sender got for it.
type recorded struct {
	name, endpoint, other string // other: an endpoint of the same protocol that takes the same credentials
	// send sends the request again, to an endpoint and with the bytes changed, and says what came of it.
	send func(endpoint string, der []byte) string
	der  []byte            // the message, or the CSR
	csr  []byte            // DER of a PKCS#10 request in it, nil for none
	cert *x509.Certificate // nil for none
	// changes are what else is made of it, by name.
	changes map[string]func() string
}

// replays is a gateway with what was recorded before it.
type replays struct {
	*instance
	t         *testing.T
	list      []*recorded
	told      map[string]bool   // serial numbers that somebody was given
	insider   *device           // a device that has a certificate over EST
	stranger  *scepDevice       // one that has one over SCEP
	strangers *x509.Certificate // that one
	n         int
}

// replayed is testdata/replays.txt, which says what it is: the outcomes of each request and change.
func replayed(t *testing.T) map[string][]string {
	t.Helper()
	table := map[string][]string{}
	for line := range strings.Lines(string(fileOf(t, "testdata", "replays.txt"))) {
		if cells := strings.Split(strings.TrimSpace(line), " | "); len(cells) == 6 {
			table[cells[0]+" | "+cells[1]] = cells[2:]
		}
	}
	return table
}

// Requests of every kind, recorded, and sent again: as they were, changed where no protection reaches, to other endpoints and by
// other protocols, by other devices, when they are over, and after a restart. "another" certificate is there only for who authenticates
// himself for it anew, by a password, a secret or a certificate of his own: he may have as much by a request of his own.
func TestReliabilityReplay(t *testing.T) {
	if !long {
		t.Parallel()
	}
	users := "device-1:{sha256}" + sha256Hex("password 1") + "\ndevice-2:{sha256}" + sha256Hex("password 2") + "\n"
	vendor := vendorOf(t)
	_, certify := certifier(t, "RA CA")
	ras := relaysOf(func(name string) *device { return certify(name) })
	var digests string
	for _, user := range []string{"1", "2"} {
		for _, realm := range []string{"digest", "digest2"} {
			digests += "device-" + user + ":" + digestForm(t, "device-"+user, realm, "password "+user) + "\n"
		}
	}
	g := configured(t, replayConfig, "users", users, "digest.users", digests, "seal.key", digestSealKey,
		"lra1.pem", certificatePEM(ras.one.cert), "lra2.pem", certificatePEM(ras.two.cert), "factory.secret", "the secret of device 1\n", "other.secret", "the secret of device 2\n",
		"challenges", heldSecret(t, "the challenge"), "vendor.pem", certificatePEM(vendor.cert))
	g.muster("device", "add", "bts-1", "--serial", "SN-1")
	g.muster("device", "add", "bts-2", "--serial", "SN-2")
	w := &replays{instance: g, t: t, told: map[string]bool{}, insider: newDevice(t, "insider"), stranger: g.scepDevice()}
	w.stranger.path = "/scep/scep"
	a, err := g.post(t.Context(), g.client(nil), "simpleenroll", "device-2", "password 2", "application/pkcs10", []byte(toBase64(w.insider.csr)))
	if err != nil || a.cert == nil {
		t.Fatal(a, err)
	}
	w.insider.cert = a.cert
	b := w.stranger.ask(scepWish{name: "stranger", challenge: "the challenge"})
	if b.cert == nil {
		t.Fatal(b)
	}
	w.strangers = b.cert
	w.recordEST(vendor)
	w.recordDigest()
	w.recordCMP(vendor)
	w.recordNested(ras)
	w.recordSCEP()

	want := replayed(t)
	var twice, own int
	first := w.issued()
	round := func(when string, column int) {
		for _, r := range w.list {
			copies := w.copies(r)
			for _, what := range slices.Sorted(maps.Keys(copies)) {
				outcome := copies[what]()
				w.n++
				row := r.name + " | " + what
				if len(want[row]) <= column || want[row][column] != outcome {
					t.Errorf("%s: %s: %s, want %q", when, row, outcome, want[row])
				}
				if outcome == "another" {
					own++
				}
			}
		}
		// Nothing in the ledger that no answer told of.
		now := w.issued()
		if len(now) != len(first)+own {
			t.Errorf("%s: %d certificates, and %d were recorded or told", when, len(now), len(first)+own)
			twice += len(now) - len(first) - own
		}
	}
	round("at once", 0)
	g.again()
	round("restarted", 1)
	var recorded []string
	for _, r := range w.list {
		if r.cert != nil {
			recorded = append(recorded, fmt.Sprintf("%x", r.cert.SerialNumber))
		}
	}
	slices.Sort(recorded)
	for _, serial := range slices.Compact(recorded) {
		g.muster("revoke", serial, "--reason", "cessationOfOperation")
	}
	g.muster("device", "rm", "bts-1")
	round("revoked, and the device removed", 2)
	w.repeatsOver()
	round("after the time for repeats", 3)
	if long {
		for range 20 {
			w.repeatsOver()
			round("and again", 3)
		}
	}
	if w.n < len(want)*4 {
		t.Errorf("%d requests were sent again, and the table has %d rows", w.n, len(want))
	}
	found(finding{test: "requests recorded and sent again", n: w.n, twice: twice})
}

// repeatsOver ends the time for repeats of all that is answered, while the gateway is down.
func (w *replays) repeatsOver() {
	w.t.Helper()
	w.stop()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(w.dir, "muster.db"))
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := db.ExecContext(w.t.Context(), `UPDATE repeats SET expires = 1 WHERE expires < ?`, math.MaxInt64); err != nil {
		w.t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		w.t.Fatal(err)
	}
	w.again()
}
