//go:build cgo && cas

//lint:file-ignore SA1019 PKCS #1 v1.5 is what SCEP's clients encrypt with.

package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/muster-pki/muster/backends/local"
	"github.com/muster-pki/muster/cmd/muster-pkcs11/token"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// These run against SoftHSM 2, a token in software: `make backends`.

const (
	module = "/usr/lib/softhsm/libsofthsm2.so"
	pin    = "pin-4711-of-the-test"
)

var store string // SoftHSM's

func TestMain(m *testing.M) {
	if os.Getenv(backend.LifelineEnv) == "" { // else a plugin process, which has it from its parent's configuration
		dir, err := os.MkdirTemp("", "muster-pkcs11-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		defer os.RemoveAll(dir)
		store = dir
	}
	backendtest.Main(m, map[string]func() backend.Backend{"pkcs11": newBackend})
}

func newBackend() backend.Backend { return newPlugin(backend.Logger()) }

// newToken makes a token of its own in a store of its own.
func newToken(t testing.TB) local.PKCS11 {
	t.Helper()
	dir := t.TempDir()
	conf := filepath.Join(store, "softhsm2.conf")
	tokens := filepath.Join(store, "tokens")
	if err := errors.Join(os.MkdirAll(tokens, 0o700), os.WriteFile(conf, []byte("directories.tokendir = "+tokens+"\nobjectstore.backend = file\n"), 0o600),
		os.WriteFile(filepath.Join(dir, "pin"), []byte(pin+"\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	label := fmt.Sprintf("%x", sha256.Sum256([]byte(dir)))[:16]
	cmd := exec.CommandContext(t.Context(), "softhsm2-util", "--init-token", "--free", "--label", label, "--so-pin", "so-pin-4711", "--pin", pin)
	cmd.Env = append(os.Environ(), "SOFTHSM2_CONF="+conf)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return local.PKCS11{Module: module, Token: label, PIN: filepath.Join(dir, "pin"), Environment: map[string]string{"SOFTHSM2_CONF": conf}}
}

func yamlOf(dir string, c local.PKCS11, more string) []byte {
	text := fmt.Sprintf("pkcs11: {module: %q, token: %q, pin: %q, environment: {SOFTHSM2_CONF: %q}%s}\n", c.Module, c.Token, c.PIN, c.Environment["SOFTHSM2_CONF"], more)
	if dir != "" {
		text += fmt.Sprintf("dir: %q\n", dir)
	}
	return []byte(text)
}

func openTest(t testing.TB, c local.PKCS11) *token.Token {
	t.Helper()
	k, err := openToken(c, backend.Logger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.Close() })
	return k
}

// TestConformance runs the suite of the contract over the local CA with its keys in the token, which are made once: in process and as a
// plugin process, which is killed.
func TestConformance(t *testing.T) {
	c := newToken(t)
	made := filepath.Join(t.TempDir(), "ca")
	p := newPlugin(backend.Logger())
	if err := errors.Join(p.Configure(t.Context(), yamlOf(made, c, "")), p.Close()); err != nil {
		t.Fatal(err)
	}
	backendtest.Run(t, backendtest.Subject{
		New: newBackend,
		Config: func(t *testing.T) []byte {
			dir := filepath.Join(t.TempDir(), "ca")
			if out, err := exec.CommandContext(t.Context(), "cp", "-a", made, dir).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			return yamlOf(dir, c, "")
		},
		BadConfig: []byte("pkcs11: {module: /none, token: none, pin: /none}\ndirr: /nowhere"),
		Plugin:    "pkcs11",
	})
}

// TestKeys makes a key of each kind, signs and decrypts with it, and finds it again.
func TestKeys(t *testing.T) {
	k := openTest(t, newToken(t))
	digest := sha256.Sum256([]byte("message"))
	long := make([]byte, crypto.SHA512.Size())
	for _, kind := range []string{"P-256", "P-384", "P-521", "Ed25519", "RSA-2048"} {
		t.Run(kind, func(t *testing.T) {
			made, err := k.Generate(kind, "key "+kind)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := k.Generate(kind, "key "+kind); err == nil {
				t.Error("a second key has the label")
			}
			found, err := k.Key("key " + kind)
			if err != nil {
				t.Fatal(err)
			}
			if !found.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(made.Public()) {
				t.Error("another key was found")
			}
			switch pub := found.Public().(type) {
			case *ecdsa.PublicKey:
				for hash, digest := range map[crypto.Hash][]byte{crypto.SHA256: digest[:], crypto.SHA512: long} {
					if s, err := found.Sign(nil, digest, hash); err != nil || !ecdsa.VerifyASN1(pub, digest, s) {
						t.Errorf("%v: %v", hash, err)
					}
				}
			case ed25519.PublicKey:
				if s, err := found.Sign(nil, []byte("message"), crypto.Hash(0)); err != nil || !ed25519.Verify(pub, []byte("message"), s) {
					t.Error(err)
				}
			case *rsa.PublicKey:
				if s, err := found.Sign(nil, digest[:], crypto.SHA256); err != nil || rsa.VerifyPKCS1v15(pub, crypto.SHA256, digest[:], s) != nil {
					t.Error(err)
				}
				pss := &rsa.PSSOptions{Hash: crypto.SHA256, SaltLength: rsa.PSSSaltLengthEqualsHash}
				if s, err := found.Sign(nil, digest[:], pss); err != nil || rsa.VerifyPSS(pub, crypto.SHA256, digest[:], s, nil) != nil {
					t.Error(err)
				}
				decrypts(t, found, pub)
			}
		})
	}
	if _, err := k.Key("none"); !errors.Is(err, token.ErrNoKey) {
		t.Errorf("a key that is not there: %v", err)
	}
}

func decrypts(t *testing.T, k *token.Key, pub *rsa.PublicKey) {
	standIn := []byte("stand-in stand-i")
	sealed := func(plain string) []byte {
		c, err := rsa.EncryptPKCS1v15(rand.Reader, pub, []byte(plain))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	garbage := make([]byte, pub.Size())
	garbage[pub.Size()-1] = 7
	for name, c := range map[string]struct {
		ciphertext []byte
		want       string
	}{
		"sound":          {sealed("0123456789abcdef"), "0123456789abcdef"},
		"another length": {sealed("0123456789abcde"), string(standIn)},
		"bad padding":    {garbage, string(standIn)},
	} {
		if plain, err := k.SessionKey(c.ciphertext, standIn); err != nil || string(plain) != c.want {
			t.Errorf("%s: %q, %v", name, plain, err)
		}
	}
	o := &rsa.OAEPOptions{Hash: crypto.SHA1}
	c, err := rsa.EncryptOAEP(crypto.SHA1.New(), rand.Reader, pub, []byte("plain"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := k.OAEP(c, o); err != nil || string(plain) != "plain" {
		t.Errorf("OAEP: %q, %v", plain, err)
	}
	if _, err := k.OAEP(garbage, o); !errors.Is(err, rsa.ErrDecryption) {
		t.Errorf("OAEP of garbage: %v", err)
	}
}

// TestAway: while the token is away its keys are unavailable, and they are there again when it is.
func TestAway(t *testing.T) {
	c := newToken(t)
	k := openTest(t, c)
	key, err := k.Generate("P-256", "key")
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(nil)
	sign := func() error { _, err := key.Sign(nil, digest[:], crypto.SHA256); return err }
	var wg sync.WaitGroup
	for range 40 { // more than there are sessions
		wg.Go(func() {
			if err := sign(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	tokens := filepath.Join(store, "tokens")
	if err := os.Rename(tokens, tokens+".away"); err != nil {
		t.Fatal(err)
	}
	back := sync.OnceFunc(func() {
		if err := os.Rename(tokens+".away", tokens); err != nil {
			t.Fatal(err)
		}
	})
	defer back()
	for err = sign(); err == nil; err = sign() { // SoftHSM has read the key, and looks again at some time
	}
	if !errors.Is(err, token.ErrUnavailable) || strings.Contains(err.Error(), pin) {
		t.Errorf("without the token: %v", err)
	}
	back()
	for err = sign(); errors.Is(err, token.ErrUnavailable); err = sign() { // each fails at once, or after it has looked
	}
	if err != nil {
		t.Errorf("the token is back: %v", err)
	}
}

// TestWrongPIN: a PIN that was refused is not tried again, so that no token is locked by it.
func TestWrongPIN(t *testing.T) {
	c := newToken(t)
	if err := os.WriteFile(c.PIN, []byte("0000-wrong"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := openToken(c, backend.Logger())
	if err == nil || !strings.Contains(err.Error(), "is not the token's") || strings.Contains(err.Error(), "0000-wrong") {
		t.Errorf("a wrong PIN: %v", err)
	}
	if err := os.Chmod(c.PIN, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := openToken(c, backend.Logger()); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a PIN that everybody may read: %v", err)
	}
}

// TestKeysOfTheGateway: by the contract, those that the configuration names and no others.
func TestKeysOfTheGateway(t *testing.T) {
	c := newToken(t)
	made := openTest(t, c)
	for _, label := range []string{"ra", "other"} {
		if _, err := made.Generate("RSA-2048", label); err != nil {
			t.Fatal(err)
		}
	}
	if err := made.Close(); err != nil {
		t.Fatal(err)
	}
	p := newPlugin(backend.Logger())
	if err := p.Configure(t.Context(), yamlOf("", c, ", keys: [ra, gone]")); err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for _, label := range []string{"other", "gone"} {
		if _, err := p.PublicKey(t.Context(), label); err == nil || !strings.Contains(err.Error(), "NotFound") {
			t.Errorf("%s: %v", label, err)
		}
	}
	if err := p.CRL(context.Background(), "", io.Discard); err == nil || !strings.Contains(err.Error(), "Unimplemented") {
		t.Errorf("a CRL of no CA: %v", err)
	}
	k, err := p.key("ra")
	if err != nil {
		t.Fatal(err)
	}
	of := backend.NewHeldKey("ra", k.Public())
	if err := of.Open(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	decrypts(t, k, k.Public().(*rsa.PublicKey))
	one, err := of.Secret()
	again := backend.NewHeldKey("ra", k.Public())
	if openErr := again.Open(t.Context(), p); err != nil || openErr != nil {
		t.Fatal(err, openErr)
	}
	if two, err := again.Secret(); err != nil || string(one) != string(two) {
		t.Errorf("another secret of the same key: %v", err)
	}
	if err := backend.NewHeldKey("ra", ed25519.PublicKey(make([]byte, 32))).Open(t.Context(), p); err == nil {
		t.Error("a key that is another one than the certificate's was opened")
	}
}

// BenchmarkSign is a signature in the token and one by a key in memory, and what of a processor each takes.
func BenchmarkSign(b *testing.B) {
	c := newToken(b)
	k := openTest(b, c)
	digest := sha256.Sum256([]byte("message"))
	for _, kind := range []string{"P-256", "RSA-2048", "RSA-3072"} {
		held, err := k.Generate(kind, "bench "+kind)
		if err != nil {
			b.Fatal(err)
		}
		var memory crypto.Signer
		if kind == "P-256" {
			memory, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		} else {
			memory, err = rsa.GenerateKey(rand.Reader, held.Public().(*rsa.PublicKey).N.BitLen())
		}
		if err != nil {
			b.Fatal(err)
		}
		for where, key := range map[string]crypto.Signer{"token": held, "memory": memory} {
			b.Run(kind+"/"+where, func(b *testing.B) {
				before := processor(b)
				for b.Loop() {
					if _, err := key.Sign(nil, digest[:], crypto.SHA256); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(processor(b)-before)/float64(b.N), "cpu-ns/op")
			})
		}
	}
}

// processor is what this process has used of processors, in nanoseconds.
func processor(b *testing.B) int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}
