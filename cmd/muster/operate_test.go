package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/muster-pki/muster/cmd/muster/words"
	"github.com/muster-pki/muster/gateway/admin"
)

func heldTransaction() admin.Transaction {
	return admin.Transaction{
		ID: txID(5), Protocol: "scep", Endpoint: "phones", Operation: "enroll", State: "held", Device: "phone-7", Subject: "CN=\x1b[2Jphone-7", Requester: "challenge:abc", Received: received,
		Granted: &admin.Granted{Subject: "CN=phone-7", SubjectAltName: []string{"dns:phone-7"}, Key: "P-256"},
		Hold:    &admin.Hold{Stage: "approval", Approvers: 2, Until: received.Add(7 * 24 * time.Hour), Approvals: []admin.Approval{{By: "token:ops", At: received}}},
	}
}

func TestPending(t *testing.T) {
	dir, asked := fakeAPI(t, map[string]any{"GET /v1/transactions": admin.TransactionList{Transactions: []admin.Transaction{heldTransaction(), {ID: txID(4), State: "held", Received: received, Device: "d"}}, Next: txID(4)}})
	f := &clientFlags{data: dir}
	var out strings.Builder
	if err := listPending(t.Context(), f, 2, &out, 0, received.Add(90*time.Minute)); err != nil {
		t.Fatal(err)
	}
	says(t, out.String(), "TRANSACTION ", txID(5)+"  1h   "+`phone-7, CN=\x1b[2Jphone-7  phones (scep) enroll  1 of 2    03-08 12:00  token:ops`, txID(4)+"  1h   d\n", "... and older ones: --limit 8")
	if !strings.HasPrefix(asked()[0], "GET /v1/transactions?limit=2&state=held") {
		t.Error(asked())
	}
	text, err := runCommand(newPendingCommand(), "--data", dir, "--json", "--limit", "2")
	var list []admin.Transaction
	if err != nil || json.Unmarshal([]byte(text), &list) != nil || len(list) != 2 || list[0].Hold.Approvers != 2 {
		t.Error(err, text)
	}
	for width := 80; width < 140; width += 10 {
		out.Reset()
		if err := listPending(t.Context(), f, 2, &out, width, received); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out.String()) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > width {
				t.Errorf("%d columns, a line of %d: %s", width, n, line)
			}
		}
	}
	empty, _ := fakeAPI(t, map[string]any{"GET /v1/transactions": admin.TransactionList{}})
	if out, err := runCommand(newPendingCommand(), "--data", empty); err != nil || out != "nothing waits for approval\n" {
		t.Error(err, out)
	}
}

func TestAge(t *testing.T) {
	for d, want := range map[time.Duration]string{-time.Second: "0s", 59 * time.Second: "59s", 61 * time.Second: "1m", 47 * time.Hour: "47h", 49 * time.Hour: "2d"} {
		if got := age(d); got != want {
			t.Errorf("%s: %s", d, got)
		}
	}
}

func TestApprove(t *testing.T) {
	issued := heldTransaction()
	issued.State = "issued"
	issued.Hold.Approvals = append(issued.Hold.Approvals, admin.Approval{By: "unix:root", At: received})
	issued.Certificate = &admin.Certificate{Serial: "abcd", NotBefore: received, NotAfter: received.AddDate(1, 0, 0)}
	failed, unknown := issued, issued
	failed.State, failed.Certificate, failed.Note, failed.Backend = "failed", nil, "no such profile\r\nx", "corp"
	unknown.State, unknown.Certificate = "unknown", nil
	dir, asked := fakeAPI(t, map[string]any{
		"POST /v1/transactions/one/approve": heldTransaction(), "POST /v1/transactions/two/approve": issued, "POST /v1/transactions/bad/approve": failed, "POST /v1/transactions/dark/approve": unknown,
		"POST /v1/transactions/over/approve": refusedWith{409, admin.Failure{Error: "you have approved this request already"}},
	})
	for id, want := range map[string][]string{
		"one":  {"Approved, 1 of 2: it waits for another one until 2026-03-08 12:00:00 UTC\n", "Approved by  token:ops\n"},
		"two":  {"Approved and issued: the device gets its certificate when it asks again\n", "Device       phone-7\n", "Request      enroll at endpoint phones (scep)\n", `Subject      CN=\x1b[2Jphone-7`, "Alt names    dns:phone-7\n", "Key          P-256\n", "Approved by  token:ops, unix:root\n", "Serial       abcd\n", "Period       2026-03-01 12:00:00 UTC to 2027-03-01 12:00:00 UTC\n"},
		"bad":  {`Approved, but the CA corp issued nothing: no such profile\r\nx` + "\n"},
		"dark": {"Approved: unknown: the CA was asked"},
	} {
		out, err := runCommand(newApproveCommand(), "--data", dir, id, "--reason", "seen")
		if code, failed := err.(exitCode); failed != (id == "bad") || !failed && err != nil || failed && code != 1 {
			t.Errorf("%s: %v", id, err)
		}
		says(t, out, want...)
		calls := asked()
		if last := calls[len(calls)-1]; last != "POST /v1/transactions/"+id+`/approve {"reason":"seen"}` {
			t.Error(last)
		}
	}
	if out, err := runCommand(newApproveCommand(), "--data", dir, "--json", "two"); err != nil || !strings.Contains(out, `"state": "issued"`) {
		t.Error(err, out)
	}
	if _, err := runCommand(newApproveCommand(), "--data", dir, "over"); err == nil || err.Error() != "you have approved this request already" {
		t.Error(err)
	}
}

func TestDeny(t *testing.T) {
	x := heldTransaction()
	x.State, x.Hold.Denied = "denied", &admin.Approval{By: "unix:root", Reason: "not \x1bours"}
	dir, asked := fakeAPI(t, map[string]any{"POST /v1/transactions/one/deny": x})
	out, err := runCommand(newDenyCommand(), "--data", dir, "one", "--reason", "not ours")
	if err != nil || asked()[0] != `POST /v1/transactions/one/deny {"reason":"not ours"}` {
		t.Error(err, asked())
	}
	says(t, out, "Denied: nothing is issued", "Device       phone-7\n", "Denied by    unix:root\n", `Because      not \x1bours`)
	if out, err := runCommand(newDenyCommand(), "--data", dir, "--json", "one", "--reason", "x"); err != nil || !strings.Contains(out, `"state": "denied"`) {
		t.Error(err, out)
	}
	if _, err := runCommand(newDenyCommand(), "--data", dir, "one"); err == nil || !strings.Contains(err.Error(), `"reason" not set`) {
		t.Error(err)
	}
	if _, err := runCommand(newDenyCommand(), "--data", dir, "one", "--reason", ""); err == nil || !strings.Contains(err.Error(), "--reason is given, and empty") {
		t.Error(err)
	}
}

func TestChallenge(t *testing.T) {
	made := admin.Challenge{ID: "0123456789abcdef", Challenge: "the-challenge", Endpoint: "phones", Device: "phone-7", Uses: 2, Created: received, NotAfter: received.AddDate(100, 0, 0)}
	listed := made
	listed.Challenge, listed.Used, listed.By = "", 1, "unix:\x1broot"
	over := listed
	over.ID, over.Device, over.Subject, over.NotAfter = "fedcba9876543210", "", "CN=x", received.AddDate(-1, 0, 0)
	var sent admin.NewChallenge
	dir, asked := fakeAPI(t, map[string]any{
		"POST /v1/challenges": func(w http.ResponseWriter, _ *http.Request, body []byte) {
			if err := json.Unmarshal(body, &sent); err != nil {
				t.Error(err)
			}
			json.NewEncoder(w).Encode(made) //nolint:errcheck // the client tells
		},
		"GET /v1/challenges":                        admin.ChallengeList{Challenges: []admin.Challenge{listed, over}},
		"DELETE /v1/challenges/" + made.ID:          struct{}{},
		"DELETE /v1/challenges/" + "00000000000000": refusedWith{404, admin.Failure{Error: "there is no challenge"}},
	})
	// In a script it stands alone.
	out, err := runCommand(newChallengeCommand(), "new", "--data", dir, "--endpoint", "phones", "--device", "phone-7", "--subject", "CN=x", "--profile", "p", "--uses", "2", "--expires", "2h")
	if err != nil || out != "the-challenge\n" {
		t.Errorf("%v %q", err, out)
	}
	left := time.Until(*sent.NotAfter).Round(time.Minute)
	sent.NotAfter = nil
	if want := (admin.NewChallenge{Endpoint: "phones", Device: "phone-7", Subject: "CN=x", Profile: "p", Uses: 2}); sent != want || left != 2*time.Hour {
		t.Errorf("%+v, %s", sent, left)
	}
	if out, err := runCommand(newChallengeCommand(), "new", "--data", dir, "--endpoint", "phones", "--json"); err != nil || !strings.Contains(out, `"challenge": "the-challenge"`) || time.Until(*sent.NotAfter).Round(time.Minute) != 24*time.Hour {
		t.Error(err, out)
	}
	says(t, challengeScreen(&made), "the-challenge\n\n", "Good at      endpoint phones\n", "For          2 enrollments\n", "Device       phone-7\n", "muster challenge rm 0123456789abcdef\n")
	out, err = runCommand(newChallengeCommand(), "ls", "--data", dir, "--endpoint", "phones", "--expired")
	if err != nil || strings.Contains(out, "the-challenge") {
		t.Error(err, out)
	}
	says(t, out, "0123456789abcdef  phones    1 of 2  2126-03-01 12:00:00 ", "2025-03-01 12:00:00, over  CN=x", `unix:\x1broot`)
	if got := strings.Join(asked(), "\n"); !strings.Contains(got, "endpoint=phones&expired=true") {
		t.Error(got)
	}
	if out, err := runCommand(newChallengeCommand(), "rm", "--data", dir, made.ID); err != nil || out != "challenge 0123456789abcdef is removed\n" {
		t.Error(err, out)
	}
	for want, args := range map[string][]string{
		"there is no challenge":                 {"rm", "00000000000000"},
		`required flag(s) "endpoint" not set`:   {"new"},
		"--uses 0: at least 1":                  {"new", "--endpoint", "x", "--uses", "0"},
		"--endpoint is given, and empty":        {"new", "--endpoint", ""},
		"--device is given, and empty":          {"new", "--endpoint", "x", "--device", ""}, // else it would be good for any
		"--subject is given, and empty":         {"new", "--endpoint", "x", "--subject", ""},
		"--profile is given, and empty":         {"new", "--endpoint", "x", "--profile", ""},
		"--expires soon: want a period such as": {"new", "--endpoint", "x", "--expires", "soon"},
	} {
		if _, err := runCommand(newChallengeCommand(), append(args, "--data", dir)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Error(args, err)
		}
	}
}

func TestRevoke(t *testing.T) {
	valid := admin.CertificateList{Certificates: []admin.Certificate{{Serial: "aa", Subject: "CN=\x1bx", NotAfter: received}, {Serial: "bb", Subject: "CN=x", NotAfter: received}}}
	done := admin.RevokeResult{Revoked: []admin.Revoked{{Certificate: admin.Certificate{Serial: "aa", Subject: "CN=\x1bx", Issuer: "CN=CA", Revocation: "superseded"}, Told: true}, {Certificate: admin.Certificate{Serial: "bb", Subject: "CN=x", Issuer: "CN=CA"}}}}
	dir, asked := fakeAPI(t, map[string]any{
		"GET /v1/devices/SN1": admin.Device{Name: "bts-1"},
		"GET /v1/certificates": func(w http.ResponseWriter, r *http.Request, _ []byte) {
			list := valid
			if r.URL.Query().Get("valid") != "now" {
				t.Error(r.URL)
			}
			switch r.URL.Query().Get("device") {
			case "one":
				list.Certificates = list.Certificates[:1]
			case "none":
				list.Certificates = nil
			}
			json.NewEncoder(w).Encode(list) //nolint:errcheck // the client tells
		},
		"POST /v1/certificates/revoke": done,
	})
	last := func() string { calls := asked(); return calls[len(calls)-1] }
	run := func(args ...string) (string, error) {
		return runCommand(newRevokeCommand(), append(args, "--data", dir)...)
	}
	out, err := run("serial=00:AA", "--reason", "superseded", "--note", "n", "--issuer", "CN=CA")
	if err != nil || last() != `POST /v1/certificates/revoke {"serial":"aa","issuer":"CN=CA","reason":"superseded","note":"n"}` {
		t.Error(err, asked())
	}
	says(t, out, `revoked aa  CN=\x1bx, of CN=CA, superseded`+"\n", "revoked bb  CN=x, of CN=CA, unspecified (its CA has not answered yet)\n", "goes on telling the CA")
	if _, err := run("--transaction", "abcdef"); err != nil || last() != `POST /v1/certificates/revoke {"transaction":"abcdef"}` {
		t.Error(err, last())
	}
	// A CA that takes no revocations is not said to be told later.
	alone := done
	alone.Revoked = append([]admin.Revoked(nil), done.Revoked[:1]...)
	alone.Revoked[0].Told, alone.Revoked[0].Alone = false, true
	dirAlone, _ := fakeAPI(t, map[string]any{"POST /v1/certificates/revoke": alone})
	if out, err := runCommand(newRevokeCommand(), "aa", "--data", dirAlone); err != nil || !strings.Contains(out, "(here alone: its CA takes no revocations from Muster)\nThe gateway takes it for revoked, and nobody else does: revoke it at its CA as well") || strings.Contains(out, "goes on telling") {
		t.Error(err, out)
	}
	// What was revoked before is not said to be revoked for another reason now.
	done.Revoked[0].Already, done.Revoked[0].Certificate.RevokedAt = true, timeAt(received)
	dir2, _ := fakeAPI(t, map[string]any{"POST /v1/certificates/revoke": done})
	if out, err := runCommand(newRevokeCommand(), "aa", "--reason", "keyCompromise", "--data", dir2); err != nil || !strings.HasPrefix(out, "aa was revoked before, as superseded, "+words.Moment(received)+": nothing was changed\nrevoked bb  ") {
		t.Error(err, out)
	}
	// One certificate needs no question, several do: without a terminal --yes.
	if _, err := run("--device", "one"); err != nil || last() != `POST /v1/certificates/revoke {"device":"one","all":true}` {
		t.Error(err, last())
	}
	if _, err := run("--device", "SN1"); err == nil || err.Error() != "Device bts-1 has 2 valid certificates:\n"+`  aa  CN=\x1bx  until 2026-03-01`+"\n  bb  CN=x  until 2026-03-01\nRevoke all of them? --yes says so; nothing was changed" || !strings.HasPrefix(last(), "GET") {
		t.Errorf("%v %s", err, last())
	}
	if out, err := run("--device", "SN1", "--yes", "--json"); err != nil || last() != `POST /v1/certificates/revoke {"device":"bts-1","all":true}` || !strings.Contains(out, `"told": true`) {
		t.Error(err, last())
	}
	for want, args := range map[string][]string{
		"device none has no valid certificate": {"--device", "none"},
		"say which certificate":                {},
		"say which certificate:":               {"aa", "--device", "x"},
		"--issuer goes with a serial number":   {"--device", "x", "--issuer", "CN=CA"},
		`"bts-1" is no serial number`:          {"bts-1"},
	} {
		if _, err := run(args...); err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(last(), "GET") && !strings.Contains(last(), "bts-1") {
			t.Error(args, err)
		}
	}
}

func TestParseSerial(t *testing.T) {
	for in, want := range map[string]string{"AB:CD": "abcd", "0x00abc": "0abc", "serial=0A": "0a", " 7 ": "07", "00": "00", "xyz": "", "": "", strings.Repeat("a", 200): ""} {
		if got, err := parseSerial(in); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q %v", in, got, err)
		}
	}
}

func TestAsk(t *testing.T) {
	for in, want := range map[string]error{"y\n": nil, " YES \r\n": nil, "n\n": errNotConfirmed, "\n": errNotConfirmed, "": errNotConfirmed, "yesterday\n": errNotConfirmed} {
		var out strings.Builder
		if err := ask(strings.NewReader(in), &out, "Really?"); err != want || out.String() != "Really? [y/N] " {
			t.Errorf("%q: %v %q", in, err, out.String())
		}
	}
}

// pseudoTerminal returns both ends of one.
func pseudoTerminal(t *testing.T) (person, program *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { person.Close() })
	fd := int(person.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return person, program
}

// At a terminal, a person is asked.
func TestConfirm(t *testing.T) {
	person, program := pseudoTerminal(t)
	for answer, want := range map[string]error{"y\n": nil, "n\n": errNotConfirmed} {
		var out bytes.Buffer
		cmd := &cobra.Command{}
		cmd.SetIn(program)
		cmd.SetErr(&out)
		if _, err := person.WriteString(answer); err != nil {
			t.Fatal(err)
		}
		if err := confirm(cmd, "Really?"); err != want || out.String() != "Really? [y/N] " {
			t.Errorf("%q: %v %q", answer, err, out.String())
		}
	}
}

// On a terminal a challenge comes with what it is good for.
func TestChallengeOnATerminal(t *testing.T) {
	dir, _ := fakeAPI(t, map[string]any{"POST /v1/challenges": admin.Challenge{ID: "0123456789abcdef", Challenge: "the-challenge", Endpoint: "phones", Uses: 1, NotAfter: received}})
	person, program := pseudoTerminal(t)
	if err := unix.IoctlSetWinsize(int(program.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: 80, Row: 24}); err != nil {
		t.Fatal(err)
	}
	cmd := newChallengeCommand()
	cmd.SetOut(program)
	cmd.SetArgs([]string{"new", "--data", dir, "--endpoint", "phones"})
	if err := cmd.Execute(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	var got string
	for !strings.Contains(got, "challenge rm") {
		n, err := person.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		got += string(buf[:n])
	}
	if !strings.HasPrefix(got, "the-challenge\r\n\r\nGood at      endpoint phones\r\nFor          1 enrollment\r\n") {
		t.Errorf("%q", got)
	}
}
