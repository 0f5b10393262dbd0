package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/muster-pki/muster/cmd/muster/spool"
	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// pkiMessage is an unprotected one.
func pkiMessage(t *testing.T, body cmpmsg.Body) []byte {
	t.Helper()
	name := cmpmsg.GeneralDirectoryName([]byte{0x30, 0})
	der, err := (&cmpmsg.Outgoing{
		Header: cmpmsg.Header{PVNO: 2, Sender: name, Recipient: name, TransactionID: []byte{0xab, 0xcd}, SenderNonce: make([]byte, 16)}, Body: body,
	}).Protect(nil)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// processCMP answers "request" at "" and "ran".
func (s *records) processCMP(_ context.Context, endpoint string, message []byte) ([]byte, error) {
	switch {
	case endpoint != "" && endpoint != "ran":
		return nil, &gateway.Error{Detail: fmt.Sprintf("there is no CMP endpoint %q (did you mean \"ran\"?)", endpoint), Err: gateway.ErrNotFound}
	case string(message) != "request":
		return nil, &gateway.Error{Reason: gateway.Malformed, Detail: "the message does not parse"}
	}
	return s.answer, nil
}

func TestCMPProcess(t *testing.T) {
	refused := cmpmsg.PKIStatusInfo{Status: cmpmsg.StatusRejection, FailInfo: cmpmsg.BadTime, Text: []string{"too late\x1b"}}
	waiting := cmpmsg.PKIStatusInfo{Status: cmpmsg.StatusWaiting}
	responses := func(all ...cmpmsg.PKIStatusInfo) (list []cmpmsg.CertResponse) {
		for i, s := range all {
			list = append(list, cmpmsg.CertResponse{ReqID: big.NewInt(int64(i)), Status: s})
		}
		return list
	}
	for want, body := range map[string]cmpmsg.Body{
		"ip: accepted, transaction abcd\n":                                &cmpmsg.CertRepMessage{Kind: cmpmsg.TypeIP, Responses: responses(cmpmsg.PKIStatusInfo{})},
		"kup: waiting, transaction abcd\n":                                &cmpmsg.CertRepMessage{Kind: cmpmsg.TypeKUP, Responses: responses(waiting)},
		"cp: badTime: too late\\x1b, transaction abcd\n":                  &cmpmsg.CertRepMessage{Kind: cmpmsg.TypeCP, Responses: responses(cmpmsg.PKIStatusInfo{}, refused)},
		"error: badTime: too late\\x1b, transaction abcd\n":               &cmpmsg.ErrorMsg{Status: refused},
		"pkiconf, transaction abcd\n":                                     &cmpmsg.PKIConf{},
		"pollRep: not decided yet, ask again in 30 s, transaction abcd\n": &cmpmsg.PollRep{Responses: []cmpmsg.PollResponse{{ReqID: new(big.Int), CheckAfter: 30}}},
	} {
		s := &records{answer: pkiMessage(t, body)}
		data, dir := serveAdmin(t, s), t.TempDir()
		in, out := write(t, dir, "in.pki", "request"), filepath.Join(dir, "out.pki")
		told, err := runCommand(newCMPProcessCommand(), in, out, "--data", data, "--endpoint", "ran")
		if got, read := os.ReadFile(out); err != nil || told != want || read != nil || !bytes.Equal(got, s.answer) {
			t.Errorf("%q, want %q, %v, %v", told, want, err, read)
		}
		if info, err := os.Stat(out); err != nil || info.Mode() != 0o600 {
			t.Errorf("%v, %v", info, err)
		}
		if left, _ := os.ReadDir(dir); len(left) != 2 {
			t.Errorf("%v", left)
		}
	}
}

// "-" is standard input and output; the line goes to standard error then.
func TestCMPProcessPiped(t *testing.T) {
	s := &records{answer: pkiMessage(t, &cmpmsg.PKIConf{})}
	data := serveAdmin(t, s)
	var out, told bytes.Buffer
	cmd := newCMPProcessCommand()
	cmd.SetIn(strings.NewReader("request"))
	cmd.SetOut(&out)
	cmd.SetErr(&told)
	cmd.SetArgs([]string{"-", "-", "--data", data})
	if err := cmd.Execute(); err != nil || !bytes.Equal(out.Bytes(), s.answer) || told.String() != "pkiconf, transaction abcd\n" {
		t.Errorf("%v, %q, %q", err, out.Bytes(), told.String())
	}
}

func TestCMPProcessRefuses(t *testing.T) {
	s := &records{answer: pkiMessage(t, &cmpmsg.PKIConf{})}
	data, dir := serveAdmin(t, s), t.TempDir()
	request := write(t, dir, "request.pki", "request")
	taken := write(t, dir, "taken.pki", "an answer")
	if err := os.Symlink(taken, filepath.Join(dir, "link.pki")); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		in, out string
		flags   []string
		want    string
	}{
		"no file":          {"none.pki", "out.pki", nil, "no such file"},
		"empty":            {filepath.Base(write(t, dir, "empty.pki", "")), "out.pki", nil, "empty"},
		"too large":        {filepath.Base(write(t, dir, "large.pki", strings.Repeat("x", maxCMPMessage+1))), "out.pki", nil, "larger than 262144 bytes"},
		"not CMP":          {filepath.Base(write(t, dir, "text.pki", "text")), "out.pki", nil, "does not parse"},
		"no such endpoint": {"request.pki", "out.pki", []string{"--endpoint", "rann"}, `did you mean "ran"`},
		"empty endpoint":   {"request.pki", "out.pki", []string{"--endpoint", ""}, "--endpoint is given, and empty"},
		"OUT is there":     {"request.pki", "taken.pki", nil, "--force writes over it"},
		"OUT is IN":        {"request.pki", "request.pki", []string{"--force"}, "is the request"},
		"OUT is a link":    {"request.pki", "link.pki", []string{"--force"}, "is not a file"},
		"OUT is a folder":  {"request.pki", ".", []string{"--force"}, "is not a file"},
		"OUT is nowhere":   {"request.pki", "none/out.pki", nil, "no such file"},
		"no gateway":       {"request.pki", "out.pki", []string{"--socket", filepath.Join(dir, "none.sock")}, "no gateway answers"},
		"one argument":     {"request.pki", "", nil, "accepts 2 arg"},
	} {
		args := []string{filepath.Join(dir, tt.in)}
		if tt.out != "" {
			args = append(args, filepath.Join(dir, tt.out))
		}
		if len(tt.flags) == 0 || tt.flags[0] != "--socket" {
			args = append(args, "--data", data)
		}
		told, err := runCommand(newCMPProcessCommand(), append(args, tt.flags...)...)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, %s", name, err, told)
		}
		if _, err := os.Lstat(filepath.Join(dir, "out.pki")); err == nil {
			t.Fatalf("%s: OUT is written", name)
		}
	}
	if got, _ := os.ReadFile(taken); string(got) != "an answer" {
		t.Errorf("%q", got)
	}
	if told, err := runCommand(newCMPProcessCommand(), request, taken, "--data", data, "--force"); err != nil {
		t.Errorf("%v, %s", err, told)
	}
	if got, _ := os.ReadFile(taken); !bytes.Equal(got, s.answer) {
		t.Errorf("%q", got)
	}
	s.answer = []byte("text")
	if _, err := runCommand(newCMPProcessCommand(), request, filepath.Join(dir, "out.pki"), "--data", data); err == nil || !strings.Contains(err.Error(), "no PKIMessage") {
		t.Error(err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "out.pki")); err == nil {
		t.Error("what is no PKIMessage is written")
	}
}

// What comes to OUT while the gateway is asked is not written over.
func TestWriteWholeKeepsWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	out := write(t, dir, "out.pki", "an answer")
	if err := writeWhole(out, []byte("another"), false); !errors.Is(err, os.ErrExist) {
		t.Error(err)
	}
	if got, _ := os.ReadFile(out); string(got) != "an answer" {
		t.Errorf("%q", got)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("%v", left)
	}
}

func TestCMPEndpoint(t *testing.T) {
	config := func(protocols ...gateway.Protocol) *Config {
		c := &Config{Endpoints: map[string]*EndpointConfig{}}
		for i, p := range protocols {
			c.Endpoints[fmt.Sprint("ran", i)] = &EndpointConfig{Protocol: p}
		}
		return c
	}
	withDefault := config(gateway.CMP, gateway.CMP)
	withDefault.Endpoints["ran1"].Default = true
	for name, tt := range map[string]struct {
		config      *Config
		given, want string
		err         string
		status      gateway.Reason
	}{
		"named":        {config(gateway.CMP, gateway.CMP), "ran1", "ran1", "", ""},
		"the only one": {config(gateway.CMP, gateway.EST), "", "ran0", "", ""},
		"the default":  {withDefault, "", "ran1", "", ""},
		"mistyped":     {config(gateway.CMP), "rna0", "", `there is no CMP endpoint "rna0" (did you mean "ran0"?)`, gateway.NotAuthorized},
		"of EST":       {config(gateway.CMP, gateway.EST), "ran1", "", "endpoint ran1 speaks est, not cmp: ran0", gateway.Unsupported},
		"which of two": {config(gateway.CMP, gateway.CMP), "", "", "say which is meant: ran0, ran1", gateway.Malformed},
		"none":         {config(gateway.EST), "", "", "there is no CMP endpoint", gateway.NotAuthorized},
	} {
		got, err := tt.config.cmpEndpoint(tt.given)
		if got != tt.want || (err == nil) != (tt.err == "") || err != nil && (!strings.Contains(err.Error(), tt.err) || gateway.AsError(err).Reason != tt.status) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

// Two endpoints' spools are apart: an answer of one is no request to the other.
func TestSpoolsApart(t *testing.T) {
	dir := t.TempDir()
	two := func(a, b string) string {
		endpoint := "  %s:\n    protocol: cmp\n    listeners: [plain]\n    profile: base-station\n    enroll:\n    - shared-secret: {secrets: {x: {file: x}}}\n    - names: {}\n    cmp: {files: {spool: %q}}\n"
		return good + fmt.Sprintf(endpoint, "one", a) + fmt.Sprintf(endpoint, "two", b)
	}
	write(t, dir, "x", "a secret of 24 characters")
	for _, tt := range []struct{ a, b, want string }{
		{"spool", "spool", "endpoints.two.cmp.files.spool"},
		{"spool", "./x/../spool/out", "one lies within the other"},
		{"spool/a/..", filepath.Join(dir, "spool"), "is the spool of endpoint one"},
		{"spool/in/two", "spool", "endpoints.two.cmp.files.spool"},
		{"spool", "spool2", ""},
		{"spool", "..spool", ""},
		{"spool", "", ""},
	} {
		_, err := loadConfig(write(t, dir, "muster.yaml", two(tt.a, tt.b)))
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s, %s: %v", tt.a, tt.b, err)
		}
	}
}

// A spool waits for an answer that is worth carrying, and so does a batch in it (RFC 9810 section 5.1.3.5) for each of its answers.
func TestFitToCarry(t *testing.T) {
	failed := func(fail cmpmsg.FailInfo) []byte {
		return pkiMessage(t, &cmpmsg.ErrorMsg{Status: cmpmsg.PKIStatusInfo{Status: cmpmsg.StatusRejection, FailInfo: fail, Text: []string{"why"}}})
	}
	batch := func(answers ...[]byte) []byte { return pkiMessage(t, &cmpmsg.Nested{Messages: answers}) }
	for name, tt := range map[string]struct {
		answer []byte
		err    error
		later  bool
		want   string // of an error; "" for none
	}{
		"an answer":        {pkiMessage(t, &cmpmsg.PKIConf{}), nil, false, ""},
		"a refusal":        {failed(cmpmsg.BadTime), nil, false, ""},
		"a fault":          {failed(cmpmsg.SystemFailure), nil, false, ""},
		"not now":          {failed(cmpmsg.SystemUnavail), nil, true, "why"},
		"one of a batch":   {batch(pkiMessage(t, &cmpmsg.PKIConf{}), failed(cmpmsg.SystemUnavail)), nil, true, "number 2 of the batch: why"},
		"a batch":          {batch(pkiMessage(t, &cmpmsg.PKIConf{}), failed(cmpmsg.BadTime)), nil, false, ""},
		"no key yet":       {nil, &gateway.Error{Reason: gateway.Unavailable, Detail: "no key"}, true, "no key"},
		"busy":             {nil, &gateway.Error{Reason: gateway.Busy}, true, "busy"},
		"taken away":       {nil, &gateway.Error{Reason: gateway.NotAuthorized, Err: gateway.ErrNotFound}, true, ""},
		"not CMP":          {nil, &gateway.Error{Reason: gateway.Malformed, Detail: "no message", Err: errors.New("inner")}, false, "no message"},
		"not in our words": {nil, &gateway.Error{Reason: gateway.Internal, Err: errors.New("panic")}, false, "panic"},
		"no PKIMessage":    {[]byte("text"), nil, false, "encoding"},
	} {
		answer, err := fitToCarry(tt.answer, tt.err)
		switch {
		case tt.want == "" && !tt.later:
			if err != nil || !bytes.Equal(answer, tt.answer) {
				t.Errorf("%s: %v", name, err)
			}
		case answer != nil || err == nil || errors.Is(err, spool.ErrLater) != tt.later || !strings.Contains(err.Error(), tt.want) || !tt.later && strings.Contains(err.Error(), "inner"):
			t.Errorf("%s: %v", name, err)
		}
	}
}
