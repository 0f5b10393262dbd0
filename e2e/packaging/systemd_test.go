//go:build packaging

package packaging

import (
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
)

// exposure is the most that `systemd-analyze security` may say, in tenths: what is left is that the service has the host's network.
const exposure = "13"

func (s *system) pidOf() string {
	return strings.TrimSpace(s.do("systemctl", "show", "-P", "MainPID", "muster"))
}

func (s *system) active(version string) {
	s.t.Helper()
	s.until("the service", func() bool {
		out, _ := s.try("systemctl", "show", "-P", "ActiveState", "muster")
		return strings.TrimSpace(out) == "active"
	})
	if out := s.do("systemctl", "show", "-P", "StatusText", "muster"); !strings.Contains(out, "Serving, version "+version) {
		s.t.Errorf("status: %s", out)
	}
}

// The package's life under systemd, with all of the unit's restrictions in force: installed it runs, upgraded it has what it had, removed it keeps it.
func TestWithSystemd(t *testing.T) {
	s := start(t, "with")
	arch := runtime.GOARCH
	s.install(deb(t, older, arch))
	s.active(older)
	if out := s.do("systemctl", "is-enabled", "muster"); strings.TrimSpace(out) != "enabled" {
		t.Error(out)
	}
	t.Run("unit", func(t *testing.T) {
		if out := s.do("systemd-analyze", "verify", "--man=no", "muster.service"); out != "" {
			t.Error(out)
		}
		out, err := s.try("systemd-analyze", "security", "--offline=true", "--threshold="+exposure, "--no-pager", "/lib/systemd/system/muster.service")
		if err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		_, overall, _ := strings.Cut(out, "Overall exposure level")
		t.Log("exposure", strings.TrimSpace(overall))
	})
	t.Run("restrictions", func(t *testing.T) {
		for _, pid := range strings.Fields(s.do("cat", "/sys/fs/cgroup/system.slice/muster.service/cgroup.procs")) {
			status := s.do("cat", "/proc/"+pid+"/status")
			for _, want := range []string{"NoNewPrivs:\t1", "Seccomp:\t2", "CapBnd:\t0000000000000000", "CapEff:\t0000000000000000", "CapAmb:\t0000000000000000"} {
				if !strings.Contains(status, want+"\n") {
					t.Errorf("want %s in\n%s", want, status)
				}
			}
			mounts := s.do("cat", "/proc/"+pid+"/mountinfo")
			for _, want := range []string{` / ro,`, ` /var/lib/muster rw,`, ` /tmp rw,`} {
				if !regexp.MustCompile(want).MatchString(mounts) {
					t.Errorf("want %q in\n%s", want, mounts)
				}
			}
		}
		if out := s.sh("find /var/lib/muster -maxdepth 0 -perm /077; find /var/lib/muster ! -user muster"); out != "" {
			t.Error(out)
		}
	})
	s.enrol()
	s.dropIns(t)
	s.reloads(t)
	s.watchdog(t)

	// An upgrade with another muster.yaml than before: the operator's stays, and so does all else.
	config := s.read("etc/muster/muster.yaml")
	s.install(deb(t, newer, arch), "--force-confold")
	s.active(newer)
	if now := s.read("etc/muster/muster.yaml"); now != config || !strings.HasSuffix(config, "# The operator's.\n") || !strings.Contains(s.read("etc/muster/muster.yaml.dpkg-dist"), "newer release") {
		t.Error("the operator's configuration was not kept")
	}
	s.renew()
	if out := s.do("muster", "ls", "certificates", "--data", "/var/lib/muster"); strings.Count(out, "CN=pump-1") < 2 {
		t.Errorf("certificates are forgotten:\n%s", out)
	}
	if out := s.do("muster", "device", "ls", "--data", "/var/lib/muster"); !strings.Contains(out, "pump-1") {
		t.Errorf("the device is forgotten:\n%s", out)
	}

	// A release that does not take the configuration leaves the gateway of before.
	pid := s.pidOf()
	s.sh("echo 'nonsense: 1' >>/etc/muster/muster.yaml")
	if out := s.install(deb(t, newer, arch), "--force-confold"); !strings.Contains(out, "nonsense") || !strings.Contains(out, "not restarted") {
		t.Error(out)
	}
	if now := s.pidOf(); now != pid {
		t.Errorf("it was restarted: %s, %s", pid, now)
	}
	s.sh("sed -i '/^nonsense/d' /etc/muster/muster.yaml")
	s.do("systemctl", "stop", "muster")
	s.install(deb(t, newer, arch), "--force-confold")
	if out, _ := s.try("systemctl", "is-active", "muster"); strings.TrimSpace(out) != "inactive" {
		t.Errorf("who had stopped it has it running after an upgrade: %s", out)
	}
	s.do("systemctl", "start", "muster")

	s.do("dpkg", "--remove", "muster")
	if out, _ := s.try("find", "/proc", "-maxdepth", "1", "-user", "muster"); out != "" {
		t.Errorf("processes are left: %s", out)
	}
	if !s.has("etc/muster/muster.yaml") || !s.has("var/lib/muster/muster.db") || s.has("usr/bin/muster") {
		t.Error("removed, it has to leave the configuration and the data, and nothing else")
	}
	s.install(deb(t, newer, arch))
	s.active(newer)
	s.renew()
	if s.read("etc/muster/muster.yaml") != config {
		t.Error("the configuration was not kept")
	}

	roots := s.read("var/lib/muster/ca/roots.pem")
	if out := s.do("dpkg", "--purge", "muster"); !strings.Contains(out, "/var/lib/muster is kept") {
		t.Error(out)
	}
	for _, gone := range []string{"etc/muster", "etc/systemd/system/multi-user.target.wants/muster.service", "etc/systemd/system/muster.service", "var/lib/muster/run"} {
		if s.has(gone) {
			t.Errorf("purged, it leaves /%s", gone)
		}
	}
	if s.read("var/lib/muster/ca/roots.pem") != roots || !strings.Contains(s.read("etc/passwd"), "\nmuster:") {
		t.Error("the CA, or the user whose it is, is gone")
	}
	s.install(deb(t, newer, arch))
	s.active(newer)
	s.renew()
	if out := s.do("systemctl", "--failed", "--no-legend", "--plain"); out != "" {
		t.Error(out)
	}
	if out := s.do("journalctl", "-u", "muster", "--no-pager"); strings.Contains(out, "level=WARN") || strings.Contains(out, "was not told") {
		t.Errorf("warnings:\n%s", out)
	}
}

// A configuration that is refused fails the command, with the reason, and changes nothing; one that is taken is told of.
func (s *system) reloads(t *testing.T) {
	pid := s.pidOf()
	s.sh("echo 'nonsense: 1' >>/etc/muster/muster.yaml")
	if out, err := s.try("systemctl", "reload", "muster"); err == nil {
		t.Errorf("a faulty configuration was taken: %s", out)
	}
	if out := s.do("systemctl", "show", "-P", "StatusText", "muster"); !strings.Contains(out, "changed nothing") {
		t.Error(out)
	}
	if out := s.journal(); !strings.Contains(out, "nonsense") {
		t.Errorf("the journal does not say why:\n%s", out)
	}
	s.sh(`sed -i '/^nonsense/d' /etc/muster/muster.yaml; echo "# The operator's." >>/etc/muster/muster.yaml; systemctl reload muster`)
	if out := s.do("systemctl", "show", "-P", "StatusText", "-P", "ActiveState", "muster"); !strings.Contains(out, "read again") || !strings.Contains(out, "active") {
		t.Error(out)
	}
	s.do("systemctl", "kill", "--kill-whom=main", "-s", "HUP", "muster")
	s.until("SIGHUP", func() bool { return strings.Contains(s.journal(), "by=signal") })
	if s.pidOf() != pid {
		t.Error("it was restarted")
	}
}

// low-ports.conf and pkcs11.conf, their lines without the #, are good, and the first one does what it says.
func (s *system) dropIns(t *testing.T) {
	s.sh(`mkdir -p /etc/systemd/system/muster.service.d
sed 's/^#\(\[\|[A-Z][A-Za-z0-9]*=\)/\1/' /usr/share/doc/muster/examples/pkcs11.conf >/etc/systemd/system/muster.service.d/b.conf`)
	if out := s.do("systemd-analyze", "verify", "--man=no", "muster.service"); out != "" {
		t.Error(out)
	}
	s.sh(`cd /etc/systemd/system/muster.service.d && rm b.conf
sed 's/^#\(\[\|[A-Z][A-Za-z0-9]*=\)/\1/' /usr/share/doc/muster/examples/low-ports.conf >a.conf
sed -i 's/127.0.0.1:8443/127.0.0.1:443/' /etc/muster/muster.yaml
systemctl daemon-reload && systemctl restart muster
curl -sS --fail -o /dev/null --cacert /var/lib/muster/ca/roots.pem https://localhost/.well-known/est/cacerts
rm a.conf; sed -i 's/127.0.0.1:443/127.0.0.1:8443/' /etc/muster/muster.yaml
systemctl daemon-reload && systemctl restart muster`)
}

// A gateway that works gives signs of life; one that is stuck is killed and started anew.
func (s *system) watchdog(t *testing.T) {
	dir := filepath.Join(s.root, "etc/systemd/system/muster.service.d")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "watchdog.conf"), []byte("[Service]\nWatchdogSec=4\nRestartSec=0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.sh("systemctl daemon-reload && systemctl restart muster")
	stamp := func() string { return s.do("systemctl", "show", "-P", "WatchdogTimestampMonotonic", "muster") }
	pid := s.pidOf()
	for range 3 { // three signs in a row, each before its time is over
		before := stamp()
		s.until("a sign of life", func() bool { return stamp() != before })
	}
	if now := s.pidOf(); now != pid {
		t.Errorf("a gateway that works was started anew: %s", s.journal())
	}
	s.sh("kill -STOP " + pid)
	s.until("a new gateway", func() bool { now := s.pidOf(); return now != pid && now != "0" })
	if out := s.do("journalctl", "--no-pager", "-u", "muster"); !strings.Contains(out, "Watchdog timeout") {
		t.Error(s.journal())
	}
	s.active(older)
	s.renew()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	s.sh("systemctl daemon-reload && systemctl restart muster")
}
