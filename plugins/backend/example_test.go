package backend_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// folderCA is a whole CA plugin: a P-256 root, and one file for each certificate. Embedding Unimplemented answers
// every optional call.
type folderCA struct {
	backend.Unimplemented
	dir  string
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	mu   sync.Mutex // Lookup says "never" only when no Issue is under way
}

// folderConfig is what stands under `config:` in muster.yaml.
type folderConfig struct {
	Dir string `yaml:"dir"` // absolute
}

// parse is the whole of Validate: it touches nothing.
func (folderConfig) parse(config []byte) (c folderConfig, err error) {
	if err := strictyaml.Decode("config", config, &c); err != nil {
		return c, backend.Refuse(codes.InvalidArgument, "%v", err)
	}
	if !filepath.IsAbs(c.Dir) {
		return c, backend.Refuse(codes.InvalidArgument, "dir: %q is not an absolute path", c.Dir)
	}
	return c, nil
}

func (ca *folderCA) Validate(_ context.Context, config []byte) error {
	_, err := folderConfig{}.parse(config)
	return err
}

// Configure comes once in the life of a process. It finds the CA in dir, or makes one.
func (ca *folderCA) Configure(_ context.Context, config []byte) error {
	c, err := folderConfig{}.parse(config)
	if err != nil {
		return err
	}
	ca.dir = c.Dir
	key, err := once(filepath.Join(c.Dir, "key"), func() ([]byte, error) {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		return k.Bytes()
	})
	if err != nil {
		return backend.Refuse(codes.FailedPrecondition, "%v", err)
	}
	if ca.key, err = ecdsa.ParseRawPrivateKey(elliptic.P256(), key); err != nil {
		return backend.Refuse(codes.FailedPrecondition, "%v", err)
	}
	der, err := once(filepath.Join(c.Dir, "certificate"), func() ([]byte, error) {
		now := time.Now().UTC().Truncate(time.Second)
		root := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Folder CA"},
			NotBefore: now, NotAfter: now.AddDate(10, 0, 0),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		}
		return x509.CreateCertificate(rand.Reader, root, root, ca.key.Public(), ca.key)
	})
	if err != nil {
		return backend.Refuse(codes.FailedPrecondition, "%v", err)
	}
	ca.cert, err = x509.ParseCertificate(der)
	return err
}

func (ca *folderCA) Describe(context.Context) (*backend.Description, error) {
	return &backend.Description{
		Name: "folder", Version: "1",
		Forms:       []backend.Form{backend.FormTemplate},
		Idempotency: backend.IdempotencyNative,
	}, nil
}

func (ca *folderCA) CACertificates(context.Context) ([]backend.CA, error) {
	return []backend.CA{{Name: "root", Chain: [][]byte{ca.cert.Raw}}}, nil
}

// issued is what stands in the file of an ID.
type issued struct {
	Content     [sha256.Size]byte // of the request: the same ID with another is refused
	Certificate []byte
}

// Issue answers only when the file stands on disk, and the file's name is the ID: asked again after any accident,
// it finds the file.
func (ca *folderCA) Issue(ctx context.Context, r *backend.IssueRequest) (*backend.Issuance, error) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err // nobody waits any more
	}
	if r.Issuer != "" && r.Issuer != "root" {
		return nil, backend.Refuse(codes.InvalidArgument, "no CA is named %q", r.Issuer)
	}
	asked, err := json.Marshal(r.Template)
	if err != nil {
		return nil, err
	}
	content := sha256.Sum256(asked)
	file, err := once(ca.file(r.ID), func() ([]byte, error) {
		der, err := ca.sign(&r.Template)
		if err != nil {
			return nil, err
		}
		var b bytes.Buffer
		err = gob.NewEncoder(&b).Encode(issued{content, der})
		return b.Bytes(), err
	})
	if err != nil {
		return nil, err
	}
	i, err := decode(file)
	if err != nil {
		return nil, err
	}
	if i.Content != content {
		return nil, backend.Refuse(codes.AlreadyExists, "ID %s stands for another request", r.ID)
	}
	return &backend.Issuance{Certificate: i.Certificate, Chain: [][]byte{ca.cert.Raw}}, nil
}

// Lookup tells the gateway what became of an ID whose answer it never got.
func (ca *folderCA) Lookup(_ context.Context, r *backend.IssueRequest) (*backend.Outcome, error) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	file, err := os.ReadFile(ca.file(r.ID))
	if errors.Is(err, os.ErrNotExist) {
		return &backend.Outcome{State: backend.OutcomeNever}, nil
	}
	if err != nil {
		return nil, err // the outcome stays unknown
	}
	i, err := decode(file)
	if err != nil {
		return nil, err
	}
	return &backend.Outcome{State: backend.OutcomeIssued,
		Issuance: &backend.Issuance{Certificate: i.Certificate, Chain: [][]byte{ca.cert.Raw}}}, nil
}

// sign certifies the template as it stands, or refuses it. Only these refusals prove that nothing was issued.
func (ca *folderCA) sign(t *backend.Template) ([]byte, error) {
	pub, err := x509.ParsePKIXPublicKey(t.PublicKey)
	if err != nil {
		return nil, backend.Refuse(codes.InvalidArgument, "public key: %v", err)
	}
	var name pkix.RDNSequence
	if rest, err := asn1.Unmarshal(t.Subject, &name); err != nil || len(rest) > 0 {
		return nil, backend.Refuse(codes.InvalidArgument, "the subject is not a Name")
	}
	if !t.NotBefore.Before(t.NotAfter) || t.NotBefore.Before(ca.cert.NotBefore) || t.NotAfter.After(ca.cert.NotAfter) {
		return nil, backend.Refuse(codes.InvalidArgument, "validity %s to %s", t.NotBefore, t.NotAfter)
	}
	c := &x509.Certificate{ // without a SerialNumber, a random one
		RawSubject: t.Subject, NotBefore: t.NotBefore, NotAfter: t.NotAfter,
		KeyUsage: t.KeyUsage, UnknownExtKeyUsage: t.ExtKeyUsage, ExtraExtensions: t.Extensions,
	}
	if t.SubjectAltName != nil { // critical when the subject is empty (RFC 5280 section 4.2.1.6)
		c.ExtraExtensions = append(c.ExtraExtensions[:len(t.Extensions):len(t.Extensions)],
			pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: len(name) == 0, Value: t.SubjectAltName})
	}
	return x509.CreateCertificate(rand.Reader, c, ca.cert, pub, ca.key)
}

func (ca *folderCA) file(id string) string {
	return filepath.Join(ca.dir, fmt.Sprintf("%x", sha256.Sum256([]byte(id))))
}

func decode(file []byte) (i issued, err error) {
	return i, gob.NewDecoder(bytes.NewReader(file)).Decode(&i)
}

// once returns what stands in a file, and makes it when there is none. It stands there whole and for good, or not
// at all, and never becomes another, even while a process of an earlier host still lives: link(2) does not replace.
func once(path string, content func() ([]byte, error)) ([]byte, error) {
	if b, err := os.ReadFile(path); err == nil || !errors.Is(err, os.ErrNotExist) {
		return b, err
	}
	b, err := content()
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // a leftover harms nobody
	_, err = f.Write(b)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil { // the name, too, outlives a power cut
		return nil, err
	}
	return os.ReadFile(path)
}

// Example is the main of a plugin.
func Example() {
	backend.Serve(&folderCA{})
}

func newFolderCA() backend.Backend { return &folderCA{} }

// TestFolderCA is all the test that a plugin needs for its contract.
func TestFolderCA(t *testing.T) {
	backendtest.Run(t, backendtest.Subject{
		New:       newFolderCA,
		Plugin:    "folder",
		Config:    func(t *testing.T) []byte { return fmt.Appendf(nil, "dir: %q", t.TempDir()) },
		BadConfig: []byte("dir: relative"),
	})
}

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "serve" {
		backend.ServeClosing()
		os.Exit(0)
	}
	backendtest.Main(m, map[string]func() backend.Backend{"folder": newFolderCA})
}
