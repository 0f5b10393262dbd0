//go:build packaging

package packaging

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

const chart = root + "/configs/deploy/helm/muster"

// kubernetes are the oldest version that the chart takes and the newest whose schemas kubectl-validate has.
var kubernetes = []string{"1.25", "1.30"}

func tool(name string) string { return filepath.Join(prepared, "bin", name) }

// object is a manifest as it is rendered.
type object struct {
	Kind     string
	Metadata struct{ Name string }
	Data     map[string]string
	Spec     yaml.Node
}

// manifests renders the chart with the values of a file, none for "".
func manifests(t testing.TB, values, version string, set ...string) (string, error) {
	t.Helper()
	args := []string{"template", "gw", chart, "--namespace", "pki", "--kube-version", version}
	if values != "" {
		args = append(args, "--values", values)
	}
	for _, s := range set {
		args = append(args, "--set", s)
	}
	return tried(t, "", tool("helm"), args...)
}

func objects(t testing.TB, text string) map[string]object {
	t.Helper()
	all := map[string]object{}
	for d := yaml.NewDecoder(strings.NewReader(text)); ; {
		var o object
		switch err := d.Decode(&o); {
		case errors.Is(err, io.EOF):
			return all
		case err != nil:
			t.Fatalf("%v\n%s", err, text)
		}
		key := o.Kind + " " + o.Metadata.Name
		if _, twice := all[key]; twice || o.Kind == "" {
			t.Errorf("%q twice, or it is nothing", key)
		}
		all[key] = o
	}
}

// What is rendered is what Kubernetes takes, by its own validation and schemas, and its muster.yaml is what Muster takes.
func TestChart(t *testing.T) {
	command(t, "", tool("helm"), "lint", "--strict", chart)
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) < 3 {
		t.Fatalf("%q %v", files, err)
	}
	for _, values := range append(files, "") {
		t.Run(strings.TrimSuffix(filepath.Base(values), ".yaml"), func(t *testing.T) {
			if values != "" {
				command(t, "", tool("helm"), "lint", "--strict", "--values", values, chart)
			}
			for _, version := range kubernetes {
				text, err := manifests(t, values, version)
				if err != nil {
					t.Fatal(text)
				}
				dir := t.TempDir()
				if err := os.WriteFile(filepath.Join(dir, "all.yaml"), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
				command(t, "", tool("kubectl-validate"), "--version", version, "--local-crds", filepath.Join(prepared, "crds"), dir)
				if version == kubernetes[1] {
					checkRendered(t, objects(t, text))
				}
			}
		})
	}
}

// checkRendered holds what is rendered against the image and the documentation: what a schema cannot know.
func checkRendered(t *testing.T, all map[string]object) {
	t.Helper()
	var set object
	for _, o := range all {
		switch o.Kind {
		case "ConfigMap":
			dir := t.TempDir()
			config := o.Data["muster.yaml"]
			for _, name := range regexp.MustCompile(`/run/muster/[a-z.-]+`).FindAllString(config, -1) { // files of the Secret
				config = strings.ReplaceAll(config, name, secretFile(t, dir, filepath.Base(name)))
			}
			path := filepath.Join(dir, "muster.yaml")
			if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
				t.Fatal(err)
			}
			if out := command(t, "", muster(t), "config", "check", path); !strings.Contains(out, "good: 2 listeners") {
				t.Error(out)
			}
		case "StatefulSet":
			set = o
		}
	}
	var spec struct {
		Template struct {
			Spec struct {
				SecurityContext    map[string]any `yaml:"securityContext"`
				InitContainers     []container    `yaml:"initContainers"`
				Containers         []container
				TerminationSeconds int  `yaml:"terminationGracePeriodSeconds"`
				Token              bool `yaml:"automountServiceAccountToken"`
			}
		}
	}
	spec.Template.Spec.Token = true
	if err := set.Spec.Decode(&spec); err != nil {
		t.Fatal(err)
	}
	pod := spec.Template.Spec
	if c := pod.SecurityContext; c["runAsUser"] != 65532 || c["runAsNonRoot"] != true || c["fsGroupChangePolicy"] != "OnRootMismatch" || pod.Token || pod.TerminationSeconds < 40 {
		t.Errorf("the pod: %+v", pod)
	}
	for _, c := range append(pod.InitContainers, pod.Containers...) {
		if s := c.SecurityContext; s.Escalation == nil || *s.Escalation || !s.ReadOnly || !slices.Equal(s.Capabilities.Drop, []string{"ALL"}) {
			t.Errorf("the container %s: %+v", c.Name, s)
		}
	}
}

type container struct {
	Name            string
	Command, Args   []string
	SecurityContext struct {
		Escalation   *bool `yaml:"allowPrivilegeEscalation"`
		ReadOnly     bool  `yaml:"readOnlyRootFilesystem"`
		Capabilities struct{ Drop []string }
	} `yaml:"securityContext"`
}

// secretFile is one that a Secret has, good enough for `config check`.
func secretFile(t testing.TB, dir, name string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	switch {
	case strings.HasSuffix(name, ".key") && name != "seal.key", strings.HasSuffix(name, ".crt"), strings.HasSuffix(name, ".pem"):
		base := strings.TrimSuffix(path, filepath.Ext(path))
		if _, err := os.Stat(path); err != nil {
			command(t, "", "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=ra.example.com", "-addext", "subjectAltName=DNS:ra.example.com",
				"-keyout", base+".key", "-out", base+".crt")
			command(t, "", "cp", base+".crt", base+".pem")
		}
	default:
		command(t, "", "sh", "-euc", `umask 077; openssl rand -base64 32 >"$1"`, "sh", path)
	}
	return path
}

// What would not run, or not as it was meant, is refused in words.
func TestChartRefuses(t *testing.T) {
	const postgres = "testdata/postgres.yaml"
	for _, c := range []struct {
		values string
		set    []string
		want   string
	}{
		{"", []string{"replicas=2"}, "SQLite is for one gateway"},
		{"", []string{"autoscaling.enabled=true"}, "SQLite is for one gateway"},
		{"", []string{"replicas=0"}, "replicas"},
		{"", []string{"store.url=postgres://muster@db/muster"}, "set store.type=postgres too"},
		{"", []string{"store.type=mysql"}, "/store/type"},
		{"", []string{"config.store=sqlite:x"}, "set store.type and store.url"},
		{"", []string{"config.listeners.ops=null"}, "the probes need it"},
		{"", []string{"config.listeners.ops.tls.min=1.3"}, "the probes ask over HTTP"},
		{"", []string{"terminationGracePeriodSeconds=10"}, "terminationGracePeriodSeconds"},
		{"", []string{"replica=2"}, "replica"},
		{"", []string{"image.digest=latest"}, "digest"},
		{postgres, []string{"store.url="}, "want postgres://"},
		{postgres, []string{"store.url=postgres://muster:secret@db/muster"}, "everybody who may read ConfigMaps"},
		{postgres, []string{"secrets.existingSecret="}, "seal.key and pgpass"},
		{postgres, []string{"authority.existingClaim="}, "needs authority.existingClaim"},
	} {
		if out, err := manifests(t, c.values, kubernetes[1], c.set...); err == nil || !strings.Contains(out, c.want) {
			t.Errorf("%s %q: %v, want %q in\n%.600s", c.values, c.set, err, c.want, out)
		}
	}
	if out, err := manifests(t, "", "1.24"); err == nil {
		t.Errorf("Kubernetes 1.24: %.200s", out)
	}
}

// Which objects there are follows from the values.
func TestChartObjects(t *testing.T) {
	names := func(values, version string) (all []string, text string) {
		text, err := manifests(t, values, version)
		if err != nil {
			t.Fatal(text)
		}
		for key := range objects(t, text) {
			all = append(all, key)
		}
		slices.Sort(all)
		return all, text
	}
	for values, want := range map[string][]string{
		"": {"ConfigMap gw-muster", "NetworkPolicy gw-muster", "Service gw-muster", "Service gw-muster-ops", "ServiceAccount gw-muster", "StatefulSet gw-muster"},
		"testdata/postgres.yaml": {"ConfigMap gw-muster", "HorizontalPodAutoscaler gw-muster", "NetworkPolicy gw-muster", "PodDisruptionBudget gw-muster", "Service gw-muster",
			"Service gw-muster-ops", "ServiceAccount gw-muster", "ServiceMonitor gw-muster", "StatefulSet gw-muster"},
		"testdata/others-ca.yaml": {"ConfigMap gw-muster", "PodDisruptionBudget gw-muster", "Service gw-muster", "Service gw-muster-ops", "StatefulSet gw-muster"},
	} {
		if got, _ := names(values, "1.30"); !slices.Equal(got, want) {
			t.Errorf("%s: %q", values, got)
		}
	}
	// An action that Kubernetes before 1.30 does not have on.
	for version, want := range map[string]bool{"1.29": false, "1.30": true} {
		if _, text := names("", version); strings.Contains(text, "preStop") != want {
			t.Errorf("Kubernetes %s: preStop", version)
		}
	}
	if _, text := names("testdata/postgres.yaml", "1.30"); !strings.Contains(text, "names:\n      - ra.example.com\n      - gw-muster\n      - gw-muster.pki\n      - gw-muster.pki.svc\n") || strings.Contains(text, "\n  replicas:") {
		t.Error("the Service's names are not in the certificate, or the replicas are the autoscaler's and the chart's")
	}
}

// The pod's command runs on the pod's configuration as its user, on a volume as a fsGroup makes it, twice; and what copies the Secret makes files that the gateway takes.
func TestChartRuns(t *testing.T) {
	s := start(t, "without")
	s.sh("install -d -m 2775 -g 65532 /data && install -d /etc/muster && install -d -o 65532 -g 65532 -m 777 /run/muster && mkdir /secrets && openssl rand -base64 32 >/secrets/seal.key && chgrp 65532 /secrets/seal.key && chmod 440 /secrets/seal.key")
	program, err := os.ReadFile(muster(t))
	if err == nil {
		err = os.WriteFile(filepath.Join(s.root, "usr/bin/muster"), program, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	text, bad := manifests(t, "", "1.30", "secrets.existingSecret=muster", "config.seal.file=/run/muster/seal.key")
	if bad != nil {
		t.Fatal(text)
	}
	all := objects(t, text)
	if err := os.WriteFile(filepath.Join(s.root, "etc/muster/muster.yaml"), []byte(all["ConfigMap gw-muster"].Data["muster.yaml"]), 0o644); err != nil {
		t.Fatal(err)
	}
	var spec struct {
		Template struct {
			Spec struct {
				InitContainers []container `yaml:"initContainers"`
				Containers     []container
			}
		}
	}
	set := all["StatefulSet gw-muster"]
	if err := set.Spec.Decode(&spec); err != nil {
		t.Fatal(err)
	}
	as := []string{"--reuid=65532", "--regid=65532", "--groups=65532", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"}
	s.do("setpriv", append(slices.Clone(as), spec.Template.Spec.InitContainers[0].Command...)...)
	if got := s.sh("stat -c '%a %u' /run/muster/seal.key"); got != "600 65532\n" {
		t.Error(got)
	}
	args := append(slices.Clone(as), "muster")
	for _, a := range spec.Template.Spec.Containers[0].Args {
		args = append(args, strings.ReplaceAll(a, "$(POD_NAME)", "gw-muster-0"))
	}
	for range 2 {
		stop := s.background("setpriv", args...)
		s.until("/readyz", func() bool {
			_, err := s.try("curl", "-sS", "--fail", "http://127.0.0.1:8080/readyz")
			return err == nil
		})
		s.sh("curl -sS --fail -o /dev/null http://127.0.0.1:8080/healthz; curl -sS --fail http://127.0.0.1:8080/metrics | grep -q '^muster_ready 1'")
		s.sh("curl -sS --fail -o /dev/null --cacert /data/ca/roots.pem --connect-to gw-muster.pki.svc:8443:127.0.0.1:8443 https://gw-muster.pki.svc:8443/.well-known/est/cacerts")
		if out := stop(); strings.Contains(out, `"level":"WARN"`) || strings.Contains(out, `"level":"ERROR"`) {
			t.Error(out)
		}
	}
}
