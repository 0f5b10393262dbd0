package local

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// memoryToken is a token in memory, whose ECDSA signatures are random as a token's are.
type memoryToken struct {
	mu     sync.Mutex
	keys   map[string]crypto.Signer
	away   bool
	signed int
	closed bool
}

type memoryKey struct {
	crypto.Signer
	t *memoryToken
}

var errAway = errors.New("CKR_DEVICE_REMOVED")

func (k memoryKey) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	k.t.mu.Lock()
	defer k.t.mu.Unlock()
	if k.t.away {
		return nil, errAway
	}
	k.t.signed++
	return k.Signer.Sign(rand.Reader, digest, opts)
}

func (m *memoryToken) Generate(kind, label string) (crypto.Signer, error) {
	key, err := keyKinds[kind]()
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.keys == nil {
		m.keys = map[string]crypto.Signer{}
	}
	if m.keys[label] != nil {
		return nil, errors.New("there is one")
	}
	m.keys[label] = key
	return memoryKey{key, m}, nil
}

func (m *memoryToken) Key(label string) (crypto.Signer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.keys[label] == nil {
		return nil, errors.New("there is none")
	}
	return memoryKey{m.keys[label], m}, nil
}

func (m *memoryToken) Close() error { m.closed = true; return nil }

func (m *memoryToken) options(o Options) Options {
	o.Clock = func() time.Time { return now }
	o.OpenToken = func(c PKCS11) (Token, error) {
		if m.away {
			return nil, errAway
		}
		m.closed = false
		return m, nil
	}
	return o
}

func tokenConfig(dir string) string {
	return fmt.Sprintf("dir: %q\npkcs11: {module: /lib/module.so, token: muster, pin: /etc/pin, keys: [ra]}\nissuers: {rsa: {key: RSA-2048}}\n", dir)
}

func openToken(t *testing.T, m *memoryToken, config string, o Options) *CA {
	t.Helper()
	c := New(m.options(o))
	if err := c.Configure(t.Context(), []byte(config)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// TestToken: keys are made in the token, the files name them, and nothing of a key is on the disk; the next process finds them.
func TestToken(t *testing.T) {
	m, dir := new(memoryToken), filepath.Join(t.TempDir(), "ca")
	c := openToken(t, m, tokenConfig(dir), Options{})
	first := issue(t, c, request(t, "tx-1"))
	roll(t, c, backend.RolloverRequest{ID: "roll", Issuer: IssuerEC, Kind: backend.RolloverRekey, Root: true})
	second := issue(t, c, request(t, "tx-2"))
	if err := c.CRL(t.Context(), IssuerEC, io.Discard); err != nil {
		t.Error(err)
	}
	shut(t, c)
	if !m.closed {
		t.Error("the token was not closed")
	}
	if len(m.keys) != 6 { // two CAs and their roots, and the next of one
		t.Errorf("%d keys in the token", len(m.keys))
	}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if bytes.Contains(text, []byte("PRIVATE KEY")) {
			t.Errorf("there is a key in %s", path)
		}
		if strings.HasSuffix(path, ".key") && !bytes.HasPrefix(text, []byte("pkcs11:object=muster-ca-")) {
			t.Errorf("%s: %s", path, text)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	c = openToken(t, m, tokenConfig(dir), Options{})
	for id, was := range map[string][]byte{"tx-1": first.Raw, "tx-2": second.Raw} {
		if again := issue(t, c, request(t, id)); !bytes.Equal(again.Raw, was) {
			t.Errorf("another certificate for %s", id)
		}
	}
	shut(t, c)
	// Without the token nothing is opened, and nothing made.
	plainly := New(Options{})
	if err := plainly.Validate(t.Context(), []byte(tokenConfig(dir))); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "muster-pkcs11") {
		t.Errorf("a program without PKCS #11: %v", err)
	}
	if err := plainly.Configure(t.Context(), fmt.Appendf(nil, "dir: %q", dir)); err == nil || !strings.Contains(err.Error(), "configure `pkcs11`") {
		t.Errorf("without pkcs11: %v", err)
	}
	m.away = true
	if err := New(m.options(Options{})).Configure(t.Context(), []byte(tokenConfig(dir))); status.Code(err) != codes.Unavailable {
		t.Errorf("a token that is away: %v", err)
	}
	m.away = false
	for label := range m.keys {
		if strings.HasPrefix(label, "muster-ca-ec-") && !strings.Contains(label, "root") {
			m.keys[label], _ = keyKinds["P-256"]()
		}
	}
	if err := New(m.options(Options{})).Configure(t.Context(), []byte(tokenConfig(dir))); err == nil || !strings.Contains(err.Error(), "does not belong") {
		t.Errorf("another key under the label: %v", err)
	}
}

// TestTokenCrash: a process that dies between the signature and the ledger, and a ledger that has lost a row, leave no two certificates with
// one serial number, though no signature is made twice. The ledger's certificate is what everybody gets.
func TestTokenCrash(t *testing.T) {
	for _, point := range CrashPoints {
		t.Run(point, func(t *testing.T) {
			m, dir := new(memoryToken), filepath.Join(t.TempDir(), "ca")
			c := openToken(t, m, tokenConfig(dir), Options{Crash: func(at string) {
				if at == point {
					panic(point)
				}
			}})
			before := m.signed
			func() {
				defer func() {
					if r := recover(); r != point {
						t.Errorf("the call ended with %v", r)
					}
				}()
				_, _ = c.Issue(t.Context(), request(t, "tx-1"))
			}()
			shut(t, c)
			c = openToken(t, m, tokenConfig(dir), Options{})
			one := issue(t, c, request(t, "tx-1"))
			again := issue(t, c, request(t, "tx-1"))
			if !bytes.Equal(one.Raw, again.Raw) {
				t.Error("two certificates for one ID")
			}
			if n, want := m.signed-before, map[string]int{CrashBeforeSign: 1, CrashAfterSign: 2, CrashAfterLedger: 1}[point]; n != want {
				t.Errorf("%d signatures, want %d", n, want)
			}
			shut(t, c)
			execLedger(t, dir, `DELETE FROM certificates`) // a backup from before
			c = openToken(t, m, tokenConfig(dir), Options{})
			other := issue(t, c, request(t, "tx-1"))
			if other.SerialNumber.Cmp(one.SerialNumber) == 0 {
				t.Error("a second certificate with the same serial number")
			}
			rsa := request(t, "tx-rsa")
			rsa.Issuer = IssuerRSA
			was := issue(t, c, rsa)
			shut(t, c)
			execLedger(t, dir, `DELETE FROM certificates`)
			if c = openToken(t, m, tokenConfig(dir), Options{}); !bytes.Equal(issue(t, c, rsa).Raw, was.Raw) {
				t.Error("RSA signs alike in a token too: another certificate")
			}
		})
	}
}

// TestTokenAway: while the token cannot sign the outcome is unknown, the gateway is told that the CA can issue nothing, and afterwards the same
// ID has one certificate.
func TestTokenAway(t *testing.T) {
	m, dir := new(memoryToken), filepath.Join(t.TempDir(), "ca")
	c := openToken(t, m, tokenConfig(dir), Options{})
	m.away = true
	if _, err := c.Issue(t.Context(), request(t, "tx-1")); !backend.IsUnable(err) || backend.Definite(err) {
		t.Errorf("a token that is away: %v", err)
	}
	m.away = false
	issue(t, c, request(t, "tx-1"))
}

// TestTokenImport takes a CA whose key is in the token already.
func TestTokenImport(t *testing.T) {
	m, dir := new(memoryToken), t.TempDir()
	made := openToken(t, m, tokenConfig(filepath.Join(dir, "made")), Options{})
	var label string
	for l := range m.keys {
		if strings.HasPrefix(l, "muster-ca-ec-") && !strings.Contains(l, "root") {
			label = l
		}
	}
	i := made.open.Load().issuers[0]
	if err := os.WriteFile(filepath.Join(dir, "chain.pem"), certificatePEM(i.certs...), 0o600); err != nil {
		t.Fatal(err)
	}
	shut(t, made)
	config := fmt.Sprintf("dir: %q\npkcs11: {module: /lib/module.so, token: muster, pin: /etc/pin}\nissuers: {rsa: {key: RSA-2048}, ec: {name: Other, root-name: Other Root}, corp: {import: {cert: %q, key: \"pkcs11:object=%s\"}}}\n",
		filepath.Join(dir, "ca"), filepath.Join(dir, "chain.pem"), label)
	c := openToken(t, m, config, Options{})
	q := request(t, "tx-1")
	q.Issuer = "corp"
	if err := issue(t, c, q).CheckSignatureFrom(i.cert); err != nil {
		t.Error(err)
	}
	shut(t, c)
	openToken(t, m, config, Options{})
}

// TestTokenConfig refuses what cannot be, with the key's name.
func TestTokenConfig(t *testing.T) {
	for text, want := range map[string]string{
		"pkcs11: {token: t, pin: /p}":                                                                                             "module",
		"pkcs11: {module: m.so, token: t, pin: /p}":                                                                               `pkcs11.module: "m.so" is not an absolute path`,
		"pkcs11: {module: /m.so, token: t, pin: p}":                                                                               `pkcs11.pin: "p" is not an absolute path`,
		"pkcs11: {module: /m.so, token: t, pin: /p, keys: [muster-ca-ec-1]}":                                                      "named as a key of a CA's own",
		"pkcs11: {module: /m.so, token: t, pin: /p, keys: ['']}":                                                                  "1 to 256 octets",
		"pkcs11: {module: /m.so, token: t, pin: /p, environment: {A=B: c}}":                                                       "there can be no",
		"pkcs11: {module: /m.so, token: " + strings.Repeat("t", 33) + ", pin: /p}":                                                "32 octets at most",
		"pkcs11: {module: /m.so, token: t, pin: /p, keys: [root]}\nissuers: {c: {import: {cert: /c, key: 'pkcs11:object=root'}}}": `"root" is the key of CA c`,
		"issuers: {c: {import: {cert: /c, key: 'pkcs11:id=%01'}}}":                                                                "other than pkcs11:object=LABEL",
		"issuers: {c: {import: {cert: /c, key: 'pkcs11:type=private'}}}":                                                          "without object=LABEL",
	} {
		_, _, err := parseConfig([]byte("dir: /ca\n" + text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// TestTokenMoves: a CA with its keys in files has the next ones in the token.
func TestTokenMoves(t *testing.T) {
	m, dir := new(memoryToken), standing(t)
	config := fmt.Sprintf("dir: %q\npkcs11: {module: /lib/module.so, token: muster, pin: /etc/pin}\n", dir)
	c := openToken(t, m, config, Options{})
	roll(t, c, backend.RolloverRequest{ID: "roll", Issuer: IssuerEC, Kind: backend.RolloverRekey})
	if i := c.open.Load().issuers[0]; !i.inToken() || i.all[0].inToken() || len(m.keys) != 1 {
		t.Errorf("%d keys in the token", len(m.keys))
	}
	issue(t, c, request(t, "tx-1"))
}
