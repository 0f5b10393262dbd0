//go:build packaging

package packaging

import (
	"bytes"
	"debug/buildinfo"
	"debug/elf"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
)

var other = map[string]string{"amd64": "arm64", "arm64": "amd64"}

// Equal sources make equal packages, whatever folder they are in and whoever's umask it is.
func TestReproducible(t *testing.T) {
	again := t.TempDir()
	copySources(t, filepath.Join(again, "sources"))
	one, err := os.ReadFile(deb(t, older, runtime.GOARCH))
	if err != nil {
		t.Fatal(err)
	}
	two, err := os.ReadFile(build(t, filepath.Join(again, "sources"), older, runtime.GOARCH, filepath.Join(again, "out")))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one, two) {
		t.Errorf("two builds differ: %d and %d bytes", len(one), len(two))
	}
}

func TestLintian(t *testing.T) {
	out, err := tried(t, "", "lintian", "--allow-root", "--fail-on", "error,warning", "--tag-display-limit", "0", deb(t, older, runtime.GOARCH))
	if err != nil || out != "" {
		t.Errorf("%v\n%s", err, out)
	}
}

// The package for the other architecture is that: nothing in it was made to run here.
func TestOtherArchitecture(t *testing.T) {
	arch := other[runtime.GOARCH]
	path, dir := deb(t, older, arch), t.TempDir()
	if got := strings.TrimSpace(command(t, "", "dpkg-deb", "-f", path, "Architecture")); got != arch {
		t.Error(got)
	}
	command(t, "", "dpkg-deb", "-x", path, dir)
	f, err := elf.Open(filepath.Join(dir, "usr/bin/muster"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if want := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[arch]; f.Machine != want || f.Section(".interp") != nil {
		t.Errorf("%v, or it is not static", f.Machine)
	}
	for _, same := range []string{"etc/muster/muster.yaml", "lib/systemd/system/muster.service", "usr/share/bash-completion/completions/muster"} {
		a, errA := os.ReadFile(filepath.Join(dir, same))
		b, errB := os.ReadFile(filepath.Join(filepath.Dir(muster(t)), "../..", same))
		if errA != nil || errB != nil || !bytes.Equal(a, b) {
			t.Errorf("%s: %v %v", same, errA, errB)
		}
	}
}

// Every file is root's; the copyright file names all that is linked; the manual page names every command.
func TestContents(t *testing.T) {
	path := deb(t, older, runtime.GOARCH)
	for line := range strings.Lines(command(t, "", "dpkg-deb", "-c", path)) {
		if f := strings.Fields(line); f[1] != "root/root" || f[0][8] == 'w' || f[0][5] == 'w' || strings.ContainsAny(f[0], "sS") {
			t.Errorf("%s", line)
		}
	}
	here := filepath.Join(filepath.Dir(muster(t)), "../..")
	copyright, err := os.ReadFile(filepath.Join(here, "usr/share/doc/muster/copyright"))
	if err != nil {
		t.Fatal(err)
	}
	info, err := buildinfo.ReadFile(muster(t))
	if err != nil {
		t.Fatal(err)
	}
	if len(info.Deps) < 20 || !strings.Contains(string(copyright), "standard library, "+info.GoVersion) {
		t.Errorf("%d modules, %s", len(info.Deps), info.GoVersion)
	}
	for _, m := range info.Deps {
		if !strings.Contains(string(copyright), "\n  "+m.Path+" "+m.Version+"\n") {
			t.Errorf("the copyright file does not name %s %s", m.Path, m.Version)
		}
	}
	page := command(t, "", "sh", "-euc", "MANWIDTH=200 man --warnings -l "+filepath.Join(here, "usr/share/man/man1/muster.1.gz")+" 2>&1")
	if strings.Contains(page, "warning:") {
		t.Error(page)
	}
	_, list, _ := strings.Cut(command(t, "", muster(t), "help"), "Available Commands:\n")
	list, _, _ = strings.Cut(list, "\n\n")
	for line := range strings.Lines(list) {
		if name := strings.Fields(line)[0]; !regexp.MustCompile(`\b` + name + `\b`).MatchString(page) {
			t.Errorf("the manual page does not name %q", name)
		}
	}
	command(t, "", "bash", "-euc", `. "$1"; complete -p muster`, "bash", filepath.Join(here, "usr/share/bash-completion/completions/muster"))
}

// enrol is what the head of muster.yaml says, in the system that the package is in.
func (s *system) enrol() {
	s.t.Helper()
	var script []string
	for line := range strings.Lines(s.read("etc/muster/muster.yaml")) {
		if command, ok := strings.CutPrefix(line, "#   "); ok && !strings.Contains(command, "reload") && !strings.Contains(command, "config check") {
			script = append(script, command)
		}
	}
	text := strings.Join(script, "")
	if !strings.Contains(text, "pump-1:CHALLENGE") || !strings.Contains(text, "challenge new") {
		s.t.Fatalf("the commands are not found: %q", text)
	}
	text = strings.Replace(text, "--device pump-1 --data /var/lib/muster\n", "--device pump-1 --data /var/lib/muster >challenge\n", 1)
	text = strings.Replace(text, "pump-1:CHALLENGE", `"pump-1:$(cat challenge)"`, 1)
	s.sh(`openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout pump-1.key -subj /CN=pump-1 -outform DER 2>/dev/null | openssl base64 -A >pump-1.csr
` + strings.TrimSpace(text) + ` --fail-with-body -sS | openssl base64 -d -A | openssl pkcs7 -inform DER -print_certs -out pump-1.crt
openssl x509 -in pump-1.crt -noout -subject | grep -q 'CN = pump-1'`)
	s.renew()
}

// renew has the device renew by the certificate that it got first.
func (s *system) renew() {
	s.t.Helper()
	s.sh(`curl -sS --fail-with-body --cacert /var/lib/muster/ca/roots.pem --cert pump-1.crt --key pump-1.key -H 'Content-Type: application/pkcs10' --data-binary @pump-1.csr \
  https://localhost:8443/.well-known/est/simplereenroll | openssl base64 -d -A | openssl pkcs7 -inform DER -print_certs | openssl x509 -noout -subject | grep -q 'CN = pump-1'`)
}

// files are all names of the system but those that dpkg and logs keep for themselves.
func (s *system) files() string {
	return s.sh(`find / -xdev -path /proc -prune -o -path /var/lib/dpkg -prune -o -path /var/log -prune -o -path /root -prune -o -path /var/cache -prune -o -name '*-' -path '/etc/*' -prune -o -print | LC_ALL=C sort`)
}

// In a system that has no systemd the package installs and goes without a trace, and the unit's command works as its user, who may nothing else.
func TestWithoutSystemd(t *testing.T) {
	s := start(t, "without")
	if s.has("lib/systemd/systemd") {
		t.Fatal("it has systemd")
	}
	path := deb(t, older, runtime.GOARCH)
	before := s.files()
	s.install(path)
	if out := s.do("dpkg", "--purge", "muster"); strings.Contains(out, "kept") {
		t.Error(out)
	}
	if after := s.files(); after != before {
		t.Errorf("purged, it leaves or took files:\n%s", diff(t, before, after))
	}
	s.install(path)
	if out := s.do("dpkg", "--verify", "muster"); out != "" {
		t.Error(out)
	}
	if got := s.sh("stat -c '%U:%G %a' /var/lib/muster /etc/muster/muster.yaml"); got != "muster:muster 700\nroot:root 644\n" {
		t.Error(got)
	}
	exec := regexp.MustCompile(`(?m)^ExecStart=(.*)$`).FindStringSubmatch(s.read("lib/systemd/system/muster.service"))
	stop := s.background("setpriv", append([]string{"--reuid=muster", "--regid=muster", "--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"}, strings.Fields(exec[1])...)...)
	s.until("the gateway", func() bool { _, err := s.try("muster", "status", "--data", "/var/lib/muster"); return err == nil })
	s.enrol()
	if out := stop(); strings.Contains(out, "level=WARN") || strings.Contains(out, "level=ERROR") || !strings.Contains(out, "msg=stopped") {
		t.Error(out)
	}
	if out := s.do("dpkg", "--purge", "muster"); !strings.Contains(out, "/var/lib/muster is kept") || !s.has("var/lib/muster/ca") || s.has("etc/muster") {
		t.Error(out)
	}
}

func diff(t testing.TB, a, b string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"a": a, "b": b} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, _ := tried(t, dir, "diff", "a", "b")
	return out
}

// background runs a command in the system until it is told to stop by SIGTERM: all that it printed.
func (s *system) background(name string, args ...string) (stop func() string) {
	s.t.Helper()
	var out output
	cmd := s.command("sh", append([]string{"-c", `echo $$ >/run/background; exec "$0" "$@"`, name}, args...)...)
	cmd.Stdout = io.MultiWriter(&out, &s.log)
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	return func() string {
		s.t.Helper()
		s.sh("kill -TERM $(cat /run/background)")
		if err := cmd.Wait(); err != nil {
			s.t.Errorf("%s: %v\n%s", name, err, &out)
		}
		return out.String()
	}
}
