package e2e

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path"
	"strings"
	"testing"
)

const module = "github.com/muster-pki/muster/"

// rule says which of our packages those under a path may import, tests left out. The longest matching path decides.
// docs/architecture.md draws the same.
var rules = map[string][]string{
	"cmd/muster":                  {"*"},
	"cmd/muster-pkcs11":           {"cmd/muster-pkcs11/token", "backends/local", "plugins/backend", "plugins/backend/strictyaml"},
	"cmd/muster-pkcs11/token":     {"plugins/backend/strictyaml"},
	"cmd/muster/words":            {},
	"cmd/muster/decode":           {"cmd/muster/words", "gateway/pkix", "protocols/cms", "protocols/cmp/cmpmsg"},
	"cmd/muster/bundle":           {},
	"cmd/muster/devicefile":       {"cmd/muster/words", "gateway", "gateway/admin", "gateway/passhash", "plugins/backend/strictyaml"},
	"cmd/muster/simulate":         {"cmd/muster/words", "gateway/pkix", "protocols/cms", "protocols/cmp/cmpmsg"},
	"e2e":                         {"*"},
	"configs":                     {"*"},
	"gateway":                     {"gateway/pkix", "gateway/trace", "plugins/backend"},
	"gateway/trace":               {},
	"gateway/pkix":                {},
	"gateway/pkix/pkixtest":       {"gateway/pkix"},
	"gateway/audit":               {},
	"gateway/store":               {"gateway", "gateway/audit", "gateway/trace", "plugins/backend", "plugins/backend/groupcommit", "plugins/backend/pgprimary"},
	"gateway/store/storetest":     {"gateway", "gateway/audit", "gateway/store", "plugins/backend"},
	"gateway/seal":                {},
	"gateway/passhash":            {},
	"gateway/profile":             {"gateway", "gateway/pkix", "plugins/backend/strictyaml"},
	"gateway/lint":                {"gateway", "plugins/backend", "plugins/backend/strictyaml"},
	"gateway/serve":               {"gateway", "gateway/pkix", "plugins/backend/strictyaml"},
	"gateway/admin":               {"gateway", "gateway/pkix", "gateway/passhash", "plugins/backend", "plugins/backend/strictyaml"},
	"gateway/admin/console":       {"gateway/admin", "plugins/backend/strictyaml"},
	"authz":                       {"gateway", "gateway/pkix", "gateway/passhash", "authz/webhook", "authz/policy", "plugins/backend/strictyaml"},
	"authz/policy":                {"gateway", "plugins/backend/strictyaml"},
	"authz/webhook":               {"plugins/backend/strictyaml"},
	"protocols/cms":               {},
	"protocols/wire":              {"gateway", "plugins/backend/strictyaml"},
	"protocols/est":               {"gateway", "gateway/pkix", "protocols/cms", "protocols/wire", "plugins/backend/strictyaml"},
	"protocols/cmp":               {"gateway", "gateway/pkix", "protocols/cms", "protocols/wire", "protocols/cmp/cmpmsg", "plugins/backend/strictyaml"},
	"protocols/cmp/cmpmsg":        {"protocols/cms"}, // the guard
	"protocols/scep":              {"gateway", "gateway/pkix", "protocols/cms", "protocols/wire", "plugins/backend/strictyaml"},
	"protocols/mdm":               {"gateway", "gateway/pkix", "protocols/cms", "protocols/wire", "plugins/backend/strictyaml"},
	"plugins/backend":             {"plugins/backend/backendpb/v1"},
	"plugins/backend/backendpb":   {},
	"plugins/backend/groupcommit": {},
	"plugins/backend/pgprimary":   {},
	"plugins/backend/strictyaml":  {},
	"plugins/backend/frame":       {"plugins/backend"},
	"plugins/backend/upstream":    {"plugins/backend", "plugins/backend/strictyaml"},
	"plugins/backend/command":     {},
	"plugins/backend/backendtest": {"plugins/backend", "plugins/host"},
	"plugins/host":                {"plugins/backend"},
	"backends":                    {"plugins/backend", "plugins/backend/frame", "plugins/backend/upstream", "plugins/backend/strictyaml"},
	"backends/exec":               {"plugins/backend", "plugins/backend/frame", "plugins/backend/command", "plugins/backend/strictyaml"},
	"backends/acme":               {"plugins/backend", "plugins/backend/frame", "plugins/backend/command", "plugins/backend/upstream", "plugins/backend/strictyaml"},
	"backends/local":              {"plugins/backend", "plugins/backend/groupcommit", "plugins/backend/pgprimary", "plugins/backend/strictyaml"},
	"backends/cmp":                {"plugins/backend", "plugins/backend/frame", "plugins/backend/upstream", "plugins/backend/strictyaml", "protocols/cmp/cmpmsg", "gateway/pkix"}, // gateway/pkix: signatures
	"backends/est":                {"plugins/backend", "plugins/backend/frame", "plugins/backend/upstream", "plugins/backend/strictyaml", "protocols/cms"},
	"backends/scep":               {"plugins/backend", "plugins/backend/frame", "plugins/backend/upstream", "plugins/backend/strictyaml", "protocols/cms"},
}

// Echo is a matter of those who speak HTTP.
var echoRooms = []string{"protocols/est", "protocols/cmp", "protocols/scep", "protocols/mdm", "gateway/serve", "gateway/admin", "cmd/muster", "e2e"}

type pkg struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	Imports    []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,GoFiles,Imports", module+"...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func ruleFor(room string) (allowed []string, ok bool) {
	for at := room; at != "."; at = path.Dir(at) {
		if allowed, ok := rules[at]; ok {
			return allowed, true
		}
	}
	return nil, false
}

func TestRoomsImportOnlyWhatTheyMay(t *testing.T) {
	all := packages(t)
	if len(all) < 10 {
		t.Fatalf("go list found only %d packages", len(all))
	}
	for _, p := range all {
		room := strings.TrimPrefix(p.ImportPath, module)
		allowed, ok := ruleFor(room)
		if !ok {
			t.Errorf("%s stands in no room: give it a rule", room)
			continue
		}
		for _, imp := range p.Imports {
			target, ours := strings.CutPrefix(imp, module)
			if !ours || may(allowed, target) {
				continue
			}
			t.Errorf("%s imports %s; it may import %v", room, target, allowed)
		}
	}
}

func may(allowed []string, target string) bool {
	for _, a := range allowed {
		if a == "*" || a == target {
			return true
		}
	}
	return false
}

func TestEchoStaysWithHTTP(t *testing.T) {
	for _, p := range packages(t) {
		room := strings.TrimPrefix(p.ImportPath, module)
		for _, imp := range p.Imports {
			if !strings.HasPrefix(imp, "github.com/labstack/echo") {
				continue
			}
			if !may(echoRooms, room) {
				t.Errorf("%s imports Echo", room)
			}
			if !strings.HasPrefix(room, "protocols/") {
				continue
			}
			for _, f := range p.GoFiles {
				out, err := exec.Command("go", "list", "-f", "{{join .Imports \" \"}}", p.Dir+"/"+f).Output()
				if err != nil {
					t.Fatal(err)
				}
				if strings.Contains(string(out), "labstack/echo") && f != "http.go" {
					t.Errorf("%s/%s imports Echo: only http.go does", room, f)
				}
			}
		}
	}
}

// Nothing registers itself: what runs is wired in cmd/muster/build.go.
func TestNoInit(t *testing.T) {
	for _, p := range packages(t) {
		for _, f := range p.GoFiles {
			if strings.HasSuffix(f, ".pb.go") {
				continue
			}
			out, err := exec.Command("grep", "-nE", `^func init\(\)`, p.Dir+"/"+f).CombinedOutput()
			if err == nil {
				t.Errorf("%s/%s: %s", strings.TrimPrefix(p.ImportPath, module), f, out)
			}
		}
	}
}
