package ejbca

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
)

// standIn is the fake EJBCA as a process of its own, for e2e/cas: it writes config.yaml, root.pem and a line for each certificate, ledger.txt, into the
// folder, and ends with its stdin.
type standIn struct {
	testing.TB
	dir string
}

func (standIn) Helper()        {}
func (standIn) Cleanup(func()) {}
func (s standIn) TempDir() string {
	return must(os.MkdirTemp(s.dir, "ra-"))
}
func (standIn) Errorf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
func (standIn) Fatal(args ...any)                 { panic(fmt.Sprint(args...)) }

func (s standIn) serve() {
	f := newFakeCA(s)
	f.after = func(http.ResponseWriter, *http.Request, *issued) bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		var lines bytes.Buffer
		for _, i := range f.ledger {
			c := must(x509.ParseCertificate(i.der))
			fmt.Fprintf(&lines, "%s %X %s\n", c.Subject, c.SerialNumber, i.user)
		}
		s.write("ledger.txt", lines.Bytes())
		return false
	}
	s.write("root.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.root.Raw}))
	f.instant = true
	s.write("config.yaml", f.config(s, `username: "{{device}}-{{id}}"`))
	io.Copy(io.Discard, os.Stdin) //nolint:errcheck // its end is all that matters
}

func (s standIn) write(name string, data []byte) {
	whole := filepath.Join(s.dir, name)
	if err := os.WriteFile(whole+".new", data, 0o600); err != nil {
		panic(err)
	}
	if err := os.Rename(whole+".new", whole); err != nil {
		panic(err)
	}
}
