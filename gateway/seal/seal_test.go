package seal

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func sealer(t testing.TB, fill byte) *Sealer {
	t.Helper()
	s, err := New(bytes.Repeat([]byte{fill}, KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRoundTrip(t *testing.T) {
	s := sealer(t, 1)
	for _, secret := range [][]byte{nil, {0}, []byte("geheim"), bytes.Repeat([]byte("x"), 5000)} {
		for _, context := range [][]string{nil, {""}, {"ran", "\xff\x00", "device"}} {
			sealed := s.Seal(secret, context...)
			if len(sealed) != len(secret)+33 {
				t.Errorf("%d bytes became %d", len(secret), len(sealed))
			}
			got, err := s.Open(sealed, context...)
			if err != nil || !bytes.Equal(got, secret) {
				t.Errorf("%d bytes under %q: %v", len(secret), context, err)
			}
			if len(secret) > 4 && bytes.Contains(sealed, secret) {
				t.Error("the secret can be read")
			}
		}
	}
}

// TestForm: what lies in a store must be readable by every later release.
func TestForm(t *testing.T) {
	key := bytes.Repeat([]byte{7}, KeySize)
	sum := sha256.Sum256(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	header := append([]byte{1}, sum[:4]...)
	aad := slices.Concat(header, []byte{0, 0, 0, 0, 0, 0, 0, 3}, []byte("ran"), make([]byte, 8))
	nonce := []byte("twelve bytes")
	sealed := slices.Concat(header, nonce, gcm.Seal(nil, nonce, []byte("geheim"), aad))
	got, err := sealer(t, 7).Open(sealed, "ran", "")
	if err != nil || string(got) != "geheim" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestNonces: the same secret never looks the same.
func TestNonces(t *testing.T) {
	s := sealer(t, 1)
	seen := map[string]bool{}
	for range 1000 {
		nonce := string(s.Seal([]byte("geheim"))[header:][:nonceSize])
		if seen[nonce] {
			t.Fatal("a nonce came twice")
		}
		seen[nonce] = true
	}
}

func TestOpenRefuses(t *testing.T) {
	const secret = "geheim-geheim"
	s := sealer(t, 1)
	sealed := s.Seal([]byte(secret), "ran", "ref", "device")
	for name, c := range map[string]struct {
		sealer  *Sealer
		sealed  []byte
		context []string
		want    error
	}{
		"another key":         {sealer(t, 2), sealed, []string{"ran", "ref", "device"}, ErrOtherKey},
		"another part":        {s, sealed, []string{"ran", "ref", "other"}, ErrDamaged},
		"parts shifted":       {s, sealed, []string{"ran", "refd", "evice"}, ErrDamaged},
		"parts joined":        {s, sealed, []string{"ran", "refdevice"}, ErrDamaged},
		"a part more":         {s, sealed, []string{"ran", "ref", "device", ""}, ErrDamaged},
		"parts exchanged":     {s, sealed, []string{"ref", "ran", "device"}, ErrDamaged},
		"no context":          {s, sealed, nil, ErrDamaged},
		"a part with lengths": {s, sealed, []string{"ran\x00\x00\x00\x00\x00\x00\x00\x03ref", "device"}, ErrDamaged},
		"a version to come":   {s, append([]byte{2}, sealed[1:]...), []string{"ran", "ref", "device"}, ErrDamaged},
		"nothing":             {s, nil, []string{"ran", "ref", "device"}, ErrDamaged},
		"more":                {s, append(slices.Clone(sealed), 0), []string{"ran", "ref", "device"}, ErrDamaged},
	} {
		got, err := c.sealer.Open(c.sealed, c.context...)
		if !errors.Is(err, c.want) || got != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		if errors.Is(err, ErrOtherKey) && errors.Is(err, ErrDamaged) {
			t.Errorf("%s: the error says both: %v", name, err)
		}
	}
	context := []string{"ran", "ref", "device"}
	for i := range sealed {
		if _, err := s.Open(sealed[:i], context...); !errors.Is(err, ErrDamaged) {
			t.Errorf("cut to %d bytes: %v", i, err)
		}
		damaged := slices.Clone(sealed)
		damaged[i] ^= 0x40
		got, err := s.Open(damaged, context...)
		want := ErrDamaged
		if i >= 1 && i < header {
			want = ErrOtherKey
		}
		if !errors.Is(err, want) || got != nil {
			t.Errorf("byte %d changed: %q, %v", i, got, err)
		}
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("the error tells the secret: %v", err)
		}
	}
}

func TestNew(t *testing.T) {
	for _, n := range []int{0, 16, 24, 31, 33} {
		if _, err := New(make([]byte, n)); err == nil {
			t.Errorf("a key of %d bytes was taken", n)
		}
	}
}

// TestPrinted: no log prints the key.
func TestPrinted(t *testing.T) {
	s := sealer(t, 0x5a)
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		got := fmt.Sprintf(format, s)
		if len(got) > 40 || !strings.Contains(got, s.ID()) {
			t.Errorf("%s prints %s", format, got)
		}
	}
}

// FuzzOpen: whatever lies in the store, Open neither panics nor gives out what was not sealed.
func FuzzOpen(f *testing.F) {
	s := sealer(f, 1)
	good := s.Seal([]byte("geheim"), "ran")
	f.Add(good, "ran")
	f.Add(good, "core")
	f.Add(good[:len(good)-1], "ran")
	f.Add(sealer(f, 2).Seal(nil, "ran"), "ran")
	f.Add([]byte(nil), "")
	f.Add(bytes.Repeat([]byte{1}, 33), "")
	f.Fuzz(func(t *testing.T, sealed []byte, context string) {
		got, err := s.Open(sealed, context)
		switch {
		case err == nil && (context != "ran" || string(got) != "geheim"): // sealed by this process or another one, by the same key
			t.Errorf("opened %x under %q: %q", sealed, context, got)
		case err != nil && errors.Is(err, ErrDamaged) == errors.Is(err, ErrOtherKey):
			t.Errorf("the error says neither or both: %v", err)
		}
	})
}

func FuzzSeal(f *testing.F) {
	s := sealer(f, 1)
	f.Add([]byte("geheim"), "a", "bc", "ab", "c")
	f.Add([]byte{}, "", "", "", "\x00")
	f.Fuzz(func(t *testing.T, secret []byte, a, b, c, d string) {
		sealed := s.Seal(secret, a, b)
		if got, err := s.Open(sealed, a, b); err != nil || !bytes.Equal(got, secret) {
			t.Fatalf("%q, %v", got, err)
		}
		if _, err := s.Open(sealed, c, d); (err == nil) != (a == c && b == d) {
			t.Errorf("sealed for %q, %q; opened for %q, %q: %v", a, b, c, d, err)
		}
	})
}

// RFC 5869: what is derived depends on the key and the label, and on nothing else.
func TestDerive(t *testing.T) {
	a := sealer(t, 1).Derive("est")
	if len(a) != 32 || !bytes.Equal(a, sealer(t, 1).Derive("est")) {
		t.Errorf("%x is not the same again", a)
	}
	for name, other := range map[string][]byte{
		"another label": sealer(t, 1).Derive("est2"), "another key": sealer(t, 2).Derive("est"), "the key": bytes.Repeat([]byte{1}, KeySize),
	} {
		if bytes.Equal(a, other) {
			t.Errorf("the same as %s", name)
		}
	}
	// It has to stay what it is: what replicas of two versions hand out is recognized by both.
	if got, want := fmt.Sprintf("%x", a), "ea5dff626e8d9af15b92272ad6b962814d083e6d00a0a75fde1491fce5ca6aa1"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
