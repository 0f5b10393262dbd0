package local

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
)

func TestMadeCA(t *testing.T) {
	// An umask that would open everything must not matter.
	defer syscall.Umask(syscall.Umask(0))
	dir := filepath.Join(t.TempDir(), "new", "ca")
	c := open(t, dir, Options{})
	cas, err := c.CACertificates(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(cas) != 2 || cas[0].Name != IssuerEC || cas[1].Name != IssuerRSA {
		t.Fatalf("got %v, want ec and rsa", cas)
	}
	wantNames := map[string][2]string{
		IssuerEC:  {"CN=Muster Issuing CA,O=Muster", "CN=Muster Root CA,O=Muster"},
		IssuerRSA: {"CN=Muster RSA Issuing CA,O=Muster", "CN=Muster RSA Root CA,O=Muster"},
	}
	var roots []byte
	for _, ca := range cas {
		if len(ca.Chain) != 2 || ca.Rollover != nil {
			t.Fatalf("%s: chain of %d", ca.Name, len(ca.Chain))
		}
		var chain [2]*x509.Certificate
		for i, der := range ca.Chain {
			x, err := x509.ParseCertificate(der)
			if err != nil {
				t.Fatal(err)
			}
			chain[i] = x
			if x.Subject.String() != wantNames[ca.Name][i] {
				t.Errorf("%s: subject %q, want %q", ca.Name, x.Subject, wantNames[ca.Name][i])
			}
			if x.Version != 3 || !x.BasicConstraintsValid || !x.IsCA || x.MaxPathLen != 2*i {
				t.Errorf("%s: version %d, CA %t, path length %d", x.Subject, x.Version, x.IsCA, x.MaxPathLen)
			}
			for _, e := range x.Extensions {
				if critical := e.Id.Equal(oidBasicConstraints) || e.Id.Equal(oidKeyUsage); e.Critical != critical {
					t.Errorf("%s: extension %s critical: %t", x.Subject, e.Id, e.Critical)
				}
			}
			if serial := x.SerialNumber.Bytes(); len(serial) != 20 || serial[0]&0x80 != 0 {
				t.Errorf("%s: serial %x", x.Subject, serial)
			}
			algorithm := map[string]x509.PublicKeyAlgorithm{IssuerEC: x509.ECDSA, IssuerRSA: x509.RSA}[ca.Name]
			if x.PublicKeyAlgorithm != algorithm {
				t.Errorf("%s: key %s", x.Subject, x.PublicKeyAlgorithm)
			}
			if !x.NotBefore.Equal(now.Add(-day)) {
				t.Errorf("%s: valid from %s", x.Subject, x.NotBefore)
			}
		}
		issuing, root := chain[0], chain[1]
		if err := issuing.CheckSignatureFrom(root); err != nil {
			t.Error(err)
		}
		if !bytes.Equal(issuing.AuthorityKeyId, root.SubjectKeyId) || !bytes.Equal(root.AuthorityKeyId, root.SubjectKeyId) || len(root.SubjectKeyId) != 20 {
			t.Errorf("%s: key identifiers do not chain", ca.Name)
		}
		if root.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign || issuing.KeyUsage != root.KeyUsage|x509.KeyUsageDigitalSignature {
			t.Errorf("%s: key usages %b, %b", ca.Name, root.KeyUsage, issuing.KeyUsage)
		}
		if !root.NotAfter.Equal(now.Add(9131*day-time.Second)) || !issuing.NotAfter.Equal(now.Add(3652*day-time.Second)) {
			t.Errorf("%s: valid until %s, root %s", ca.Name, issuing.NotAfter, root.NotAfter)
		}
		roots = append(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Chain[1]})...)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "roots.pem")); err != nil || !bytes.Equal(got, roots) {
		t.Errorf("roots.pem is not the two roots: %v", err)
	}
	err = filepath.Walk(filepath.Dir(dir), func(path string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().Perm()&0o077 != 0 && path != filepath.Dir(filepath.Dir(dir)) {
			t.Errorf("%s has mode %s", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestSecondStartChangesNothing(t *testing.T) {
	dir := standing(t)
	before := state(t, dir)
	for range 2 {
		shut(t, open(t, dir, Options{}))
	}
	if after := state(t, dir); after != before {
		t.Errorf("before:\n%safter:\n%s", before, after)
	}
}

func TestConfigureOnce(t *testing.T) {
	dir := standing(t)
	c := open(t, dir, Options{})
	want(t, c.Configure(t.Context(), []byte("dir: "+dir)), codes.FailedPrecondition)
	shut(t, c)
	if _, err := c.CACertificates(t.Context()); err == nil {
		t.Error("a closed CA answers")
	}
	_, err := New(Options{}).Issue(t.Context(), request(t, "x"))
	want(t, err, codes.Unavailable)
}

// TestCrashWhileMaking: what a crash can leave is made good, as long as nothing was issued.
func TestCrashWhileMaking(t *testing.T) {
	t.Run("before the authority had its name", func(t *testing.T) {
		dir := standing(t)
		if err := os.Rename(filepath.Join(dir, authorityDir), filepath.Join(dir, unfinishedDir)); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(dir, unfinishedDir, "ec.key")); err != nil {
			t.Fatal(err)
		}
		for _, f := range []string{ledgerFile, rootsFile} {
			if err := os.Remove(filepath.Join(dir, f)); err != nil {
				t.Fatal(err)
			}
		}
		c := open(t, dir, Options{})
		issue(t, c, request(t, "1"))
		if left, err := exists(filepath.Join(dir, unfinishedDir)); left || err != nil {
			t.Errorf("the unfinished directory is left: %v", err)
		}
	})
	t.Run("before the ledger was bound", func(t *testing.T) {
		dir := standing(t)
		key, err := os.ReadFile(filepath.Join(dir, authorityDir, "ec.key"))
		if err != nil {
			t.Fatal(err)
		}
		execLedger(t, dir, `DELETE FROM authority; DELETE FROM keys; DELETE FROM generations`)
		c := open(t, dir, Options{})
		issue(t, c, request(t, "1"))
		if again, err := os.ReadFile(filepath.Join(dir, authorityDir, "ec.key")); err != nil || !bytes.Equal(key, again) {
			t.Errorf("another key: %v", err)
		}
	})
	t.Run("before roots.pem", func(t *testing.T) {
		dir := standing(t)
		before := state(t, dir)
		if err := os.Remove(filepath.Join(dir, rootsFile)); err != nil {
			t.Fatal(err)
		}
		// What a crash in the middle of writing it leaves.
		if err := os.WriteFile(filepath.Join(dir, rootsFile+".new"), []byte("-----BEG"), 0o600); err != nil {
			t.Fatal(err)
		}
		shut(t, open(t, dir, Options{}))
		if after := state(t, dir); after != before {
			t.Errorf("before:\n%safter:\n%s", before, after)
		}
	})
}

// TestDamagedIsRefused: what no crash leaves is neither repaired nor replaced.
func TestDamagedIsRefused(t *testing.T) {
	remove := func(names ...string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			for _, n := range names {
				if err := os.RemoveAll(filepath.Join(dir, n)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	swap := func(a, b string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			data, err := os.ReadFile(filepath.Join(dir, authorityDir, b))
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, authorityDir, a), data, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	for what, c := range map[string]struct {
		damage func(t *testing.T, dir string)
		says   string
	}{
		"authority gone":      {remove(authorityDir), "restore it"},
		"ledger gone":         {remove(ledgerFile), "restore it"},
		"key gone":            {remove(authorityDir + "/rsa.key"), "no such file"},
		"secret gone":         {remove(authorityDir + "/secret"), "no such file"},
		"root gone":           {remove(authorityDir + "/ec-root.crt"), "no such file"},
		"key of another":      {swap("ec.key", "ec-root.key"), "does not belong"},
		"certificate for key": {swap("ec.key", "ec.crt"), "PKCS#8"},
		"root of another":     {swap("ec-root.crt", "rsa-root.crt"), "not issued by its root"},
		"issuing for root":    {swap("ec-root.crt", "ec.crt"), "root of CA ec"},
		"key for certificate": {swap("ec.crt", "ec.key"), "one PEM certificate"},
		"not a secret":        {swap("secret", "ec.key"), "hexadecimal"},
		"EC chain named rsa": {func(t *testing.T, dir string) {
			for _, f := range []string{".key", ".crt", "-root.key", "-root.crt"} {
				swap("rsa"+f, "ec"+f)(t, dir)
			}
		}, "RSA throughout"},
		"key open to others": {func(t *testing.T, dir string) {
			if err := os.Chmod(filepath.Join(dir, authorityDir, "ec.key"), 0o640); err != nil {
				t.Fatal(err)
			}
		}, "0640"},
		"root key open to others": {func(t *testing.T, dir string) {
			if err := os.Chmod(filepath.Join(dir, authorityDir, "rsa-root.key"), 0o604); err != nil {
				t.Fatal(err)
			}
		}, "0604"},
		"directory open to everyone": {func(t *testing.T, dir string) {
			if err := os.Chmod(dir, 0o777); err != nil {
				t.Fatal(err)
			}
		}, "0777"},
		"ledger of another CA": {func(t *testing.T, dir string) {
			execLedger(t, dir, `UPDATE authority SET identity = x'00'`)
		}, "another CA"},
		"ledger of a newer version": {func(t *testing.T, dir string) {
			execLedger(t, dir, `PRAGMA user_version = 99`)
		}, "newer version"},
		"not a ledger": {func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, ledgerFile), bytes.Repeat([]byte("x"), 8192), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "not a database"},
	} {
		t.Run(what, func(t *testing.T) {
			dir := standing(t)
			c.damage(t, dir)
			ca := New(Options{})
			err := ca.Configure(t.Context(), []byte("dir: "+dir))
			want(t, err, codes.FailedPrecondition)
			if err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want it to say %q", err, c.says)
			}
			if has, _ := exists(filepath.Join(dir, unfinishedDir)); has {
				t.Error("a new authority was begun")
			}
			shut(t, ca)
			// The lock is free again: a second try fails in the same way and does not wait.
			want(t, ca.Configure(t.Context(), []byte("dir: "+dir)), codes.FailedPrecondition)
		})
	}
}

func TestRootKeysMayBeTakenAway(t *testing.T) {
	dir := standing(t)
	for _, f := range []string{"ec-root.key", "rsa-root.key"} {
		if err := os.Remove(filepath.Join(dir, authorityDir, f)); err != nil {
			t.Fatal(err)
		}
	}
	issue(t, open(t, dir, Options{}), request(t, "1"))
}

func TestLockHandover(t *testing.T) {
	dir := standing(t)
	first := open(t, dir, Options{})

	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	want(t, New(Options{}).Configure(ctx, []byte("dir: "+dir)), codes.Unavailable)

	waiting := make(chan struct{})
	second := New(Options{Clock: func() time.Time { return now }, Log: tell("waiting for the process", waiting)})
	ended := make(chan error)
	go func() { ended <- second.Configure(t.Context(), []byte("dir: "+dir)) }()
	<-waiting
	leaf := issue(t, first, request(t, "1"))
	select {
	case err := <-ended:
		t.Fatalf("two processes hold the CA: %v", err)
	default:
	}
	shut(t, first)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	defer shut(t, second)
	if again := issue(t, second, request(t, "1")); !bytes.Equal(leaf.Raw, again.Raw) {
		t.Error("another certificate after the handover")
	}
}
