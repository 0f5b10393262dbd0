// Command lyingca is a third party's CA plugin for the end-to-end tests that harms its host as well as it can: it hangs, dies, floods
// and lies. What a call of the contract does stands in its configuration; what a request is answered with, at the beginning of its
// common name ("otherkey-est-7").
package main

import (
	"context"
	"crypto"
	"crypto/x509"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

func main() {
	before() // the handshake
	backend.Serve(&ca{answers: map[string]answer{}})
}

// ca is the backend. Its chain is issuing, then root.
type ca struct {
	backend.Unimplemented
	config
	key           crypto.Signer
	issuing, root *x509.Certificate
	foreign       *authority
	mu            sync.Mutex
	answers       map[string]answer // by ID: the same again gets the same
}

type answer struct {
	issuance *backend.Issuance
	err      error
}

type config struct {
	Dir  string            `yaml:"dir"`  // absolute; it exists. "revoked" in it gets a line for each certificate that was
	Does map[string]string `yaml:"does"` // by call: hang, crash, panic, shout (an error of megabytes and control characters), flood
}

// before misbehaves as the environment says: there is no configuration yet.
func before() {
	switch os.Getenv("LYING") {
	case "exit":
		os.Exit(3)
	case "stdout":
		fmt.Println("hello, host; this is no handshake")
	case "endless":
		for {
			if _, err := os.Stdout.WriteString(strings.Repeat("x", 1<<16)); err != nil {
				os.Exit(4)
			}
		}
	case "outside": // a socket that is not the host's
		fmt.Println("1|1|unix|/tmp/elsewhere|grpc|")
		select {}
	case "silent":
		select {}
	}
}

// does what the configuration says of a call.
func (c *ca) does(call string) error {
	switch c.Does[call] {
	case "hang":
		select {}
	case "crash":
		os.Exit(5)
	case "panic":
		go func() { panic("in a goroutine of its own") }()
		select {}
	case "shout":
		return backend.Refuse(codes.Unavailable, "%s", shout())
	case "flood":
		flood()
	}
	return nil
}

// shout is an error text that would break a terminal and a log.
func shout() string {
	return "\x1b[2J\r\nlevel=ERROR msg=\"all is well\"\u2028\x00\xff" + strings.Repeat("a\x07", 2<<20)
}

// flood writes a million lines.
func flood() {
	line := []byte(strings.Repeat(`{"level":"ERROR","msg":"again and again","n":1}`+"\n", 1000))
	for range 1000 {
		if _, err := os.Stderr.Write(line); err != nil {
			return
		}
	}
}

func (c *ca) parse(text []byte) error {
	if err := strictyaml.Decode("config", text, &c.config); err != nil {
		return backend.Refuse(codes.InvalidArgument, "%v", err)
	}
	return nil
}

func (c *ca) Validate(_ context.Context, text []byte) error {
	if err := c.parse(text); err != nil {
		return err
	}
	return c.does("Validate")
}

func (c *ca) Configure(_ context.Context, text []byte) error {
	err := c.parse(text)
	if err == nil {
		err = c.identity()
	}
	if err == nil {
		err = c.does("Configure")
	}
	return err
}

func (c *ca) Describe(context.Context) (*backend.Description, error) {
	version := "1"
	if text, err := os.ReadFile(filepath.Join(c.Dir, "version")); err == nil {
		version = string(text)
	}
	return &backend.Description{
		Name: "lyingca", Version: version, Forms: []backend.Form{backend.FormTemplate}, Idempotency: backend.IdempotencyNative,
		Capabilities: []backend.Capability{backend.CapRevoke, backend.CapCRL},
	}, c.does("Describe")
}

func (c *ca) CACertificates(context.Context) ([]backend.CA, error) {
	return []backend.CA{{Name: "lying", Chain: c.chain()}}, c.does("CACertificates")
}

func (c *ca) chain() [][]byte { return [][]byte{c.issuing.Raw, c.root.Raw} }

func (c *ca) Lookup(_ context.Context, r *backend.IssueRequest) (*backend.Outcome, error) {
	if err := c.does("Lookup"); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	a, ok := c.answers[r.ID]
	switch {
	case !ok:
		return &backend.Outcome{State: backend.OutcomeNever}, nil
	case a.err != nil:
		return nil, a.err
	}
	return &backend.Outcome{State: backend.OutcomeIssued, Issuance: a.issuance}, nil
}

// Revoke tells the file.
func (c *ca) Revoke(_ context.Context, r *backend.RevokeRequest) error {
	if err := c.does("Revoke"); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(c.Dir, "revoked"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = fmt.Fprintf(f, "%x\n", r.Serial)
	return err
}

// CRL is one that never ends, if nothing else is said.
func (c *ca) CRL(_ context.Context, _ string, w io.Writer) error {
	if err := c.does("CRL"); err != nil {
		return err
	}
	head, piece := []byte{0x30, 0x84, 0x7f, 0xff, 0xff, 0xff}, make([]byte, 64<<10)
	switch c.Does["CRL"] {
	case "unending": // it says that it is small
		head = []byte{0x30, 0x84, 0x03, 0xff, 0xff, 0xf0}
	case "drip": // pieces without content
		piece = nil
	}
	if _, err := w.Write(head); err != nil {
		return err
	}
	for {
		if _, err := w.Write(piece); err != nil {
			return err
		}
		if piece == nil {
			time.Sleep(time.Millisecond)
		}
	}
}
