package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"

	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/muster-pki/muster/backends/local"
	"github.com/muster-pki/muster/gateway"
)

// TestCrashInARekey kills the CA's process, the gateway, or both, at each point of a change of root and issuing key.
// Afterwards the CA is the one of before or the next one, whole; the same order makes the next one and no third; the audit
// trail has it; devices of before renew, and new ones enrol.
func TestCrashInARekey(t *testing.T) {
	t.Parallel()
	template, _ := rolling(t)
	template.stop() // the CA and the gateway's own certificates are made before anything crashes
	var table bytes.Buffer
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "point\tdies\t`muster ca rekey`\tgeneration then\tasked again\taudit: ordered, done")
	defer func() {
		w.Flush()
		t.Logf("\n%s", table.String())
	}()
	for i, point := range append(append([]string(nil), local.RolloverCrashPoints...), append(gateway.RolloverCrashPoints, "muster.own-made")...) {
		dies := []string{"gateway"}
		if strings.HasPrefix(point, "ca.") {
			dies = []string{"CA", "both"}
			if !long {
				dies = dies[i%2:][:1]
			}
		}
		for _, who := range dies {
			t.Run(point+" "+who, func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "data")
				if out, err := exec.Command("cp", "-a", template.dir, dir).CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
				fmt.Fprintln(w, crashInARekey(t, dir, point, who))
			})
		}
	}
}

func crashInARekey(t *testing.T, data, point, who string) (row string) {
	once := filepath.Join(t.TempDir(), "once")
	env := []string{"MUSTER_CRASH_AT=" + point, "MUSTER_CRASH_ONCE=" + once}
	if who == "both" {
		env = append(env, "MUSTER_CRASH_BOTH=1")
	}
	g, dir := &instance{t: t, dir: data}, t.TempDir()
	t.Cleanup(func() { g.stop() })
	g.again(env...)
	roots := filepath.Join(dir, "roots.pem")
	old := &veteran{name: "before", protocol: "est", roots: roots}
	g.sh(dir, `cp "$MUSTER_CA" roots.pem`)
	g.as(dir, old, enrolment)

	out, code := g.run(g.dir, binary, "ca", "rekey", "local/ec", "--root", "--yes", "--data", g.dir)
	said := "no answer"
	if code == 0 {
		said = "done"
	}
	if who != "CA" {
		<-g.exited
	}
	if _, err := os.Stat(once); err != nil {
		t.Fatalf("the crash point was never passed: %v\n%s", err, out)
	}
	id := ""
	if m := regexp.MustCompile(`--id (\w+) makes sure`).FindStringSubmatch(out); m != nil {
		id = m[1]
	}
	if point == "muster.own-made" { // the command has, or just not, been answered
		id = g.audited("ca-rolled-over")[0].id
	} else if code == 0 || id == "" {
		t.Fatalf("exit %d, and no ID to ask again with:\n%s", code, out)
	}
	if who != "CA" {
		g.again()
	}
	then := g.generations()
	if early := slices.Contains([]string{local.CrashBeforeRollover, local.CrashMidRollover, gateway.CrashRolloverOrdered}, point); early && then != 1 || !early && then != 2 {
		t.Errorf("%d generations after the crash", then)
	}
	// Work goes on, whichever it is.
	g.renews(dir, old)
	between := &veteran{name: "between", protocol: "cmp", roots: roots}
	g.as(dir, between, enrolment)
	g.good(dir, "between.pem", g.env["MUSTER_CA"])

	for range 2 {
		out = g.muster("ca", "rekey", "local/ec", "--root", "--yes", "--id", id)
		if n := g.generations(); n != 2 {
			t.Fatalf("%d generations after asking again:\n%s", n, out)
		}
	}
	if !strings.HasPrefix(out, "local/ec was changed over by this order before") {
		t.Errorf("asked a third time, it says\n%s", out)
	}
	if stray, err := filepath.Glob(filepath.Join(data, "ca", "authority", "ec.3")); err != nil || len(stray) != 0 {
		t.Errorf("%v, %v", stray, err)
	}
	ordered, done := g.audited("ca-rollover"), g.audited("ca-rolled-over")
	for _, e := range append(append([]rolloverEvent(nil), ordered...), done...) {
		if e.id != id {
			t.Errorf("the audit trail has the ID %s, not %s", e.id, id)
		}
	}
	sum := strings.ToLower(strings.ReplaceAll(strings.TrimSpace(g.sh(dir, `openssl x509 -in "$MUSTER_DATA/ca/authority/ec.2/issuing.crt" -noout -fingerprint -sha256 | cut -d= -f2`)), ":", ""))
	if len(ordered) < 2 || len(done) < 2 || done[len(done)-1].fingerprint != sum {
		t.Errorf("the audit trail: %+v, %+v, want %s", ordered, done, sum)
	}
	g.renews(dir, old)
	g.renews(dir, between)
	after := &veteran{name: "after", protocol: "est", roots: roots}
	g.as(dir, after, enrolment)
	for _, v := range []*veteran{old, between, after} {
		g.good(dir, v.name+".pem", g.env["MUSTER_CA"])
	}
	if link := g.sh(dir, `openssl verify -x509_strict -CAfile roots.pem -untrusted "$MUSTER_DATA/ca/authority/ec.2/issuing.crt" -untrusted "$MUSTER_DATA/ca/authority/ec.2/new-with-old.crt" after.pem`); !strings.Contains(link, "OK") {
		t.Error(link)
	}
	return fmt.Sprintf("%s\t%s\t%s\t%d\t2\t%d, %d", point, who, said, then, len(ordered), len(done))
}

// generations is how many the CA ec has, by its certificates as the gateway shows them.
func (g *instance) generations() int {
	g.t.Helper()
	var cas []struct {
		Name string
		CRLs []string
	}
	if err := json.Unmarshal([]byte(g.muster("ca", "ls", "--json")), &cas); err != nil {
		g.t.Fatal(err)
	}
	for _, ca := range cas {
		if ca.Name == "ec" {
			return len(ca.CRLs) - 1 // its own name, then one of each key
		}
	}
	g.t.Fatal("no CA ec")
	return 0
}

// rolloverEvent is what the audit trail has of a change of a CA.
type rolloverEvent struct{ id, fingerprint string }

// audited reads the audit trail's events of a kind.
func (g *instance) audited(kind string) (all []rolloverEvent) {
	g.t.Helper()
	for _, e := range g.events(kind) {
		id := regexp.MustCompile(`\((\w{26})\)$`).FindStringSubmatch(e.Note)
		if id == nil {
			g.t.Fatalf("the audit event %+v names no ID", e)
		}
		all = append(all, rolloverEvent{id[1], e.Fingerprint})
	}
	return all
}
