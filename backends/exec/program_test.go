package exec

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// programDir is set where this test binary is to be the program of a CA, one folder of which it keeps.
const programDir = "MUSTER_TEST_CA"

func TestMain(m *testing.M) {
	if dir := os.Getenv(programDir); dir != "" {
		os.Exit(program(dir))
	}
	backendtest.Main(m, map[string]func() backend.Backend{"exec": newBackend})
}

func newBackend() backend.Backend { return New(Options{Log: backend.Logger()}) }

// program is a CA of a few files, under a lock: KEY and root.pem, ID.pem for each request, ID.asked for its content, SERIAL.revoked.
func program(dir string) int {
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	must(err)
	must(syscall.Flock(int(lock.Fd()), syscall.LOCK_EX))
	var q question
	must(json.NewDecoder(os.Stdin).Decode(&q))
	a := map[string]any{}
	refuse := func(code, message string) {
		a = map[string]any{"refused": map[string]any{"code": code, "message": message}}
	}
	at := func(name string) string { return filepath.Join(dir, filepath.Base(name)) }
	root, key := standing(dir)
	switch q.Operation {
	case opCA:
		a["cas"] = []any{map[string]any{"name": "main", "chain": []string{pemOf(root.Raw)}}}
	case opIssue:
		asked := fmt.Appendf(nil, "%+v %s", *q.Template, q.CSR)
		if have, err := os.ReadFile(at(q.ID + ".pem")); err == nil {
			if then, err := os.ReadFile(at(q.ID + ".asked")); err != nil || !bytes.Equal(then, asked) {
				refuse("ALREADY_EXISTS", "another request under this ID")
				break
			}
			a["certificate"] = string(have)
			break
		}
		cert := sign(&q, root, key)
		write(at(q.ID+".asked"), asked)
		write(at(q.ID+".pem"), []byte(pemOf(cert)))
		write(at(serialOf(cert)), nil)
		a["certificate"], a["chain"] = pemOf(cert), []string{pemOf(root.Raw)}
	case opLookup:
		if have, err := os.ReadFile(at(q.ID + ".pem")); err == nil {
			a["state"], a["certificate"] = "issued", string(have)
		} else {
			a["state"] = "never"
		}
	case opRevoke:
		if _, err := os.Stat(at(q.Serial)); err != nil || !bytes.Equal(q.IssuerDER, root.RawSubject) {
			refuse("NOT_FOUND", "no such certificate")
			break
		}
		write(at(q.Serial+".revoked"), nil)
		a["revoked"] = true
	case opCRL:
		list := &x509.RevocationList{Number: big.NewInt(time.Now().UnixNano()), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour)}
		all, err := filepath.Glob(at("*.revoked"))
		must(err)
		for _, name := range all {
			n, _ := new(big.Int).SetString(strings.TrimSuffix(filepath.Base(name), ".revoked"), 16)
			list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: n, RevocationTime: time.Now()})
		}
		der, err := x509.CreateRevocationList(rand.Reader, list, root, key)
		must(err)
		a["crl"] = string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))
	}
	must(json.NewEncoder(os.Stdout).Encode(a))
	return 0
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func write(path string, text []byte) {
	must(os.WriteFile(path+".new", text, 0o600))
	must(os.Rename(path+".new", path))
}

func pemOf(der []byte) string { return toPEM("CERTIFICATE", der) }

func serialOf(der []byte) string {
	c, err := x509.ParseCertificate(der)
	must(err)
	return fmt.Sprintf("%X", c.SerialNumber.Bytes())
}

// standing reads the CA, or makes it.
func standing(dir string) (*x509.Certificate, *ecdsa.PrivateKey) {
	path := filepath.Join(dir, "root.pem")
	if _, err := os.Stat(path); err != nil {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(err)
		template := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Exec Root"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: []byte{1},
		}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		must(err)
		kept, err := x509.MarshalPKCS8PrivateKey(key)
		must(err)
		write(filepath.Join(dir, "KEY"), kept)
		write(path, []byte(pemOf(der)))
	}
	text, err := os.ReadFile(path)
	must(err)
	b, _ := pem.Decode(text)
	root, err := x509.ParseCertificate(b.Bytes)
	must(err)
	der, err := os.ReadFile(filepath.Join(dir, "KEY"))
	must(err)
	key, err := x509.ParsePKCS8PrivateKey(der)
	must(err)
	return root, key.(*ecdsa.PrivateKey)
}

func sign(q *question, root *x509.Certificate, key *ecdsa.PrivateKey) []byte {
	b, _ := pem.Decode([]byte(q.Template.PublicKey))
	public, err := x509.ParsePKIXPublicKey(b.Bytes)
	must(err)
	from, err := time.Parse(time.RFC3339, q.Template.NotBefore)
	must(err)
	to, err := time.Parse(time.RFC3339, q.Template.NotAfter)
	must(err)
	sum := sha256.Sum256([]byte(q.ID))
	template := &x509.Certificate{SerialNumber: new(big.Int).SetBytes(append([]byte{0x40}, sum[:15]...)), RawSubject: q.Template.SubjectDER, NotBefore: from, NotAfter: to}
	for _, e := range q.Template.Extensions {
		var id asn1.ObjectIdentifier
		for part := range strings.SplitSeq(e.ID, ".") {
			n, err := strconv.Atoi(part)
			must(err)
			id = append(id, n)
		}
		template.ExtraExtensions = append(template.ExtraExtensions, pkix.Extension{Id: id, Critical: e.Critical, Value: e.Value})
	}
	der, err := x509.CreateCertificate(rand.Reader, template, root, public, key)
	must(err)
	return der
}

// config of a CA whose program is this test binary.
func config(t testing.TB, more ...string) []byte {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, op := range []string{opIssue, opLookup, opRevoke, opCRL, opCA} {
		lines = append(lines, fmt.Sprintf("%s: [%q]", op, self))
	}
	lines = append(lines, fmt.Sprintf("env: {%s: %q}", programDir, t.TempDir()), "concurrent: 8")
	return []byte(strings.Join(append(lines, more...), "\n"))
}
