package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

// link makes a symbolic link, in the place of one that is there, at once, as Kubernetes does with ..data.
func link(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func folder(t *testing.T, parts ...string) string {
	t.Helper()
	dir := filepath.Join(parts...)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// A configuration's files are found whatever key names them and however they are reached, and in a faulty configuration too; what
// belongs to a plugin or the store, and folders, are none.
func TestNamedFiles(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a.pem", "users", "plugin.db", "muster.db"} {
		write(t, dir, name, name)
	}
	folder(t, dir, "vendors")
	far := write(t, t.TempDir(), "far.pem", "far")
	const config = `version: 1
store: muster.db
backends: {local: {plugin: local, config: {journal: plugin.db}}}
listeners: {tls: {address: ":1", tls: {cert: a.pem, kye: FAR}}}
endpoints: {ran: {enroll: [{anyOf: [[{password: {file: users}}]]}, {vendor-ca: {dir: vendors, cas: [missing.pem]}}]}}
`
	file := write(t, dir, "muster.yaml", strings.Replace(config, "FAR", far, 1))
	seen := lookAt(file)
	if got, want := byName(seen.present()), []string{far, file, filepath.Join(dir, "a.pem"), filepath.Join(dir, "users")}; !sameNames(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if _, looked := seen[filepath.Join(dir, "missing.pem")]; !looked {
		t.Error("what is missing is not looked for")
	}
	folders := seen.folders()
	if !folders[dir] || !folders[filepath.Dir(far)] {
		t.Errorf("%v", folders)
	}
	if changed := seen.again().others(seen); len(changed) > 0 {
		t.Errorf("nothing has changed but %v", changed)
	}
	write(t, dir, "missing.pem", "here")
	write(t, dir, "users.new", "users")
	if err := os.Rename(filepath.Join(dir, "users.new"), filepath.Join(dir, "users")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "a.pem"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(far); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "plugin.db", "other")
	if got, want := seen.again().others(seen), []string{far, filepath.Join(dir, "a.pem"), filepath.Join(dir, "users"), filepath.Join(dir, "missing.pem")}; !sameNames(got, want) {
		t.Errorf("changed %v, want %v", got, want)
	}
	// Half a file is no YAML; it is the file that is looked at then.
	write(t, dir, "muster.yaml", "version: 1\nlisteners: {tls: {add")
	if got := byName(lookAt(file)); !slices.Equal(got, []string{file}) {
		t.Errorf("%v", got)
	}
}

func sameNames(a, b []string) bool {
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}

// Every link on the way to a file is in a folder that is watched.
func TestFoldersOfLinks(t *testing.T) {
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	mount, v1 := folder(t, root, "mount"), folder(t, root, "mount", "..1")
	write(t, v1, "muster.yaml", "version: 1")
	link(t, "..1", filepath.Join(mount, "..data"))
	link(t, "..data/muster.yaml", filepath.Join(mount, "muster.yaml"))
	link(t, "mount", filepath.Join(root, "current"))
	got := fileMarks{filepath.Join(root, "current", "muster.yaml"): {}, filepath.Join(root, "not", "there", "yet.pem"): {}}.folders()
	if want := []string{root, filepath.Join(root, "current"), v1}; !sameNames(byName(got), want) {
		t.Errorf("%v, want %v", byName(got), want)
	}
	link(t, "loop", filepath.Join(root, "loop"))
	fileMarks{filepath.Join(root, "loop", "x"): {}}.folders() // ends
}

// What a reload changed is told by the configuration's own names; order, quotes and comments are no change.
func TestChangesBetween(t *testing.T) {
	runtime := func(text string, plugins map[string]*running) *Runtime {
		t.Helper()
		var doc yaml.Node
		if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
			t.Fatal(err)
		}
		return &Runtime{cfg: &Config{root: doc.Content[0]}, plugins: plugins}
	}
	kept, old, fresh := &running{}, &running{}, &running{}
	before := runtime(`
listeners: {http: {address: ":1"}, gone: {address: ":2"}}
endpoints: {ran: {enroll: [{a: {}}, {b: {}}]}, core: {listeners: [http], profile: p}}
profiles: {p: {validity: 1d}}
metrics: {listeners: [http]}
`, map[string]*running{"local": kept, "corp": old, "left": old})
	after := runtime(`
# another text
profiles: {"p": {validity: "1d"}, q: {}}
listeners: {http: {address: ":1"}, new: {address: ":2"}}
endpoints: {core: {profile: p, listeners: ["http"]}, ran: {enroll: [{b: {}}, {a: {}}]}}
watch: true
`, map[string]*running{"local": kept, "corp": fresh})
	r := changesBetween(before, after)
	r.Files = []string{"/etc/a.pem"}
	want := "endpoints: changed ran; listeners: added new; removed gone; profiles: added q; backends: started corp; stopped corp, left; kept local; settings: changed metrics, watch; files: read anew /etc/a.pem"
	if got := strings.Join(reloadLines(r), "; "); got != want {
		t.Errorf("\n%s\n%s", got, want)
	}
	if lines := reloadLines(changesBetween(before, before)); len(lines) > 0 {
		t.Errorf("%v", lines)
	}
	r.Files = []string{strings.Repeat("ä", maxReloadNote)}
	if n := len(reloadSummary(r)); n > maxReloadNote+10 {
		t.Errorf("%d bytes", n)
	}
}
