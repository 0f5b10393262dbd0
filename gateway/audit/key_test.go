package audit

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLoadKey(t *testing.T) {
	dir := t.TempDir()
	private, public := filepath.Join(dir, "audit.key"), filepath.Join(dir, "audit.pub")
	load := func(made bool) *Key {
		t.Helper()
		k, m, err := LoadKey(private, public)
		if err != nil || m != made {
			t.Fatalf("made %t, %v", m, err)
		}
		return k
	}
	ids := func() (all []string) {
		t.Helper()
		keys, err := ReadPublicKeys(public)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range keys {
			all = append(all, k.ID)
		}
		return all
	}
	first := load(true)
	if again := load(false); again.Public().ID != first.Public().ID {
		t.Error("another key the second time")
	}
	info, err := os.Stat(private)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	if got := ids(); len(got) != 1 || got[0] != first.Public().ID {
		t.Errorf("public: %v", got)
	}
	// A key that was lost stays known.
	if err := os.Remove(private); err != nil {
		t.Fatal(err)
	}
	second := load(true)
	if got := ids(); len(got) != 2 || got[0] != first.Public().ID || got[1] != second.Public().ID {
		t.Errorf("public: %v", got)
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".*")); err != nil || left != nil {
		t.Errorf("left behind: %v %v", left, err)
	}

	text, err := os.ReadFile(private)
	if err != nil {
		t.Fatal(err)
	}
	secret := strings.Split(string(text), "\n")[1]
	for name, c := range map[string]struct {
		text string
		mode os.FileMode
		want string
	}{
		"others may read": {string(text), 0o640, "0640"},
		"nothing":         {"", 0o600, "PEM"},
		"a public key":    {"-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n", 0o600, "PRIVATE KEY"},
		"half":            {strings.Replace(string(text), secret, secret[:20], 1), 0o600, "PKCS #8"},
		"too long":        {strings.Repeat(string(text), 200), 0o600, "too long"},
	} {
		if err := os.WriteFile(private, []byte(c.text), c.mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(private, c.mode); err != nil {
			t.Fatal(err)
		}
		_, _, err := LoadKey(private, public)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), secret[:8]) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ReadPublicKeys(private); err == nil {
		t.Error("a private key is read as a public one")
	}
	if err := os.WriteFile(public, []byte("no"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadPublicKeys(public); err == nil {
		t.Error("a file without keys is read")
	}
}

func TestHeadFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.head")
	open := func(stream string) (*HeadFile, *Left, bool) {
		t.Helper()
		h, left, damaged, err := OpenHeads(path, stream)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = h.Close() })
		return h, left, damaged
	}
	h, left, damaged := open("o\"n e")
	if left != nil || damaged {
		t.Fatal(left, damaged)
	}
	last := Head{"o\"n e", 5, Link("x", 1, nil, "")}
	if err := h.Write(last, false); err != nil {
		t.Fatal(err)
	}
	other, left, _ := open("two")
	if left != nil {
		t.Fatal(left)
	}
	if err := other.Write(Head{"two", 7, Genesis()}, true); err != nil {
		t.Fatal(err)
	}
	_, left, _ = open("o\"n e")
	if left == nil || left.String() != last.String() || left.Closed {
		t.Errorf("%v", left)
	}
	all, err := ReadHeads(path)
	if err != nil || len(all) != 2 || all[1].Seq != 7 || !all[1].Closed {
		t.Fatal(all, err)
	}
	text, err := os.ReadFile(path)
	if err != nil || len(text) != 2*slotSize {
		t.Fatal(len(text), err)
	}
	for i := range bytes.IndexByte(text, '\n') {
		bad := append([]byte{}, text...)
		bad[i] ^= 1
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if all, err := ReadHeads(path); err == nil {
			t.Fatalf("byte %d changed: %v", i, all)
		}
	}
	if _, left, damaged := open("o\"n e"); left != nil || !damaged {
		t.Errorf("of a damaged file: %v %t", left, damaged)
	}
	if _, left, _ := open("two"); left == nil || left.Seq != 7 {
		t.Errorf("the other slot: %v", left)
	}
	if _, _, _, err := OpenHeads(path, strings.Repeat("x", slotSize)); err == nil {
		t.Error("a name that does not fit")
	}
}

func BenchmarkHeadFile(b *testing.B) {
	h, _, _, err := OpenHeads(filepath.Join(b.TempDir(), "audit.head"), "one")
	if err != nil {
		b.Fatal(err)
	}
	defer h.Close()
	last := Head{"one", 1, Genesis()}
	for b.Loop() {
		last.Seq++
		if err := h.Write(last, false); err != nil {
			b.Fatal(err)
		}
	}
}
