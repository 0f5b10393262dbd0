package e2e

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway/admin"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// Secrets of every kind; the webhook's service is one that nobody runs.
const secretsConfig = onLocalCA + `admin: {address: 127.0.0.1:0, tokens: tokens}
profiles:
  device: {backend: local, validity: 90d}
  mobile: {backend: local, issuer: rsa, validity: 90d, key-usage: [digitalSignature, keyEncipherment]}
endpoints:
  est:
    protocol: est
    listeners: [https]
    default: true
    profile: device
    est: {http-auth: [basic, digest]}
    enroll: [password: {file: users}, names: {san: {dns: {}}}]
  keys:
    protocol: est
    listeners: [https]
    profile: device
    enroll: [password: {file: users}, names: {san: {dns: {}}}, keys: {generate: [P-256], wrapping: {keys: {kek: {file: kek}}}}]
  asked:
    protocol: est
    listeners: [https]
    profile: device
    enroll: [password: {file: users}, webhook: {url: "https://127.0.0.1:1/decide", secret-file: signing, token-file: bearer, retries: 0}, names: {san: {dns: {}}}]
  cmp:
    protocol: cmp
    listeners: [http]
    default: true
    profile: device
    enroll: [shared-secret: {secrets: {factory: {file: mac}}, devices: true}, names: {san: {dns: {}}}]
  scep:
    protocol: scep
    listeners: [http]
    default: true
    profile: mobile
    enroll: [challenge: {file: challenges, issued: true}, names: {san: {dns: {}}}]
`

// secrets are what must not be found where it does not belong, by name.
type secrets map[string]string

func (s secrets) made(name string) string {
	s[name] = hex.EncodeToString(random(16))
	return s[name]
}

// in looks for each of them in a text: as it is, in base64, in hexadecimal, and as part of a URL.
func (s secrets) in(t *testing.T, where, text string) {
	t.Helper()
	for name, secret := range s {
		for _, form := range []string{secret, base64.StdEncoding.EncodeToString([]byte(secret)), hex.EncodeToString([]byte(secret))} {
			if strings.Contains(text, form) {
				t.Errorf("%s: the %s stands there", where, name)
			}
		}
	}
}

// CONFORMANCE, secrets: a gateway that has one of every kind, with a log of everything, whose requests succeed and fail in every
// protocol, whose configuration is reloaded and refused, tells none of them: in no log and error, to no command and process, and in
// no file but the one that the operator, or the gateway for itself, keeps it in.
func TestSecretsStayWhereTheyAre(t *testing.T) {
	t.Parallel()
	s := secrets{}
	users := "anna:{sha256}" + sha256Hex(s.made("EST password")) + "\ndigested:" + digestForm(t, "digested", "est", s.made("Digest password")) + "\n"
	kek := s.made("key-encryption key")
	g := configured(t, secretsConfig, "users", users, "kek", kek+"\n", "mac", s.made("CMP secret")+"\n", "signing", s.made("webhook's signing secret")+"\n",
		"bearer", s.made("webhook's token")+"\n", "challenges", heldSecret(t, s.made("SCEP challenge")), "tokens", "ci:viewer:{sha256}"+sha256Hex(s.made("admin token"))+"\n",
		"seal.key", base64.StdEncoding.EncodeToString([]byte(strings.Repeat("\x07", 32)))+"\n")
	g.stop()
	// Whoever starts it may let everybody read everything, and give it an environment that is none of its plugins' business.
	password := s.made("database password")
	start := func() {
		cmd := exec.Command("sh", "-c", `umask 000; ulimit -c unlimited 2>/dev/null || true; exec "$@"`, "sh", binary, "serve", "--log-level", "debug",
			"--config", filepath.Join(g.dir, "gateway.yaml"), "--data", g.dir)
		cmd.Env = append(os.Environ(), "PGPASSWORD="+password, "SOMEBODYS_TOKEN="+password)
		g.start(cmd)
		g.env["MUSTER_HTTP"], g.env["MUSTER_HTTPS"] = "http://"+g.listening("http"), "https://"+g.listening("https")
	}
	start()
	s["device's CMP secret"] = strings.TrimSpace(g.muster("secret", "add", "--endpoint", "cmp", "--reference", "SN-1", "--device", "bts-1"))
	s["issued challenge"] = strings.TrimSpace(g.muster("challenge", "new", "--endpoint", "scep", "--subject", "CN=secret-scep"))
	if i := strings.LastIndexAny(s["device's CMP secret"], " \n"); i >= 0 {
		s["device's CMP secret"] = s["device's CMP secret"][i+1:]
	}
	if len(s["device's CMP secret"]) < 16 || len(s["issued challenge"]) < 16 {
		t.Fatalf("%q, %q", s["device's CMP secret"], s["issued challenge"])
	}

	// Each protocol, right and wrong; what is wrong is most often somebody's right secret at another place.
	for _, password := range []string{s["EST password"], s.made("wrong EST password")} {
		for _, endpoint := range []string{"", "asked/", "keys/"} {
			if _, err := g.post(t.Context(), g.client(nil), endpoint+"simpleenroll", "anna", password, "application/pkcs10", []byte(toBase64(newDevice(t, "secret-est").csr))); err != nil {
				t.Fatal(err)
			}
		}
		digested := strings.Replace(password, s["EST password"], s["Digest password"], 1)
		g.run(g.dir, "curl", "-sS", "--cacert", g.env["MUSTER_CA"], "--digest", "-u", "digested:"+digested, "-H", "Content-Type: application/pkcs10",
			"--data", toBase64(newDevice(t, "secret-digest").csr), g.env["MUSTER_HTTPS"]+"/.well-known/est/simpleenroll")
	}
	for _, c := range []struct{ ref, secret string }{
		{"factory", s["CMP secret"]}, {"SN-1", s["device's CMP secret"]}, {"factory", s.made("wrong CMP secret")}, {"nobody", s["CMP secret"]},
	} {
		d := g.cmpDevice("secret-cmp")
		d.ref, d.secret = c.ref, []byte(c.secret)
		if _, err := d.post(d.message(d.request(cmpmsg.TypeIR))); err != nil {
			t.Fatal(err)
		}
	}
	d := g.scepDevice()
	for _, challenge := range []string{s["SCEP challenge"], s["issued challenge"], s["issued challenge"], s.made("wrong challenge")} {
		d.ask(scepWish{name: "secret-scep", challenge: challenge})
	}
	for _, name := range []string{"secret-est", "secret-digest", "secret-cmp", "secret-scep"} {
		if len(g.ledger(name)) == 0 {
			t.Errorf("%s has no certificate: nothing of it succeeded", name)
		}
	}

	// Secrets where the configuration has something else, at a reload and at a check.
	good := g.config()
	for _, wrong := range [][2]string{
		{"store: sqlite:muster.db", "store: postgres://muster:" + password + "@127.0.0.1:1/muster"},
		{"store: sqlite:muster.db", "store: 'postgres://muster:" + password + "@127.0.0.1:port/%zz'"},
		{"store: sqlite:muster.db", "store: 'mysql://muster:" + password + "@127.0.0.1/m'"},
		{"config: {dir: ca}", "config: {dir: ca, pin: '" + password + "'}"},
		{"config: {dir: ca}", "config: {dir: ca, issuers: '" + password + "'}"},
		{"{file: mac}", password}, {"{file: mac}", "{secret: " + password + "}"},
		{"password: {file: users}", "password: {users: {anna: " + password + "}}"},
		{"challenge: {file: challenges", "challenge: {secrets: {a: " + password + "}"},
		{"https://127.0.0.1:1/", "https://user:" + password + "@127.0.0.1:1/"},
		{"secret-file: signing", "secret: " + password}, {"tokens: tokens", "tokens: [" + password + "]"}, {"tokens: tokens", "tokens: {a: \"" + password},
	} {
		changed := strings.Replace(good, wrong[0], wrong[1], 1)
		if changed == good {
			t.Fatalf("no %q", wrong[0])
		}
		g.put("gateway.yaml", changed)
		for _, args := range [][]string{{"reload", "--data", g.dir}, {"config", "check", filepath.Join(g.dir, "gateway.yaml")}, {"pipeline", "show", filepath.Join(g.dir, "gateway.yaml")}} {
			out, code := g.run(g.dir, binary, args...)
			s.in(t, fmt.Sprintf("muster %s with %s", args[0], strings.ReplaceAll(wrong[1], password, "SECRET")), out)
			if args[0] == "reload" && code == 0 {
				t.Errorf("%s is good", strings.ReplaceAll(wrong[1], password, "SECRET"))
			}
		}
	}
	for _, wrong := range []struct{ file, text string }{
		{"users", "anna:" + password + "\n"}, {"challenges", "a:" + password + "\n"}, {"tokens", "ci:viewer:" + password + "\n"}, {"kek", password + "no key\n"}, {"seal.key", password + "\n"},
	} {
		was := string(fileOf(t, g.dir, wrong.file))
		g.put("gateway.yaml", good)
		g.put(wrong.file, wrong.text)
		out, _ := g.run(g.dir, binary, "reload", "--data", g.dir)
		s.in(t, "muster reload with a wrong "+wrong.file, out)
		g.put(wrong.file, was)
	}
	g.put("gateway.yaml", good)
	g.muster("reload")

	// What the commands show, and the processes.
	for _, args := range [][]string{
		{"ls", "--json", "--limit", "1000"}, {"ls", "certificates", "--json"}, {"secret", "ls"}, {"secret", "ls", "--json"}, {"challenge", "ls", "--json"}, {"device", "ls", "--json"},
		{"explain", "--last"}, {"pending"}, {"ca", "ls"}, {"audit", "export"},
	} {
		out, _ := g.run(g.dir, binary, append(args, "--data", g.dir)...)
		s.in(t, "muster "+strings.Join(args, " "), out)
	}
	for _, tr := range listing[admin.Transaction](g) {
		s.in(t, "muster explain", g.muster("explain", tr.ID))
	}
	for name, pid := range map[string]int{"gateway": g.cmd.Process.Pid, "plugin": g.plugin()} {
		proc := "/proc/" + strconv.Itoa(pid)
		s.in(t, "command line of the "+name, string(fileOf(t, proc, "cmdline")))
		if environ := string(fileOf(t, proc, "environ")); name == "plugin" {
			s.in(t, "environment of the plugin", environ)
		}
		if limits := string(fileOf(t, proc, "limits")); !limitIsZero(limits) {
			t.Errorf("the %s may dump core:\n%s", name, limits)
		}
	}

	g.stop()
	s.in(t, "log", g.stderr.String())
	s.in(t, "standard output", g.stdout.String())
	if log := g.stderr.String(); !strings.Contains(log, "level=DEBUG") && !strings.Contains(log, "level=INFO") {
		t.Errorf("no log:\n%s", log)
	}
	own := map[string]bool{"kek": true, "mac": true, "signing": true, "bearer": true} // the operator's, where each stands in clear
	public := map[string]bool{"roots.pem": true, "audit.pub": true}
	err := filepath.WalkDir(g.dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(g.dir, path)
		if info.Mode().Perm()&0o077 != 0 && !public[filepath.Base(name)] {
			t.Errorf("%s has mode %o", name, info.Mode().Perm())
		}
		if info.Mode().IsRegular() && !own[name] {
			s.in(t, name, string(fileOf(t, g.dir, name)))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func limitIsZero(limits string) bool {
	for line := range strings.Lines(limits) {
		if rest, ok := strings.CutPrefix(line, "Max core file size"); ok {
			return strings.HasPrefix(strings.Join(strings.Fields(rest), " "), "0 0")
		}
	}
	return false
}

// The memory and the environment of gateway and plugin are not there for the other processes of their user: what belongs to a process in
// /proc is root's then.
func TestSecretsOfProcesses(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "muster-processes-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	g := &instance{t: t, dir: filepath.Join(dir, "data"), http: "127.0.0.1:0", https: "127.0.0.1:0"}
	program := filepath.Join(dir, "muster")
	data, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, data, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "serve", "--data", g.dir, "--http", g.http, "--https", g.https)
	cmd.Dir = dir
	uid := os.Getuid()
	if uid == 0 { // as root everything is root's anyway
		uid = 65534
		for path, mode := range map[string]os.FileMode{dir: 0o755, program: 0o755} {
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Mkdir(g.dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(g.dir, uid, uid); err != nil {
			t.Fatal(err)
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	}
	cmd.Env = append(os.Environ(), "HOME="+dir, "TMPDIR="+g.dir)
	g.start(cmd)
	t.Cleanup(g.stop)
	if err := g.ready(); err != nil {
		t.Fatalf("%v\n%s", err, g.stderr)
	}
	g.mustEnroll(newDevice(t, "processes"))
	for name, pid := range map[string]int{"gateway": g.cmd.Process.Pid, "plugin": g.plugin()} {
		info, err := os.Stat(fmt.Sprintf("/proc/%d/environ", pid))
		if err != nil {
			t.Fatal(err)
		}
		if owner := info.Sys().(*syscall.Stat_t).Uid; owner != 0 {
			t.Errorf("the %s's environment and memory are user %d's", name, owner)
		}
	}
}

// Files with secrets that others may read are refused, by name; so is the configuration where it has a password in it.
func TestSecretsOthersMayRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	put := func(name, text string, mode os.FileMode) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	put("tls.pem", serverPEM(t, "gateway.example", -time.Hour, time.Hour), 0o600)
	put("mac", "a secret of the factory\n", 0o600)
	const endpoint = "profiles: {device: {backend: local, validity: 90d}}\nendpoints:\n  cmp: {protocol: cmp, listeners: [http], profile: device, enroll: [shared-secret: {secrets: {factory: {file: mac}}}, names: {}]}\n"
	good := strings.Replace(onLocalCA, "tls: {}", "tls: {cert: tls.pem, key: tls.pem}", 1) + endpoint
	check := func(config string, mode os.FileMode, says string) {
		t.Helper()
		put("gateway.yaml", config, mode)
		out, err := exec.Command(binary, "config", "check", filepath.Join(dir, "gateway.yaml")).CombinedOutput()
		if (err == nil) != (says == "") || !strings.Contains(string(out), says) {
			t.Errorf("want %q: %v, %s", says, err, out)
		}
	}
	check(good, 0o644, "")
	for _, name := range []string{"tls.pem", "mac"} {
		if err := os.Chmod(filepath.Join(dir, name), 0o644); err != nil {
			t.Fatal(err)
		}
		check(good, 0o600, name+" has mode 0644: others may not have access to a secret")
		if err := os.Chmod(filepath.Join(dir, name), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	check(good, 0o600, "")
	withPassword := strings.NewReplacer("sqlite:muster.db", "postgres://muster:secret-of-the-store@db.example/muster",
		"plugin: local, config: {dir: ca}", "plugin: /opt/ca-plugin, sha256: "+strings.Repeat("0a", 32)).Replace(good)
	check(withPassword, 0o644, "gateway.yaml has mode 0644, and the store's password in it")
}
