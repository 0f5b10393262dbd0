package exec

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/command"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// Config is the backend's configuration: a command for each operation that the CA has.
type Config struct {
	Issue  command.Argv `yaml:"issue,required"` // certifies a request, or answers with a ticket
	Lookup command.Argv `yaml:"lookup"`         // says what became of a request: without it an unknown outcome waits for the operator
	Poll   command.Argv `yaml:"poll"`           // asks for what issue answered with a ticket
	Revoke command.Argv `yaml:"revoke"`
	CRL    command.Argv `yaml:"crl"`
	// CA prints the certificates of the CA. It, or Chain.
	CA command.Argv `yaml:"ca"`
	// Chain is a PEM file with the chain of the one CA there is, the issuing certificate first, the root last. It is read again each
	// time it is asked for. It, or CA.
	Chain string `yaml:"chain"`

	// Forms that issue takes: template, pkcs10. Default: template.
	Forms []backend.Form `yaml:"forms"`
	// Overrides are the fields that issue sets otherwise than the PKCS#10 says: subject, subjectAltName, validity, keyUsage, extKeyUsage.
	Overrides []backend.Field `yaml:"overrides"`
	// Decides are the fields that the CA sets by rules of its own, to no more than it was asked for.
	Decides []backend.Field `yaml:"decides"`
	// Idempotency: lookup, which is the default with a lookup command, or native, where issue gives the same certificate again, byte
	// for byte, when it is asked again under the same ID.
	Idempotency backend.Idempotency `yaml:"idempotency"`

	// Dir is the working directory of all commands. Default: /.
	Dir string `yaml:"dir"`
	// Env is the whole environment of all commands; PATH is the system's unless it is here. Secrets belong into files.
	Env map[string]string `yaml:"env"`
	// Timeout of one run: its process group is sent SIGTERM then, and SIGKILL 2s later. Default 15s; 100ms to 10m.
	Timeout strictyaml.Duration `yaml:"timeout"`
	// Concurrent is how many commands run at once. Default 4; 1 to 256.
	Concurrent int `yaml:"concurrent"`
}

// Paths are the keys that are paths, for those who resolve them. A program's path is absolute.
var Paths = []string{"dir", "chain"}

const (
	defaultTimeout    = 15 * time.Second
	defaultConcurrent = 4
)

var (
	forms  = []backend.Form{backend.FormTemplate, backend.FormPKCS10}
	fields = []backend.Field{backend.FieldSubject, backend.FieldSubjectAltName, backend.FieldValidity, backend.FieldKeyUsage, backend.FieldExtKeyUsage}
)

// parseConfig reads and checks a configuration, with the defaults filled in; it touches no file.
func parseConfig(data []byte) (*Config, error) {
	root, err := strictyaml.Parse("config", data)
	if err != nil {
		return nil, err
	}
	c := new(Config)
	if err := strictyaml.DecodeNode("config", root, c); err != nil {
		return nil, err
	}
	var errs []error
	fail := func(key, format string, args ...any) {
		errs = append(errs, &strictyaml.Error{File: "config", Line: strictyaml.Line(root, key), Path: key, Message: fmt.Sprintf(format, args...)})
	}
	for _, cmd := range c.commands() {
		if cmd.argv == nil {
			continue
		}
		if err := cmd.argv.Check(); err != nil {
			fail(cmd.name, "%v", err)
		}
	}
	switch {
	case c.CA == nil && c.Chain == "":
		fail("chain", "required, unless the command `ca` prints the CA's certificates")
	case c.CA != nil && c.Chain != "":
		fail("chain", "the command `ca` says it already: leave one of them out")
	}
	for key, path := range map[string]string{"dir": c.Dir, "chain": c.Chain} {
		if path != "" && !filepath.IsAbs(path) {
			fail(key, "%q is not an absolute path", path)
		}
	}
	for _, f := range c.Forms {
		if !slices.Contains(forms, f) {
			fail("forms", "%q is no form%s", f, strictyaml.Suggest(string(f), names(forms)))
		}
	}
	for key, list := range map[string][]backend.Field{"overrides": c.Overrides, "decides": c.Decides} {
		for _, f := range list {
			if !slices.Contains(fields, f) {
				fail(key, "%q is no field%s", f, strictyaml.Suggest(string(f), names(fields)))
			}
		}
	}
	if len(c.Forms) == 0 {
		c.Forms = []backend.Form{backend.FormTemplate}
	}
	if len(c.Overrides) > 0 && slices.Contains(c.Forms, backend.FormTemplate) {
		fail("overrides", "with the form template any field may differ from the request: leave it out")
	}
	switch {
	case c.Idempotency != "" && c.Idempotency != backend.IdempotencyLookup && c.Idempotency != backend.IdempotencyNative:
		fail("idempotency", "lookup or native; without a lookup command it is none")
	case c.Idempotency != "" && c.Lookup == nil:
		fail("idempotency", "wants a `lookup` command, by which an unknown outcome is found out")
	case c.Idempotency == "" && c.Lookup != nil:
		c.Idempotency = backend.IdempotencyLookup
	case c.Idempotency == "":
		c.Idempotency = backend.IdempotencyNone
	}
	if err := command.CheckEnv(c.Env); err != nil {
		fail("env", "%v", err)
	}
	if c.Timeout == 0 {
		c.Timeout = strictyaml.Duration(defaultTimeout)
	}
	if t := time.Duration(c.Timeout); t < 100*time.Millisecond || t > 10*time.Minute {
		fail("timeout", "100ms to 10m")
	}
	if c.Concurrent == 0 {
		c.Concurrent = defaultConcurrent
	}
	if c.Concurrent < 1 || c.Concurrent > 256 {
		fail("concurrent", "1 to 256")
	}
	return c, errors.Join(errs...)
}

type operation struct {
	name string
	argv command.Argv
}

// commands are all operations, configured or not.
func (c *Config) commands() []operation {
	return []operation{{opIssue, c.Issue}, {opLookup, c.Lookup}, {opPoll, c.Poll}, {opRevoke, c.Revoke}, {opCRL, c.CRL}, {opCA, c.CA}}
}

func names[T ~string](list []T) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = strings.Clone(string(s))
	}
	return out
}
