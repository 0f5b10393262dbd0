package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

const pacedEndpoints = `profiles:
  device: {backend: local, validity: 30d}
  mobile: {backend: local, issuer: rsa, validity: 30d, key-usage: [digitalSignature, keyEncipherment]}
endpoints:
  est:
    protocol: est
    listeners: [https]
    default: true
    profile: device
    enroll:
      - password: {users: {factory: "{sha256}%[1]s"}}
      - names: {}
    renew:
      - own-certificate: {}
  cmp:
    protocol: cmp
    listeners: [http]
    default: true
    profile: device
    enroll:
      - shared-secret: {secrets: {factory: {file: factory.secret}}}
      - names: {}
  scep:
    protocol: scep
    listeners: [http]
    default: true
    profile: mobile
    enroll:
      - challenge: {secrets: {factory: "{sha256}%[1]s"}}
      - names: {}
`

const pacedSecret = "0123456789abcdef0123456789abcdef"

var retryAfter = regexp.MustCompile(`(?mi)^retry-after: ([0-9]+)\s*$`)

// retryIn is what a header says.
func retryIn(t *testing.T, header string) time.Duration {
	t.Helper()
	m := retryAfter.FindStringSubmatch(header)
	if m == nil {
		t.Fatalf("no Retry-After in:\n%s", header)
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(n) * time.Second
}

// A CA that may be asked three times a day: the first client of each protocol has its certificate, and so has the gateway its own;
// the second ones are told when to come back, each in its protocol's way, and nothing of them is recorded.
func TestPaced(t *testing.T) {
	t.Parallel()
	config := strings.Replace(onLocalCA, "dir: ca}}", "dir: ca}, rate: {issued: 1, per: 1d, burst: 3}}", 1) + fmt.Sprintf(pacedEndpoints, sha256Hex(pacedSecret))
	g := configured(t, config, "factory.secret", pacedSecret)
	g.env["MUSTER_CMP_REF"], g.env["MUSTER_CMP_SECRET"] = "factory", pacedSecret
	dir := t.TempDir()
	g.sh(dir, `echo '`+pacedSecret+`' > password
		for n in one two; do `+ecKey+`$n.key; openssl req -new -key $n.key -subj /CN=$n -outform DER | openssl base64 -A > $n.b64; done`)
	est := func(name string) string {
		t.Helper()
		return g.sh(dir, `curl -sS --cacert "$MUSTER_CA" -u "factory:$(cat password)" -H 'Content-Type: application/pkcs10' --data-binary @`+name+`.b64 \
			-D - -o `+name+`.out "$MUSTER_HTTPS/.well-known/est/simpleenroll"; cat `+name+`.out`)
	}
	const cmp = cmpCommand + ecKey + `cmp.key; cmp -cmd ir` + cmpSecret + ` -newkey cmp.key -certout cmp.pem -subject /CN=`
	scep := g.scepDevice()

	if got := est("one"); !strings.Contains(got, "200 OK") {
		t.Fatal(got)
	}
	g.sh(dir, cmp+`one`)
	if a := scep.ask(scepWish{name: "one", challenge: pacedSecret}); a.cert == nil {
		t.Fatal(a)
	}
	before := len(g.transactions("one"))

	got := est("two")
	if in := retryIn(t, got); !strings.Contains(got, " 503 ") || in < 45*time.Minute || in > time.Hour || !strings.Contains(got, "the CA is busy: come back in ") {
		t.Error(got)
	}
	out, code := g.run(dir, "sh", "-euc", `rm -f cmp.log; `+cmp+`two`)
	if code == 0 || !strings.Contains(out, "systemUnavail") || !strings.Contains(out, "the CA is busy: come back in ") {
		t.Error(out)
	}
	m := scep.message(scepWish{name: "two", challenge: pacedSecret})
	res, err := scep.http.Post(g.env["MUSTER_HTTP"]+scep.path+"?operation=PKIOperation", "application/x-pki-message", strings.NewReader(string(m.der)))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if n, err := strconv.Atoi(res.Header.Get("Retry-After")); res.StatusCode != http.StatusServiceUnavailable || err != nil || n < 2700 || n > 3600 {
		t.Errorf("%s, %v", res.Status, res.Header)
	}
	if rows := g.transactions("two"); len(rows) != 0 || len(g.transactions("one")) != before || len(g.ledger("two")) != 0 {
		t.Errorf("%+v", rows)
	}
	// Whoever asks for what is there gets it, and the operator reads why the others did not.
	if got := est("one"); !strings.Contains(got, "200 OK") {
		t.Error(got)
	}
	reference := regexp.MustCompile(`\(reference ([0-9a-z]+)\)`).FindStringSubmatch(est("two"))
	if reference == nil {
		t.Fatal("no reference")
	}
	if told := g.muster("explain", reference[1]); !strings.Contains(told, "the backend local issues 1/d, and 0 requests wait") {
		t.Error(told)
	}
	if log := g.stderr.String() + g.stdout.String(); strings.Count(log, "a CA's rate is reached") != 1 {
		t.Errorf("the log:\n%s", log)
	}
	// A restart gives nobody a turn.
	g.again()
	if got := est("two"); !strings.Contains(got, " 503 ") {
		t.Error(got)
	}
}

// When to renew: what /renewal-info says to a client that names its certificate as the draft has it.
func TestRenewalInfo(t *testing.T) {
	t.Parallel()
	config := onLocalCA + fmt.Sprintf(pacedEndpoints, sha256Hex(pacedSecret))
	g := configured(t, config, "factory.secret", pacedSecret)
	dir := t.TempDir()
	ask := func(path string) (header, body string) {
		t.Helper()
		header = g.sh(dir, `curl -sS --cacert "$MUSTER_CA" -D - -o body "$MUSTER_HTTPS/.well-known/est/`+path+`"`)
		return header, g.sh(dir, `cat body`)
	}
	id := strings.TrimSpace(g.sh(dir, ecKey+`one.key; openssl req -new -key one.key -subj /CN=one -outform DER | openssl base64 -A > one.b64
		curl -sS --cacert "$MUSTER_CA" -u 'factory:`+pacedSecret+`' -H 'Content-Type: application/pkcs10' --data-binary @one.b64 "$MUSTER_HTTPS/.well-known/est/simpleenroll" |
			openssl base64 -d -A | openssl pkcs7 -inform DER -print_certs -out one.pem
		url() { tr -d ': \n' | tr a-f A-F | basenc --base16 -d | basenc --base64url | tr -d '=\n'; }
		aki=$(openssl x509 -in one.pem -noout -ext authorityKeyIdentifier | tail -n 1 | sed 's/keyid://' | url)
		der=$(openssl x509 -in one.pem -noout -serial | sed 's/serial=//')
		case "$der" in [89A-F]*) der=00$der;; esac
		echo "$aki.$(echo "$der" | url)"`))
	header, body := ask("renewal-info/" + id)
	var told struct {
		SuggestedWindow struct{ Start, End time.Time }
	}
	if err := json.Unmarshal([]byte(body), &told); err != nil || !strings.Contains(header, " 200 ") || !strings.Contains(strings.ToLower(header), "content-type: application/json") {
		t.Fatalf("%v\n%s\n%s", err, header, body)
	}
	day := 24 * time.Hour
	w := told.SuggestedWindow
	from, until := time.Now().Add(30*day*66/100-time.Hour), time.Now().Add(30*day*83/100+time.Hour)
	if w.Start.Before(from) || w.End.After(until) || w.End.Sub(w.Start) < day || retryIn(t, header) != 6*time.Hour {
		t.Errorf("%s\n%s", header, body)
	}
	if _, again := ask("est/renewal-info/" + id); again != body {
		t.Errorf("another window: %s", again)
	}
	for path, want := range map[string]string{
		"renewal-info/AAAA.AAAA": " 404 ", "renewal-info/" + id + "A": " 404 ", "renewal-info/nonsense": " 400 ", "renewal-info/": " 400 ", "renewal-info": " 400 ",
		"other/renewal-info/" + id: " 404 ",
	} {
		if header, body := ask(path); !strings.Contains(header, want) {
			t.Errorf("%s: %s%s", path, header, body)
		}
	}
	g.muster("revoke", strings.TrimPrefix(serial(g, dir, "one.pem"), "serial="), "--reason", "superseded")
	if header, body := ask("renewal-info/" + id); !strings.Contains(header, " 404 ") {
		t.Errorf("revoked: %s%s", header, body)
	}
}

// Two gateways over one PostgreSQL have one rate.
func TestPacedReplicas(t *testing.T) {
	replicas, _ := startReplicas(t, t.TempDir(), func(dsn, plugin, sum, journal string) string {
		config := fmt.Sprintf(replicaConfig, dsn, plugin, sum, journal, sha256Hex(pacedSecret))
		return strings.Replace(config, "config: {journal:", "rate: {issued: 1, per: 1d, burst: 3}, config: {journal:", 1)
	}, func(g *instance) map[string]string {
		return map[string]string{
			"MUSTER_HTTPS": "https://" + g.listening("https"), "MUSTER_CA": memoryRoot(t, g.dir),
			"MUSTER_EST_USER": "factory", "MUSTER_EST_PASSWORD": pacedSecret,
		}
	})
	issued, away := 0, 0
	for i := range 10 {
		g := replicas[i%2]
		got, err := g.enroll(t.Context(), g.client(nil), newDevice(t, fmt.Sprintf("paced-%d", i)))
		switch {
		case err != nil:
			t.Fatal(err)
		case got.status == http.StatusOK:
			issued++
		case got.status == http.StatusServiceUnavailable:
			away++
		default:
			t.Errorf("%+v", got)
		}
	}
	if issued != 3 || away != 7 {
		t.Errorf("%d have a certificate, %d were turned away", issued, away)
	}
}
