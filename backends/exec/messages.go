package exec

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/plugins/backend"
)

// The names of operations, in the configuration and in messages.
const (
	opIssue  = "issue"
	opLookup = "lookup"
	opPoll   = "poll"
	opRevoke = "revoke"
	opCRL    = "crl"
	opCA     = "ca"
)

// question is what a command reads from stdin. docs/backends/exec.md describes it.
type question struct {
	Version   int    `json:"version"` // 1
	Operation string `json:"operation"`

	// issue, lookup, poll
	ID       string        `json:"id,omitempty"`
	Issuer   string        `json:"issuer,omitempty"` // crl too
	Device   string        `json:"device,omitempty"`
	Asked    string        `json:"asked,omitempty"` // RFC 3339
	Template *templateJSON `json:"template,omitempty"`
	CSR      string        `json:"csr,omitempty"`    // PEM
	Ticket   string        `json:"ticket,omitempty"` // poll

	// revoke
	IssuerName  string `json:"issuer_name,omitempty"`
	IssuerDER   []byte `json:"issuer_der,omitempty"`
	Serial      string `json:"serial,omitempty"` // hexadecimal, capitals, an even number of digits
	Reason      *int   `json:"reason,omitempty"`
	At          string `json:"at,omitempty"`
	Certificate string `json:"certificate,omitempty"` // PEM
}

type templateJSON struct {
	Subject    string          `json:"subject"`     // RFC 4514
	SubjectDER []byte          `json:"subject_der"` // base64 of a Name
	DNS        []string        `json:"dns,omitempty"`
	IP         []string        `json:"ip,omitempty"`
	Email      []string        `json:"email,omitempty"`
	URI        []string        `json:"uri,omitempty"`
	PublicKey  string          `json:"public_key"` // PEM
	NotBefore  string          `json:"not_before"` // RFC 3339, UTC
	NotAfter   string          `json:"not_after"`
	Extensions []extensionJSON `json:"extensions"` // all: subjectAltName, keyUsage and extKeyUsage too
}

type extensionJSON struct {
	ID       string `json:"id"`
	Critical bool   `json:"critical"`
	Value    []byte `json:"value"` // base64 of the DER in extnValue
}

// answer is what a command writes to stdout: one object, nothing else.
type answer struct {
	Certificate string   `json:"certificate"` // PEM, or base64 of DER
	Chain       []string `json:"chain"`       // likewise, the issuer first; without it, that of the CA
	Ticket      string   `json:"ticket"`
	RetryAfter  int      `json:"retry_after"` // seconds
	Refused     *refusal `json:"refused"`
	State       string   `json:"state"`   // lookup
	Revoked     bool     `json:"revoked"` // revoke
	CRL         string   `json:"crl"`
	CAs         []caJSON `json:"cas"` // ca
}

type refusal struct {
	Code       string `json:"code"`
	Message    string `json:"message"`
	RetryAfter int    `json:"retry_after"` // seconds, with RESOURCE_EXHAUSTED
}

type caJSON struct {
	Name     string   `json:"name"`
	Chain    []string `json:"chain"`
	Rollover []string `json:"rollover"`
	CRLs     []string `json:"crls"`
}

// refusals are the codes that a command can refuse with.
var refusals = map[string]codes.Code{
	"INVALID_ARGUMENT": codes.InvalidArgument, "PERMISSION_DENIED": codes.PermissionDenied, "FAILED_PRECONDITION": codes.FailedPrecondition,
	"UNIMPLEMENTED": codes.Unimplemented, "RESOURCE_EXHAUSTED": codes.ResourceExhausted, "NOT_FOUND": codes.NotFound, "ALREADY_EXISTS": codes.AlreadyExists,
}

const (
	maxSaid      = 512
	maxRetry     = time.Hour
	defaultRetry = 30 * time.Second
)

// parseAnswer reads stdout. An answer that is not understood whole proves nothing: its error leaves the outcome unknown, a refusal's
// is what the command says.
func parseAnswer(stdout []byte) (*answer, error) {
	a, d := new(answer), json.NewDecoder(bytes.NewReader(stdout))
	d.DisallowUnknownFields()
	if err := d.Decode(a); err != nil {
		return nil, backend.Refuse(codes.Internal, "the answer on stdout is no JSON object of the schema: %v", err)
	}
	if d.More() {
		return nil, backend.Refuse(codes.Internal, "there is more on stdout than one JSON object")
	}
	if a.Refused == nil {
		return a, nil
	}
	if a.Certificate != "" || a.Ticket != "" || a.State != "" || a.Revoked || a.CRL != "" || a.CAs != nil {
		return nil, backend.Refuse(codes.Internal, "the answer refuses, and says something else too")
	}
	code, ok := refusals[a.Refused.Code]
	if !ok {
		return nil, backend.Refuse(codes.Internal, "the answer refuses with the code %.40q, which there is not", a.Refused.Code)
	}
	said := printable(a.Refused.Message)
	if code == codes.ResourceExhausted {
		return nil, backend.Exhausted(delay(a.Refused.RetryAfter), said)
	}
	return nil, backend.Refuse(code, "%s", said)
}

func delay(seconds int) time.Duration {
	if seconds <= 0 {
		return defaultRetry
	}
	return min(time.Duration(min(seconds, 3600))*time.Second, maxRetry)
}

// printable is a text as it may stand in a log.
func printable(s string) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) > maxSaid {
		s = strings.ToValidUTF8(s[:maxSaid], "") + "..."
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

// der reads PEM of one block of the type, or base64 of DER.
func der(text, kind string) ([]byte, error) {
	all, err := ders(text, kind)
	if err != nil {
		return nil, err
	}
	if len(all) != 1 {
		return nil, fmt.Errorf("%d blocks of PEM, not one", len(all))
	}
	return all[0], nil
}

// ders reads PEM blocks of one type, at least one, or base64 of one DER.
func ders(text, kind string) ([][]byte, error) {
	rest := bytes.TrimSpace([]byte(text))
	if !bytes.HasPrefix(rest, []byte("-----BEGIN")) {
		one, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(text), ""))
		if err != nil || len(one) == 0 {
			return nil, errors.New("neither PEM nor base64 of DER")
		}
		return [][]byte{one}, nil
	}
	var all [][]byte
	for len(rest) > 0 {
		b, after := pem.Decode(rest)
		switch {
		case b == nil:
			return nil, errors.New("something that is no PEM stands behind the PEM")
		case b.Type != kind:
			return nil, fmt.Errorf("PEM of type %q, not %q", b.Type, kind)
		case len(all) == backend.MaxChain+backend.MaxRollover:
			return nil, errors.New("too many blocks of PEM")
		}
		all, rest = append(all, b.Bytes), bytes.TrimSpace(after)
	}
	return all, nil
}
