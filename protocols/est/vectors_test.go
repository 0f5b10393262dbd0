package est

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/wire"
)

const testdata = "../../testdata/est"

// vectors returns the files of a folder of testdata. Each has a line in the README.
func vectors(t testing.TB, folder string) map[string][]byte {
	t.Helper()
	readme, err := os.ReadFile(filepath.Join(testdata, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(filepath.Join(testdata, folder))
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	out := map[string][]byte{}
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(testdata, folder, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out[f.Name()] = data
		if !strings.Contains(string(readme), "| `"+f.Name()+"` |") {
			t.Errorf("%s is not in the README", f.Name())
		}
	}
	return out
}

// read is what the handler does with a body, but for the connection: its binding is none that a vector knows.
func read(body []byte) (*gateway.Request, *wire.Refusal) {
	der, err := decodeBody(body)
	if err != nil {
		return nil, wire.Refused(gateway.Malformed, err.Error(), err)
	}
	c, ref := parseCertification(der)
	if ref != nil {
		return nil, ref
	}
	if _, err := checkBinding("dGhlIGNvbm5lY3Rpb24=", "tls-unique", c.bindings); err != nil {
		return nil, wire.Refused(gateway.BadPOP, err.Error(), err)
	}
	r := &gateway.Request{POP: gateway.POPSignature}
	return r, c.fill(r, gateway.Enroll)
}

// A file's name begins with what it must give: ok, or the reason of the refusal.
func TestBodies(t *testing.T) {
	for name, body := range vectors(t, "bodies") {
		got := "ok"
		if _, ref := read(body); ref != nil {
			got = string(ref.Err.Reason)
			t.Logf("%s: %s", name, ref.Err.Detail)
		}
		if !strings.HasPrefix(name, got+"-") {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func TestChangeSubjectNameVectors(t *testing.T) {
	for name, der := range vectors(t, "changesubjectname") {
		names, err := parseChangeSubjectName(der)
		if (err == nil) != strings.HasPrefix(name, "ok-") {
			t.Errorf("%s: %v, %v", name, names, err)
		}
	}
}
