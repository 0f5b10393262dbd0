package local

import (
	"bytes"
	"crypto"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/smallstep/pkcs7"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/protocols/cms"
)

func announced(t testing.TB, c *CA, name string) backend.CA {
	t.Helper()
	cas, err := c.CACertificates(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, ca := range cas {
		if ca.Name == name {
			return ca
		}
	}
	t.Fatalf("no CA %s", name)
	return backend.CA{}
}

func degenerate(t testing.TB, certs ...[]byte) []byte {
	t.Helper()
	der, err := cms.CertsOnly(certs...)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// TestAnnounce: an announced generation is known and does not issue, survives a restart, and comes into force as it was
// announced, once (RFC 8894 section 4.7: the certificates that are to be used next).
func TestAnnounce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	c := open(t, dir, Options{}, manyKinds)
	before := announced(t, c, IssuerRSA)
	if len(before.Next) != 0 {
		t.Fatal("there is a next certificate before one was announced")
	}
	q := backend.RolloverRequest{ID: "announce", Issuer: IssuerRSA, Kind: backend.RolloverRekey, Root: true, Announce: true}
	made := roll(t, c, q)
	if len(made.Next) != 2 || !bytes.Equal(made.Chain[0], before.Chain[0]) || len(made.Rollover) != 0 || len(made.CRLs) != len(before.CRLs) {
		t.Fatalf("after the announcement: %d next, the chain is the same: %t, %d rollover certificates", len(made.Next), bytes.Equal(made.Chain[0], before.Chain[0]), len(made.Rollover))
	}
	if again := roll(t, c, q); !bytes.Equal(again.Next[0], made.Next[0]) {
		t.Error("the same ID announced another certificate")
	}
	for name, bad := range map[string]backend.RolloverRequest{
		"a second announcement": {ID: "b", Issuer: IssuerRSA, Kind: backend.RolloverRekey, Root: true, Announce: true},
		"another kind":          {ID: "c", Issuer: IssuerRSA, Kind: backend.RolloverRenew, Root: true},
		"without the root":      {ID: "d", Issuer: IssuerRSA, Kind: backend.RolloverRekey},
	} {
		if _, err := c.Rollover(t.Context(), &bad); status.Code(err) != codes.FailedPrecondition {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := c.Rollover(t.Context(), &backend.RolloverRequest{ID: "announce", Issuer: IssuerRSA, Kind: backend.RolloverRekey, Root: true}); status.Code(err) != codes.AlreadyExists {
		t.Errorf("the announcement's ID puts it in force: %v", err)
	}
	roots, err := os.ReadFile(filepath.Join(dir, rootsFile))
	if err != nil || !bytes.Contains(roots, certificatePEM(parsed(t, made.Next[1]))) {
		t.Errorf("the announced root is not in %s: %v", rootsFile, err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}

	c = open(t, dir, Options{}, manyKinds)
	if now := announced(t, c, IssuerRSA); len(now.Next) != 2 || !bytes.Equal(now.Next[0], made.Next[0]) || !bytes.Equal(now.Chain[0], before.Chain[0]) {
		t.Fatal("a restart changed what is announced or what issues")
	}
	// What a crash leaves between the generation and the folder's end.
	left := filepath.Join(t.TempDir(), "left")
	if err := os.CopyFS(left, os.DirFS(announcedDir(filepath.Join(dir, authorityDir), IssuerRSA))); err != nil {
		t.Fatal(err)
	}
	put := backend.RolloverRequest{ID: "in-force", Issuer: IssuerRSA, Kind: backend.RolloverRekey, Root: true}
	after := roll(t, c, put)
	if len(after.Next) != 0 || !bytes.Equal(after.Chain[0], made.Next[0]) || !bytes.Equal(after.Chain[1], made.Next[1]) {
		t.Fatal("what came into force is not what was announced")
	}
	if again := roll(t, c, put); !sameCA(again, after) {
		t.Error("the same ID again made another generation")
	}
	if again := roll(t, c, q); !sameCA(again, after) {
		t.Error("the announcement again, after it came into force, announced another")
	}
	folder := announcedDir(filepath.Join(dir, authorityDir), IssuerRSA)
	if there, err := exists(folder); err != nil || there {
		t.Errorf("%s is still there: %v", folder, err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(folder, os.DirFS(left)); err != nil {
		t.Fatal(err)
	}
	for name := range map[string]bool{issuingKeyFile: true, rootKeyFile: true} {
		if err := os.Chmod(filepath.Join(folder, name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c = open(t, dir, Options{}, manyKinds)
	if now := announced(t, c, IssuerRSA); len(now.Next) != 0 || !bytes.Equal(now.Chain[0], made.Next[0]) {
		t.Error("a folder that a crash left is taken for an announcement")
	}
	if next := roll(t, c, backend.RolloverRequest{ID: "next", Issuer: IssuerRSA, Kind: backend.RolloverRenew, Announce: true}); len(next.Next) != 2 || bytes.Equal(next.Next[0], made.Next[0]) {
		t.Error("no new announcement after that")
	}
}

// TestAnnouncementTakenBack: without its folder an announcement has not been (docs/rollover.md).
func TestAnnouncementTakenBack(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	c := open(t, dir, Options{}, manyKinds)
	q := backend.RolloverRequest{ID: "a", Issuer: IssuerRSA, Kind: backend.RolloverRekey, Root: true, Announce: true}
	made := roll(t, c, q)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(announcedDir(filepath.Join(dir, authorityDir), IssuerRSA)); err != nil {
		t.Fatal(err)
	}
	c = open(t, dir, Options{}, manyKinds)
	if now := announced(t, c, IssuerRSA); len(now.Next) != 0 || !bytes.Equal(now.Chain[0], made.Chain[0]) {
		t.Error("it is announced still, or something else came into force")
	}
	roots, err := os.ReadFile(filepath.Join(dir, rootsFile))
	if err != nil || bytes.Contains(roots, certificatePEM(parsed(t, made.Next[1]))) {
		t.Errorf("its root is in %s still: %v", rootsFile, err)
	}
	if _, err := c.SignCMS(t.Context(), IssuerRSA, degenerate(t, made.Next...)); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("the CA vouches for it still: %v", err)
	}
	q.ID, q.Kind, q.Root = "b", backend.RolloverRenew, false
	if next := roll(t, c, q); len(next.Next) != 2 || bytes.Equal(next.Next[0], made.Next[0]) {
		t.Error("no other announcement after that")
	}
}

// TestSignCMS: the CA's key signs its next certificates, and nothing else (RFC 8894 section 4.7.1).
func TestSignCMS(t *testing.T) {
	c := open(t, filepath.Join(t.TempDir(), "ca"), Options{}, manyKinds)
	ec := announced(t, c, IssuerEC)
	if _, err := c.SignCMS(t.Context(), IssuerEC, degenerate(t, ec.Chain[0])); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("without an announcement: %v", err)
	}
	for _, name := range []string{IssuerEC, IssuerRSA} {
		ca := roll(t, c, backend.RolloverRequest{ID: "a-" + name, Issuer: name, Kind: backend.RolloverRekey, Announce: true})
		content := degenerate(t, ca.Next[0], ca.Next[1])
		der, err := c.SignCMS(t.Context(), name, content)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		read, err := cms.ParseSigned(der, cms.Limits{})
		if err != nil || !bytes.Equal(read.Content, content) || read.Signer == nil || !bytes.Equal(read.Signer.Raw, ca.Chain[0]) {
			t.Fatalf("%s: not the content, signed by the CA: %v", name, err)
		}
		if err := read.Verify([]crypto.Hash{crypto.SHA256}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		file := filepath.Join(t.TempDir(), "next.p7")
		if err := os.WriteFile(file, der, 0o600); err != nil {
			t.Fatal(err)
		}
		openssl(t, "cms", "-verify", "-binary", "-inform", "DER", "-in", file, "-CAfile", pemFile(t, "CERTIFICATE", ca.Chain[1]), "-attime", strconv.FormatInt(now.Unix(), 10), "-out", os.DevNull)
		one, err := pkcs7.NewSignedData([]byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		one.AddCertificate(parsed(t, ca.Next[0]))
		withContent, err := one.Finish()
		if err != nil {
			t.Fatal(err)
		}
		for what, bad := range map[string][]byte{
			"text":                       []byte("content"),
			"nothing":                    nil,
			"no certificate":             bytes.Replace(degenerate(t, []byte{0x30, 0}), []byte{0xa0, 2, 0x30, 0}, []byte{0xa0, 0}, 1),
			"the present chain":          degenerate(t, ca.Chain...),
			"another CA's":               degenerate(t, ca.Next[0], ec.Chain[0]),
			"a content beside them":      withContent,
			"bytes behind it":            append(bytes.Clone(content), 0),
			"a signed message":           der,
			"a changed certificate":      degenerate(t, append(bytes.Clone(ca.Next[0][:len(ca.Next[0])-1]), ^ca.Next[0][len(ca.Next[0])-1])),
			"a to-be-signed certificate": parsed(t, ca.Next[0]).RawTBSCertificate,
		} {
			if _, err := c.SignCMS(t.Context(), name, bad); status.Code(err) != codes.InvalidArgument {
				t.Errorf("%s signs %s: %v", name, what, err)
			}
		}
	}
	ed := roll(t, c, backend.RolloverRequest{ID: "a-ed", Issuer: "ed", Kind: backend.RolloverRekey, Announce: true})
	if _, err := c.SignCMS(t.Context(), "ed", degenerate(t, ed.Next...)); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("with an Ed25519 key: %v", err)
	}
	if _, err := c.SignCMS(t.Context(), "none", degenerate(t, ec.Chain[0])); status.Code(err) != codes.InvalidArgument {
		t.Errorf("of no CA: %v", err)
	}
}

// TestAnnouncementCrashes: a crash at any point of an announcement, and of putting it in force, leaves the one before or the one
// after; the same request then ends with one generation, the announced one.
func TestAnnouncementCrashes(t *testing.T) {
	for _, point := range RolloverCrashPoints {
		t.Run(point, func(t *testing.T) {
			dir, crash := standing(t), true
			at := Options{Crash: func(here string) {
				if here == point && crash {
					panic(point)
				}
			}}
			announce := backend.RolloverRequest{ID: "announce", Issuer: IssuerEC, Kind: backend.RolloverRekey, Announce: true}
			enforce := backend.RolloverRequest{ID: "enforce", Issuer: IssuerEC, Kind: backend.RolloverRekey}
			var next []byte
			for _, q := range []backend.RolloverRequest{announce, enforce} {
				c := open(t, dir, at)
				crash = true
				func() {
					defer func() {
						if r := recover(); r != point {
							t.Errorf("the call ended with %v", r)
						}
					}()
					_, _ = c.Rollover(t.Context(), &q)
				}()
				shut(t, c)
				c = open(t, dir, Options{})
				ca := roll(t, c, q)
				switch {
				case q.Announce && (len(ca.Next) == 0 || c.open.Load().issuers[0].number != 1):
					t.Fatalf("%d next certificates, generation %d", len(ca.Next), c.open.Load().issuers[0].number)
				case q.Announce:
					next = ca.Next[0]
				case len(ca.Next) > 0 || c.open.Load().issuers[0].number != 2 || !bytes.Equal(ca.Chain[0], next):
					t.Fatalf("%d next certificates, generation %d", len(ca.Next), c.open.Load().issuers[0].number)
				}
				shut(t, c)
			}
		})
	}
}
