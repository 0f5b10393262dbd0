//go:build container

package container

import (
	"bytes"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/gateway/store/storetest/pgtest"
)

const composeDir = "../../configs/deploy/compose"

// composition is what compose.yaml has of the Compose specification: a key that is not here fails the test.
type composition struct {
	Name     string
	Gateway  service `yaml:"x-gateway"`
	Services map[string]service
	Volumes  map[string]any
	Secrets  map[string]struct{ File string }
}

type service struct {
	Image           string
	Hostname        string
	Command         []string
	Environment     map[string]string
	Secrets         []string
	Ports           []string
	Volumes         []volume
	Tmpfs           []string
	ReadOnly        bool                                  `yaml:"read_only"`
	CapDrop         []string                              `yaml:"cap_drop"`
	CapAdd          []string                              `yaml:"cap_add"`
	SecurityOpt     []string                              `yaml:"security_opt"`
	StopSignal      string                                `yaml:"stop_signal"`
	StopGracePeriod string                                `yaml:"stop_grace_period"`
	DependsOn       map[string]struct{ Condition string } `yaml:"depends_on"`
	Restart         string
	Healthcheck     struct {
		Test              []string
		Interval, Timeout string
		Retries           int
	}
}

type volume struct {
	Type, Source, Target string
	ReadOnly             bool `yaml:"read_only"`
	Volume               struct{ Subpath string }
}

// UnmarshalYAML takes the short form, SOURCE:TARGET, too.
func (v *volume) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		source, target, _ := strings.Cut(n.Value, ":")
		*v = volume{Type: "volume", Source: source, Target: target}
		return nil
	}
	type long volume
	return n.Decode((*long)(v))
}

func readComposition(t testing.TB) (composition, string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(composeDir, "compose.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var c composition
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&c); err != nil {
		t.Fatal(err)
	}
	return c, string(text)
}

// Compose's own library takes the file.
func TestComposeLoads(t *testing.T) {
	out, err := exec.Command(filepath.Join(storage, "compose"), filepath.Join(composeDir, "compose.yaml")).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "subpath: ca/authority") {
		t.Errorf("%v\n%s", err, out)
	}
}

// Nothing in compose.yaml names what is not there, and no service has more than it needs.
func TestComposeFile(t *testing.T) {
	c, _ := readComposition(t)
	if len(c.Services) != 3 || len(c.Services["db"].Ports) != 0 {
		t.Fatalf("services: %+v", c.Services)
	}
	published := map[string]string{}
	for name, s := range c.Services {
		if !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) || !slices.Equal(s.SecurityOpt, []string{"no-new-privileges:true"}) || s.StopGracePeriod == "" || s.Restart == "" {
			t.Errorf("%s: read_only, cap_drop, security_opt, stop_grace_period or restart is missing: %+v", name, s)
		}
		for variable, value := range s.Environment {
			if upper := strings.ToUpper(variable); strings.Contains(upper, "PASS") && !strings.HasPrefix(value, "/run/secrets/") {
				t.Errorf("%s: %s: a secret belongs in a file", name, variable)
			}
		}
		for _, secret := range s.Secrets {
			if c.Secrets[secret].File == "" {
				t.Errorf("%s: no secret %s", name, secret)
			}
		}
		for _, v := range s.Volumes {
			if _, ok := c.Volumes[v.Source]; !ok && v.Type == "volume" {
				t.Errorf("%s: no volume %s", name, v.Source)
			}
		}
		for _, port := range s.Ports {
			if other, ok := published[port[:strings.Index(port, ":")]]; ok {
				t.Errorf("%s and %s: port %s", name, other, port)
			}
			published[port[:strings.Index(port, ":")]] = name
		}
		for other, d := range s.DependsOn {
			if _, ok := c.Services[other]; !ok || d.Condition != "service_healthy" {
				t.Errorf("%s depends on %s: %+v", name, other, d)
			}
		}
		if gateway := strings.HasPrefix(name, "gateway"); gateway && (len(s.CapAdd) != 0 || s.Hostname != name || !slices.Contains(s.Command, name)) {
			t.Errorf("%s: %+v", name, s)
		}
	}
}

// settings are the commands of compose.yaml's head that make the secrets.
func (h *host) settings(text, dir string) {
	h.t.Helper()
	var script []string
	for line := range strings.Lines(text) {
		if command, ok := strings.CutPrefix(line, "#   "); ok && !strings.HasPrefix(command, "docker compose ") {
			script = append(script, command)
		}
	}
	if len(script) < 5 {
		h.t.Fatalf("the commands are not found: %q", script)
	}
	if err := os.WriteFile(filepath.Join(h.docker, "sudo"), []byte("#!/bin/sh\nexec \"$@\"\n"), 0o755); err != nil {
		h.t.Fatal(err)
	}
	h.sh(dir, strings.Join(script, ""))
}

// database is a server in the place of the service db: the user has the password of the secret, and is asked for it.
func database(t testing.TB, password string) *pgtest.Cluster {
	t.Helper()
	cluster := pgtest.Start(t, pgtest.Volatile)
	db, err := sql.Open("pgx", cluster.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var version, file string
	if err := db.QueryRowContext(t.Context(), "SELECT current_setting('server_version'), current_setting('hba_file')").Scan(&version, &file); err != nil {
		t.Fatal(err)
	}
	t.Logf("PostgreSQL %s, in the place of the one of compose.yaml", version)
	for _, query := range []string{
		"CREATE DATABASE muster", fmt.Sprintf("ALTER USER muster PASSWORD '%s'", password),
		fmt.Sprintf(`COPY (SELECT unnest(ARRAY['host muster all all scram-sha-256', 'host postgres all all trust'])) TO '%s'`, file), "SELECT pg_reload_conf()",
	} {
		if _, err := db.ExecContext(t.Context(), query); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
	}
	return cluster
}

// service makes a container as a service of compose.yaml has it. folders are the volumes'.
func (h *host) service(img *image, c composition, name, dir string, folders map[string]string) *container {
	h.t.Helper()
	s := c.Services[name]
	k := h.prepare(img, nil)
	k.spec.Hostname, k.spec.Args = s.Hostname, append(slices.Clone(img.Entrypoint), s.Command...)
	k.spec.Env = slices.Clone(img.Env)
	for variable, value := range s.Environment {
		k.spec.Env = append(k.spec.Env, variable+"="+value)
	}
	for _, v := range s.Volumes {
		source := filepath.Join(dir, v.Source)
		if v.Type == "volume" {
			source = filepath.Join(folders[v.Source], v.Volume.Subpath)
			if entries, err := os.ReadDir(source); err == nil && len(entries) == 0 && v.Volume.Subpath == "" {
				copyTree(h.t, filepath.Join(img.root, v.Target), source)
			}
		}
		k.spec.Mounts = append(k.spec.Mounts, mount{Source: source, Target: v.Target, ReadOnly: v.ReadOnly})
	}
	for _, secret := range s.Secrets {
		k.spec.Mounts = append(k.spec.Mounts, mount{Source: filepath.Join(dir, c.Secrets[secret].File), Target: "/run/secrets/" + secret, ReadOnly: true})
	}
	for _, port := range s.Ports {
		from, to, _ := strings.Cut(port, ":")
		a, errA := strconv.Atoi(from)
		b, errB := strconv.Atoi(to)
		if errA != nil || errB != nil {
			h.t.Fatalf("port %s", port)
		}
		k.publish(a, b)
	}
	return k
}

// The services of compose.yaml with its muster.yaml: two gateways that are one, and whose health is the truth.
func TestCompose(t *testing.T) {
	h := newHost(t)
	img := build(t, "v0.0.1", "amd64")
	c, text := readComposition(t)
	dir := t.TempDir()
	copyTree(t, composeDir, dir)
	h.settings(text, dir)
	password, err := os.ReadFile(filepath.Join(dir, "secrets", "database-password"))
	if err != nil {
		t.Fatal(err)
	}
	cluster := database(t, strings.TrimSpace(string(password)))
	_, address, _ := strings.Cut(cluster.DSN("muster"), "@")
	address, _, _ = strings.Cut(address, "/")

	folders := map[string]string{"gateway-1": t.TempDir(), "gateway-2": t.TempDir()}
	gateways := map[string]*container{}
	for _, name := range []string{"gateway-1", "gateway-2"} {
		g := h.service(img, c, name, dir, folders)
		g.spec.Hosts = []string{g.here + " db"}
		h.forward(h.net, g.here+":5432", nil, address)
		g.start()
		t.Logf("%s: healthy after %.2f s", name, g.healthy().Seconds())
		gateways[name] = g
	}
	two := gateways["gateway-2"]
	if out := two.muster("config", "check", "/etc/muster/muster.yaml"); !strings.Contains(out, "good: 2 listeners, 1 backends, 1 endpoints") {
		t.Error(out)
	}

	// The first one's keys are not the second's to change.
	if mounts, err := os.ReadFile("/proc/" + pid(two) + "/mountinfo"); err != nil || !regexp.MustCompile(` /data/ca/authority ro,`).Match(mounts) {
		t.Errorf("%v\n%s", err, mounts)
	}

	out := h.sh(dir, `docker exec gateway-1 muster device add pump-1 --data /data
docker exec gateway-1 muster challenge new --endpoint devices --device pump-1 --data /data >challenge
docker cp gateway-1:/data/ca/roots.pem . && docker cp gateway-2:/data/ca/roots.pem two.pem && cmp roots.pem two.pem
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout device.key -subj /CN=pump-1 -outform DER 2>/dev/null | openssl base64 -A >device.csr
est() { curl -sS --fail-with-body --cacert roots.pem -H 'Content-Type: application/pkcs10' --data-binary @device.csr "$@" | openssl base64 -d -A | openssl pkcs7 -inform DER -print_certs; }
est --user "pump-1:$(cat challenge)" https://localhost:8443/.well-known/est/simpleenroll >device.crt
est --cert device.crt --key device.key --connect-to gateway-2:8443:localhost:8444 https://gateway-2:8443/.well-known/est/simplereenroll >renewed.crt
openssl x509 -in renewed.crt -noout -subject
curl -sS --fail --cacert roots.pem --connect-to muster.example.com:8443:localhost:8444 https://muster.example.com:8443/.well-known/est/cacerts -o /dev/null -w '%{http_code}\n'
curl -sS --fail http://localhost:8081/crl/local/ec.crl | openssl crl -inform DER -noout -issuer`)
	for _, want := range []string{"subject=CN = pump-1", "\n200\n", "CN = Muster Issuing CA"} {
		if !strings.Contains(out, want) {
			t.Errorf("want %q in\n%s", want, out)
		}
	}
	for _, g := range gateways {
		if n := strings.Count(g.muster("ls", "certificates", "--data", "/data"), "CN=pump-1"); n != 2 {
			t.Errorf("%s knows %d certificates of the device", g.spec.Hostname, n)
		}
	}

	// Who cannot commit is not healthy, and is again by itself.
	cluster.Crash(t)
	for _, g := range gateways {
		if code, out := g.health(); code != 1 || !strings.Contains(out, "NOT READY") {
			t.Errorf("%s: without its database, exit code %d\n%s", g.spec.Hostname, code, out)
		}
	}
	cluster.Launch(t)
	for name, g := range gateways {
		t.Logf("%s: healthy again after %.2f s", name, g.healthy().Seconds())
	}
	for name, g := range gateways {
		t.Logf("%s: stopped in %.2f s", name, g.stop().Seconds())
		if strings.Contains(g.log.String(), strings.TrimSpace(string(password))) {
			t.Errorf("%s prints the database's password", name)
		}
	}
}
