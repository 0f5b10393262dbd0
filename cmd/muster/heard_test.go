package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
)

func heardOf(t *testing.T, name, key string) *heard {
	t.Helper()
	cert, _ := selfSigned(t)
	return &heard{
		Backend: name, Configuration: heardUnder(key), At: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC),
		Description: backend.Description{Name: "corp", Version: "1", Forms: []backend.Form{backend.FormPKCS10}, Idempotency: backend.IdempotencyLookup, Capabilities: []backend.Capability{backend.CapCRL}},
		CAs:         []backend.CA{{Name: "one", Chain: [][]byte{cert.Raw}, CRLs: []string{"one"}}},
	}
}

// summed gives a body the first line that it has to have.
func summed(body []byte) []byte {
	sum := sha256.Sum256(body)
	return append([]byte(heardHead+hex.EncodeToString(sum[:])+"\n"), body...)
}

// What was heard is read back as it was, and by who has the same backend under the same configuration alone.
func TestHeard(t *testing.T) {
	h := newHearing(filepath.Join(t.TempDir(), heardDir))
	const key = "stepca\x00\x00url: https://ca.example.com"
	if _, err := h.recall("corp", key); !errors.Is(err, errUnheard) {
		t.Errorf("before anything was: %v", err)
	}
	one := heardOf(t, "corp", key)
	if err := h.keep(one); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(h.path("corp")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	got, err := h.recall("corp", key)
	if err != nil || !got.sameAs(one) || !got.At.Equal(one.At) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, changed := range []string{"stepca\x00\x00url: https://ca2.example.com", "vault\x00\x00url: https://ca.example.com", "stepca\x00aa\x00url: https://ca.example.com"} {
		if got, err := h.recall("corp", changed); err == nil || !strings.Contains(err.Error(), "under another configuration") {
			t.Errorf("%q: %+v, %v", changed, got, err)
		}
	}
	data, err := os.ReadFile(h.path("corp"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(h.path("corp2"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := h.recall("corp2", key); err == nil || !strings.Contains(err.Error(), `it is of the backend "corp"`) {
		t.Errorf("%+v, %v", got, err)
	}
}

// A file that is not whole, or not what was written, is not used.
func TestHeardIsStrict(t *testing.T) {
	const key = "stepca\x00\x00"
	one := heardOf(t, "corp", key)
	good, err := one.format()
	if err != nil {
		t.Fatal(err)
	}
	body := good[bytes.IndexByte(good, '\n')+1:]
	swapped := func(old, new string) []byte { return summed(bytes.Replace(body, []byte(old), []byte(new), 1)) }
	flipped := bytes.Clone(good)
	flipped[len(flipped)/2] ^= 1
	for name, tc := range map[string]struct {
		data []byte
		want string
	}{
		"as written":         {good, ""},
		"empty":              {nil, "another kind of file"},
		"one bit":            {flipped, "it is damaged"},
		"cut off":            {good[:len(good)-2], "it is damaged"},
		"another release's":  {append([]byte("muster heard 2 "), good[len(heardHead):]...), "another release"},
		"an unknown key":     {swapped(`"backend"`, `"more": 1, "backend"`), "unknown field"},
		"two of them":        {summed(append(bytes.Clone(body), body...)), "something follows"},
		"no time":            {swapped("2030-01-02T03:04:05Z", "0001-01-01T00:00:00Z"), "when that was"},
		"no idempotency":     {swapped(`"lookup"`, `"perhaps"`), "idempotency"},
		"an unknown form":    {swapped(`"pkcs10"`, `"pkcs11"`), "does not know"},
		"no certificate":     {swapped(`"MII`, `"AII`), "CA one"},
		"a name with escape": {swapped(`"one"`, `"one\u001b"`), "a CA without a name"},
		"too large":          {summed(append(bytes.Clone(body), bytes.Repeat([]byte(" "), heardLimit)...)), "more than"},
	} {
		h := newHearing(t.TempDir())
		if err := os.WriteFile(h.path("corp"), tc.data, 0o600); err != nil {
			t.Fatal(err)
		}
		switch got, err := h.recall("corp", key); {
		case tc.want == "" && (err != nil || got == nil):
			t.Errorf("%s: %v", name, err)
		case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
	h := newHearing(t.TempDir())
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	if err := errors.Join(os.WriteFile(elsewhere, good, 0o600), os.Symlink(elsewhere, h.path("corp"))); err != nil {
		t.Fatal(err)
	}
	if _, err := h.recall("corp", key); err == nil || !strings.Contains(err.Error(), "its owner alone") {
		t.Errorf("a link: %v", err)
	}
	if err := errors.Join(os.Remove(h.path("corp")), os.WriteFile(h.path("corp"), good, 0o600), os.Chmod(h.path("corp"), 0o620)); err != nil {
		t.Fatal(err)
	}
	if _, err := h.recall("corp", key); err == nil || !strings.Contains(err.Error(), "its owner alone") {
		t.Errorf("one that a group can write to: %v", err)
	}
	if os.Getuid() == 0 { // nobody else can give one away
		if err := errors.Join(os.Chmod(h.path("corp"), 0o600), os.Chown(h.path("corp"), 12345, 0)); err != nil {
			t.Fatal(err)
		}
		if _, err := h.recall("corp", key); err == nil || !strings.Contains(err.Error(), "its owner alone") {
			t.Errorf("another user's: %v", err)
		}
	}
}

// What is heard again and again is written once an hour, and at once when it changes.
func TestHeardIsKeptToTheHour(t *testing.T) {
	h := newHearing(t.TempDir())
	one := heardOf(t, "corp", "key")
	keep := func(after time.Duration, change func(*heard)) time.Time {
		t.Helper()
		next := *one
		next.At = one.At.Add(after)
		if change != nil {
			change(&next)
		}
		if err := h.keep(&next); err != nil {
			t.Fatal(err)
		}
		got, err := h.recall("corp", "key")
		if err != nil {
			t.Fatal(err)
		}
		return got.At
	}
	keep(0, nil)
	if at := keep(59*time.Minute, nil); !at.Equal(one.At) {
		t.Errorf("written after 59 minutes: %v", at)
	}
	if at := keep(time.Hour, nil); !at.Equal(one.At.Add(time.Hour)) {
		t.Errorf("not written after an hour: %v", at)
	}
	if at := keep(61*time.Minute, func(h *heard) { h.Description.Capabilities = nil }); !at.Equal(one.At.Add(61 * time.Minute)) {
		t.Errorf("other capabilities are not written: %v", at)
	}
}
