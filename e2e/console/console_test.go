//go:build console

package console

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/e2e/running"
)

var binary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "muster-console")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "muster")
		build := exec.Command("sh", ".ci/build", binary) // as it is shipped: templates of that program call no methods
		build.Dir = "../.."
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "%v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

const config = `version: 1
listeners:
  http: {address: 127.0.0.1:0}
  https: {address: HTTPS, tls: {}}
backends:
  local: {plugin: local, config: {dir: ca}}
admin:
  address: ADMIN
  client-ca: operators.pem
  certificates:
    "CN=alice,O=Ops": admin
    "CN=bob,O=Ops": approver
    "CN=victor,O=Ops": viewer
  console: {}
profiles:
  device: {backend: local, validity: 30d}
endpoints:
  office:
    protocol: est
    listeners: [https]
    profile: device
    enroll:
      - password: {users: {anna: "HASH"}}
      - names: {}
      - approval: {approvers: 1}
  factory:
    protocol: est
    listeners: [https]
    default: true
    profile: device
    enroll:
      - password: {users: {anna: "HASH"}}
      - inventory: {by: [subject.CN]}
      - names: {}
`

// site is a gateway with its operators' certificates.
type site struct {
	*running.Gateway
	https, admin string
}

const operators = `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ops.key -out operators.pem -subj /CN=Operators -days 30 2>/dev/null
for who in alice bob victor mallory; do
	openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout $who.key -out $who.csr -subj /O=Ops/CN=$who 2>/dev/null
	printf 'extendedKeyUsage=clientAuth\nkeyUsage=digitalSignature\n' > ext
	openssl x509 -req -in $who.csr -CA operators.pem -CAkey ops.key -CAcreateserial -days 30 -extfile ext -out $who.pem 2>/dev/null
done`

func start(t *testing.T) *site {
	t.Helper()
	s := &site{https: running.Address(t), admin: running.Address(t)}
	cmd := exec.Command(binary, "password")
	cmd.Stdin = strings.NewReader("anna-s-password\n")
	hash, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer("HTTPS", s.https, "ADMIN", s.admin, "HASH", strings.TrimSpace(string(hash))).Replace(config)
	s.Gateway = running.Start(t, binary, nil, text, operators)
	s.Sh("curl -sfk https://" + s.https + "/.well-known/est/factory/cacerts -o /dev/null")
	return s
}

// asks sends an EST request of a device and returns the status. The key is in memory alone: nobody uses the certificate.
func (s *site) asks(endpoint, cn, password string) string {
	s.T.Helper()
	name, err := asn1.Marshal(pkix.RDNSequence{{{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: cn}}})
	if err != nil {
		s.T.Fatal(err)
	}
	file := fmt.Sprintf("%x.p10", cn)
	if _, err := os.Stat(s.File(file)); err != nil { // the same again is the same request
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			s.T.Fatal(err)
		}
		csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{RawSubject: name}, key)
		if err != nil {
			s.T.Fatal(err)
		}
		s.Write(file, base64.StdEncoding.EncodeToString(csr))
	}
	return s.Sh("curl -sk -o /dev/null -w '%{http_code}' -u anna:" + password + " -H 'Content-Type: application/pkcs10' --data-binary @" + file +
		" https://" + s.https + "/.well-known/est/" + endpoint + "/simpleenroll")
}

// hostile is a name that would like to be more than text: markup, a terminal's escape, a turn of the direction of writing, a NUL.
const hostile = "evil<script>document.title='owned'</script><img src=x onerror=alert(1)>\x1b[31mred\u202egnp.exe\x00end"

// browse runs a walk in the browser. Its screenshots go to MUSTER_SHOTS, or nowhere.
func (s *site) browse(walk string, more ...string) string {
	s.T.Helper()
	tools := os.Getenv("MUSTER_CONSOLE")
	if tools == "" {
		s.T.Fatal("MUSTER_CONSOLE is not set: make console")
	}
	shots := os.Getenv("MUSTER_SHOTS")
	if shots == "" {
		shots = s.T.TempDir()
	}
	if err := os.MkdirAll(shots, 0o755); err != nil {
		s.T.Fatal(err)
	}
	here, err := os.Getwd()
	if err != nil {
		s.T.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(s.T.Context(), 8*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", filepath.Join(here, "walks.mjs"), walk)
	cmd.Dir = s.Dir
	cmd.Env = append(append(os.Environ(), "ADMIN=https://"+s.admin, "TOOLS="+tools, "SHOTS="+shots), more...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.T.Fatalf("%s: %v\n%s\n%s", walk, err, out, s.Log)
	}
	return string(out)
}

// events are the audit trail's of a kind.
func (s *site) events(kind string) (all []map[string]any) {
	s.T.Helper()
	for line := range strings.Lines(s.Muster("audit", "export", "--kind", kind, "--config", s.File("gateway.yaml"))) {
		var e struct{ Body map[string]any }
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			s.T.Fatalf("%v: %s", err, line)
		}
		if e.Body["kind"] == kind {
			all = append(all, e.Body)
		}
	}
	return all
}

func (s *site) by(kind, actor string, n int) {
	s.T.Helper()
	all := s.events(kind)
	if len(all) != n {
		s.T.Errorf("%d events %s, want %d: %v", len(all), kind, n, all)
	}
	for _, e := range all {
		if e["actor"] != actor {
			s.T.Errorf("%s is by %v, want %s", kind, e["actor"], actor)
		}
	}
}

func (s *site) is(what, got, want string) {
	s.T.Helper()
	if got != want {
		s.T.Errorf("%s: %s, want %s", what, got, want)
	}
}

// An operator's day: what is held is approved and denied, a device is refused, its inventory imported, its certificate revoked.
func TestDay(t *testing.T) {
	s := start(t)
	s.is("held", s.asks("office", "laptop-1", "anna-s-password"), "202")
	s.is("held", s.asks("office", "laptop-2", "anna-s-password"), "202")
	s.is("unknown device", s.asks("factory", "unit-7", "anna-s-password"), "403")
	s.is("wrong password", s.asks("factory", "unit-8", "a-wrong-one"), "401")
	s.is("hostile name", s.asks("factory", hostile, "anna-s-password"), "403")
	s.Write("units.csv", "name,serial,vendor,attr:site\nunit-7,SN0007,acme,lab\nunit-8,SN0008,acme,lab\nunit-9,SN0009,acme,plant\n")
	s.Write("faulty.csv", "name,serial,mac,enrollments\nunit-1,SN1,nonsense,1\nunit-2,SN1,,many\n")
	s.browse("day")
	s.is("approved", s.asks("office", "laptop-1", "anna-s-password"), "200")
	s.is("denied", s.asks("office", "laptop-2", "anna-s-password"), "403")
	s.by("approved", "cert:CN=alice,O=Ops", 1)
	s.by("denied", "cert:CN=alice,O=Ops", 1)
	s.by("devices-imported", "cert:CN=alice,O=Ops", 1)
	s.is("imported device", s.asks("factory", "unit-7", "anna-s-password"), "200")
	s.browse("revoke")
	s.by("revocation-ordered", "cert:CN=alice,O=Ops", 1)
	var all []struct {
		Revocation string `json:"revocation_reason"`
	}
	if err := json.Unmarshal([]byte(s.Muster("ls", "certificates", "--device", "unit-7", "--json")), &all); err != nil || len(all) != 1 || all[0].Revocation != "keyCompromise" {
		t.Errorf("%v %v", all, err)
	}
	s.browse("looks")
}

// Everything by keyboard alone, by an approver; what takes an administrator is not offered.
func TestKeyboard(t *testing.T) {
	s := start(t)
	s.is("held", s.asks("office", "laptop-1", "anna-s-password"), "202")
	s.browse("keyboard")
	s.by("approved", "cert:CN=bob,O=Ops", 1)
	s.is("approved", s.asks("office", "laptop-1", "anna-s-password"), "200")
}

// Without a script every action goes as well.
func TestWithoutScript(t *testing.T) {
	s := start(t)
	s.is("held", s.asks("office", "laptop-1", "anna-s-password"), "202")
	s.Write("units.csv", "name\nunit-1\n")
	s.browse("plain")
	s.by("approved", "cert:CN=alice,O=Ops", 1)
	s.by("devices-imported", "cert:CN=alice,O=Ops", 1)
}

// Who is nobody here comes nowhere.
func TestStrangers(t *testing.T) {
	s := start(t)
	s.browse("strangers")
}
